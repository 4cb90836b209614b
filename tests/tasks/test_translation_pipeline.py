"""The pipeline that translates: as `translate`, in batches, saved and loaded, and for those without the package."""

import json

import pytest
import torch
from parallel_files import some_pairs
from seq2seq_models import make_writer
from strangers import told_by_a_stranger
from transformers import pipeline

from rnn_hf import RNNTranslationPipeline
from rnn_hf.data.bpe import build_bpe
from rnn_hf.translation import translate


TEXTS = ["two small dog", "cat", "red bird sees tree snow"]
STRANGER = """
from transformers import pipeline

translator = pipeline("rnn-translation", "model", trust_remote_code=True)
print(json.dumps([type(translator).__module__, translator(TEXTS, num_beams=3, batch_size=2)]))
"""


@pytest.fixture(scope="module")
def parts():
    """A random model and its tokenizer."""
    tokenizer = build_bpe([text for pair in some_pairs(50) for text in pair], 60)
    model = make_writer(vocab_size=len(tokenizer)).float()
    model.generation_config.max_length = 10
    return model, tokenizer


def test_it_says_what_translate_says_alone_and_in_batches(parts):
    model, tokenizer = parts
    translator = pipeline("rnn-translation", model=model, tokenizer=tokenizer)
    assert isinstance(translator, RNNTranslationPipeline)
    for beams in (1, 3):
        expected = [{"translation_text": text} for text in translate(model, tokenizer, TEXTS, num_beams=beams)]
        assert len({row["translation_text"] for row in expected}) > 1
        assert translator(TEXTS, num_beams=beams) == translator(TEXTS, num_beams=beams, batch_size=3) == expected
    assert translator(TEXTS[0], num_beams=3) == expected[0]
    assert translator(TEXTS[0], num_beams=3, max_length=3) != expected[0]
    with pytest.raises(ValueError, match="a text or a list of texts is translated, got 3"):
        translator(3)


def test_a_saved_one_loads_by_its_directory(parts, tmp_path):
    model, tokenizer = parts
    pipeline("rnn-translation", model=model, tokenizer=tokenizer).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (tmp_path / "pipeline_rnn_translation.py").is_file() and "Pipeline" not in str(config)
    again = pipeline("rnn-translation", tmp_path.as_posix(), trust_remote_code=True)
    expected = [{"translation_text": text} for text in translate(model, tokenizer, TEXTS)]
    assert again(TEXTS, num_beams=5) == expected
    again.model.save_pretrained(tmp_path / "again")
    both = zip(model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


@pytest.mark.slow
def test_a_stranger_has_it_by_trust_remote_code(parts, tmp_path):
    model, tokenizer = parts
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    module, answers = told_by_a_stranger(STRANGER.replace("TEXTS", repr(TEXTS)), tmp_path)
    assert module.startswith("transformers_modules.")
    assert answers == [{"translation_text": text} for text in translate(model, tokenizer, TEXTS, num_beams=3)]
