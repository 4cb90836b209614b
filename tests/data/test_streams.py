"""A stream covers each kept token once, rows go on from window to window, and processes share whole columns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf.data.streams import TokenStream


shapes = {"columns": st.integers(1, 6), "window": st.integers(1, 9), "length": st.integers(6, 80)}


def stream_of(length, columns, window, **ranks):
    return TokenStream(np.arange(1, length + 1), start=0, columns=columns, window=window, **ranks)


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
        ({"length": 9, "columns": 0, "window": 2}, "batch size"),
        ({"length": 9, "columns": 2, "window": 0}, "window"),
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
