"""The decoding path: its loop gives what transformers' own gives, its step what the fused modules give."""

import inspect
from threading import Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LogitsProcessorList, MaxTimeCriteria, TextIteratorStreamer, TextStreamer, TopKLogitsWarper
from transformers.generation import MinPLogitsWarper, TemperatureLogitsWarper, TopPLogitsWarper

from rnn_hf import RNNCache, RNNConfig
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.models import RNNLayer, graph_rnn, kernels_rnn
from rnn_hf.models.generation_rnn import STEPS_TO_PACK, Sampler, TokenBuffer


MASK = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
IDS = torch.randint(1, 11, (3, 5), generator=torch.Generator().manual_seed(0)) * MASK


def both(model, rows=3, **options):
    """The same call by the light loop and by transformers' own, from the same seed; the former is seen to be taken."""
    options["attention_mask"] = MASK[-rows:]
    taken = []
    original = type(model)._decoder

    def counting(self, *arguments):
        taken.append(1)
        return original(self, *arguments)

    type(model)._decoder = counting
    try:
        torch.manual_seed(0)
        ours = model.generate(IDS[-rows:], **options)
        assert taken, "the light loop was not taken"
        model.decodes_directly = RNNLayer.steps_directly = False
        taken.clear()
        torch.manual_seed(0)
        stock = model.generate(IDS[-rows:], **options)
        assert not taken, "the light loop was taken"
    finally:
        type(model)._decoder = original
        model.decodes_directly = RNNLayer.steps_directly = True
    return ours, stock


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": False, "eos_token_id": [3, 7]},
        {"do_sample": False, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"do_sample": False, "bad_words_ids": [[4], [5, 6]], "min_new_tokens": 3, "eos_token_id": 3},
        {"do_sample": False, "prefix_allowed_tokens_fn": lambda row, ids: [1 + (len(ids) + row) % 10, 2]},
        {"do_sample": False, "stopping_criteria": [lambda ids, scores: ids[:, -1] == 4], "eos_token_id": 3},
        {"do_sample": False, "max_time": 100.0, "eos_token_id": 3},
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "top_k": 0, "top_p": 0.7, "num_return_sequences": 3, "eos_token_id": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_the_loop_gives_the_tokens_of_transformers_own(model, options):
    ours, stock = both(model, max_new_tokens=12, **options)
    assert torch.equal(ours, stock)
    assert ours.is_contiguous()


@pytest.mark.parametrize("do_sample", [False, True])
def test_the_dictionary_of_the_loop_is_that_of_transformers_own(model, do_sample):
    ours, stock = both(
        model, max_new_tokens=6, do_sample=do_sample, eos_token_id=3, temperature=0.7, top_k=5,
        return_dict_in_generate=True, output_scores=True, output_logits=True,
    )  # fmt: skip
    assert torch.equal(ours.sequences, stock.sequences)
    for name in ("scores", "logits"):
        for mine, theirs in zip(ours[name], stock[name], strict=True):
            torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(ours.cache.layers, stock.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys)
        assert mine.get_seq_length() == theirs.get_seq_length()
    scores = [model.compute_transition_scores(o.sequences, o.scores) for o in (ours, stock)]
    torch.testing.assert_close(*scores)


def test_hidden_states_and_hooks_take_transformers_own_loop(model):
    found = model.generate(
        IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False, return_dict_in_generate=True,
        output_hidden_states=True,
    )  # fmt: skip
    assert len(found.hidden_states) == 3
    calls = []
    handle = model.lm_head.register_forward_hook(lambda *arguments: calls.append(1))
    hooked = model.generate(IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False)
    handle.remove()
    assert len(calls) == 3 and torch.equal(hooked, found.sequences)


@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_that_are_wanted_elsewhere_do_not_change_the_tokens(model, rows):
    options = {"attention_mask": MASK[:rows], "max_new_tokens": 4, "do_sample": False}
    undecorated = inspect.unwrap(type(model).generate)  # without torch's no_grad
    assert torch.equal(undecorated(model, IDS[:rows], **options), model.generate(IDS[:rows], **options))


def test_a_streamer_gets_the_prompt_each_token_and_the_end(model, capsys):
    tokenizer = build_tokenizer(["a b c d e f g h i"])

    class Recorder(TextStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    recorder = Recorder()
    ids = IDS[2:]
    found = model.generate(ids, max_new_tokens=6, do_sample=False, streamer=recorder)
    assert recorder.tokens == found[0].tolist() and recorder.ended
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    Thread(
        target=model.generate, args=(ids,), kwargs={"max_new_tokens": 6, "do_sample": False, "streamer": streamer}
    ).start()
    assert "".join(streamer) == tokenizer.decode(found[0, 5:])


def test_a_time_limit_ends_the_loop(model):
    found = model.generate(IDS, attention_mask=MASK, max_new_tokens=10_000, do_sample=False,
                           stopping_criteria=[MaxTimeCriteria(0.2)])  # fmt: skip
    assert 5 < found.shape[1] < 10_000


def test_stop_strings_end_each_row(model):
    tokenizer = build_tokenizer(["a b c d e f g h i"], kind="char")
    free = model.generate(IDS[2:], max_new_tokens=8, do_sample=False)
    word = tokenizer.decode(free[0, 7:8])
    options = {"max_new_tokens": 8, "do_sample": False, "stop_strings": [word], "tokenizer": tokenizer}
    stopped = model.generate(IDS[2:], **options)
    first = free[0, 5:].tolist().index(int(free[0, 7]))
    assert torch.equal(stopped, free[:, : 6 + first])


# Top-k first


def processors(top_k):
    return LogitsProcessorList(
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(top_k), TopPLogitsWarper(0.9), MinPLogitsWarper(0.02)]
    )


def test_top_k_first_draws_from_the_distribution_of_the_whole_chain():
    torch.manual_seed(0)
    logits = (2 * torch.randn(1, 60)).expand(40_000, -1)
    expected = processors(12)(None, logits[:1])[0].softmax(-1)
    tokens, _ = Sampler(processors(12), do_sample=True, keeps_scores=False)(None, logits)
    found = tokens.bincount(minlength=60) / 40_000
    assert (found[expected == 0] == 0).all()
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / 40_000).sqrt() + 1e-12).all()


@given(st.integers(0, 1000), st.integers(1, 12))
def test_where_candidates_are_level_all_of_them_stay_as_in_transformers(seed, top_k):
    torch.manual_seed(seed)
    logits = torch.randint(0, 4, (5, 12)).float()
    expected = processors(top_k)(None, logits).softmax(-1)
    sampler = Sampler(processors(top_k), do_sample=True, keeps_scores=False)
    for _ in range(20):
        tokens, _ = sampler(None, logits)
        assert (expected.gather(1, tokens[:, None]) > 0).all()


def test_what_may_not_see_candidates_alone_keeps_the_chain_whole():
    chain = LogitsProcessorList([TopKLogitsWarper(3), lambda ids, scores: scores.roll(1, dims=1)])
    sampler = Sampler(chain, do_sample=True, keeps_scores=False)
    tokens, scores = sampler(None, torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.0]]) * 10)
    assert tokens.tolist() == [1] and scores is not None


# Steps


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("way", ["linear", "parts", "packed", "vector", "whole", "module", "step"])
def test_every_way_to_compute_a_step_gives_the_same_tokens_and_state(make_model, cell, rows, way, choose):
    model, options = make_model(cell).float(), {"do_sample": False, "return_dict_in_generate": True}
    ids = IDS[2:].expand(rows, -1)
    model.decodes_directly = RNNLayer.steps_directly = False
    try:
        stock = model.generate(ids, max_new_tokens=STEPS_TO_PACK + 4, **options)
    finally:
        model.decodes_directly = RNNLayer.steps_directly = True
    choose(way)
    for steps in (STEPS_TO_PACK - 1, STEPS_TO_PACK + 4):
        ours = model.generate(ids, max_new_tokens=steps, **options)
        assert torch.equal(ours.sequences, stock.sequences[:, : 5 + steps])
    for mine, theirs in zip(ours.cache.layers, stock.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=2e-6, rtol=0)
        assert mine.get_seq_length() == theirs.get_seq_length()
        if theirs.values is not None:
            torch.testing.assert_close(mine.values, theirs.values, atol=5e-6, rtol=0)


class Impatient(TextStreamer):
    """Leaves the loop at the fifth token; keeps what it has seen, `(1, T)` each."""

    def __init__(self):
        self.seen = []

    def put(self, value):
        self.seen.append(value.view(1, -1))
        if len(self.seen) == 5:
            raise KeyboardInterrupt


def test_a_state_is_whole_when_the_loop_is_left_early_and_the_one_given_is_not_written_to(make_model, cell):
    model, state = make_model(cell), RNNCache(RNNConfig())
    model(IDS[2:], cache=state)
    given = [(layer.keys, layer.keys.clone()) for layer in state.layers]
    impatient = Impatient()

    with pytest.raises(KeyboardInterrupt):
        model.generate(torch.tensor([[3]]), cache=state.restart(), max_new_tokens=9, streamer=impatient)
    assert all(torch.equal(tensor, copy) for tensor, copy in given)
    expected = RNNCache(model.config)
    model(torch.cat([IDS[2:], *impatient.seen[:-1]], dim=1), cache=expected)  # the last token has not been run
    for mine, theirs in zip(state.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys)


@pytest.mark.parametrize("rows", [1, 3])
def test_packed_copies_follow_weights_that_change_and_give_the_same_tokens(make_model, cell, rows):
    model = make_model(cell).float()
    ids, found = IDS[2:].expand(rows, -1), []
    for _ in range(2):
        with torch.no_grad():
            model.lm_head.weight.data.mul_(-1)  # a change of which `_version` knows nothing
            for layer in model.model.layers:
                layer.rnn.weight_ih_l0.data.mul_(-1)
        options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        long = model.generate(ids, max_new_tokens=STEPS_TO_PACK + 4, **options)
        short = model.generate(ids, max_new_tokens=STEPS_TO_PACK - 1, **options)
        assert torch.equal(long.sequences[:, : short.sequences.shape[1]], short.sequences)
        for packed_logits, logits in zip(long.logits, short.logits, strict=False):
            torch.testing.assert_close(packed_logits, logits, atol=2e-6, rtol=1e-5)
        found.append(long.logits[1])
    assert not torch.allclose(*found)


def test_a_buffer_grows_and_what_it_gave_stays():
    buffer, expected = TokenBuffer(torch.tensor([[7], [8]])), [[7], [8]]
    early = buffer.append(torch.tensor([0, 0]))
    for number in range(1000):
        found = buffer.append(torch.tensor([number, -number]))
    assert early.tolist() == [row + [0] for row in expected]
    assert found[0].tolist() == [7, 0, *range(1000)] and found.shape == (2, 1002)


# Steps by a graph. A CPU has none: a step that was recorded is computed again at each run, into the same memory.

LONG = {"max_new_tokens": STEPS_TO_PACK + 8, "do_sample": False}
EVERYTHING = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.fixture
def recorded(monkeypatch):
    """What was recorded, in a list. A graph of the modules is the fastest way, or that of `graph_rnn.fastest.way`."""
    steps = []

    @torch.no_grad()
    def record(step, device):
        steps.append(step)
        output = step()
        return torch.no_grad()(lambda: output.copy_(step())), output

    def fastest(what, ways, margin=None):
        return "cells" if fastest.way == "cells" and "cells" in ways else "graph"

    fastest.way = "graph"
    monkeypatch.setattr(graph_rnn, "record", record)
    monkeypatch.setattr(graph_rnn, "is_free_gpu", lambda device: True)
    monkeypatch.setattr(graph_rnn, "fastest", fastest)
    yield steps
    graph_rnn.KEPT.clear()


@pytest.fixture
def lstm(make_model):
    return make_model({"cell_type": "lstm"}, seed=3)


def assert_same_output(ours, stock):
    assert torch.equal(ours.sequences, stock.sequences)
    for name in ("scores", "logits"):
        for mine, theirs in zip(ours[name], stock[name], strict=True):
            torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(ours.cache.layers, stock.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys)
        torch.testing.assert_close(mine.values, theirs.values)
        assert mine.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("way", ["graph", "cells"])
@pytest.mark.usual_cells("lstm")
def test_a_graph_gives_the_tokens_scores_and_state_of_transformers_own_loop(model, recorded, way, rows):
    graph_rnn.fastest.way = way
    free = model.generate(IDS[-rows:], attention_mask=MASK[-rows:], **LONG)
    ends = [int(row[5 + 7 - 2 * index]) for index, row in enumerate(free)]  # rows end one after the other
    for options in ({}, {"eos_token_id": ends}, {"eos_token_id": ends[0]}, {"do_sample": True, "top_k": 0}):
        assert_same_output(*both(model, rows, **{**LONG, **EVERYTHING, **options}))
    for options in ({"eos_token_id": ends}, {"stopping_criteria": [lambda ids, scores: ids[:, -1] == ends[0]]}):
        assert torch.equal(*both(model, rows, **LONG, **options))
    assert len(recorded) == 1


def test_a_graph_runs_every_head(make_model, cell, recorded):
    for fields in ({"num_softmaxes": 2}, {"tie_word_embeddings": False}):
        model = make_model(cell, seed=3, **fields)
        assert_same_output(*both(model, **LONG, **EVERYTHING))
    assert len(recorded) == 2


def test_what_a_graph_gave_stays_when_it_is_run_again(model, recorded):
    found = [model.generate(IDS, attention_mask=MASK, **LONG, **EVERYTHING)]
    kept = [(part, part.clone()) for part in (*found[0].logits, *found[0].scores)]
    kept += [(layer.keys, layer.keys.clone()) for layer in found[0].cache.layers]
    model.generate(IDS.flip(1), attention_mask=MASK.flip(1), **LONG)
    assert all(torch.equal(part, copy) for part, copy in kept)
    assert len(recorded) == 1


def test_a_graph_leaves_the_state_that_it_began_with_and_a_whole_one_when_it_is_left_early(model, recorded):
    state = RNNCache(model.config)
    model(IDS[2:], cache=state)
    given = [(layer.keys, layer.keys.clone()) for layer in state.layers]
    impatient = Impatient()

    for end in ({}, {"eos_token_id": 99}):  # with an end token the next step has begun by then
        impatient.seen.clear()
        fork = state.copy().restart()
        for mine, theirs in zip(fork.layers, state.layers, strict=True):
            mine.keys, mine.values = theirs.keys, theirs.values
        with pytest.raises(KeyboardInterrupt):
            model.generate(torch.tensor([[3]]), cache=fork, streamer=impatient, **LONG, **end)
        assert all(torch.equal(tensor, copy) for tensor, copy in given)
        expected = RNNCache(model.config)
        model(torch.cat([IDS[2:], *impatient.seen[:-1]], dim=1), cache=expected)  # the last token has not been run
        for mine, theirs in zip(fork.layers, expected.layers, strict=True):
            torch.testing.assert_close(mine.keys, theirs.keys)
    assert len(recorded) == 1


def test_a_kept_graph_follows_its_weights_and_is_recorded_anew_where_they_have_moved(lstm, recorded):
    for times in (1, 2):
        with torch.no_grad():
            for parameter in lstm.parameters():
                parameter.data.mul_(-1)
        assert_same_output(*both(lstm, **LONG, **EVERYTHING))
        assert_same_output(*both(lstm, 1, **LONG, **EVERYTHING))
        assert len(recorded) == 2 * times
        lstm.lm_head.weight.data = lstm.lm_head.weight.data.clone()
        assert_same_output(*both(lstm, **LONG, **EVERYTHING))
        assert_same_output(*both(lstm, 1, **LONG, **EVERYTHING))
    for rows in range(1, 2 * graph_rnn.MOST_KEPT):
        lstm.generate(IDS[2:].expand(rows, -1), **LONG)
    assert len(graph_rnn.KEPT[lstm]) == graph_rnn.MOST_KEPT


def test_one_graph_is_never_run_by_two_at_once(lstm, recorded):
    expected = lstm.generate(IDS[:1], attention_mask=MASK[:1], **LONG)
    inner = []

    def meanwhile(ids, scores):
        if ids.shape[1] == 9:
            inner.append(lstm.generate(IDS[:1], attention_mask=MASK[:1], **LONG))
        return False

    outer = lstm.generate(IDS[2:], **LONG, stopping_criteria=[meanwhile])
    assert torch.equal(inner[0], expected) and torch.equal(outer, both(lstm, 1, **LONG)[1])
    assert len(recorded) == 2


def test_what_cannot_be_recorded_is_run_by_the_modules(lstm, recorded, monkeypatch):
    expected = lstm.generate(IDS, attention_mask=MASK, **LONG)

    def record(step, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    graph_rnn.KEPT.clear()
    monkeypatch.setattr(graph_rnn, "record", record)
    said = []
    monkeypatch.setattr(graph_rnn.logger, "warning_once", said.append)
    assert torch.equal(lstm.generate(IDS, attention_mask=MASK, **LONG), expected)
    assert len(said) == 1 and "not permitted" in said[0]
    # Where ways are measured, that one is left out.
    monkeypatch.setattr(kernels_rnn, "CHOICES", kernels_rnn.Choices())
    monkeypatch.setattr(graph_rnn, "fastest", kernels_rnn.fastest)
    assert torch.equal(lstm.generate(IDS, attention_mask=MASK, **LONG), expected)
    assert len(said) == 1 and "modules" in kernels_rnn.CHOICES.values()


def test_the_fastest_step_is_measured_once_and_each_gives_the_same_tokens(lstm, recorded, monkeypatch):
    monkeypatch.setattr(kernels_rnn, "CHOICES", kernels_rnn.Choices())
    monkeypatch.setattr(graph_rnn, "fastest", kernels_rnn.fastest)
    assert torch.equal(*both(lstm, **LONG))
    choices = dict(kernels_rnn.CHOICES)
    assert sum(what.startswith("decoding cpu float64") for what in choices) == 1
    assert len(recorded) == 2
    assert torch.equal(*both(lstm, **LONG))
    assert choices == kernels_rnn.CHOICES


def test_products_that_round_otherwise_than_the_modules_are_no_choice(make_model, cell, recorded, monkeypatch):
    graph_rnn.fastest.way = "cells"
    used = []
    monkeypatch.setattr(graph_rnn, "one_step", lambda layer, by_cells: used.append(by_cells) or layer_step(layer))
    for dtype, switches in [
        (torch.float64, (False, True)), (torch.float32, (True, True)), (torch.float32, (False, True)),
        (torch.bfloat16, (False, False)),
    ]:  # fmt: skip
        monkeypatch.setattr(graph_rnn, "tf32", lambda switches=switches: switches)
        make_model(cell, dtype=dtype).generate(IDS[2:], **LONG)
    expected = [False] * 4 if "projection_size" in cell else [True, True, False, False]
    assert used[::2] == expected


def layer_step(layer):
    return lambda inputs, hidden, cell: layer(inputs[:, None], hidden, cell)[1:]


@pytest.mark.parametrize(
    "what",
    ["nothing", "hook", "global hook", "parametrization", "subclass", "weight", "short", "many rows", "records"],
)
def test_a_step_is_recorded_only_where_it_is_no_more_than_the_weights(make_model, recorded, monkeypatch, what):
    model, ids, options = make_model({"cell_type": "gru"}, num_softmaxes=2), IDS[2:], dict(LONG)
    calls, handles = [], []
    if what == "hook":
        model.mixture.latent.register_forward_hook(lambda *arguments: calls.append(1))
    elif what == "global hook":
        handles.append(nn.modules.module.register_module_forward_hook(lambda *arguments: None))
    elif what == "parametrization":
        nn.utils.parametrizations.weight_norm(model.model.layers[0].rnn, "weight_hh_l0")
    elif what == "subclass":
        model.mixture.latent.__class__ = type("Own", (nn.Linear,), {})
    elif what == "weight":
        model.mixture.prior.weight = type("Own", (nn.Parameter,), {})(model.mixture.prior.weight.detach())
    elif what == "short":
        options["max_new_tokens"] = STEPS_TO_PACK - 1
    elif what == "many rows":
        monkeypatch.setattr(graph_rnn, "MOST_ROWS", 2)
        ids = ids.expand(3, -1)
    elif what == "records":
        options["cache"] = RNNCache(model.config)
        options["cache"].activate_past_recording()
    try:
        model.generate(ids, **options)
    finally:
        for handle in handles:
            handle.remove()
    assert len(recorded) == (what == "nothing")
    assert len(calls) == (options["max_new_tokens"] if what == "hook" else 0)


def test_a_graph_that_was_made_in_inference_mode_is_of_use_outside_it(lstm, recorded):
    with torch.inference_mode():
        found = lstm.generate(IDS, attention_mask=MASK, **LONG)
    undecorated = inspect.unwrap(type(lstm).generate)  # without torch's no_grad
    assert torch.equal(undecorated(lstm, IDS, attention_mask=MASK, **LONG), found)
    assert len(recorded) == 1


# Going back


def test_a_recorded_state_goes_back_step_by_step_and_forgets_what_was_recorded(model):
    states, cache = [], RNNCache(model.config)
    cache.activate_past_recording()
    for time in range(5):
        states.append(cache.layers[-1].keys)
        model(IDS[2:, time : time + 1], cache=cache)
    cache.crop(-2)
    assert cache.get_seq_length() == 3 and torch.equal(cache.layers[-1].keys, states[3])
    with pytest.raises(ValueError, match="cannot go back 1 steps: 0 are recorded.*activate_past_recording"):
        cache.crop(-1)
    again = model(IDS[2:, 3:], cache=cache)
    torch.testing.assert_close(again.logits, model(IDS[2:]).logits[:, 3:])
    cache.crop(-2)
    torch.testing.assert_close(cache.layers[-1].keys, states[3])


def test_recording_changes_no_output_with_padding_or_without_and_however_long(make_model, cell):
    model, plain, recording = make_model(cell), RNNCache(RNNConfig()), RNNCache(RNNConfig())
    recording.activate_past_recording()
    ids = torch.randint(1, 11, (2, 140), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 100:] = mask[1, :5] = 0
    expected = model(ids, mask, cache=plain).logits
    torch.testing.assert_close(model(ids, mask, cache=recording).logits, expected)
    torch.testing.assert_close(recording.layers[-1].keys, plain.layers[-1].keys)
