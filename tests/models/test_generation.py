"""generate() in each of its ways, against loops over plain forward calls and against unpadded rows alone."""

import copy
import itertools

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from rnn_hf import RNNCache


PAD = 0
LEFT_PADDED = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])


def some_ids(batch: int = 3, time: int = 5, seed: int = 0) -> torch.Tensor:
    # Never the pad token: generate() would take it for padding where no mask says otherwise.
    return torch.randint(1, 11, (batch, time), generator=torch.Generator().manual_seed(seed))


def left_padded() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.where(LEFT_PADDED.bool(), some_ids(), PAD), LEFT_PADDED


def rows_alone(ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    return [row[kept.bool()][None] for row, kept in zip(ids, mask, strict=True)]


def greedy_by_hand(model, ids: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Without a state and without generate(): the whole sequence again for each token."""
    for _ in range(num_tokens):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


def log_likelihood(model, sequences: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Of the last tokens of each row given the ones before."""
    with torch.no_grad():
        log_probabilities = model(sequences).logits[:, :-1].log_softmax(-1)
    return log_probabilities.gather(-1, sequences[:, 1:, None])[:, -num_tokens:, 0].sum(1)


# Greedy


def test_greedy_equals_an_argmax_loop(model):
    ids = some_ids()
    expected = greedy_by_hand(model, ids, 7)
    assert len(set(map(tuple, expected[:, 5:].tolist()))) > 1
    assert torch.equal(model.generate(ids, max_new_tokens=7, do_sample=False), expected)
    assert torch.equal(model.generate(ids, max_new_tokens=7, do_sample=False, use_cache=False), expected)


def test_greedy_runs_each_token_once(model):
    lengths = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(some_ids(), max_new_tokens=4, do_sample=False)
    assert lengths == [5, 1, 1, 1]


def test_greedy_on_left_padding_equals_the_rows_alone(model):
    ids, mask = left_padded()
    together = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for row, alone in enumerate(rows_alone(ids, mask)):
        assert torch.equal(together[row, 5:], greedy_by_hand(model, alone, 6)[0, alone.shape[1] :])


def test_greedy_on_right_padding_equals_the_rows_alone(model):
    # Padding shows the output of the last real token before it, so even this is exact.
    ids, mask = left_padded()
    ids, mask = ids.flip(1), mask.flip(1)
    together = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for row, alone in enumerate(rows_alone(ids, mask)):
        assert torch.equal(together[row, 5:], greedy_by_hand(model, alone, 6)[0, alone.shape[1] :])


def test_greedy_stops_at_the_end_token_and_pads_the_row(model):
    ids = some_ids()
    free = greedy_by_hand(model, ids, 8)[:, 5:]
    end = int(free[0, 2])
    stopped = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=end)[:, 5:]
    for row in range(3):
        tokens = free[row].tolist()
        kept = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        assert stopped[row].tolist() == (kept + [PAD] * 8)[: stopped.shape[1]]


def test_custom_stopping_criteria_stop_each_row(model):
    ids = some_ids()
    free = greedy_by_hand(model, ids, 8)

    def after_three(input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 8)

    stopped = model.generate(ids, max_new_tokens=8, do_sample=False, stopping_criteria=[after_three])
    assert torch.equal(stopped, free[:, :8])


def test_custom_generate_function_runs(model):
    def greedily(model, input_ids, generation_config, **kwargs):
        return greedy_by_hand(model, input_ids, generation_config.max_new_tokens)

    ids = some_ids()
    got = model.generate(ids, custom_generate=greedily, max_new_tokens=2)
    assert torch.equal(got, greedy_by_hand(model, ids, 2))


# Sampling


def test_sampling_is_determined_by_the_seed(model):
    def draw(seed):
        torch.manual_seed(seed)
        return model.generate(some_ids(), max_new_tokens=8, do_sample=True, num_return_sequences=2)

    first = draw(0)
    assert first.shape == (6, 13)
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))
    assert torch.equal(first[:, :5], some_ids().repeat_interleave(2, 0))


def test_sampling_follows_the_distribution_of_the_model(model):
    ids = some_ids(1)
    torch.manual_seed(0)
    draws = model.generate(ids.expand(4000, 5), max_new_tokens=2, do_sample=True, top_k=0)
    with torch.no_grad():
        first = model(ids).logits[0, -1].softmax(-1)
        likeliest = first.argmax()
        second = model(torch.cat([ids, likeliest.view(1, 1)], 1)).logits[0, -1].softmax(-1)
    of_first = draws[:, 5].bincount(minlength=11) / 4000
    after = draws[draws[:, 5] == likeliest, 6]
    of_second = after.bincount(minlength=11) / len(after)
    assert ((of_first - first).abs() <= 5 * (first * (1 - first) / 4000).sqrt() + 1e-12).all()
    assert ((of_second - second).abs() <= 5 * (second * (1 - second) / len(after)).sqrt() + 1e-12).all()


# Beams


def test_beam_search_with_every_prefix_finds_the_likeliest_sequence(make_model, cell):
    model, ids = make_model(cell, vocab_size=4, seed=5), torch.tensor([[1, 2], [3, 1]])
    model.generation_config.pad_token_id = PAD
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(4)
    found = model.generate(
        ids, num_beams=16, max_new_tokens=3, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    continuations = torch.tensor(list(itertools.product(range(4), repeat=3)))
    for row in range(2):
        candidates = torch.cat([ids[row].expand(64, 2), continuations], dim=1)
        likelihoods = log_likelihood(model, candidates, 3)
        assert torch.equal(found.sequences[row], candidates[likelihoods.argmax()])
        torch.testing.assert_close(found.sequences_scores[row].double(), likelihoods.max() / 3, rtol=1e-5, atol=1e-5)


def test_beam_search_on_left_padding_equals_the_rows_alone(model):
    ids, mask = left_padded()
    arguments = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, **arguments).view(3, 3, -1)
    for row, alone in enumerate(rows_alone(ids, mask)):
        assert torch.equal(together[row, :, 5:], model.generate(alone, **arguments)[:, alone.shape[1] :])


def test_beam_search_without_a_state_is_the_same(model):
    arguments = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 6, "do_sample": False}
    ids = some_ids()
    assert torch.equal(model.generate(ids, **arguments), model.generate(ids, use_cache=False, **arguments))


def test_beams_come_best_first_with_their_own_scores(model):
    found = model.generate(
        some_ids(),
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=5,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    scores = found.sequences_scores.view(3, 4)
    assert (scores.diff(dim=1) <= 0).all()
    expected = log_likelihood(model, found.sequences, 5) / 5
    torch.testing.assert_close(found.sequences_scores.double(), expected, rtol=1e-4, atol=1e-4)
    assert len(set(map(tuple, found.sequences.tolist()))) == 12


def test_beam_sampling_is_determined_by_the_seed(model):
    def draw(seed):
        torch.manual_seed(seed)
        return model.generate(
            some_ids(),
            num_beams=3,
            num_return_sequences=2,
            max_new_tokens=6,
            do_sample=True,
            output_scores=True,
            return_dict_in_generate=True,
        )

    first, again = draw(0), draw(0)
    assert first.sequences.shape == (6, 11)
    assert torch.equal(first.sequences, again.sequences)
    assert any(not torch.equal(first.sequences, draw(seed).sequences) for seed in (1, 2, 3))
    assert torch.equal(first.sequences[:, :5], some_ids().repeat_interleave(2, 0))


# What comes back


def test_dictionary_holds_scores_logits_hidden_states_and_the_state(model):
    ids, mask = left_padded()
    found = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=4,
        do_sample=False,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    whole_mask = torch.cat([mask, torch.ones(3, 4, dtype=torch.long)], dim=1)
    whole = model(found.sequences, whole_mask, output_hidden_states=True)
    assert len(found.logits) == len(found.scores) == len(found.hidden_states) == 4
    for step in range(4):
        torch.testing.assert_close(found.logits[step], whole.logits[:, 4 + step].float())
        new = slice(0, 5) if step == 0 else slice(4 + step, 5 + step)
        for got, expected in zip(found.hidden_states[step], whole.hidden_states, strict=True):
            torch.testing.assert_close(got, expected[:, new])
    assert isinstance(found.cache, RNNCache)
    assert found.cache.get_seq_length() == 8  # the last token was not run yet
    expected = model(found.sequences[:, :-1], whole_mask[:, :-1]).cache
    torch.testing.assert_close(found.cache.layers[-1].keys, expected.layers[-1].keys)


def test_beam_dictionary_holds_the_state_of_the_beams(model):
    found = model.generate(
        some_ids(), num_beams=2, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    assert found.cache.layers[0].batch_size == 6
    assert found.beam_indices.shape[0] == 3


# Inputs


@pytest.mark.parametrize("num_beams", [1, 3])
def test_embeddings_generate_what_the_ids_do(model, num_beams):
    ids, mask = left_padded()
    arguments = {"attention_mask": mask, "num_beams": num_beams, "max_new_tokens": 5, "do_sample": False}
    by_ids = model.generate(ids, **arguments)
    by_embeddings = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **arguments)
    assert torch.equal(by_embeddings, by_ids[:, 5:])


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_prefill_in_chunks_equals_prefill_at_once(model, chunk, num_beams):
    ids, mask = left_padded()
    arguments = {"attention_mask": mask, "num_beams": num_beams, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(ids, prefill_chunk_size=chunk, **arguments), model.generate(ids, **arguments))


def test_continuation_equals_one_long_call(model):
    ids, mask = left_padded()
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    first = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    mask = torch.cat([mask, torch.ones(3, 3, dtype=torch.long)], dim=1)
    second = model.generate(
        first.sequences,
        attention_mask=mask,
        cache=first.cache,
        max_new_tokens=5,
        do_sample=False,
    )
    assert torch.equal(second, whole)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("cache_class", [RNNCache, DynamicCache])
def test_a_prompt_may_be_run_before_and_used_twice(model, num_beams, cache_class):
    ids = some_ids()
    cache = RNNCache(model.config) if cache_class is RNNCache else DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :3], cache=cache)
    arguments = {"num_beams": num_beams, "max_new_tokens": 5, "do_sample": False}
    expected = model.generate(ids, **arguments)
    if num_beams > 1:  # beams ask for a state of as many rows
        cache.batch_repeat_interleave(num_beams)
    for _ in range(2):
        assert torch.equal(model.generate(ids, cache=copy.deepcopy(cache), **arguments), expected)


def test_continuation_inside_a_graph_works(model):
    # The state of a training step keeps its graph; generation goes on from it all the same.
    ids = some_ids()
    state = model(ids[:, :3]).cache
    assert state.layers[0].keys.requires_grad
    expected = greedy_by_hand(model, ids, 4)
    assert torch.equal(model.generate(ids, cache=state, max_new_tokens=4, do_sample=False), expected)


# Kinds of cache


@pytest.mark.parametrize("implementation", ["static", "dynamic"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_static_and_dynamic_caches_are_accepted_and_equal(model, implementation, num_beams):
    ids, mask = left_padded()
    arguments = {"attention_mask": mask, "num_beams": num_beams, "max_new_tokens": 5, "do_sample": False}
    got = model.generate(ids, cache_implementation=implementation, **arguments)
    assert torch.equal(got, model.generate(ids, **arguments))


@pytest.mark.parametrize("implementation", ["quantized", "offloaded", "offloaded_static"])
def test_caches_that_make_no_sense_are_refused_with_words(model, implementation):
    with pytest.raises(ValueError, match=f"cache_implementation='{implementation}'.*recurrent state"):
        model.generate(some_ids(), cache_implementation=implementation, max_new_tokens=2)


@pytest.mark.parametrize("batch", [1, 2, 17, 64])
@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}])
@pytest.mark.usual_cells("lstm")
def test_rows_of_many_lengths_generate_what_each_generates_alone(model, batch, how):
    generator = torch.Generator().manual_seed(batch)
    lengths = torch.randint(1, 10, (batch, 1), generator=generator)
    mask = (torch.arange(9) >= 9 - lengths).long()
    ids = torch.randint(1, 11, (batch, 9), generator=generator) * mask
    options = {"max_new_tokens": 5, "do_sample": False, **how}
    together = model.generate(ids, attention_mask=mask, **options)[:, 9:]
    for row, alone in list(zip(together, rows_alone(ids, mask), strict=True))[:: max(1, batch // 4)]:
        assert torch.equal(row, model.generate(alone, **options)[0, alone.shape[1] :])


# Speculative decoding: the state goes back to before what was drafted in vain.


def draft_of(make_model, cell_type="gru"):
    draft = make_model({"cell_type": cell_type}, seed=9, embedding_size=4, hidden_size=4)
    draft.generation_config.pad_token_id = PAD
    return draft


@pytest.mark.parametrize("num_assistant_tokens", [1, 5])
def test_a_drafted_continuation_is_the_greedy_one(model, make_model, num_assistant_tokens):
    ids, draft = some_ids(1), draft_of(make_model)
    draft.generation_config.num_assistant_tokens = num_assistant_tokens
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)
    assert torch.equal(model.generate(ids, assistant_model=draft, max_new_tokens=20, do_sample=False), expected)
    assert torch.equal(model.generate(ids, assistant_model=model, max_new_tokens=20, do_sample=False), expected)


def test_prompt_look_up_gives_the_greedy_continuation_and_the_state_of_it(model):
    ids = some_ids(1).repeat(1, 4)  # so that there is something to look up
    expected = model.generate(ids, max_new_tokens=30, do_sample=False)
    found = model.generate(
        ids, prompt_lookup_num_tokens=3, max_new_tokens=30, do_sample=False, return_dict_in_generate=True
    )
    assert torch.equal(found.sequences, expected)
    run = found.cache.get_seq_length()
    state = model(expected[:, :run]).cache
    torch.testing.assert_close(found.cache.layers[-1].keys, state.layers[-1].keys)


@pytest.mark.slow
def test_a_drafted_sample_is_of_the_models_distribution(model, make_model):
    ids, draft = some_ids(1), draft_of(make_model)
    torch.manual_seed(0)
    options = {"assistant_model": draft, "max_new_tokens": 2, "do_sample": True, "top_k": 0}
    draws = torch.cat([model.generate(ids, **options)[:, 5] for _ in range(300)])
    expected = model(ids).logits[0, -1].softmax(-1)
    found = draws.bincount(minlength=11) / 300
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / 300).sqrt() + 1e-12).all()


def test_a_recurrent_draft_serves_a_transformer(make_model):
    config = GPT2Config(vocab_size=11, n_positions=64, n_embd=8, n_layer=1, n_head=2, initializer_range=1.0,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    torch.manual_seed(0)
    transformer, ids = GPT2LMHeadModel(config).eval(), some_ids(1)
    transformer.generation_config.pad_token_id = PAD
    expected = transformer.generate(ids, max_new_tokens=30, do_sample=False)
    for cell_type in ("lstm", "gru", "rnn"):
        draft = draft_of(make_model, cell_type).float()
        found = transformer.generate(ids, assistant_model=draft, max_new_tokens=30, do_sample=False)
        assert torch.equal(found, expected)
