"""The tables of the manual are what the files of the runs say."""

import json
import re
from pathlib import Path

import pytest

from rnn_hf.benchmarking.markdown import conditions
from rnn_hf.benchmarking.pages import GPU_TABLES, PAGES, loops, render
from rnn_hf.benchmarking.results import (
    adapted,
    budget,
    classification,
    forecasts,
    perplexities,
    progress_of,
    recipes,
    runs,
    speech,
    summary,
    translations,
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
FROM_RUNS = {
    "summary",
    "results",
    "runs",
    "classification",
    "speech",
    "forecasts",
    "translations",
    "unfinished",
    "budget",
    "adapted",
    "client",
}
FROM_RUNS |= GPU_TABLES.keys()
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
    assert progress_of(run) == {"epochs run": "0.15 of 500", "validation so far": "perplexity 512.34"}


def rows_of(table):
    """The rows of a table by the name of the recipe, of several the first: an ensemble comes after its runs."""
    rows = [row for row in table.splitlines()[2:] if "`" in row]
    return {row.split("`")[1]: row for row in reversed(rows)}


def test_each_recipe_with_a_published_figure_has_a_row_among_those_run_to_their_end_or_the_others():
    complete, details, classifiers, stopped = (
        rows_of(made(ROOT)) for made in (perplexities, runs, classification, unfinished)
    )
    assert complete.keys() == details.keys() and not complete.keys() & classifiers.keys()
    complete |= classifiers | rows_of(speech(ROOT)) | rows_of(forecasts(ROOT)) | rows_of(translations(ROOT))
    assert not complete.keys() & stopped.keys()
    stored = {recipe.name: recipe for recipe in recipes(ROOT)}
    for file in (ROOT / "scripts" / "recipes").glob("*.yaml"):
        recipe = stored[file.stem]
        published = re.search("^# Published: (.*)$", file.read_text(), re.MULTILINE)
        assert (file.stem in complete) == recipe.is_complete
        assert (file.stem in stopped) == (not recipe.is_complete and bool(recipe.runs or published))
        if published:
            assert published[1] in (complete if recipe.is_complete else stopped)[file.stem]


def test_minutes_are_those_of_the_first_validation_as_good_as_asked_for(tmp_path):
    directory = tmp_path / "results" / "ptb_one"
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({"result": {"steps": 100, "minutes": 50.0}}))
    lines = [{"step": 10 * n, "validation_perplexity": 130 - 10 * n} for n in range(1, 5)] + [
        {"step": 5, "train_loss": 1}
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert budget(tmp_path).splitlines()[2] == "| `ptb_one` | 5 | 15 | 20 |  |"


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def classifier_run(seed, minutes=2.0, is_complete=True):
    result = {"is_complete": is_complete, "minutes": minutes, "epochs": 3.0, "best_validation_accuracy": 0.5}
    training = {"seed": seed, "num_train_epochs": 6}
    arguments = {"model": {}, "data": {}, "training": training}
    task = {"task": "token-classification", "metric": "accuracy"}
    return {"arguments": arguments, "result": result, "parameters": 1234, "threads": 1, "device": "cpu", **task}


@pytest.fixture
def small_root(tmp_path):
    """A recipe of a tagger with two seeds and an ensemble of them, and one whose run was stopped."""
    folder = tmp_path / "scripts" / "recipes"
    folder.mkdir(parents=True)
    (folder / "tagger.yaml").write_text("# A tagger\n# Published: 94.60 by somebody\ntask: token-classification\n")
    (folder / "stopped.yaml").write_text("task: token-classification\n")
    for seed, accuracy, minutes in ((1, 0.90, 2.0), (2, 0.92, 3.0)):
        directory = tmp_path / "results" / "tagger" / f"seed{seed}"
        write_json(directory / "run.json", classifier_run(seed, minutes))
        test = {"accuracy": accuracy, "macro_f1": 0.8, "accuracy_unknown": accuracy - 0.1}
        scores = {"test": test, "validation": {"accuracy": 0.95}}
        write_json(directory / "evaluation.json", {"scores": scores})
    write_json(tmp_path / "model_cards" / "tagger" / "run.json", classifier_run(1))  # the seed that is shipped
    rows = [{"model": model, "split": "test", "accuracy": 0.93} for model in ("a", "b", ["a", "b"])]
    (tmp_path / "results" / "tagger" / "ensemble.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(tmp_path / "results" / "stopped" / "run.json", classifier_run(1, is_complete=False))
    return tmp_path


def test_the_seeds_of_a_recipe_are_one_row_of_means_and_an_ensemble_has_its_own(small_root):
    names, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in classification(small_root).splitlines()
    ]
    seeds, ensemble = (dict(zip(names, row, strict=True)) for row in rows)
    assert seeds == {
        "recipe": "`tagger`", "runs": "2", "test accuracy, %": "91.00 ± 1.41",
        "validation accuracy, %": "95.00 ± 0.00", "macro F1, %": "80.00 ± 0.00", "unknown words, %": "81.00 ± 1.41",
        "parameters": "1,234", "minutes": "2.5", "published": "94.60 by somebody",
    }  # fmt: skip
    assert {name: text for name, text in ensemble.items() if text} == {
        "recipe": "`tagger`, ensemble of 2", "runs": "2", "test accuracy, %": "93.00", "parameters": "2,468",
    }  # fmt: skip


def test_a_classifier_stands_in_the_summary_with_its_metric_and_not_among_language_models(small_root):
    assert summary(small_root).splitlines()[2:] == ["| `tagger` | accuracy 91.00 ± 1.41 % | 1,234 | 2 | yes |"]
    (small_root / "model_cards" / "tagger" / "run.json").unlink()
    (small_root / "model_cards" / "tagger").rmdir()
    assert summary(small_root).splitlines()[2:] == []  # nobody can load it
    assert "tagger" not in perplexities(small_root) + runs(small_root)
    assert unfinished(small_root).splitlines()[2:] == ["| `stopped` | 3 of 6 | accuracy 50.00 % |  |"]


def test_a_recipe_is_complete_when_all_its_seeds_are(small_root):
    write_json(small_root / "results" / "tagger" / "seed3" / "run.json", classifier_run(3, is_complete=False))
    assert classification(small_root) == "No recipe was run to its end yet."
    assert "| `tagger` | 3 of 6 | accuracy 50.00 % | 94.60 by somebody |" in unfinished(small_root)


def test_a_run_that_was_not_evaluated_has_empty_cells(small_root):
    (small_root / "results" / "tagger" / "seed2" / "evaluation.json").unlink()
    assert "accuracy" not in classification(small_root).splitlines()[2].partition("94.60")[0]
    assert summary(small_root).splitlines()[2:] == []


def test_where_the_test_text_was_not_opened_the_summary_has_the_score_on_validation(small_root):
    for seed, accuracy in ((1, 0.95), (2, 0.97)):
        path = small_root / "results" / "tagger" / f"seed{seed}" / "evaluation.json"
        write_json(path, {"scores": {"validation": {"accuracy": accuracy}}})
    assert "| accuracy 96.00 ± 1.41 % (validation) |" in summary(small_root)


def test_scores_of_a_classifier_do_not_disturb_the_table_of_adaptation(tmp_path):
    scores = {"test": {"accuracy": 0.9, "classes": {"a": {"f1": 0.5}}}}
    write_json(tmp_path / "model_cards" / "one" / "evaluation.json", {"scores": scores})
    assert len(adapted(tmp_path).splitlines()) == 2


def test_adapted_scores_stand_beside_static_ones(tmp_path):
    directory = tmp_path / "model_cards" / "one"
    directory.mkdir(parents=True)
    found = {"scores": {"validation": {"perplexity": 75.0}, "test": {"perplexity": 73.5}}}
    content = {"scores": {"test": {"perplexity": 83.88}}, "adapted": {"cache": found}}
    (directory / "evaluation.json").write_text(json.dumps(content))
    assert adapted(tmp_path).splitlines()[2] == "| `one` | cache | 75.00 | **73.50** | 83.88 |"
