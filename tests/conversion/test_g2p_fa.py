"""The layout of g2p_fa with random weights: its letters, its padding, which it reads, and letters unknown to it."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from rnn_hf.conversion import convert
from rnn_hf.conversion.g2p_fa import LETTERS, PHONEMES
from rnn_hf.translation import translate


PAD, START, END = 0, 1, 2


@pytest.fixture
def net(tmp_path):
    """The two halves, whose weights are in a file."""
    torch.manual_seed(0)
    sides = {"encoder": len(LETTERS), "decoder": len(PHONEMES)}
    halves = {
        side: nn.ModuleDict({"embedding": nn.Embedding(rows, 4), "rnn": nn.LSTM(4, 6, 2)})
        for side, rows in sides.items()
    }
    halves["decoder"]["fc_out"] = nn.Linear(6, len(PHONEMES))
    net = nn.ModuleDict(halves).requires_grad_(False)
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -1.5, 1.5)
    torch.save(net.state_dict(), tmp_path / "weights")
    return net


def logits_of(net, word, phonemes):
    """Of ids of phonemes `(1, T)`: 30 ids are read of each word, and an unknown letter is the end."""
    ids = [START, *(LETTERS.index(letter) if letter in LETTERS else END for letter in word), END]
    ids += [PAD] * (30 - len(ids))
    _, state = net["encoder"]["rnn"](net["encoder"]["embedding"](torch.tensor(ids)[:, None]))
    outputs, _ = net["decoder"]["rnn"](net["decoder"]["embedding"](phonemes.t()), state)
    return net["decoder"]["fc_out"](outputs).transpose(0, 1)


@pytest.mark.parametrize("word", ["سلام", "گ", "تلفن k", "ابتکار" * 4])
def test_letters_padding_and_what_is_unknown_are_read_as_there(tmp_path, net, word):
    done = convert(tmp_path / "weights", tmp_path / "out")
    assert done.format == "g2p-fa" and done.difference < 1e-12 and any("30 tokens" in line for line in done.notes)
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    phonemes = torch.randint(len(PHONEMES), (1, 29), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(**tokenizer(word, return_tensors="pt"), decoder_input_ids=phonemes).logits
    torch.testing.assert_close(logits, logits_of(net, word, phonemes), rtol=0, atol=1e-5)
    ids = [START]
    while len(ids) < 30 and ids[-1] != END:
        ids.append(int(logits_of(net, word, torch.tensor([ids]))[0, -1].argmax()))
    expected = "".join(PHONEMES[index] for index in ids if index > END)
    assert translate(model, tokenizer, [word], num_beams=1) == [expected]


def test_another_name_of_the_format_takes_ids_as_they_are(tmp_path, net):
    assert convert(tmp_path / "weights", tmp_path / "out", format="seq2seq").vocabulary is None
