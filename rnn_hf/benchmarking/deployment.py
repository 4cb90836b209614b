"""Exported models in ONNX Runtime against PyTorch: one token, a long prompt, the shipped checkpoints, a cold start."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rnn_hf.benchmarking.generation import DECODING_SIZES, DecodingSize, onnx_loop, random_model
from rnn_hf.data.corpora import lines_of
from rnn_hf.data.tokenization import encode_stream
from rnn_hf.evaluation import evaluate
from rnn_hf.loading import load_model
from rnn_hf.onnx.export import INT8_FILE, MODEL_FILE, export_onnx
from rnn_hf.onnx.graph import build_graph
from rnn_hf.onnx.model import RNNONNXForCausalLM
from rnn_hf.onnx.quantization import write_int8
from rnn_hf.onnx.session import open_session
from rnn_hf.plotting import new_figure, save_figure
from rnn_hf.runs import load_corpus_of
from rnn_hf.timing import announced, in_turn, ratio


PROMPT_TOKENS = 512
RUNNER = "ONNX, generate()"
FILES = {"ONNX": MODEL_FILE, "int8": INT8_FILE}


def write_random(size: DecodingSize, folder: Path) -> Any:
    """A random network, and its graph with the last logits alone in float32 and in 8 bits, in `folder`."""
    model = random_model(size)
    model.config.to_json_file(folder / "config.json")
    model.generation_config.save_pretrained(folder)
    (folder / MODEL_FILE).write_bytes(build_graph(model, last_logits_only=True).SerializeToString())
    write_int8(folder / MODEL_FILE, folder / INT8_FILE)
    return model


def deployed_runs(size: DecodingSize, count: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """`count` greedy tokens by `generate()` of PyTorch and of the runner, and by bare loops over the same files."""
    model, threads = write_random(size, folder), torch.get_num_threads()
    prompt = torch.randint(size.vocab_size, (size.batch_size, 1))
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": count, "pad_token_id": 0}
    options["do_sample"] = False
    runs: dict[str, Callable[[], Any]] = {"PyTorch, generate()": partial(model.generate, prompt, **options)}
    for name, file in FILES.items():
        runner: Any = RNNONNXForCausalLM.from_pretrained(folder, file_name=file)
        runs[f"{name}, generate()"] = partial(runner.generate, prompt, **options)
        runs[f"{name}, bare loop"] = partial(
            onnx_loop, open_session(str(folder / file), "cpu", threads), prompt, count
        )
    return runs


def benchmark_steps_deployed(rounds: int) -> Iterator[dict[str, Any]]:
    """Time of a greedy token on a CPU, one row a `DECODING_SIZES`.

    Yields:
        Rows of `size`; `tokens_per_second` of the runner; `milliseconds` a step of each candidate, medians; `ratio`
        of the runner's time to that of each other candidate.
    """
    for size in announced("deployed step", DECODING_SIZES):
        count = size.tokens(4e8)
        with TemporaryDirectory() as name:
            times = in_turn(deployed_runs(size, count, Path(name)), rounds)
        medians = {name: statistics.median(seconds) / count for name, seconds in times.items()}
        yield {
            "size": str(size),
            "tokens_per_second": round(size.batch_size / medians[RUNNER]),
            "milliseconds": {name: round(1000 * seconds, 3) for name, seconds in medians.items()},
            "ratio": {name: round(ratio(times, RUNNER, name), 3) for name in times if name != RUNNER},
        }


@torch.no_grad()
def benchmark_prompt(rounds: int) -> Iterator[dict[str, Any]]:
    """Time of a prompt of `PROMPT_TOKENS`, to the last logits: rows of `size`, `milliseconds` (medians) and `ratio` of
    the runner's time to that of each other."""
    for size in announced("prompt", DECODING_SIZES):
        ids = torch.randint(size.vocab_size, (size.batch_size, PROMPT_TOKENS))
        with TemporaryDirectory() as name:
            folder = Path(name)
            models: dict[str, Any] = {"PyTorch": write_random(size, folder)}
            for label, file in FILES.items():
                models[label] = RNNONNXForCausalLM.from_pretrained(folder, file_name=file)
            runs = {label: partial(model, ids, logits_to_keep=1) for label, model in models.items()}
            times = in_turn(runs, max(3, rounds // 2))
        yield {
            "size": str(size),
            "milliseconds": {label: round(1000 * statistics.median(times[label]), 2) for label in times},
            "ratio": {label: round(ratio(times, "ONNX", label), 3) for label in times if label != "ONNX"},
        }


def benchmark_checkpoints(model_dirs: list[Path], ptb_dir: Path | None) -> Iterator[dict[str, Any]]:
    """Perplexity of checkpoints on the validation text of their corpus, every token with carried state, and size of
    their files: in PyTorch as they are, in ONNX as float32, and in 8 bits. Those of Penn Treebank need `ptb_dir`."""
    for directory in announced("checkpoint", model_dirs):
        is_ptb = directory.name.startswith("ptb_")
        if is_ptb and ptb_dir is None:
            continue
        given = {"dataset_name": "ptb", "ptb_dir": str(ptb_dir)} if is_ptb else {}
        model, tokenizer = load_model(str(directory))
        tokens = encode_stream(lines_of(load_corpus_of(str(directory), **given)["validation"]), tokenizer)
        with TemporaryDirectory() as name:
            folder = Path(name)
            export_onnx(directory, folder)
            write_int8(folder / MODEL_FILE, folder / INT8_FILE)
            runners: dict[str, Any] = {"PyTorch": model}
            files = {"PyTorch": directory / "model.safetensors"}
            for label, file in FILES.items():
                runners[label] = RNNONNXForCausalLM.from_pretrained(folder, file_name=file)
                files[label] = folder / file
            scores = {label: evaluate(runner, tokens, model.config.eos_token_id) for label, runner in runners.items()}
            yield {
                "model": directory.name,
                "perplexity": {label: round(score.perplexity, 3) for label, score in scores.items()},
                "megabytes": {label: round(file.stat().st_size / 1e6, 1) for label, file in files.items()},
            }


COLD_STARTS = {
    "PyTorch": "from transformers import AutoTokenizer\nfrom rnn_hf import RNNForCausalLM as Model",
    "ONNX, generate()": "from transformers import AutoTokenizer\nfrom rnn_hf import RNNONNXForCausalLM as Model",
}
FIRST_TOKEN = """
tokenizer, model = AutoTokenizer.from_pretrained({folder!r}), Model.from_pretrained({folder!r})
model.generate(**tokenizer("the", return_tensors="pt"), max_new_tokens=1, do_sample=False)
"""


def benchmark_cold_start(root: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds from the start of a process to its first token: rows of `process` and `seconds`, medians, in turn.

    Args:
        root: Of a clone, whose `model_cards/ptb_lstm_small` and `docs/onnx_client.py` are used.
        rounds: Of all processes.
    """
    source = root / "model_cards" / "ptb_lstm_small"
    with TemporaryDirectory() as name:
        export_onnx(source, name)
        commands = {
            label: ["-c", imports + FIRST_TOKEN.format(folder=str(source if label == "PyTorch" else name))]
            for label, imports in COLD_STARTS.items()
        }
        commands["onnxruntime and numpy alone"] = [str(root / "docs" / "onnx_client.py"), name, "the", "--words", "1"]
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in announced("cold start", range(rounds + 1)):  # the first round warms the disk's cache
            for label, command in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=root)
                times[label].append(time.perf_counter() - start)
    for label in commands:
        yield {"process": label, "seconds": round(statistics.median(times[label][1:]), 2)}


def benchmark_deployment(
    rounds: int = 9, ptb_dir: Path | None = None, root: Path = Path()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows of the deployment benchmark with their tables: `rows` of steps, `prompt`, `checkpoints`, `cold_start`.

    Args:
        rounds: Of each comparison.
        ptb_dir: Directory of Penn Treebank's text; without it its checkpoints are left out.
        root: Of a clone, with `model_cards/` and `docs/`.
    """
    model_dirs = sorted(path.parent for path in (root / "model_cards").glob("*/model.safetensors"))
    yield from zip(repeat("rows"), benchmark_steps_deployed(rounds))
    yield from zip(repeat("prompt"), benchmark_prompt(rounds))
    yield from zip(repeat("checkpoints"), benchmark_checkpoints(model_dirs, ptb_dir))
    yield from zip(repeat("cold_start"), benchmark_cold_start(root, min(rounds, 5)))


def plot_deployment(tables: dict[str, Any], png: Path) -> None:
    """Draw how many times as fast as PyTorch's `generate()` the runner is at a step, in float32 and 8 bits.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    rows = tables["rows"]
    figure = new_figure(9, 4.2)
    figure.suptitle("Speed of a step in ONNX Runtime")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, batch_size in zip(panels, (1, 32), strict=True):
        shown = [row for row in rows if row["size"].endswith(f"batch {batch_size}")]
        for place, name in enumerate((RUNNER, "int8, generate()")):
            speeds = [row["milliseconds"]["PyTorch, generate()"] / row["milliseconds"][name] for row in shown]
            panel.bar([index + 0.38 * (place - 0.5) for index in range(len(shown))], speeds, 0.38, label=name)
        panel.axhline(1, color="0.3", linewidth=1, label="PyTorch, generate()")
        labels = [row["size"].partition(",")[0].replace(" ", "\n") for row in shown]
        panel.set_title(f"batch {batch_size}")
        panel.set_xticks(range(len(shown)), labels)
        panel.grid(alpha=0.3, axis="y")
    panels[0].set_ylabel("speed, PyTorch = 1")
    panels[0].legend(fontsize=8)
    save_figure(figure, png)
