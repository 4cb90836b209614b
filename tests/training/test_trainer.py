"""What a run gives to transformers' Trainer: the order of examples, rates, the loss with smoothed targets."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from rnn_hf import RNNConfig, RNNForSequenceClassification, RNNForTokenClassification
from rnn_hf.training.arguments import LabelledTrainingArguments
from rnn_hf.training.trainer import (
    LengthSampler,
    build_optimizer,
    layer_groups,
    smoothed_loss,
    trainer_arguments,
)


LENGTHS = torch.randint(1, 60, (203,), generator=torch.Generator().manual_seed(0)).tolist()


def order_of(epoch, seed=1, size=8, lengths=LENGTHS, **flags):
    return list(LengthSampler(lengths, size, seed, lambda: epoch, **flags))


def padding_of(order, size=8):
    """The share of padding where so many examples are one batch."""
    batches = [[LENGTHS[index] for index in order[start : start + size]] for start in range(0, len(order), size)]
    cells = sum(max(batch) * len(batch) for batch in batches)
    return 1 - sum(LENGTHS) / cells


@pytest.mark.parametrize("size, by_length", itertools.product((1, 7, 8, 300), (True, False)))
def test_an_epoch_has_each_example_once_in_an_order_of_seed_and_epoch_alone(size, by_length):
    flags = {"size": size, "by_length": by_length}
    orders = [order_of(epoch, seed, **flags) for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    for order in orders:
        assert sorted(order) == list(range(len(LENGTHS)))
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    assert order_of(0, **flags) == orders[0]
    sampler = LengthSampler(LENGTHS, size, 1, lambda: 0, by_length)
    assert len(sampler) == len(LENGTHS) and list(sampler) == list(sampler)


def test_the_epoch_is_the_one_that_begins_when_the_order_is_asked_for():
    epochs = itertools.count()
    sampler = LengthSampler(LENGTHS, 8, 1, lambda: next(epochs))
    assert [list(sampler) for _ in range(3)] == [order_of(epoch) for epoch in range(3)]


def test_batches_have_examples_of_about_one_length_and_other_ones_in_each_epoch():
    shuffled, grouped = padding_of(order_of(0, by_length=False)), padding_of(order_of(0))
    assert grouped < 0.1 < 0.3 < shuffled
    lengths = list(range(30, 230))  # even where no two are equal
    orders = [order_of(epoch, lengths=lengths) for epoch in (0, 1)]
    batches = [{frozenset(order[start : start + 8]) for start in range(0, 200, 8)} for order in orders]
    assert len(batches[0] & batches[1]) < 5
    longest_first = [max(LENGTHS[index] for index in order_of(epoch)[:8]) for epoch in range(20)]
    assert len(set(longest_first)) > 5  # batches come in any order


def test_the_batch_that_is_not_full_comes_last():
    """Or Trainer would cut all batches after it in other places."""
    for epoch in range(5):
        order = order_of(epoch)
        noisy = [sorted(LENGTHS[index] for index in order[start : start + 8]) for start in range(0, 200, 8)]
        assert all(lengths[0] >= 0.6 * lengths[-1] - 1 for lengths in noisy)


def classifier(kind=RNNForSequenceClassification, **fields):
    torch.manual_seed(0)
    return kind(RNNConfig(vocab_size=9, hidden_size=4, num_hidden_layers=3, num_labels=3, pad_token_id=0, **fields))


@pytest.mark.parametrize("kind", [RNNForSequenceClassification, RNNForTokenClassification])
@pytest.mark.parametrize("fields", [{}, {"bidirectional": True}])
def test_groups_go_from_the_head_to_the_embeddings_and_have_each_parameter_once(kind, fields):
    model = classifier(kind, **fields)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [[name_of.pop(id(parameter)) for parameter in group] for group in layer_groups(model)]
    assert not name_of
    parts = ["score.", "model.layers.2.", "model.layers.1.", "model.layers.0.", "model.embed_tokens."]
    assert len(groups) == len(parts) and all(groups)
    assert all(name.startswith(part) for part, group in zip(parts, groups, strict=True) for name in group)


@pytest.mark.parametrize("optim", ["adam", "adamw"])
def test_each_layer_has_the_rate_of_the_one_above_times_a_factor(optim):
    options = LabelledTrainingArguments(
        optim=optim, learning_rate=0.1, layer_decay=0.5, weight_decay=0.01, adam_beta1=0.7, adam_beta2=0.9
    )
    model = classifier()
    optimizer = build_optimizer(model, options)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    expected = {"score": 0.1, "layers.2": 0.05, "layers.1": 0.025, "layers.0": 0.0125, "embed_tokens": 0.00625}
    for name, parameter in model.named_parameters():
        (part,) = [part for part in expected if part in name]
        assert rates[id(parameter)] == pytest.approx(expected[part]), name
    assert type(optimizer).__name__.lower() == optim
    for group in optimizer.param_groups:
        assert group["betas"] == (0.7, 0.9) and group["weight_decay"] == 0.01


@pytest.mark.parametrize("shape", [(5, 3), (4, 6, 3)])
def test_the_loss_with_smoothed_targets_is_cross_entropy_against_them_and_adds_up(shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, shape[:-1], generator=generator)
    if len(shape) == 3:
        labels[:, 3:] = -100
    outputs = type("Outputs", (), {"logits": logits})
    targets = 0.8 * F.one_hot(labels.clamp(min=0), 3) + 0.2 / 3
    each = -(targets * logits.log_softmax(-1)).sum(-1)[labels != -100]
    loss = smoothed_loss(0.2)
    torch.testing.assert_close(loss(outputs, labels), each.mean())
    torch.testing.assert_close(loss(outputs, labels, num_items_in_batch=torch.tensor(40)), each.sum() / 40)
    half = type("Outputs", (), {"logits": logits.bfloat16()})
    assert loss(half, labels).dtype == torch.float32


def test_trainer_neither_validates_nor_saves_by_itself_and_is_told_all_that_it_decides(tmp_path):
    options = LabelledTrainingArguments(
        output_dir=str(tmp_path / "a"), num_train_epochs=7, per_device_train_batch_size=3, warmup_steps=4,
        gradient_accumulation_steps=2, max_grad_norm=0.5, lr_scheduler_type="constant", max_steps=5, use_cpu=True,
        logging_steps=9, seed=11, bf16=True, eval_steps=2, save_steps=2,
    )  # fmt: skip
    given = trainer_arguments(options, ["tensorboard"])
    assert given.eval_strategy == given.save_strategy == "no"
    assert given.max_steps == -1  # the schedule has the length of all epochs
    assert given.lr_scheduler_type == "constant_with_warmup" and given.report_to == ["tensorboard"]
    same = "num_train_epochs per_device_train_batch_size warmup_steps gradient_accumulation_steps max_grad_norm "
    for name in (same + "logging_steps seed bf16 use_cpu").split():
        assert getattr(given, name) == getattr(options, name), name
    assert not (tmp_path / "a").exists()
