"""awd-lstm-lm, the mixture on it, and fastai: the whole matrix is taken though a dropped one lies next to it."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rnn_hf.conversion import convert
from rnn_hf.errors import InputError


WORDS = ["<eos>", "<unk>", *"abcdefghi"]


@pytest.fixture
def classes(monkeypatch):
    """Classes of a project, which are gone once `forget` is called."""
    modules = {name: types.ModuleType(name) for name in ("model", "weight_drop", "splitcross", "data")}

    def add(module, name, base=nn.Module):
        made = type(name, (base,), {"__module__": module})
        setattr(modules[module], name, made)
        return made

    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = types.SimpleNamespace(
        RNNModel=add("model", "RNNModel"), WeightDrop=add("weight_drop", "WeightDrop"),
        SplitCrossEntropyLoss=add("splitcross", "SplitCrossEntropyLoss"), Corpus=add("data", "Corpus", object),
        Dictionary=add("data", "Dictionary", object),
    )  # fmt: skip
    found.forget = lambda: [monkeypatch.delitem(sys.modules, name) for name in modules]
    return found


def layers_of(cell, sizes):
    torch.manual_seed(0)
    return [cell(*pair) for pair in zip(sizes, sizes[1:], strict=False)]


def logits_of(embedding, layers, head, ids):
    outputs = embedding(ids.t())
    for layer in layers:
        outputs = layer(outputs)[0]
    return head(outputs).detach().transpose(0, 1)


def wrapped(classes, layer):
    """A layer whose recurrent matrix was renamed and, in training, masked."""
    wrapper = classes.WeightDrop()
    wrapper.module = type(layer)(layer.input_size, layer.hidden_size)
    wrapper.module.load_state_dict(layer.state_dict())
    whole = wrapper.module._parameters.pop("weight_hh_l0")
    wrapper.module.register_parameter("weight_hh_l0_raw", whole)
    wrapper.module.register_parameter("weight_hh_l0", nn.Parameter(whole.detach() * (torch.rand_like(whole) > 0.5)))
    wrapper.dropout = 0.5
    return wrapper


def model_of(classes, cell, is_dropped=True, is_tied=True):
    layers = layers_of(cell, (3, 5, 5, 3) if is_tied else (3, 5, 5, 4))
    model = classes.RNNModel()
    model.encoder, model.decoder = nn.Embedding(11, 3), nn.Linear(3 if is_tied else 4, 11)
    if is_tied:
        model.decoder.weight = model.encoder.weight
    model.rnns = nn.ModuleList([wrapped(classes, layer) if is_dropped else layer for layer in layers])
    return model, layers


def criterion_of(classes, splits):
    criterion = classes.SplitCrossEntropyLoss()
    criterion.splits = [0, *splits, 100_000_000]
    criterion.tail_vectors = nn.Parameter(torch.zeros(len(splits), 3))
    return criterion


def save(tmp_path, content, is_zip=False):
    torch.save(content, tmp_path / "WT2.pt", _use_new_zipfile_serialization=is_zip)
    return tmp_path / "WT2.pt"


def words(tmp_path):
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return tmp_path / "words.txt"


pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("is_dropped", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_saved_list_gives_the_logits_of_the_whole_matrices(tmp_path, classes, kind, is_dropped, is_tied):
    model, layers = model_of(classes, kind, is_dropped, is_tied)
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0, weight_decay=1e-6)
    path = save(tmp_path, [model, criterion_of(classes, []), optimizer], is_zip=is_tied)
    ids = torch.randint(11, (2, 7))
    expected = logits_of(model.encoder, layers, model.decoder, ids)
    corpus = classes.Corpus()
    corpus.dictionary = classes.Dictionary()
    corpus.dictionary.idx2word = WORDS
    torch.save(corpus, tmp_path / "corpus.data", _use_new_zipfile_serialization=not is_tied)
    classes.forget()
    done = convert(path, tmp_path / "out", vocab=tmp_path / "corpus.data", check="a b c")
    assert done.format == "awd-lstm" and done.difference < 1e-12
    assert ("the matrix with the last mask of dropout" in "".join(done.dropped)) == is_dropped
    assert "the state of its optimizer" in done.dropped
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(got(ids).logits.detach(), expected, rtol=0, atol=1e-6)
    assert got.config.tie_word_embeddings == is_tied
    assert got.config.layer_sizes == [(3, 5), (5, 5), (5, 3 if is_tied else 4)]
    assert torch.equal(got.model.layers[0].rnn.weight_hh_l0, layers[0].weight_hh_l0)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a z")["input_ids"] == [2, 1]


def test_a_tree_of_softmaxes_is_refused_and_its_backbone_is_not(tmp_path, classes):
    model, layers = model_of(classes, nn.LSTM)
    path = save(tmp_path, [model, criterion_of(classes, [2800, 20000, 76000]), None])
    classes.forget()
    with pytest.raises(InputError, match=r"hierarchical softmax \(splits \[2800, 20000, 76000\]\).*`backbone=True`"):
        convert(path, tmp_path / "out", vocab=words(tmp_path))
    done = convert(path, tmp_path / "out", vocab=words(tmp_path), backbone=True)
    assert done.architecture == "RNNModel" and "`decoder.bias`" in done.dropped
    ids = torch.randint(11, (2, 7))
    got = AutoModel.from_pretrained(tmp_path / "out")(ids).last_hidden_state.detach()
    expected = logits_of(model.encoder, layers, nn.Identity(), ids)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_quasi_recurrent_layers_are_refused(tmp_path, classes):
    model, _ = model_of(classes, nn.LSTM)
    model.rnns[0] = nn.ModuleDict({"linear": nn.Linear(3, 9)})
    with pytest.raises(InputError, match="QRNN"):
        convert(save(tmp_path, [model]), tmp_path / "out", vocab=words(tmp_path))


def test_a_mixture_of_softmaxes_gives_its_log_probabilities(tmp_path, classes):
    layers, experts = layers_of(nn.LSTM, (3, 5, 4)), 3
    model = classes.RNNModel()
    model.encoder, model.decoder = nn.Embedding(11, 3), nn.Linear(3, 11)
    model.decoder.weight = model.encoder.weight
    model.rnns = nn.ModuleList([wrapped(classes, layer) for layer in layers])
    model.latent, model.prior = nn.Sequential(nn.Linear(4, experts * 3), nn.Tanh()), nn.Linear(4, experts, bias=False)
    path = save(tmp_path, model)
    ids = torch.randint(11, (2, 7))
    hidden = logits_of(model.encoder, layers, nn.Identity(), ids)
    with torch.no_grad():
        prior = model.prior(hidden).softmax(-1)
        each = model.decoder(model.latent(hidden).view(2, 7, experts, 3)).softmax(-1)
        expected = (each * prior[..., None]).sum(2).log()
    classes.forget()
    done = convert(path, tmp_path / "out", vocab=words(tmp_path))
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert done.difference < 1e-12 and got.config.num_softmaxes == experts
    torch.testing.assert_close(got(ids).logits.detach(), expected, rtol=0, atol=1e-6)


def fastai_state(version, layers, embedding, bias, is_whole=True):
    """The names of fastai 0.7, 1 or 2 for one model."""
    copy = "encoder_with_dropout.embed.weight" if version == 0 else "encoder_dp.emb.weight"
    state = {"encoder.weight": embedding.weight, copy: embedding.weight}
    for index, layer in enumerate(layers):
        for name, tensor in layer.state_dict().items():
            if name != "weight_hh_l0":
                state[f"rnns.{index}.module.{name}"] = tensor
        wrapper = f"rnns.{index}.module" if version == 0 else f"rnns.{index}"
        state[f"{wrapper}.weight_hh_l0_raw"] = layer.weight_hh_l0
        if version == 1:
            state[f"rnns.{index}.module.weight_hh_l0"] = layer.weight_hh_l0 * 0
    state = {f"0.{name}": tensor for name, tensor in state.items()} if is_whole else state
    if is_whole:
        state["1.decoder.weight"] = embedding.weight
        state |= {} if version == 0 else {"1.decoder.bias": bias}
    return {name: tensor.detach() for name, tensor in state.items()}


ITOS = ["xxunk", "xxpad", "xxbos", *"abcdefg", "xxfake"]


def test_three_ages_of_fastai_give_one_model(tmp_path):
    layers, embedding = layers_of(nn.LSTM, (3, 5, 5, 3)), nn.Embedding(11, 3)
    (tmp_path / "itos.pkl").write_bytes(pickle.dumps(ITOS))
    ids = torch.randint(11, (2, 7))
    bias = torch.zeros(11)
    head = nn.Linear(3, 11)
    head.weight, head.bias.data = embedding.weight, bias
    for version in range(3):
        state = fastai_state(version, layers, embedding, bias)
        content = {"model": state, "opt": {"lr": 0.1}} if version == 2 else state
        torch.save(content, tmp_path / "fwd_wt103.h5", _use_new_zipfile_serialization=version == 2)
        out = tmp_path / str(version)
        done = convert(tmp_path / "fwd_wt103.h5", out, vocab=tmp_path / "itos.pkl", reads_backward=version == 1)
        assert done.format == "fastai" and done.difference < 1e-12
        model = AutoModelForCausalLM.from_pretrained(out).eval()
        expected = logits_of(embedding, layers, head, ids)
        torch.testing.assert_close(model(ids).logits.detach(), expected, rtol=0, atol=1e-6)
        assert model.config.reads_backward == (version == 1)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert tokenizer("xxbos a zebra")["input_ids"] == [2, 3, 0] and tokenizer.bos_token == "xxbos"


def test_an_encoder_alone_becomes_a_model_without_a_head(tmp_path):
    layers, embedding = layers_of(nn.LSTM, (3, 5, 3)), nn.Embedding(11, 3)
    torch.save(fastai_state(1, layers, embedding, None, is_whole=False), tmp_path / "enc.pth")
    done = convert(tmp_path / "enc.pth", tmp_path / "out")
    assert (done.format, done.architecture) == ("fastai", "RNNModel")
    ids = torch.randint(11, (2, 7))
    got = AutoModel.from_pretrained(tmp_path / "out")(ids).last_hidden_state.detach()
    torch.testing.assert_close(got, logits_of(embedding, layers, nn.Identity(), ids), rtol=0, atol=1e-6)


def test_what_fastai_has_besides_is_refused(tmp_path):
    layers, embedding = layers_of(nn.LSTM, (3, 5, 3)), nn.Embedding(11, 3)
    state = fastai_state(1, layers, embedding, torch.zeros(11))
    for extra, sentence in (
        ({"0.rnns.0.linear.weight": torch.ones(9, 3)}, "QRNN"),
        ({"1.layers.0.weight": torch.ones(3)}, "no part of a language model"),
        ({"0.encoder_dp.emb.weight": torch.ones(11, 3)}, "not equal to encoder.weight"),
    ):
        torch.save(state | extra, tmp_path / "a.pth")
        with pytest.raises(InputError, match=sentence):
            convert(tmp_path / "a.pth", tmp_path / "out", vocab=words(tmp_path))
    torch.save(state, tmp_path / "a.pth")
    (tmp_path / "itos.pkl").write_bytes(pickle.dumps(np.float64(1.0)))
    with pytest.raises(InputError, match="only lists, numbers and texts"):
        convert(tmp_path / "a.pth", tmp_path / "out", vocab=tmp_path / "itos.pkl")
