"""Networks that write a text from another one in training: dropout, checkpointing, transformers' trainers."""

import pytest
import torch
from networks import assert_same_gradients, gradients_of
from seq2seq_models import CLOSE, KINDS, make_translator, rows_of, some_pairs
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
)

from rnn_hf.models.layers_rnn import RNNLayer


every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
DROPOUTS = ["embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def make_arguments(folder, **options) -> Seq2SeqTrainingArguments:
    usual = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "seed": 0}
    return Seq2SeqTrainingArguments(str(folder), **usual | options)


def examples(model) -> list[dict]:
    """Rows of different lengths, unpadded, as a data set has them."""
    return [
        {"input_ids": row["input_ids"][0].tolist(), "labels": row["labels"][0].tolist()}
        for row in rows_of(some_pairs())
    ]


# Dropout


@pytest.mark.parametrize("name", DROPOUTS)
@every_kind
def test_dropout_acts_in_training_alone(name, fields):
    if name == "recurrent_dropout" and fields.get("input_feeding"):
        pytest.skip("refused by the configuration")
    fields = {**fields, "num_encoder_layers": 2, "num_decoder_layers": 2}
    model, pairs = make_translator(**{name: 0.5}, **fields), some_pairs()
    torch.testing.assert_close(model(**pairs).loss, make_translator(**fields)(**pairs).loss, rtol=0, atol=0)
    model.train()
    assert model(**pairs).loss != model(**pairs).loss
    model(**pairs).loss.backward()


@pytest.mark.parametrize("kind", ["general", "fed"])
@pytest.mark.parametrize("name, place", [("input_dropout", 0), ("hidden_dropout", 1)])
def test_units_are_dropped_at_all_steps_alike_on_both_sides(kind, name, place):
    fields = {**KINDS[kind], "num_encoder_layers": 2, "num_decoder_layers": 2}
    model, pairs = make_translator(**{name: 0.5}, **fields).train(), some_pairs()
    for side in (model.model.encoder, model.model.decoder):
        seen: list[list] = [[], []]
        for layer, inputs in zip(side.layers, seen, strict=True):
            assert isinstance(layer, RNNLayer)
            layer.register_forward_pre_hook(lambda module, given, inputs=inputs: inputs.append(given[0]))
        model(**pairs)
        for depth, parts in enumerate(seen):
            is_zero = torch.cat(parts, dim=1)[..., : 8 if depth else 6] == 0
            assert is_zero.any() == (depth == place)
            assert torch.equal(is_zero.all(dim=1), is_zero.any(dim=1))


def test_word_types_are_dropped_everywhere_in_a_batch():
    model, seen = make_translator(embedding_dropout=0.5).train(), []
    model.model.encoder.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    ids = torch.randint(3, 12, (4, 9))
    model(ids, labels=ids)
    gone = (seen[0] == 0).all(dim=2)
    for token in ids.unique():
        assert gone[ids == token].all() or not gone[ids == token].any()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@every_kind
def test_gradient_checkpointing_changes_nothing(fields):
    model, pairs = make_translator(hidden_dropout=0.4, output_dropout=0.4, **fields).train(), some_pairs()

    def gradients():
        torch.manual_seed(5)
        model(**pairs).loss.backward()
        return gradients_of(model)

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same_gradients(gradients(), expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@every_kind
def test_other_types_have_a_loss_of_at_least_float32(fields, dtype):
    model, pairs = make_translator(**fields).to(dtype), some_pairs()
    for training in (False, True):
        loss = model.train(training)(**pairs).loss
        assert loss.dtype == torch.float32 and loss.isfinite()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.float()(**pairs).loss.dtype == torch.float32
        model.to(dtype)
    model.eval()
    assert model.generate(pairs["input_ids"], max_length=6, num_beams=2).shape[0] == 4


# transformers' trainers


def test_accumulated_batches_train_as_the_whole_one(tmp_path):
    trained = []
    for size in (4, 2):
        model = make_translator(label_smoothing=0.1).float()
        collator = DataCollatorForSeq2Seq(make_tokenizer(), model=model)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "max_steps": 2}
        options |= {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0}
        trainer = Seq2SeqTrainer(
            model, make_arguments(tmp_path, **options), data_collator=collator, train_dataset=examples(model)
        )
        trainer.train()
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-6)


def test_trainers_predict_by_generating(tmp_path):
    model = make_translator().float()
    model.generation_config.max_length = 8
    rows, collator = examples(model), DataCollatorForSeq2Seq(make_tokenizer(), model=model)
    options = {"predict_with_generate": True, "per_device_eval_batch_size": 2, "generation_num_beams": 2}
    trainer = Seq2SeqTrainer(model, make_arguments(tmp_path, **options), data_collator=collator)
    predicted = trainer.predict(rows)
    for row, found in zip(rows, predicted.predictions, strict=True):
        alone = model.generate(torch.tensor([row["input_ids"]]), num_beams=2)[0].tolist()
        assert [token for token in found.tolist() if token not in (0, -100)] == [t for t in alone if t]
    losses = [model(**{k: torch.tensor([v]) for k, v in row.items()}, num_items_in_batch=1).loss for row in rows]
    count = sum(len(row["labels"]) for row in rows)
    evaluated = Trainer(model, make_arguments(tmp_path), data_collator=collator).evaluate(rows)["eval_loss"]
    assert evaluated == pytest.approx(sum(losses).item() / count, rel=1e-5)


def test_smoothing_of_trainer_is_that_of_the_configuration(tmp_path):
    model, smooth = make_translator().float().train(), make_translator(label_smoothing=0.1).float().train()
    collator = DataCollatorForSeq2Seq(make_tokenizer(), model=model)
    batch = collator(examples(model))
    trainer = Trainer(model, make_arguments(tmp_path, label_smoothing_factor=0.1))
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(smooth(**batch).loss.item(), rel=1e-5)
    without = DataCollatorForSeq2Seq(make_tokenizer())(examples(model))
    with pytest.raises(ValueError, match="`label_smoothing_factor` took the labels away"):
        trainer.compute_loss(model, dict(without))


def test_a_tiny_batch_is_learned_by_heart():
    torch.manual_seed(0)
    model = make_translator(hidden_size=32, embedding_size=16, initializer_range=0.1).float().train()
    pairs, optimizer = some_pairs(), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**pairs).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    found = model.eval().generate(pairs["input_ids"], num_beams=3, max_length=8)
    for row, labels in zip(found, pairs["labels"], strict=True):
        expected = labels[labels != -100].tolist()
        assert row[1 : 1 + len(expected)].tolist() == expected
