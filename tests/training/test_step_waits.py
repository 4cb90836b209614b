"""A step of training waits for no value of the device between the steps at which the losses are read."""

import pytest
from tqdm.auto import tqdm
from waits import Waits

from rnn_hf.training import loop


EVERYTHING = {
    "partial_shuffle": True, "random_windows": True, "activation_regularization": 2, "label_smoothing_factor": 0.05,
    "temporal_activation_regularization": 1, "past_decode_regularization": 0.01, "num_softmaxes": 2, "optim": "adamw",
    "learning_rate": 0.01, "average_start_step": 3, "gradient_accumulation_steps": 2, "warmup_steps": 3,
}  # fmt: skip


@pytest.fixture
def waits_of(run, monkeypatch):
    """What five steps of a run wait for, after two others."""

    def waits_of(**flags):
        waits = Waits()

        def train(self, stop):
            self.wrapped.train()
            for step in range(7):
                if step == 2:
                    waits.__enter__()
                self._step(tqdm(disable=True))
            waits.__exit__(None, None, None)

        monkeypatch.setattr(loop.TrainingRun, "train", train)
        assert run("a", **flags)["result"]["steps"] == 7
        return waits.found

    return waits_of


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"optim": "adam", "bf16": True, "cell_type": "gru"},
        {"momentum": 0.9, "weight_decay": 0.1, "max_grad_norm": 0, "lr_scheduler_type": "step"},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "cell_type": "rnn", "hidden_act": "sigmoid"},
        EVERYTHING,
    ],
    ids=lambda flags: ", ".join(flags) or "plain",
)
def test_a_step_waits_for_nothing(waits_of, flags):
    assert waits_of(logging_steps=50, **flags) == []


def test_losses_and_norms_are_read_at_once_where_they_are_logged(waits_of):
    assert waits_of(logging_steps=3) == ["tolist", "tolist"]  # of the third step and of the sixth
