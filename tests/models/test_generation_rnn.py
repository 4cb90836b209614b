"""The decoding path: its loop gives what transformers' own gives, its step what the fused modules give."""

import inspect
from threading import Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList, MaxTimeCriteria, TextIteratorStreamer, TextStreamer, TopKLogitsWarper
from transformers.generation import MinPLogitsWarper, TemperatureLogitsWarper, TopPLogitsWarper

from rnn_hf import RNNCache, RNNConfig
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.models import RNNLayer
from rnn_hf.models.generation_rnn import STEPS_TO_PACK, Sampler, TokenBuffer


MASK = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
IDS = torch.randint(1, 11, (3, 5), generator=torch.Generator().manual_seed(0)) * MASK


def both(model, **options):
    """The same call by the light loop and by transformers' own, from the same seed; the former is seen to be taken."""
    taken = []
    original = type(model)._decoder

    def counting(self, *arguments):
        taken.append(1)
        return original(self, *arguments)

    type(model)._decoder = counting
    try:
        torch.manual_seed(0)
        ours = model.generate(IDS, attention_mask=MASK, **options)
        assert taken, "the light loop was not taken"
        model.decodes_directly = RNNLayer.steps_directly = False
        taken.clear()
        torch.manual_seed(0)
        stock = model.generate(IDS, attention_mask=MASK, **options)
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


def test_a_state_is_whole_when_the_loop_is_left_early_and_the_one_given_is_not_written_to(make_model, cell):
    model, state = make_model(cell), RNNCache(RNNConfig())
    model(IDS[2:], cache=state)
    given = [(layer.keys, layer.keys.clone()) for layer in state.layers]
    put = []

    class Impatient(TextStreamer):
        def __init__(self):
            pass

        def put(self, value):
            put.append(value.view(1, -1))
            if len(put) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate(torch.tensor([[3]]), cache=state.restart(), max_new_tokens=9, streamer=Impatient())
    assert all(torch.equal(tensor, copy) for tensor, copy in given)
    expected = RNNCache(model.config)
    model(torch.cat([IDS[2:], *put[:-1]], dim=1), cache=expected)  # the last token has not been run
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
