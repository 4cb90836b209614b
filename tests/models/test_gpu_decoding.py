"""Decoding on a GPU: steps by a CUDA graph give what transformers' own loop gives, which runs the modules.

That the loop itself is right, whatever records its steps, is seen without a GPU in test_generation_rnn.py.
"""

import pytest
import torch

from rnn_hf import RNNCache
from rnn_hf.models import graph_rnn, kernels_rnn


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
FAILED = []  # graphs that must live on
STEPS = 40
EVERYTHING = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.fixture(autouse=True)
def full_precision():
    """cuDNN would round float32 to tf32 by itself, and products not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    graph_rnn.KEPT.clear()


@pytest.fixture(params=["graph", "cells"])
def recorded(request, monkeypatch):
    """What was recorded, in a list; the way of the parameter is taken unmeasured, and the recording must succeed."""
    steps, original = [], graph_rnn.record

    def record(*arguments):
        steps.append(original(*arguments))
        return steps[-1]

    def fastest(what, ways, margin=None):
        return request.param if request.param in ways else "graph"

    monkeypatch.setattr(graph_rnn, "record", record)
    monkeypatch.setattr(graph_rnn, "fastest", fastest)
    return steps


@pytest.fixture
def deep(make_model):
    """`deep(cell, dtype)`: a model on the GPU whose words hang on what came before, and are far from level."""

    def make(cell, dtype=torch.float64):
        model = make_model(cell, seed=3, dtype=dtype, embedding_size=6, hidden_size=8, tie_word_embeddings=False)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(3)
            model.lm_head.weight.mul_(6)
        model.generation_config.pad_token_id = 0
        return model.to(DEVICE)

    return make


def prompt(rows):
    ids = torch.randint(1, 11, (rows, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::2, 0] = 0
    return {"input_ids": (ids * mask).to(DEVICE), "attention_mask": mask.to(DEVICE)}


def both(model, rows, **options):
    """The same call by the light loop and by transformers' own, from the same seed."""
    found = []
    for model.decodes_directly in (True, False):
        torch.manual_seed(0)
        found.append(model.generate(**prompt(rows), **{"max_new_tokens": STEPS, "do_sample": False, **options}))
    model.decodes_directly = True
    return found


def assert_same_output(ours, stock, digits=1e-9):
    assert torch.equal(ours.sequences, stock.sequences)
    for name in ("scores", "logits"):
        for mine, theirs in zip(ours[name], stock[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=max(digits, 1e-6), atol=max(digits, 1e-6))
    for mine, theirs in zip(ours.cache.layers, stock.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=digits, atol=digits)
        torch.testing.assert_close(mine.values, theirs.values, rtol=digits, atol=digits)
        assert mine.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("rows", [1, 32, 256])
def test_a_graph_gives_the_tokens_scores_and_state_of_transformers_own_loop(deep, cell, recorded, rows):
    model = deep(cell)
    free = model.generate(**prompt(rows), max_new_tokens=STEPS, do_sample=False)
    ends = free[0, 5 + 20].item(), free[-1, 5 + 10].item()  # rows end one after the other
    for options in ({}, {"eos_token_id": ends[0]}, {"eos_token_id": list(ends)}, {"do_sample": True, "top_k": 0}):
        assert_same_output(*both(model, rows, **EVERYTHING, **options))
        assert torch.equal(*both(model, rows, **options))
    assert len(recorded) == 1


@pytest.mark.parametrize(
    "dtype, digits", [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=str
)
@pytest.mark.parametrize("rows", [1, 32])
def test_a_graph_gives_the_same_tokens_in_every_type(deep, cell, recorded, rows, dtype, digits):
    model = deep(cell, dtype)
    if cell.get("hidden_act") == "relu":  # which grows beyond what float16 holds
        for layer in model.model.layers:
            layer.rnn.weight_hh_l0.data.mul_(0.1)
    ours, stock = both(model, rows, **EVERYTHING)
    if dtype == torch.float32:
        assert_same_output(ours, stock, digits)
    # Where two words are level in half precision another kernel may choose the other: few rows then go apart.
    same = (ours.sequences == stock.sequences).all(dim=1)
    assert same.double().mean() >= 0.9, same
    for mine, theirs in zip(ours.logits, stock.logits, strict=True):
        torch.testing.assert_close(mine[same], theirs[same], rtol=10 * digits, atol=10 * digits)
    assert len(recorded) == 1


def test_with_torchs_own_settings_of_tf32_too(deep, cell, recorded):
    torch.backends.cudnn.allow_tf32 = True
    model = deep(cell, torch.float32)
    ours, stock = both(model, 32)
    assert (ours == stock).all(dim=1).double().mean() >= 0.9
    assert len(recorded) == 1


def test_a_mixture_and_top_k_run_by_a_graph(make_model, cell, recorded):
    model = make_model(cell, seed=3, num_softmaxes=2).to(DEVICE)
    assert_same_output(*both(model, 3, **EVERYTHING))
    sampled = model.generate(**prompt(3), max_new_tokens=STEPS, do_sample=True, top_k=3)
    assert sampled.shape == (3, 5 + STEPS) and len(recorded) == 1


def test_sampling_by_a_graph_draws_from_the_distribution(deep, cell, recorded):
    model, ids = deep(cell), prompt(2)["input_ids"][1:]  # the row without padding
    torch.manual_seed(0)
    options = {"max_new_tokens": 16, "do_sample": True, "top_k": 4, "temperature": 8.0}
    drawn = torch.cat([model.generate(ids.expand(256, -1), **options)[:, 5:7] for _ in range(8)])

    def assert_as_likely(words, text):
        logits, allowed = model(text).logits[0, -1].topk(4)
        found, expected = (words[:, None] == allowed).double().mean(0), (logits / 8).softmax(-1)
        spread = (expected * (1 - expected) / len(words)).sqrt() + 1 / len(words)  # the latter for few and rare ones
        assert ((found - expected).abs() <= 5 * spread).all()

    assert_as_likely(drawn[:, 0], ids)
    for word in drawn[:, 0].unique():  # the second hangs on the first, by the state
        assert_as_likely(drawn[drawn[:, 0] == word, 1], torch.cat([ids, word.view(1, 1)], dim=1))
    assert len(recorded) == 1


def test_what_a_graph_gave_stays_and_what_it_took_too(deep, cell, recorded):
    model = deep(cell)
    state = RNNCache(model.config)
    model(prompt(3)["input_ids"], cache=state)
    given = [(part, part.clone()) for layer in state.layers for part in (layer.keys, layer.values) if part is not None]
    first = model.generate(
        prompt(3)["input_ids"], cache=state.restart(), max_new_tokens=STEPS, do_sample=False, **EVERYTHING
    )
    kept = [*first.logits, *first.scores, *(layer.keys for layer in first.cache.layers)]
    copies = [part.clone() for part in kept]
    model.generate(prompt(3)["input_ids"].flip(1), max_new_tokens=STEPS, do_sample=False)
    torch.cuda.synchronize()
    assert all(torch.equal(part, copy) for part, copy in given + list(zip(kept, copies, strict=True)))
    assert len(recorded) == 1


def test_a_graph_follows_weights_that_change_in_place_and_is_recorded_anew_where_they_move(deep, cell, recorded):
    model = deep(cell)
    for times in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1)
        assert_same_output(*both(model, 3, **EVERYTHING))
        assert len(recorded) == times
        model.to("cpu").to(DEVICE)
        model.lm_head.weight.data = model.lm_head.weight.data.clone()


def test_a_graph_on_another_stream_and_in_inference_mode(deep, cell, recorded):
    model = deep(cell)
    expected = both(model, 3)[1]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        found = model.generate(**prompt(3), max_new_tokens=STEPS, do_sample=False)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)
    with torch.cuda.stream(stream):
        assert torch.equal(model.generate(**prompt(3), max_new_tokens=STEPS, do_sample=False), expected)


def test_a_recording_that_fails_leaves_all_as_it_was(deep, monkeypatch):
    model = deep({"cell_type": "lstm"})
    expected, original = both(model, 3)[1], graph_rnn.one_step
    graph_rnn.KEPT.clear()

    def waiting(layer, by_cells):
        step = original(layer, by_cells)

        def run(*arguments):
            outputs = step(*arguments)
            torch.cuda.current_stream().synchronize()  # which no graph can hold
            return outputs

        return run

    monkeypatch.setattr(graph_rnn, "FAILED", FAILED)
    monkeypatch.setattr(graph_rnn, "one_step", waiting)
    monkeypatch.setattr(graph_rnn, "fastest", lambda what, ways, margin=None: "graph")
    before = torch.cuda.current_stream()
    assert torch.equal(model.generate(**prompt(3), max_new_tokens=STEPS, do_sample=False), expected)
    assert torch.cuda.current_stream() == before and len(FAILED) == 1
    torch.cuda.empty_cache()  # which would raise if the recording were still under way, as would random numbers
    torch.rand(3, device=DEVICE)
    monkeypatch.setattr(graph_rnn, "FAILED", [])
    monkeypatch.setattr(graph_rnn, "one_step", original)
    assert torch.equal(model.generate(**prompt(3), max_new_tokens=STEPS, do_sample=False), expected)
    assert model in graph_rnn.KEPT and graph_rnn.KEPT[model]


def test_ways_are_measured_and_the_choice_is_seen(deep, cell, monkeypatch):
    monkeypatch.setattr(kernels_rnn, "CHOICES", kernels_rnn.Choices())
    model = deep(cell)
    assert torch.equal(*both(model, 1))
    assert [what for what in kernels_rnn.CHOICES if what.startswith("decoding ")], kernels_rnn.CHOICES
