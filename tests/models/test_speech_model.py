"""The recognizer of speech: padding, steps, the state, the loss through `forward`, training and checkpoints."""

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_same_gradients, gradients_of
from safetensors.torch import load_file
from strangers import told_by_a_stranger
from torch import nn
from transformers import AutoModelForCTC, Trainer, TrainingArguments

from rnn_hf import RNNCache, RNNForCTC, RNNSpeechConfig
from rnn_hf.models.ctc_rnn import ctc_loss


CLOSE = {"rtol": 1e-12, "atol": 1e-12}
VOCAB, BINS, STACK = 5, 3, 2
LABELS = torch.tensor([[1, 2, 2], [3, -100, -100], [-100, 4, -100], [-100] * 3])
MASK = torch.tensor([[1] * 9, [0] * 4 + [1] * 5, [1, 1, 0, 1, 0, 0, 1, 1, 0], [1] * 3 + [0] * 6])

both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])


def config_of(cell, **fields) -> RNNSpeechConfig:
    sizes = {"vocab_size": VOCAB, "embedding_size": 3, "hidden_size": 5, "num_mel_bins": BINS, "frame_stack": STACK}
    return RNNSpeechConfig(**{**sizes, **cell, **fields})


@pytest.fixture(scope="session")
def make_recognizer():
    """`make_recognizer(cell, **fields)`: a tiny float64 network in eval mode with every parameter random."""

    def make(cell, **fields):
        model = RNNForCTC(config_of(cell, **fields)).double().eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.empty_like(parameter).uniform_(-0.8, 0.8, generator=generator))
        return model

    return make


def some_frames(batch: int = 4, time: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, time, BINS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def masks(draw):
    """Rows of any real frames, or none."""
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


# Frames, steps and padding


@both_directions
def test_logits_are_those_of_the_network_over_stacked_frames(make_recognizer, cell, bidirectional):
    model, frames = make_recognizer(cell, bidirectional=bidirectional), some_frames(2, 7)
    steps = torch.stack([torch.cat([frames[:, at], frames[:, at + 1]], dim=-1) for at in (0, 2, 4)], dim=1)
    hidden = model.model(inputs_embeds=steps).last_hidden_state
    expected = hidden @ model.lm_head.weight.T + model.lm_head.bias
    torch.testing.assert_close(model(frames).logits, expected, **CLOSE)


@both_directions
@given(mask=masks())
def test_a_row_in_a_batch_is_heard_as_alone_and_padding_is_a_certain_blank(make_recognizer, cell, bidirectional, mask):
    model = make_recognizer(cell, bidirectional=bidirectional)
    frames = some_frames(*mask.shape).masked_fill(~mask[..., None], float("nan"))
    logits = model(frames, mask).logits
    assert logits.shape == (len(mask), mask.shape[1] // STACK, VOCAB)
    path = model.generate(frames, mask)
    for row, real in enumerate(mask):
        alone, length = model(frames[row, real][None]).logits[0], int(real.sum()) // STACK
        assert len(alone) == length == model._get_feat_extract_output_lengths(int(real.sum()))
        torch.testing.assert_close(logits[row, :length], alone, **CLOSE)
        blanks = logits[row, length:].softmax(dim=-1)
        assert (blanks[:, 0] == 1).all() and (blanks[:, 1:] == 0).all() and logits[row].isfinite().all()
        assert path[row].tolist() == [*alone.argmax(dim=-1).tolist(), *[0] * len(blanks)]


@both_directions
def test_gradients_of_a_batch_are_those_of_its_rows(make_recognizer, cell, bidirectional):
    model = make_recognizer(cell, bidirectional=bidirectional)
    frames = some_frames().masked_fill(MASK[..., None] == 0, float("nan"))
    labels = LABELS.clone()
    labels[0, 2] = -100
    whole = model(frames, MASK, labels=labels)
    whole.loss.backward()
    expected, total = gradients_of(model), 0
    assert all((gradient != 0).any() for gradient in expected.values())
    for row in range(4):
        alone = frames[row, MASK[row].bool()][None]
        loss = model(alone, labels=labels[row : row + 1], num_items_in_batch=labels.ne(-100).sum()).loss
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, whole.loss, **CLOSE)
    assert_same_gradients(gradients_of(model), expected, rtol=1e-10, atol=1e-10)


@both_directions
def test_too_few_frames_for_a_step_give_none(make_recognizer, cell, bidirectional):
    model = make_recognizer(cell, bidirectional=bidirectional)
    for time, mask in itertools.product((0, 1), (None, "mask")):
        frames, mask = some_frames(3, time), mask and torch.ones(3, time)
        output = model(frames, mask, labels=torch.full((3, 2), -100), output_hidden_states=True)
        assert output.logits.shape == (3, 0, VOCAB) and output.loss == 0
        assert [states.shape[:2] for states in output.hidden_states] == [(3, 0)] * 3
        assert model.generate(frames, mask).shape == (3, 0)
        with pytest.raises(ValueError, match="row 0 has 0 of 1"):
            model(frames, mask, labels=torch.ones(3, 1, dtype=torch.long))


def test_steps_of_frames_are_counted_for_tensors_as_for_numbers(make_recognizer):
    model = make_recognizer({})
    lengths = torch.arange(12)
    expected = [model(some_frames(1, int(length))).logits.shape[1] for length in lengths]
    assert model._get_feat_extract_output_lengths(lengths).tolist() == expected
    assert model.config.inputs_to_logits_ratio == STACK * model.config.hop_length


def test_frames_that_do_not_fit_are_refused(make_recognizer):
    model, frames = make_recognizer({}), some_frames()
    for wrong in (frames[..., :2], frames[0]):
        with pytest.raises(ValueError, match=r"`input_features` must be \(batch, time, `num_mel_bins`: 3\)"):
            model(wrong)
    with pytest.raises(ValueError, match="`attention_mask` must be"):
        model(frames, MASK[:, 1:])


# The state


@given(cuts=st.lists(st.integers(0, 10), max_size=3).map(sorted))
def test_chunks_of_whole_steps_with_the_state_are_heard_as_the_whole(make_recognizer, cell, cuts):
    model, frames = make_recognizer(cell), some_frames(2, 21)
    whole, state = model(frames, use_cache=True), RNNCache(model.config)
    chunks = frames.tensor_split([STACK * cut for cut in cuts], dim=1)
    outputs = [model(chunk, cache=state) for chunk in chunks]
    assert all(output.cache is state for output in outputs)
    torch.testing.assert_close(torch.cat([output.logits for output in outputs], dim=1), whole.logits, **CLOSE)
    for got, expected in zip(state, whole.cache, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def test_streams_in_one_batch_go_on_as_alone(make_recognizer, cell):
    model, frames = make_recognizer(cell), some_frames(3, 12)
    first = torch.tensor([[1] * 4, [1, 1, 0, 0], [0] * 4])
    second = torch.tensor([[1, 1] + [0] * 6, [1] * 8, [0] * 4 + [1] * 4])
    state, alone = RNNCache(model.config), [RNNCache(model.config) for _ in range(3)]
    for mask, chunk in zip((first, second), frames.split([4, 8], dim=1), strict=True):
        logits = model(chunk, mask, cache=state).logits
        for row, own in enumerate(mask.bool()):
            expected = model(chunk[row, own][None], cache=alone[row]).logits[0]
            torch.testing.assert_close(logits[row, : len(expected)], expected, **CLOSE)
    for got, expected in zip(state, RNNCache.cat(alone), strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def test_a_state_is_given_where_it_is_wanted(make_recognizer):
    model, frames = make_recognizer({}), some_frames()
    assert model(frames).cache is None and model(frames, use_cache=True).cache.get_seq_length() == 4
    state = RNNCache(model.config)
    assert model(frames, past_key_values=state).cache is state
    assert model(frames, cache=state, use_cache=False).cache is None and state.get_seq_length() == 4
    assert make_recognizer({}, use_cache=True)(frames).cache.get_seq_length() == 4


def test_a_network_of_both_directions_has_no_state(make_recognizer, cell):
    model = make_recognizer(cell, bidirectional=True, use_cache=True)
    state = make_recognizer(cell)(some_frames(), use_cache=True).cache
    assert model(some_frames()).cache is None
    for given_state in ({"cache": state}, {"past_key_values": state}, {"use_cache": True}):
        with pytest.raises(ValueError, match="`bidirectional=True`"):
            model(some_frames(), **given_state)


# Loss and outputs


@both_directions
def test_the_loss_is_that_of_the_logits_and_real_steps(make_recognizer, cell, bidirectional):
    model, frames = make_recognizer(cell, bidirectional=bidirectional), some_frames()
    labels = LABELS.clone()
    labels[0, 2] = -100
    output = model(frames, MASK, labels=labels)
    expected = ctc_loss(output.logits, MASK.sum(dim=1) // STACK, labels, 0)
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=0)
    by_count = model(frames, MASK, labels=labels, num_items_in_batch=7).loss
    torch.testing.assert_close(by_count, expected * 4 / 7, **CLOSE)
    other = make_recognizer(cell, bidirectional=bidirectional, pad_token_id=4)
    labels = torch.where(labels == 4, 0, labels)
    output = other(frames, MASK, labels=labels)
    torch.testing.assert_close(output.loss, ctc_loss(output.logits, MASK.sum(dim=1) // STACK, labels, 4), **CLOSE)
    assert (other.generate(frames, MASK)[3, 1:] == 4).all()


def test_rows_that_are_too_short_for_their_labels_are_named(make_recognizer):
    labels = torch.tensor([[1, 2], [1, 1], [2, 2], [3, -100]])
    with pytest.raises(ValueError, match="row 1 has 2 of 3, row 2 has 2 of 3. Leave.*`frame_stack`"):
        make_recognizer({})(some_frames(), MASK, labels=labels)
    loss = make_recognizer({}, ctc_zero_infinity=True)(some_frames(), MASK, labels=labels).loss
    rows = [0, 3]
    expected = make_recognizer({})(some_frames()[rows], MASK[rows], labels=labels[rows], num_items_in_batch=7).loss
    torch.testing.assert_close(loss, expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_types_have_a_loss_of_at_least_float32(make_recognizer, cell, dtype):
    model = make_recognizer(cell).to(dtype)
    output = model(some_frames(), MASK, labels=LABELS[[1, 1, 2, 3]])
    assert output.logits.dtype == dtype and output.loss.dtype == torch.float32 and output.loss.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(some_frames(), MASK, labels=LABELS[[1, 1, 2, 3]]).loss.dtype == torch.float32


@both_directions
def test_outputs_come_as_a_tuple_with_hidden_states(make_recognizer, bidirectional):
    model = make_recognizer({}, bidirectional=bidirectional, num_hidden_layers=3)
    given_inputs = {"input_features": some_frames(), "labels": LABELS, "output_hidden_states": True}
    output = model(**given_inputs)
    loss, logits, hidden_states = model(**given_inputs, return_dict=False)
    torch.testing.assert_close((loss, logits, hidden_states), (output.loss, output.logits, output.hidden_states))
    assert [states.shape for states in hidden_states] == [(4, 4, 3), *[(4, 4, 5 * (1 + bidirectional))] * 3]
    assert list(model(some_frames())) == ["logits"]


def test_dropout_before_the_head_acts_in_training_alone(make_recognizer, cell):
    model, frames = make_recognizer(cell, classifier_dropout=0.5), some_frames()
    torch.testing.assert_close(model(frames).logits, make_recognizer(cell)(frames).logits, rtol=0, atol=0)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.train()(frames)
    assert (seen[0] == 0).any() and (seen[0] != 0).any()


# Training


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
@both_directions
def test_gradient_checkpointing_changes_nothing(make_recognizer, cell, bidirectional, use_reentrant):
    dropouts = {"input_dropout": 0.4, "hidden_dropout": 0.4, "recurrent_dropout": 0.4, "classifier_dropout": 0.4}
    model = make_recognizer(cell, bidirectional=bidirectional, **dropouts).train()

    def gradients():
        torch.manual_seed(5)
        model(some_frames(), MASK, labels=LABELS[[1, 1, 2, 3]]).loss.backward()
        return gradients_of(model)

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert_same_gradients(gradients(), expected)


def rows_of(frames, mask, labels) -> list[dict]:
    return [
        {"input_features": frame, "attention_mask": real, "labels": row}
        for frame, real, row in zip(frames.float(), mask, labels, strict=True)
    ]


def test_accumulated_batches_train_as_the_whole_one(make_recognizer, tmp_path):
    rows, trained = rows_of(some_frames(), MASK, torch.stack([LABELS[1], LABELS[1], LABELS[2], LABELS[3]])), []
    for size in (4, 2, 1):
        model = make_recognizer({}).float()
        arguments = TrainingArguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=2,
            optim="sgd", learning_rate=0.5, max_grad_norm=0, save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, seed=0,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
        trained.append(model.state_dict())
    start = make_recognizer({}).float().state_dict()
    assert all(not torch.equal(start[name], tensor) for name, tensor in trained[0].items())
    for other in trained[1:]:
        torch.testing.assert_close(other, trained[0], rtol=1e-4, atol=1e-6)


def test_trainer_evaluates_and_gives_logits(make_recognizer, tmp_path):
    model = make_recognizer({}).float()
    arguments = TrainingArguments(
        tmp_path, per_device_eval_batch_size=3, report_to=[], disable_tqdm=True, use_cpu=True
    )
    rows = rows_of(some_frames(), MASK, LABELS[[1, 1, 2, 3]])
    output = Trainer(model, arguments).predict(rows)
    assert output.predictions.shape == (4, 4, VOCAB)
    expected = model.generate(some_frames().float(), MASK)
    assert output.predictions.argmax(-1).tolist() == expected.tolist() and output.metrics["test_loss"] > 0


# Checkpoints


@both_directions
def test_what_is_saved_is_loaded(make_recognizer, cell, bidirectional, tmp_path):
    model = make_recognizer(cell, bidirectional=bidirectional)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == {name for name, _ in model.named_parameters()}
    assert not [name for name in weights if "embed_tokens" in name]
    again, info = AutoModelForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is RNNForCTC and not any(info.values()), info
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(again(some_frames(), MASK).logits, model(some_frames(), MASK).logits, **CLOSE)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == {
        "AutoConfig": "configuration_rnn_speech.RNNSpeechConfig",
        "AutoModelForCTC": "modeling_rnn_speech.RNNForCTC",
    }


def test_a_state_is_saved_with_the_model_that_it_belongs_to(make_recognizer, cell, tmp_path):
    model, frames = make_recognizer(cell), some_frames(2, 12)
    state = model(frames[:, :6], use_cache=True).cache
    state.save(tmp_path / "state.safetensors", model)
    again = RNNCache.load(tmp_path / "state.safetensors", model)
    expected = model(frames[:, 6:], cache=state).logits
    torch.testing.assert_close(model(frames[:, 6:], cache=again).logits, expected, rtol=0, atol=0)


def test_the_layers_that_tools_ask_for_are_found(make_recognizer):
    model = make_recognizer({})
    assert model.get_input_embeddings() is model.model.input_projection
    assert model.get_output_embeddings() is model.lm_head and type(model.lm_head) is nn.Linear
    assert model.main_input_name == "input_features" and not model.can_generate()
    with pytest.raises(ValueError, match="`resize_token_embeddings` is not for"):
        model.resize_token_embeddings(9)


STRANGER = """
import torch
from transformers import AutoConfig, AutoModelForCTC

frames = torch.linspace(-1, 1, 2 * 9 * 3).reshape(2, 9, 3)
mask, labels = torch.tensor([[1] * 9, [0] * 4 + [1] * 5]), torch.tensor([[1, 2], [3, -100]])
config = AutoConfig.from_pretrained("recognizer", trust_remote_code=True)
assert config.inputs_to_logits_ratio == 160, config
model = AutoModelForCTC.from_pretrained("recognizer", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
model.save_pretrained("again")
again = AutoModelForCTC.from_pretrained("again", trust_remote_code=True)
output = model(frames, mask, labels=labels, use_cache=True)
assert torch.equal(again(frames, mask).logits, output.logits)
print(json.dumps([output.logits.tolist(), output.loss.item(), again.generate(frames, mask).tolist()]))
"""


@pytest.mark.slow
def test_a_stranger_loads_it_trains_it_and_saves_it_again(make_recognizer, tmp_path):
    model = make_recognizer({"cell_type": "gru"}).float()
    model.save_pretrained(tmp_path / "recognizer")
    logits, loss, path = told_by_a_stranger(STRANGER, tmp_path)
    frames = torch.linspace(-1, 1, 2 * 9 * 3).reshape(2, 9, 3)
    output = model(frames, MASK[:2], labels=torch.tensor([[1, 2], [3, -100]]))
    torch.testing.assert_close(torch.tensor(logits), output.logits)
    assert loss == pytest.approx(output.loss.item()) and path == model.generate(frames, MASK[:2]).tolist()
