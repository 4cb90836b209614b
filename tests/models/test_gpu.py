"""The laws on a GPU, where other kernels do the work: cuDNN's own layout, types and packing.

Weights and ids are drawn on the CPU, so that a GPU run and the float64 reference start from the same numbers.
"""

import copy
import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import reference
import torch

from rnn_hf import RNNCache, RNNForCausalLM
from rnn_hf.models import kernels_rnn


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
MASKS = {
    "left": [[0, 0, 1, 1], [1, 1, 1, 1]],
    "right": [[1, 1, 0, 0], [1, 1, 1, 1]],
    "interior": [[1, 0, 0, 1], [1, 1, 0, 1]],
    "a row of padding": [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]],
    "padding alone": [[0, 0], [0, 0]],
    "single step": [[0], [1]],
}
close = dict(rtol=1e-9, atol=1e-9)  # for float64 on both sides
# How far results of each type may be from the exact ones, in norm: some tens of its roundings.
DIGITS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.15}
SCALE = 1024.0  # of the loss, since float16 knows no gradient below 6e-8


@pytest.fixture(autouse=True)
def full_precision():
    """cuDNN would round float32 to tf32 by itself; the test of tf32 turns it on again."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # as torch begins


def some_ids(batch: int = 3, time: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 11, (batch, time), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def states_of(cache) -> list[torch.Tensor]:
    return [part for layer in cache.layers for part in (layer.keys, layer.values) if part is not None]


def loss_and_gradients_by_hand(model, ids: torch.Tensor) -> tuple[np.ndarray, float, dict]:
    arrays = {name: p.detach().double().cpu().numpy().copy() for name, p in model.named_parameters()}
    network = reference.from_parameters(arrays, model.config.cell_type, model.config.hidden_act)
    ids = ids.cpu().numpy()
    logits, _ = network.forward(ids)
    targets = np.concatenate([ids[:, 1:], np.full((len(ids), 1), -100)], axis=1)
    loss, dlogits = reference.cross_entropy(logits, targets)
    return logits, loss, reference.by_parameter(network.backward(dlogits))


def assert_near(found, right, digits: float, what: str):
    """In norm, so that small numbers count as much as large ones do; what is no number is never near."""
    found, right = (torch.as_tensor(values).detach().double().cpu() for values in (found, right))
    assert found.shape == right.shape, what
    error, size = float((found - right).norm()), float(right.norm())
    assert error <= digits * size + 1e-12, f"{what}: {error / (size or 1):.1e} off, {digits:g} allowed"


def assert_equals_the_reference(model, ids: torch.Tensor, digits: float, context=None, skip_logits: bool = False):
    """Forward, loss and every gradient."""
    logits, loss, gradients = loss_and_gradients_by_hand(model, ids)
    with context or nullcontext():
        output = model.train()(ids, labels=ids, skip_logits=skip_logits)
    (output.loss * SCALE).backward()
    if not skip_logits:
        assert_near(output.logits, logits, digits, "logits")
    assert_near(output.loss, loss, digits, "loss")
    for name, parameter in model.named_parameters():
        assert_near(parameter.grad / SCALE, gradients[name], digits, name)
    model.zero_grad()


@contextmanager
def no_warning_about_the_layout():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*(contiguous|flatten_parameters).*")
        yield


# Right


@pytest.mark.parametrize("skip_logits", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forward_and_gradients_equal_the_reference(make_model, cell, dtype, tied, skip_logits):
    for num_layers in (1, 3):
        model = make_model(cell, dtype=dtype, num_hidden_layers=num_layers, tie_word_embeddings=tied).to(DEVICE)
        assert_equals_the_reference(model, some_ids(), DIGITS[dtype], skip_logits=skip_logits)


# torch takes one algorithm of cuDNN for small layers, with other limits forward and backward, another one in half
# precision where sizes are multiples of 128 and rows of 8, and the standard one for all others.
@pytest.mark.parametrize("hidden_size", [96, 160, 256, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_algorithm_is_right(make_model, cell, dtype, hidden_size):
    cell = {**cell, "projection_size": 40} if cell.get("projection_size") else cell
    model = make_model(cell, dtype=dtype, embedding_size=128, hidden_size=hidden_size, tie_word_embeddings=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5 * parameter.shape[-1] ** -0.5)
    assert_equals_the_reference(model.to(DEVICE), some_ids(8, 5), DIGITS[dtype])


def test_tf32_is_right_within_its_digits(make_model, cell):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert_equals_the_reference(make_model(cell, dtype=torch.float32).to(DEVICE), some_ids(), 2e-2)


# Layout of the weights


@pytest.mark.parametrize("way", ["from_pretrained", "device_map", "to", "resize", "copied", "to and back", "half"])
@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_weights_are_in_one_block(make_model, cell, tmp_path, way):
    model = make_model(cell, dtype=torch.float32)
    if way in ("from_pretrained", "device_map"):
        model.save_pretrained(tmp_path)
        kwargs = {"device_map": DEVICE} if way == "device_map" else {}
        model = RNNForCausalLM.from_pretrained(tmp_path, **kwargs)
    model = model.to(DEVICE)
    if way == "resize":
        model.resize_token_embeddings(14, mean_resizing=False)
    if way == "copied":  # which copies each weight to memory of its own
        model = copy.deepcopy(model)
        model.flatten_parameters()
    if way == "half":
        model = model.half()
    if way == "to and back":
        model = model.to("cpu").to(torch.float64).to(DEVICE)
    with no_warning_about_the_layout():
        model.train()(some_ids(), labels=some_ids()).loss.backward()
        model.eval()(some_ids())


@pytest.mark.parametrize("autocast", [None, torch.float16], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_weights_that_are_made_for_a_call_are_in_one_block(make_model, cell, padded, autocast, choose):
    choose("autocast")
    model, ids = make_model(cell, dtype=torch.float32, recurrent_dropout=0.5).to(DEVICE), some_ids()
    mask = torch.ones_like(ids)
    mask[0, 0] = 1 - padded
    with no_warning_about_the_layout(), torch.autocast(DEVICE, autocast, enabled=autocast is not None):
        model.train()(ids, mask, labels=ids).loss.backward()
        model.eval()(ids, mask)


def test_data_parallel_training_keeps_weights_in_one_block_and_their_gradients(make_model):
    model, ids = make_model({"cell_type": "lstm"}, dtype=torch.float32).to(DEVICE).train(), some_ids()
    model(ids, labels=ids).loss.backward()
    alone = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        with no_warning_about_the_layout():
            wrapped(ids, labels=ids).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, parameter in model.named_parameters():
        assert_near(parameter.grad, alone[name], 1e-5, name)


def test_saved_after_training_on_the_device_is_equal_to_the_bit(make_model, cell, tmp_path):
    model = make_model(cell, dtype=torch.float32).to(DEVICE).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(some_ids(), labels=some_ids()).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    for device in ("cpu", DEVICE):
        loaded = RNNForCausalLM.from_pretrained(tmp_path, device_map=device)
        for name, parameter in loaded.named_parameters():
            assert torch.equal(parameter.cpu(), model.get_parameter(name).cpu()), name
    torch.testing.assert_close(loaded(some_ids()).logits, model.eval()(some_ids()).logits)


# Laws


@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS.keys())
def test_padded_batch_equals_unpadded_rows(make_model, cell, rows, carried):
    model, mask = make_model(cell).to(DEVICE), torch.tensor(rows, device=DEVICE).bool()
    ids = some_ids(*mask.shape)
    with torch.no_grad():
        before = model(some_ids(len(mask), 3, seed=1)).cache
        if not carried:
            for layer in before.layers:
                layer.apply(torch.zeros_like)
        output = model.model(ids, mask, copy.deepcopy(before) if carried else None)
        for row in range(len(mask)):
            state = copy.deepcopy(before)
            state.batch_select_indices(torch.tensor([row]))
            shown, real = state.layers[-1].keys[0], iter(())
            if mask[row].any():
                real = iter(model.model(ids[row, mask[row]][None], cache=state).last_hidden_state[0])
            for got, expected in zip(states_of(output.cache), states_of(state), strict=True):
                torch.testing.assert_close(got[row], expected[0], **close)
            for t in range(mask.shape[1]):
                shown = next(real) if mask[row, t] else shown
                torch.testing.assert_close(output.last_hidden_state[row, t], shown, **close)


def test_gradients_of_a_padded_batch_are_the_sum_of_those_of_its_rows(make_model, cell):
    model, mask = make_model(cell).to(DEVICE).train(), torch.tensor(MASKS["a row of padding"]).bool().to(DEVICE)
    ids = some_ids(*mask.shape)
    model(ids, mask).logits[mask].square().sum().backward()
    padded = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    for row in (1, 2):
        model(ids[row, mask[row]][None]).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(padded[name], parameter.grad, **close)


def test_windows_and_steps_equal_the_whole_sequence(make_model, cell):
    model, ids = make_model(cell).to(DEVICE), some_ids(2, 7)
    whole = model(ids)
    for lengths in ([3, 4], [1] * 7, [1, 5, 1]):
        cache, pieces = RNNCache(model.config), []
        for window in ids.split(lengths, dim=1):
            pieces.append(model(window, cache=cache).logits)
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole.logits, **close)
        for got, expected in zip(states_of(cache), states_of(whole.cache), strict=True):
            torch.testing.assert_close(got, expected, **close)


def test_gradient_through_a_carried_state_is_that_of_one_long_window(make_model, cell):
    model, ids = make_model(cell).to(DEVICE).train(), some_ids(2, 6)
    model(ids).logits.square().sum().backward()
    whole = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    first = model(ids[:, :3])
    second = model(ids[:, 3:], cache=first.cache)
    (first.logits.square().sum() + second.logits.square().sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], **close)


def test_a_gradient_in_eval_mode_is_right_or_refused_with_words(make_model, cell):
    # cuDNN's backward needs training mode: dynamic evaluation has to ask for it.
    model, ids = make_model(cell).to(DEVICE), some_ids()
    try:
        model.eval()(ids, labels=ids).loss.backward()
    except RuntimeError as error:
        assert "training mode" in str(error)
        return
    _, _, gradients = loss_and_gradients_by_hand(model, ids)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.cpu(), gradients[name], 1e-9, 1e-9, err_msg=name)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_on_left_padding_equals_the_cpu_and_the_rows_alone(make_model, cell, num_beams):
    model = make_model(cell, seed=3)
    model.generation_config.pad_token_id = 0
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    ids = some_ids(3, 4).cpu() * mask
    arguments = {"num_beams": num_beams, "num_return_sequences": num_beams, "max_new_tokens": 6, "do_sample": False}
    expected = model.generate(ids, attention_mask=mask, **arguments)
    model = model.to(DEVICE)
    together = model.generate(ids.to(DEVICE), attention_mask=mask.to(DEVICE), **arguments)
    assert torch.equal(together.cpu(), expected)
    for row in range(3):
        alone = ids[row, mask[row].bool()][None].to(DEVICE)
        rows = together.view(3, num_beams, -1)[row, :, 4:]
        assert torch.equal(model.generate(alone, **arguments)[:, alone.shape[1] :], rows)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_gradient_checkpointing_gives_equal_gradients(make_model, cell, use_reentrant):
    dropouts = dict.fromkeys(("embedding_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout"), 0.4)
    model, ids = make_model(cell, **dropouts).to(DEVICE).train(), some_ids()
    mask = torch.ones_like(ids)
    mask[0, :2] = 0

    def gradients():
        torch.manual_seed(5)
        model(ids, mask, labels=ids).loss.backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        return found

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    got = gradients()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **close)


# Types


@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_every_type_is_right_or_refused_with_words(make_model, cell, weights, autocast, padded):
    model, ids = make_model(cell, dtype=weights).to(DEVICE), some_ids()
    digits = max(DIGITS[weights], DIGITS[autocast or weights])
    mask = torch.ones_like(ids)
    if padded:
        mask[:, 0] = 0  # the same for every row, so that the reference needs no mask
    logits, loss, gradients = loss_and_gradients_by_hand(model, ids[:, 1:] if padded else ids)
    labels = torch.where(mask.bool(), ids, -100)
    if padded:
        labels[:, 1] = -100  # the reference does not predict its first token
    try:
        with torch.autocast(DEVICE, dtype=autocast or torch.float16, enabled=autocast is not None):
            output = model.train()(ids, mask, labels=labels)
        (output.loss * SCALE).backward()
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
        pytest.skip(f"refused: {error}")
    assert_near(output.logits[:, 1:] if padded else output.logits, logits, digits, "logits")
    assert_near(output.loss, loss, digits, "loss")
    assert {layer.keys.dtype for layer in output.cache.layers} == {weights}
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == weights
        assert_near(parameter.grad / SCALE, gradients[name], digits, name)


@pytest.mark.parametrize("way", ["float32", "autocast"])
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_on_float32_weights_is_right_with_layers_in_either_type(make_model, cell, autocast, way, choose):
    # The ordinary way to train in mixed precision must work, whatever the others do.
    choose(way)
    model, ids = make_model(cell, dtype=torch.float32).to(DEVICE), some_ids()
    exact = model.model(ids).last_hidden_state
    with torch.autocast(DEVICE, autocast):
        hidden = model.model(ids).last_hidden_state
    assert hidden.dtype == torch.float32
    assert_near(hidden, exact, DIGITS[autocast], "hidden states")
    is_rounded = bool((hidden - exact).norm() > 1e-5 * exact.norm())
    assert is_rounded == (way == "autocast"), "the other type was taken"
    for skip_logits in (False, True):
        context = torch.autocast(DEVICE, autocast)
        assert_equals_the_reference(model, ids, DIGITS[autocast], context, skip_logits)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "none"])
def test_under_autocast_the_type_of_layers_is_measured_in_any_mode(make_model, cell, training, gradients, monkeypatch):
    """cuDNN has no gradients outside of training, where they may be on all the same."""
    monkeypatch.setattr(kernels_rnn, "CHOICES", type(kernels_rnn.CHOICES)())
    model, ids = make_model(cell, dtype=torch.float32).to(DEVICE).train(training), some_ids()
    for autocast in (torch.float16, torch.bfloat16):
        with torch.autocast(DEVICE, autocast), torch.set_grad_enabled(gradients):
            assert model(ids).logits.isfinite().all()
    assert len(kernels_rnn.CHOICES) >= 2


# Waits


@pytest.fixture
def waits():
    """`waits(run)`: how often the device is waited for in `run()`, by torch's own count; the second time counts."""

    def count(run) -> int:
        run()
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(warning.message) for warning in given)

    return count


def test_the_count_of_waits_counts(waits):
    number = torch.ones(2, device=DEVICE)
    assert waits(number.nonzero) >= 1 and waits(lambda: number.sum().item()) >= 1 and waits(number.sum) == 0


@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("skip_logits", [False, True])
def test_training_waits_for_nothing_and_once_for_a_mask(make_model, cell, skip_logits, autocast, waits):
    dropouts = dict.fromkeys(("embedding_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout"), 0.4)
    model, ids = make_model(cell, dtype=torch.float32, **dropouts).to(DEVICE).train(), some_ids(40, 80)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0

    def run(mask=None):
        with torch.autocast(DEVICE, autocast, enabled=autocast is not None):
            output = model(ids, mask, labels=ids, skip_logits=skip_logits)
        output.loss.backward()

    assert waits(run) == 0
    assert waits(lambda: run(mask)) <= 1
