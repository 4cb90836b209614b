"""Laws of a recurrent network, for every cell: windows, rows, padding, embeddings, and gradients through the state."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf import RNNCache


# float64: packing changes the order of no sum that matters, but kernels may differ in the last digits.
close = dict(rtol=1e-10, atol=1e-10)


def random_ids(seed: int, batch: int, time: int, vocab_size: int = 11) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def states_of(cache: RNNCache) -> list[torch.Tensor]:
    return [part for layer in cache.layers for part in (layer.keys, layer.values) if part is not None]


def assert_same_state(got: RNNCache, expected: RNNCache, rows=slice(None)):
    pairs = list(zip(states_of(got), states_of(expected), strict=True))
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a[rows], b[rows], **close)


def gradients_of(model) -> dict[str, torch.Tensor]:
    """Takes the gradients away; a parameter that received none has zeros."""
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return gradients


def assert_same_gradients(got: dict, expected: dict):
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], **close, msg=lambda text, name=name: f"{name}: {text}")


def after_some_tokens(model, batch: int, seed: int = 99) -> RNNCache:
    """A state that is nowhere near zero."""
    with torch.no_grad():
        return model(random_ids(seed, batch, 3)).cache


@st.composite
def windows(draw):
    """Rows and lengths of consecutive windows."""
    return draw(st.integers(1, 3)), draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)), draw(st.integers(0, 99))


@st.composite
def masks(draw):
    """(B, T) masks with holes anywhere; at least one token is padding, so that packing takes place."""
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    rows = draw(
        st.lists(st.lists(st.booleans(), min_size=time, max_size=time), min_size=batch, max_size=batch).filter(
            lambda rows: not all(map(all, rows))
        )
    )
    return torch.tensor(rows)


SHAPES_OF_PADDING = {
    "left": [[0, 0, 1, 1], [1, 1, 1, 1]],
    "right": [[1, 1, 0, 0], [1, 1, 1, 1]],
    "interior": [[1, 0, 0, 1], [1, 1, 0, 1]],
    "both sides": [[0, 1, 1, 0], [0, 0, 1, 0]],
    "longest row last": [[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]],
    "a row of padding": [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]],
    "padding alone": [[0, 0, 0], [0, 0, 0]],
    "one row": [[0, 0, 1, 1]],
    "one row with holes": [[1, 0, 1, 0]],
    "one row of padding": [[0, 0]],
    "single step": [[0], [1]],
    "single step, one row": [[0]],
}


# Windows and steps


@given(case=windows())
@torch.no_grad()  # where a step may be computed without the module
def test_any_split_into_windows_equals_the_whole_sequence(make_model, cell, case):
    batch, lengths, seed = case
    model, ids = make_model(cell, seed=seed), random_ids(seed, batch, sum(lengths))
    whole = model(ids)
    cache, pieces = None, []
    for window in ids.split(lengths, dim=1):
        output = model(window, cache=cache)
        cache = output.cache
        pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.logits, **close)
    assert_same_state(cache, whole.cache)
    assert cache.get_seq_length() == sum(lengths)


@given(seed=st.integers(0, 99), batch=st.integers(1, 3))
@torch.no_grad()  # where a step may be computed without the module
def test_step_by_step_equals_the_whole_sequence(make_model, cell, seed, batch):
    model, ids = make_model(cell, seed=seed), random_ids(seed, batch, 6)
    whole = model(ids)
    cache = RNNCache(model.config)
    for t in range(6):
        logits = model(ids[:, t : t + 1], cache=cache).logits
        torch.testing.assert_close(logits[:, 0], whole.logits[:, t], **close)
    assert_same_state(cache, whole.cache)


@given(seed=st.integers(0, 99))
def test_a_position_does_not_see_the_ones_after_it(make_model, cell, seed):
    model, ids = make_model(cell, seed=seed), random_ids(seed, 2, 6)
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 11
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(after[:, :4], before[:, :4], **close)
    assert not torch.allclose(after[:, 4], before[:, 4])


@given(seed=st.integers(0, 99), order=st.permutations(range(4)), padded=st.booleans())
def test_order_of_rows_does_not_matter(make_model, cell, seed, order, padded):
    model, ids = make_model(cell, seed=seed), random_ids(seed, 4, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1]]) if padded else None
    state = after_some_tokens(model, 4)
    permuted_state = copy.deepcopy(state)
    permuted_state.reorder_cache(torch.tensor(order))
    straight = model(ids, mask, state)
    permuted = model(ids[order], None if mask is None else mask[order], permuted_state)
    torch.testing.assert_close(permuted.logits, straight.logits[order], **close)
    straight.cache.reorder_cache(torch.tensor(order))
    assert_same_state(permuted.cache, straight.cache)


@given(seed=st.integers(0, 99), padded=st.booleans())
def test_embeddings_of_the_ids_equal_the_ids(make_model, cell, seed, padded):
    model, ids = make_model(cell, seed=seed), random_ids(seed, 2, 5)
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]]) if padded else None
    by_ids = model(ids, mask)
    by_embeddings = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask)
    torch.testing.assert_close(by_embeddings.logits, by_ids.logits, rtol=0, atol=0)
    assert_same_state(by_embeddings.cache, by_ids.cache)


# Padding


def check_padding(model, mask: torch.Tensor, carried: bool):
    """Each row against itself without its padding."""
    mask = mask.bool()
    batch, time = mask.shape
    ids = random_ids(7, batch, time)
    before = after_some_tokens(model, batch)
    if not carried:
        for layer in before.layers:
            layer.apply(torch.zeros_like)  # what the model must take no state for
    output = model(ids, mask.long(), copy.deepcopy(before) if carried else None, output_hidden_states=True)
    top = output.hidden_states[-1]
    for row in range(batch):
        state = copy.deepcopy(before)
        state.batch_select_indices(torch.tensor([row]))
        shown, real = state.layers[-1].keys[0], iter(())
        if mask[row].any():
            alone = model(ids[row, mask[row]][None], cache=state, output_hidden_states=True)
            torch.testing.assert_close(output.logits[row, mask[row]], alone.logits[0], **close)
            for layer, of_layer in zip(output.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(layer[row, mask[row]], of_layer[0], **close)
            real = iter(alone.hidden_states[-1][0])
        for got, expected in zip(states_of(output.cache), states_of(state), strict=True):
            torch.testing.assert_close(got[row], expected[0], **close)
        for t in range(time):
            shown = next(real) if mask[row, t] else shown
            torch.testing.assert_close(top[row, t], shown, **close)
    assert output.cache.get_seq_length() == time + (3 if carried else 0)


@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("rows", SHAPES_OF_PADDING.values(), ids=SHAPES_OF_PADDING.keys())
def test_padded_batch_equals_unpadded_rows(make_model, cell, rows, carried):
    check_padding(make_model(cell), torch.tensor(rows), carried)


@given(mask=masks(), carried=st.booleans(), num_layers=st.integers(1, 3))
def test_padding_anywhere_equals_unpadded_rows(make_model, cell, mask, carried, num_layers):
    check_padding(make_model(cell, num_hidden_layers=num_layers), mask, carried)


@given(mask=masks(), seed=st.integers(0, 99))
def test_what_stands_at_padding_does_not_matter(make_model, cell, mask, seed):
    model, ids = make_model(cell), random_ids(1, *mask.shape)
    other = torch.where(mask, ids, random_ids(seed, *mask.shape))
    torch.testing.assert_close(model(other, mask).logits, model(ids, mask).logits, **close)


@given(mask=masks())
def test_mask_of_the_whole_history_counts_by_its_last_columns(make_model, cell, mask):
    # generate() hands the mask of all tokens so far to a call that runs the newest ones only.
    model, ids = make_model(cell), random_ids(1, *mask.shape)
    history = torch.cat([torch.tensor([[1, 0, 1]]).expand(len(mask), 3), mask.long()], dim=1)
    with_history = model(ids, history, after_some_tokens(model, len(mask)))
    without = model(ids, mask, after_some_tokens(model, len(mask)))
    torch.testing.assert_close(with_history.logits, without.logits, **close)
    assert_same_state(with_history.cache, without.cache)


def test_mask_of_ones_is_no_mask(make_model, cell):
    model, ids = make_model(cell), random_ids(1, 2, 4)
    for mask in (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool)):
        torch.testing.assert_close(model(ids, mask).logits, model(ids).logits, rtol=0, atol=0)


@torch.no_grad()  # where a step may be computed without the module
def test_single_step_calls_with_mask_zero_keep_state_and_output(make_model, cell):
    model, cache = make_model(cell), None
    ids, mask = random_ids(3, 2, 5), torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 1, 1]])
    steps = []
    for t in range(5):
        output = model(ids[:, t : t + 1], mask[:, t : t + 1], cache)
        cache = output.cache
        steps.append(output.logits)
    at_once = model(ids, mask)
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once.logits, **close)
    assert_same_state(cache, at_once.cache)


@given(mask=masks(), carried=st.booleans())
def test_gradients_of_a_padded_batch_are_the_sum_of_those_of_its_rows(make_model, cell, mask, carried):
    model = make_model(cell)
    ids, weights = random_ids(5, *mask.shape), torch.rand(*mask.shape, 11, dtype=torch.float64)
    state = after_some_tokens(model, len(mask)) if carried else None
    # The state takes part in the loss too, as it does where no one cuts its graph.
    output = model(ids, mask, copy.deepcopy(state))
    total = (output.logits * weights)[mask].sum() + sum(part.sum() for part in states_of(output.cache))
    if mask.any():
        total.backward()
    padded = gradients_of(model)
    for row in [row for row in range(len(mask)) if mask[row].any()]:
        alone = copy.deepcopy(state)
        if alone is not None:
            alone.batch_select_indices(torch.tensor([row]))
        single = model(ids[row, mask[row]][None], cache=alone)
        loss = (single.logits[0] * weights[row, mask[row]]).sum()
        (loss + sum(part.sum() for part in states_of(single.cache))).backward()
    assert_same_gradients(padded, gradients_of(model))


def test_outputs_at_padding_carry_the_gradient_of_the_token_they_show(make_model, cell):
    model, ids = make_model(cell), random_ids(2, 2, 4)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    model(ids, mask).logits[0, 3].sum().backward()
    at_padding = gradients_of(model)
    model(ids, mask).logits[0, 1].sum().backward()
    assert_same_gradients(at_padding, gradients_of(model))


# Gradients through the state


@given(case=windows(), padded=st.booleans())
def test_gradient_through_a_carried_state_is_that_of_one_long_window(make_model, cell, case, padded):
    batch, lengths, seed = case
    model, ids = make_model(cell, seed=seed), random_ids(seed, batch, sum(lengths))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 0] = 0
    weights = torch.rand(batch, sum(lengths), 11, dtype=torch.float64)
    (model(ids, mask).logits * weights).sum().backward()
    whole = gradients_of(model)
    cache, loss = None, 0
    for window, part, weight in zip(
        ids.split(lengths, 1), mask.split(lengths, 1), weights.split(lengths, 1), strict=True
    ):
        output = model(window, part, cache)
        cache, loss = output.cache, loss + (output.logits * weight).sum()
    loss.backward()
    assert_same_gradients(gradients_of(model), whole)


def test_detach_cuts_the_gradient_and_keeps_the_numbers(make_model, cell):
    model, ids = make_model(cell), random_ids(4, 2, 6)
    cache = model(ids[:, :3]).cache
    kept = [part.clone() for part in states_of(cache)]
    assert all(part.requires_grad for part in states_of(cache))
    assert cache.detach() is cache
    assert not any(part.requires_grad for part in states_of(cache))
    for part, before in zip(states_of(cache), kept, strict=True):
        assert torch.equal(part, before)
    model(ids[:, 3:], cache=cache).logits.sum().backward()
    truncated = gradients_of(model)

    with torch.no_grad():
        constant = model(ids[:, :3]).cache
    model(ids[:, 3:], cache=constant).logits.sum().backward()
    assert_same_gradients(truncated, gradients_of(model))


def test_training_mode_without_dropout_equals_eval(make_model, cell):
    model, ids = make_model(cell), random_ids(4, 2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    expected = model(ids, mask).logits
    torch.testing.assert_close(model.train()(ids, mask).logits, expected, **close)
