"""`rnn-hf score`: what it prints of texts and pairs, the page it writes, and what it warns of."""

import json
import re

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(["the key keys is are ."])
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=6)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_words_that_the_model_does_not_know_are_shown_and_warned_of(model, run_script):
    status, printed, errors = run_script("score.py", model, "The keys are.", "", "the key", "--with_end")
    rows = [line.split("\t") for line in printed.splitlines()]
    assert rows[0] == ["text", "token", "surprisal_bits", "word", "unknown"]
    assert [[row[index] for index in (0, 1, 3, 4)] for row in rows[1:6]] == [
        ["1", "<unk>", "The", "yes"], ["1", "keys", "keys", "no"], ["1", "<unk>", "are.", "yes"],
        ["1", "<eos>", "<eos>", "no"], ["2", "<eos>", "<eos>", "no"],
    ]  # fmt: skip
    total = sum(float(row[2]) for row in rows[1:])
    sums = re.search("texts: 3, tokens: 8, bits: ([0-9.]+), ", errors)
    assert status == 0 and float(sums[1]) == pytest.approx(total, abs=0.006)
    assert "unknown to the model: 2 of 8 tokens, such as The are.; the model knows some of them in lower" in errors
    assert "with spaces around punctuation" in errors
    _, _, errors = run_script("score.py", model, "the key", "")
    assert "without a token: 1 of 2 texts" in errors and "unknown" not in errors


def test_totals_are_the_sums_of_the_tokens_in_every_format(model, run_script):
    _, printed, _ = run_script("score.py", model, "the keys", "zebra", "--format", "json", "--unit", "nats")
    tokens = list(map(json.loads, printed.splitlines()))
    _, printed, _ = run_script("score.py", model, "the keys", "zebra", "--format", "csv", "--unit", "nats", "--totals")
    names, *texts = [line.split(",") for line in printed.splitlines()]
    assert names == ["text", "surprisal_nats", "perplexity", "tokens", "unknown", "written"]
    for number, row in enumerate(texts, 1):
        expected = sum(token["surprisal_nats"] for token in tokens if token["text"] == number)
        assert float(row[1]) == pytest.approx(expected, abs=1e-4)
    assert [row[3:] for row in texts] == [["2", "0", "the keys"], ["1", "1", "zebra"]]


def test_pairs_are_compared_and_counted(model, tmp_path, run_script):
    (tmp_path / "pairs.tsv").write_text("one\tthe key is\tthe key are\ntwo\tthe author laughs\tthe author laugh\n")
    page = tmp_path / "page.html"
    command = ["score.py", model, "--pairs", tmp_path / "pairs.tsv", "--format", "json", "--html", page]
    status, printed, errors = run_script(*command)
    one, two = map(json.loads, printed.splitlines())
    assert status == 0 and one["difference"] == pytest.approx(one["bad_bits"] - one["good_bits"])
    assert two["likelier"] == "not comparable"
    is_right = one["likelier"] == "good"
    assert f"accuracy {is_right:.3f}: the good text is the likelier one in {is_right:d} of 1 pairs" in errors
    assert "not comparable and not counted: 1 of 2 pairs" in errors
    assert page.read_text().count('<p class="text">') == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give either texts or --file FILE or --pairs FILE"),
        (("a", "--pairs", "x"), "give either texts"),
        (("--file", "nowhere"), "no file nowhere"),
        (("--pairs", "nowhere"), "no file nowhere"),
        (("a", "--batch_size", "0"), "--batch_size must be at least 1, got 0"),
        (("a", "--html", "nowhere/a.html"), "--html: no directory nowhere"),
        (("a", "--html", "."), "--html must name a file, and . is a directory"),
        (("caf\udce9",), "argument TEXT: must be UTF-8 text, got"),
        (("--pairs", __file__, "--totals"), "--totals does not go with --pairs"),
        (("--pairs", __file__, "--carry_state"), "--carry_state does not go with --pairs"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_loaded(flags, message, run_script):
    status, printed, errors = run_script("score.py", "no-model", *flags)
    assert status == 2 and printed == "" and errors.startswith(f"error: {message}") and errors.count("\n") == 1


def test_an_empty_file_and_one_of_another_encoding_are_named(model, tmp_path, run_script):
    (tmp_path / "texts").write_bytes(b"")
    assert run_script("score.py", model, "--file", tmp_path / "texts")[::2] == (
        2, f"error: {tmp_path / 'texts'} is empty: there is no text to score\n",
    )  # fmt: skip
    (tmp_path / "texts").write_bytes(b"the key\ncaf\xe9\n")
    status, printed, errors = run_script("score.py", model, "--file", tmp_path / "texts", "--batch_size", 1)
    assert status == 2 and printed.count("\n") == 3 and "texts, line 2, is not UTF-8" in errors


def test_the_script_reads_a_text_as_it_is_and_writes_a_line_a_token(tmp_path, run_script):
    tokenizer = build_tokenizer(["a\tb c\\"], "char")
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=6)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "texts"
    file.write_bytes(b"\xef\xbb\xbfa\tb \r\nc\\")
    status, printed, _ = run_script("score.py", tmp_path / "model", "--file", file)
    rows = [line.split("\t") for line in printed.splitlines()]
    expected = [["1", "a"], ["1", "\\t"], ["1", "b"], ["1", " "], ["2", "c"], ["2", "\\\\"]]
    assert [row[:2] for row in rows[1:]] == expected and {len(row) for row in rows} == {5} and status == 0
