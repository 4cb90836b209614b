"""What the classification of texts and of words share: data by arguments, models to start from, scores by batches."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.labelled import MULTI, REGRESSION, LabelledData, load_labelled, split_off_validation
from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import config_of, input_device, load_model
from rnn_hf.models import HEADS, RNNConfig
from rnn_hf.models.words_rnn import Spelling
from rnn_hf.runs import DATA_SOURCES, data_arguments
from rnn_hf.tasks import ACCURACY, METRICS, TASKS, task_of_model
from rnn_hf.tasks.metrics import ClassScores, check_scorers


# Fields of a configuration that may differ from those of the model that a classifier starts from.
FREE_FIELDS = {"bidirectional", "pooling", "initializer_range"}
MOST_CLASSES = 20  # of which a card has a table


def load_data(task: str, **arguments: Any) -> LabelledData:
    """Labelled text by the arguments of a run.

    Args:
        task: `text-classification` or `token-classification`.
        arguments: Those of `rnn_hf.training.arguments.LabelledDataArguments` that say what to load and how much of
            it to train on, and `seed`, which draws the rows for validation where there is no such split.

    Raises:
        InputError: A corpus of another task, or as `load_labelled`.
    """
    name, directory = arguments.get("dataset_name"), arguments.get("dataset_dir")
    names = set(signature(load_labelled).parameters) - {"task", "label_names"}
    chosen = {key: value for key, value in arguments.items() if key in names and value is not None}
    chosen["label_names"] = arguments.get("label_names")
    corpus = CORPORA.get(name or "")
    if corpus is None and directory:
        labelled = ", ".join(key for key, known in CORPORA.items() if known.label_names or known.columns[1:])
        raise InputError(f"`dataset_dir` goes with `dataset_name`, one of {labelled}; got {name!r}")
    if corpus is not None:
        if corpus.task != task:
            raise InputError(f"`dataset_name` {name} is for {corpus.task}, not for {task}")
        chosen["label_names"] = chosen["label_names"] or list(corpus.label_names) or None
        if directory:
            chosen.pop("dataset_name")
            files = {split: Path(directory) / file for split, file in corpus.files.items()}
            chosen |= {
                f"{split}_file": str(file) for split, file in files.items() if split == "train" or file.is_file()
            }
        else:
            text_column, label_column = corpus.columns
            chosen |= {"dataset_name": corpus.dataset_id, "text_column": text_column, "label_column": label_column}
            chosen |= {"dataset_config_name": corpus.dataset_config, "dataset_revision": corpus.dataset_revision}
    data = load_labelled(task, **chosen)
    if "train" in data.splits and "validation" not in data.splits:
        data = split_off_validation(
            data, arguments.get("validation_split_percentage") or 10, arguments.get("seed") or 0
        )
    if "train" in data.splits and arguments.get("max_train_samples") is not None:
        data.splits["train"] = data.splits["train"][: arguments["max_train_samples"]]
    return data


def load_data_of(task: str, name: str, given: Mapping[str, Any], revision: str | None = None) -> LabelledData:
    """The labelled text of the run behind a model, or other text, with the classes of the model.

    Args:
        task: `text-classification` or `token-classification`.
        name: Directory of the model, or its name on the Hub.
        given: Arguments of `load_data`; files or a data set of the Hub among them replace those of the run, whose
            columns and the like stay.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: Nothing is given and the model has no run.json of a run; or as `load_data`.
        FileNotFoundError: A file is missing.
    """
    arguments = data_arguments(name, given, revision)
    config: Any = config_of(name, revision)
    if config.problem_type != "regression":
        labels = config.id2label
        arguments["label_names"] = [labels[index] for index in range(len(labels))]
    if task == "text-classification":
        arguments["problem_type"] = config.problem_type
    try:
        return load_data(task, **arguments)
    except FileNotFoundError as error:
        if given.keys() & DATA_SOURCES:
            raise
        message = f"{error}, as the run.json of {name} calls it: name the files of the data"
        raise FileNotFoundError(message) from error


def check_splits(data: LabelledData, splits: Sequence[str]) -> None:
    """Refuse a split that the data has not.

    Raises:
        InputError: Naming the splits that there are.
    """
    for split in splits:
        if split not in data.splits:
            raise InputError(f"the data has no split {split!r}, only {', '.join(data.splits)}")


@dataclass
class Prepared:
    """Labelled text ready to train on.

    Attributes:
        data: As loaded.
        tokenizer: Built from the training text, or that of the model to start from.
        examples: `input_ids` and `labels` by split.
    """

    data: LabelledData
    tokenizer: PreTrainedTokenizerBase
    examples: dict[str, list[dict[str, Any]]]


def prepare(task: str, arguments: Any, seed: int, init_from: str | None, reads_characters: bool = False) -> Prepared:
    """Load the training and validation rows, build or load the tokenizer, and encode the rows.

    Args:
        task: `text-classification` or `token-classification`.
        arguments: A `rnn_hf.training.arguments.LabelledDataArguments`.
        seed: Of the run.
        init_from: The model to start from, whose tokenizer is taken; `None` builds one.
        reads_characters: Whether the network does: words that differ in case alone then share an embedding.

    Raises:
        InputError: As `load_data` and `build_wordpiece`; or there is no row to train on.
    """
    data = load_data(task, **asdict(arguments), seed=seed)
    if "train" not in data.splits:
        raise InputError("training needs labelled text: `train_file`, or a `dataset_name` with such a split")
    if init_from is not None:
        config_of(init_from)  # names what is wrong with the name
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(init_from)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # masks, not ids, say what padding is
    else:
        column = "text" if task == "text-classification" else "words"
        texts = [row[column] for row in data.splits["train"]]
        if reads_characters and arguments.pieces == "none":
            raise InputError(
                '`pieces="none"` does not go with `character_embedding_size`: characters are read from pieces'
            )
        tokenizer = build_wordpiece(
            texts, arguments.vocab_size, arguments.min_frequency, arguments.lowercase, arguments.pieces,
            case_variants=reads_characters,
        )  # fmt: skip
    examples = {
        "train": encode_rows(data.splits["train"], tokenizer, arguments.max_length),
        "validation": encode_rows(data.splits["validation"], tokenizer),  # whole, as `evaluate` reads them
    }
    return Prepared(data, tokenizer, examples)


def build_model(auto_class: str, arguments: Any, prepared: Prepared, seed: int, init_from: str | None) -> Any:
    """A fresh classifier, or one on the weights of another model.

    Args:
        auto_class: One of `rnn_hf.models.HEADS`.
        arguments: Of the model.
        prepared: Says the vocabulary and the labels.
        seed: Of the run, which initialises what is new.
        init_from: A language model or a classifier to start from; only its head is new.

    Raises:
        InputError: The weights do not load, or the arguments ask for another shape than they have.
    """
    names = prepared.data.label_names or ["value"]
    fields = {
        **asdict(arguments),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": prepared.data.problem_type,
        "pad_token_id": prepared.tokenizer.pad_token_id,
        "vocab_size": len(prepared.tokenizer),
    }
    set_seed(seed)
    if init_from is None:
        if not arguments.character_embedding_size:
            return HEADS[auto_class](RNNConfig(**fields))
        spelling = Spelling.of(prepared.tokenizer, count_words(prepared))
        model = HEADS[auto_class](RNNConfig(**{**fields, **spelling.sizes}))
        model.model.words.set_spelling(spelling)
        return model
    source, default, given = config_of(init_from), type(arguments)(), asdict(arguments)
    free = {name for name in given if name in FREE_FIELDS or "dropout" in name}
    for name, value in given.items():
        if name not in free and value not in (getattr(default, name), getattr(source, name)):
            raise InputError(
                f"`{name}` is {value}, and the model of `init_from` has {getattr(source, name)}: leave it out"
            )
    if arguments.bidirectional and source.reads_backward:  # its layers would be the second direction, not the first
        raise InputError("`bidirectional` does not go with the model of `init_from`, which reads backward")
    if arguments.bidirectional and not source.bidirectional and source.num_hidden_layers > 1:
        layers = source.num_hidden_layers  # above the first, one that reads both directions has another shape
        raise InputError(f"`bidirectional` starts from a model of one layer, and that of `init_from` has {layers}")
    own = {name: value for name, value in fields.items() if name in free or name not in given}
    try:
        return HEADS[auto_class].from_pretrained(init_from, **own)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"`init_from` {init_from} does not load: {' '.join(str(error).split())}") from error


def count_words(prepared: Prepared) -> Counter[str]:
    """Occurrences of words in the training text, as the tokenizer splits it."""
    tokenizer = prepared.tokenizer.backend_tokenizer
    counts: Counter[str] = Counter()
    for row in prepared.data.splits["train"]:
        for text in row["words"] if "words" in row else [row["text"]]:
            words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
            counts.update(word for word, _ in words)
    return counts


@torch.no_grad()
def run_batches(
    model: PreTrainedModel, examples: Sequence[Mapping[str, Any]], batch_size: int, progress: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """The logits of a classifier for examples, batches of about one length together.

    Args:
        model: A classifier of this package; its training mode is restored afterwards.
        examples: With `input_ids` each.
        batch_size: Examples a batch; a matter of memory and speed only.
        progress: Whether to show a progress bar.

    Yields:
        Index of an example and its logits as float64: `(num_labels,)`, or `(tokens, num_labels)` where tokens are
        classified.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    starts = range(0, len(order), batch_size)
    with evaluating(model):
        for start in tqdm(starts, desc="evaluating", leave=False, mininterval=1, disable=not progress):
            batch = order[start : start + batch_size]
            longest = max(1, *(lengths[index] for index in batch))
            input_ids, mask = torch.zeros(2, len(batch), longest, dtype=torch.long)
            for row, index in enumerate(batch):
                ids = torch.tensor(examples[index]["input_ids"], dtype=torch.long)
                input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
            device = input_device(model)
            logits = (
                model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.cpu().double().numpy()
            )
            for row, index in enumerate(batch):
                yield index, logits[row] if logits.ndim == 2 else logits[row, : lengths[index]]


def evaluate_models(
    task: str, names: Sequence[str], splits: Sequence[str], given: Mapping[str, Any], revision: str | None = None,
    progress: bool = False, device: str = "cpu", batch_size: int | None = None,
) -> list[dict[str, ClassScores]]:  # fmt: skip
    """The scores by split of each of some models on the same rows, and behind them those of their ensemble.

    The ensemble of several models gives the mean of their probabilities, or of their numbers in regression. One model
    has none.

    Args:
        task: `text-classification` or `token-classification`.
        names: Directories of models, or their names on the Hub; those of several have the same classes.
        splits: Among `train`, `validation`, `test`, of the data of each model's run, or of other data.
        given: As of `load_data_of`.
        revision: Branch, tag or commit on the Hub.
        progress: Whether to show a progress bar.
        device: One of `rnn_hf.loading.DEVICES`.
        batch_size: Examples a batch, a matter of memory and speed; `None` is the task's own.

    Raises:
        InputError: As `load_data_of` and `load_model`; a model is for another task; there is no such split; or the
            models differ in their classes or in the rows of a split.
        MissingPackageError: As `check_scorers`.
    """
    for name in names:
        own = task_of_model(config_of(name, revision).architectures).name
        if own != task:
            raise InputError(f"{name} is a model for {own}, not for {task}")
    module = TASKS[task].module
    sources = [load_data_of(task, name, given, revision) for name in names]
    first = sources[0]
    check_splits(first, splits)
    check_scorers(module.metric_of(first))
    for name, data in zip(names[1:], sources[1:], strict=True):
        check_same_data(names[0], first, name, data, splits)
    size, scores, outputs = batch_size or module.EVALUATION_BATCH, [], []
    for name, data in zip(names, sources, strict=True):
        model, tokenizer = load_model(name, revision, device, module.AUTO_CLASS)
        examples = {split: encode_rows(data.splits[split], tokenizer) for split in splits}
        logits = {split: module.logits_of(model, examples[split], size, progress) for split in splits}
        scores.append({split: module.scores_of(logits[split], examples[split], data, split) for split in splits})
        outputs.append(logits)
    if len(names) > 1:
        together: dict[str, ClassScores] = {}
        for split in splits:
            rows = zip(*(logits[split] for logits in outputs), strict=True)
            means = [mean_of_logits(row, first.problem_type) for row in rows]
            together[split] = module.scores_of(means, examples[split], first, split)
        scores.append(together)
    return scores


def check_same_data(
    name: str, data: LabelledData, other_name: str, other: LabelledData, splits: Sequence[str]
) -> None:
    """Refuse models that cannot be scored together, as they differ in classes or in the rows of a split.

    Raises:
        InputError: Naming them.
    """
    if (data.label_names, data.problem_type) != (other.label_names, other.problem_type):
        raise InputError(f"{name} and {other_name} have other classes: an ensemble needs the same ones, in one order")
    for split in splits:
        if data.splits[split] != other.splits.get(split):
            raise InputError(
                f"{name} and {other_name} have other rows of {split}, which each run drew by its seed or read from "
                f"files of its own: name the rows by `{split}_file`"
            )


def mean_of_logits(logits: Sequence[np.ndarray], problem_type: str | None) -> np.ndarray:
    """The logits of the mean of several models' probabilities; in regression the mean of their numbers.

    Args:
        logits: Of each model, of one shape `(..., num_labels)`.
        problem_type: As of `LabelledData`.
    """
    stacked = np.stack(logits)
    if problem_type == REGRESSION:
        return stacked.mean(axis=0)
    if problem_type == MULTI:
        yes, no = (-np.logaddexp(0, sign * stacked) for sign in (-1, 1))
        return np.logaddexp.reduce(yes, axis=0) - np.logaddexp.reduce(no, axis=0)
    return np.logaddexp.reduce(log_softmax(stacked), axis=0) - np.log(len(logits))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def values_of_card(run: Mapping[str, Any], scores: Mapping[str, Any], unit: str, counted: str) -> dict[str, Any]:
    """What `labelled.md` needs besides the values of every card.

    Args:
        run: Content of run.json, which may be empty.
        scores: Of evaluation.json, by split.
        unit: What is classified, `texts` or `words`.
        counted: Key of run.json's data under which their number stands.

    Returns:
        `validation`, the scores of training's own validation, for a model that was not evaluated; `columns`, the
        metrics that were measured; `floors`, what needs no model, in words; and of at most 20 classes `class_rows`,
        their scores on `class_split`, and `class_counts` of the training data.
    """
    data, result = run.get("data") or {}, run.get("result") or {}
    validation = None
    if result.get("best_step"):
        best = {name: result.get(f"best_validation_{name}") for name in METRICS}
        validation = {name: value for name, value in best.items() if value is not None}
        validation |= {"floor": data["floor"], unit: data[counted]["validation"]}
    rows = scores or ({"validation": validation} if validation else {})
    columns = [metric for metric in METRICS.values() if any(metric.name in score for score in rows.values())]
    metric = METRICS["mean_squared_error"] if "mean_squared_error" in {each.name for each in columns} else ACCURACY
    floors = {split: score.get("floor") for split, score in rows.items()}
    split = list(scores)[-1] if scores else ""
    classes = scores[split].get("classes", {}) if scores else {}
    counts = (data.get("labels") or {}).get("train", {})
    return {
        "validation": validation,
        "unit": unit,
        "columns": columns,
        "floors": ", ".join(f"{metric.label(value)} on {of}" for of, value in floors.items() if value is not None),
        "class_split": split,
        "class_rows": classes if len(classes) <= MOST_CLASSES else {},
        "class_counts": counts if len(counts) <= MOST_CLASSES else {},
    }
