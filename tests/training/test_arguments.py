"""Recipes and flags: flags win, nothing unknown passes, every shipped recipe is whole."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from rnn_hf import RNNConfig
from rnn_hf.errors import InputError
from rnn_hf.tasks import TASKS
from rnn_hf.training.arguments import KINDS as KINDS_OF_TASKS
from rnn_hf.training.arguments import DataArguments, ModelArguments, TrainingArguments
from rnn_hf.training.parsing import SYNONYMS, parse_arguments, read_recipe
from rnn_hf.training.setup import check_model


RECIPES = sorted((Path(__file__).parents[2] / "scripts" / "recipes").glob("*.yaml"))
KINDS = (ModelArguments, DataArguments, TrainingArguments)
OF_ANY_TASK = {name for kinds in KINDS_OF_TASKS.values() for kind in kinds for name in get_type_hints(kind)}
TYPES = {name: hint for kind in KINDS for name, hint in get_type_hints(kind).items()}


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_override_the_recipe_and_the_recipe_the_defaults(tmp_path):
    path = recipe(tmp_path, "cell_type: gru\nlearning_rate: 1e-3\nbf16: false\ntie_word_embeddings: false\n")
    arguments = parse_arguments([path, "--cell_type", "lstm"])
    assert arguments.model.cell_type == "lstm"
    assert arguments.training.learning_rate == 0.001  # YAML reads 1e-3 as a string
    assert arguments.training.bf16 is False and arguments.model.tie_word_embeddings is False
    assert arguments.training.window == 35
    assert parse_arguments([path, "--bf16", "--tie_word_embeddings"]).model.tie_word_embeddings is True


def test_model_flags_are_the_fields_of_the_configuration():
    arguments = parse_arguments(["--embedding_size", "7", "--input_dropout", "0.5", "--hidden_act", "relu"])
    defaults = RNNConfig()
    for name, value in vars(parse_arguments([]).model).items():
        if name not in ("embedding_size", "hidden_act"):  # filled in by the configuration
            assert getattr(defaults, name) == value
    assert (arguments.model.embedding_size, arguments.model.input_dropout) == (7, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ("- a\n- b", "must be a mapping"),
        ("epochs: 1", "recipe.yaml: unknown key 'epochs': that is num_train_epochs here$"),
        ("a: [", "is not YAML: [^\n]*$"),
        ("window: 10\nseed: 1\nwindow: 70", "'window' is there twice, again in line 3"),
        ("window: [10, 70]", "'window' must be one value"),
        ("window:", "'window' has no value"),
        ("report_to: ~", "'report_to' has no value"),
        ("window: many", "recipe.yaml: window must be a whole number, got 'many'$"),
        ("learning_rate: fast", "recipe.yaml: learning_rate must be a number, got 'fast'$"),
        ("bf16: maybe", "recipe.yaml: bf16 must be true or false, got 'maybe'$"),
        ("window: 0", "recipe.yaml: window must be at least 1, got 0"),
        ("learning_rate: -1", "recipe.yaml: learning_rate must be positive"),
        ("max_steps: 0", "recipe.yaml: max_steps"),
        ("lr_decay: 1.5", "recipe.yaml: lr_decay"),
        ("adam_beta2: 1.0", "recipe.yaml: adam_beta2"),
        ("validation_split_percentage: 0", "recipe.yaml: validation_split_percentage"),
        ("max_train_tokens: 0", "recipe.yaml: max_train_tokens"),
        ("min_frequency: -4", "recipe.yaml: min_frequency must be at least 1, got -4"),
        ("output_dir: ' '", "recipe.yaml: output_dir must name a directory, got ' '"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments([recipe(tmp_path, text)])


def test_a_missing_recipe_and_one_behind_the_flags_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no recipe nothing.yaml"):
        parse_arguments(["nothing.yaml"])
    with pytest.raises(ValueError, match="before the flags"):
        parse_arguments(["--window", "5", recipe(tmp_path, "window: 7")])


@pytest.mark.parametrize("argv", [["--learning_rat", "1"], ["--learn", "1"]])
def test_an_unknown_flag_is_refused_and_none_is_abbreviated(argv):
    with pytest.raises(ValueError, match=f"unknown flag '{argv[0]}'"):
        parse_arguments(argv)


@pytest.mark.parametrize("flag", ["--epochs", "--epochs=4", "--batch-size"])
def test_a_flag_of_other_programs_is_answered_by_the_one_here(flag):
    target = "per_device_train_batch_size" if "batch" in flag else "num_train_epochs"
    with pytest.raises(ValueError, match=f"^unknown flag '{flag.partition('=')[0]}': that is --{target} here$"):
        parse_arguments([flag, "4"])


def test_what_other_programs_call_a_flag_is_none_here_and_stands_for_some_that_are():
    for name, targets in SYNONYMS.items():
        assert name not in OF_ANY_TASK and set(targets.split()) <= OF_ANY_TASK and set(targets.split()) & set(TYPES)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--window", "many"], "--window must be a whole number, got 'many'"),
        (["--hidden-size", "2.5"], "--hidden_size must be a whole number, got '2.5'"),
        (["--learning_rate", "fast"], "--learning_rate must be a number, got 'fast'"),
        (["--vocab_size", "all"], "--vocab_size must be a whole number, got 'all'"),
        (["--cell_type", "LSTM"], "--cell_type must be one of lstm, gru, rnn, got 'LSTM'"),
        (["--bf16", "maybe"], "--bf16 must be true or false, got 'maybe'"),
        (["--hub_private_repo", "maybe"], "--hub_private_repo must be true or false, got 'maybe'"),
        (["--seed"], "--seed: expected one argument"),
        (["--output_dir", ""], "`output_dir` must name a directory, got ''"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_says_what_would_be_right(argv, message, capsys):
    with pytest.raises(ValueError) as error:
        parse_arguments(argv)
    assert str(error.value) == message
    assert capsys.readouterr() == ("", "")


def test_an_elman_cell_is_called_so_too(tmp_path):
    for argv in (["--cell_type", "elman"], [recipe(tmp_path, "cell_type: elman")]):
        assert parse_arguments(argv).to_dict() | {"recipe": None} == parse_arguments(["--cell_type", "rnn"]).to_dict()


def test_a_recipe_is_refused_what_a_flag_is_refused(tmp_path):
    chosen = 0
    for name, hint in TYPES.items():
        for kind in (kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal):
            message = f"{name} must be one of {', '.join(get_args(kind))}, got 'lion'$"
            for argv in ([recipe(tmp_path, f"{name}: lion")], [f"--{name}", "lion"]):
                with pytest.raises(ValueError, match=message):
                    parse_arguments(argv)
            chosen += 1
    assert chosen >= 5


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("output_dir", "2024_05", "2024_05"), ("dataset_revision", "1.10", "1.10"),
        ("dataset_revision", "0123456", "0123456"), ("dataset_name", "2024-05-01", "2024-05-01"),
        ("text_column", "no", "no"), ("text_column", "on", "on"), ("train_file", "12:30", "12:30"),
        ("vocab_size", "010", 10), ("window", "070", 70), ("max_steps", "-1", -1), ("learning_rate", "1e-3", 0.001),
        ("momentum", ".5", 0.5), ("bf16", "no", False), ("bf16", "yes", True), ("tie_word_embeddings", "False", False),
        ("hub_private_repo", "true", True), ("cell_type", "gru", "gru"),
    ],
)  # fmt: skip
def test_a_value_in_a_recipe_is_what_it_is_as_a_flag(tmp_path, name, written, value):
    for argv in ([f"--{name}={written}"], [recipe(tmp_path, f"{name}: {written}")]):
        arguments = parse_arguments(argv)
        actual = {**vars(arguments.model), **vars(arguments.data), **vars(arguments.training)}[name]
        assert actual == value and type(actual) is type(value)


def test_a_switch_in_a_recipe_may_be_on_or_off_and_a_key_without_a_value_is_the_default_where_that_is_none(tmp_path):
    path = recipe(tmp_path, "bf16: on\ntie_word_embeddings: off\nvocab_size:\nhub_private_repo: null\ntrain_file: ~")
    arguments = parse_arguments([path])
    assert arguments.training.bf16 is True and arguments.model.tie_word_embeddings is False
    assert arguments.data.vocab_size is arguments.training.hub_private_repo is arguments.data.train_file is None


def test_a_recipe_may_begin_with_a_byte_order_mark_and_must_be_utf_8(tmp_path):
    assert parse_arguments([recipe(tmp_path, "\ufeffwindow: 7")]).training.window == 7
    (tmp_path / "latin.yaml").write_bytes("output_dir: caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.yaml is not UTF-8 text"):
        parse_arguments([str(tmp_path / "latin.yaml")])


def test_no_flag_takes_a_number_that_is_not_finite():
    floats = [name for name, hint in TYPES.items() if hint is float]
    assert {"learning_rate", "weight_decay", "max_grad_norm", "hidden_dropout", "initializer_range"} <= set(floats)
    for name in floats:
        for value in ("nan", "inf", "-inf"):
            with pytest.raises(ValueError, match=f"`{name}` must be a finite number, got {value}"):
                parse_arguments([f"--{name}={value}"])


@pytest.mark.parametrize(("optim", "rate", "norm"), [("sgd", 20.0, 0.25), ("adam", 2e-3, 1.0), ("adamw", 2e-3, 1.0)])
def test_rate_and_clipping_that_are_not_given_are_the_usual_ones_of_the_optimizer(optim, rate, norm):
    training = parse_arguments(["--optim", optim]).training
    assert (training.learning_rate, training.max_grad_norm) == (rate, norm)
    training = parse_arguments(["--optim", optim, "--learning_rate", "3", "--max_grad_norm", "0"]).training
    assert (training.learning_rate, training.max_grad_norm) == (3, 0)


def test_help_says_of_each_flag_of_the_model_what_the_configuration_says(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"])
    shown = re.sub(r"\s", "", capsys.readouterr().out)  # lines are broken
    assert stop.value.code == 0
    documented = inspect.getdoc(RNNConfig)  # without the indentation, which Python 3.13 takes away as it compiles
    for field in dataclasses.fields(ModelArguments):
        said = re.search(rf"^    {field.name}: ((?:.*\n)+?)(?=    \w|\n)", documented, re.MULTILINE)
        assert re.sub(r"\s", "", said[1]) in shown, field.name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_makes_a_configuration(path):
    arguments = parse_arguments([str(path)])
    assert arguments.task in TASKS
    check_model(arguments)
    assert arguments.data.dataset_name or "--train_file" in path.read_text(encoding="utf-8")
    # Defaults may change, and published figures were measured with these.
    needed = {"optim", "learning_rate", "max_grad_norm", "lr_scheduler_type", "num_train_epochs"}
    needed |= {"window"} if arguments.task == "language-modeling" else {"task"}
    assert needed <= set(read_recipe(str(path)))
    assert arguments.training.seed >= 0


def test_each_task_has_arguments_and_a_flag_of_another_task_is_told_from_a_wrong_one(tmp_path):
    assert set(KINDS_OF_TASKS) == set(TASKS)
    path = recipe(tmp_path, "task: text-classification\nbidirectional: true\npooling: max\n")
    arguments = parse_arguments([path, "--average_decay", "0.9"])
    assert arguments.task == "text-classification" and arguments.model.bidirectional
    assert (arguments.training.average_decay, arguments.training.optim) == (0.9, "adamw")
    assert parse_arguments(["--task=token-classification"]).task == "token-classification"
    for argv, message in (
        ([path, "--window", "3"], "unknown flag '--window': it is for the task language-modeling"),
        (
            ["--pooling", "max"],
            "unknown flag '--pooling': it is for the task text-classification, and this is language",
        ),
        (
            [path, "--task", "token-classification"],
            "does not go with the recipe .*, whose task is text-classification",
        ),
        (["--task", "parsing"], "--task must be one of language-modeling, .*got 'parsing'"),
        ([path, "--bptt", "3"], "that is --window, which is for the task language-modeling, and this is text-class"),
        (["--task", "text-classification", "--batch_size", "3"], "that is --per_device_train_batch_size here"),
        (["--task", "text-classification", "--layer_decay", "0"], r"`layer_decay` is a factor in \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            parse_arguments(argv)
