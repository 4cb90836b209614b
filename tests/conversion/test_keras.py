"""Files of Keras 1 to 3, written here by their layouts, against Keras's equations in NumPy."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rnn_hf.conversion import convert
from rnn_hf.errors import InputError


h5py = pytest.importorskip("h5py", reason="needs the extra conversion")

V, E, H = 11, 3, 5
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1, "CuDNNLSTM": 4, "CuDNNGRU": 3}
BIASES = {"LSTM": (4 * H,), "GRU": (2, 3 * H), "SimpleRNN": (H,), "CuDNNLSTM": (8 * H,), "CuDNNGRU": (6 * H,)}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


def weights_of(kind, width, seed=0, size=H):
    generator = np.random.default_rng(seed)
    shapes = {"kernel": (width, GATES[kind] * size), "recurrent_kernel": (size, GATES[kind] * size)}
    shapes["bias"] = tuple(number // H * size if number > 2 else number for number in BIASES[kind])
    return {name: generator.uniform(-0.8, 0.8, shape).astype("float32") for name, shape in shapes.items()}


def run(kind, weights, inputs, gate=sigmoid, resets_after=True):
    """Keras's layer over `(T, width)`: gates i f c o of an LSTM, z r h of a GRU; cuDNN's matrices are rows by rows."""
    kernel, recurrent, bias = (weights[name].astype("float64") for name in ("kernel", "recurrent_kernel", "bias"))
    size, gates = len(recurrent), GATES[kind]
    kernels, recurrents = np.hsplit(kernel, gates), np.hsplit(recurrent, gates)
    if kind.startswith("CuDNN"):  # memory of a matrix (H, in), whose rows are the units
        kernels = [part.reshape(size, -1).T for part in kernels]
        recurrents = [part.reshape(size, size).T for part in recurrents]
    of_input, of_state = np.zeros(gates * size), np.zeros(gates * size)
    biases = bias.reshape(-1, gates * size)
    of_input = of_input + biases[0]
    of_state = of_state + (biases[1] if len(biases) == 2 else 0)
    of_input, of_state = np.split(of_input, gates), np.split(of_state, gates)
    h, c, outputs = np.zeros(size), np.zeros(size), []
    for x in inputs:
        a = [x @ matrix + b for matrix, b in zip(kernels, of_input, strict=True)]
        u = [h @ matrix + b for matrix, b in zip(recurrents, of_state, strict=True)]
        if gates == 4:
            i, f, o = gate(a[0] + u[0]), gate(a[1] + u[1]), gate(a[3] + u[3])
            c = f * c + i * np.tanh(a[2] + u[2])
            h = o * np.tanh(c)
        elif gates == 3:
            z, r = gate(a[0] + u[0]), gate(a[1] + u[1])
            new = np.tanh(a[2] + (r * u[2] if resets_after else (r * h) @ recurrents[2]))
            h = z * h + (1 - z) * new
        else:
            h = np.tanh(a[0] + u[0])
        outputs.append(h)
    return np.stack(outputs)


def network(kind, layers=2):
    generator = np.random.default_rng(9)
    embedding = generator.uniform(-1, 1, (V, E)).astype("float32")
    dense = {"kernel": generator.uniform(-1, 1, (H, V)).astype("float32"), "bias": np.ones(V, "float32")}
    recurrent = [weights_of(kind, E if index == 0 else H, index) for index in range(layers)]
    return embedding, recurrent, dense


def logits_of(kind, embedding, recurrent, dense, ids, **options):
    outputs = embedding[ids].astype("float64")
    for weights in recurrent:
        outputs = run(kind, weights, outputs, **options)
    return outputs @ dense["kernel"] + dense["bias"]


def config_of(kind, recurrent, is_keras3=False, **settings):
    """Of Sequential; the names of layers are not those of their classes."""
    gate = {} if kind.startswith("CuDNN") or kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
    names = [f"r{index}" for index in range(len(recurrent))]
    common = {"activation": "tanh", "units": H} | gate | settings
    layers = [{"class_name": "Embedding", "config": {"name": "words", "mask_zero": False}}]
    layers += [{"class_name": kind, "config": {"name": name} | common} for name in names]
    layers.append({"class_name": "Dropout", "config": {"name": "drop"}})
    wrapped = {"class_name": "Dense", "config": {"activation": "softmax"}}
    layers.append({"class_name": "TimeDistributed", "config": {"name": "out", "layer": wrapped}})
    layers = [{"class_name": "InputLayer", "config": {"name": "in"}}, *layers] if is_keras3 else layers
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def write_named(root, groups, version):
    """Keras 1 and 2, and .h5 of Keras 3: names of layers and weights are attributes."""
    root.attrs["layer_names"] = [name.encode() for name in groups]
    root.attrs["keras_version"], root.attrs["backend"] = version.encode(), b"tensorflow"
    for name, weights in groups.items():
        group = root.create_group(name)
        paths = [f"{name}/{role}:0" for role in weights]
        group.attrs["weight_names"] = [path.encode() for path in paths]
        for path, value in zip(paths, weights.values(), strict=True):
            group.create_dataset(path, data=value)


def write(path, kind, parts, form, version="2.2.4", **settings):
    embedding, recurrent, dense = parts
    groups = {"words": {"embeddings": embedding}} | {f"r{index}": layer for index, layer in enumerate(recurrent)}
    groups |= {"drop": {}, "out": dense}
    if form in ("weights", "model"):
        with h5py.File(path, "w") as file:
            if form == "model":
                file.attrs["model_config"] = json.dumps(config_of(kind, recurrent, **settings)).encode()
            write_named(file.create_group("model_weights") if form == "model" else file, groups, version)
        return path
    data = io.BytesIO()
    snake = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}[kind]
    with h5py.File(data, "w") as file:
        file["layers/embedding/vars/0"] = embedding
        for index, layer in enumerate(recurrent):
            for number, value in enumerate(layer.values()):
                file[f"layers/{snake}{f'_{index}' if index else ''}/cell/vars/{number}"] = value
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "uint32")
        inside = "layers/time_distributed/layer/vars" if form == "keras" else "layers/dense/vars"
        file[f"{inside}/0"], file[f"{inside}/1"] = dense["kernel"], dense["bias"]
        file["optimizer/vars/0"] = np.zeros((), "int64")
    if form == "weights.h5":
        path.write_bytes(data.getvalue())
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config_of(kind, recurrent, True, **settings)))
        archive.writestr("model.weights.h5", data.getvalue())
    return path


FILES = [
    *[(kind, "model", "2.2.4") for kind in GATES],
    ("CuDNNLSTM", "weights", "2.2.4"),
    ("LSTM", "weights", "2.4.0"),
    ("GRU", "weights", "2.4.0"),
    *[(kind, form, "3") for kind in ("LSTM", "GRU", "SimpleRNN") for form in ("keras", "weights.h5")],
]


@pytest.mark.parametrize("kind, form, version", FILES)
def test_a_model_gives_the_logits_of_the_equations_of_keras(tmp_path, kind, form, version):
    parts = network(kind)
    path = write(tmp_path / "any", kind, parts, form, version, **({"reset_after": True} if kind == "GRU" else {}))
    given = {} if form in ("model", "keras") or kind == "CuDNNLSTM" else {"recurrent_activation": "sigmoid"}
    given = {"hidden_act": "tanh"} if given and kind == "SimpleRNN" else given
    if given:
        with pytest.raises(InputError, match=f"`{next(iter(given))}`"):
            convert(path, tmp_path / "out")
    done = convert(path, tmp_path / "out", **given)
    assert done.format == "keras" and done.difference < 1e-12 and not done.inexact
    ids = np.random.default_rng(1).integers(V, size=13)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    logits = model(torch.from_numpy(ids)[None]).logits[0].detach().numpy()
    np.testing.assert_allclose(logits, logits_of(kind, *parts, ids), rtol=0, atol=2e-6)
    exact = model.double()(torch.from_numpy(ids)[None]).logits[0].detach().numpy()
    np.testing.assert_allclose(exact, logits_of(kind, *parts, ids), rtol=0, atol=1e-12)
    assert torch.equal(model.model.embed_tokens.weight.float(), torch.from_numpy(parts[0]))


def test_hard_sigmoid_is_refused_or_measured(tmp_path):
    parts, ids = network("LSTM"), np.arange(V)
    path = write(tmp_path / "old.h5", "LSTM", parts, "weights", "2.2.0")
    with pytest.raises(InputError, match=r"hard_sigmoid, the default of Keras 2\.2\.0"):
        convert(path, tmp_path / "out")
    assert not convert(path, tmp_path / "told", recurrent_activation="sigmoid").inexact
    done = convert(path, tmp_path / "out", approximate=True)
    assert done.difference > 1e-3 and "near it" in (tmp_path / "out" / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").double()
    logits = model(torch.from_numpy(ids)[None]).logits[0].detach().numpy()
    np.testing.assert_allclose(logits, logits_of("LSTM", *parts, ids), atol=1e-12)
    assert np.abs(logits - logits_of("LSTM", *parts, ids, gate=hard_sigmoid)).max() > 1e-3


def test_a_gru_that_resets_before_the_product_is_refused(tmp_path):
    parts = network("GRU")
    for weights in parts[1]:
        weights["bias"] = weights["bias"][0]
    for form, settings in (("weights", {}), ("model", {"reset_after": False})):
        path = write(tmp_path / form, "GRU", parts, form, "2.4.0", **settings)
        with pytest.raises(InputError, match="reset_after=False"):
            convert(path, tmp_path / "out", recurrent_activation="sigmoid")
    done = convert(path, tmp_path / "out", approximate=True)
    ids = np.arange(V)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").double()
    logits = model(torch.from_numpy(ids)[None]).logits[0].detach().numpy()
    expected = logits_of("GRU", *parts, ids, resets_after=False)
    assert 1e-3 < np.abs(logits - expected).max() < 10 * done.difference


def test_both_directions_become_a_bidirectional_model(tmp_path):
    embedding, _, _ = network("LSTM")
    sides = [weights_of("LSTM", E, 3), weights_of("LSTM", E, 4)]
    names = ("forward_lstm", "backward_lstm")
    weights = {
        f"{name}/{role}": value for name, side in zip(names, sides, strict=True) for role, value in side.items()
    }
    with h5py.File(tmp_path / "bi.h5", "w") as file:
        write_named(file, {"words": {"embeddings": embedding}, "bi": weights}, "2.4.0")
    convert(tmp_path / "bi.h5", tmp_path / "out", recurrent_activation="sigmoid")
    ids = np.arange(V)
    got = AutoModel.from_pretrained(tmp_path / "out").double()(torch.from_numpy(ids)[None]).last_hidden_state[0]
    inputs = embedding[ids].astype("float64")
    expected = [run("LSTM", sides[0], inputs), run("LSTM", sides[1], inputs[::-1])[::-1]]
    np.testing.assert_allclose(got.detach().numpy(), np.concatenate(expected, axis=1), atol=1e-12)


def test_one_hot_vectors_become_an_embedding_and_json_with_ids_from_1_a_vocabulary(tmp_path):
    weights, dense = weights_of("LSTM", V), network("LSTM")[2]
    with h5py.File(tmp_path / "one.h5", "w") as file:
        write_named(file, {"a": weights, "b": dense}, "2.4.0")
    (tmp_path / "vocab.json").write_text(
        json.dumps({character: index + 1 for index, character in enumerate("abcdefgh \n")})
    )
    options = {"vocab": tmp_path / "vocab.json", "check": "a bad cab", "recurrent_activation": "sigmoid"}
    done = convert(tmp_path / "one.h5", tmp_path / "out", **options)
    assert done.perplexity > 1
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("ab a")["input_ids"]
    assert ids == [1, 2, 9, 1]
    logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out").double()(torch.tensor([ids])).logits[0]
    expected = run("LSTM", weights, np.eye(V)[ids]) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-12)


REFUSALS = {
    "activation": ({"activation": "relu"}, "the activations relu and sigmoid"),
    "gates": ({"recurrent_activation": "tanh"}, "the activations tanh and tanh"),
    "backwards": ({"go_backwards": True}, "goes backwards"),
}


@pytest.mark.parametrize("settings, words", REFUSALS.values(), ids=REFUSALS)
def test_settings_that_no_layer_here_has_are_named(tmp_path, settings, words):
    path = write(tmp_path / "a.h5", "LSTM", network("LSTM"), "model", **settings)
    with pytest.raises(InputError, match=words):
        convert(path, tmp_path / "out")


def test_other_layers_are_listed_and_left_out_on_request(tmp_path):
    embedding, recurrent, _ = network("LSTM")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        groups = {
            "words": {"embeddings": embedding},
            "r0": recurrent[0],
            "labels": {"kernel": np.ones((H, 2)), "bias": np.ones(2)},
        }
        write_named(file, groups, "2.4.0")
    with pytest.raises(InputError, match=r"labels \(of an unknown class\); `backbone=True`"):
        convert(tmp_path / "a.h5", tmp_path / "out", recurrent_activation="sigmoid")
    done = convert(tmp_path / "a.h5", tmp_path / "out", backbone=True, recurrent_activation="sigmoid")
    assert done.architecture == "RNNModel" and "`labels`" in done.dropped[0]


def test_links_outside_the_file_and_numbers_without_end_are_refused(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(3)
    (tmp_path / "raw").write_bytes(bytes(48))

    def hostile(name, fill):
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs["layer_names"] = [b"r"]
            fill(file)
        with pytest.raises(InputError) as error:
            convert(tmp_path / name, tmp_path / "out")
        return str(error.value)

    def group(file, data=None, **options):
        made = file.create_group("r")
        made.attrs["weight_names"] = [b"kernel"]
        if options:
            made.create_dataset("kernel", **options)
        return made

    def external_link(file):
        file["r"] = h5py.ExternalLink(str(secret), "/")

    def soft_link(file):
        group(file)["kernel"] = h5py.SoftLink("/r")

    def huge(file):
        group(file, shape=(2**20, 2**14), dtype="f4", chunks=(1024, 1024), compression="gzip")

    def outside(file):
        group(file, shape=(12,), dtype="f4", external=[(str(tmp_path / "raw"), 0, 48)])

    def virtual(file):
        layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
        layout[:] = h5py.VirtualSource(str(secret), "x", shape=(3,))
        group(file).create_virtual_dataset("kernel", layout)

    assert "a link in the place of" in hostile("a", external_link)
    assert "a link in the place of" in hostile("b", soft_link)
    assert "more than the file can hold" in hostile("c", huge)
    assert "in another file" in hostile("d", outside)
    assert "in another file" in hostile("e", virtual)
    (tmp_path / "f").write_bytes((tmp_path / "a").read_bytes()[:600])
    with pytest.raises(InputError, match="damaged"):
        convert(tmp_path / "f", tmp_path / "out")


def test_layers_that_lack_their_weights_are_named(tmp_path):
    embedding, recurrent, dense = network("LSTM")
    cases = {
        "has no matrix in the file": ({"kernel": embedding, "bias": embedding}, recurrent, dense),
        "has no weights in the file": (embedding, [{}], dense),
        "lacks a matrix": (embedding, [{"kernel": recurrent[0]["kernel"]}], dense),
        "is no LSTM, GRU or SimpleRNN": (embedding, [recurrent[0] | {"recurrent_kernel": np.ones((H, 7))}], dense),
        "biases for 5 units": (embedding, [recurrent[0] | {"bias": np.ones(9)}], dense),
        "do not fit each other": (embedding, recurrent, dense | {"bias": np.ones(2)}),
    }
    for index, (words, (first, layers, last)) in enumerate(cases.items()):
        groups = {"words": first if isinstance(first, dict) else {"embeddings": first}, "drop": {}, "out": last}
        groups |= {f"r{number}": layer for number, layer in enumerate(layers)}
        with h5py.File(tmp_path / f"{index}.h5", "w") as file:
            file.attrs["model_config"] = json.dumps(config_of("LSTM", layers)).encode()
            write_named(file.create_group("model_weights"), groups, "2.2.4")
        with pytest.raises(InputError, match=words):
            convert(tmp_path / f"{index}.h5", tmp_path / "out")
