"""The check of a GPU runs in all its parts where there is none, and leaves what it has when its time is over."""

import json
import runpy
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.benchmarking import gpu, gpu_speed
from rnn_hf.benchmarking.by_hand import BareLanguageModel
from rnn_hf.benchmarking.gpu import Part, read_report, run_part, run_until
from rnn_hf.benchmarking.gpu_speed import DRY, FULL, TYPES, StepSize, rows_of_speed, timed
from rnn_hf.benchmarking.pages import GPU_SPEED, GPU_TABLES, gpu_tests, gpu_training, summary_of_gpu
from rnn_hf.benchmarking.pages import gpu_speed as speed_table


ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def precision_as_before():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def part(tmp_path):
    def make(name, seconds=1800.0):
        return Part(name, tmp_path / "out", tmp_path / "work", None, "cpu", True, time.time() + seconds)

    return make


def read(part):
    return json.loads((part.out / f"{part.name}.json").read_text())


@pytest.mark.slow
def test_facts_and_speed_leave_a_row_for_all_that_they_are_to_measure(part):
    for name in ("facts", "speed"):
        run_part(part(name))
        assert not (part(name).out / f"{name}.partial.json").exists()
    facts, speed = read(part("facts")), read(part("speed"))
    assert facts["complete"] and speed["complete"] and facts["machine"]["cpu"] and facts["versions"]["torch"]
    assert [row["type"] for row in facts["matrix"]] == list(TYPES)
    expected = [(table, about) for table, about, _ in rows_of_speed(CPU, DRY, {})]
    rest = {table: list(speed[table]) for table, _ in expected}
    for table, about in expected:
        row = rest[table].pop(0)
        assert about.items() <= row.items()
        # Half precision is for a GPU; a row that is not measured says why.
        assert ("error" in row) == (table == "step" and row["type"] == "fp16")
        assert "error" in row or all(value > 0 for value in row["milliseconds"].values())
    assert not any(rest.values())
    assert {"by hand", "stock generate()", "GPT-2"} == set(speed["decode"][0]["ratio"])
    assert all(row["finds_same_tokens"] for row in speed["decode"])
    for name in GPU_SPEED:
        text = speed_table(part("facts").out, name)
        # Not every CPU has a layer in bfloat16 to compare with: such a row has no ratio.
        assert text.count("\n| ") == 1 + sum(bool(row.get("ratio")) for row in speed[name]) and "(1 rounds, " in text
    summary = summary_of_gpu(part("facts").out)
    assert "vs by hand, same loss" in summary and "rows with errors" in summary and "needs a GPU" in summary


def test_a_row_that_raises_is_kept_as_an_error_and_the_rest_goes_on(part, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("CUDA error: it broke\nmore")

    monkeypatch.setattr(gpu_speed, "step_row", broken)
    monkeypatch.setattr(gpu_speed, "decode_row", broken)
    run_part(part("speed"))
    speed = read(part("speed"))
    assert {row["error"] for row in speed["step"] + speed["decode"]} == {"RuntimeError: CUDA error: it broke"}
    assert speed["complete"] and all("error" not in row for row in speed["layer"])
    monkeypatch.setitem(gpu.PARTS, "facts", broken)
    run_part(part("facts"))
    assert read(part("facts"))["error"].endswith("it broke") and not read(part("facts"))["complete"]


def test_one_candidate_that_raises_leaves_the_times_of_the_others():
    timing = timed({"a": lambda: None, "b": lambda: 1 / 0}, CPU, DRY)
    assert list(timing["seconds"]) == ["a"] and "division" in timing["errors"]["b"]
    with pytest.raises(RuntimeError, match="no candidate runs"):
        timed({"b": lambda: 1 / 0}, CPU, DRY)


def test_a_part_whose_time_is_over_says_that_it_is_not_complete(part):
    run_part(part("speed", seconds=gpu.SECONDS_A_ROW - 1))
    assert read(part("speed")).keys() == {"complete", "part_seconds"} and not read(part("speed"))["complete"]


def test_the_most_telling_rows_come_first():
    tables = [table for table, _, _ in rows_of_speed(CPU, FULL, {})]
    assert tables[:12] == ["step"] * 12 and tables[12:18] == ["decode"] * 6
    assert set(tables) == {"step", "decode", "stack", "loss", "layer"}


@pytest.mark.parametrize("size", [StepSize("gru", 6, 3, 2, 5, 11), StepSize("lstm", 6, 1, 2, 5, 11, 4)], ids=str)
def test_operations_are_two_a_weight_of_a_matrix_and_token_and_three_times_that_with_the_way_back(size):
    config = RNNConfig(
        vocab_size=11, hidden_size=6, num_hidden_layers=size.num_hidden_layers, cell_type=size.cell_type,
        tie_word_embeddings=size.is_tied, **size.head,
    )  # fmt: skip
    model = RNNForCausalLM(config)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    count = sum(matrix.numel() for matrix in matrices) + (model.lm_head.weight.numel() if size.is_tied else 0)
    assert size.operations() == 3 * 2 * count * 2 * 5


def test_the_hand_written_model_has_the_same_loss_behind_a_projection():
    config = RNNConfig(vocab_size=9, hidden_size=6, num_hidden_layers=1, embedding_size=4, output_projection_size=4)
    ours, bare = RNNForCausalLM(config), BareLanguageModel(config)
    assert bare.output.weight is bare.embedding.weight
    bare.output.load_state_dict(ours.lm_head.state_dict())
    bare.projection.load_state_dict(ours.output_projection.state_dict())
    bare.rnn.load_state_dict(ours.model.layers[0].rnn.state_dict())
    tokens = torch.randint(9, (3, 6))
    expected = ours(tokens[:, :-1], shift_labels=tokens[:, 1:]).loss
    for kind in ("plain", "fused"):
        torch.testing.assert_close(bare(tokens[:, :-1], tokens[:, 1:].contiguous(), None, kind)[0], expected)


REPORT = """<testsuites><testsuite name="pytest"><testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two[x]"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.a" name="three"><error message="cannot import"/></testcase>
<testcase classname="tests.a" name="four"><skipped message="no"/></testcase></testsuite></testsuites>"""


def test_a_report_of_tests_is_counted_and_failures_are_named(tmp_path):
    assert "error" in read_report(tmp_path / "tests.xml")
    (tmp_path / "tests.xml").write_text(REPORT)
    report = read_report(tmp_path / "tests.xml")
    assert report["counts"] == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1}
    failures = [{"test": "tests.a::two[x]", "message": "assert 1 == 2"}]
    assert report["failures"] == [*failures, {"test": "tests.a::three", "message": "cannot import"}]
    assert gpu_tests(tmp_path) == "Not run."
    (tmp_path / "tests.json").write_text(json.dumps({**report, "seconds": 3.2}))
    assert "1 passed" in gpu_tests(tmp_path) and "- `tests.a::two[x]`: assert 1 == 2" in gpu_tests(tmp_path)


def test_a_command_whose_time_is_over_is_told_so(tmp_path):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); time.sleep(60)"
    assert run_until([sys.executable, "-S", "-c", code], time.time() + 1, 15) == 7


def test_the_tables_of_a_page_are_those_of_results_and_say_where_nothing_was_measured(tmp_path):
    assert {render(tmp_path) for render in GPU_TABLES.values()} == {"Not measured.", "Not run."}
    (tmp_path / "results" / "gpu").mkdir(parents=True)
    row = {"size": "lstm 2x650", "milliseconds": {"ours": 1.5}, "ratio": {"by hand": 0.987}, "rounds": 3}
    (tmp_path / "results" / "gpu" / "speed.json").write_text(json.dumps({"decode": [row]}))
    facts = {"gpu": "Some GPU", "cuda": "13.0", "cudnn": 91300, "versions": {"torch": "2.11.0"}}
    (tmp_path / "results" / "gpu" / "facts.json").write_text(json.dumps(facts))
    assert GPU_TABLES["gpu decoding"](tmp_path) == (
        "| size | ms a token, ours | vs by hand |\n| --- | --- | --- |\n| lstm 2x650 | 1.5 | 0.99 |\n\n"
        "(3 rounds, Some GPU, CUDA 13.0, cuDNN 91300, torch 2.11.0)"
    )


def test_a_run_that_was_stopped_shows_how_far_it_came(tmp_path):
    assert gpu_training(tmp_path) == "Not run."
    result = {"minutes": 3.1, "epochs": 20.5, "steps": 9000, "is_complete": False}
    train = {"result": result, "parameters": 1234, "tokens_per_second": 99.6, "scores": [{"error": "it broke"}]}
    (tmp_path / "train.json").write_text(json.dumps(train))
    text = gpu_training(tmp_path)
    assert "| 1,234 | 3.1 | 20.5 | 9,000 | 100 |  |  |" in text and "NOT run to its end" in text
    train["scores"] = [{"validation": 70.25, "test": 68.5}]
    (tmp_path / "train.json").write_text(json.dumps(train))
    assert "| 70.25 | **68.5** |" in gpu_training(tmp_path)


def test_a_part_that_is_killed_leaves_what_it_had(tmp_path, monkeypatch):
    script = runpy.run_path(str(ROOT / "scripts" / "gpu_check.py"))
    (tmp_path / "speed.partial.json").write_text('{"step": [1]}')
    started = []

    def hang(command, **options):
        code = "import time; print('x' * 300_000, flush=True); time.sleep(60)"
        started.append(popen([sys.executable, "-S", "-c", code], **options))
        return started[0]

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", hang)
    told = Namespace(out=str(tmp_path), work="", ptb_dir=None, device="cpu", is_dry=True)
    script["run_part"]("speed", time.time() - script["SLACK"], told)
    assert started[0].returncode == -9
    assert json.loads((tmp_path / "speed.json").read_text()) == {"step": [1], "complete": False}
    assert (tmp_path / "speed.log").stat().st_size == script["MOST_OF_A_LOG"]


@pytest.mark.slow
def test_the_command_runs_on_a_cpu_and_a_second_call_does_nothing_again(tmp_path):
    command = [sys.executable, "scripts/gpu_check.py", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    command += ["--dry", "--device", "cpu", "--parts", "tests,train", "--budget", "300"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith("tests: done\ntrain: done\n") and "(run to its end, " in said
    tests, train = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("tests", "train"))
    assert tests["complete"] and train["complete"]
    assert tests["counts"]["skipped"] and {"validation", "test"} < train["scores"][0].keys()
    kept = {f"train_{name}" for name in gpu.KEPT}
    assert kept <= {path.name for path in (tmp_path / "out").iterdir()}
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ": done" not in again and "(run to its end, " in again
