"""flair's character models, forward and backward, whose characters are in the file."""

import sys
import types

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnn_hf.conversion import convert
from rnn_hf.errors import InputError


def flair_file(path, state, is_forward, is_zip, monkeypatch):
    """What flair saves: a dictionary with an object of its own class in it, by protocol 4."""
    module = types.ModuleType("flair.data")
    module.Dictionary = type("Dictionary", (), {"__module__": "flair.data"})
    monkeypatch.setitem(sys.modules, "flair", types.ModuleType("flair"))
    monkeypatch.setitem(sys.modules, "flair.data", module)
    characters = ["<unk>", "\n", " ", "\u00e9", *"abcdefg"]
    dictionary = module.Dictionary()
    dictionary.item2idx = {character.encode(): index for index, character in enumerate(characters)}
    dictionary.idx2item = [character.encode() for character in characters]
    dictionary.multi_label = False
    content = {
        "state_dict": state, "dictionary": dictionary, "is_forward_lm": is_forward, "hidden_size": 5, "nlayers": 1,
        "embedding_size": 3, "nout": None, "dropout": 0.1, "document_delimiter": "\n", "recurrent_type": "LSTM",
    }  # fmt: skip
    torch.save(content, path, pickle_protocol=4, _use_new_zipfile_serialization=is_zip)
    monkeypatch.delitem(sys.modules, "flair.data")
    monkeypatch.delitem(sys.modules, "flair")


@pytest.mark.parametrize("nout", [None, 2])
@pytest.mark.parametrize("is_forward", [True, False])
def test_a_character_model_of_flair_reads_its_characters_in_its_direction(tmp_path, monkeypatch, is_forward, nout):
    torch.manual_seed(0)
    net = nn.ModuleDict({"encoder": nn.Embedding(11, 3), "rnn": nn.LSTM(3, 5, 2), "decoder": nn.Linear(nout or 5, 11)})
    if nout:
        net["proj"] = nn.Linear(5, nout)
    flair_file(tmp_path / "lm.pt", net.state_dict(), is_forward, nout is None, monkeypatch)
    done = convert(tmp_path / "lm.pt", tmp_path / "out", check="bad \u00e9gg")
    assert done.format == "flair" and done.difference < 1e-12 and done.perplexity < 100
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("a \u00e9z")["input_ids"]
    assert ids == [4, 2, 3, 0] and tokenizer.decode(ids) == "a \u00e9<unk>" and tokenizer.eos_token == "\n"
    assert model.config.reads_backward != is_forward and model.config.output_projection_size == nout
    ids = torch.randint(11, (2, 7))
    with torch.no_grad():
        hidden = net["rnn"](net["encoder"](ids.t()))[0]
        expected = net["decoder"](net["proj"](hidden) if nout else hidden).transpose(0, 1)
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-6)


def test_a_dictionary_without_characters_is_refused(tmp_path):
    content = {"state_dict": nn.LSTM(3, 5).state_dict(), "dictionary": {"a": 1}, "is_forward_lm": True}
    content["state_dict"]["encoder.weight"] = torch.ones(11, 3)
    torch.save(content, tmp_path / "lm.pt")
    with pytest.raises(InputError, match="no characters with ids"):
        convert(tmp_path / "lm.pt", tmp_path / "out")
    del content["state_dict"]["encoder.weight"]
    torch.save(content, tmp_path / "lm.pt")
    with pytest.raises(InputError, match="it lacks 'encoder.weight'"):
        convert(tmp_path / "lm.pt", tmp_path / "out")
