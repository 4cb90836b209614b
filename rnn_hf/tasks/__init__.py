"""The applications of the package, a file each, and the table of what they have in common.

The file of a task has its data, its metrics and what a card says of it; it is imported by `Task.module` when it is
needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A score of a model on a split, and which way is better.

    Attributes:
        name: Key in evaluation.json, in run.json (`best_validation_NAME`) and metrics.jsonl (`validation_NAME`), and
            the metric's name on the Hub.
        title: As texts and pictures call it.
        higher_is_better: Else lower is.
        is_share: Whether it is from 0 to 1, and shown in percent.
        digits: After the point, where people read it.
    """

    name: str
    title: str
    higher_is_better: bool = False
    is_share: bool = False
    digits: int = 2

    def is_better(self, value: float, other: float) -> bool:
        """Whether a value is better than another one."""
        return value > other if self.higher_is_better else value < other

    def best(self, values: list[float]) -> float | None:
        """The best of some values; `None` of none."""
        return None if not values else max(values) if self.higher_is_better else min(values)

    def shown(self, value: float) -> float:
        """The number that people read: a share in percent."""
        return 100 * value if self.is_share else value

    @property
    def column(self) -> str:
        """The title with its unit, over numbers as `text` gives them."""
        return f"{self.title}, %" if self.is_share else self.title

    def text(self, value: float) -> str:
        """The number that people read, with its digits.

        >>> Metric("accuracy", "accuracy", higher_is_better=True, is_share=True).text(0.78125)
        '78.12'
        """
        return f"{self.shown(value):.{self.digits}f}"

    def label(self, value: float) -> str:
        """Title, number and unit, as in `accuracy 78.12 %`."""
        return f"{self.title} {self.text(value)}{' %' * self.is_share}"


@dataclass(frozen=True)
class Task:
    """An application.

    Attributes:
        name: `task` in a recipe; the Hub's name where it has one.
        title: As a card's metadata call it.
        pipeline_tag: Of the Hub, which shows the widget of that pipeline.
        architecture: Class of its models.
        metric: By which the best weights are chosen, unless run.json names another one for its data.
        others: Further metrics that cards and tables show, where they were measured.
    """

    name: str
    title: str
    pipeline_tag: str
    architecture: str
    metric: Metric
    others: tuple[Metric, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The one that decides, then the others."""
        return (self.metric, *self.others)

    @property
    def module(self) -> ModuleType:
        """The task's file."""
        return import_module(f"rnn_hf.tasks.{self.name.replace('-', '_')}")


def _share(name: str, title: str) -> Metric:
    return Metric(name, title, higher_is_better=True, is_share=True)


PERPLEXITY = Metric("perplexity", "perplexity")
ACCURACY, MACRO_F1 = _share("accuracy", "accuracy"), _share("macro_f1", "macro F1")
OF_TEXTS = (
    MACRO_F1, _share("micro_f1", "micro F1"), Metric("mean_squared_error", "mean squared error"),
    Metric("r2", "R²", higher_is_better=True),
)  # fmt: skip
OF_WORDS = (
    MACRO_F1, _share("span_f1", "F1 of spans"), _share("accuracy_known", "accuracy on known words"),
    _share("accuracy_unknown", "accuracy on unknown words"),
)  # fmt: skip

WER = Metric("wer", "word error rate", is_share=True)
OF_SPEECH = (
    Metric("cer", "character error rate", is_share=True),
    _share("string_accuracy", "strings without an error"),
    _share("isolated_accuracy", "single recordings right"),
    Metric("string_wer", "word error rate of strings", is_share=True),
    Metric("first_word_error", "errors in first words", is_share=True),
    Metric("later_word_error", "errors in later words", is_share=True),
)

MSE, CRPS = Metric("mse", "MSE", digits=3), Metric("crps", "CRPS", digits=3)
OF_SERIES = (
    Metric("mae", "MAE", digits=3), Metric("mase", "MASE", digits=3), CRPS,
    Metric("coverage", "inside of the 90 % interval", higher_is_better=True, is_share=True, digits=1),
)  # fmt: skip

BLEU = Metric("bleu", "BLEU", higher_is_better=True)
OF_TRANSLATIONS = (Metric("chrf", "chrF", higher_is_better=True),)

LANGUAGE_MODELING = Task("language-modeling", "Language modeling", "text-generation", "RNNForCausalLM", PERPLEXITY)
TEXT_CLASSIFICATION = Task(
    "text-classification", "Text classification", "text-classification", "RNNForSequenceClassification", ACCURACY,
    OF_TEXTS,
)  # fmt: skip
TOKEN_CLASSIFICATION = Task(
    "token-classification", "Token classification", "token-classification", "RNNForTokenClassification", ACCURACY,
    OF_WORDS,
)  # fmt: skip
SPEECH_RECOGNITION = Task(
    "automatic-speech-recognition", "Automatic speech recognition", "automatic-speech-recognition", "RNNForCTC", WER,
    OF_SPEECH,
)  # fmt: skip
FORECASTING = Task(
    "time-series-forecasting", "Time series forecasting", "time-series-forecasting", "RNNForTimeSeriesPrediction", MSE,
    OF_SERIES,
)  # fmt: skip
TRANSLATION = Task(
    "translation", "Translation", "translation", "RNNForConditionalGeneration", BLEU, OF_TRANSLATIONS
)  # fmt: skip
TASKS = {
    task.name: task
    for task in (
        LANGUAGE_MODELING, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, SPEECH_RECOGNITION, FORECASTING, TRANSLATION,
    )
}  # fmt: skip
METRICS = {metric.name: metric for task in TASKS.values() for metric in task.metrics}


def task_of_run(run: Mapping[str, Any]) -> Task:
    """The task of a run, by its run.json; those of before there were several are language models."""
    return TASKS.get(run.get("task", ""), LANGUAGE_MODELING)


def metric_of_run(run: Mapping[str, Any]) -> Metric:
    """The metric by which a run chose its best weights."""
    return METRICS.get(run.get("metric", ""), task_of_run(run).metric)


def best_validation(run: Mapping[str, Any]) -> dict[str, float] | None:
    """The metrics of the best validation of a run, by name, from its run.json; `None` if there was none."""
    result = run.get("result") or {}
    if not result.get("best_step"):
        return None
    best = {name: result.get(f"best_validation_{name}") for name in METRICS}
    return {name: value for name, value in best.items() if value is not None}


def task_of_model(architectures: list[str] | None) -> Task:
    """The task of a model, by `architectures` of its configuration; a backbone without a head counts as a language
    model's."""
    by_architecture = {task.architecture: task for task in TASKS.values()}
    return by_architecture.get((architectures or [""])[0], LANGUAGE_MODELING)
