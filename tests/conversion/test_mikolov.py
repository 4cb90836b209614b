"""The text format of Mikolov's RNNLM, against its equations in NumPy."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from rnn_hf import RNNCache
from rnn_hf.conversion import convert
from rnn_hf.errors import InputError


WORDS, H = ["</s>", "the", "cat", "sat", "<unk>"], 3


def write(path, matrix, form=0, cut=None):
    numbers = [f"{number:.4f}" for number in matrix.flatten()]
    vocabulary = [f"{index:6d}\t{9 - index:10d}\t{word}\t{index % 2}" for index, word in enumerate(WORDS)]
    lines = [
        "version: 10", f"file format: {form}", "", "training data file: train", "input layer size: 8",
        f"hidden layer size: {H}", "compression layer size: 0", "output layer size: 7", "direct connections: 0",
        f"vocabulary size: {len(WORDS)}", "class size: 2", "", "", "Vocabulary:", *vocabulary, "",
        "Hidden layer activation:", *["1.0000"] * H, "", "Weights 0->1:", *numbers[:cut], "", "", "Weights 1->2:",
        *["0.1000"] * (7 * H), "", "", "Direct connections:",
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    return path


def test_its_states_are_those_of_the_equations_from_a_state_of_ones(tmp_path):
    matrix = np.random.default_rng(0).uniform(-2, 2, (H, len(WORDS) + H)).round(4)
    path = write(tmp_path / "model", matrix)
    with pytest.raises(InputError, match=r"P\(class\) P\(word \| class\) over 2 classes.*`backbone=True`"):
        convert(path, tmp_path / "out")
    done = convert(path, tmp_path / "out", backbone=True)
    assert done.format == "rnnlm" and done.difference < 1e-12
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "out"), AutoModel.from_pretrained(tmp_path / "out")
    ids = tokenizer("the cat ran")["input_ids"]
    assert ids == [1, 2, 4] and tokenizer.eos_token == "</s>" and model.config.hidden_act == "sigmoid"
    cache = RNNCache(model.config)
    cache.layers[0].update(torch.ones(1, H), None, 0)
    states = model(torch.tensor([ids]), cache=cache).last_hidden_state[0].detach().numpy()
    hidden = np.ones(H)
    for word, state in zip(ids, states, strict=True):
        hidden = 1 / (1 + np.exp(-(matrix[:, word] + matrix[:, len(WORDS) :] @ hidden)))
        np.testing.assert_allclose(state, hidden, rtol=0, atol=1e-6)


def test_files_that_are_not_whole_or_binary_are_named(tmp_path):
    matrix = np.ones((H, len(WORDS) + H))
    for form, cut, words in ((1, None, "binary"), (0, 5, "not whole"), (0, 0, "not whole")):
        with pytest.raises(InputError, match=words):
            convert(write(tmp_path / "model", matrix, form, cut), tmp_path / "out", backbone=True)
    whole = write(tmp_path / "model", matrix).read_text()
    for text in (whole[:40], whole.replace(f"hidden layer size: {H}", "hidden layer size: 99999999")):
        (tmp_path / "model").write_text(text)
        with pytest.raises(InputError):
            convert(tmp_path / "model", tmp_path / "out", backbone=True)
