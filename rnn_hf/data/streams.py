"""One token stream, cut into columns, walked in windows: the data of truncated backpropagation through time."""

from collections.abc import Iterator

import numpy as np
import torch


class TokenStream:
    """A stream of tokens as `(inputs, targets)` windows over parallel columns.

    The input at each step is the token before the target, and the first target's input is `start`, the end of an
    unseen line before the text; so every kept token is a target exactly once. Row b of one window goes on from row
    b of the window before it, so that the recurrent state may be carried.

    Args:
        tokens: The stream, `(tokens,)`.
        start: Id of the token before the first one.
        columns: Number of parallel columns; up to `columns - 1` tokens at the end are dropped to make them equal.
        window: Steps in a window; the last may be shorter.
        rank: Which of `num_ranks` this process is: it gets its own share of whole columns.
        num_ranks: Number of processes; must divide `columns`.

    Raises:
        ValueError: A number below 1, columns that do not divide evenly, or fewer tokens than columns.

    Example:

    >>> for inputs, targets in TokenStream(np.arange(1, 8), start=0, columns=2, window=2):
    ...     print(inputs.tolist(), targets.tolist())
    [[0, 1], [3, 4]] [[1, 2], [4, 5]]
    [[2], [5]] [[3], [6]]
    """

    def __init__(self, tokens: np.ndarray, start: int, columns: int, window: int, rank: int = 0, num_ranks: int = 1):
        for name, value in (("number of columns (batch size)", columns), ("window", window)):
            if value < 1:
                raise ValueError(f"the {name} must be at least 1, got {value}")
        if columns % num_ranks:
            raise ValueError(f"{columns} columns do not divide evenly among {num_ranks} processes")
        if len(tokens) < columns:
            raise ValueError(f"{len(tokens)} tokens are too few for {columns} columns: lower the batch size")
        steps = len(tokens) // columns
        kept = torch.from_numpy(np.ascontiguousarray(tokens[: steps * columns])).long()
        before = torch.cat([torch.tensor([start]), kept[:-1]])
        share = slice(rank * columns // num_ranks, (rank + 1) * columns // num_ranks)
        self.inputs = before.view(columns, steps)[share]
        self.targets = kept.view(columns, steps)[share]
        self.window = window

    @property
    def num_tokens(self) -> int:
        """Targets of all windows of this process."""
        return self.targets.numel()

    def __len__(self) -> int:
        """Number of windows."""
        return -(-self.targets.shape[1] // self.window)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Window `index`: inputs and targets, `(columns, window)` each."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        steps = slice(index * self.window, (index + 1) * self.window)
        return self.inputs[:, steps], self.targets[:, steps]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (self[index] for index in range(len(self)))
