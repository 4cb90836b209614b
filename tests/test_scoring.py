"""Surprisal of each token: of the model, in any batch and window, with the state carried on request."""

import itertools
import json
import math

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer, encode_stream
from rnn_hf.evaluation import evaluate
from rnn_hf.loading import load_model
from rnn_hf.scoring import Totals, read_lines, score, text_rows, token_rows
from rnn_hf.tables import table_lines
from rnn_hf.training.loop import train
from rnn_hf.training.parsing import parse_arguments


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
    for text, scored in zip(texts, score(model, TOKENIZER, texts, "nats", batch_size, window), strict=True):
        ids = TOKENIZER(text)["input_ids"]
        assert scored.token_ids == ids and len(scored.tokens) == len(ids)
        assert scored.surprisals == pytest.approx(by_hand(model, ids), abs=1e-9)
        assert scored.total == pytest.approx(sum(scored.surprisals))


@given(texts=TEXTS, window=st.integers(1, 6))
def test_with_the_state_carried_the_texts_are_one_long_text(texts, window):
    model = model_of()
    carried = [value for scored in score(model, TOKENIZER, texts, "nats", window=window, carry_state=True)
               for value in scored.surprisals]  # fmt: skip
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


@given(texts=TEXTS)
def test_with_their_ends_and_the_state_carried_texts_score_what_evaluate_gives_their_lines(texts):
    model, totals = model_of(), Totals()
    scores = list(totals.count(score(model, TOKENIZER, texts, "nats", carry_state=True, with_end=True)))
    expected = evaluate(model, encode_stream(texts, TOKENIZER), 0)
    assert totals.tokens == expected.num_tokens and totals.surprisal / totals.tokens == pytest.approx(expected.loss)
    assert totals.perplexity == pytest.approx(expected.perplexity)
    assert all(scored.words[-1] == "<eos>" and scored.known[-1] for scored in scores)


@pytest.mark.parametrize(
    ("kind", "words", "known"),
    [
        ("whitespace", ["The", "cat's", "tail,", "<unk>"], [0, 0, 0, 1]),
        ("word", ["The", "cat's", "tail", ",", "<unk>"], [0, 0, 1, 0, 1]),
        ("char", [*"The  cat's tail, ", "<unk>"], [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1]),
    ],
)
def test_words_are_as_written_and_those_that_the_model_has_no_token_for_are_told(kind, words, known):
    tokenizer = build_tokenizer(["the cat tail"], kind)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    text, totals = "The  cat's tail, <unk>", Totals()
    (scored,) = totals.count(score(model, tokenizer, text))
    assert scored.words == words and scored.known == list(map(bool, known))
    assert [text[start:end] for start, end in scored.spans] == words
    assert scored.unknown == totals.unknown == known.count(0) and totals.tokens == len(words)


def test_of_a_lower_casing_tokenizer_the_word_is_written_as_in_the_text_too():
    tokenizer = build_tokenizer(["the cat"], "word", lowercase=True)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    (scored,) = score(model, tokenizer, "The İ CAT")
    assert (scored.words, scored.known) == (["The", "İ", "CAT"], [True, False, True])


def test_the_tokens_of_a_tokenizer_that_does_not_say_where_they_stand_are_its_words():
    tokenizer = ByT5Tokenizer(extra_ids=0)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    (scored,) = score(model, tokenizer, "ab", with_end=True)
    assert (scored.text, scored.words) == ("a b", ["a", "b", "</s>"])


def test_rows_come_as_texts_are_scored_and_add_up():
    model, endless = model_of(), itertools.repeat("a b h")
    lines = table_lines(token_rows(score(model, TOKENIZER, endless, batch_size=2)), "json")
    rows = [json.loads(next(lines)) for _ in range(6)]
    assert [row["text"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert [(row["token"], row["word"], row["unknown"]) for row in rows[1:3]] == [
        ("b", "b", False),
        ("<unk>", "h", True),
    ]
    (whole,) = text_rows(score(model, TOKENIZER, "a b h"))
    assert whole["surprisal_bits"] == pytest.approx(sum(row["surprisal_bits"] for row in rows[:3]))
    assert (whole["tokens"], whole["unknown"], whole["written"]) == (3, 1, "a b h")


def test_lines_are_read_as_they_stand_and_one_of_another_encoding_is_named(tmp_path, monkeypatch):
    file = tmp_path / "texts"
    file.write_bytes("\ufeffa b \r\n\nc\u2028d".encode())
    assert list(read_lines(str(file))) == ["a b ", "", "c\u2028d"]
    file.write_bytes(b"a\nb\ncaf\xe9\n")
    with pytest.raises(ValueError, match="texts, line 3, is not UTF-8"):
        list(read_lines(str(file)))
    with pytest.raises(FileNotFoundError, match="no file nowhere"):
        list(read_lines("nowhere"))


def test_texts_are_read_as_they_are_needed():
    def endless():
        while True:
            yield "a b"

    scores = score(model_of(), TOKENIZER, endless(), batch_size=2)
    assert len([next(scores) for _ in range(5)]) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "bans"}, "`unit` must be one of nats, bits"),
        ({"state": 1}, "carry_state=True"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"window": -1}, "`window` must be at least 1, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        score(model_of(), TOKENIZER, ["a"], **options)


def test_a_word_that_the_model_has_no_row_for_is_named_and_the_mode_stays(tmp_path):
    model = RNNForCausalLM(RNNConfig(vocab_size=len(TOKENIZER) - 1, hidden_size=6)).train()
    assert len(list(score(model, TOKENIZER, "a b"))) == 1 and model.training
    with pytest.raises(ValueError, match=f"token id {len(TOKENIZER) - 1} is outside the model's vocabulary"):
        list(score(model, TOKENIZER, ["a", "g"]))
    assert model.training


def test_a_text_that_a_model_holds_for_impossible_has_infinite_perplexity():
    model = model_of()
    model.lm_head.bias.data[TOKENIZER("a")["input_ids"]] = -1e4
    assert math.isinf(next(iter(score(model, TOKENIZER, "a"))).perplexity)


# Of other tokenizers, with what they put around a text.
TEMPLATES = {"nothing": "$A", "begin": "<s> $A", "begin and end": "<s> $A </s>"}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("begin", ["<s>", pytest.param("</s>", marks=pytest.mark.slow), None])
def test_the_same_token_stands_before_a_text_in_score_evaluate_and_generate(template, begin, tmp_path, run_script):
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 7}, "a"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    given = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=begin, eos_token="</s>", pad_token="</s>")
    given.save_pretrained(tmp_path / "given")
    (tmp_path / "train.txt").write_text("a b c a\n" * 20)
    flags = ["--tokenizer", tmp_path / "given", "--train_file", tmp_path / "train.txt", "--hidden_size", 6]
    flags += [
        "--max_steps",
        1,
        "--per_device_train_batch_size",
        2,
        "--output_dir",
        tmp_path / "run",
        "--use_cpu",
        True,
    ]
    train(parse_arguments(list(map(str, [*flags, "--disable_tqdm", True]))))
    model, tokenizer = load_model(str(tmp_path / "run"))
    (scored,) = score(model, tokenizer, "b a c", "nats")
    start = tokenizer.eos_token_id
    assert scored.token_ids == [3, 2, 7] == tokenizer("b a c")["input_ids"]
    assert scored.total == pytest.approx(3 * evaluate(model, np.array([3, 2, 7]), start).loss, rel=1e-5)
    logits = model(torch.tensor([[start]])).logits[0, 0]
    assert scored.surprisals[0] == pytest.approx(-logits.log_softmax(-1)[3].item(), rel=1e-5)
    without_prompt = model.generate(max_new_tokens=1, do_sample=False)
    assert without_prompt.tolist() == [[start, logits.argmax().item()]]
    for prompt in ([], ["--prompt", "b a"]):
        command = ["generate.py", tmp_path / "run", *prompt, "--temperature", 0, "--max_new_tokens", 2]
        status, printed, _ = run_script(*command, "--past_end")
        assert status == 0 and printed.startswith("b a" if prompt else "")
