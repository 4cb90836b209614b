"""Pickles read without running what they name: tensors, containers, and objects that do nothing.

A pickle is a program. Here it may build lists, dictionaries, sets, numbers and texts, and describe tensors; objects of
known projects become `Inert` ones, which keep what was stored. Every other name ends the reading.
"""

import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from rnn_hf.errors import InputError


# Storages by the end of their names; the front is torch, torch.cuda or torch.storage.
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
# Where classes come from whose objects are kept as `Inert`, these packages and what is below them. The short names are
# the files that scripts of language models are made of.
INERT = (
    "torch.nn", "torch.optim", "torch.backends.thnn", "torch.device", "torch.dtype", "__main__", "model", "models",
    "data", "argparse.Namespace", "embed_regularize", "locked_dropout", "splitcross", "weight_drop", "lstm", "rnn",
    "dictionary_corpus", "flair", "fastai", "espnet", "torchtext", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip
# Instructions that no checkpoint has: buffers of any length asked for, and classes named by numbers.
UNUSED = (
    pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4,
)  # fmt: skip


class Refused(InputError):
    """A pickle names something that is not read."""


@dataclass
class Storage:
    """A block of numbers of a file: its key there, type and length."""

    key: str
    dtype: torch.dtype
    numel: int
    values: torch.Tensor | None = None  # once it is read, flat

    def __setstate__(self, state: Any) -> None:
        raise Refused("a state for a storage")


@dataclass
class StoredTensor:
    """A tensor of a file: where it lies in a storage, counted in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        """Of a parameter from torch before 0.4: whether it has gradients."""

    def read(self) -> torch.Tensor:
        """The tensor; two with the same place in a file share memory.

        Raises:
            ValueError: Its place is not within the storage, or it shows numbers more than once.
        """
        count, last = 1, self.offset
        for size, step in zip(self.shape, self.stride, strict=True):
            count *= size
            last += (size - 1) * step
        is_within = count == 0 or (self.offset >= 0 and min(self.stride, default=0) >= 0 and last < self.storage.numel)
        if self.storage.values is None or not is_within or count > self.storage.numel:
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {self.storage.numel} numbers")
        return torch.as_strided(self.storage.values, self.shape, self.stride, self.offset)


class Table(dict):
    """Any kind of dictionary, without the attributes of its own that the file gives it."""

    def __setstate__(self, state: Any) -> None:
        pass


class Inert:
    """In the place of an object whose class is not loaded: it keeps what was stored.

    Attributes:
        origin: Module and name of the class.
        arguments: Of its creation.
        attributes: What its `__dict__` would be.
    """

    origin = ""
    arguments: tuple
    attributes: dict[Any, Any]

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments, made.attributes = arguments, {}
        return made

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.attributes.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.attributes[key] = value

    def append(self, value: Any) -> None:
        """What a subclass of a list is given, which nobody asks for."""

    add = append


class Known:
    """A name of a pickle that may be called: a function of this file in its place.

    It is no function, because a pickle may set attributes of whatever it has in hand.
    """

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused(f"the attribute {name} of a function")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        raise Refused("a state for a function")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    numbers = [offset, *shape, *stride]
    if not isinstance(storage, Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise Refused("a tensor that is not part of a storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _table(*arguments: Any) -> Table:
    made = Table()
    for content in arguments:
        if isinstance(content, dict):
            made.update(content)
        elif isinstance(content, (list, tuple)):
            made.update(dict(content))
    return made  # the factory of a defaultdict is left out


def _object(kind: Any, *_: Any) -> Inert:
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise Refused("an object of a class that is not inert")
    return kind()


def _text_as_bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"a text in {encoding}")
    return text.encode("latin1")


def _first(value: Any, *_: Any) -> Any:
    return value


BUILT_IN = {
    "dict": _table, "set": lambda *given: set(*given[:1]), "frozenset": lambda *given: frozenset(*given[:1]),
    "list": lambda *given: list(*given[:1]), "tuple": lambda *given: tuple(*given[:1]), "object": _first,
}  # fmt: skip
KNOWN: dict[str, Known] = {
    **{f"{module}.{name}": Known(made) for module in ("builtins", "__builtin__") for name, made in BUILT_IN.items()},
    **{f"collections.{name}": Known(_table) for name in ("OrderedDict", "defaultdict", "Counter")},
    "_codecs.encode": Known(_text_as_bytes),
    "copyreg._reconstructor": Known(_object),
    "copy_reg._reconstructor": Known(_object),
    "torch.Size": Known(lambda sizes: tuple(sizes)),
    "torch._utils._rebuild_tensor": Known(_tensor),
    "torch._utils._rebuild_tensor_v2": Known(_tensor),
    "torch._utils._rebuild_parameter": Known(_first),
    "torch._utils._rebuild_parameter_with_state": Known(_first),
    "torch.nn.parameter.Parameter": Known(_first),
}


@dataclass(frozen=True)
class StorageType:
    """The name of a type of storage."""

    dtype: torch.dtype


@dataclass
class Names:
    """What a pickle may name.

    Attributes:
        known: Names that may be called.
        inert: Packages whose classes are kept as `Inert`.
        storages: Whether there are storages of torch.
    """

    known: dict[str, Known] = field(default_factory=dict)
    inert: Collection[str] = ()
    storages: bool = False


NO_NAMES = Names()
OF_TORCH = Names(KNOWN, INERT, True)


class SafeUnpickler(pickle._Unpickler):
    """A reader in Python, as the one in C reserves as much memory as a pickle asks for.

    Args:
        file: At the start of a pickle; its `read` gives no more than there is.
        names: What it may name.
        storage_of: Makes a storage of what the pickle says of it.
    """

    dispatch = {key: read for key, read in pickle._Unpickler.dispatch.items() if bytes([key]) not in UNUSED}

    def __init__(self, file: BinaryIO, names: Names, storage_of: Callable[[tuple], Any] | None = None):
        super().__init__(file, encoding="latin1")  # which Python 2 needs
        self._names, self._storage_of, self._classes = names, storage_of, dict[str, type]()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._names.known:
            return self._names.known[full]
        if self._names.storages and name in STORAGES and module in ("torch", "torch.cuda", "torch.storage"):
            return StorageType(STORAGES[name])
        if not any(full == package or full.startswith(f"{package}.") for package in self._names.inert):
            raise Refused(full)
        return self._classes.setdefault(full, type("Inert", (Inert,), {"origin": full}))

    def persistent_load(self, pid: Any) -> Any:
        if self._storage_of is None or not isinstance(pid, tuple) or not pid:
            raise Refused(f"a persistent object {str(pid)[:80]}")
        return self._storage_of(pid)


def load(file: BinaryIO, names: Names, what: str, storage_of: Callable[[tuple], Any] | None = None) -> Any:
    """The object of the pickle at which a file stands.

    Args:
        file: As of `SafeUnpickler`.
        names: What the pickle may name.
        what: The file, for messages.
        storage_of: As of `SafeUnpickler`.

    Raises:
        InputError: It names something else, or is not whole.
    """
    try:
        return SafeUnpickler(file, names, storage_of).load()
    except Refused as error:
        advice = "save model.state_dict() where it was made" if names.storages else "save a list of words, one a line"
        raise InputError(
            f"{what} holds {error}, which would have to be run: only tensors and torch's own containers are read; "
            f"{advice}"
            if names.storages
            else f"{what} holds {error}, which would have to be run: only lists, numbers and texts are read; {advice}"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a pickle that is not whole can fail in any way
        raise InputError(f"{what} is damaged: its pickle ends in {type(error).__name__} ({error})") from error
