"""`rnn-hf convert`: what it prints, and that its flags are the arguments of the library."""

from inspect import signature

import pytest
import torch
from torch import nn

from rnn_hf.commands.convert import OPTIONS
from rnn_hf.conversion import convert


@pytest.fixture
def weights(tmp_path):
    net = nn.ModuleDict({"encoder": nn.Embedding(4, 3), "rnn": nn.LSTM(3, 3), "decoder": nn.Linear(3, 4)})
    torch.save(net.state_dict(), tmp_path / "model.pt")
    (tmp_path / "words.txt").write_text("<eos>\n<unk>\nthe\ncat\n")
    return tmp_path / "model.pt"


def test_its_flags_are_the_arguments_of_the_library():
    assert {*OPTIONS, "file", "out"} == set(signature(convert).parameters)


def test_a_checkpoint_there_and_back(tmp_path, weights, run_script):
    out = tmp_path / "out"
    words = ("--vocab", tmp_path / "words.txt")
    status, printed, errors = run_script("convert.py", weights, out, *words, "--check", "the cat")
    assert status == 0, errors
    assert "is a model of pytorch/examples word_language_model: RNNForCausalLM, 124 parameters" in printed
    assert "largest difference" in printed and "by chance 4" in printed and f"the repository is in {out}" in printed
    assert "no --license" in errors
    status, printed, _ = run_script("convert.py", out, tmp_path / "back.pt", "--to", "word-language-model")
    assert status == 0 and printed.split() == [str(tmp_path / "back.pt"), str(tmp_path / "back.pt.vocab.txt")]
    before, after = (torch.load(path, weights_only=True) for path in (weights, tmp_path / "back.pt"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_encoder_decoder_there_and_back(tmp_path, run_script):
    torch.manual_seed(0)
    halves = {
        side: nn.ModuleDict({"embedding": nn.Embedding(rows, 3), "rnn": nn.GRU(3, 5)})
        for side, rows in (("encoder", 6), ("decoder", 5))
    }
    halves["decoder"]["fc_out"] = nn.Linear(5, 5)
    state = nn.ModuleDict(halves).state_dict()
    torch.save(state, tmp_path / "weights")
    (tmp_path / "letters.txt").write_text("<pad>\n<s>\n</s>\na\nb\nc\n")
    (tmp_path / "sounds.txt").write_text("<pad>\n<s>\n</s>\nA\nB\n")
    lists = ("--vocab", tmp_path / "letters.txt", "--target_vocab", tmp_path / "sounds.txt")
    out = tmp_path / "out"
    options = (*lists, "--source_length", 6, "--check", "cab", "--license", "mit")
    status, printed, errors = run_script("convert.py", tmp_path / "weights", out, *options)
    assert status == 0, errors
    assert "a state dict of an encoder and a decoder: RNNForConditionalGeneration" in printed and "cab -> " in printed
    written = printed.partition("cab -> ")[2].splitlines()[0]
    status, printed, _ = run_script("translate.py", out, "cab", "--num_beams", 1)
    assert status == 0 and printed.rstrip("\n") == written
    status, printed, _ = run_script("convert.py", out, tmp_path / "back.pt", "--to", "state-dict")
    after = torch.load(tmp_path / "back.pt", weights_only=True)
    assert status == 0 and after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


def test_mistakes_are_lines_with_flags(tmp_path, weights, run_script):
    for options, line in (
        ((weights, tmp_path / "out"), "give --vocab or --corpus"),
        ((weights, tmp_path / "out", "--format", "no"), "--format must be one of"),
        ((weights, tmp_path / "out", "--to", "state-dict", "--license", "mit"), "--license does not go with --to"),
        ((weights, tmp_path / "out", "--vocab", tmp_path / "no.txt"), "no file"),
        ((tmp_path / "no.pt", tmp_path / "out"), "no file"),
        ((weights, tmp_path / "out", "--vocab", "a", "--corpus", "b"), "not allowed with"),
        ((weights, tmp_path / "out", "--source_length", 3), "--source_length is for an encoder and a decoder"),
    ):
        status, _, errors = run_script("convert.py", *options)
        assert status == 2 and line in errors and errors.count("\n") == 1, errors
