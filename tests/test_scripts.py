"""The commands: each answers --help, trains two steps, reads what another left, and says in one line what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer


ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def command(*argv, **environment):
    program = [sys.executable, *map(str, argv)]
    return subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def script(name, *argv):
    return command(ROOT / "scripts" / name, *argv)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat\nthe dog sat on the cat\n" * 60)
    return path


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """A model that two steps of scripts/train.py made, by a recipe of the project."""
    directory = tmp_path_factory.mktemp("runs") / "model"
    recipe = ROOT / "scripts" / "recipes" / "ptb_lstm_small.yaml"
    files = {"train_file": text, "validation_file": text, "test_file": text, "output_dir": directory}
    small = {"hidden_size": 8, "max_steps": 2, "per_device_train_batch_size": 4, "bf16": False}
    flags = [part for name, value in {**files, **small}.items() for part in (f"--{name}", value)]
    # The recipe names Penn Treebank; a text file takes its place only when the name is taken back.
    own = directory.parent / "recipe.yaml"
    own.write_text(recipe.read_text().replace("dataset_name: ptb\n", ""))
    result = script("train.py", own, *flags)
    assert result.returncode == 0, result.stderr
    assert "go on by the same command with --resume_from_checkpoint last" in result.stdout
    return directory


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_answers_help_and_does_without_its_docstring(name, run_script):
    for optimize in (-1, 2):
        status, printed, _ = run_script(name, "--help", optimize=optimize)
        assert status == 0 and "usage:" in printed


@pytest.mark.slow
def test_a_byte_order_mark_and_the_ends_of_lines_change_nothing(trained, tmp_path, run_script):
    text = "the cat sat on the mat\nthe dog sat on the cat\n"
    printed = []
    for name, content in (("a", text), ("b", "\ufeff" + text.replace("\n", "\r\n\r\n"))):
        (tmp_path / f"{name}.txt").write_bytes(content.encode())
        sizes = ("--rows", 2, "--steps", 7, "--distances", 2)
        inspected = run_script("inspect_model.py", trained, "--text", tmp_path / f"{name}.txt", *sizes)
        evaluated = run_script("evaluate.py", trained, "--validation_file", tmp_path / f"{name}.txt", "--json")
        assert inspected[0] == evaluated[0] == 0
        printed.append(inspected[1] + evaluated[1])
    assert printed[0] == printed[1] and printed[0].count("gradient norm") == 2


def test_a_split_that_the_corpus_lacks_is_named(trained, tmp_path, run_script):
    run = json.loads((trained / "run.json").read_text())
    run["arguments"]["data"]["test_file"] = None
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "model" / "run.json").write_text(json.dumps(run))
    status, _, errors = run_script("adapt.py", tmp_path / "model", "temperature", "--split", "test")
    assert status == 2 and errors == "error: the corpus has no test text, only train, validation\n"


def test_evaluate_reads_the_runs_own_corpus_and_gives_one_number_for_any_window(trained, text, run_script):
    results = [run_script("evaluate.py", trained, "--split", "test", "--json", "--window", n) for n in (7, 200)]
    first, second = (json.loads(printed) for _, printed, _ in results)
    assert first["tokens"] == 120 * 7
    assert first["loss_nats"] == pytest.approx(second["loss_nats"], abs=1e-5)
    _, printed, _ = run_script("evaluate.py", trained, "--split", "test", "--test_file", text)
    assert f"perplexity {first['perplexity']:.2f} over 840 tokens" in printed


def test_words_that_a_model_has_no_row_for_are_named_wherever_a_text_is_given(trained, text, tmp_path, run_script):
    shutil.copytree(trained, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_tokens("cat-like")  # and the model is not resized
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the cat-like dog\n" * 200)
    for name, *options in (
        ("generate.py", "--prompt", "the cat-like"),
        ("score.py", "the cat-like"),
        ("evaluate.py", "--validation_file", tmp_path / "text.txt"),
        ("inspect_model.py", "--text", tmp_path / "text.txt"),
    ):
        status, _, errors = run_script(name, tmp_path / "model", *options)
        assert status == 2 and "is outside the model's vocabulary" in errors.splitlines()[-1], name


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_refused_by_every_command_that_computes(trained, run_script, tmp_path):
    for name, *options in (
        ("adapt.py", "temperature"),
        ("evaluate.py",),
        ("generate.py", "--prompt", "the"),
        ("score.py", "the"),
        ("serve.py", "--port", 0),
    ):
        status, _, errors = run_script(name, trained, *options, "--device", "cuda")
        assert status == 2 and "device cuda is not there" in errors.splitlines()[-1], name


def test_generate_goes_on_from_each_prompt(trained, run_script):
    options = ["--prompt", "the cat", "--prompt", "the", "--max_new_tokens", 3, "--past_end"]
    status, printed, errors = run_script("generate.py", trained, *options)
    lines = printed.splitlines()
    assert status == 0, errors
    assert len(lines) == 2 and lines[0].startswith("the cat ") and len(lines[1].split()) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        (("--num_beams", 0), "--num_beams must be at least 1, got 0"),
        (("--temperature", -1), "--temperature must be 0, or from 0.001 to 1000; got -1.0"),
        (("--temperature", "nan"), "--temperature must be 0, or from 0.001 to 1000; got nan"),
        (("--min_new_tokens", 9, "--max_new_tokens", 8), "--min_new_tokens 9 must be at most --max_new_tokens 8"),
        (("--seed", -1), "--seed must be from 0 to 4294967295, got -1"),
        (("--prompt", "caf\udce9"), "argument --prompt: must be UTF-8 text, got"),
        (("--top_p", 2), "--top_p is a probability above 0, got 2.0"),
        (("--num_return_sequences", 3, "--temperature", 0), "--num_return_sequences 3 needs as many --num_beams"),
    ],
)
def test_generate_refuses_values_out_of_range_by_name(trained, run_script, options, message):
    status, _, errors = run_script("generate.py", trained, *options)
    assert status == 2 and errors.startswith(f"error: {message}")


def test_generate_names_words_that_the_model_does_not_know(trained, run_script):
    _, _, errors = run_script("generate.py", trained, "--prompt", "The cat Sat", "--max_new_tokens", 1)
    assert "unknown to the model: The, Sat\n" in errors


def test_a_path_that_is_not_there_is_named_with_the_nearest_one_before_the_hub_is_asked(trained, run_script, tmp_path):
    nearest = trained.with_name(trained.name[:-1])
    for name, *options in (
        ("evaluate.py",), ("generate.py",), ("score.py", "the"), ("serve.py",), ("adapt.py", "temperature"),
        ("inspect_model.py",), ("export_onnx.py", tmp_path / "out"),
    ):  # fmt: skip
        status, _, errors = run_script(name, nearest, *options)
        last = errors.splitlines()[-1]
        assert status == 2 and last == f"error: there is no {nearest}; did you mean {trained}?", name


def test_a_recipe_goes_by_its_name_too(text, tmp_path, run_script):
    flags = ["--dataset_name", "none/such", "--output_dir", tmp_path / "a", "--ptb_dir", tmp_path]
    status, _, errors = run_script("train.py", "ptb_lstm_small", *flags)
    assert status == 2 and "no recipe" not in errors
    status, _, errors = run_script("train.py", "ptb_lstm_smal", *flags)
    assert status == 2 and "no recipe ptb_lstm_smal" in errors.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_the_same_columns(text, tmp_path):
    flags = ["--train_file", text, "--validation_file", text, "--hidden_size", 8, "--max_steps", 6, "--use_cpu", True]
    flags += ["--save_steps", 1, "--save_total_limit", 9, "--eval_steps", 2, "--logging_steps", 1]
    flags += ["--optim", "sgd", "--learning_rate", 1]  # rounding grows with it
    one = ["--per_device_train_batch_size", 4, "--output_dir", tmp_path / "one", *flags]
    two = ["--per_device_train_batch_size", 2, "--output_dir", tmp_path / "two", *flags]
    # Without --multi_gpu accelerate starts one process on a CPU, unless MPI is there.
    for launch, rest in ((["--multi_gpu", "--num_processes", 2], two), (["--cpu"], one)):
        done = command("-m", "accelerate.commands.launch", *launch, ROOT / "scripts" / "train.py", *rest)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("best validation perplexity") == 1
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert [record["processes"] for record in records] == [1, 2]
    for step in range(1, 7):
        files = [tmp_path / name / f"checkpoint-{step}" / "model.safetensors" for name in ("one", "two")]
        for a, b in zip(*(load_file(file).values() for file in files), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
             for name in ("one", "two")]  # fmt: skip
    for kind, count in (("train_loss", 6), ("validation_loss", 3)):
        losses = [[line[kind] for line in run if kind in line] for run in lines]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == count


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_of_all_with_words(text, tmp_path):
    flags = ["--train_file", text, "--validation_file", text, "--use_cpu", True, "--num_train_epochs", 10_000]
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, ROOT / "scripts" / "train.py",
                *flags, "--output_dir", tmp_path / "out"]  # fmt: skip
    with subprocess.Popen(list(map(str, launched)), stderr=subprocess.PIPE, text=True, cwd=tmp_path) as run:
        try:
            while not list((tmp_path / "out").glob("checkpoint-*")) and run.poll() is None:
                time.sleep(0.5)
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            _, errors = run.communicate(timeout=600)  # seconds, for a run that goes on without its process
        finally:
            run.kill()
    assert run.returncode == 1 and "SIGKILL" in errors
    assert list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train.py", "nothing.yaml"], "error: no recipe nothing.yaml"),
        (["train.py", "--learning_rat", "1"], "did you mean '--learning_rate'"),
        (["train.py"], "error: name a corpus"),
        (["train.py", "--window", "many"], "error: --window must be a whole number, got 'many'"),
        (["train.py", "--ptb_dir", "nowhere"], "error: no file nowhere/ptb.train.txt"),
        (["train.py", "--dataset_name", "sotu", "--cell_type", "gru", "--projection_size", "3"], "projection_size"),
        (["evaluate.py", "nowhere", "--ptb_dir", "nowhere"], "error: cannot load the model nowhere"),
        (["generate.py", "./nowhere"], "error: there is no ./nowhere"),
        (["serve.py", "nowhere", "--port", "70000"], "error: --port must be from 0 to 65535, got 70000"),
        (["adapt.py", "nowhere", "cache", "--tune_tokens", "0"], "error: --tune_tokens must be at least 1, got 0"),
        (["benchmark_model.py", "nowhere", "--json", "no/a.json"], "error: --json: no directory no"),
        (["push_to_hub.py", "nowhere", "a b"], "error: `repo_id` must be NAME or USER/NAME, of"),
        (["push_to_hub.py", "nowhere", "a b", "--dry_run"], "error: `repo_id` must be NAME or USER/NAME, of"),
        (["push_to_hub.py", "nowhere", "--local_dir", __file__], "error: --local_dir must be a directory, and"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(argv, message, tmp_path, run_script):
    output = ["--output_dir", tmp_path / "out"] if argv[0] == "train.py" else []
    status, _, errors = run_script(*argv, *output)
    assert status == 2 and message in errors.splitlines()[-1]
    assert not (tmp_path / "out").exists()
