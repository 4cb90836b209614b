"""Penalties are those of their equations; the mean of the weights is their mean."""

import torch
from torch import nn

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.training.regularization import ActivationRegularization, WeightAverage


def test_the_penalties_are_mean_squares_of_the_output_and_of_its_changes():
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=6, output_dropout=0.5)).double().train()
    regularization = ActivationRegularization(model, activation=2.0, temporal=3.0)
    ids = torch.randint(9, (2, 5))
    torch.manual_seed(1)
    outputs = model(ids, labels=ids, output_hidden_states=True)
    penalty = regularization.penalty()
    raw = outputs.hidden_states[-1]
    torch.manual_seed(1)
    dropped = model.model(ids, output_hidden_states=True).last_hidden_state
    changes = [(raw[:, t + 1] - raw[:, t]).pow(2) for t in range(4)]
    expected = 2 * dropped.pow(2).mean() + 3 * torch.stack(changes).mean()
    torch.testing.assert_close(penalty, expected)
    assert (dropped == 0).any() and not (raw == 0).any()
    penalty.backward()
    assert model.model.layers[0].rnn.weight_hh_l0.grad.abs().sum() > 0


def test_a_single_step_has_no_change_to_penalise():
    model = RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=6)).train()
    regularization = ActivationRegularization(model, activation=0.0, temporal=3.0)
    model(torch.tensor([[1]]), output_hidden_states=True)
    assert regularization.penalty() == 0


def test_nothing_is_hooked_where_nothing_is_asked_for():
    model = RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=6))
    assert not ActivationRegularization(model, 0, 0).is_on and not model.model._forward_hooks


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
