"""The tables of README.md are what the files of the runs say."""

import json
import re
from pathlib import Path

import pytest

from rnn_hf.results import adapted, budget, perplexities, render


ROOT = Path(__file__).parents[1]


def test_the_tables_in_the_readme_are_those_of_the_files():
    text = (ROOT / "README.md").read_text()
    assert render(text, ROOT) == text, "run scripts/results.py"
    with pytest.raises(ValueError, match="<!-- budget -->"):
        render(text.replace("<!-- budget -->", ""), ROOT)


def test_each_recipe_with_a_published_figure_has_a_row_and_those_not_run_say_so():
    rows = {row.split("`")[1]: row for row in perplexities(ROOT).splitlines()[2:]}
    for recipe in (ROOT / "scripts" / "recipes").glob("*.yaml"):
        was_run = any((ROOT / where / recipe.stem / "run.json").exists() for where in ("model_cards", "results"))
        published = re.search("^# Published: (.*)$", recipe.read_text(), re.MULTILINE)
        assert (recipe.stem in rows) == (was_run or published is not None)
        if recipe.stem in rows:
            assert ("not run here" in rows[recipe.stem]) == (not was_run)
            assert published is None or published[1] in rows[recipe.stem]


def test_minutes_are_those_of_the_first_validation_as_good_as_asked_for(tmp_path):
    directory = tmp_path / "results" / "ptb_one"
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({"result": {"steps": 100, "minutes": 50.0}}))
    lines = [{"step": 10 * n, "validation_perplexity": 130 - 10 * n} for n in range(1, 5)] + [
        {"step": 5, "train_loss": 1}
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert budget(tmp_path).splitlines()[2] == "| `ptb_one` | 5 | 15 | 20 |  |"


def test_adapted_scores_stand_beside_static_ones(tmp_path):
    directory = tmp_path / "model_cards" / "one"
    directory.mkdir(parents=True)
    found = {"scores": {"validation": {"perplexity": 75.0}, "test": {"perplexity": 73.5}}}
    content = {"scores": {"test": {"perplexity": 83.88}}, "adapted": {"cache": found}}
    (directory / "evaluation.json").write_text(json.dumps(content))
    assert adapted(tmp_path).splitlines()[2] == "| `one` | cache | 75.00 | **73.50** | 83.88 |"
