"""The command: what it can do, and mistakes in its words, are answered before anything large is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import rnn_hf_command


ROOT = Path(__file__).parents[1]


def ending(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        rnn_hf_command.main(None, words)
    return stop.value.code, *capsys.readouterr()


def test_each_command_is_listed_and_is_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rnn-hf", "--help"])
    code, printed, _ = ending(capsys, "--help")
    assert code == 0 and all(name in printed for name in rnn_hf_command.COMMANDS)
    modules = {path.stem for path in (ROOT / "rnn_hf" / "commands").glob("*.py")} - {"__init__"}
    assert modules == set(rnn_hf_command.COMMANDS)


@pytest.mark.parametrize(
    "words, message",
    [
        (("scor",), "no command 'scor'; did you mean 'score'?"),
        (("score", "m", "--unitt", "bits"), "unknown argument '--unitt'; did you mean '--unit'?"),
        (("evaluate", "m", "--split", "tset"), "argument --split: invalid choice: 'tset'"),
        (("generate", "m", "--seed", "one"), "argument --seed: invalid int value: 'one'"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, message):
    code, printed, errors = ending(capsys, *words)
    assert code == 2 and not printed
    assert errors.startswith(f"error: {message}") and errors.count("\n") == 1


def test_help_and_mistakes_import_neither_torch_nor_transformers():
    names = [name for name in rnn_hf_command.COMMANDS if name != "train"]  # whose flags are the model's
    code = "\n".join([
        "import sys, rnn_hf_command",
        f"for words in {[[name, '--help'] for name in names] + [['--help'], ['scor'], ['score', '--unitt']]}:",
        "    try: rnn_hf_command.main(words[0], words[1:])",
        "    except SystemExit: pass",
        "print('large:', {'torch', 'transformers'} & sys.modules.keys())",
    ])  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.endswith("large: set()\n"), result.stdout[-300:]


@pytest.mark.slow
def test_the_package_registers_its_models_once_a_command_runs():
    code = "\n".join([
        "import rnn_hf_command",
        "try: rnn_hf_command.main('recipes', [])",
        "except SystemExit as stop: assert stop.code == 0",
        "import rnn_hf",
        "from transformers import AutoConfig",
        "assert AutoConfig.for_model('rnn_hf').model_type == rnn_hf.RNNConfig.model_type",
    ])  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert "ptb_lstm_small" in result.stdout


@pytest.mark.parametrize("words", ["--help", "score --help"])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(words):
    command = f"{sys.executable} -m rnn_hf_command {words} | true"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
