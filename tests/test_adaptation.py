"""Adaptation to the text: equal to what is written from the equations, and never with a look ahead."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.adaptation import Adaptation, evaluate_adapted, gradient_statistics, predict, tune, with_cache
from rnn_hf.evaluation import evaluate


TEXT = np.random.default_rng(0).integers(0, 7, 60)
DYNAMIC = Adaptation(learning_rate=0.01, decay=0.05, window=4)
CACHE = Adaptation(cache_size=9, cache_weight=0.3, cache_flatness=0.8)


@pytest.fixture(params=["lstm", "gru", "rnn"])
def model(request):
    torch.manual_seed(0)
    config = RNNConfig(
        vocab_size=7, hidden_size=6, num_hidden_layers=2, cell_type=request.param, initializer_range=1.0,
        embedding_dropout=0.2, input_dropout=0.3, hidden_dropout=0.3, output_dropout=0.3, recurrent_dropout=0.3,
    )  # fmt: skip
    return RNNForCausalLM(config).double()


def log_probabilities(model, adaptation, statistics=None, text=TEXT):
    windows = predict(model.eval(), text, 0, adaptation, statistics)
    if adaptation.cache_size:
        return torch.cat(list(with_cache(windows, adaptation)))
    return torch.cat([window.log_probabilities for window in windows])


def test_without_adaptation_the_score_is_that_of_evaluation(model):
    assert evaluate_adapted(model, TEXT, 0, Adaptation()).loss == pytest.approx(evaluate(model, TEXT, 0).loss)
    statistics = gradient_statistics(model, TEXT, 0, columns=2)
    still = replace(DYNAMIC, learning_rate=1e-30)
    assert evaluate_adapted(model, TEXT, 0, still, statistics).loss == pytest.approx(evaluate(model, TEXT, 0).loss)


def test_dynamic_evaluation_is_the_update_of_its_equations(model):
    """A loop that takes each parameter through equation 7 by hand, on its own copy, all dropouts at zero."""
    statistics = gradient_statistics(model, TEXT, 0, columns=2, window=4)
    adapted = log_probabilities(model, DYNAMIC, statistics)
    copied = copy.deepcopy(model).eval()
    trained = {name: parameter.detach().clone() for name, parameter in copied.named_parameters()}
    mean = torch.cat([rms.flatten() for rms in statistics]).mean()
    expected, state = [], None
    for first in range(0, len(TEXT), 4):
        targets = torch.from_numpy(TEXT[first : first + 4])
        inputs = torch.tensor([0, *TEXT])[first : first + len(targets)]
        outputs = copied(inputs[None], cache=state)
        state = outputs.cache.detach()
        picked = outputs.logits[0].log_softmax(-1).gather(1, targets[:, None])[:, 0]
        expected.append(picked.detach())
        copied.zero_grad()
        (-picked.mean()).backward()
        for (name, parameter), rms in zip(copied.named_parameters(), statistics, strict=True):
            stepped = parameter.data - DYNAMIC.learning_rate * parameter.grad / (rms + DYNAMIC.epsilon)
            back = torch.clamp(DYNAMIC.decay * rms / mean, max=1)
            parameter.data = stepped + back * (trained[name] - stepped)
    torch.testing.assert_close(adapted, torch.cat(expected))


def test_the_statistics_are_root_mean_squares_of_gradients(model):
    statistics = gradient_statistics(model, TEXT, 0, columns=2, window=7, windows=3)
    copied, squares, state = copy.deepcopy(model).eval(), [], None
    columns = torch.from_numpy(TEXT).view(2, 30)
    for first in range(0, 21, 7):
        inputs = torch.stack([torch.tensor([0, *TEXT])[first : first + 7], torch.from_numpy(TEXT)[29 + first :][:7]])
        outputs = copied(inputs, cache=state, shift_labels=columns[:, first : first + 7])
        state = outputs.cache.detach()
        squares.append([gradient**2 for gradient in torch.autograd.grad(outputs.loss, list(copied.parameters()))])
    for rms, *parts in zip(statistics, *squares, strict=True):
        torch.testing.assert_close(rms, torch.stack(parts).mean(0).sqrt())


@settings(max_examples=20)
@given(st.integers(1, 70), st.floats(0.01, 0.9), st.floats(0, 2))
def test_the_cache_is_the_mixture_of_its_equations_whatever_the_window(size, weight, flatness):
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=7, hidden_size=6, initializer_range=1.0)).double().eval()
    adaptation = Adaptation(cache_size=size, cache_weight=weight, cache_flatness=flatness)
    with torch.no_grad():
        outputs = model(torch.tensor([[0, *TEXT[:-1]]]), output_hidden_states=True)
    hidden, probabilities = outputs.hidden_states[-1][0], outputs.logits[0].softmax(-1)
    expected = []
    for now, target in enumerate(TEXT):
        mixed = probabilities[now]
        if now:
            before = range(max(0, now - size), now)
            mass = torch.zeros(7, dtype=torch.float64)
            for past in before:
                mass[TEXT[past]] += math.exp(flatness * float(hidden[now] @ hidden[past]))
            mixed = (1 - weight) * mixed + weight * mass / mass.sum()
        expected.append(float(mixed[target]))
    expected = torch.tensor(expected, dtype=torch.float64).log()
    torch.testing.assert_close(log_probabilities(model, adaptation), expected)
    slow = replace(adaptation, learning_rate=1e-30, window=5)  # scored five by five
    statistics = [torch.ones_like(parameter) for parameter in model.parameters()]
    torch.testing.assert_close(log_probabilities(model, slow, statistics), expected)


@pytest.mark.parametrize("adaptation", [CACHE, DYNAMIC, replace(CACHE, learning_rate=0.01, temperature=0.9)])
def test_no_prediction_depends_on_what_comes_after_it(model, adaptation):
    statistics = [torch.ones_like(parameter) for parameter in model.parameters()]
    other = TEXT.copy()
    other[33:] = (other[33:] + 1) % 7
    ours, theirs = (log_probabilities(model, adaptation, statistics, text)[:33] for text in (TEXT, other))
    torch.testing.assert_close(ours, theirs)


def test_the_temperature_divides_the_logits(model):
    with torch.no_grad():
        logits = model.eval()(torch.tensor([[0, *TEXT[:-1]]])).logits[0]
    expected = torch.nn.functional.cross_entropy(logits / 1.3, torch.from_numpy(TEXT))
    assert evaluate_adapted(model, TEXT, 0, Adaptation(temperature=1.3)).loss == pytest.approx(expected.item())


def test_the_model_stays_as_it_was_and_repetition_is_learned(model):
    text = np.tile([1, 5, 2, 6, 3], 40)
    before = copy.deepcopy(model.train().state_dict())
    statistics = gradient_statistics(model, TEXT, 0, columns=2)
    choices = {"learning_rate": [1e-3, 3e-3], "cache_size": [20]}
    adaptation, score = tune(model, text, 0, replace(DYNAMIC, learning_rate=1e-4), choices, statistics)
    assert adaptation.learning_rate == 3e-3
    assert score.loss == evaluate_adapted(model, text, 0, adaptation, statistics).loss < evaluate(model, text, 0).loss
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and model.config.hidden_dropout == 0.3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("learning_rate", -1),
        ("decay", 1),
        ("cache_weight", -0.1),
        ("window", 0),
        ("cache_size", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        Adaptation(**{name: value})


def test_dynamic_evaluation_asks_for_its_statistics(model):
    with pytest.raises(ValueError, match="gradient_statistics"):
        evaluate_adapted(model, TEXT, 0, DYNAMIC)


@pytest.mark.parametrize("tokens, start, named", [([3, 7], 0, 7), ([3, -1], 0, -1), ([3], 7, 7)])
def test_ids_outside_the_vocabulary_are_refused(model, tokens, start, named):
    for run in (gradient_statistics, lambda *arguments: evaluate_adapted(*arguments, Adaptation())):
        with pytest.raises(ValueError, match=f"token id {named} is outside the model's vocabulary of 7"):
            run(model, np.array(tokens), start)


def test_the_mode_of_the_model_is_restored_after_an_error_too(model):
    def fail(*arguments):
        raise KeyboardInterrupt

    model.train().model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate_adapted(model, TEXT, 0, Adaptation())
    assert model.training
