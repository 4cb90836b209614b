"""`translate`: in any batches, empty texts, several models; the search for several equals generate() for one."""

import itertools

import pytest
import torch
from seq2seq_models import KINDS, beams_by_hand, make_translator, make_writer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translators import make_directory

from rnn_hf.errors import InputError
from rnn_hf.translation import search_together, source_batch, translate


TEXTS = ["two small dog", "", "cat", "red bird sees tree snow", "   ", "dog dog"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Two models of one vocabulary, and their tokenizer."""
    names = [make_directory(tmp_path_factory.mktemp("model"), seed) for seed in (0, 1)]
    models = [AutoModelForSeq2SeqLM.from_pretrained(name).eval() for name in names]
    return models, AutoTokenizer.from_pretrained(names[0])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batches_do_not_change_translations_and_texts_without_words_have_none(loaded, num_beams):
    models, tokenizer = loaded
    for model in (models[0], models):
        alone = [translate(model, tokenizer, [text], num_beams)[0] for text in TEXTS]
        assert alone[1] == alone[4] == "" and len(set(alone)) > 2
        for size in (1, 2, 32):
            assert translate(model, tokenizer, TEXTS, num_beams, batch_size=size) == alone
    assert translate(models[0], tokenizer, []) == []


def test_the_mode_of_training_is_restored_and_options_count(loaded):
    models, tokenizer = loaded
    model = models[0].train()
    try:
        before = translate(model, tokenizer, TEXTS)
        assert model.training and translate(model, tokenizer, TEXTS, max_length=3) != before
    finally:
        model.eval()
    for each in (model, models):
        short = [text.split() for text in translate(each, tokenizer, TEXTS, length_penalty=-5.0)]
        long = [text.split() for text in translate(each, tokenizer, TEXTS, length_penalty=5.0)]
        assert sum(map(len, short)) < sum(map(len, long))


@pytest.mark.parametrize(
    "kind", ["general", "fed", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("multihead", "deep", "none"))]
)
@pytest.mark.parametrize("num_beams, power", [(1, 1.0), (2, 0.0), (4, 1.0), (3, 2.0)])
def test_one_network_and_the_same_twice_find_what_generate_finds(kind, num_beams, power):
    batch = source_batch([[3, 4, 5, 2], [6, 2], [7, 8, 3, 4, 4, 2]], 0)
    for seed in range(3):
        model = make_writer(seed=seed, **KINDS[kind])
        model.generation_config.max_length = 12
        options = {"num_beams": num_beams, "length_penalty": power} if num_beams > 1 else {"num_beams": 1}
        expected = ended(model.generate(**batch, do_sample=False, **options)[:, 1:])
        for models in ([model], [model, model]):
            assert ended(search_together(models, **batch, num_beams=num_beams, length_penalty=power)) == expected


def ended(rows):
    """Ids up to the end token, which others follow where a row is shorter."""
    return [[*itertools.takewhile(lambda piece: piece != 2, row)] for row in rows.tolist()]


@pytest.mark.parametrize("num_beams, power", [(1, 1.0), (2, 0.5), (4, 1.0)])
def test_several_find_what_a_search_by_hand_finds_by_the_mean_of_their_log_probabilities(num_beams, power):
    models = [make_writer(seed=seed, **KINDS[kind]) for seed, kind in enumerate(("general", "fed", "none"))]
    rows = [[3, 4, 5, 2], [6, 2], [7, 8, 3, 4, 4, 2]]
    found = search_together(models, **source_batch(rows, 0), num_beams=num_beams, length_penalty=power, max_length=10)
    for row, ids in zip(found, rows, strict=True):
        (_, tokens), *_ = beams_by_hand(models, torch.tensor([ids]), num_beams, 10, power)
        assert ended(row[None]) == ended(torch.tensor([tokens[1:]]))


def test_what_cannot_be_translated_together_is_refused(loaded, tmp_path):
    models, tokenizer = loaded
    other = make_translator(vocab_size=30)
    with pytest.raises(InputError, match="need one vocabulary, and `vocab_size` is 60 of one and 30 of another"):
        translate([models[0], other], tokenizer, TEXTS)
    with pytest.raises(InputError, match="there is no model to translate with"):
        translate([], tokenizer, TEXTS)
    for name in ("num_beams", "batch_size"):
        with pytest.raises(InputError, match=f"`{name}` must be at least 1, got 0"):
            translate(models[0], tokenizer, TEXTS, **{name: 0})
    with pytest.raises(InputError, match="`num_beams` may be at most 30 with so few pieces in the vocabulary, got 31"):
        translate(models, tokenizer, TEXTS, num_beams=31)
