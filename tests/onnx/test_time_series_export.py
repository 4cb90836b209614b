"""Exported networks that forecast: what the folder has, files that are wrong, the card and the command."""

import pytest
from series_models import FIELDS, make_forecaster
from test_export import changed

from rnn_hf.commands import export as command
from rnn_hf.files import read_json, sha256_of
from rnn_hf.hub.repository import build_repository
from rnn_hf.loading import load_model
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx import export
from rnn_hf.onnx.export import SIZES, TOLERANCE, ExportError, check_folder, export_onnx


FILES = {"config.json", "export.json", "model.onnx"}
heads = pytest.mark.parametrize("head", FIELDS)


@pytest.fixture
def save(tmp_path):
    """`save(head, **fields)`: the path of a random model."""

    def saved(head, **fields):
        make_forecaster(head, **fields).float().save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return saved


@heads
def test_the_folder_has_what_forecasts_and_a_report(save, tmp_path, head):
    path, out = save(head), tmp_path / "onnx"
    report = export_onnx(path, out)
    assert {each.name for each in out.iterdir()} == FILES and read_json(out / "export.json") == report
    model, tokenizer = load_model(path, auto_class="AutoModelForTimeSeriesPrediction")
    assert tokenizer is None and report["identity"] == identity_of(model)
    assert report["task"] == "time-series-forecasting" and report["sha256"] == sha256_of(out / "model.onnx")
    assert [(check["batch"], check["sequence"]) for check in report["checked"]] == list(SIZES)
    names = [value["name"] for value in report["interface"]["outputs"]]
    for check in report["checked"]:
        assert sorted(check["largest_difference"]) == sorted(names)
        for name, difference in check["largest_difference"].items():
            assert difference <= max(TOLERANCE, check["allowed"][name])
    assert check_folder(out) == report["interface"]
    config = read_json(out / "config.json")
    assert config["prediction_head"] == head and not config.get("auto_map")


@heads
@pytest.mark.parametrize("weight", ["layers.1.R", "head.weight", "categories.0.weight", "input_projection.bias"])
def test_of_a_file_that_is_wrong_nothing_is_left(save, tmp_path, monkeypatch, head, weight):
    def build(model):
        proto = original(model)
        changed(weight, lambda values: values * 1.01)(proto.graph)
        return proto

    original = export.build_forecast_graph
    monkeypatch.setattr(export, "build_forecast_graph", build)
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        export_onnx(save(head), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@heads
def test_the_command_says_what_was_checked_and_the_card_what_goes_in(save, tmp_path, capsys, head):
    path, out = save(head), tmp_path / "onnx"
    assert command.run(command.parse([path, str(out)])) == 0
    said = capsys.readouterr().out
    kinds = "forecasts" if head == "direct" else "forecasts, state"
    assert f"largest difference to PyTorch: {kinds}\n" in said and "model.onnx: " in said
    build_repository(out, tmp_path / "repository", "someone/forecasts")
    card = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: time-series-forecasting" in card and "{" not in card.partition("```")[0]
    for value in check_folder(out)["inputs"] + check_folder(out)["outputs"]:
        assert f"`{value['name']}`" in card
    assert ("onnx_forecast_paths_client.py" in card) is (head == "autoregressive")


def test_8_bits_and_flags_of_others_are_refused_by_name(save, tmp_path):
    path = save("direct")
    for flags, named in ((["--int8"], "--int8 does not go with"), (["--last_logits_only"], "--last_logits_only")):
        with pytest.raises(ValueError, match=named):
            command.run(command.parse([path, str(tmp_path / "onnx"), *flags]))
    with pytest.raises(ValueError, match="network that forecasts"):
        export_onnx(path, tmp_path / "onnx", last_logits_only=True)
    assert not (tmp_path / "onnx").exists()
