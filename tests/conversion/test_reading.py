"""Files of others are read without running them: equal tensors, or a sentence."""

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rnn_hf.conversion.pickles import NO_NAMES, OF_TORCH, Inert, StorageType, load
from rnn_hf.conversion.reading import read_checkpoint, tensors_of
from rnn_hf.conversion.torch_files import Storages
from rnn_hf.errors import InputError


FORMATS = {"zip": True, "stream": False}


@pytest.fixture(params=FORMATS, ids=FORMATS)
def save(request, tmp_path):
    """`save(object)`: a file of torch.save, in the form of today and in that of before 1.6."""

    def save(content, name="model.bin", **options):
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=FORMATS[request.param], **options)
        return path

    return save


def network():
    return nn.ModuleDict({"embed": nn.Embedding(7, 3), "rnn": nn.LSTM(3, 4, 2), "fc": nn.Linear(4, 7)})


def equal(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_state_dict_is_what_was_saved_and_what_torch_reads(save, protocol):
    state = network().state_dict()
    path = save(state, pickle_protocol=protocol)
    equal(tensors_of(read_checkpoint(path).content), state)
    if protocol == 2:  # torch reads no other
        equal(tensors_of(read_checkpoint(path).content), torch.load(path, weights_only=True))


def test_types_views_and_ties_are_those_of_the_file(save):
    block = torch.randn(4, 6)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool)
    content = {str(kind): torch.randn(3, 2).to(kind) for kind in kinds}
    content |= {
        "row": block[1],
        "turned": block.t(),
        "same": block,
        "empty": torch.empty(0, 3),
        "one": torch.tensor(2.0),
    }
    got = tensors_of(read_checkpoint(save(content)).content)
    equal(got, content)
    assert got["row"].untyped_storage().data_ptr() == got["same"].untyped_storage().data_ptr()


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_is_read_though_its_class_is_gone(save, monkeypatch):
    module = types.ModuleType("model")

    class RNNModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.rnn, self.decoder = nn.Embedding(7, 4), nn.GRU(4, 4), nn.Linear(4, 7)
            self.decoder.weight = self.encoder.weight
            self.register_buffer("count", torch.tensor(3))
            self.rnn_type, self.words = "GRU", Counter("abca")

    RNNModel.__module__, RNNModel.__qualname__ = "model", "RNNModel"
    module.RNNModel = RNNModel
    monkeypatch.setitem(sys.modules, "model", module)
    made = RNNModel()
    path = save([made, torch.optim.SGD(made.parameters(), lr=1.0, momentum=0.9)])
    expected = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    monkeypatch.delitem(sys.modules, "model")
    content = read_checkpoint(path).content[0]
    assert isinstance(content, Inert) and content.origin == "model.RNNModel" and "model" not in sys.modules
    assert content.attributes["rnn_type"] == "GRU" and content.attributes["words"] == Counter("abca")
    got = tensors_of(content)
    equal(got, expected)
    assert got["encoder.weight"].data_ptr() == got["decoder.weight"].data_ptr()


class Reduced:
    """An object that is saved as the call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


HOSTILE = {
    "a command": Reduced(os.system, ("touch /tmp/run_by_a_checkpoint",)),
    "eval": Reduced(eval, ("1 + 1",)),
    "getattr": Reduced(getattr, (1, "real")),
    "a function of torch": Reduced(torch.hub.load, ("a/b", "c")),
    "a class of another package": Reduced(types.SimpleNamespace, ()),
    "bytes of any length": Reduced(bytes, (10,)),
    "a factory": defaultdict(os.getcwd),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_would_have_to_be_run_is_refused(save, content):
    path = save({"weight": torch.ones(2), "else": content})
    with pytest.raises(InputError, match="would have to be run: only tensors and torch's own containers"):
        read_checkpoint(path)
    assert not os.path.exists("/tmp/run_by_a_checkpoint")


def test_an_object_of_a_known_project_runs_nothing_of_its_own(save, monkeypatch):
    module = types.ModuleType("model")

    class Net:
        def __setstate__(self, state):
            raise AssertionError("was run")

        def __getstate__(self):
            return {"weight": torch.ones(2)}

    Net.__module__, Net.__qualname__ = "model", "Net"
    module.Net = Net
    monkeypatch.setitem(sys.modules, "model", module)  # it stays: even so it is not called
    assert read_checkpoint(save(Net())).content.attributes["weight"].shape == (2,)


def stream(content: bytes, keys=(), blocks=b"") -> bytes:
    """A file of before 1.6, by hand."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in parts) + content + pickle.dumps(list(keys), 2) + blocks


def tensor_pickle(numel=4, shape=(4,), stride=(1,), offset=0):
    """The pickle of a tensor in a storage with the key 0."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, content):
            return content if isinstance(content, tuple) and content[:1] == ("storage",) else None

    buffer = io.BytesIO()
    pid = ("storage", torch.FloatStorage, "0", "cpu", numel, None)
    Pickler(buffer, 2).dump({"w": Reduced(torch._utils._rebuild_tensor_v2, (pid, offset, shape, stride, False, None))})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "parts",
    [
        {"numel": 2**40},
        {"numel": 5},
        {"shape": (2**20, 2**20), "stride": (0, 0)},
        {"shape": (5,)},
        {"offset": 1},
        {"offset": -1},
        {"shape": (4,), "stride": (2**62,)},
        {"numel": -1},
    ],
)  # fmt: skip
def test_tensors_larger_than_their_file_are_refused_before_memory_is_reserved(tmp_path, parts):
    path = tmp_path / "model.pt"
    size = struct.pack("<q", 4) + bytes(16)
    path.write_bytes(stream(tensor_pickle(), ["0"], size))
    assert tensors_of(read_checkpoint(path).content)["w"].tolist() == [0] * 4
    path.write_bytes(stream(tensor_pickle(**parts), ["0"], size))
    with pytest.raises(InputError):
        tensors_of(read_checkpoint(path).content)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02r\xff\xff\xff\xff.",  # a place of the memo far away
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # a buffer
        b"\x80\x05\x96" + struct.pack("<Q", 1) + b"a.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",  # a frame
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",  # bytes
        b"\x80\x02\x82\x01.",  # a class by its number
        b"\x80\x02cbuiltins\ndict\n}(X\x01\x00\x00\x00aK\x01ub.",  # attributes of a function
        b"\x80\x02ccollections\nOrderedDict\nN}(X\x05\x00\x00\x00_functionNu\x86b.",  # the same, by slots
        b"\x80\x02ctorch.nn\nLinear\n}(X\x05\x00\x00\x00valueK\x01ub.",  # attributes of a class
        b"\x80\x02cmodel\nNet.__init__.__globals__\nK\x01\x85R}b0.",
        b"",
        b"\x80\x02.",
    ],
)
def test_programs_that_are_no_object_end_in_a_sentence(tmp_path, program):
    path = tmp_path / "model.pt"
    path.write_bytes(stream(program))
    with pytest.raises(InputError, match=r"model\.pt"):
        read_checkpoint(path)
    with pytest.raises(InputError, match="words"):
        load(io.BytesIO(program), NO_NAMES, "words")


def test_names_are_read_as_text_and_never_looked_up():
    made = load(io.BytesIO(b"\x80\x04\x8c\x08torch.nn\x8c\x17LSTM.__init__.__globals\x93)R."), OF_TORCH, "file")
    assert isinstance(made, Inert)


def test_a_module_within_itself_has_an_end(tmp_path):
    inner = Inert()
    inner.attributes["_modules"] = {"a": inner, "b": inner}
    with pytest.raises(InputError, match="without end"):
        tensors_of(inner)


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(network().state_dict(), path)
    whole = path.read_bytes()
    parts = (whole.replace(b"\x80\x02", b"\x80\x09", 1), whole.replace(b"data.pkl", b"data.pk\xff", 1))
    for damaged in (whole[: len(whole) // 2], *parts):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.pt"):
            read_checkpoint(path)


def test_storages_together_are_no_larger_than_their_file():
    storages, kind = Storages("model.pt", 10), StorageType(torch.float32)
    for _ in range(3):  # of one key there is one
        assert storages.storage_of(("storage", kind, "0", "cpu", 2)).numel == 2
    with pytest.raises(InputError, match="more numbers than it has bytes for"):
        storages.storage_of(("storage", kind, "1", "cpu", 1))
    with pytest.raises(InputError, match="two storages with the key 0"):
        storages.storage_of(("storage", kind, "0", "cpu", 1))


def test_a_compressed_archive_cannot_unpack_to_more_than_it_is(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(2**22)}, path)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(InputError, match="more numbers than it has bytes for"):
        read_checkpoint(packed)
    np.savez_compressed(tmp_path / "zeros.npz", w=np.zeros(2**22))
    with pytest.raises(InputError, match="would unpack to"):
        read_checkpoint(tmp_path / "zeros.npz")


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_a_program_and_an_archive_of_something_else_are_named(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(InputError, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="archive without weights"):
        read_checkpoint(tmp_path / "other.zip")


def test_safetensors_and_npz_give_their_tensors(tmp_path):
    tensors = {name: tensor.contiguous() for name, tensor in network().state_dict().items()}
    save_file(tensors, tmp_path / "any.name")
    equal(tensors_of(read_checkpoint(tmp_path / "any.name").content), tensors)
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    equal(tensors_of(read_checkpoint(tmp_path / "a.npz").content), tensors)
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3)).astype(">f4")
    np.savez_compressed(tmp_path / "b.npz", turned=turned)
    assert read_checkpoint(tmp_path / "b.npz").content["turned"].tolist() == turned.tolist()
    whole = (tmp_path / "any.name").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(tmp_path / "cut")


def test_arrays_of_objects_and_headers_of_any_size_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([Reduced(os.system, ("true",))], dtype=object))
    with pytest.raises(InputError, match="which is no number"):
        read_checkpoint(tmp_path / "a.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("w.npy", header.getvalue() + bytes(8))
    with pytest.raises(InputError, match="not whole"):
        read_checkpoint(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "start, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (pickle.dumps({"a": 1}, 4), "a pickle that torch.save did not write"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"\x93NUMPY\x01\x00", "single NumPy array"),
        (b"\x08\x08\x12\x07pytorch", "an ONNX graph"),
        (b"hello", "begins with b'hello'"),
        (b"", "is empty"),
    ],
)
def test_files_that_hold_no_weights_are_called_by_their_names(tmp_path, start, words):
    (tmp_path / "model.pth").write_bytes(start)
    with pytest.raises(InputError, match=words):
        read_checkpoint(tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "no.pth")
    with pytest.raises(InputError, match="is a directory"):
        read_checkpoint(tmp_path)


def test_a_dictionary_of_any_kind_is_read(save):
    content = OrderedDict(a=Counter("ab"), b={"c": {1, 2}, "d": (b"x", 1.5, None, True, "\u00e9")}, e=frozenset("z"))
    assert read_checkpoint(save(content)).content == content
