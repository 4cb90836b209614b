"""The tables of the manual are what the files of the runs say."""

import json
import re
from pathlib import Path

import pytest

from rnn_hf.benchmarking.pages import (
    GPU_TABLES,
    PAGES,
    adapted,
    budget,
    conditions,
    loops,
    perplexities,
    progress_of,
    render,
    runs,
    unfinished,
)


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_on_a_page_are_those_of_the_files(page):
    text = (ROOT / page).read_text()
    assert render(page, text, ROOT) == text, "run scripts/results.py"
    for name in PAGES[page]:
        with pytest.raises(ValueError, match=f"{page} needs .*<!-- {name} -->"):
            render(page, text.replace(f"<!-- {name} -->", ""), ROOT)


MACHINE = {
    "cpu": "Some CPU 9000", "cores": 4, "threads": 3, "instructions": ["AVX512", "AMX"], "blas": "OpenBLAS",
    "onednn": True, "keeps_freed_memory": True, "environment": {},
}  # fmt: skip
FROM_RUNS = {"summary", "results", "runs", "unfinished", "budget", "adapted", "client"} | GPU_TABLES.keys()
IN_OTHER_PROCESSES = {"training memory", "memory", "cold start"}


@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_a_benchmark_names_the_machine(page, tmp_path):
    (tmp_path / "results").mkdir()
    for file in (ROOT / "results").glob("benchmark_*.json"):
        content = json.loads(file.read_text())
        content |= {"machine": MACHINE, "padding": [], "bf16": []}
        (tmp_path / "results" / file.name).write_text(json.dumps(content))
    for name in PAGES[page].keys() - FROM_RUNS:
        line = PAGES[page][name](tmp_path).splitlines()[-1]
        kept = "" if name in IN_OTHER_PROCESSES else ", freed memory kept"
        assert f", 3 threads, Some CPU 9000, AVX512/AMX, OpenBLAS{kept}, torch " in line


def test_what_changes_speed_is_in_the_line_and_what_is_as_usual_is_not():
    benchmark = {"rounds": 5, "versions": {"torch": "2.13.0"}, "machine": MACHINE}
    usual = conditions(benchmark)
    assert usual == "(5 rounds, 3 threads, Some CPU 9000, AVX512/AMX, OpenBLAS, freed memory kept, torch 2.13.0)"
    for key, value, words in (
        ("onednn", False, "oneDNN off"),
        ("environment", {"MALLOC_ARENA_MAX": "1"}, "MALLOC_ARENA_MAX=1"),
        ("gpu", "Some GPU", "Some GPU"),
    ):
        assert words not in usual and words in conditions(benchmark | {"machine": MACHINE | {key: value}})


def test_a_file_without_a_machine_says_so_and_one_without_a_table_too(tmp_path):
    (tmp_path / "results").mkdir()
    content = {
        "rounds": 5,
        "threads": 2,
        "versions": {"torch": "2.9"},
        "rows": [{"size": "one", "ratio": {"a": 1}}],
    }
    (tmp_path / "results" / "benchmark_train.json").write_text(json.dumps(content))
    expected = "| size | vs a |\n| --- | --- |\n| one | 1.00 |\n\n(5 rounds, 2 threads, CPU not recorded, torch 2.9)"
    assert PAGES["docs/speed.md"]["speed"](tmp_path) == expected
    assert PAGES["docs/speed.md"]["padding"](tmp_path) == "Not measured."


def test_a_row_of_a_whole_loop_is_told_from_a_step(tmp_path):
    (tmp_path / "results").mkdir()
    rows = [{"size": "one", "ratio": {"a": 1}}, {"size": "two, whole loop, tied", "ratio": {"b": 0.5}}]
    content = {"rounds": 5, "threads": 2, "versions": {"torch": "2.9"}, "rows": rows}
    (tmp_path / "results" / "benchmark_train.json").write_text(json.dumps(content))
    assert loops(tmp_path).splitlines()[2:-2] == ["| two, tied | b | 0.50 |"]
    assert PAGES["docs/speed.md"]["speed"](tmp_path).splitlines()[2:-2] == ["| one | 1.00 |"]


def test_a_run_that_was_not_run_in_full_says_how_far_it_was():
    result = {"minutes": 3.2, "epochs": 0.151, "is_complete": False, "best_validation_perplexity": 512.34}
    run = {"result": result, "arguments": {"training": {"num_train_epochs": 500}}}
    assert progress_of(run) == {"epochs run": "0.15 of 500", "validation so far": "512.3"}


def test_each_recipe_with_a_published_figure_has_a_row_among_those_run_to_their_end_or_the_others():
    tables = [
        {row.split("`")[1]: row for row in made(ROOT).splitlines()[2:]} for made in (perplexities, runs, unfinished)
    ]
    complete, details, stopped = tables
    assert complete.keys() == details.keys() and not complete.keys() & stopped.keys()
    for recipe in (ROOT / "scripts" / "recipes").glob("*.yaml"):
        files = [ROOT / where / recipe.stem / "run.json" for where in ("model_cards", "results")]
        results = [json.loads(file.read_text())["result"] for file in files if file.exists()]
        published = re.search("^# Published: (.*)$", recipe.read_text(), re.MULTILINE)
        is_complete = any(result["is_complete"] for result in results)
        assert (recipe.stem in complete) == is_complete
        assert (recipe.stem in stopped) == (not is_complete and bool(results or published))
        if published and is_complete:
            assert published[1] in complete[recipe.stem]
        elif published:
            assert published[1] in stopped[recipe.stem]


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
