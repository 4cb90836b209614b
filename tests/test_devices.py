"""Weights on no device, on a disk, under another default device, and on a device without double precision."""

import copy

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rnn_hf.adaptation import Adaptation, evaluate_adapted, gradient_statistics
from rnn_hf.analysis import inspect
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.evaluation import evaluate
from rnn_hf.scoring import score


TOKENS = np.array([1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 7] * 4)
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def model(make_model, cell):
    return make_model(cell, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["a b c d e f g h i"])


def results(model, tokenizer):
    """What the library says of a model: of a text, of a stream, and what it writes."""
    return {
        "score": [text.surprisals for text in score(model, tokenizer, ["a b c", "d", "e f g h i a b"])],
        "evaluate": evaluate(model, TOKENS, start=0, window=7).loss,
        "generate": model.generate(IDS, attention_mask=MASK, max_new_tokens=20, do_sample=False).tolist(),
        "one row": model.generate(IDS[:1], max_new_tokens=20, do_sample=False).tolist(),
        "loss": model(IDS, attention_mask=MASK, labels=IDS, skip_logits=True).loss.item(),
    }


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        for leaf, other in zip(tree_leaves(actual[name]), tree_leaves(value), strict=True):
            assert leaf == (pytest.approx(other, rel=1e-5) if isinstance(other, float) else other), name


@pytest.mark.parametrize("skip_logits", [False, True])
def test_shapes_are_known_without_weights(model, skip_logits):
    nowhere = model.to("meta").train()
    ids, mask = IDS.to("meta"), MASK.to("meta")
    output = nowhere(ids, attention_mask=mask, labels=ids, skip_logits=skip_logits)
    output.loss.backward()
    assert output.loss.shape == () and (skip_logits or output.logits.shape == (2, 4, 11))
    assert nowhere(ids[:, :1], cache=output.cache).logits.shape == (2, 1, 11)
    assert all(p.grad.shape == p.shape for p in nowhere.parameters())


def test_a_model_that_lies_on_a_disk_gives_the_same_numbers(model, tokenizer, tmp_path):
    away = disk_offload(copy.deepcopy(model), tmp_path, "cpu")
    assert away.device.type == "meta"
    assert_same(results(away, tokenizer), results(model, tokenizer))


def test_another_default_device_changes_nothing(model, tokenizer):
    expected = results(model, tokenizer)
    adaptation = Adaptation(cache_size=5, cache_weight=0.1)
    with torch.device("meta"):  # on which whatever forgets to say its device has no content
        assert_same(results(model, tokenizer), expected)
        adapted = evaluate_adapted(model, TOKENS, 0, adaptation).loss
    assert adapted == pytest.approx(evaluate_adapted(model, TOKENS, 0, adaptation).loss)


class NoDoublePrecision(TorchDispatchMode):
    """Stands for a device that has no double precision, such as an Apple GPU: what would give a tensor of it fails."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        value = function(*arguments, **(options or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(value)):
            raise TypeError(f"{function}: this device has no float64")
        return value


def test_nothing_needs_double_precision(model, tokenizer):
    expected = results(model, tokenizer)
    statistics = gradient_statistics(model, TOKENS, 0, columns=2)
    adaptation = Adaptation(learning_rate=0.01, cache_size=5, cache_weight=0.1)
    with NoDoublePrecision():
        assert_same(results(model, tokenizer), expected)
        evaluate_adapted(model, TOKENS, 0, adaptation, statistics)


def test_inspection_is_in_double_precision_where_that_is(model):
    assert inspect(model, torch.randint(1, 11, (2, 6)), distances=3)["gradient_norms"]
