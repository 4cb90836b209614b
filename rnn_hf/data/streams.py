"""One token stream, cut into columns, walked in windows: the data of truncated backpropagation through time."""

import copy
from collections.abc import Iterator

import numpy as np
import torch

from rnn_hf.errors import InputError


def reversed_stream(tokens: np.ndarray, end: int) -> np.ndarray:
    """The ids of a text for a language model that reads backward: those of the text with its lines in reverse order,
    and the tokens of each line.

    Args:
        tokens: Ids of lines, each closed by `end`, `(tokens,)`; the last line may be cut short.
        end: The end token.

    Example:

    >>> reversed_stream(np.array([2, 3, 0, 4, 5, 6, 0]), end=0).tolist()
    [6, 5, 4, 0, 3, 2, 0]
    """
    is_closed = len(tokens) and tokens[-1] == end
    return np.append(tokens[:-1][::-1], end) if is_closed else tokens[::-1]


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
        InputError: A number below 1, columns that do not divide evenly, or fewer tokens than columns.

    Example:

    >>> for inputs, targets in TokenStream(np.arange(1, 8), start=0, columns=2, window=2):
    ...     print(inputs.tolist(), targets.tolist())
    [[0, 1], [3, 4]] [[1, 2], [4, 5]]
    [[2], [5]] [[3], [6]]
    """

    def __init__(self, tokens: np.ndarray, start: int, columns: int, window: int, rank: int = 0, num_ranks: int = 1):
        for name, value in (("columns", columns), ("window", window)):
            if value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value}")
        if columns % num_ranks:
            raise InputError(f"`columns` must divide evenly among {num_ranks} processes, got {columns}")
        if len(tokens) < columns:
            raise InputError(f"{len(tokens)} tokens are too few for {columns} columns: lower the batch size")
        steps = len(tokens) // columns
        kept = torch.from_numpy(np.ascontiguousarray(tokens[: steps * columns])).long()
        before = torch.cat([kept.new_tensor([start]), kept[:-1]])
        share = slice(rank * columns // num_ranks, (rank + 1) * columns // num_ranks)
        self.inputs = before.view(columns, steps)[share]
        self.targets = kept.view(columns, steps)[share]
        self.window, self.columns, self.share = window, columns, share
        self.bounds = [*range(0, steps, window), steps]

    @property
    def num_tokens(self) -> int:
        """Targets of all windows of this process."""
        return self.targets.numel()

    def to(self, device: torch.device) -> "TokenStream":
        """The stream on a device, where its windows then are: one copy in place of one a window."""
        stream = copy.copy(self)
        stream.inputs, stream.targets = self.inputs.to(device), self.targets.to(device)
        return stream

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Window `index`: inputs and targets, `(columns, window)` each."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        steps = slice(self.bounds[index], self.bounds[index + 1])
        return self.inputs[:, steps], self.targets[:, steps]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (self[index] for index in range(len(self)))

    def for_epoch(
        self, seed: int, epoch: int, random_windows: bool = False, partial_shuffle: bool = False
    ) -> "TokenStream":
        """The stream as one epoch walks it: the same for the same seed and epoch, on every process.

        Args:
            seed: Of the run.
            epoch: Number of the epoch, from 0.
            random_windows: Draw the length of each window: normal around `window`, or in 1 of 20 around half of it,
                with a standard deviation of 5, and at least 5 (Merity et al., 2018, section 4.1).
            partial_shuffle: Turn each column around a place of its own, so that columns meet other ones at each
                epoch, while all but one token of each goes on as in the text (Press, 2019).
        """
        generator = np.random.default_rng([seed, epoch])
        stream = copy.copy(self)
        steps = self.targets.shape[1]
        if partial_shuffle:
            device = self.targets.device
            shifts = torch.from_numpy(generator.integers(0, steps, self.columns))[self.share, None].to(device)
            source = (torch.arange(steps, device=device) + shifts) % steps
            stream.inputs, stream.targets = self.inputs.gather(1, source), self.targets.gather(1, source)
        if random_windows:
            stream.bounds = [0]
            while stream.bounds[-1] < steps:
                mean = self.window if generator.random() < 0.95 else self.window / 2
                length = max(5, int(generator.normal(mean, 5)))
                stream.bounds.append(min(stream.bounds[-1] + length, steps))
        return stream
