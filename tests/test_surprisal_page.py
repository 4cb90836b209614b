"""The page of surprisals: the text as it was, a colour and a number a word, nothing that a browser fetches or runs."""

import math
import re
from html.parser import HTMLParser

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import KINDS, build_tokenizer
from rnn_hf.scoring import TextScore, score
from rnn_hf.surprisal_page import render_page


HOSTILE = '<script>alert("1")</script> & \'"><img src=x onerror=y>  the </p>cat\n'
VOID = {"meta", "input", "img"}


class Reader(HTMLParser):
    """The tags of a page, each closed, the texts in it and its marked words."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.texts = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if (tag, dict(attributes).get("class")) == ("p", "text"):
            self.texts.append("")
        if tag == "span" and "word" in dict(attributes).get("class", "").split():
            self.words.append([dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "p" in self.open and self.texts and len(self.open) > self.open.index("p"):
            self.texts[-1] += data if "text" in self.p_class() else ""
        if self.open and self.open[-1] == "span" and self.words and not self.words[-1][1]:
            self.words[-1][1] = data

    def p_class(self):
        return next(attributes.get("class", "") for tag, attributes in reversed(self.tags) if tag == "p")


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_shows_the_text_as_it_was_whatever_is_in_it(kind):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["the cat <p"], kind)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    scores = list(score(model, tokenizer, [HOSTILE, "the cat", ""], with_end=True))
    reader = read(render_page(scores, HOSTILE, len(tokenizer)))
    assert [text.removesuffix("<eos>") for text in reader.texts] == [HOSTILE, "the cat", ""]
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    assert not any(re.match("on|src|href", name) for _, attributes in reader.tags for name in attributes)
    words = [word for scored in scores for word in scored.words]
    assert [word for _, word in reader.words] == words
    for (attributes, _), value, known in zip(
        reader.words,
        [value for scored in scores for value in scored.surprisals],
        [known for scored in scores for known in scored.known],
        strict=True,
    ):
        expected = min(value / math.log2(len(tokenizer)), 1)
        assert float(attributes["style"].removeprefix("--s:")) == pytest.approx(expected, abs=1e-3)
        assert attributes["title"].startswith(f"{value:.2f} bits")
        assert ("unknown" in attributes["class"].split()) == ("unknown" in attributes["title"]) == (not known)


def test_tokens_with_spaces_or_within_a_letter_leave_the_text_as_it_was():
    text, spans = "a €b <p>", [(0, 1), (1, 3), (1, 3), (3, 4)]  # what no token stands for is text too
    scored = TextScore(text, ["a", "x", "y", "b"], [1, 2, 3, 4], spans, [True] * 4, [1.0, math.inf, 0.0, 1.0], "nats")
    reader = read(render_page([scored], "", 10))
    assert [word for _, word in reader.words] == ["a", "€", "y", "b"] and reader.texts == ["a €yb <p>"]
    assert [attributes["style"] for attributes, _ in reader.words][1:3] == ["--s:1.000", "--s:0.000"]


def test_a_page_of_nothing_is_a_page():
    page = render_page([], "nothing", 10)
    assert read(page).words == [] and "no token" in page
