"""A softmax over drawn words has the optimum of the softmax over all words."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.errors import InputError
from rnn_hf.training.arguments import TrainingArguments
from rnn_hf.training.objective import Objective, SampledWords


COUNTS = torch.tensor([400, 90, 30, 10, 5, 5, 1, 0, 0])


def objective_of(size: int, **model) -> Objective:
    torch.manual_seed(0)
    network = RNNForCausalLM(RNNConfig(vocab_size=len(COUNTS), hidden_size=6, **model))
    return Objective(network, TrainingArguments(sampled_softmax=size), COUNTS).double()


def window(rows: int = 2, steps: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(9, (rows, steps + 1), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_so_many_words_are_drawn_in_the_mean_frequent_ones_rather(size):
    chances = SampledWords(COUNTS, size).chances
    assert chances.sum() == pytest.approx(size, abs=1e-5)
    assert (chances[:-1] >= chances[1:]).all() and (chances > 0).all() and (chances <= 1).all()
    below = chances[chances < 1]
    wanted = COUNTS.clamp(min=1)[chances < 1].double().pow(0.75).float()
    torch.testing.assert_close(below / below.sum(), wanted / wanted.sum())


def test_the_targets_are_there_and_so_are_the_words_that_are_drawn():
    torch.manual_seed(0)
    words = SampledWords(COUNTS, 3)
    targets = torch.tensor([8, 6, 8])
    draws = 4000
    seen = torch.zeros(9)
    for _ in range(draws):
        chosen, log_chances, places = words(targets)
        assert chosen.tolist() == sorted(set(chosen.tolist())) and log_chances.shape == chosen.shape
        assert torch.equal(chosen[places], targets)
        seen[chosen] += 1
    expected = words.chances.clone()
    expected[targets] = 1
    torch.testing.assert_close(seen / draws, expected, rtol=0, atol=5 * 0.5 / draws**0.5)


def test_where_logits_are_the_logarithms_of_the_probabilities_the_mean_gradient_is_zero():
    """For a single target, the mean over it and over every sample that can be drawn, weighed by its probability: the
    gradient of the sampled loss is zero where that of the whole one is."""
    words = SampledWords(torch.tensor([6, 3, 1, 1]), 2).double()
    logits = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probabilities, total = logits.softmax(0), torch.zeros(4, dtype=torch.float64)
    for drawn in product([False, True], repeat=4):
        is_drawn = torch.tensor(drawn)
        weight = torch.where(is_drawn, words.chances, 1 - words.chances).prod()
        for target in range(4):
            with pytest.MonkeyPatch.context() as patch:  # a random number of 0 draws a word, and one of 1 does not
                patch.setattr(torch, "rand_like", lambda chances, drawn=is_drawn: 1.0 - drawn.to(chances))
                chosen, log_chances, places = words(torch.tensor([target]))
            sample = logits[chosen].clone().requires_grad_()
            loss = F.cross_entropy((sample - log_chances)[None], places)
            (gradient,) = torch.autograd.grad(loss, sample)
            total[chosen] += weight * probabilities[target] * gradient
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-7)  # chances have 24 bits


@pytest.mark.parametrize("model", [{}, {"embedding_size": 4, "output_projection_size": 4}, {"cell_type": "rnn"}])
def test_with_all_words_drawn_it_is_the_loss_over_all(model):
    objective = objective_of(4, **model).eval()
    objective.extra["words"].chances.fill_(1)
    inputs, targets = window()
    total, loss, _ = objective(inputs, targets, None)
    whole = objective.model(inputs, shift_labels=targets).loss
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(loss, whole.detach())
    parameters = list(objective.parameters())
    for own, expected in zip(
        torch.autograd.grad(total, parameters), torch.autograd.grad(whole, parameters), strict=True
    ):
        torch.testing.assert_close(own, expected)


def test_the_loss_is_the_cross_entropy_over_the_words_that_are_there():
    objective = objective_of(3).eval()
    inputs, targets = window()
    torch.manual_seed(5)
    total, _, _ = objective(inputs, targets, None)
    torch.manual_seed(5)
    words, log_chances, places = objective.extra["words"](targets.flatten())
    logits = objective.model(inputs).logits.flatten(0, 1)[:, words] - log_chances
    torch.testing.assert_close(total, F.cross_entropy(logits, places))


def test_a_model_that_trains_on_samples_comes_to_the_shares_of_the_words():
    """A network that sees nothing but its bias: what is best is the distribution of the targets."""
    torch.manual_seed(0)
    objective = objective_of(3)
    head = objective.model.lm_head
    torch.nn.init.zeros_(head.weight)
    shares = COUNTS.double().clamp(min=1) / COUNTS.clamp(min=1).sum()
    optimizer = torch.optim.SGD([head.bias], lr=1.0)
    mean = torch.zeros_like(head.bias)
    for step in range(500):
        targets = torch.multinomial(shares, 16, replacement=True).view(16, 1)
        objective(torch.zeros_like(targets), targets, None)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= 200:
            mean += head.bias.detach() / 300
    reached = mean.softmax(0)
    assert float((shares * (shares / reached).log()).sum()) < 0.02


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match="`sampled_softmax` must be below the 9 words of the vocabulary"):
        objective_of(9)
    with pytest.raises(InputError, match="`sampled_softmax` does not go with `num_softmaxes`"):
        objective_of(3, num_softmaxes=2)
    for name in ("label_smoothing_factor", "past_decode_regularization"):
        with pytest.raises(InputError, match=f"`sampled_softmax` and `{name}`"):
            TrainingArguments(sampled_softmax=3, **{name: 0.1})
    with pytest.raises(InputError, match="`sampled_softmax` must be at least 0"):
        TrainingArguments(sampled_softmax=-1)
