"""Networks that forecast: against equations in NumPy, rows and missing values, the loss, training and checkpoints."""

import json

import numpy as np
import pytest
import reference
import torch
from networks import assert_same_gradients, gradients_of
from safetensors.torch import load_file, save_file
from series_models import CLOSE, FIELDS, config_of, make_forecaster, rows_of, some_windows, without_future
from strangers import told_by_a_stranger
from transformers import AutoModelForTimeSeriesPrediction, Trainer, TrainingArguments

from rnn_hf import RNNForTimeSeriesPrediction


NAN = float("nan")
VALUES = ("past_values", "future_values")
# Each head with each loss and distribution.
KINDS = {
    "autoregressive": ("autoregressive", {}),
    "autoregressive-normal": ("autoregressive", {"distribution_output": "normal", "scaling": "last"}),
    "autoregressive-counts": ("autoregressive", {"distribution_output": "negative_binomial", "scaling": "mean"}),
    "direct": ("direct", {}),
    "direct-mae": ("direct", {"loss": "mae"}),
    "direct-mse": ("direct", {"loss": "mse", "scaling": "std"}),
    "direct-quantile": ("direct", {"loss": "quantile", "quantiles": [0.1, 0.4, 0.9], "scaling": None}),
    "direct-counts": ("direct", {"distribution_output": "negative_binomial", "scaling": "mean"}),
}

every_kind = pytest.mark.parametrize("head, fields", KINDS.values(), ids=KINDS)
both_heads = pytest.mark.parametrize("head", FIELDS)


def numbers_of(output) -> list[torch.Tensor]:
    """All that a row of an output has."""
    parts = [output.prediction_outputs, output.quantile_outputs, *(output.params or ()), output.loc, output.scale]
    return [part for part in parts if part is not None]


# Against the equations


def layers_of(model) -> tuple:
    """The equations of a cell, and the parameters of each layer."""
    arrays = [
        {name.removesuffix("_l0"): value.detach().numpy() for name, value in layer.rnn.named_parameters()}
        for layer in model.model.layers
    ]
    return reference.make_cell(model.config.cell_type, model.config.hidden_act), arrays


def zero_state(model, rows: int) -> list[tuple]:
    return [
        (np.zeros((rows, hidden)), None if cell is None else np.zeros((rows, cell)))
        for hidden, cell in model.config.state_sizes
    ]


def step_of(equations, layers, inputs: np.ndarray, state: list[tuple]) -> tuple[np.ndarray, list[tuple]]:
    after = []
    for layer, (hidden, cell) in zip(layers, state, strict=True):
        inputs, cell, _ = equations.forward(layer, inputs, hidden, cell)
        after.append((inputs, cell))
    return inputs, after


def linear_of(module, inputs: np.ndarray) -> np.ndarray:
    return inputs @ module.weight.detach().numpy().T + module.bias.detach().numpy()


def test_a_direct_head_is_its_equations(cell):
    model = make_forecaster("direct", cell, loss="mse")
    windows = without_future(some_windows(model.config))
    (equations, layers), past = layers_of(model), windows["past_values"].numpy()
    last, state = past[:, -1:].copy(), zero_state(model, 4)
    windows["past_values"][0, 4] = windows["past_values"][2, 0] = NAN  # in place of which it reads what it subtracts
    for start in (0, 3, 6):
        read = np.nan_to_num(past[:, start : start + 3] - last)
        read = np.maximum(linear_of(model.model.input_projection, read), 0)
        _, state = step_of(equations, layers, read, state)
    expected = []
    for position in range(2):
        places = np.repeat(model.embed_positions.weight.detach().numpy()[position][None], 4, axis=0)
        columns = model.embed_categories[0].weight.detach().numpy()[windows["static_categorical_features"][:, 0]]
        hidden, _ = step_of(equations, layers, np.concatenate([places, columns], axis=1), state)
        expected.append(linear_of(model.head, hidden) + last)
    found = model(**windows).prediction_outputs.detach().numpy()
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-10, atol=1e-10)


def test_an_autoregressive_head_is_its_equations(cell):
    model = make_forecaster("autoregressive", cell)
    windows, config = some_windows(model.config), model.config
    windows["past_values"][1, -3] = windows["past_values"][2, 2] = windows["future_values"][0, 1] = NAN
    (equations, layers), state = layers_of(model), zero_state(model, 4)
    values = torch.cat([windows["past_values"], windows["future_values"]], dim=1).numpy()
    features = torch.cat([windows["past_time_features"], windows["future_time_features"]], dim=1).numpy()
    context = values[:, 4:11]
    loc, scale = np.nanmean(context, axis=1)[:, None], np.nanstd(context, axis=1)[:, None]
    scaled = (values - loc) / scale
    columns = model.embed_categories[0].weight.detach().numpy()[windows["static_categorical_features"][:, 0]]
    static = [np.sign(loc) * np.log1p(np.abs(loc)), np.log(scale), windows["static_real_features"].numpy(), columns]
    params = model(**windows).params
    log_likelihood, count = 0.0, 0
    for at in range(4, 16):
        lags = np.stack([scaled[:, at - lag] for lag in config.lags_sequence], axis=1)
        read = np.concatenate([np.nan_to_num(lags), ~np.isnan(lags), features[:, at], *static], axis=1)
        hidden, state = step_of(equations, layers, linear_of(model.model.input_projection, read), state)
        freedom, center, width = linear_of(model.head, hidden).T
        freedom, width = 2 + (freedom + np.sqrt(freedom**2 + 4)) / 2, (width + np.sqrt(width**2 + 4)) / 2
        for found, expected in zip(params, (freedom, center, width), strict=True):
            np.testing.assert_allclose(found[:, at - 4].detach().numpy(), expected, rtol=1e-9, atol=1e-9)
        for row in range(4):
            if not np.isnan(values[row, at]):
                z = (scaled[row, at] - center[row]) / width[row]
                half = freedom[row] / 2
                log_gammas = torch.lgamma(torch.tensor([half + 0.5, half], dtype=torch.float64)).numpy()
                log_likelihood += log_gammas[0] - log_gammas[1] - 0.5 * np.log(2 * half * np.pi)
                log_likelihood -= np.log(width[row] * scale[row, 0]) + (half + 0.5) * np.log1p(z**2 / (2 * half))
                count += 1
    assert model(**windows).loss.item() == pytest.approx(-log_likelihood / count, rel=1e-9)


@pytest.mark.parametrize("kinds", [0, 1, 2])
@pytest.mark.parametrize("trains", [False, True], ids=["evaluation", "training"])
def test_products_that_segments_share_give_the_numbers_and_gradients_of_the_modules(cell, kinds, trains):
    fields = {"num_static_categorical_features": kinds, "cardinality": [2, 3][:kinds] or None}
    model = make_forecaster("direct", cell, **fields).train(trains)
    windows = some_windows(model.config, batch=5)
    found = model(**windows)
    found.loss.backward()
    gradients, steps = gradients_of(model), []
    for layer in model.model.layers:  # a hook wants to see the module run
        layer.rnn.register_forward_hook(lambda module, inputs, outputs: steps.append(inputs[0].shape[:2]))
    by_modules = model(**windows)
    assert steps == [(5, 3), (5, 3), (10, 1), (10, 1)]
    by_modules.loss.backward()
    torch.testing.assert_close(numbers_of(found), numbers_of(by_modules), **CLOSE)
    assert_same_gradients(gradients_of(model), gradients, rtol=1e-9, atol=1e-10)


# Rows, missing values, empty windows


@every_kind
def test_rows_are_forecast_as_alone_in_any_order(head, fields):
    model = make_forecaster(head, **fields)
    windows = some_windows(model.config)
    whole, order = model(**windows), torch.tensor([2, 0, 3, 1])
    for found, expected in zip(numbers_of(model(**rows_of(windows, order))), numbers_of(whole), strict=True):
        torch.testing.assert_close(found, expected[order], **CLOSE)
    for row in range(4):
        alone = numbers_of(model(**rows_of(windows, slice(row, row + 1))))
        for found, expected in zip(alone, numbers_of(whole), strict=True):
            torch.testing.assert_close(found, expected[row : row + 1], **CLOSE)


@every_kind
def test_what_stands_behind_the_mask_changes_nothing(head, fields):
    model = make_forecaster(head, **fields)
    windows, results = some_windows(model.config), []
    masks = [torch.rand(windows[name].shape, generator=torch.Generator().manual_seed(1)) < 0.6 for name in VALUES]
    for filler, has_mask in ((0.0, True), (NAN, True), (1e30, True), (NAN, False)):
        given = {name: windows[name].masked_fill(~mask, filler) for name, mask in zip(VALUES, masks, strict=True)}
        if has_mask:
            given |= {f"{name[:-6]}observed_mask": mask.long() for name, mask in zip(VALUES, masks, strict=True)}
        output = model(**{**windows, **given})
        output.loss.backward()
        results.append([output.loss.detach(), *numbers_of(output), *gradients_of(model).values()])
        assert all(part.isfinite().all() for part in results[-1])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
    assert not torch.equal(numbers_of(model(**windows))[0], results[0][1])


@every_kind
@pytest.mark.parametrize("filler", [0.0, NAN], ids=["zero", "unobserved"])
def test_empty_windows_give_finite_numbers_and_gradients(head, fields, filler):
    model = make_forecaster(head, **fields, scale_floor=0.01)
    windows = some_windows(model.config)
    windows["past_values"] = torch.full_like(windows["past_values"], filler)
    output = model(**windows)
    output.loss.backward()
    assert all(part.isfinite().all() for part in (output.loss, *numbers_of(output), *gradients_of(model).values()))
    assert (output.scale == (0.01 if model.config.scaling in ("mean", "std") else 1)).all()
    windows["future_values"] = torch.full_like(windows["future_values"], NAN)
    assert model(**windows).loss.isfinite()
    if model.config.loss in ("nll", "quantile"):
        assert model.generate(**without_future(windows), num_parallel_samples=2).sequences.isfinite().all()


@both_heads
def test_a_longer_past_is_read_from_where_it_is_needed(head):
    model = make_forecaster(head)
    windows = some_windows(model.config)
    longer = {name: torch.cat([value[:, :2] * 7, value], 1) for name, value in windows.items() if "past" in name}
    found, expected = model(**{**windows, **longer}), model(**windows)
    torch.testing.assert_close(numbers_of(found), numbers_of(expected), rtol=0, atol=0)


def test_what_does_not_fit_is_refused_by_name():
    model, direct = make_forecaster("autoregressive"), make_forecaster("direct")
    windows, segments = some_windows(model.config), some_windows(direct.config)
    short = {name: value[:, 1:] for name, value in windows.items() if name.startswith("past")}
    wrong = [
        (model, windows, short, "`past_values` must be at least 11 long"),
        (model, windows, {"past_time_features": None}, "`past_time_features` must have shape"),
        (model, windows, {"past_time_features": windows["past_time_features"][..., :1]}, "`num_time_features`"),
        (model, windows, {"future_time_features": windows["future_time_features"][:, 1:]}, "`future_time_features`"),
        (model, windows, {"past_observed_mask": torch.ones(4, 3)}, "`past_observed_mask`"),
        (model, windows, {"static_categorical_features": None}, "`static_categorical_features` must have shape"),
        (model, windows, {"static_categorical_features": torch.tensor([[4]] * 4)}, "`cardinality`"),
        (model, windows, {"static_categorical_features": torch.tensor([[-1]] * 4)}, "`cardinality`"),
        (model, windows, {"static_categorical_features": torch.zeros(4, 1)}, "whole numbers"),
        (model, windows, {"static_real_features": torch.ones(4, 2)}, "`static_real_features`"),
        (direct, segments, {"static_real_features": torch.ones(4, 1)}, "`static_real_features`"),
        (direct, segments, {"past_time_features": torch.ones(4, 9, 1)}, "`past_time_features`"),
        (direct, segments, {"past_values": segments["past_values"][:, 1:]}, "`past_values` must be at least 9 long"),
        (direct, segments, {"future_values": segments["future_values"][:, 1:]}, "`prediction_length`"),
        (direct, segments, {"use_cache": True}, "`use_cache=True` is not for"),
        (direct, segments, {"past_values": segments["past_values"][0]}, "`past_values` must be"),
    ]  # fmt: skip
    for network, given, changed, named in wrong:
        with pytest.raises(ValueError, match=named):
            network(**{**given, **changed})
    counts = make_forecaster("autoregressive", distribution_output="negative_binomial", scaling="mean")
    with pytest.raises(ValueError, match="counts"):
        counts(**{**some_windows(counts.config), "future_values": torch.full((4, 5), 0.5)})


# The loss


@every_kind
def test_the_loss_is_that_of_what_is_predicted(head, fields):
    model = make_forecaster(head, **fields)
    windows = some_windows(model.config)
    windows["future_values"][1, 2:] = NAN
    output, targets = model(**windows), windows["future_values"]
    if model.config.loss == "nll":
        if head == "autoregressive":
            targets = torch.cat([windows["past_values"][:, -model.config.context_length :], targets], dim=1)
        distribution = model.output_distribution(output.params, output.loc, output.scale)
        assert all(part.shape == targets.shape for part in output.params)
        losses = -distribution.log_prob(targets.nan_to_num())
        if head == "direct":
            torch.testing.assert_close(output.prediction_outputs, distribution.mean, **CLOSE)
    else:
        with pytest.raises(ValueError, match="no distribution"):
            model.output_distribution((), output.loc, output.scale)
        error = targets - output.prediction_outputs
        losses = {"mae": error.abs(), "mse": error.square()}.get(model.config.loss)
    if model.config.loss == "quantile":
        assert output.quantile_outputs.shape == (4, 6, 3) and (output.quantile_outputs.diff(dim=-1) >= 0).all()
        error = targets[..., None] - output.quantile_outputs
        levels = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
        losses = torch.where(error > 0, error * levels, -error * (1 - levels)).mean(dim=-1)
        low, high = output.quantile_outputs[..., 1], output.quantile_outputs[..., 2]
        torch.testing.assert_close(output.prediction_outputs, low + (high - low) * 0.2, **CLOSE)
    observed = ~targets.isnan()
    torch.testing.assert_close(output.loss, losses[observed].mean(), **CLOSE)
    by_count = model(**windows, num_items_in_batch=7).loss
    torch.testing.assert_close(by_count, output.loss * observed.sum() / 7, **CLOSE)


def test_the_likelihood_of_an_unroll_is_that_of_its_steps(cell):
    model = make_forecaster("autoregressive", cell)
    windows = some_windows(model.config)
    windows["future_values"][2, 1] = NAN
    summed = [0.0]
    for length in range(1, 6):
        part = {name: value[:, :length] if "future" in name else value for name, value in windows.items()}
        summed.append(model(**part, num_items_in_batch=1).loss)
    output = model(**windows)
    for at in range(1, 5):
        step = tuple(part[:, 7 + at] for part in output.params)
        distribution = model.output_distribution(step, output.loc[:, 0], output.scale[:, 0])
        target = windows["future_values"][:, at]
        expected = -distribution.log_prob(target.nan_to_num())[~target.isnan()].sum()
        torch.testing.assert_close(summed[at + 1] - summed[at], expected, **CLOSE)


@every_kind
def test_gradients_are_those_of_finite_differences_and_of_the_rows(head, fields):
    model = make_forecaster(head, {"cell_type": "gru"}, **fields)
    windows = some_windows(model.config)
    model(**windows).loss.backward()
    expected = gradients_of(model)
    # Embeddings of unused categories and outputs that are equal have none.
    assert all(gradient.isfinite().all() and (gradient != 0).any() for gradient in expected.values())
    count = model.config.prediction_length + (model.config.context_length if head == "autoregressive" else 0)
    for row in range(4):
        model(**rows_of(windows, slice(row, row + 1)), num_items_in_batch=4 * count).loss.backward()
    assert_same_gradients(gradients_of(model), expected, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            place = parameter.view(-1)[parameter.numel() // 2 : parameter.numel() // 2 + 1]
            before, losses = place.clone(), []
            for change in (1e-6, -1e-6):
                place.copy_(before + change)
                losses.append(model(**windows).loss)
            place.copy_(before)
            slope = (losses[0] - losses[1]) / 2e-6
            found = expected[name].view(-1)[parameter.numel() // 2]
            torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-7, msg=name)


# Types, dropout, training


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_types_have_a_loss_of_at_least_float32(head, fields, dtype):
    model = make_forecaster(head, **fields).to(dtype)
    windows = some_windows(model.config)
    output = model(**windows)
    assert output.loss.dtype == torch.float32 and output.loss.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.float()(**windows).loss.dtype == torch.float32


@both_heads
def test_dropout_acts_in_training_alone(head):
    rates = {"classifier_dropout": 0.5, "input_dropout": 0.5, "hidden_dropout": 0.5, "recurrent_dropout": 0.5}
    model = make_forecaster(head, **rates)
    windows = some_windows(model.config)
    torch.testing.assert_close(model(**windows).loss, make_forecaster(head)(**windows).loss, rtol=0, atol=0)
    model.train()
    assert model(**windows).loss != model(**windows).loss


@pytest.mark.parametrize("name, place", [("input_dropout", 0), ("hidden_dropout", 1)])
def test_the_future_is_dropped_where_the_past_is(name, place):
    model, seen = make_forecaster("direct", **{name: 0.5}).train(), [[], []]
    for layer, inputs in zip(model.model.layers, seen, strict=True):
        layer.register_forward_pre_hook(lambda module, given, inputs=inputs: inputs.append(given[0]))
    model(**some_windows(model.config))
    for layer, (past, future) in enumerate(seen):
        assert past.shape[1] == 3 and future.shape[1] == 1
        assert (future == 0).any() == (layer == place)
        assert layer == 0 or (past == 0).any() == (layer == place)  # the first reads zeros anyway, of what is below 0


@pytest.mark.parametrize("name", ["input_dropout", "recurrent_dropout"])
def test_dropout_of_the_future_is_that_of_the_modules(name):
    model = make_forecaster("direct", **{name: 0.5}).train()
    windows, losses = some_windows(model.config), []
    for _ in range(2):
        torch.manual_seed(5)
        losses.append(model(**windows).loss)
        model.model.layers[0].rnn.register_forward_hook(lambda *_: None)  # it wants to see the module run
    torch.testing.assert_close(losses[0], losses[1], **CLOSE)


@both_heads
def test_outputs_come_as_a_tuple(head):
    model = make_forecaster(head)
    windows = some_windows(model.config)
    output, parts = model(**windows), model(**windows, return_dict=False)
    torch.testing.assert_close(parts, output.to_tuple(), rtol=0, atol=0)
    assert next(iter(output)) == "loss" and parts[0].ndim == 0


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@both_heads
def test_gradient_checkpointing_changes_nothing(head):
    model = make_forecaster(head, hidden_dropout=0.4, recurrent_dropout=0.4).train()
    windows = some_windows(model.config)

    def gradients():
        torch.manual_seed(5)
        model(**windows).loss.backward()
        return gradients_of(model)

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same_gradients(gradients(), expected)


@both_heads
def test_accumulated_batches_train_as_the_whole_one(head, tmp_path):
    trained, start = [], make_forecaster(head).float()
    windows = some_windows(start.config)
    windows = {name: value.float() if value.is_floating_point() else value for name, value in windows.items()}
    rows = [rows_of(windows, row) for row in range(4)]
    for size in (4, 2):
        model = make_forecaster(head).float()
        arguments = TrainingArguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=2,
            optim="sgd", learning_rate=0.01, max_grad_norm=0, save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, seed=0, label_names=["future_values"],
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        trained.append(model.state_dict())
        assert trainer.evaluate()["eval_loss"] < start(**windows).loss
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-6)


def test_what_is_fresh_is_spread_as_by_the_authors_of_both_papers():
    model = RNNForTimeSeriesPrediction(config_of("direct", embedding_size=200, hidden_size=100, cardinality=[50]))
    for embedding in (model.embed_positions, *model.embed_categories):
        assert embedding.weight.std().item() == pytest.approx(1, abs=0.15)
    assert 0.09 < model.head.weight.abs().max().item() <= 0.1 and not model.head.bias.any()
    assert model.model.input_projection.weight.abs().max() <= 0.1


# Checkpoints


@every_kind
def test_what_is_saved_is_loaded(head, fields, tmp_path):
    model = make_forecaster(head, **fields)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == {name for name, _ in model.named_parameters()}
    again, info = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is RNNForTimeSeriesPrediction and not any(info.values()), info
    windows = some_windows(model.config)
    torch.testing.assert_close(numbers_of(again(**windows)), numbers_of(model(**windows)), rtol=0, atol=0)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == {
        "AutoConfig": "configuration_rnn_time_series.RNNTimeSeriesConfig",
        "AutoModelForTimeSeriesPrediction": "modeling_rnn_time_series.RNNForTimeSeriesPrediction",
    }


STRANGER = """
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTimeSeriesPrediction

results = []
for head in ("autoregressive", "direct"):
    windows = load_file(f"{head}.safetensors")
    model = AutoModelForTimeSeriesPrediction.from_pretrained(head, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules")
    model.save_pretrained(f"{head}_again")
    again = AutoModelForTimeSeriesPrediction.from_pretrained(f"{head}_again", trust_remote_code=True)
    loss = again(**windows).loss
    loss.backward()
    del windows["future_values"]
    paths = again.generate(**windows, num_parallel_samples=3, generator=torch.Generator().manual_seed(0)).sequences
    results.append([loss.item(), paths.tolist()])
print(json.dumps(results))
"""


@pytest.mark.slow
def test_a_stranger_loads_it_trains_it_and_saves_it_again(tmp_path):
    models = {head: make_forecaster(head) for head in FIELDS}
    for head, model in models.items():
        model.save_pretrained(tmp_path / head)
        windows = {name: value.contiguous() for name, value in some_windows(model.config).items()}
        save_file(windows, tmp_path / f"{head}.safetensors")
    found = told_by_a_stranger(STRANGER, tmp_path)
    for (loss, paths), model in zip(found, models.values(), strict=True):
        windows, generator = some_windows(model.config), torch.Generator().manual_seed(0)
        assert loss == pytest.approx(model(**windows).loss.item())
        expected = model.generate(**without_future(windows), num_parallel_samples=3, generator=generator).sequences
        torch.testing.assert_close(torch.tensor(paths, dtype=torch.float64), expected, **CLOSE)
