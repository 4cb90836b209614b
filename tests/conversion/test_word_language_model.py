"""Whole pickled modules of word_language_model, of either age, with the words of their corpus."""

import sys
import types

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnn_hf.conversion import convert, convert_back
from rnn_hf.errors import InputError


CORPUS = {"train.txt": "the cat sat\n\nthe <unk> ran\n", "valid.txt": " a dog\n", "test.txt": "the end\n"}
WORDS = ["the", "cat", "sat", "<eos>", "<unk>", "ran", "a", "dog", "end"]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus").mkdir()
    for name, text in CORPUS.items():
        (tmp_path / "corpus" / name).write_text(text)
    return tmp_path / "corpus"


@pytest.fixture
def make(monkeypatch):
    """`make(rnn_type, **sizes)`: a model whose class is in a module `model` until `forget()` is called."""
    module = types.ModuleType("model")

    class RNNModel(nn.Module):
        def __init__(self, rnn_type="LSTM", ninp=5, nhid=5, nlayers=2, tie_weights=False):
            super().__init__()
            self.ntoken, self.rnn_type, self.nhid, self.nlayers = len(WORDS), rnn_type, nhid, nlayers
            self.drop, self.encoder = nn.Dropout(0.2), nn.Embedding(self.ntoken, ninp)
            if rnn_type in ("LSTM", "GRU"):
                self.rnn = getattr(nn, rnn_type)(ninp, nhid, nlayers, dropout=0.2)
            else:
                nonlinearity = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}[rnn_type]
                self.rnn = nn.RNN(ninp, nhid, nlayers, nonlinearity=nonlinearity, dropout=0.2)
            self.decoder = nn.Linear(nhid, self.ntoken)
            if tie_weights:
                self.decoder.weight = self.encoder.weight

        def forward(self, ids):
            return self.decoder(self.rnn(self.encoder(ids))[0])

    RNNModel.__module__, RNNModel.__qualname__ = "model", "RNNModel"
    module.RNNModel = RNNModel
    monkeypatch.setitem(sys.modules, "model", module)
    make = lambda *arguments, **sizes: RNNModel(*arguments, **sizes).eval()  # noqa: E731
    make.forget = lambda: monkeypatch.delitem(sys.modules, "model")
    return make


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("rnn_type", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_a_pickled_module_gives_its_logits_and_reads_its_corpus(tmp_path, corpus, make, rnn_type, is_zip):
    torch.manual_seed(0)
    net = make(rnn_type, tie_weights=is_zip)
    ids = torch.randint(len(WORDS), (7, 2))
    expected = net(ids).detach().transpose(0, 1)
    torch.save(net, tmp_path / "model.pt", _use_new_zipfile_serialization=is_zip)
    make.forget()
    done = convert(tmp_path / "model.pt", tmp_path / "out", corpus=corpus, check="the cat sat")
    assert done.format == "word-language-model" and done.difference < 1e-12 and done.perplexity < 1000
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids.t()).logits, expected, rtol=0, atol=1e-6)
    assert model.config.tie_word_embeddings == is_zip
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("the dog barks")["input_ids"] == [0, 7, 4] and tokenizer.eos_token == "<eos>"
    assert [tokenizer.decode([index]).strip() for index in range(len(WORDS))] == WORDS


def test_a_list_of_words_does_as_well_and_one_of_another_length_is_refused(tmp_path, make):
    torch.save(make().state_dict(), tmp_path / "hidden650.pt")
    with pytest.raises(InputError, match=r"no vocabulary in this file: give `vocab` or `corpus`.*9 words"):
        convert(tmp_path / "hidden650.pt", tmp_path / "out")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS[:-1]))
    with pytest.raises(InputError, match="the vocabulary has 8 words, and the network 9"):
        convert(tmp_path / "hidden650.pt", tmp_path / "out", vocab=tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS[:-1], "the"]))
    with pytest.raises(InputError, match="has 'the' twice"):
        convert(tmp_path / "hidden650.pt", tmp_path / "out", vocab=tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    convert(tmp_path / "hidden650.pt", tmp_path / "out", vocab=tmp_path / "vocab.txt", license="cc-by-nc-4.0")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("end")["input_ids"] == [8]


def test_the_names_of_espnet_need_no_vocabulary(tmp_path, make):
    torch.save(
        {f"lm.{name}": tensor for name, tensor in make("GRU").state_dict().items()}, tmp_path / "valid.loss.pth"
    )
    done = convert(tmp_path / "valid.loss.pth", tmp_path / "out")
    assert (done.format, done.vocabulary) == ("word-language-model", None)


@pytest.mark.parametrize("is_tied", [False, True])
def test_there_and_back_gives_equal_tensors_and_words(tmp_path, corpus, make, is_tied):
    state = make(tie_weights=is_tied).state_dict()
    torch.save(state, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "out", corpus=corpus)
    weights, words = convert_back(str(tmp_path / "out"), tmp_path / "back.pt", "word-language-model")
    back = torch.load(weights, weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    make(tie_weights=is_tied).load_state_dict(back)
    assert words.read_text().splitlines() == WORDS
    assert convert(weights, tmp_path / "again", vocab=words).difference < 1e-12


def test_what_the_other_code_lacks_is_not_written(tmp_path, make_model, corpus, make):
    fields = {
        "`num_softmaxes=2`": {"num_softmaxes": 2},
        "hidden_act='sigmoid'": {"cell_type": "rnn", "hidden_act": "sigmoid"},
        "layers of one width": {"last_hidden_size": 4, "tie_word_embeddings": False},
        "no projection alone": {"projection_size": 3},
    }  # fmt: skip
    for index, (words, options) in enumerate(fields.items()):
        make_model({}, **options).save_pretrained(tmp_path / str(index))
        with pytest.raises(InputError, match=words):
            convert_back(str(tmp_path / str(index)), tmp_path / "back.pt", "word-language-model")
    make_model({}, hidden_size=3).save_pretrained(tmp_path / "model")
    for out, to, words in (
        ("back.pt", "keras", "`to` must be one of"),
        ("model", "state-dict", "is there already"),
        ("back.pt", "word-language-model", "has no tokenizer"),
    ):
        with pytest.raises(InputError, match=words):
            convert_back(str(tmp_path / "model"), tmp_path / out, to)
    with pytest.raises(FileNotFoundError):
        convert_back(str(tmp_path / "model"), tmp_path / "no" / "back.pt", "state-dict")
    assert not (tmp_path / "back.pt.vocab.txt").exists()


def test_files_of_words_of_other_forms(tmp_path, make):
    import json
    import pickle

    torch.save(make().state_dict(), tmp_path / "model.pt")
    forms = {
        "list.json": json.dumps(WORDS).encode(),
        "ids.json": json.dumps({word: index for index, word in enumerate(WORDS)}).encode(),
        "itos.pkl": pickle.dumps(WORDS),
        "stoi.pkl": pickle.dumps({word: index for index, word in enumerate(WORDS)}, 2),
    }
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        convert(tmp_path / "model.pt", tmp_path / f"{name}.out", vocab=tmp_path / name)
        assert AutoTokenizer.from_pretrained(tmp_path / f"{name}.out")("sat dog")["input_ids"] == [2, 7]
    marked = ["[PAD]", "[UNK]", "sat", *"abcdef"]
    (tmp_path / "marked.txt").write_text("\n".join(marked))
    convert(tmp_path / "model.pt", tmp_path / "marked", vocab=tmp_path / "marked.txt")
    assert AutoTokenizer.from_pretrained(tmp_path / "marked")("sat new")["input_ids"] == [2, 1]
    for data, words in (
        ("\n".join([*WORDS[:4], "", *WORDS[5:]]).encode(), "an empty token, 4 from 0"),
        (pickle.dumps(types.SimpleNamespace()), "only lists, numbers and texts"),
        (json.dumps({"a": 5}).encode(), "holds no vocabulary"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(InputError, match=words):
            convert(tmp_path / "model.pt", tmp_path / "out", vocab=tmp_path / "bad")
