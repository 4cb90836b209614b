"""Files written beside and moved into place, so that a half-written one is never taken for a whole one."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write beside and move into place."""
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_json(path: Path, content: Any) -> None:
    """Write beside and move into place, keys sorted."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; `None` where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_into(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory beside, then move its files into `target`, each in one piece, weights last."""
    beside = target / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write(beside)
        for path in sorted(beside.iterdir(), key=lambda path: path.suffix in (".safetensors", ".onnx")):
            os.replace(path, target / path.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The checksum of a file, as the Hub names large files by it."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
