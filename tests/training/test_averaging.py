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
