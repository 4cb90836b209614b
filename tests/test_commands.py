"""How a command ends: with a line for a mistake, a traceback for a bug, quietly when nobody reads on."""

import io
import os
import sys
from inspect import signature

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.commands import CORPUS_HELP, Parser, add_device_flag, add_model_argument, run_command
from rnn_hf.commands.score import UNITS
from rnn_hf.data.corpora import load_corpus
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.loading import DEVICES
from rnn_hf.scoring import PER_NAT


def ending(main, *flags):
    with pytest.raises(SystemExit) as stop:
        run_command(main, *flags)
    return stop.value.code


def fail(error):
    raise error


def say(text):
    sys.stdout.write(text)
    return 0


def test_a_mistake_is_one_line_and_a_bug_keeps_its_traceback(capsys):
    assert ending(lambda: 0) == 0 and ending(lambda: 1) == 1
    for kind in (InputError, MissingPackageError, OSError, FileNotFoundError, FloatingPointError):
        assert ending(lambda kind=kind: fail(kind("too large"))) == 2
        assert capsys.readouterr().err == "error: too large\n"
    assert ending(lambda: fail(OSError("no file:\n  look\n\nelsewhere"))) == 2
    assert capsys.readouterr().err == "error: no file: look elsewhere\n"
    known = Tokenizer(WordLevel({"a": 0}))
    assert ending(lambda: known.encode("b")) == 2
    assert "error: the text has a word that is not in the vocabulary of the model" in capsys.readouterr().err
    for kind in (Exception, ValueError, TypeError, KeyError, ImportError, RuntimeError):
        with pytest.raises(kind):
            run_command(lambda kind=kind: fail(kind("a bug")))


def test_a_line_names_as_flags_the_arguments_that_are_flags_of_the_command_and_no_others(capsys):
    parser = Parser(None, "any")
    add_model_argument(parser)
    parser.add_argument("--ptb_dir")
    parser.add_argument("--dataset_name")
    flags = parser.parse_args(["a"]).flags
    lines = {
        "no `ptb_dir`": "no --ptb_dir",
        "`dataset_name='ptb'` and `dataset_name` ptb": "--dataset_name ptb and --dataset_name ptb",
        "`model` goes with `labels=None`, as in `a + ptb_dir`": "`model` goes with `labels=None`, as in `a + ptb_dir`",
    }
    for message, line in lines.items():
        assert ending(lambda message=message: fail(InputError(message)), flags) == 2
        assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    "script, flags",
    [("generate.py", []), ("score.py", ["a b"]), ("benchmark_model.py", []), ("export_onnx.py", ["OUT"]),
     ("inspect_model.py", ["--sentence", "a b", "--heatmap", "OUT.png"])],
)  # fmt: skip
def test_what_needs_the_order_of_a_text_refuses_a_model_that_reads_backward(tmp_path, run_script, script, flags):
    tokenizer = build_tokenizer(["a b c"])
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4, reads_backward=True)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    flags = [flag.replace("OUT", str(tmp_path / "out")) for flag in flags]
    status, _, errors = run_script(script, tmp_path, *flags)
    assert status == 2 and "needs a language model that reads forward, and this one has `reads_backward=Tr" in errors
    assert not list(tmp_path.glob("out*"))


def test_a_console_shows_a_character_that_it_lacks_by_its_number(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    assert ending(lambda: say("caf\xe9 \u2581the \udce9")) == 0
    assert console.buffer.getvalue() == b"caf\\xe9 \\u2581the \\udce9"


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert ending(lambda: say("a")) == 1
    assert capsys.readouterr().err == ""


def test_flags_that_are_read_before_the_package_have_the_values_that_it_takes():
    assert set(CORPUS_HELP) == set(signature(load_corpus).parameters)
    assert tuple(sorted(PER_NAT)) == UNITS
    parser = Parser(None, "any")
    add_device_flag(parser)
    for device in DEVICES:
        assert parser.parse_args(["--device", device]).device == device
