"""Training waits for no value of the device, or once for a mask: how much of it is padding."""

import pytest
import torch
from waits import Waits


NUMBERS = torch.tensor([3, 1, 2])
DROPOUTS = dict.fromkeys(("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout"), 0.4)
DROPOUTS |= {"recurrent_dropout": 0.4}

WAITING = {
    "item": lambda: NUMBERS[0].item(),
    "bool": lambda: bool(NUMBERS[0]),
    "if": lambda: 1 if NUMBERS.all() else 2,
    "float": lambda: float(NUMBERS[0]),
    "int": lambda: int(NUMBERS[0]),
    "index": lambda: [1, 2, 3, 4][NUMBERS[0]],
    "format": lambda: f"{NUMBERS[0]:d}",
    "tolist": lambda: NUMBERS.tolist(),
    "numpy": lambda: NUMBERS.numpy(),
    "cpu": lambda: NUMBERS.cpu(),
    "to cpu": lambda: NUMBERS.to("cpu"),
    "nonzero": lambda: NUMBERS.nonzero(),
    "where": lambda: torch.where(NUMBERS > 1),
    "mask": lambda: NUMBERS[NUMBERS > 1],
    "set by mask": lambda: NUMBERS.clone().__setitem__(NUMBERS > 1, torch.ones(2, dtype=torch.long)),
    "masked_select": lambda: NUMBERS.masked_select(NUMBERS > 1),
    "repeats": lambda: NUMBERS.repeat_interleave(NUMBERS),
    "unique": lambda: NUMBERS.unique(),
    "equal": lambda: torch.equal(NUMBERS, NUMBERS + 1),
    "new numbers": lambda: torch.tensor([1, 2]),
    "backward": lambda: _backward(),
}
FREE = {
    "arithmetic": lambda: (NUMBERS + 1).sum() / 2,
    "where of three": lambda: torch.where(NUMBERS > 1, NUMBERS, 0),
    "choice": lambda: NUMBERS[torch.zeros_like(NUMBERS)][:2][0],
    "repeats": lambda: NUMBERS.repeat_interleave(2),
    "new": lambda: torch.zeros(3).new_ones(2),
    "set by a number": lambda: torch.zeros(3).__setitem__(slice(2), 1.0),
    "to": lambda: NUMBERS.to(torch.float32),
    "filled": lambda: NUMBERS.masked_fill(NUMBERS > 1, 0),
}


def _backward():
    number = torch.ones((), requires_grad=True)
    doubled = number * 2
    doubled.register_hook(lambda gradient: gradient * gradient.item())
    doubled.backward()


@pytest.mark.parametrize("way", WAITING)
def test_what_waits_is_counted_once(way):
    with Waits() as waits:
        WAITING[way]()
    assert len(waits.found) == 1, waits.found
    NUMBERS.tolist()
    assert len(waits.found) == 1


@pytest.mark.parametrize("way", FREE)
def test_what_does_not_wait_is_not_counted(way):
    with Waits() as waits:
        FREE[way]()
    assert not waits.found


@pytest.mark.parametrize(
    "skip_logits, more",
    [(False, {}), (True, {}), (True, {"num_softmaxes": 2}), (True, {"output_projection_size": 3})],
    ids=str,
)
def test_training_waits_for_nothing_and_once_for_a_mask(make_model, cell, skip_logits, more):
    cell = {name: value for name, value in cell.items() if not (more and name == "projection_size")}
    model = make_model(cell, dtype=torch.float32, **DROPOUTS, **more).train()
    ids = torch.randint(1, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = mask[1, 3:] = mask[2] = 0

    def waits_of(mask=None, state=None):
        with Waits() as waits:
            output = model(ids, mask, state, labels=ids, skip_logits=skip_logits)
            output.loss.backward()
        return waits.found, output.cache.detach()

    for given, allowed in ((None, 0), (torch.ones_like(ids), 1), (mask, 1)):
        waits_of(given)  # which measures the ways of a CPU
        found, state = waits_of(given)
        assert len(found) <= allowed, found
        found, _ = waits_of(given, state)
        assert len(found) <= allowed, found
