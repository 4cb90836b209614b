"""Damaged weights are refused: a safetensors file with a wrong byte loads, and the Hub knows its checksum."""

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from .configuration_rnn import RNNConfig


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REPAIR = "fetch them again: from_pretrained(..., force_download=True), or copy the directory again"


def check_download(name: str | os.PathLike | None, config: RNNConfig, options: dict[str, Any]) -> None:
    """Compare the weights of a model of the Hub with their checksum: a safetensors file with a wrong byte loads.

    Raises:
        OSError: They differ.
    """
    if name is None or os.path.exists(name):
        return
    revision = getattr(config, "_commit_hash", None) or options.get("revision")
    config_file = try_to_load_from_cache(name, "config.json", cache_dir=options.get("cache_dir"), revision=revision)
    if not isinstance(config_file, str):
        return
    for path in Path(config_file).parent.joinpath(options.get("subfolder") or "").glob("*.safetensors"):
        check_cached(name, path)


def check_cached(name: str | os.PathLike, path: Path) -> None:
    """Compare a file in the Hub's cache, weights of `name`, with its checksum: the name of what it links to.

    A download is checked by length alone.

    Raises:
        OSError: They differ.
    """
    expected = Path(os.readlink(path)).name if path.is_symlink() else ""
    if not re.fullmatch("[0-9a-f]{64}", expected):
        return  # a small file that is not stored by checksum, or a file system without links
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise OSError(f"the weights of {name} are damaged (checksum of {path}); {REPAIR}")


__all__ = ["NO_SPACE", "REPAIR", "check_cached", "check_download"]
