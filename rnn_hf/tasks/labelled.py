"""What the classification of texts and of words share: data by arguments, models to start from, scores by batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.labelled import LabelledData, load_labelled, split_off_validation
from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.data.tokenization import load_tokenizer
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import config_of, input_device
from rnn_hf.models import HEADS, RNNConfig
from rnn_hf.runs import run_of


# Fields of a configuration that may differ from those of the model that a classifier starts from.
FREE_FIELDS = {"bidirectional", "pooling", "initializer_range"}


def load_data(task: str, **arguments: Any) -> LabelledData:
    """Labelled text by the arguments of a run.

    Args:
        task: `text-classification` or `token-classification`.
        arguments: Those of `rnn_hf.training.arguments.LabelledDataArguments` that say what to load, and `seed`, which
            draws the rows for validation where there is no such split.

    Raises:
        InputError: A corpus of another task, or as `load_labelled`.
    """
    name, directory = arguments.get("dataset_name"), arguments.get("dataset_dir")
    names = set(signature(load_labelled).parameters) - {"task", "label_names"}
    chosen = {key: value for key, value in arguments.items() if key in names and value is not None}
    chosen["label_names"] = arguments.get("label_names")
    corpus = CORPORA.get(name or "")
    if corpus is None and directory:
        labelled = ", ".join(key for key, known in CORPORA.items() if known.directory_argument == "dataset_dir")
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
    """
    run = run_of(name, revision)
    if run is None and not given:
        raise InputError(f"{name} has no run.json of a training run: name data by `dataset_name` or `test_file`")
    arguments = dict((run or {"arguments": {"data": {}}})["arguments"]["data"])
    sources = {"dataset_name", "dataset_dir", "train_file", "validation_file", "test_file"}
    if given.keys() & sources:
        kept = {"dataset_name"} if given.keys() & sources == {"dataset_dir"} else set()
        arguments |= dict.fromkeys(sources - kept)
    arguments |= {"seed": ((run or {}).get("arguments", {}).get("training") or {}).get("seed")} | dict(given)
    config: Any = config_of(name, revision)
    if config.problem_type != "regression":
        labels = config.id2label
        arguments["label_names"] = [labels[index] for index in range(len(labels))]
    if task == "text-classification":
        arguments["problem_type"] = config.problem_type
    return load_data(task, **arguments)


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


def prepare(task: str, arguments: Any, seed: int, init_from: str | None) -> Prepared:
    """Load the training and validation rows, build or load the tokenizer, and encode the rows.

    Args:
        task: `text-classification` or `token-classification`.
        arguments: A `rnn_hf.training.arguments.LabelledDataArguments`.
        seed: Of the run.
        init_from: The model to start from, whose tokenizer is taken; `None` builds one.

    Raises:
        InputError: As `load_data` and `build_wordpiece`; or there is no row to train on.
    """
    data = load_data(task, **asdict(arguments), seed=seed)
    if "train" not in data.splits:
        raise InputError("training needs labelled text: `train_file`, or a `dataset_name` with such a split")
    if arguments.max_train_samples is not None:
        data.splits["train"] = data.splits["train"][: arguments.max_train_samples]
    if init_from is not None:
        tokenizer = load_tokenizer(init_from)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # masks, not ids, say what padding is
    else:
        column = "text" if task == "text-classification" else "words"
        texts = [row[column] for row in data.splits["train"]]
        tokenizer = build_wordpiece(
            texts, arguments.vocab_size, arguments.min_frequency, arguments.lowercase, arguments.pieces
        )
    examples = {
        split: encode_rows(data.splits[split], tokenizer, arguments.max_length) for split in ("train", "validation")
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
        return HEADS[auto_class](RNNConfig(**fields))
    source = config_of(init_from)
    default = type(arguments)()
    for name, value in asdict(arguments).items():
        is_free = name in FREE_FIELDS or "dropout" in name
        if not is_free and value not in (getattr(default, name), getattr(source, name)):
            raise InputError(
                f"`{name}` is {value}, and the model of `init_from` has {getattr(source, name)}: leave it out"
            )
    own = {name: value for name, value in fields.items() if name not in asdict(arguments) or name in FREE_FIELDS}
    own |= {name: value for name, value in asdict(arguments).items() if "dropout" in name}
    try:
        return HEADS[auto_class].from_pretrained(init_from, **own)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"`init_from` {init_from} does not load: {' '.join(str(error).split())}") from error


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
                model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.double().cpu().numpy()
            )
            for row, index in enumerate(batch):
                yield index, logits[row] if logits.ndim == 2 else logits[row, : lengths[index]]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
