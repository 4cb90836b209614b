"""Optimizers and schedules: each rate at each step is what its name says; an update is all or nothing."""

import math

import pytest
import torch
from torch import nn

from rnn_hf.training.arguments import TrainingArguments
from rnn_hf.training.optim import Updater, build_optimizer, build_scheduler


def rates(steps=(10, 10, 10, 10), **arguments):
    """The rate of each step of epochs with so many steps each."""
    options = TrainingArguments(num_train_epochs=len(steps), learning_rate=8.0, **arguments)
    optimizer = build_optimizer(nn.Linear(2, 2), options)
    scheduler = build_scheduler(optimizer, options, steps)
    seen = []
    for _ in range(sum(steps)):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_constant_stays_and_warms_up():
    assert set(rates(lr_scheduler_type="constant")) == {8.0}
    warming = rates(lr_scheduler_type="constant", warmup_steps=4)
    assert warming[:4] == pytest.approx([0, 2, 4, 6]) and set(warming[4:]) == {8.0}


def test_cosine_and_linear_fall_to_zero_at_the_last_epoch():
    cosine, linear = rates(lr_scheduler_type="cosine"), rates(lr_scheduler_type="linear")
    for step in range(40):
        assert cosine[step] == pytest.approx(4 * (1 + math.cos(math.pi * step / 40)))
        assert linear[step] == pytest.approx(8 * (1 - step / 40))


def test_step_decays_once_an_epoch_after_the_first_ones():
    seen = rates(lr_scheduler_type="step", lr_decay=0.5, lr_decay_start=2)
    assert [seen[epoch * 10] for epoch in range(4)] == [8, 8, 4, 2]
    assert all(len(set(seen[epoch * 10 : epoch * 10 + 10])) == 1 for epoch in range(4))


@pytest.mark.parametrize("steps", [(1,), (2, 1), (3, 4, 3, 4, 7), (26, 27, 26, 26)])
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_epochs_of_different_lengths_are_followed_to_the_last_step(steps, warmup_steps):
    total = sum(steps)
    for kind in ("constant", "linear", "cosine", "one_cycle", "step"):
        assert len(rates(steps, lr_scheduler_type=kind, warmup_steps=warmup_steps)) == total
    assert rates(steps, lr_scheduler_type="linear")[-1] == pytest.approx(8 / total)
    decaying = rates(steps, lr_scheduler_type="step", lr_decay=0.5, lr_decay_start=1)
    assert decaying == [8 * 0.5**epoch for epoch, count in enumerate(steps) for _ in range(count)]


def test_one_cycle_rises_to_the_rate_and_falls_below_its_start():
    seen = rates(lr_scheduler_type="one_cycle")
    top = seen.index(max(seen))
    assert max(seen) == pytest.approx(8, rel=0.01) and 0 < top < 20
    assert seen[:top] == sorted(seen[:top]) and seen[top:] == sorted(seen[top:], reverse=True)
    assert seen[-1] < seen[0]


def test_plateau_divides_when_validation_stops_improving():
    options = TrainingArguments(lr_scheduler_type="reduce_lr_on_plateau", learning_rate=8.0, lr_decay=0.25)
    optimizer = build_optimizer(nn.Linear(2, 2), options)
    scheduler = build_scheduler(optimizer, options, [10])
    for loss, expected in ((3.0, 8.0), (2.0, 8.0), (2.5, 2.0), (1.0, 2.0), (1.0, 0.5)):
        scheduler.step(loss)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_named_optimizer_gets_its_arguments(name, kind):
    options = TrainingArguments(optim=name, weight_decay=0.5, momentum=0.25, adam_beta1=0.75, adam_beta2=0.875)
    optimizer = build_optimizer(nn.Linear(2, 2), options)
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind and group["weight_decay"] == 0.5
    assert group.get("momentum", 0.25) == 0.25 and group.get("betas", (0.75, 0.875)) == (0.75, 0.875)


WAYS = {
    "sgd": {"optim": "sgd"},
    "momentum": {"optim": "sgd", "momentum": 0.9},
    "adam": {"optim": "adam", "adam_beta1": 0.0, "weight_decay": 1e-3},
    "adamw": {"optim": "adamw", "weight_decay": 1e-2},
}


def updated(ways, gradients, scaler=None, max_grad_norm=0.25, **arguments):
    """A layer, its updater, and its parameters before the first step and after each, by gradients `(steps, 3, 4)`."""
    options = TrainingArguments(learning_rate=0.1, max_grad_norm=max_grad_norm, **ways, **arguments)
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    updater = Updater(build_optimizer(layer, options), max_grad_norm, scaler)
    seen, norms = [layer.weight.detach().clone()], []
    for gradient in gradients:
        updater.scale((layer.weight * gradient).sum()).backward()
        norms.append(updater.step())
        seen.append(layer.weight.detach().clone())
    return layer, updater, seen, norms


def some_gradients(steps=5):
    return torch.randn(steps, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("max_grad_norm", [0, 0.25, 100])
@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
def test_an_update_is_that_of_the_clipped_gradient_with_and_without_a_scale(ways, max_grad_norm):
    gradients = some_gradients()
    options = TrainingArguments(learning_rate=0.1, **ways)
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    optimizer = build_optimizer(layer, options)
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        if max_grad_norm:
            nn.utils.clip_grad_norm_([layer.weight], max_grad_norm)
        optimizer.step()
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        _, _, seen, norms = updated(ways, gradients, scaler, max_grad_norm)
        torch.testing.assert_close(seen[-1], layer.weight.detach())
        torch.testing.assert_close(torch.stack(norms), gradients.flatten(1).norm(dim=1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
def test_a_gradient_that_is_not_finite_changes_nothing_and_the_run_is_over(ways, value):
    gradients = some_gradients()
    gradients[2, 0, 0] = value
    _, _, seen, norms = updated(ways, gradients)
    assert not torch.equal(seen[1], seen[2])
    assert all(torch.equal(after, seen[2]) for after in seen[3:])
    assert [bool(norm.isfinite()) for norm in norms] == [True, True, False, True, True]


@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
def test_a_scaled_gradient_that_overflows_is_left_out_and_the_scale_falls(ways, broken):
    gradients, scaler = some_gradients(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    gradients[broken, 0, 0] = float("inf")
    _, _, seen, _ = updated(ways, gradients, scaler)
    assert torch.equal(seen[broken], seen[broken + 1]) and scaler.get_scale() == 512
    without = updated(ways, torch.cat([gradients[:broken], gradients[broken + 1 :]]))[2]
    torch.testing.assert_close(seen[-1], without[-1])
