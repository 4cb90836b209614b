"""Compacted and mirrored rows: which token stands where."""

import torch

from rnn_hf.models.padding_rnn import Compaction, mirrored


# Left, right and interior padding, and a row of padding alone.
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1], [0] * 6])


def test_compacted_rows_have_the_tokens_in_order_and_spread_shows_the_last_one_up_to_each_position():
    rows = Compaction.from_mask(MASK.bool())
    numbers = torch.arange(1, 25).view(4, 6)
    compact = rows.compact(numbers)
    assert compact.shape == rows.padding.shape == (4, 4)  # as long as the row with the most tokens
    assert [compact[row][~rows.padding[row]].tolist() for row in range(4)] == [
        [3, 4, 5, 6],
        [7, 8, 9],
        [13, 15, 16, 18],
        [],
    ]
    shown = rows.spread(compact[..., None].float(), -torch.ones(4, 1))[..., 0].tolist()
    assert shown == [[-1, -1, 3, 4, 5, 6], [7, 8, 9, 9, 9, 9], [13, 13, 15, 16, 16, 18], [-1] * 6]
    assert rows.last(compact[..., None].float(), -torch.ones(4, 1))[:, 0].tolist() == [6, 9, 18, -1]
    assert Compaction.from_mask(torch.ones(2, 3, dtype=torch.bool)) is None


def test_mirrored_rows_begin_with_their_last_token_and_twice_is_once():
    numbers = torch.arange(12.0).view(2, 6, 1)
    padding = torch.tensor([[False] * 4 + [True] * 2, [False] * 6])
    assert mirrored(numbers, padding)[..., 0].tolist() == [[3, 2, 1, 0, 4, 5], [11, 10, 9, 8, 7, 6]]
    assert torch.equal(mirrored(mirrored(numbers, padding), padding), numbers)
    assert torch.equal(mirrored(numbers, None), numbers.flip(1))
