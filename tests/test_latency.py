"""A row of latencies for each model and batch size, of as many tokens as were asked for."""

import json

import pytest
import torch

from rnn_hf.latency import latencies, measure


def test_every_token_but_the_first_is_timed(make_model, cell):
    model = make_model(cell, dtype=torch.float32)
    for batch_size in (1, 3):
        seconds = latencies(model, batch_size, 20)
        assert len(seconds) == 20 and min(seconds) > 0


def test_rows_come_as_they_are_measured_and_percentiles_are_in_order(make_model):
    rows = measure({"a": make_model({}, dtype=torch.float32)}, (1, 2), 16)
    first = next(rows)
    assert (first["runtime"], first["batch_size"]) == ("a", 1)
    assert 0 < first["p50_ms"] <= first["p95_ms"] and first["tokens_per_second"] > 0
    assert [row["batch_size"] for row in rows] == [2]


@pytest.fixture(scope="module")
def saved(make_model, tmp_path_factory):
    from rnn_hf.data.tokenization import build_tokenizer

    directory = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(["a b c d e f g h i"])
    make_model({}, dtype=torch.float32).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_the_command_measures_an_export_too_and_keeps_each_row(saved, tmp_path, run_script):
    from rnn_hf.onnx.export import export_onnx

    export_onnx(saved, tmp_path / "onnx")
    options = ("--onnx", tmp_path / "onnx", "--tokens", 16, "--batch_size", 1, "--json", tmp_path / "rows.json")
    status, printed, errors = run_script("benchmark_model.py", saved, *options)
    assert status == 0, errors
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["runtime"] for row in rows] == ["PyTorch, cpu", "ONNX Runtime"]
    assert len(printed.splitlines()) == 3
    assert run_script("benchmark_model.py", saved, "--tokens", 3)[0] == 2
