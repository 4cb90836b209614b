"""The mean of the weights is their mean."""

import torch
from torch import nn

from rnn_hf.training.averaging import WeightAverage


def test_the_average_is_the_mean_and_goes_in_and_out_of_the_model():
    model = nn.Linear(2, 3).double()
    average, seen = WeightAverage(model), []
    for step in range(7):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 2))
        seen.append(model.weight.detach().clone())
        average.update() if step else average.start()
    with average.in_place():
        torch.testing.assert_close(model.weight, torch.stack(seen).mean(0))
    assert torch.equal(model.weight, seen[-1])
    again = WeightAverage(model)
    with again.in_place():  # not started: the weights as they are
        assert torch.equal(model.weight, seen[-1])
    again.load_state_dict(average.state_dict())
    assert again.is_on and again.count == 7


def test_a_mean_with_a_decay_forgets_and_its_first_steps_count_alike():
    """It is the plain mean as long as that has fewer steps than the decay remembers, about 1 / (1 - decay)."""
    model, decay = nn.Linear(2, 3).double(), 0.75
    average, seen, expected = WeightAverage(model, decay), [], torch.zeros(3, 2)
    for step in range(9):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 2))
        seen.append(model.weight.detach().clone())
        average.update() if step else average.start()
        expected = torch.stack(seen).mean(0) if step < 4 else decay * expected + (1 - decay) * seen[-1]
        torch.testing.assert_close(average.mean[0], expected)


def test_weights_that_do_not_move_are_their_own_mean_bit_for_bit():
    model = nn.Linear(5, 7)
    for decay in (1.0, 0.9, 0.99):
        average = WeightAverage(model, decay)
        average.start()
        for _ in range(5):
            average.update()
        assert torch.equal(average.mean[0], model.weight)
