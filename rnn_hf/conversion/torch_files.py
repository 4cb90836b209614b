"""What torch.save wrote, as zip archive (torch 1.6 and later) or as one stream (before), read without running it."""

import io
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rnn_hf.conversion.pickles import NO_NAMES, OF_TORCH, Storage, StorageType, load
from rnn_hf.errors import InputError


MAGIC = 0x1950A86A20F9469CFC6C  # at the start of a stream
PROTOCOL = 1001


class Storages:
    """The storages that a file speaks of; each is checked against the size of the file before memory is reserved.

    Args:
        what: The file, for messages.
        size: Of the file, in bytes.
    """

    def __init__(self, what: str, size: int):
        self.what, self.left = what, size
        self.by_key: dict[str, Storage] = {}

    def storage_of(self, pid: tuple) -> Any:
        """What the pickle calls `("storage", type, key, device, number of numbers)`; of a module the module alone."""
        if pid[0] == "module" and len(pid) > 1:  # with its source code, which old files carry
            return pid[1]
        if pid[0] != "storage" or len(pid) < 5 or not isinstance(pid[1], StorageType):
            raise InputError(f"{self.what} holds {str(pid[0])[:40]!r} in the place of a storage")
        key, numel = str(pid[2]), pid[4]
        if type(numel) is not int or numel < 0:
            raise InputError(f"{self.what} is damaged: a storage of {numel} numbers")
        if key not in self.by_key:
            self.left -= numel * pid[1].dtype.itemsize
            if self.left < 0:
                raise InputError(f"{self.what} is damaged: it speaks of more numbers than it has bytes for")
            self.by_key[key] = Storage(key, pid[1].dtype, numel)
        storage = self.by_key[key]
        if (storage.dtype, storage.numel) != (pid[1].dtype, numel):
            raise InputError(f"{self.what} is damaged: two storages with the key {key}")
        if len(pid) > 5 and pid[5] is not None:
            raise InputError(f"{self.what} has views of storages, as torch before 0.4 wrote them: save it again")
        return storage

    def fill(self, read: Callable[[Storage], bytes], byteorder: str = "little") -> None:
        """Read the numbers of each storage by `read`."""
        for storage in self.by_key.values():
            data = bytearray(read(storage))
            if len(data) != storage.numel * storage.dtype.itemsize:
                raise InputError(f"{self.what} is damaged: the storage {storage.key} is not whole")
            values = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
            if byteorder == "big":
                values = values.view(-1, storage.dtype.itemsize).flip(1).contiguous().flatten()
            storage.values = values.view(storage.dtype)


def read_zip(path: Path) -> Any:
    """The object in an archive of torch.save, with `StoredTensor`s for tensors.

    Raises:
        InputError: It is damaged, compressed, TorchScript, or holds something that would have to be run.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        root = pickles[0].partition("/")[0] if len(pickles) == 1 else ""
        if any(name.startswith((f"{root}/code/", f"{root}/constants.pkl")) for name in entries):
            raise InputError(f"{path} is TorchScript, a program: save model.state_dict() of it where it is used")
        if not root:
            raise InputError(f"{path} is an archive of another program than torch.save")
        storages = Storages(str(path), path.stat().st_size)

        def read(name: str) -> bytes:
            entry = entries.get(f"{root}/{name}")
            if entry is None or entry.file_size > path.stat().st_size:
                raise InputError(f"{path} is damaged: {name} is not there, or larger than the file")
            return archive.read(entry)

        content = load(io.BytesIO(read("data.pkl")), OF_TORCH, str(path), storages.storage_of)
        byteorder = read("byteorder").decode("latin1") if f"{root}/byteorder" in entries else "little"
        storages.fill(lambda storage: read(f"data/{storage.key}"), byteorder)
    return content


def is_stream(head: bytes) -> bool:
    """Whether the first bytes of a file are those of torch.save before 1.6."""
    return MAGIC.to_bytes(10, "little") in head[:32] or f"L{MAGIC}L".encode() in head


def read_stream(path: Path) -> Any:
    """The object in a stream of torch.save before 1.6, with `StoredTensor`s for tensors.

    Raises:
        InputError: As `read_zip`.
    """
    what = str(path)
    storages = Storages(what, path.stat().st_size)
    # A map of the file reads no more than there is, whatever length a pickle names.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        start: Any = mapped
        if load(start, NO_NAMES, what) != MAGIC or load(start, NO_NAMES, what) != PROTOCOL:
            raise InputError(f"{path} is a pickle of another program than torch.save")
        system = load(start, NO_NAMES, what)
        content = load(start, OF_TORCH, what, storages.storage_of)
        keys = load(start, NO_NAMES, what)
        if not isinstance(keys, list) or set(map(str, keys)) != set(storages.by_key):
            raise InputError(f"{path} is damaged: its storages are not those that its tensors name")
        blocks = {}
        for key in map(str, keys):
            storage = storages.by_key[key]
            if int.from_bytes(mapped.read(8), "little") != storage.numel:
                raise InputError(f"{path} is damaged: the storage {key} is not whole")
            blocks[key] = mapped.read(storage.numel * storage.dtype.itemsize)
        is_little = not isinstance(system, dict) or system.get("little_endian", True)
        storages.fill(lambda storage: blocks.pop(storage.key), "little" if is_little else "big")
    return content
