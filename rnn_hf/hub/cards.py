"""Model cards: rendered from what a run left beside the weights, so that no figure in them is typed."""

from pathlib import Path
from statistics import median_low
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rnn_hf import __version__
from rnn_hf.data.corpora import SPLITS
from rnn_hf.evaluation import evaluate_splits
from rnn_hf.files import read_json, read_json_lines, write_text
from rnn_hf.models import RNNConfig
from rnn_hf.runs import describe_weights, load_corpus_of, read_run


TEMPLATE = Path(__file__).with_name("model_card.md")
# A card without it was written by hand and is left alone.
MARK = "<!-- Rendered by rnn_hf from the files beside it: change those, not this. -->"
TOLERANCE = 0.05

CELL_NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "Elman"}
CORPUS_NAMES = {"ptb": "Penn Treebank", "sotu": "State of the Union addresses"}
CORPUS_PROMPTS = {"ptb": "the company said", "sotu": "The United States"}
CORPUS_IDS = {"ptb": "ptb-text-only/ptb_text_only"}  # on the Hub
CITATIONS = {
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
    "ptb": """@article{marcus1993building,
  title = {Building a Large Annotated Corpus of {English}: The {Penn Treebank}},
  author = {Marcus, Mitchell P. and Santorini, Beatrice and Marcinkiewicz, Mary Ann},
  journal = {Computational Linguistics}, volume = {19}, number = {2}, pages = {313--330}, year = {1993}
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
        ValueError: Its README.md is not UTF-8 text.
    """
    config = RNNConfig.from_pretrained(model_dir)
    weights, run = describe_weights(model_dir), read_run(model_dir / "run.json") or {}
    evaluation = read_json(model_dir / "evaluation.json") or {}
    scores = evaluation["scores"] if evaluation.get("weights") == weights else {}
    scores = {split: scores[split] for split in SPLITS if split in scores}
    data = run.get("arguments", {}).get("data", {})
    corpus, dtype = data.get("dataset_name"), str(config.dtype).removeprefix("torch.")
    model_id = model_id or name_of(model_dir)
    values = {
        "article": "A" if config.cell_type == "gru" else "An",
        "cell": CELL_NAMES[config.cell_type],
        "citation": "\n\n".join(CITATIONS[key] for key in (config.cell_type, corpus) if key in CITATIONS),
        "config": config,
        "corpus": corpus,
        "corpus_name": CORPUS_NAMES.get(corpus, corpus),
        "curve": (model_dir / "curve.png").is_file(),
        "data": data,
        "dtype": dtype,
        "files": [Path(data[name]).name for name in ("train_file", "validation_file") if data.get(name)],
        "mark": MARK,
        "model_id": model_id,
        "name": model_id.rpartition("/")[2],
        "prompt": CORPUS_PROMPTS.get(corpus, "The"),
        "result": run.get("result"),
        "run": run,
        "scores": scores,
        "speed": _speed(model_dir / "metrics.jsonl"),
        "training": run.get("arguments", {}).get("training", {}),
        "unigram": run.get("data", {}).get("unigram_validation_perplexity"),
        # What training measured is of the weights as they were, not as another type rounds them.
        "validation": None if scores or weights["dtype"] != dtype else _validation(run),
        "version": __version__,
        "weights": weights,
    }
    metadata = _metadata(values, license or license_of(model_dir))
    card = ModelCard.from_template(metadata, template_path=str(TEMPLATE), **values)
    return str(card).rstrip() + "\n"


def write_card(model_dir: Path, model_id: str | None = None, license: str | None = None) -> None:
    """Render README.md of a model's directory; one that was written by hand stays.

    Raises:
        ValueError: As `check_card`.
    """
    check_card(model_dir, license)
    text = read_card(model_dir)
    if text is None or MARK in text:
        write_text(model_dir / "README.md", render_card(model_dir, model_id, license))


def check_card(model_dir: Path, license: str | None = None) -> None:
    """Refuse a directory whose card cannot be rendered, or cannot have the license.

    Raises:
        ValueError: README.md is not UTF-8 text, or another file that the card is made of is broken; or a `license` for
            a card that was written by hand and does not have it.
    """
    for name, read in (("run.json", read_run), ("evaluation.json", read_json), ("metrics.jsonl", read_json_lines)):
        read(model_dir / name)
    text = read_card(model_dir)
    if license and text is not None and MARK not in text and license_of(model_dir) != license:
        raise ValueError(
            f"{model_dir / 'README.md'} was written by hand and stays as it is: put `license: {license}` into its "
            "head, or remove it to have a card rendered"
        )


def name_of(model_dir: Path) -> str:
    """What a card calls a directory: its path from here, or its name alone where the path tells of the machine."""
    is_below = not model_dir.is_absolute() and ".." not in model_dir.parts and model_dir.name
    return model_dir.as_posix() if is_below else model_dir.resolve().name


def needs_ptb(model_dir: Path) -> bool:
    """Whether a model is of Penn Treebank, which its license keeps out of any package."""
    run = read_run(model_dir / "run.json") or {}
    return run.get("arguments", {}).get("data", {}).get("dataset_name") == "ptb"


def verify_card(model_dir: Path, ptb_dir: str | None = None) -> dict[str, tuple[float, float]]:
    """Evaluate the weights in a directory again: the card's perplexity and the one found, by split.

    Args:
        model_dir: Directory with a card.
        ptb_dir: Where Penn Treebank is, for a model of that corpus; `None` is the Hub's copy.

    Raises:
        ValueError: The card has no results; or as `rnn_hf.evaluation.evaluate_splits`.
    """
    card = model_dir / "README.md"
    results = (ModelCard.load(card).data.eval_results or []) if card.is_file() else []
    printed = {result.dataset_split: result.metric_value for result in results}
    if not printed:
        raise ValueError(f"no results in {card}: run scripts/evaluate.py {model_dir} --save and scripts/cards.py")
    given = {"ptb_dir": ptb_dir} if ptb_dir and needs_ptb(model_dir) else {}
    found = evaluate_splits(str(model_dir), list(printed), load_corpus_of(str(model_dir), **given))
    return {split: (value, found[split].perplexity) for split, value in printed.items()}


def _metadata(values: dict[str, Any], license: str | None) -> ModelCardData:
    corpus, name = values["corpus"], values["corpus_name"]
    scores = values["scores"] or ({"validation": values["validation"]} if values["validation"] else {})
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Language modeling",
            dataset_type=CORPUS_IDS.get(corpus, corpus or "text"),
            dataset_name=name or "text files",
            dataset_config="penn_treebank" if corpus == "ptb" else None,
            dataset_split=split,
            metric_type="perplexity",
            metric_name=f"Perplexity ({split})",
            metric_value=round(score["perplexity"], 2),
        )
        for split, score in scores.items()
    ]
    on_hub = CORPUS_IDS.get(corpus, None if corpus in CORPUS_NAMES else corpus)
    return ModelCardData(
        language="en" if corpus in CORPUS_NAMES else None,
        license=license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["rnn_hf", "rnn", values["cell"].lower()],
        datasets=[on_hub] if on_hub else None,
        metrics=["perplexity"] if results else None,
        model_name=values["name"],
        eval_results=results or None,
    )


def _validation(run: dict[str, Any]) -> dict[str, float] | None:
    """The score of training's own validation, for a model that was not evaluated."""
    result = run.get("result") or {}
    if not result.get("best_step"):
        return None
    loss, tokens = result["best_validation_loss"], run["data"]["tokens"]["validation"]
    return {"loss_nats": loss, "perplexity": result["best_validation_perplexity"], "tokens": tokens}


def _speed(metrics: Path) -> float | None:
    """Tokens a second of training, a middle one of those that were logged."""
    speeds = [row["tokens_per_second"] for row in read_json_lines(metrics) if "tokens_per_second" in row]
    return median_low(speeds) if speeds else None


def license_of(model_dir: Path) -> str | None:
    """The license in the head of a directory's README.md, if it has one.

    Raises:
        ValueError: The head is not YAML of a card, or as `read_card`.
    """
    text = read_card(model_dir)
    try:
        return ModelCard(text).data.get("license") if text else None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the head of {model_dir / 'README.md'} is not YAML that the Hub takes: {error}") from error


def read_card(model_dir: Path) -> str | None:
    """The text of a directory's README.md; `None` where there is none.

    Raises:
        ValueError: It is not UTF-8 text.
    """
    path = model_dir / "README.md"
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
