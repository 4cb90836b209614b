"""Classifiers of texts and of tokens: padding, batches, training, and the checkpoints that they load."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_same_gradients, gradients_of, some_ids
from strangers import told_by_a_stranger
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)

from rnn_hf import RNNConfig, RNNForCausalLM, RNNForSequenceClassification, RNNForTokenClassification


CLOSE = {"rtol": 1e-10, "atol": 1e-10}
KINDS = {"texts": RNNForSequenceClassification, "tokens": RNNForTokenClassification}
AUTO = {"texts": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}
POOLINGS = ["last", "mean", "max", "concat"]
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [1] * 5])

both_kinds = pytest.mark.parametrize("kind", KINDS)
both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])
all_poolings = pytest.mark.parametrize("pooling", POOLINGS)


@pytest.fixture(scope="session")
def make_classifier(make_model):
    """`make_classifier(kind, cell, **fields)`: as `make_model`, with three labels."""

    def make(kind, cell, **fields):
        return make_model(cell, model_class=KINDS[kind], **{"num_labels": 3, "eos_token_id": 0, **fields})

    return make


# Padding and batches


@st.composite
def masks(draw):
    """At least one real token a row."""
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=time, max_size=time).filter(any)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


@both_directions
@all_poolings
@given(mask=masks())
def test_a_text_in_a_batch_is_classified_as_alone(make_classifier, cell, bidirectional, pooling, mask):
    model = make_classifier("texts", cell, bidirectional=bidirectional, pooling=pooling, pad_token_id=0)
    ids = some_ids(*mask.shape) * (some_ids(*mask.shape, seed=1) > 4)  # half of them are the end and padding token
    logits = model(ids, mask).logits
    for row in range(len(mask)):
        torch.testing.assert_close(logits[row], model(ids[row, mask[row]][None]).logits[0], **CLOSE)


@both_directions
@given(mask=masks())
def test_tokens_in_a_batch_are_classified_as_alone(make_classifier, cell, bidirectional, mask):
    model, ids = make_classifier("tokens", cell, bidirectional=bidirectional), some_ids(*mask.shape)
    logits = model(ids, mask).logits
    for row in range(len(mask)):
        torch.testing.assert_close(logits[row, mask[row]], model(ids[row, mask[row]][None]).logits[0], **CLOSE)


@pytest.mark.parametrize("kind, pooling", [("tokens", "last"), *(("texts", pooling) for pooling in POOLINGS)])
@both_directions
def test_gradients_of_a_batch_are_those_of_its_rows(make_classifier, cell, kind, bidirectional, pooling):
    model = make_classifier(kind, cell, bidirectional=bidirectional, pooling=pooling)
    ids, labels = some_ids(5, 5), torch.tensor([0, 2, 1, 1, 0])
    if kind == "tokens":
        labels = torch.where(MASK == 1, some_ids(5, 5, seed=2) % 3, -100)
    whole = model(ids, MASK, labels=labels)
    whole.loss.backward()
    expected, count = gradients_of(model), labels.ne(-100).sum()
    total = 0
    for row in range(5):
        real = MASK[row].bool()
        of_row = labels[row][real] if kind == "tokens" else labels[row]
        loss = model(ids[row, real][None], labels=of_row[None], num_items_in_batch=count).loss
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, whole.loss, **CLOSE)
    assert_same_gradients(gradients_of(model), expected, **CLOSE)


@both_directions
@all_poolings
def test_a_text_without_a_real_token_is_classified_from_zeros(make_classifier, cell, bidirectional, pooling):
    model = make_classifier("texts", cell, bidirectional=bidirectional, pooling=pooling)
    for mask in (torch.tensor([[0, 0, 0], [1, 1, 1]]), torch.zeros(2, 3)):
        torch.testing.assert_close(model(some_ids(2, 3), mask).logits[0], model.score.bias, **CLOSE)


@both_kinds
def test_embeddings_of_the_ids_equal_the_ids(make_classifier, cell, kind):
    model, ids = make_classifier(kind, cell, bidirectional=True), some_ids(5, 5)
    by_embeddings = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=MASK)
    torch.testing.assert_close(by_embeddings.logits, model(ids, MASK).logits, rtol=0, atol=0)


# Heads


@all_poolings
@both_directions
def test_widths_of_the_head(make_classifier, cell, pooling, bidirectional):
    model = make_classifier("texts", cell, pooling=pooling, bidirectional=bidirectional)
    assert type(model.score) is nn.Linear and model.score.out_features == 3
    assert model.score.in_features == model.config.output_size * (3 if pooling == "concat" else 1)
    ids = some_ids(2, 5)
    assert model(ids).logits.shape == (2, 3)
    assert make_classifier("tokens", cell, bidirectional=bidirectional)(ids).logits.shape == (2, 5, 3)


@both_kinds
def test_classifier_dropout_acts_before_the_head_in_training_alone(make_classifier, cell, kind):
    model, ids = make_classifier(kind, cell, classifier_dropout=0.5), some_ids(4)
    expected = make_classifier(kind, cell)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0)
    torch.manual_seed(0)
    seen = []
    model.score.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert not torch.allclose(model.train()(ids).logits, model(ids).logits)
    assert all((inputs == 0).any() for inputs in seen)


@both_kinds
def test_outputs_come_as_a_tuple_with_hidden_states(make_classifier, kind):
    model, ids = make_classifier(kind, {}, bidirectional=True), some_ids()
    labels = ids % 3 if kind == "tokens" else ids[:, 0] % 3
    output = model(ids, labels=labels, output_hidden_states=True)
    loss, logits, hidden_states = model(ids, labels=labels, output_hidden_states=True, return_dict=False)
    torch.testing.assert_close((loss, logits, hidden_states), (output.loss, output.logits, output.hidden_states))
    assert len(hidden_states) == 3 and model(ids).hidden_states is None and list(model(ids)) == ["logits"]


@both_kinds
def test_a_state_is_refused_and_use_cache_says_nothing(make_classifier, make_model, kind):
    model, ids = make_classifier(kind, {}), some_ids()
    for name in ("cache", "past_key_values"):
        with pytest.raises(ValueError, match="`cache`.*classifier"):
            model(ids, **{name: make_model({})(ids).cache})
    assert list(model(ids, use_cache=True)) == ["logits"]


def test_the_guessed_problem_type_is_not_kept(make_classifier):
    model, ids = make_classifier("texts", {}), some_ids()
    one, several = torch.tensor([0, 2]), torch.ones(2, 3)
    first = model(ids, labels=one).loss
    assert model(ids, labels=several).loss != first
    assert model.config.problem_type is None and "problem_type" not in model.config.to_diff_dict()
    model.config.problem_type = "regression"
    torch.testing.assert_close(model(ids, labels=several).loss, (model(ids).logits - several).square().mean())


@pytest.mark.filterwarnings("error:Using a target size")
def test_a_single_output_is_trained_by_regression(make_classifier):
    model, ids = make_classifier("texts", {}, num_labels=1), some_ids(4)
    loss = model(ids, labels=torch.tensor([0.5, 1, 2, -1])).loss
    loss.backward()
    assert loss > 0 and model.score.weight.grad.abs().sum() > 0


# Trainer


def rows_of(kind, problem_type):
    rows = []
    for row in range(8):
        ids = some_ids(1, 2 + row % 4, seed=row)[0]
        labels = {
            "single_label_classification": ids[0] % 3,
            "multi_label_classification": (ids[0] % torch.tensor([2, 3, 4]) == 0).float(),
            "regression": ids[:1].float() - torch.tensor([1.0, 2, 3]),
            None: ids % 3,
        }[problem_type]
        padding = 5 - len(ids)
        mask = nn.functional.pad(torch.ones_like(ids), (0, padding))
        labels = nn.functional.pad(labels, (0, padding), value=-100) if kind == "tokens" else labels
        rows.append({"input_ids": nn.functional.pad(ids, (0, padding)), "attention_mask": mask, "labels": labels})
    return rows


@pytest.mark.parametrize(
    "kind, problem_type",
    [
        ("texts", "single_label_classification"),
        ("texts", "multi_label_classification"),
        ("texts", "regression"),
        ("tokens", None),
    ],
)
def test_a_step_of_trainer_over_accumulated_batches_is_that_over_the_whole_batch(
    make_classifier, tmp_path, kind, problem_type
):
    rows, weights = rows_of(kind, problem_type), []
    for size in (8, 2):
        model = make_classifier(kind, {}, bidirectional=True, problem_type=problem_type, dtype=torch.float32)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
            per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, use_cpu=True, report_to="none",
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        before = model.score.weight.detach().clone()
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        assert not torch.equal(model.score.weight, before)
        weights.append(dict(model.named_parameters()))
    assert_same_gradients(*weights, rtol=1e-5, atol=1e-6)
    metrics = trainer.evaluate()
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)


# Checkpoints


LANGUAGE_MODELS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "mixture": {"num_softmaxes": 3},
    "output projection": {"output_projection_size": 3},
}


@both_kinds
@pytest.mark.parametrize("fields", LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS)
def test_a_language_model_loads_with_the_head_alone_missing(make_model, cell, tmp_path, kind, fields):
    language_model = make_model(cell, **fields)
    language_model.save_pretrained(tmp_path)
    model, info = AUTO[kind].from_pretrained(
        tmp_path, id2label={0: "a", 1: "b", 2: "c"}, dtype="auto", output_loading_info=True
    )
    assert type(model) is KINDS[kind] and model.score.out_features == 3
    assert {name: set(keys) for name, keys in info.items() if keys} == {"missing_keys": {"score.weight", "score.bias"}}
    assert 0 < model.score.weight.abs().max() <= 0.1 and not model.score.bias.any()
    ids = some_ids()
    torch.testing.assert_close(model.model(ids).last_hidden_state, language_model.model(ids).last_hidden_state)


@both_kinds
@both_directions
@pytest.mark.parametrize("pooling", ["last", "concat"])
def test_saved_is_loaded_with_its_labels(make_classifier, cell, tmp_path, kind, bidirectional, pooling):
    labels = {0: "good", 1: "bad", 2: "ugly"}
    model = make_classifier(kind, cell, bidirectional=bidirectional, pooling=pooling, id2label=labels)
    model.save_pretrained(tmp_path)
    loaded, info = AUTO[kind].from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert type(loaded) is KINDS[kind] and not any(info.values())
    assert loaded.config.id2label == labels and loaded.config.pooling == pooling
    torch.testing.assert_close(loaded(some_ids(5), MASK).logits, model(some_ids(5), MASK).logits)


@both_kinds
def test_another_number_of_labels_is_refused_or_starts_with_a_new_head(make_classifier, tmp_path, kind):
    model = make_classifier(kind, {})
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AUTO[kind].from_pretrained(tmp_path, num_labels=4)
    loaded = AUTO[kind].from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True, dtype="auto")
    assert loaded.score.out_features == 4 and loaded.score.weight.isfinite().all()
    assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight)


@both_kinds
@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_resizing_the_vocabulary_keeps_what_the_words_were(make_classifier, kind):
    model, ids = make_classifier(kind, {}, bidirectional=True), some_ids()
    expected = model(ids).logits
    model.resize_token_embeddings(14, mean_resizing=False)
    assert model.config.vocab_size == 14
    torch.testing.assert_close(model(ids).logits, expected)


STRANGER = """
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

ids, logits = torch.tensor([[2, 3, 4], [5, 6, 2]]), {}
for kind, auto in (("texts", AutoModelForSequenceClassification), ("tokens", AutoModelForTokenClassification)):
    fresh, info = auto.from_pretrained("language", num_labels=4, trust_remote_code=True, output_loading_info=True)
    assert fresh(ids).logits.shape[-1] == 4
    assert set(info["missing_keys"]) == {"score.weight", "score.bias"} and not info["unexpected_keys"], info
    own = auto.from_pretrained(kind, trust_remote_code=True)
    assert type(own).__module__.startswith("transformers_modules")
    own.save_pretrained(kind + "-again")
    again = auto.from_pretrained(kind + "-again", trust_remote_code=True)
    assert torch.equal(again(ids).logits, own(ids).logits)
    logits[kind] = own(ids).logits.tolist()
print(json.dumps(logits))
"""


@pytest.mark.slow
def test_a_stranger_loads_classifiers_from_a_language_model_and_from_their_own_repositories(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 6}
    models = {"language": RNNForCausalLM(RNNConfig(**sizes))}
    models |= {name: kind(RNNConfig(bidirectional=True, num_labels=3, **sizes)) for name, kind in KINDS.items()}
    for name, model in models.items():
        model.eval().save_pretrained(tmp_path / name)
    ids = torch.tensor([[2, 3, 4], [5, 6, 2]])
    for name, logits in told_by_a_stranger(STRANGER, tmp_path).items():
        torch.testing.assert_close(torch.tensor(logits), models[name](ids).logits)


def test_a_classifier_does_not_load_as_a_language_model_in_silence(make_classifier, tmp_path):
    make_classifier("tokens", {}, bidirectional=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`bidirectional=True`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
