"""`translate`: in any batches, empty texts, several models; the search for several equals generate() for one."""

import itertools

import pytest
import torch
from seq2seq_models import KINDS, make_translator, make_writer
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


@pytest.mark.parametrize("kind", ["general", "multihead", "fed", "deep", "none"])
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


def test_several_find_the_best_of_all_by_the_mean_of_their_log_probabilities():
    """With as many hypotheses as there are, against all sequences of up to three pieces."""
    models = [make_translator(seed=seed, vocab_size=5) for seed in (0, 1, 2)]
    batch = source_batch([[3, 4, 2], [4, 2]], 0)
    found = search_together(models, **batch, num_beams=100, length_penalty=1.0, max_length=4)
    for row in range(2):
        ids, best = batch["input_ids"][row : row + 1, : batch["attention_mask"][row].sum()], (-1e9, None)
        for length in (1, 2, 3):
            for words in itertools.product(range(5), repeat=length):
                if 2 in words[:-1] or (words[-1] != 2 and length < 3):
                    continue
                labels = torch.tensor([words])
                log_probs = [model(ids, labels=labels).logits.log_softmax(-1) for model in models]
                total = torch.stack(log_probs).mean(0).gather(2, labels[..., None]).sum().item()
                best = max(best, (total / length, words))
        assert found[row].tolist()[: len(best[1])] == list(best[1])


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
