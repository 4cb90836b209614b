"""Files of weights: told apart by their first bytes, whatever their names, and read without running what they hold."""

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file

from rnn_hf.conversion.pickles import Inert, StoredTensor
from rnn_hf.conversion.torch_files import is_stream, read_stream, read_zip
from rnn_hf.errors import InputError


MOST_EXPANSION = 20  # of a compressed file; weights hardly shrink
MOST_LEVELS, MOST_NAMES = 32, 100_000  # of names joined by dots, and in all
HDF5 = b"\x89HDF\r\n\x1a\n"
# Files that are not read, by their first bytes: what they are, and what to do.
STRANGE = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: fetch it by `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\x93NUMPY": "a single NumPy array: save all by numpy.savez, under the names of the variables",
    b"\x04\x00\x00\x00\x01\x00\x00\x00": "of torch7 (.t7), for Lua: save its tensors by numpy.savez",
    b"7z\xbc\xaf": "compressed: unpack it", b"Rar!": "compressed: unpack it", b"BZh": "compressed: unpack it",
}  # fmt: skip


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        path: Of the file.
        container: `torch`, `safetensors`, `npz`, `hdf5`, `keras` or `text`.
        content: Of a torch file what was saved, with `Inert` objects and `StoredTensor`s; else tensors by name. `None`
            where the format reads the file itself.
    """

    path: Path
    container: str
    content: Any = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights.

    Raises:
        FileNotFoundError: There is none.
        InputError: It is no file of weights, is damaged, or holds something that would have to be run.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory: name the file of weights in it")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        head = file.read(512)
    container = container_of(path, head)
    try:
        if container == "npz":
            return Checkpoint(path, container, read_npz(path))
        if container == "safetensors":
            return Checkpoint(path, container, load_file(path))
        if container == "torch":
            return Checkpoint(path, container, read_stream(path) if is_stream(head) else read_zip(path))
    except InputError:
        raise
    except Exception as error:  # a file that is not whole can fail in any way
        raise InputError(f"{path} is damaged ({error}): put a whole copy in its place") from error
    return Checkpoint(path, container)


def container_of(path: Path, head: bytes) -> str:
    """The kind of a file, by its first 512 bytes and, of an archive, by the names in it.

    Raises:
        InputError: It is none that is read; the message says what it is, where that is known.
    """
    for start, what in STRANGE.items():
        if head.startswith(start):
            raise InputError(f"{path} is {what}")
    if not head:
        raise InputError(f"{path} is empty")
    if head.lstrip().startswith(b"<"):
        raise InputError(f"{path} is a web page and not the file itself: download it again, by its direct address")
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # its first fields: version, and the name of its maker
        raise InputError(f"{path} is an ONNX graph, a program: take the weights of the model that it was made of")
    if head[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive; if torch before 0.2 wrote it, load and save it by a newer one")
    if head.startswith(HDF5):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if is_stream(head):
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if head.startswith(b"version:"):
        return "text"
    if head[:1] == b"\x80":
        raise InputError(f"{path} is a pickle that torch.save did not write: save model.state_dict() by torch.save")
    raise InputError(f"{path} is no file of weights that is known here; it begins with {head[:16]!r}")


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): put a whole copy in its place") from error
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if "model.weights.h5" in names:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise InputError(f"{path} is an archive without weights that are known here: unpack it and name the file")


def read_npz(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an archive of numpy.savez; those of Python objects are refused."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        check_expansion(path, sum(entry.file_size for entry in archive.infolist()))
        for entry in archive.infolist():
            with archive.open(entry) as file:
                try:
                    array = _read_array(file, entry.file_size)  # type: ignore[arg-type]
                except (ValueError, TypeError, EOFError, SyntaxError) as error:
                    raise InputError(f"{path}: the array {entry.filename} is not read: {error}") from error
            arrays[entry.filename.removesuffix(".npy")] = torch.from_numpy(array)
    return arrays


def _read_array(file: BinaryIO, size: int) -> np.ndarray:
    """An array whose header does not speak of more than the `size` bytes of its member."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"its version is {version}")
    shape, is_fortran, dtype = read_header[version](file)
    if dtype.kind not in "fiub":
        raise ValueError(f"it has the type {dtype}, which is no number")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it is not whole: {shape} numbers are more than {size} bytes")
    data = bytearray(file.read(math.prod(shape) * dtype.itemsize))
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    return np.ascontiguousarray(array.astype(dtype.newbyteorder("=")))


def check_expansion(path: Path, size: int) -> None:
    """Refuse a file that would unpack to far more than it is.

    Raises:
        InputError: It would.
    """
    if size > MOST_EXPANSION * path.stat().st_size + 2**20:
        raise InputError(f"{path} is damaged: its {path.stat().st_size:,} bytes would unpack to {size:,}")


def tensors_of(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, or of a module as its state dict would name them.

    Tensors that were one when they were saved share memory.

    Raises:
        InputError: Names without end, or a tensor that is not whole.
    """
    found: dict[str, torch.Tensor] = {}
    _collect(content, "", 0, found)
    return found


def _collect(content: Any, name: str, level: int, found: dict[str, torch.Tensor]) -> None:
    if isinstance(content, StoredTensor):
        try:
            content = content.read()
        except (ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"the file is damaged: {name} is {error}") from error
    if isinstance(content, torch.Tensor):
        found[name] = content
    if level > MOST_LEVELS or len(found) > MOST_NAMES:
        raise InputError(f"the file is damaged: names such as {name[:60]} go on without end")
    if isinstance(content, Inert):
        parts = [content.attributes.get(part) for part in ("_parameters", "_buffers", "_modules")]
    else:
        parts = [content]
    for part in parts:
        if isinstance(part, dict):
            for key, value in list(part.items()):
                if isinstance(value, (StoredTensor, torch.Tensor, dict, Inert)):
                    _collect(value, f"{name}.{key}" if name else str(key), level + 1, found)


def read_json(data: bytes, what: str) -> Any:
    """JSON from a file of others.

    Raises:
        InputError: It is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is no JSON ({error})") from error
