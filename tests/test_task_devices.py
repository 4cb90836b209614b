"""Networks of each task under another default device, and on a device without double precision.

Both stand for a GPU where there is none: a network that forgets to say its device, or asks for float64, fails here.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recognizers import make_recognizer, some_speech
from seq2seq_models import KINDS, make_writer, some_pairs
from series_models import FIELDS, make_forecaster, some_windows, without_future
from test_devices import IDS, MASK, NoDoublePrecision, assert_same

from rnn_hf import (
    RNNFeatureExtractor,
    RNNForCTC,
    RNNForSequenceClassification,
    RNNForTokenClassification,
)
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.models.words_rnn import Spelling


SIZES = {"hidden_size": 5, "embedding_size": 4, "num_labels": 3}
# What a network says of inputs that were made before, by name.
Answers = Callable[[], dict[str, Any]]


def of_training(model, **inputs) -> dict[str, Any]:
    """The loss, and the gradients' sum, of a step in training mode without dropout."""
    model.zero_grad()
    loss = model.train()(**inputs).loss
    loss.backward()
    model.eval()
    return {"loss": loss.item(), "gradients": [float(p.grad.sum()) for p in model.parameters() if p.grad is not None]}


def classifier(make_model, model_class, labels, **fields) -> Answers:
    model = make_model({}, model_class=model_class, dtype=torch.float32, **SIZES, **fields)
    inputs = {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    return lambda: {"logits": model(IDS, MASK).logits.tolist(), **of_training(model, **inputs)}


def texts(make_model, folder, **fields) -> Answers:
    return classifier(make_model, RNNForSequenceClassification, torch.tensor([2, 0]), **fields)


def words(make_model, folder, **fields) -> Answers:
    return classifier(make_model, RNNForTokenClassification, IDS % 3, bidirectional=True, **fields)


def words_of_characters(make_model, folder) -> Answers:
    tokenizer = build_wordpiece([["the", "cat", "sat", "the", "cat", "."]], pieces="characters")
    spelling, sizes = Spelling.of(tokenizer), {"character_embedding_size": 3, "character_hidden_size": 2}
    model = make_model(
        {}, model_class=RNNForTokenClassification, dtype=torch.float32, **SIZES, **sizes, **spelling.sizes
    )
    model.model.words.set_spelling(spelling)
    return lambda: {"logits": model(IDS % len(tokenizer), MASK).logits.tolist()}


def speech(make_model, folder, **fields) -> Answers:
    path = make_recognizer(folder, **fields)
    model, extractor = RNNForCTC.from_pretrained(path).eval(), RNNFeatureExtractor.from_pretrained(path)
    inputs = extractor(
        [some_speech(0.8), some_speech(0.5, seed=2)], sampling_rate=8000, padding=True, return_tensors="pt"
    )
    labels = torch.tensor([[1, 2, 3], [2, -100, -100]])

    def answers():
        said = {"ids": model.generate(**inputs).tolist(), **of_training(model, **inputs, labels=labels)}
        if not model.config.bidirectional:
            state = model(inputs["input_features"][:, :40], use_cache=True).cache
            said["carried"] = model(inputs["input_features"][:, 40:60], cache=state).logits.tolist()
        return said

    return answers


def series(make_model, folder, head, **fields) -> Answers:
    model = make_forecaster(head, **fields).float()
    windows = {
        name: part.float() if part.is_floating_point() else part for name, part in some_windows(model.config).items()
    }
    inputs = without_future(windows)

    def answers():
        torch.manual_seed(0)
        paths = model.generate(**inputs, num_parallel_samples=3).sequences
        return {"paths": paths.tolist(), **of_training(model, **windows)}

    return answers


def translation(make_model, folder, **fields) -> Answers:
    model, pairs = make_writer(**fields).float(), some_pairs()
    inputs = {"inputs": pairs["input_ids"], "attention_mask": pairs["attention_mask"], "max_new_tokens": 12}

    def answers():
        torch.manual_seed(0)
        return {
            "greedy": model.generate(**inputs, num_beams=1, do_sample=False).tolist(),
            "alone": model.generate(inputs["inputs"][:1], max_new_tokens=12, do_sample=False).tolist(),
            "beams": model.generate(**inputs, num_beams=3, do_sample=False).tolist(),
            "transformers' loop": model.generate(
                **inputs, do_sample=False, output_scores=True, return_dict_in_generate=True
            ).sequences.tolist(),
            "sampled": model.generate(**inputs, do_sample=True).tolist(),
            **of_training(model, **pairs),
        }

    return answers


CASES: dict[str, tuple[Callable[..., Answers], dict[str, Any]]] = {
    **{f"texts, {way}": (texts, {"pooling": way, "bidirectional": True}) for way in ("last", "mean", "max", "concat")},
    "texts, one direction": (texts, {}),
    "words": (words, {}),
    "words of characters": (words_of_characters, {}),
    "speech": (speech, {}),
    "speech, two directions": (speech, {"bidirectional": True}),
    **{f"series, {head}": (series, {"head": head}) for head in FIELDS},
    "series, counts": (
        series,
        {"head": "autoregressive", "distribution_output": "negative_binomial", "scaling": "mean"},
    ),
    "series, quantiles": (series, {"head": "direct", "loss": "quantile", "quantiles": [0.1, 0.5, 0.9]}),
    **{f"translation, {kind}": (translation, fields) for kind, fields in KINDS.items()},
}


# What differs between cells, `test_devices` runs on language models of each.
@pytest.fixture(params=CASES)
def answers(request, make_model, tmp_path):
    make, fields = CASES[request.param]
    return make(make_model, tmp_path, **fields)


def test_another_default_device_changes_nothing(answers):
    expected = answers()
    with torch.device("meta"):  # on which whatever forgets to say its device has no content
        assert_same(answers(), expected)


def test_nothing_needs_double_precision(answers):
    expected = answers()
    with NoDoublePrecision():
        assert_same(answers(), expected)
