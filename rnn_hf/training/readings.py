"""What the steps of a run leave on the device until it is read, so that no step waits for a GPU."""

import math
import time

import torch
from accelerate import Accelerator

from rnn_hf.training.checkpoint import Progress


MOST_UNREAD = 100  # steps


class Readings:
    """Loss and norm of the gradient of the steps since they were last read.

    Args:
        accelerator: Of the run.
        progress: Of the run, whose `loss_since_log` and `seconds` grow by what is read and by the wait for it.

    Attributes:
        norm, rate: Of the last step that was read: the norm of its gradient and the learning rate; in float16, whose
            scaled gradients overflow at times, the last norm that was finite.
    """

    def __init__(self, accelerator: Accelerator, progress: Progress):
        self.accelerator, self.progress = accelerator, progress
        self.norm, self.rate = 0.0, 0.0
        self.unread: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    @property
    def is_full(self) -> bool:
        """Whether it is time to read, whatever the run has to say."""
        return len(self.unread) >= MOST_UNREAD

    def add(self, loss: torch.Tensor, norm: torch.Tensor, rate: float) -> None:
        """Take note of a step: scalars on the device, and the learning rate."""
        self.unread.append((loss, norm, rate))

    def read(self) -> None:
        """Wait for the device, and take what it has into `progress`.

        Raises:
            FloatingPointError: A number is not finite.
        """
        if not self.unread:
            return
        started = time.perf_counter()
        losses, norms = torch.stack([loss for loss, _, _ in self.unread]), [norm for _, norm, _ in self.unread]
        if self.accelerator.num_processes > 1:  # all of them see, and judge, the same numbers
            losses = self.accelerator.reduce(losses, "mean")
        values = torch.stack([losses, torch.stack(norms).to(losses)]).tolist()
        self.progress.seconds += time.perf_counter() - started
        rates = [rate for _, _, rate in self.unread]
        self.unread = []
        for step, (loss, norm, rate) in enumerate(
            zip(*values, rates, strict=True), self.progress.step - len(rates) + 1
        ):
            self.check_finite(step, loss, norm, rate)
            self.progress.loss_since_log += loss
            self.norm, self.rate = norm if math.isfinite(norm) else self.norm, rate

    def check_finite(self, step: int, loss: float, norm: float, rate: float) -> None:
        """End the run where it has gone astray; in float16 only once no scale of the loss helps."""
        scaler = self.accelerator.scaler
        if math.isfinite(loss) and (math.isfinite(norm) or (scaler is not None and scaler.get_scale() >= 1)):
            return
        raise FloatingPointError(
            f"the loss is {loss:g} and the norm of the gradient {norm:g} at step {step} "
            f"(learning rate {rate:g}): lower `learning_rate` or `max_grad_norm`, or warm up by `warmup_steps`; "
            "the last checkpoint is untouched"
        )
