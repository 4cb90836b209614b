"""Translation: texts in one language to texts in another one."""

import re
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.data.parallel import Pair, ParallelData, choose_splits, load_parallel
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import config_of, input_device, load_model
from rnn_hf.runs import data_arguments
from rnn_hf.tasks import METRICS, best_validation, task_of_model
from rnn_hf.tasks.translation_runs import TranslationWork, collate
from rnn_hf.tasks.translation_scores import TranslationScores, bleu_of, by_length, describe, translation_values
from rnn_hf.translation import check_together, translate


NAME, AUTO_CLASS = "translation", "AutoModelForSeq2SeqLM"
EVALUATION_BATCH = 64
BEAMS = 5  # as the `generation_config` of what is trained here
describe_score, WORK = describe, TranslationWork


def load_data(**arguments: Any) -> ParallelData:
    """Texts with translations by the arguments of a run.

    Args:
        arguments: Those of `rnn_hf.training.arguments.TranslationDataArguments` that say what to load, and `seed`,
            which draws the pairs for validation where there is no such split.

    Raises:
        InputError: As `load_parallel` and `choose_splits`.
    """
    names = signature(load_parallel).parameters.keys()
    data = load_parallel(**{name: value for name, value in arguments.items() if name in names and value is not None})
    return choose_splits(
        data, arguments.get("validation_split_percentage") or 5, arguments.get("seed") or 0,
        arguments.get("max_train_samples"),
    )  # fmt: skip


def tokenize_of(arguments: Mapping[str, Any]) -> str:
    """How sacrebleu splits the words of the data that arguments name."""
    corpus = CORPORA.get(arguments.get("dataset_name") or "")
    return arguments.get("bleu_tokenize") or (corpus and corpus.bleu_tokenize) or "13a"


def score(
    model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], tokenize: str = "13a", num_beams: int = 1,
    batch_size: int = EVALUATION_BATCH, progress: bool = False,
) -> TranslationScores:  # fmt: skip
    """The scores of a model on pairs.

    Args:
        model: An `RNNForConditionalGeneration`, or several that write together, which have no loss; their training
            mode is restored afterwards.
        tokenizer: Its own.
        pairs: Texts and their translations.
        tokenize: As of `bleu_of`.
        num_beams: As of `translate`.
        batch_size: Texts a batch; a matter of memory and speed.
        progress: Whether to show a progress bar.
    """
    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
    floor = bleu_of(sources, references, tokenize)  # first: a package that is missing is missed now
    loss = None if isinstance(model, list) else mean_loss(model, tokenizer, pairs, batch_size)
    answers = translate(model, tokenizer, sources, num_beams, batch_size, progress=progress)
    values, signatures = translation_values(answers, references, tokenize)
    lengths = by_length(sources, answers, references, tokenize)
    count = sum(len(tokenizer(text_target=text).input_ids) for text in references)
    return TranslationScores(values, loss, count, len(pairs), num_beams, lengths, signatures, floor)


@torch.no_grad()
def mean_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], batch_size: int = EVALUATION_BATCH
) -> float:
    """Cross entropy of references in nats a piece, with the end of each, and without smoothing."""
    rows = [
        {"input_ids": tokenizer(pair.source).input_ids, "labels": tokenizer(text_target=pair.target).input_ids}
        for pair in pairs
    ]  # fmt: skip
    rows.sort(key=lambda row: len(row["labels"]))
    total, count = 0.0, sum(len(row["labels"]) for row in rows)
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size], model.config.pad_token_id)
            batch = {name: tensor.to(input_device(model)) for name, tensor in batch.items()}
            total += float(model(**batch, use_cache=False, num_items_in_batch=1).loss)
    return total / count


def evaluate(
    name: str, splits: Sequence[str], given: Mapping[str, Any], revision: str | None = None, progress: bool = False,
    device: str = "cpu", batch_size: int | None = None, num_beams: int = BEAMS,
) -> dict[str, TranslationScores]:  # fmt: skip
    """The scores of a model by split; arguments as of `evaluate_models`."""
    return evaluate_models([name], splits, given, revision, progress, device, batch_size, num_beams)[0]


def evaluate_models(
    names: Sequence[str], splits: Sequence[str], given: Mapping[str, Any], revision: str | None = None,
    progress: bool = False, device: str = "cpu", batch_size: int | None = None, num_beams: int = BEAMS,
) -> list[dict[str, TranslationScores]]:  # fmt: skip
    """The scores by split of each of some models on the same pairs and, of several, behind them those of all together.

    Args:
        names: Directories of models, or their names on the Hub. Several have one tokenizer.
        splits: Among those of the data of the first model's run, or of other data.
        given: As of `rnn_hf.runs.data_arguments`, for `load_data`.
        revision: Branch, tag or commit on the Hub.
        progress: Whether to show a progress bar.
        device: One of `rnn_hf.loading.DEVICES`.
        batch_size: Texts a batch, a matter of memory and speed.
        num_beams: Hypotheses of the search.

    Raises:
        InputError: As `load_data` and `load_translators`; or there is no such split.
    """
    models, tokenizer = load_translators(names, revision, device)
    arguments = data_arguments(names[0], given, revision)
    data = load_data(**arguments)
    for split in splits:
        if split not in data.splits:
            raise InputError(f"the data has no split {split!r}, only {', '.join(data.splits)}")
    options = (tokenize_of(arguments), num_beams, batch_size or EVALUATION_BATCH, progress)
    return [
        {split: score(model, tokenizer, data.splits[split], *options) for split in splits}
        for model in [*models, *([models] if len(models) > 1 else [])]
    ]


def load_translators(
    names: Sequence[str], revision: str | None = None, device: str = "cpu"
) -> tuple[list[Any], PreTrainedTokenizerBase]:
    """Models by directory or name on the Hub, and the tokenizer that they have in common.

    Raises:
        InputError: As `load_model`; one is for another task; or they do not have one tokenizer.
    """
    loaded = []
    for name in names:
        own = task_of_model(config_of(name, revision).architectures).name
        if own != NAME:
            raise InputError(f"{name} is a model for {own}, not for {NAME}")
        loaded.append(load_model(name, revision, device, AUTO_CLASS))
    models, tokenizers = [model for model, _ in loaded], [tokenizer for _, tokenizer in loaded]
    for name, tokenizer in zip(names[1:], tokenizers[1:], strict=True):
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise InputError(
                f"{names[0]} and {name} have other vocabularies: models that translate together need one tokenizer, "
                "by `tokenizer_name` when they are trained"
            )
    check_together(models)
    return models, tokenizers[0]


def card_values(run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """What `translation.md` needs besides the values of every card.

    Args:
        run: Content of run.json, which may be empty.
        scores: Of evaluation.json, by split.

    Returns:
        `validation`, the scores of training's own validation, for a model that was not evaluated; `columns`, the
        metrics that were measured; `rows`, the scores by split; `lengths`, by number of words on `length_split`;
        `signatures` of sacrebleu, by title of the metric; `languages`, from which and into which.
    """
    data, validation = run.get("data") or {}, best_validation(run)
    if validation is not None:
        validation |= {"floor": data["floor"], "sentences": data["rows"]["validation"], "num_beams": 1}
    rows = scores or ({"validation": validation} if validation else {})
    split = list(scores)[-1] if scores else ""
    last = scores.get(split, {})
    return {
        "validation": validation,
        "columns": [metric for metric in METRICS.values() if any(metric.name in row for row in rows.values())],
        "rows": rows,
        "length_split": split,
        "lengths": dict(sorted(last.get("lengths", {}).items(), key=lambda item: int(re.findall(r"\d+", item[0])[0]))),
        "signatures": {METRICS[name].title: text for name, text in last.get("signatures", {}).items()},
        "languages": data.get("languages"),
        "speed_unit": "sentences",
    }
