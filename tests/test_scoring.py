"""Surprisal of each token: of the model, in any batch and window, with the state carried on request."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.scoring import score


WORDS = ["a", "b", "c", "d", "e", "f", "g"]
TOKENIZER = build_tokenizer([" ".join(WORDS)])
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), min_size=1, max_size=7)


def model_of(cell_type="lstm"):
    torch.manual_seed(0)
    config = RNNConfig(vocab_size=len(TOKENIZER), hidden_size=6, cell_type=cell_type, initializer_range=1.0)
    return RNNForCausalLM(config).double().eval()


def by_hand(model, ids):
    """In nats, from one forward pass over the whole text alone."""
    with torch.no_grad():
        logits = model(torch.tensor([[0, *ids]])).logits[0, :-1]
    return (-logits.log_softmax(-1)).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist() if ids else []


@given(texts=TEXTS, batch_size=st.integers(1, 4), window=st.integers(1, 6), cell_type=st.sampled_from(["lstm", "gru"]))
def test_each_text_scores_what_it_scores_alone_in_any_batch_and_window(texts, batch_size, window, cell_type):
    model = model_of(cell_type)
    for text, found in zip(texts, score(model, TOKENIZER, texts, "nats", batch_size, window), strict=True):
        ids = TOKENIZER(text)["input_ids"]
        assert found.token_ids == ids and len(found.tokens) == len(ids)
        assert found.surprisals == pytest.approx(by_hand(model, ids), abs=1e-9)
        assert found.total == pytest.approx(sum(found.surprisals))


@given(texts=TEXTS, window=st.integers(1, 6))
def test_with_the_state_carried_the_texts_are_one_long_text(texts, window):
    model = model_of()
    carried = [value for found in score(model, TOKENIZER, texts, "nats", window=window, carry_state=True)
               for value in found.surprisals]  # fmt: skip
    assert carried == pytest.approx(by_hand(model, TOKENIZER(" ".join(texts))["input_ids"]), abs=1e-9)


def test_bits_are_nats_over_the_logarithm_of_two_and_perplexity_has_no_unit():
    model = model_of()
    (nats,), (bits,) = (list(score(model, TOKENIZER, "a b c", unit)) for unit in ("nats", "bits"))
    assert bits.surprisals == pytest.approx([value / math.log(2) for value in nats.surprisals])
    assert bits.perplexity == pytest.approx(nats.perplexity) == pytest.approx(math.exp(nats.total / 3))
    assert math.isnan(next(iter(score(model, TOKENIZER, ""))).perplexity)


def test_a_state_is_gone_on_from_and_updated():
    model, state = model_of(), RNNCache(RNNConfig())
    first = list(score(model, TOKENIZER, ["a b"], carry_state=True, state=state))
    assert state.get_seq_length() == 2
    (whole,) = score(model, TOKENIZER, "a b")
    assert first[0].surprisals == pytest.approx(whole.surprisals)


def test_texts_are_read_as_they_are_needed():
    def endless():
        while True:
            yield "a b"

    found = score(model_of(), TOKENIZER, endless(), batch_size=2)
    assert len([next(found) for _ in range(5)]) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [({"unit": "bans"}, "`unit` must be one of nats, bits"), ({"state": 1}, "carry_state=True")],
)
def test_what_makes_no_sense_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        score(model_of(), TOKENIZER, ["a"], **options)


def test_the_script_prints_a_line_a_token(tmp_path):
    model_of().float().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    (tmp_path / "texts").write_text("a b\nc\n")
    command = [sys.executable, Path(__file__).parents[1] / "scripts" / "score.py", tmp_path / "model"]
    run = subprocess.run([*command, "--file", tmp_path / "texts"], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert rows[0] == ["text", "token", "surprisal_bits"]
    assert [row[:2] for row in rows[1:]] == [["1", "a"], ["1", "b"], ["2", "c"]]
    both = subprocess.run([*command, "a", "--file", "x"], capture_output=True, text=True, check=False)
    assert both.returncode == 2 and "give either texts or --file" in both.stderr
