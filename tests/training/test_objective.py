"""What is minimised is the sum of the equations."""

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.training.arguments import TrainingArguments
from rnn_hf.training.objective import Objective


def objective_of(vocab_size: int = 9, **values) -> Objective:
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=vocab_size, hidden_size=6, output_dropout=0.5))
    return Objective(model, TrainingArguments(**values)).double().train()


def window(rows: int = 2, steps: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(9, (rows, steps + 1), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


def test_activations_are_penalised_by_mean_squares_of_the_output_and_of_its_changes():
    objective = objective_of(activation_regularization=2.0, temporal_activation_regularization=3.0)
    inputs, targets = window()
    torch.manual_seed(1)
    total, loss, state = objective(inputs, targets, None)
    torch.manual_seed(1)
    outputs = objective.model.model(inputs, output_hidden_states=True)
    torch.manual_seed(1)
    plain = objective.model(inputs, shift_labels=targets).loss
    raw, dropped = outputs.hidden_states[-1], outputs.last_hidden_state
    changes = [(raw[:, t + 1] - raw[:, t]).pow(2) for t in range(4)]
    expected = plain + 2 * dropped.pow(2).mean() + 3 * torch.stack(changes).mean()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(loss, plain)
    assert (dropped == 0).any() and not (raw == 0).any()
    assert not loss.requires_grad and not state.layers[0].keys.requires_grad and total.requires_grad


def test_a_single_step_has_no_change_to_penalise():
    total, loss, _ = objective_of(temporal_activation_regularization=3.0)(*window(steps=1), None)
    assert total == loss


def test_past_decoding_is_the_cross_entropy_of_the_inputs_from_the_expected_embedding():
    objective = objective_of(past_decode_regularization=0.5)
    inputs, targets = window()
    decoder = objective.extra["past_decoder"]
    torch.nn.init.normal_(decoder.bias)
    torch.manual_seed(1)
    total, loss, _ = objective(inputs, targets, None)
    torch.manual_seed(1)
    logits = objective.model(inputs).logits
    embedding = objective.model.model.embed_tokens.weight
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        for t in range(5):
            probabilities = logits[row, t].exp() / logits[row, t].exp().sum()
            mean = sum(p * vector for p, vector in zip(probabilities, embedding, strict=True))
            scores = embedding @ torch.tanh(decoder.transform.weight @ mean + decoder.transform.bias) + decoder.bias
            expected -= scores[inputs[row, t]] - scores.exp().sum().log()
    torch.testing.assert_close(total - loss, 0.5 * expected / 10)
    total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.parametrize("past", [0.0, 1e-30])
def test_smoothed_targets_have_a_share_of_every_word(past):
    """By the chunked loss and, as past decoding needs the logits, by the plain one."""
    objective = objective_of(label_smoothing_factor=0.2, past_decode_regularization=past)
    inputs, targets = window()
    torch.manual_seed(1)
    total, _, _ = objective(inputs, targets, None)
    torch.manual_seed(1)
    log_probabilities = objective.model(inputs).logits.log_softmax(-1)
    picked = log_probabilities.gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(total, -(0.8 * picked + 0.2 * log_probabilities.mean(-1)).mean())


def test_the_state_goes_on_and_nothing_extra_is_made_where_nothing_is_asked_for():
    objective = objective_of().eval()
    (inputs, targets), middle = window(), 2
    _, whole, _ = objective(inputs, targets, None)
    _, first, state = objective(inputs[:, :middle], targets[:, :middle], None)
    _, second, _ = objective(inputs[:, middle:], targets[:, middle:], state)
    torch.testing.assert_close(whole, (first * 2 + second * 3) / 5)
    assert not list(objective.extra.parameters())
    assert set(objective.state_dict()) == {f"model.{name}" for name in objective.model.state_dict()}
