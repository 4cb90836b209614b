"""Prefix beam search against the sum over every path, one by one, and a language model that reads each text again."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import make_words_depend_on_the_past
from strangers import told_by_a_stranger
from tokenizers import Tokenizer, models
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from rnn_hf import RNNCache, RNNCTCTokenizer, RNNForCTC, RNNSpeechConfig
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.models.beam_rnn import LabelLanguageModel, beam_search


CHARACTERS = RNNCTCTokenizer.build(["a a"])  # with the blank and "<unk>" 4 labels
WORDS = RNNCTCTokenizer.build(["three six"], unit="words")
SPELLED = "hgfedcba hgfedcba"  # with the end and "<unk>" 11 tokens, whose ids are not those of the labels
SPOKEN = "nine eight seven six five four three two one"
VOCAB, EVERY = 4, {"num_beams": 10**6, "least_log_prob": -math.inf}


@pytest.fixture(scope="session")
def make_language_model(make_model):
    """`make_language_model(cell, label_tokenizer)`: the labels' language model, of random weights in float64."""

    def make(cell, label_tokenizer=CHARACTERS, **fields):
        kind, text = ("char", SPELLED) if label_tokenizer.unit == "characters" else ("whitespace", SPOKEN)
        model = make_model(cell, seed=3, embedding_size=6, hidden_size=8, tie_word_embeddings=False, **fields)
        make_words_depend_on_the_past(model)
        return LabelLanguageModel(model, build_tokenizer([text], kind), label_tokenizer)

    return make


def some_logits(batch: int, steps: int, seed: int = 0, vocab_size: int = VOCAB) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(batch, steps, vocab_size, generator=generator, dtype=torch.float64)


def collapsed(path, blank: int = 0) -> tuple:
    """Repeats as one, then without blanks."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def paths_of(logits: torch.Tensor, blank: int = 0) -> dict[tuple, torch.Tensor]:
    """Of every label sequence that `(T, V)` logits can give the log-probabilities of all of its paths."""
    log_probs, found = logits.log_softmax(dim=-1), defaultdict(list)
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        found[collapsed(path, blank)].append(log_probs[range(len(path)), path].sum())
    return {labels: torch.stack(parts) for labels, parts in found.items()}


@torch.no_grad()
def log_probs_of_texts(language: LabelLanguageModel, texts, with_end: bool = True) -> list[float]:
    """Of labels, each text read at once from the token before it on; what stands behind a text is not counted."""
    tokens, end = [[language.token_ids[label] for label in text] for text in texts], language.token_ids[language.blank]
    width, sums = 1 + max(map(len, tokens)), []
    rows = torch.tensor([[language.start, *text] + [0] * (width - 1 - len(text)) for text in tokens])
    for log_probs, text in zip(language.model(rows).logits.log_softmax(dim=-1), tokens, strict=True):
        targets = text + [end] * with_end
        sums.append(float(log_probs[range(len(targets)), targets].sum()))
    return sums


def found(logits: torch.Tensor, blank: int = 0, lengths=None, **options) -> list[tuple]:
    """The labels of each row."""
    lengths = torch.full((len(logits),), logits.shape[1]) if lengths is None else torch.tensor(lengths)
    return [collapsed(path, blank) for path in beam_search(logits, lengths, blank, **options).tolist()]


# Equal to brute force


@given(steps=st.integers(1, 5), vocab_size=st.integers(2, VOCAB), seed=st.integers(0, 99), data=st.data())
def test_with_every_hypothesis_the_labels_are_the_likeliest_by_all_paths(steps, vocab_size, seed, data):
    blank, logits = data.draw(st.integers(0, vocab_size - 1)), some_logits(3, steps, seed, vocab_size)
    sums = [{labels: parts.logsumexp(0) for labels, parts in paths_of(row, blank).items()} for row in logits]
    assert found(logits, blank, **EVERY) == [max(row, key=row.__getitem__) for row in sums]


def test_many_paths_win_over_the_likeliest_one():
    logits = torch.tensor([[[0.6, 0.4]] * 2], dtype=torch.float64).log()
    assert logits.argmax(-1).tolist() == [[0, 0]] and found(logits, num_beams=2) == [(1,)]


@given(steps=st.integers(1, 5), seed=st.integers(0, 99), weight=st.sampled_from([0.3, 1.0, 3.0]))
@pytest.mark.parametrize("bonus, labels", [(0.0, CHARACTERS), (1.5, CHARACTERS), (-1.0, WORDS)])
@pytest.mark.usual_cells("lstm")
def test_a_language_model_counts_as_if_it_read_every_text(
    make_language_model, cell, labels, bonus, steps, seed, weight
):
    language, logits = make_language_model(cell, labels), some_logits(1, steps, seed)
    sums = {text: float(parts.logsumexp(0)) for text, parts in paths_of(logits[0]).items()}
    for text, log_prob in zip(sums, log_probs_of_texts(language, sums), strict=True):
        sums[text] += weight * log_prob + bonus * len(text)
    options = {"language_model": language, "language_model_weight": weight, "length_bonus": bonus}
    assert found(logits, **options, **EVERY) == [max(sums, key=sums.__getitem__)]


def searched_plainly(log_probs, num_beams: int, weight: float, bonus: float, language: LabelLanguageModel) -> tuple:
    """The same search over the labels and last symbols of paths, whose probabilities are added as they are."""
    paths, kept = {((), 0): 1.0}, []
    for step, frame in enumerate(log_probs.exp().tolist(), 1):
        grown, scores = defaultdict(float), defaultdict(float)
        for (labels, last), so_far in paths.items():
            for symbol, probability in enumerate(frame):
                begins = symbol not in (0, last)
                grown[(*labels, symbol) if begins else labels, symbol] += so_far * probability
        for (labels, _), value in grown.items():
            scores[labels] += value
        if step == len(log_probs):  # the end counts for those that are left
            kept = kept_of(scores, num_beams, weight, bonus, language, with_end=False)
            scores = {labels: scores[labels] for labels in kept}
        kept = kept_of(scores, num_beams, weight, bonus, language, with_end=step == len(log_probs))
        paths = {key: value for key, value in grown.items() if key[0] in kept}
    return kept[0]


def kept_of(scores: dict, num_beams: int, weight: float, bonus: float, language, with_end: bool) -> list[tuple]:
    of_texts = dict(zip(scores, log_probs_of_texts(language, scores, with_end), strict=True))

    def score(labels):
        return math.log(scores[labels]) + weight * of_texts[labels] + bonus * len(labels)

    return sorted(scores, key=score, reverse=True)[:num_beams]


@pytest.mark.parametrize("num_beams", [1, 2, 5])
def test_few_hypotheses_go_on_from_their_own_states(make_language_model, cell, num_beams):
    language, logits = make_language_model(cell), some_logits(3, 14)
    expected = [searched_plainly(row.log_softmax(-1), num_beams, 0.7, 0.5, language) for row in logits]
    options = {"language_model": language, "language_model_weight": 0.7, "length_bonus": 0.5}
    assert found(logits, num_beams=num_beams, least_log_prob=-math.inf, **options) == expected
    assert expected != found(logits, num_beams=num_beams, length_bonus=0.5)  # the language model has a say


# The path


@given(length=st.integers(0, 5), seed=st.integers(0, 99), blank=st.sampled_from([0, 2]))
def test_the_path_is_the_likeliest_of_its_labels_and_blank_at_padding(length, seed, blank):
    logits = some_logits(1, 5, seed)
    (path,) = beam_search(logits, torch.tensor([length]), blank, 3).tolist()
    assert path[length:] == [blank] * (5 - length)
    log_prob = logits[0, range(length), path[:length]] - logits[0, :length].logsumexp(-1)
    best = paths_of(logits[0, :length], blank)[collapsed(path[:length], blank)].max()
    torch.testing.assert_close(log_prob.sum(), best, rtol=1e-12, atol=1e-12)


def test_equal_neighbours_are_kept_apart_where_no_step_is_to_spare():
    tokenizer = RNNCTCTokenizer.build(["three"])
    ids = tokenizer("three").input_ids
    path = ids[:4] + [0] + ids[4:]
    logits = 9.0 * F.one_hot(torch.tensor([path]), len(tokenizer))
    assert beam_search(logits, torch.tensor([6]), 0, 4).tolist() == [path]
    assert tokenizer.decode(path) == "three"


# Rows


def test_a_row_is_searched_as_alone_and_as_before(make_language_model, cell):
    logits, lengths = some_logits(5, 9), [9, 4, 0, 7, 1]
    options = {"num_beams": 3, "language_model": make_language_model(cell)}
    behind = torch.arange(9) >= torch.tensor(lengths)[:, None]
    paths = beam_search(logits.masked_fill(behind[..., None], float("nan")), torch.tensor(lengths), 0, **options)
    assert torch.equal(paths, beam_search(logits, torch.tensor(lengths), 0, **options))
    for path, row, length in zip(paths, logits, lengths, strict=True):
        (alone,) = beam_search(row[None, :length], torch.tensor([length]), 0, **options)
        assert path.tolist() == [*alone.tolist(), *[0] * (9 - length)]


def test_nothing_in_a_batch_gives_nothing(make_language_model):
    for shape in ((0, 4, VOCAB), (2, 0, VOCAB)):
        options = {"num_beams": 2, "language_model": make_language_model({})}
        assert (
            beam_search(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long), 0, **options).shape == shape[:2]
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_logits_are_searched_in_float64(dtype):
    logits = some_logits(6, 12).to(dtype)
    assert found(logits, num_beams=4) == found(logits.double(), num_beams=4)


def test_equals_are_ranked_by_their_labels():
    assert found(torch.zeros(1, 1, VOCAB), num_beams=9) == [()]
    assert found(torch.tensor([[[-9.0, 0, 0, 0]]]), num_beams=9) == [(1,)]


def test_a_step_of_the_language_model_serves_all_new_hypotheses(make_language_model, monkeypatch):
    language, logits, rows = make_language_model({}), some_logits(1, 12), []
    step = language.step
    monkeypatch.setattr(language, "step", lambda tokens, cache: rows.append(len(tokens)) or step(tokens, cache))
    found(logits, num_beams=3, language_model=language)
    assert rows[0] == 1 and len(rows) <= 13 and 1 < max(rows) <= 3


# Weight and threshold


def test_a_weight_of_0_is_no_language_model(make_language_model):
    language, logits = make_language_model({}), some_logits(4, 8)
    language.model.lm_head.bias.data[3:] = -math.inf
    with_it = found(logits, num_beams=4, language_model=language, language_model_weight=0)
    assert with_it == found(logits, num_beams=4)
    assert with_it != found(logits, num_beams=4, language_model=language)


def test_a_bonus_asks_for_more_labels():
    logits = some_logits(8, 9)
    lengths = [sum(map(len, found(logits, num_beams=4, length_bonus=bonus))) for bonus in (-99, -1, 0, 1, 9)]
    assert lengths == sorted(lengths) and lengths[0] == 0 and len(set(lengths)) == 5


def test_a_label_below_the_threshold_does_not_begin(make_language_model):
    log_probs = torch.tensor([[[0.0, -12.0, -12.0, -8.5]]])
    options = {"num_beams": 9, "length_bonus": 99.0}
    assert found(log_probs, **options) == [()]
    assert found(log_probs, least_log_prob=-9, **options) == [(3,)]
    goes_on = torch.tensor([[[-9.0, 0, -9, -9], [-1.0, -9, 0, -1], [-1.0, -9, 0, -1]]])
    assert found(goes_on, num_beams=9, least_log_prob=-3) == found(goes_on, **EVERY)


def test_of_labels_that_are_all_below_the_threshold_the_likeliest_begin():
    logits = torch.zeros(1, 3, 9000)
    logits[0, [0, 1, 2], [7, 8, 9]] = 0.1
    assert found(logits, num_beams=2, length_bonus=9.0) == [(7, 8, 9)]


# The labels as tokens of the language model


def test_labels_are_the_tokens_of_their_text(make_language_model):
    spelled, spoken = build_tokenizer([SPELLED], "char"), build_tokenizer([SPOKEN])
    ids = spelled.get_vocab()
    expected = [ids["<eos>"], ids["<unk>"], ids[" "], ids["a"]]
    assert make_language_model({}, CHARACTERS).token_ids == expected
    for labels, tokenizer in ((WORDS, spoken), (RNNCTCTokenizer.build(["THREE"], unit="words"), None)):
        tokenizer = tokenizer or build_tokenizer([SPOKEN], lowercase=True)
        tokens = make_language_model({}, WORDS).token_ids
        language = LabelLanguageModel(make_language_model({}, WORDS).model, tokenizer, labels)
        assert language.token_ids[-1] == tokenizer.get_vocab()["▁three"] and language.token_ids[:2] == tokens[:2]


@pytest.mark.parametrize(
    "kind, text, labels, said",
    [
        ("char", "a b", ["ab dc"], r"no token for 2 labels of the recognizer: 'c', 'd'$"),
        ("char", "ab", ["a b"], r"no token for 1 labels of the recognizer: ' '"),
        ("whitespace", "a b", ["a b"], r"no token for 1 labels of the recognizer: ' '"),
        ("char", "a b", ["abcdefghijklm"], r"no token for 11 labels.*'c', .*'j', \.\.\."),
    ],
)
def test_labels_without_a_token_are_named(make_language_model, kind, text, labels, said):
    model = make_language_model({}).model
    with pytest.raises(ValueError, match=said):
        LabelLanguageModel(model, build_tokenizer([text], kind), RNNCTCTokenizer.build(labels))


def test_words_that_are_several_tokens_are_named(make_language_model):
    model, tokenizer = make_language_model({}).model, build_tokenizer(["no . no, no"], "word")
    labels = RNNCTCTokenizer.build(["no no, ."], unit="words")
    with pytest.raises(ValueError, match=r"no token for 1 labels of the recognizer: 'no,'"):
        LabelLanguageModel(model, tokenizer, labels)


def test_tokens_that_merge_with_their_neighbours_are_refused(make_language_model):
    pieces = Tokenizer(models.BPE({"<eos>": 0, "<unk>": 1, " ": 2, "a": 3, "b": 4, "ab": 5}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<eos>", unk_token="<unk>")
    model = make_language_model({}).model
    with pytest.raises(ValueError, match="takes labels together"):
        LabelLanguageModel(model, tokenizer, RNNCTCTokenizer.build(["a b"]))
    assert LabelLanguageModel(model, tokenizer, RNNCTCTokenizer.build(["a a"])).token_ids == [0, 1, 2, 3]


def test_a_text_begins_after_the_begin_token_or_else_the_end_token(make_language_model):
    model, tokenizer = make_language_model({}).model, build_tokenizer([SPELLED], "char")
    for begin, expected in (("<eos>", 0), ("a", tokenizer.get_vocab()["a"]), (None, 0)):
        tokenizer.bos_token = begin
        assert LabelLanguageModel(model, tokenizer, CHARACTERS).start == expected


def test_log_probs_of_narrow_language_models_are_in_float64(make_model):
    narrow = make_model({}, dtype=torch.bfloat16)
    language = LabelLanguageModel(narrow, build_tokenizer([SPELLED], "char"), CHARACTERS)
    expected = narrow(torch.tensor([[0]])).logits[0].double().log_softmax(-1)[:, language.token_ids]
    got = torch.from_numpy(language.step([0], RNNCache(narrow.config)))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_a_language_model_that_does_not_fit_is_refused_by_name(make_language_model, make_model):
    model, tokenizer = make_language_model({}).model, build_tokenizer([SPELLED], "char")
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        LabelLanguageModel(make_model({}).train(), tokenizer, CHARACTERS)
    with pytest.raises(ValueError, match="`reads_backward=True`"):
        LabelLanguageModel(make_model({}, reads_backward=True), tokenizer, CHARACTERS)
    with pytest.raises(ValueError, match="token 10 and is not that of the language model.*`vocab_size` is 5"):
        LabelLanguageModel(make_model({}, vocab_size=5), tokenizer, CHARACTERS)
    endless = build_tokenizer([SPELLED], "char")
    endless.eos_token = None
    with pytest.raises(ValueError, match="no `eos_token`"):
        LabelLanguageModel(model, endless, CHARACTERS)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"num_beams": 0}, "`num_beams` must be a whole number, at least 1, got 0"),
        ({"num_beams": 2.0}, "`num_beams` must be.*2.0"),
        ({"language_model_weight": -1}, "`language_model_weight` must be.*-1"),
        ({"language_model_weight": math.nan}, "`language_model_weight` must be.*nan"),
        ({"length_bonus": math.inf}, "`length_bonus` must be a number, got inf"),
    ],
)
def test_what_is_no_search_is_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        found(some_logits(1, 3), **{"num_beams": 2, **options})


def test_a_language_model_over_other_labels_is_refused(make_language_model):
    options = {"num_beams": 2, "language_model": make_language_model({})}
    with pytest.raises(ValueError, match="`language_model` is over 4 labels with the blank 0.*are 5 with the blank 0"):
        found(some_logits(1, 3, vocab_size=5), **options)
    with pytest.raises(ValueError, match="`language_model` is over .* are 4 with the blank 1"):
        found(some_logits(1, 3), blank=1, **options)


# generate()


FRAMES = torch.randn(3, 21, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 21, [0] * 6 + [1] * 15, [1, 0, 1] * 3 + [1] + [0] * 11])


@torch.no_grad()
def recognizer(cell) -> RNNForCTC:
    """A network of random weights in float64 to which no label is likelier than the others on the whole."""
    config = RNNSpeechConfig(vocab_size=VOCAB, embedding_size=3, hidden_size=5, num_mel_bins=3, frame_stack=2, **cell)
    model, generator = RNNForCTC(config).double().eval(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.uniform_(-0.8, 0.8, generator=generator)
    model.lm_head.weight.mul_(4)
    model.lm_head.bias -= model(FRAMES).logits.mean((0, 1))
    return model


def test_generate_searches_the_logits_of_real_steps(make_language_model, cell):
    model, language = recognizer(cell), make_language_model(cell)
    logits, lengths = model(FRAMES, MASK).logits, torch.tensor([10, 7, 3])
    for num_beams in (None, 1):
        assert torch.equal(model.generate(FRAMES, MASK, num_beams=num_beams), logits.argmax(-1))
    for options in (
        {"num_beams": 4},
        {"num_beams": 1, "length_bonus": 1.0},
        {"num_beams": 1, "language_model": language},
    ):
        paths = model.generate(FRAMES, MASK, **options)
        assert torch.equal(paths, beam_search(logits, lengths, 0, **options))
        assert not torch.equal(paths, logits.argmax(-1))
    options = {"language_model": language, "language_model_weight": 0.8, "length_bonus": 0.3}
    paths = model.generate(FRAMES, MASK, num_beams=4, **options)
    assert torch.equal(paths, beam_search(logits, lengths, 0, 4, **options))
    assert not torch.equal(paths, model.generate(FRAMES, MASK, num_beams=4))
    alone = [
        model.generate(row[real.bool()][None], num_beams=4, **options)[0]
        for row, real in zip(FRAMES, MASK, strict=True)
    ]
    assert [path.tolist() for path in paths] == [[*path.tolist(), *[0] * (10 - len(path))] for path in alone]
    for num_beams, used in ((1, 1), (None, 16)):
        paths = model.generate(FRAMES, MASK, num_beams=num_beams, **options)
        assert torch.equal(paths, beam_search(logits, lengths, 0, used, **options))


def test_texts_come_out_of_generate(make_language_model):
    model, language = recognizer({}), make_language_model({}, WORDS)
    paths = model.generate(FRAMES, MASK, num_beams=4, language_model=language, length_bonus=2.0)
    texts = WORDS.batch_decode(paths)
    assert texts == [" ".join(WORDS.convert_ids_to_tokens(collapsed(path.tolist()))) for path in paths] and all(texts)


STRANGER = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForCTC, AutoTokenizer

model = AutoModelForCTC.from_pretrained("recognizer", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("recognizer", trust_remote_code=True)
words = AutoModelForCausalLM.from_pretrained("words", trust_remote_code=True)
words_tokenizer = AutoTokenizer.from_pretrained("words", trust_remote_code=True)
language = model.label_language_model(words, words_tokenizer, tokenizer)
paths = model.generate(torch.load("frames"), torch.load("mask"), num_beams=4, language_model=language)
print(json.dumps(paths.tolist()))
"""


@pytest.mark.slow
def test_a_stranger_searches_with_a_language_model(make_language_model, tmp_path):
    model, language = recognizer({}), make_language_model({"cell_type": "gru"}, WORDS)
    model.save_pretrained(tmp_path / "recognizer")
    WORDS.save_pretrained(tmp_path / "recognizer")
    language.model.save_pretrained(tmp_path / "words")
    build_tokenizer([SPOKEN]).save_pretrained(tmp_path / "words")
    torch.save(FRAMES, tmp_path / "frames")
    torch.save(MASK, tmp_path / "mask")
    expected = model.generate(FRAMES, MASK, num_beams=4, language_model=language)
    assert told_by_a_stranger(STRANGER, tmp_path) == expected.tolist()
