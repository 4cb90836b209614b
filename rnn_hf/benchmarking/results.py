"""The tables of the recipes: how good their models are, and what the runs took, from the files of the runs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rnn_hf.benchmarking.markdown import table
from rnn_hf.files import read_json, read_json_lines
from rnn_hf.tasks import (
    FORECASTING,
    LANGUAGE_MODELING,
    METRICS,
    PERPLEXITY,
    SPEECH_RECOGNITION,
    TASKS,
    TEXT_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    TRANSLATION,
    Metric,
    Task,
    metric_of_run,
    task_of_run,
)


@dataclass(frozen=True)
class Recipe:
    """A recipe and its runs: in results/NAME/seed1, results/NAME/seed2 and so on, or one in model_cards/ or results/.

    Attributes:
        name: Of its file.
        published: What that says others report.
        runs: run.json of each run.
        scores: Of evaluation.json of each run, by split; empty where it was not evaluated.
        ensembles: Number of models, and scores by split, of each ensemble in results/NAME/ensemble.jsonl, which
            `rnn-hf evaluate RUN RUN ... --json` printed.
    """

    name: str
    published: str
    runs: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    ensembles: dict[int, dict[str, Any]]

    @property
    def is_complete(self) -> bool:
        """Whether it was run, each time to its end."""
        return bool(self.runs) and all(run["result"]["is_complete"] for run in self.runs)

    @property
    def metric(self) -> Metric:
        """By which its runs chose their best weights."""
        return metric_of_run(self.runs[0])

    def values(self, split: str, metric: Metric) -> list[float]:
        """A metric of each run on a split; nothing where one lacks it."""
        values = [scores.get(split, {}).get(metric.name) for scores in self.scores]
        return [] if None in values else values


def recipes(root: Path) -> Iterator[Recipe]:
    """Each recipe, with what is stored of its runs."""
    for file in sorted((root / "scripts" / "recipes").glob("*.yaml")):
        name = file.stem
        published = re.search("^# Published: (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        directories = sorted(path.parent for path in (root / "results" / name).glob("seed*/run.json"))
        if not directories:
            places = (root / where / name for where in ("model_cards", "results"))
            directories = [place for place in places if (place / "run.json").is_file()][:1]
        runs = [read_json(directory / "run.json") for directory in directories]
        evaluations = [read_json(directory / "evaluation.json") or {} for directory in directories]
        ensembles: dict[int, dict[str, Any]] = {}
        for row in read_json_lines(root / "results" / name / "ensemble.jsonl"):
            if isinstance(row["model"], list):
                ensembles.setdefault(len(row["model"]), {})[row["split"]] = row
        scores = [evaluation.get("scores", {}) for evaluation in evaluations]
        yield Recipe(name, published[1] if published else "", runs, scores, ensembles)


def finished(root: Path, *tasks: Task) -> Iterator[Recipe]:
    """Each recipe for one of some tasks that was run to its end."""
    for recipe in recipes(root):
        if recipe.is_complete and task_of_run(recipe.runs[0]) in tasks:
            yield recipe


def mean_text(values: Sequence[float], metric: Metric) -> str:
    """A metric as people read it, of several runs the mean and the sample deviation; nothing of none.

    >>> mean_text([0.5, 0.6], METRICS["accuracy"]), mean_text([74.378], METRICS["perplexity"])
    ('55.00 ± 7.07', '74.38')
    """
    if not values:
        return ""
    return metric.text(mean(values)) + (f" ± {metric.text(stdev(values))}" if len(values) > 1 else "")


def minutes(recipe: Recipe) -> float:
    """Of a run, on the mean."""
    return mean(run["result"]["minutes"] for run in recipe.runs)


def perplexities(root: Path) -> str:
    """One row a language model's recipe that was run to its end: its scores, and what others published."""
    rows = []
    for recipe in finished(root, LANGUAGE_MODELING):
        validation, test = (
            mean_text(recipe.values(split, PERPLEXITY), PERPLEXITY) for split in ("validation", "test")
        )
        cells = {"recipe": f"`{recipe.name}`", "test": f"**{test}**", "validation": validation}
        rows.append(cells | {"published": recipe.published})
    return table(rows)


NONE_FINISHED = "No recipe was run to its end yet."
# Columns of the tables of tasks: metric and split of each.
CLASSIFICATION = {
    "test accuracy, %": ("accuracy", "test"),
    "validation accuracy, %": ("accuracy", "validation"),
    "macro F1, %": ("macro_f1", "test"),
    "F1 of spans, %": ("span_f1", "test"),
    "unknown words, %": ("accuracy_unknown", "test"),
}
SPEECH = {
    "validation WER, %": ("wer", "validation"),
    "WER of strings, %": ("string_wer", "validation"),
    "single recordings right, %": ("isolated_accuracy", "validation"),
}
TRANSLATIONS = {
    "test_2016 BLEU": ("bleu", "test_2016"),
    "test_2017 BLEU": ("bleu", "test_2017"),
    "validation BLEU": ("bleu", "validation"),
    "validation chrF": ("chrf", "validation"),
}
FORECASTS = {
    "test MSE": ("mse", "test"),
    "test MAE": ("mae", "test"),
    "test CRPS": ("crps", "test"),
    "inside of 90 %, %": ("coverage", "test"),
    "validation MSE": ("mse", "validation"),
    "validation CRPS": ("crps", "validation"),
}


def classification(root: Path) -> str:
    """One row a classifier's recipe that was run to its end, and one for each ensemble of its runs."""
    return with_ensembles(finished(root, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION), CLASSIFICATION)


def translations(root: Path) -> str:
    """One row a translator's recipe that was run to its end, and one for each ensemble of its runs."""
    return with_ensembles(finished(root, TRANSLATION), TRANSLATIONS)


def with_ensembles(recipes: Iterable[Recipe], columns: Mapping[str, tuple[str, str]]) -> str:
    """One row a recipe, and one for each ensemble of its runs, with these columns of `score_cells`."""
    rows = []
    for recipe in recipes:
        rows.append(scored(recipe, columns))
        for number, scores in recipe.ensembles.items():
            row = {"recipe": f"`{recipe.name}`, ensemble of {number}", "runs": number}
            cells = score_cells([scores], columns)
            rows.append(row | cells | {"parameters": number * recipe.runs[0]["parameters"]})
    return table(rows) if rows else NONE_FINISHED


def speech(root: Path) -> str:
    """One row a recognizer's recipe that was run to its end."""
    rows = [scored(recipe, SPEECH) for recipe in finished(root, SPEECH_RECOGNITION)]
    return table(rows) if rows else NONE_FINISHED


def forecasts(root: Path) -> str:
    """Of each number of steps one row a forecaster's recipe that was run to its end, and the forecasts without a
    network as they stand next to the one with the most windows."""
    by_steps: dict[int, list[Recipe]] = {}
    for recipe in finished(root, FORECASTING):
        by_steps.setdefault(recipe.runs[0]["arguments"]["model"]["prediction_length"], []).append(recipe)
    rows = []
    for steps, recipes in sorted(by_steps.items()):
        rows += [scored(recipe, FORECASTS) | {"steps": steps} for recipe in recipes]
        scores = max((recipe.scores[0] for recipe in recipes), key=lambda of_run: of_run["test"]["windows"])
        for name in scores["test"]["baselines"]:
            values = {split: of_split["baselines"][name] for split, of_split in scores.items()}
            rows.append({"recipe": name, "steps": steps} | score_cells([values], FORECASTS))
    return table([{"recipe": row["recipe"], "steps": row["steps"]} | row for row in rows]) if rows else NONE_FINISHED


def scored(recipe: Recipe, columns: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The row of a recipe with these columns of `score_cells`."""
    size = {"parameters": recipe.runs[0]["parameters"], "minutes": f"{minutes(recipe):.1f}"}
    row = {"recipe": f"`{recipe.name}`", "runs": len(recipe.runs)}
    return row | score_cells(recipe.scores, columns) | size | {"published": recipe.published}


def score_cells(scores: Sequence[dict[str, Any]], columns: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The `columns` that were measured, of the scores of some runs by split."""
    cells = {}
    for title, (name, split) in columns.items():
        values = [of_run.get(split, {}).get(name) for of_run in scores]
        if None not in values:
            cells[title] = mean_text(values, METRICS[name])
    return cells


def summary(root: Path) -> str:
    """All tasks in short for the README: models with weights in model_cards/, and language models without the series
    of brief runs."""
    rows = []
    for recipe in finished(root, *TASKS.values()):
        is_shipped = (root / "model_cards" / recipe.name).is_dir()
        is_long = task_of_run(recipe.runs[0]) is LANGUAGE_MODELING and not recipe.name.startswith("ptb_brief")
        split = "test" if recipe.values("test", recipe.metric) else "validation"
        values = recipe.values(split, recipe.metric)
        if values and (is_long or is_shipped):
            score = f"{recipe.metric.title} {mean_text(values, recipe.metric)}{' %' * recipe.metric.is_share}"
            row: dict[str, Any] = {"recipe": f"`{recipe.name}`"}
            row |= {"score": score if split == "test" else f"{score} (validation)"}
            row |= {"parameters": recipe.runs[0]["parameters"], "minutes": round(minutes(recipe))}
            rows.append(row | {"weights": "yes" if is_shipped else ""})
    return table(rows)


def device_of(run: dict[str, Any]) -> str:
    """The name of what a run was computed on, as far as its run.json has it."""
    return run.get("gpu") or (run.get("cpu") if run["device"] == "cpu" else None) or run["device"]


def runs(root: Path) -> str:
    """One row a language model's recipe that was run to its end: its size, and what a run took."""
    rows = []
    for recipe in finished(root, LANGUAGE_MODELING):
        run = recipe.runs[0]
        row = {"recipe": f"`{recipe.name}`", "parameters": run["parameters"]}
        row |= {"epochs": f"{run['result']['epochs']:g}"}
        row |= {"minutes (threads)": f"{minutes(recipe):.0f} ({run['threads']})", "device": device_of(run)}
        seeds = ", ".join(str(each["arguments"]["training"]["seed"]) for each in recipe.runs)
        rows.append(row | {"seed": seeds})
    return table(rows)


def unfinished(root: Path) -> str:
    """One row a recipe with a run that was stopped, or with published figures and no run: how far it was run."""
    rows = []
    for recipe in recipes(root):
        row = {"recipe": f"`{recipe.name}`"}
        stopped = [run for run in recipe.runs if not run["result"]["is_complete"]]
        if stopped:
            rows.append(row | progress_of(stopped[0]) | {"published": recipe.published})
        elif not recipe.runs and recipe.published:
            rows.append(row | {"epochs run": "none", "validation so far": "", "published": recipe.published})
    return table(rows)


def progress_of(run: dict[str, Any]) -> dict[str, str]:
    """How far a run came that was stopped, from its run.json, and its best validation by then."""
    result, metric = run["result"], metric_of_run(run)
    done = f"{result['epochs']:.2g}" if result["epochs"] < 10 else f"{result['epochs']:.0f}"
    epochs = f"{done} of {run['arguments']['training']['num_train_epochs']}"
    best = result.get(f"best_validation_{metric.name}")
    return {"epochs run": epochs, "validation so far": "" if best is None else metric.label(best)}


PERPLEXITIES = (120, 100, 90, 80)


def budget(root: Path) -> str:
    """One row a recipe for Penn Treebank that was run: minutes until validation was as good as each perplexity."""
    rows = []
    for file in sorted([*(root / "model_cards").glob("ptb_*/run.json"), *(root / "results").glob("ptb_*/run.json")]):
        if file.parent.name.startswith("ptb_brief"):
            continue  # their runs were paused, and the minutes hold that
        result = read_json(file)["result"]
        lines = read_json_lines(file.parent / "metrics.jsonl")
        points = [(line["step"], line["validation_perplexity"]) for line in lines if "validation_perplexity" in line]
        cells = {}
        for wanted in PERPLEXITIES:
            step = next((step for step, found in points if found <= wanted), None)
            minutes = None if step is None else step / result["steps"] * result["minutes"]
            cells[f"to {wanted}"] = "" if minutes is None else f"{minutes:.{int(minutes < 1)}f}"
        if any(cells.values()):
            rows.append({"recipe": f"`{file.parent.name}`", **cells})
    return table(rows)


def adapted(root: Path) -> str:
    """One row a model and adaptation: scores of scripts/adapt.py and the static ones."""
    rows = []
    for file in sorted((root / "model_cards").glob("*/evaluation.json")):
        evaluation = read_json(file)
        for name, adaptation in evaluation.get("adapted", {}).items():
            static = evaluation["scores"]["test"]["perplexity"]
            validation, test = (f"{adaptation['scores'][split]['perplexity']:.2f}" for split in ("validation", "test"))
            rows.append({
                "model": f"`{file.parent.name}`", "adaptation": name, "validation": validation, "test": f"**{test}**",
                "test, static": f"{static:.2f}",
            })  # fmt: skip
    return table(rows)
