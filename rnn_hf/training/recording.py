"""Whole optimizer steps on a GPU, recorded once as CUDA graphs and then run without Python.

A step is some hundred short kernels, whose launches from Python take several times as long as they run.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from rnn_hf.models import RNNCache
from rnn_hf.models.graph_rnn import MOST_FAILED, record


Windows = Sequence[tuple[torch.Tensor, torch.Tensor]]  # inputs and targets, `(B, T)` each
State = RNNCache | None
Step = Callable[[Windows, State], tuple[torch.Tensor, torch.Tensor, RNNCache]]

# Steps that are run before one like them is recorded: libraries allocate, and choose kernels, in the first ones.
STEPS_BEFORE = 3


class RecordedSteps:
    """Optimizer steps, each kind of which is recorded once it has been run `STEPS_BEFORE` times.

    It is called as the step itself. Random numbers, weights and the state of the optimizer go on as they would; what
    Python counts in a step (schedules, averages) stays outside.

    Args:
        step: Forward, backward and update by some windows and the state before them; returns two scalars on the device
            and the state after. It must not wait for the device.
        optimizer: Of the step, with one group of parameters on a GPU, fused.
    """

    def __init__(self, step: Step, optimizer: Optimizer):
        self.step, self.optimizer = step, optimizer
        self.device = optimizer.param_groups[0]["params"][0].device
        self.seen: Counter = Counter()
        self.graphs: dict[Any, tuple[Callable[[], None], Windows, Any]] = {}  # by shapes: run, windows, scalars
        self.pool: Any = None
        self.rate = torch.zeros((), device=self.device)
        self.state: list[tuple[torch.Tensor, torch.Tensor | None]] = []  # read and written by every graph
        self.failures = 0

    def __call__(self, windows: Windows, state: State) -> tuple[torch.Tensor, torch.Tensor, RNNCache]:
        shapes = tuple(inputs.shape for inputs, _ in windows)
        is_due = shapes not in self.graphs and self.seen[shapes] >= STEPS_BEFORE and self.failures < MOST_FAILED
        if is_due and state is not None:
            self._record(shapes, windows, state)
        if shapes not in self.graphs:
            self.seen[shapes] += 1
            return self.step(windows, state)
        run, buffers, scalars = self.graphs[shapes]
        for recorded, window in zip(buffers, windows, strict=True):
            for target, source in zip(recorded, window, strict=True):
                target.copy_(source)
        self._take(state)
        self.rate.fill_(self.optimizer.param_groups[0]["lr"])
        run()
        loss, norm = scalars
        return loss.clone(), norm.clone(), RNNCache(self.state)

    def _record(self, shapes: Any, windows: Windows, state: RNNCache) -> None:
        """Record a step of these shapes; nothing is run, and the weights stay as they are."""
        (group,) = self.optimizer.param_groups
        if not self.state:
            self.state = [
                (torch.zeros_like(hidden), None if cell is None else torch.zeros_like(cell)) for hidden, cell in state
            ]
            self.pool = torch.cuda.graph_pool_handle()
        buffers = [(torch.empty_like(inputs).copy_(inputs), targets.clone()) for inputs, targets in windows]

        def step() -> Any:
            loss, norm, after = self.step(buffers, RNNCache(self.state))
            torch._foreach_copy_(tensors_of(self.state), tensors_of(after))
            return loss, norm

        rate = group["lr"]
        group["lr"] = self.rate  # a number would be recorded as it is now
        try:
            run, scalars = record(step, self.device, 0, self.pool)
            self.graphs[shapes] = run, buffers, scalars
        except RuntimeError as error:
            self.failures += 1
            self.graphs.clear()  # whose random numbers may not go on after this
            self.optimizer.zero_grad()
            if self.failures == MOST_FAILED:
                message = "training is slower: a step could not be recorded as a CUDA graph"
                warnings.warn(f"{message}: {error}", stacklevel=2)
        finally:
            group["lr"] = rate

    def _take(self, state: State) -> None:
        """Go on from a state: that of the last graph is there already, and none is zeros."""
        if state is None:
            torch._foreach_zero_(tensors_of(self.state))
        elif next(iter(state))[0] is not self.state[0][0]:
            torch._foreach_copy_(tensors_of(self.state), tensors_of(state))


def tensors_of(state: Any) -> list[torch.Tensor]:
    """The tensors of pairs `(h, c)`, of which `c` may be `None`."""
    return [part for pair in state for part in pair if part is not None]
