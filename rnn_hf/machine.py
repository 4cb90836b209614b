"""The machine that a run or a benchmark is on, and the settings on it that change speed."""

import mmap
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from rnn_hf.models.kernels_rnn import CHOICES


CPUINFO, STATM = Path("/proc/cpuinfo"), Path("/proc/self/statm")
# Names, where torch's build names the library after its CMake option.
BLAS = {"mkl": "MKL", "open": "OpenBLAS", "accelerate": "Accelerate"}
# Environment variables that choose instruction sets, the placement of threads, or how memory is kept.
SETTINGS = (
    "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "GLIBC_TUNABLES", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "OMP_PROC_BIND", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_NUM_THREADS",
)  # fmt: skip


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """What the time of a computation depends on besides the code, as it is when this is called.

    Returns:
        `cpu` (model), physical `cores`, `threads`, `instructions` that torch uses, `blas`, `onednn` (whether it is
        on), `kernels` (what the package chose in this process, and for what), `keeps_freed_memory` (of this process),
        `environment` (what of `SETTINGS`, glibc's `MALLOC_` variables and preloaded libraries is set) and, with the
        device `cuda`, `gpu`.
    """
    built_with = re.search(r"\bBLAS_INFO=(\w+)", torch.__config__.show())
    blas = built_with[1] if built_with else "unknown BLAS"
    environment = {name: value for name, value in os.environ.items() if name in SETTINGS or name.startswith("MALLOC_")}
    if preloaded := os.environ.get("LD_PRELOAD"):
        environment["LD_PRELOAD"] = " ".join(Path(library).name for library in re.split("[ :]+", preloaded))
    machine: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": physical_cores(),
        "threads": torch.get_num_threads(),
        "instructions": instruction_sets(),
        "blas": BLAS.get(blas, blas),
        "onednn": bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "kernels": dict(CHOICES),
        "keeps_freed_memory": keeps_freed_memory(),
        "environment": environment,
    }
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _processors() -> list[dict[str, str]]:
    """What Linux lists of each logical processor; nothing elsewhere."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
    blocks = (dict(re.findall(r"^(.+?)[ \t]*:[ \t]*(.*)$", block, re.MULTILINE)) for block in text.split("\n\n"))
    return [block for block in blocks if "processor" in block]


def cpu_model() -> str:
    """Name of the CPU's model without trademarks; of its family or architecture where the system knows no more."""
    names = [block["model name"] for block in _processors() if "model name" in block]
    name = names[0] if names else platform.processor() or platform.machine() or "unknown CPU"
    return " ".join(re.sub(r"\((R|TM)\)", " ", name, flags=re.IGNORECASE).split())


def physical_cores() -> int:
    """Cores that this process may use; hardware threads, where the system does not tell them from cores."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    places = {
        (block.get("physical id"), block["core id"])
        for block in _processors()
        if "core id" in block and int(block["processor"]) in allowed
    }
    return len(places or allowed)


def instruction_sets() -> list[str]:
    """The vector instructions of torch's own kernels, and whether the CPU has units for bfloat16."""
    units = {"AVX512_BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    available = [name for name, test in units.items() if getattr(torch.cpu, test, lambda: False)()]
    return [torch.backends.cpu.get_cpu_capability(), *available]


def keeps_freed_memory() -> bool | None:
    """Whether this process keeps a block of 40 MB that it frees, or returns it to the system; `None` but on Linux.

    Measured, because `keep_freed_memory`, the environment or another allocator may decide it.
    """
    if not STATM.is_file():
        return None
    block = torch.ones(10_000_000)
    held = _resident_bytes()
    del block
    return held - _resident_bytes() < 20_000_000


def _resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE
