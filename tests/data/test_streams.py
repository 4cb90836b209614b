"""A stream covers each kept token once, rows go on from window to window, and processes share whole columns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf.data.streams import TokenStream, reversed_stream
from rnn_hf.data.tokenization import build_tokenizer, encode_stream


shapes = {"columns": st.integers(1, 6), "window": st.integers(1, 9), "length": st.integers(6, 80)}


def stream_of(length, columns, window, **ranks):
    return TokenStream(np.arange(1, length + 1), start=0, columns=columns, window=window, **ranks)


@given(lines=st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5), max_size=6))
def test_a_reversed_stream_is_that_of_the_lines_in_reverse_order(lines):
    tokenizer = build_tokenizer(["a b c d e f g"])
    reversed_lines = [line[::-1] for line in reversed(lines)]
    stream, expected = (encode_stream(map(" ".join, order), tokenizer) for order in (lines, reversed_lines))
    got = reversed_stream(stream, tokenizer.eos_token_id)
    assert got.tolist() == expected.tolist() and got.dtype == expected.dtype
    assert reversed_stream(got, tokenizer.eos_token_id).tolist() == stream.tolist()


def test_a_line_that_is_cut_short_has_no_end_when_it_is_read_from_there():
    assert reversed_stream(np.array([2, 3, 0, 4, 5]), end=0).tolist() == [5, 4, 0, 3, 2]


@given(**shapes)
def test_each_kept_token_is_a_target_once_and_few_are_dropped(length, columns, window):
    stream = stream_of(length, columns, window)
    targets = sorted(token for _, window_targets in stream for token in window_targets.flatten().tolist())
    assert targets == list(range(1, len(targets) + 1))
    assert 0 <= length - len(targets) < columns
    assert len(targets) == stream.num_tokens


@given(**shapes)
def test_rows_go_on_and_the_input_is_the_token_before_the_target(length, columns, window):
    windows = list(stream_of(length, columns, window))
    inputs = torch.cat([inputs for inputs, _ in windows], dim=1)
    targets = torch.cat([targets for _, targets in windows], dim=1)
    assert torch.equal(inputs, targets - 1)  # the tokens are 1, 2, 3, ... after the start 0
    assert torch.equal(targets[:, 1:], targets[:, :-1] + 1)
    assert all(inputs.shape[1] == window for inputs, _ in windows[:-1])


@given(**shapes, ranks=st.integers(1, 3))
def test_processes_share_whole_columns(length, columns, window, ranks):
    columns, length = columns * ranks, length + columns * ranks
    whole = stream_of(length, columns, window)
    shares = [stream_of(length, columns, window, rank=rank, num_ranks=ranks) for rank in range(ranks)]
    for index in range(len(whole)):
        together = [torch.cat(parts) for parts in zip(*(share[index] for share in shares), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(together, whole[index], strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 9, "columns": 0, "window": 2}, "`columns` must be at least 1"),
        ({"length": 9, "columns": 2, "window": 0}, "`window` must be at least 1"),
        ({"length": 3, "columns": 4, "window": 2}, "too few"),
        ({"length": 9, "columns": 3, "window": 2, "num_ranks": 2}, "divide evenly"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        stream_of(**arguments)


def test_a_window_outside_the_stream_is_an_index_error():
    with pytest.raises(IndexError):
        stream_of(10, 2, 3)[2]


@given(**shapes, seed=st.integers(0, 99), epoch=st.integers(0, 3), shuffle=st.booleans(), jitter=st.booleans())
def test_an_epoch_has_each_token_once_after_the_one_before_it_whatever_is_drawn(
    length, columns, window, seed, epoch, shuffle, jitter
):
    stream = stream_of(length, columns, window)
    drawn, again = (stream.for_epoch(seed, epoch, jitter, shuffle) for _ in range(2))
    pairs = [[tuple(pair) for window in of for pair in torch.stack(window, dim=-1).flatten(0, 1).tolist()]
             for of in (stream, drawn, again)]  # fmt: skip
    assert sorted(pairs[0]) == sorted(pairs[1]) and pairs[1] == pairs[2]
    if not shuffle:
        targets = torch.cat([targets for _, targets in drawn], dim=1)
        assert torch.equal(targets, stream.targets)
    else:  # a column goes on but for one place
        breaks = (drawn.targets.diff(dim=1) != 1).sum(dim=1)
        assert (breaks <= 1).all()
    if jitter:
        assert all(len(targets[0]) >= 5 for _, targets in list(drawn)[:-1])


def test_drawn_windows_have_the_mean_of_their_rule_and_epochs_differ():
    stream = TokenStream(np.arange(200_001), 0, 1, 70)
    drawn = stream.for_epoch(1, 0, random_windows=True)
    lengths = np.diff(drawn.bounds)[:-1]
    assert lengths.mean() == pytest.approx(0.95 * 70 + 0.05 * 35, rel=0.02)
    assert (lengths < 50).mean() == pytest.approx(0.05, abs=0.015)
    assert drawn.bounds != stream.for_epoch(1, 1, random_windows=True).bounds
    assert drawn.bounds != stream.for_epoch(2, 0, random_windows=True).bounds


@given(columns=st.integers(1, 4), ranks=st.integers(1, 3))
def test_processes_share_what_was_drawn(columns, ranks):
    columns, length = columns * ranks, 60
    whole = stream_of(length, columns, 6).for_epoch(3, 1, True, True)
    shares = [stream_of(length, columns, 6, rank=rank, num_ranks=ranks).for_epoch(3, 1, True, True)
              for rank in range(ranks)]  # fmt: skip
    for index in range(len(whole)):
        together = [torch.cat(parts) for parts in zip(*(share[index] for share in shares), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(together, whole[index], strict=True))


def test_each_column_is_turned_to_a_place_of_its_own_and_differently_at_each_epoch():
    stream = TokenStream(np.arange(1000), 0, 10, 7)
    places = [stream.for_epoch(3, epoch, partial_shuffle=True).targets[:, 0] % 100 for epoch in range(2)]
    assert len(set(places[0].tolist())) > 5 and not torch.equal(*places)
