"""What the library says of a text on a GPU is what it says on the CPU, and a seed decides what it writes."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from rnn_hf import RNNCache
from rnn_hf.adaptation import Adaptation, evaluate_adapted, gradient_statistics
from rnn_hf.analysis import gradient_norms, inspect
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.evaluation import evaluate
from rnn_hf.scoring import score


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
TOKENS = np.random.default_rng(0).integers(1, 11, 83)
TEXTS = ["a b c", "d", "e f g h i a b", ""]
IDS = torch.randint(1, 11, (3, 5), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
DIGITS = 1e-4  # of float32


@pytest.fixture(autouse=True)
def full_precision():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # as torch begins


@pytest.fixture
def models(make_model, cell):
    """The same one on the CPU and on the GPU."""
    model = make_model(cell, dtype=torch.float32, hidden_dropout=0.3, recurrent_dropout=0.3)
    model.generation_config.pad_token_id = 0
    return model, copy.deepcopy(model).to(DEVICE)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["a b c d e f g h i"])


def assert_same(values, expected, digits=DIGITS):
    numbers, expected_numbers = tree_leaves(values), tree_leaves(expected)
    assert len(numbers) == len(expected_numbers) > 0
    assert numbers == pytest.approx(expected_numbers, rel=digits)


def test_a_stream_has_the_score_of_the_cpu(models):
    for columns, window in ((1, 128), (3, 7)):
        on_cpu, on_gpu = (evaluate(model, TOKENS, 0, columns, window) for model in models)
        assert_same(on_gpu.loss, on_cpu.loss)
        assert on_gpu.num_tokens == on_cpu.num_tokens


def test_texts_have_the_scores_of_the_cpu(models, tokenizer):
    for options in ({"window": 2}, {"carry_state": True}):
        on_cpu, on_gpu = ([text.surprisals for text in score(model, tokenizer, TEXTS, **options)] for model in models)
        assert_same(on_gpu, on_cpu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_scores_and_writes(models, tokenizer, dtype):
    exact, model = models[0], models[1].to(dtype)
    on_cpu, on_gpu = ([text.total for text in score(model, tokenizer, TEXTS)] for model in (exact, model))
    assert_same(on_gpu, on_cpu, 0.1)
    assert_same(evaluate(model, TOKENS, 0).loss, evaluate(exact, TOKENS, 0).loss, 0.1)
    for ids, mask in ((IDS, MASK), (IDS[:1], MASK[1:2])):
        ids, mask = ids.to(DEVICE), mask.to(DEVICE)
        written = model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False)
        assert written.shape == (len(ids), 25)


def test_adaptation_is_that_of_the_cpu(models):
    dynamic = {"learning_rate": 0.003, "window": 4}
    statistics = [gradient_statistics(model, TOKENS, 0, columns=2) for model in models]
    for on_cpu, on_gpu in zip(*statistics, strict=True):
        assert (on_gpu.cpu() - on_cpu).norm() <= DIGITS * on_cpu.norm()
    cache = {"cache_size": 9}
    for adaptation in (Adaptation(**dynamic), Adaptation(**cache, temperature=1.1), Adaptation(**cache, **dynamic)):
        runs = zip(models, statistics, strict=True)
        on_cpu, on_gpu = (evaluate_adapted(model, TOKENS, 0, adaptation, of_model).loss for model, of_model in runs)
        assert_same(on_gpu, on_cpu, 10 * DIGITS)  # as rounding errors grow with the updates


def test_adaptation_has_weights_in_one_block(models):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*(contiguous|flatten_parameters).*")
        statistics = gradient_statistics(models[1], TOKENS, 0, columns=2, windows=2)
        evaluate_adapted(models[1], TOKENS[:20], 0, Adaptation(learning_rate=0.003), statistics)


def test_inspection_is_that_of_the_cpu(models):
    on_cpu, on_gpu = (inspect(model, IDS, distances=4) for model in models)
    assert on_gpu.keys() == on_cpu.keys() and on_gpu.pop("kind") == on_cpu.pop("kind")
    assert_same(on_gpu, on_cpu, 1e-6)  # in double precision, by other libraries
    assert_same(gradient_norms(models[1], IDS.to(DEVICE), distances=4), on_cpu["gradient_norms"], 1e-6)
    assert models[1].device.type == DEVICE and models[1].dtype == torch.float32


@torch.no_grad()
def test_a_state_goes_from_one_device_to_the_other(models, tmp_path):
    expected = models[0](IDS).logits[:, 3:]
    for number, (first, second) in enumerate((models, models[::-1])):
        given = first(IDS[:, :3].to(first.device)).cache
        given.save(tmp_path / f"state-{number}", first)
        states = [RNNCache.load(tmp_path / f"state-{number}", second), given.copy().to(second.device)]
        for state in states:
            logits = second(IDS[:, 3:].to(second.device), cache=state).logits
            assert logits.device == second.device
            torch.testing.assert_close(logits.cpu(), expected, rtol=DIGITS, atol=DIGITS)


@pytest.mark.parametrize("options", [{}, {"top_k": 0, "temperature": 1.3}, {"top_k": 5, "top_p": 0.8}], ids=str)
def test_the_seed_decides_what_is_sampled_whatever_the_padding(make_model, cell, options):
    model = make_model(cell, seed=3).to(DEVICE)  # in double precision, whose rounding changes no choice
    model.generation_config.pad_token_id = 0
    ids, mask = (IDS * MASK).to(DEVICE), MASK.to(DEVICE)

    def sample(ids, mask, seed=1):
        torch.manual_seed(seed)
        return model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=True, **options)[
            :, ids.shape[1] :
        ]

    first = sample(ids, mask)
    assert torch.equal(sample(ids, mask), first)
    assert not torch.equal(sample(ids, mask, seed=2), first)
    wider = [torch.nn.functional.pad(part, (3, 0)) for part in (ids, mask)]
    assert torch.equal(sample(*wider), first)
    one = sample(ids[1:2], mask[1:2])
    assert torch.equal(sample(ids[1:2], None), one) and torch.equal(sample(ids[1:2], mask[1:2]), one)
