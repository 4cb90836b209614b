"""Model cards: rendered from what a run left with the weights, so that no figure in them is typed."""

from pathlib import Path
from statistics import median_low
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from rnn_hf import __version__, tasks
from rnn_hf.data.named_corpora import CORPORA, SPLITS, NamedCorpus
from rnn_hf.errors import InputError
from rnn_hf.files import read_json, read_json_lines, read_text, write_text
from rnn_hf.runs import describe_weights, read_run
from rnn_hf.tasks import METRICS, Task, task_of_model


# Of a card all that tasks share; a task's own template, next to its code, fills the blocks.
TEMPLATE = Path(__file__).with_name("model_card.md")
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader([TEMPLATE.parent, Path(tasks.__file__).parent]), autoescape=False,
    keep_trailing_newline=True,
)  # fmt: skip
# A card without it was written by hand and is left alone.
MARK = "<!-- Rendered by rnn_hf from the files beside it: change those, not this. -->"
TOLERANCE = 0.05

CELL_NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "Elman"}
CELL_CITATIONS = {
    "lstm": """@article{hochreiter1997long,
  title = {Long Short-Term Memory},
  author = {Hochreiter, Sepp and Schmidhuber, J{\\"u}rgen},
  journal = {Neural Computation}, volume = {9}, number = {8}, pages = {1735--1780}, year = {1997}
}""",
    "gru": """@inproceedings{cho2014learning,
  title = {Learning Phrase Representations using {RNN} Encoder--Decoder for Statistical Machine Translation},
  author = {Cho, Kyunghyun and others}, booktitle = {EMNLP}, year = {2014}
}""",
    "rnn": """@article{elman1990finding,
  title = {Finding Structure in Time},
  author = {Elman, Jeffrey L.},
  journal = {Cognitive Science}, volume = {14}, number = {2}, pages = {179--211}, year = {1990}
}""",
}


def render_card(model_dir: Path, model_id: str | None = None, license: str | None = None) -> str:
    """The card of a model, from `config.json`, `run.json`, `metrics.jsonl`, `evaluation.json` and the weights.

    Scores of other weights than those in the directory are left out. Without `run.json` the card says what the
    configuration says.

    Args:
        model_dir: Directory of the model.
        model_id: Name under which the card's examples load the model; `None` is that of `name_of`.
        license: Of the weights, as the Hub spells it (`apache-2.0`); `None` keeps that of the card there is.

    Raises:
        FileNotFoundError: The directory has no model.
        InputError: Its README.md is not UTF-8 text.
    """
    config = AutoConfig.from_pretrained(model_dir)
    task = task_of_model(config.architectures)
    weights, run = describe_weights(model_dir), read_run(model_dir / "run.json") or {}
    evaluation = read_json(model_dir / "evaluation.json") or {}
    scores = evaluation["scores"] if evaluation.get("weights") == weights else {}
    scores = {split: scores[split] for split in [*SPLITS, *sorted(scores.keys() - set(SPLITS))] if split in scores}
    data = run.get("arguments", {}).get("data", {})
    corpus, dtype = CORPORA.get(data.get("dataset_name")), str(config.dtype).removeprefix("torch.")
    model_id = model_id or name_of(model_dir)
    citations = [CELL_CITATIONS[config.cell_type], corpus.citation if corpus else None]
    values = {
        "article": "A" if config.cell_type == "gru" else "An",
        "cell": CELL_NAMES[config.cell_type],
        "citation": "\n\n".join(citation for citation in citations if citation),
        "config": config,
        "corpus": corpus,
        "corpus_name": corpus.name if corpus else data.get("dataset_name"),
        "curve": (model_dir / "curve.png").is_file(),
        "data": data,
        "dtype": dtype,
        "columns_read": [data[name] for name in ("text_column", "label_column") if data.get(name)],
        "files": [Path(data[name]).name for name in ("train_file", "validation_file") if data.get(name)],
        "mark": MARK,
        "metric": METRICS.get(run.get("metric", ""), task.metric),
        "metrics": task.metrics,
        "model_id": model_id,
        "name": model_id.rpartition("/")[2],
        "prompt": corpus.prompt if corpus else "The",
        "result": run.get("result"),
        "run": run,
        "scores": scores,
        "speed": _speed(model_dir / "metrics.jsonl"),
        "training": run.get("arguments", {}).get("training", {}),
        "version": __version__,
        "weights": weights,
        **task.module.card_values(run, scores),
    }
    # What training measured is of the weights as they were, not as another type rounds them.
    if scores or weights["dtype"] != dtype:
        values["validation"] = None
    metadata = _metadata(task, values, license or license_of(model_dir))
    body = TEMPLATES.get_template(f"{task.name.replace('-', '_')}.md").render(values)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def write_card(model_dir: Path, model_id: str | None = None, license: str | None = None) -> None:
    """Render README.md of a model's directory; one that was written by hand stays.

    Raises:
        InputError: As `check_card`.
    """
    check_card(model_dir, license)
    text = read_card(model_dir)
    if text is None or MARK in text:
        write_text(model_dir / "README.md", render_card(model_dir, model_id, license))


def check_card(model_dir: Path, license: str | None = None) -> None:
    """Refuse a directory whose card cannot be rendered, or cannot have the license.

    Raises:
        InputError: README.md is not UTF-8 text, or another file that the card is made of is broken; or a `license` for
            a card that was written by hand and does not have it.
    """
    for name, read in (("run.json", read_run), ("evaluation.json", read_json), ("metrics.jsonl", read_json_lines)):
        read(model_dir / name)
    text = read_card(model_dir)
    if license and text is not None and MARK not in text and license_of(model_dir) != license:
        raise InputError(
            f"{model_dir / 'README.md'} was written by hand and stays as it is: put `license: {license}` into its "
            "head, or remove it to have a card rendered"
        )


def name_of(model_dir: Path) -> str:
    """What a card calls a directory: its path from here, or its name alone where the path tells of the machine."""
    is_below = not model_dir.is_absolute() and ".." not in model_dir.parts and model_dir.name
    return model_dir.as_posix() if is_below else model_dir.resolve().name


def corpus_of(model_dir: Path) -> str | None:
    """The name in `CORPORA` of the corpus behind a model; `None` for one of another text."""
    run = read_run(model_dir / "run.json") or {}
    name = run.get("arguments", {}).get("data", {}).get("dataset_name")
    return name if name in CORPORA else None


def verify_card(model_dir: Path, directory: str | None = None) -> dict[tuple[str, str], tuple[float, float]]:
    """Evaluate the weights in a directory again.

    Args:
        model_dir: Directory with a card.
        directory: With the files of the model's corpus, one of `CORPORA`; `None` is the Hub's copy.

    Returns:
        What the card says and what the weights give, by split and name of the metric.

    Raises:
        InputError: The card has no results; or as `evaluate` of the task.
    """
    card = model_dir / "README.md"
    results = (ModelCard.load(card).data.eval_results or []) if card.is_file() else []
    printed = {(result.dataset_split, result.metric_type): result.metric_value for result in results}
    if not printed:
        raise InputError(f"no results in {card}: run scripts/evaluate.py {model_dir} --save and scripts/cards.py")
    task = task_of_model(AutoConfig.from_pretrained(model_dir).architectures)
    corpus = corpus_of(model_dir)
    given = {}
    if corpus and directory:
        given = {"dataset_name": corpus, CORPORA[corpus].directory_argument: directory}
    scores = task.module.evaluate(str(model_dir), list(dict.fromkeys(split for split, _ in printed)), given)
    metrics = {metric.name: metric for metric in task.metrics}
    return {
        (split, name): (value, metrics[name].shown(scores[split].to_dict()[name]))
        for (split, name), value in printed.items()
    }


def _metadata(task: Task, values: dict[str, Any], license: str | None) -> ModelCardData:
    corpus: NamedCorpus | None = values["corpus"]
    name, data = values["corpus_name"], values["data"].get("dataset_name")
    dataset_id = corpus.dataset_id if corpus else data
    scores = values["scores"] or ({"validation": values["validation"]} if values["validation"] else {})
    results = [
        EvalResult(
            task_type=task.pipeline_tag,
            task_name=task.title,
            dataset_type=dataset_id or data or "text",
            dataset_name=name or "text files",
            dataset_config=corpus.dataset_config if corpus else None,
            dataset_split=split,
            metric_type=metric.name,
            metric_name=f"{metric.title[0].upper()}{metric.title[1:]} ({split})",
            metric_value=round(metric.shown(score[metric.name]), metric.digits),
        )
        for split, score in scores.items()
        for metric in task.metrics
        if metric.name in score
    ]
    return ModelCardData(
        language=(list(corpus.languages) or corpus.language) if corpus else None,
        license=license,
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["rnn_hf", "rnn", values["cell"].lower()],
        datasets=[dataset_id] if dataset_id else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=values["name"],
        eval_results=results or None,
    )


def _speed(metrics: Path) -> float | None:
    """Tokens or examples a second of training, a middle one of those that were logged."""
    names = ("tokens_per_second", "samples_per_second")
    speeds = [row[name] for row in read_json_lines(metrics) for name in names if name in row]
    return median_low(speeds) if speeds else None


def license_of(model_dir: Path) -> str | None:
    """The license in the head of a directory's README.md, if it has one.

    Raises:
        InputError: The head is not YAML of a card, or as `read_card`.
    """
    text = read_card(model_dir)
    try:
        return ModelCard(text).data.get("license") if text else None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"the head of {model_dir / 'README.md'} is not YAML that the Hub takes: {error}") from error


def read_card(model_dir: Path) -> str | None:
    """The text of a directory's README.md; `None` where there is none.

    Raises:
        InputError: It is not UTF-8 text.
    """
    path = model_dir / "README.md"
    return read_text(path) if path.is_file() else None
