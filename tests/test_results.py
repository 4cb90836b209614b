"""The tables of README.md are what the files of the runs say."""

import json
import re
from pathlib import Path

import pytest

from rnn_hf.results import PAGES, adapted, budget, cells_of, perplexities, render


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_on_a_page_are_those_of_the_files(page):
    text = (ROOT / page).read_text()
    assert render(page, text, ROOT) == text, "run scripts/results.py"
    for name in PAGES[page]:
        with pytest.raises(ValueError, match=f"{page} needs .*<!-- {name} -->"):
            render(page, text.replace(f"<!-- {name} -->", ""), ROOT)


def test_a_run_that_was_not_run_in_full_says_how_far_it_was(tmp_path):
    result = {"minutes": 3.2, "epochs": 0.151, "is_complete": False, "best_validation_perplexity": 512.34}
    options = {"num_train_epochs": 500, "seed": 7}
    content = {"result": result, "arguments": {"training": options}, "threads": 1, "device": "cpu", "parameters": 1234}
    (tmp_path / "run.json").write_text(json.dumps(content))
    expected = ["1,234", "not run here in full: 0.15 of 500", "3 (1)", "cpu", "7", "512.3 on the way", ""]
    assert cells_of(tmp_path) == expected


def test_each_recipe_with_a_published_figure_has_a_row_and_those_not_run_say_so():
    rows = {row.split("`")[1]: row for row in perplexities(ROOT).splitlines()[2:]}
    for recipe in (ROOT / "scripts" / "recipes").glob("*.yaml"):
        files = [ROOT / where / recipe.stem / "run.json" for where in ("model_cards", "results")]
        runs = [json.loads(file.read_text())["result"] for file in files if file.exists()]
        was_run = any(result["is_complete"] for result in runs)
        published = re.search("^# Published: (.*)$", recipe.read_text(), re.MULTILINE)
        assert (recipe.stem in rows) == (bool(runs) or published is not None)
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
