"""The models in transformers' Trainer, with all that it does by a model's class or with its outputs."""

import math

import peft
import pytest
import torch
from torch.nn.parallel import scatter_gather
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from rnn_hf import RNNCache


# The names that the older of the supported transformers versions know as well.
old_names = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def some_ids(batch: int = 2, time: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(11, (batch, time), generator=torch.Generator().manual_seed(seed))


def padded_rows() -> list[dict[str, torch.Tensor]]:
    rows = []
    for row in range(4):
        ids, mask = some_ids(1, 5, seed=row)[0], torch.tensor([0] * row + [1] * (5 - row))
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)})
    return rows


@old_names
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_trains_and_evaluates_on_padded_sequences(make_model, tmp_path, checkpointing):
    model = make_model({"cell_type": "lstm"}, dtype=torch.float32)
    rows = padded_rows()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        gradient_checkpointing=checkpointing,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        expected = model.eval()(**batch)
    metrics = trainer.evaluate()
    assert "eval_loss" in metrics  # Trainer looks for every argument of forward that is named like a label
    assert math.isclose(metrics["eval_loss"], expected.loss.item(), rel_tol=1e-5)
    predictions = trainer.predict(rows).predictions
    torch.testing.assert_close(torch.tensor(predictions), expected.logits)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")  # of peft
@pytest.mark.parametrize("adapted", [False, True])
def test_label_smoothing_trains_on_the_next_token(make_model, tmp_path, adapted):
    model = make_model({"cell_type": "gru"}, dtype=torch.float32)
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"]))
    batch = {name: torch.stack([row[name] for row in padded_rows()]) for name in padded_rows()[0]}
    losses = []
    for smoothing in (0.0, 1e-6):
        options = TrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", label_smoothing_factor=smoothing, disable_tqdm=True
        )
        losses.append(Trainer(model, options).compute_loss(model, dict(batch)).item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_batches_without_padding_are_refused_and_do_not_mix_texts(make_model):
    batch = DataCollatorWithFlattening()([{"input_ids": row.tolist()} for row in some_ids()])
    model = make_model({})
    with pytest.raises(ValueError, match="`position_ids`.*a row of its own"):
        model(**{name: value if torch.is_tensor(value) else torch.tensor(value) for name, value in batch.items()})


def test_outputs_of_several_devices_in_one_process_are_gathered_with_the_state(make_model, cell, monkeypatch):
    # DataParallel's own step joins tensors of GPUs alone.
    monkeypatch.setattr(
        scatter_gather.Gather,
        "apply",
        lambda device, dim, *parts: torch.cat([torch.atleast_1d(part) for part in parts], dim),
    )
    model, ids = make_model(cell), some_ids(4)
    parts = [model(part, labels=part) for part in ids.split(2)]
    gathered = scatter_gather.gather([dict(part) for part in parts], "cpu")
    state, whole = next(value for value in gathered.values() if isinstance(value, RNNCache)), model(ids)
    torch.testing.assert_close(gathered["logits"], whole.logits)
    for (hidden, memory), layer in zip(state, whole.cache.layers, strict=True):
        torch.testing.assert_close(hidden, layer.keys)
        torch.testing.assert_close(memory, layer.values)
    following = some_ids(4, 2, seed=1)
    torch.testing.assert_close(model(following, cache=state).logits, model(following, cache=whole.cache).logits)
