"""Files written as drafts and moved into place, so that no half-written one is taken for whole; and read back."""

import difflib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rnn_hf.errors import InputError


logger = logging.getLogger(__name__)


def check_local(name: str) -> None:
    """Refuse what can only be a path, and is not there, before the Hub is asked for it.

    USER/NAME can be on the Hub though there is a folder USER here: then a warning has the nearest name in that folder.

    Raises:
        FileNotFoundError: The message has the nearest name that is there.
    """
    path = Path(name).expanduser()
    if path.exists():
        return
    is_path = path.is_absolute() or name[:1] == "." or len(path.parts) > 2
    if not (is_path or Path(path.parts[0]).is_dir()):
        return
    folder = next(parent for parent in path.parents if parent.is_dir())
    there = [entry.name for entry in folder.iterdir()]
    close = difflib.get_close_matches(path.relative_to(folder).parts[0], there, n=1)
    message = f"there is no {name}" + (f"; did you mean {folder / close[0]}?" if close else "")
    if is_path or not _is_repository_name(name):
        raise FileNotFoundError(message)
    logger.warning("%s Asking the Hub for it.", message if close else f"{message} here.")


def _is_repository_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write a draft and move it into place."""
    draft = path.with_name(f".{path.name}.writing")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def write_json(path: Path, content: Any) -> None:
    """Write a draft and move it into place, keys sorted."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_text(path: str | Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        InputError: It is not UTF-8; the message names the file.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: Path) -> Any:
    """The object in a JSON file; `None` where there is no file.

    Raises:
        InputError: The file is cut or empty, or holds something else; the message names it.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are two
        raise InputError(f"{path} is broken ({error}): put a whole copy in its place, or remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object: put the right file in its place, or remove it")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line, such as metrics.jsonl; none where there is no file.

    A last line that is cut is left out: whoever wrote it was killed, or the disk was full.

    Raises:
        InputError: Another line is no object; the message names file and line.
    """
    if not path.is_file():
        return []
    rows = []
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < lines[-1][0]:
            raise InputError(f"{path}, line {number} is no JSON object: remove the line, or put a whole copy in place")
    return rows


def json_objects(path: Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of data with one a line, each with its place for messages; empty lines are passed over.

    Args:
        path: Of the file.
        example: Such an object, for messages.

    Raises:
        InputError: A line holds something else, or the file is not UTF-8 text.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        place = f"{path}, line {number}"
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{place} is no JSON: {error}; each line must hold one object") from error
            if not isinstance(row, dict):
                raise InputError(f"{place} holds no JSON object, such as {example}")
            yield place, row


def write_into(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a draft directory, then move its files into `target`, each in one piece, weights last."""
    draft = target / ".writing"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        for path in sorted(draft.iterdir(), key=lambda path: path.suffix in (".safetensors", ".onnx")):
            os.replace(path, target / path.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file that is never written to again a second name, which needs no space; where that fails, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sha256_of(path: Path) -> str:
    """The checksum of a file, as the Hub names large files by it."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
