"""Recipes and flags: flags win, nothing unknown passes, every shipped recipe is whole."""

from pathlib import Path

import pytest

from rnn_hf import RNNConfig
from rnn_hf.training.arguments import parse_arguments


RECIPES = sorted((Path(__file__).parents[2] / "scripts" / "recipes").glob("*.yaml"))


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
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
        ("a: [", "is not YAML"),
        ("window: 0", "--window must be at least 1"),
        ("learning_rate: -1", "--learning_rate must be positive"),
        ("max_steps: 0", "--max_steps"),
        ("lr_decay: 1.5", "--lr_decay"),
        ("adam_beta2: 1.0", "--adam_beta2"),
        ("validation_split_percentage: 0", "--validation_split_percentage"),
        ("max_train_tokens: 0", "--max_train_tokens"),
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


@pytest.mark.parametrize("argv", [["--window", "many"], ["--cell_type", "qrnn"]])
def test_a_value_of_the_wrong_type_ends_with_a_usage_error(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(argv)
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_makes_a_configuration(path):
    arguments = parse_arguments([str(path)])
    assert RNNConfig(vocab_size=100, **vars(arguments.model)).num_hidden_layers >= 1
    assert arguments.data.dataset_name
    assert arguments.training.seed >= 0
