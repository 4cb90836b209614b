"""Parallel text: sentences with their translations, by two files, a table, JSON lines, or of the Hub."""

import csv
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnn_hf.data.corpora import check_sources, from_hub, set_aside
from rnn_hf.data.named_corpora import SPLITS, NamedCorpus
from rnn_hf.errors import InputError
from rnn_hf.files import json_objects, read_text


TASK = "translation"
COLUMN = "translation"  # of a data set of the Hub: of each row a dictionary by language


@dataclass(frozen=True)
class Pair:
    """A text and its translation."""

    source: str
    target: str


@dataclass(frozen=True)
class ParallelData:
    """Texts with their translations.

    Attributes:
        splits: `train`, `validation` and `test`, or what a corpus with a name calls its own.
        source_lang: Language to translate from; `None` where nobody said it.
        target_lang: Language to translate into.
    """

    splits: dict[str, list[Pair]]
    source_lang: str | None
    target_lang: str | None


def load_parallel(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    dataset_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
    lowercase: bool = False,
) -> ParallelData:
    """Load texts with their translations.

    Args:
        dataset_name: `"multi30k"`, or a data set of the Hub with a column `translation`, or with a column a language;
            `None` for files.
        dataset_config_name: Configuration of a data set of the Hub; `dataset_revision` is its branch, tag or commit.
        dataset_revision: See `dataset_config_name`.
        dataset_dir: Of a corpus with a name: the folder of its files.
        train_file: `DIR/train` for two files `DIR/train.en` and `DIR/train.de`, whose lines belong together; a table
            (`.tsv`) of two columns, by a header that names the languages or source first; or JSON lines (`.jsonl`)
            such as `{"translation": {"en": "a dog", "de": "ein hund"}}`. Also `validation_file` and `test_file`.
        validation_file: See `train_file`.
        test_file: See `train_file`.
        source_lang: Language to translate from, as the files or the data set call it.
        target_lang: Language to translate into.
        lowercase: Whether to lower-case both.

    Raises:
        InputError: The arguments do not name data, or the data is not what it should be; the message names the file.
        FileNotFoundError: A file is missing.
        ConnectionError: The Hub cannot be reached.
    """
    named = zip(SPLITS, (train_file, validation_file, test_file), strict=True)
    files = {split: file for split, file in named if file is not None}
    corpus = check_sources(TASK, dataset_name, dataset_dir, files)
    if corpus is not None:
        source_lang, target_lang = source_lang or corpus.languages[0], target_lang or corpus.languages[1]
    languages = (source_lang, target_lang)
    if (source_lang is None) is not (target_lang is None) or (source_lang and source_lang == target_lang):
        raise InputError(
            f"`source_lang` and `target_lang` must be two languages, got {source_lang!r} and {target_lang!r}"
        )
    if corpus is not None:
        splits = _of_corpus(corpus, dataset_name or "", dataset_dir, languages)
    elif dataset_name is not None:
        splits = _of_hub(dataset_name, dataset_config_name, dataset_revision, languages)
    else:
        splits = {split: read_pairs(file, *languages) for split, file in files.items()}
    change: Callable[[str], str] = str.lower if lowercase else str
    return ParallelData(
        {
            split: [Pair(change(pair.source), change(pair.target)) for pair in _kept(pairs, split)]
            for split, pairs in splits.items()
        },
        source_lang, target_lang,
    )  # fmt: skip


def choose_splits(data: ParallelData, percentage: int, seed: int, most: int | None = None) -> ParallelData:
    """The pairs of each split, with some for validation where there are none.

    Args:
        data: As loaded.
        percentage: Share of a hundred of `train` that is drawn for validation where there is no such split; the draw
            depends on nothing but the number of pairs, this and `seed`.
        seed: Of the draw.
        most: Pairs to train on.

    Raises:
        InputError: There are too few pairs.
    """
    splits = dict(data.splits)
    if "train" in splits and "validation" not in splits:
        splits["train"], splits["validation"] = set_aside(splits["train"], percentage, seed, "pairs")
    if "train" in splits:
        splits["train"] = splits["train"][:most]
    return ParallelData(splits, data.source_lang, data.target_lang)


def _kept(pairs: list[Pair], split: str) -> list[Pair]:
    """The pairs of a split; those to train on need words on both sides."""
    if not pairs:
        raise InputError(f"the {split} split has no lines")
    if split != "train":
        return pairs
    kept = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
    if not kept:
        raise InputError(f"no pair of {split} has words on both sides")
    if len(kept) < len(pairs):
        warnings.warn(f"{len(pairs) - len(kept):,} pairs of {split} have an empty side and are left out", stacklevel=4)
    return kept


def _of_corpus(
    corpus: NamedCorpus, name: str, directory: str | None, languages: tuple[str | None, str | None]
) -> dict[str, list[Pair]]:
    """The splits of a corpus with a name that its folder has; test sets are often kept elsewhere."""
    if directory is None:
        files = ", ".join(f"{corpus.files['train']}.{language}" for language in languages)
        raise InputError(f"`dataset_name` {name} needs `dataset_dir`, the folder of its files ({files} and others)")
    splits = {}
    for split, stem in corpus.files.items():
        if any(Path(directory, f"{stem}.{language}").is_file() for language in languages):
            splits[split] = read_pairs(str(Path(directory) / stem), *languages)
    if not splits:
        raise FileNotFoundError(f"{directory} has no file of {name}, such as {corpus.files['train']}.{languages[0]}")
    return splits


def read_pairs(file: str, source_lang: str | None, target_lang: str | None) -> list[Pair]:
    """The pairs of a file; other arguments as of `load_parallel`.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not what its name says; the message names the line.
    """
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix not in (".tsv", ".jsonl", ".json"):
        return _read_two_files(path, source_lang, target_lang)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if suffix == ".tsv":
        return list(_read_table(path, source_lang, target_lang))
    example = json.dumps({COLUMN: {source_lang or "en": "", target_lang or "de": ""}})
    return [_pair_of(row, source_lang, target_lang, place) for place, row in json_objects(path, example)]


def _lines(path: Path) -> list[str]:
    text = read_text(path)
    return text.removesuffix("\n").split("\n") if text else []


def _read_two_files(path: Path, source_lang: str | None, target_lang: str | None) -> list[Pair]:
    if source_lang is None or target_lang is None:
        raise InputError(
            f"{path} stands for two files, one a language: give `source_lang` and `target_lang`, such as en and de "
            f"for {path}.en and {path}.de"
        )
    if path.suffix in (f".{source_lang}", f".{target_lang}"):  # one of the two files was named
        path = path.with_suffix("")
    files = [path.with_name(f"{path.name}.{language}") for language in (source_lang, target_lang)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    sources, targets = map(_lines, files)
    for file, lines in zip(files, (sources, targets), strict=True):
        if not any(line.strip() for line in lines):
            raise InputError(f"{file} is empty")
    if len(sources) != len(targets):
        raise InputError(
            f"{files[0]} has {len(sources):,} lines and {files[1]} has {len(targets):,}: a line and its translation "
            "must have one number"
        )
    return [Pair(source, target) for source, target in zip(sources, targets, strict=True)]


def _read_table(path: Path, source_lang: str | None, target_lang: str | None) -> Iterator[Pair]:
    rows = list(csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = rows[0] if rows else []
    has_header = source_lang in header and target_lang in header
    places = [header.index(str(language)) if has_header else place for place, language in enumerate(
        (source_lang, target_lang))]  # fmt: skip
    if len(rows) <= has_header:
        raise InputError(f"{path} is empty")
    width = len(header) if has_header else 2
    for number, cells in enumerate(rows[has_header:], 1 + has_header):
        if len(cells) != width:
            raise InputError(
                f"{path}, line {number} has {len(cells)} fields, not {width}: a text and its translation with a tab "
                "between, or as many as a header that has `source_lang` and `target_lang`"
            )
        yield Pair(cells[places[0]], cells[places[1]])


def _pair_of(row: Mapping[str, Any], source_lang: str | None, target_lang: str | None, place: str) -> Pair:
    """The texts of a row, in `translation` or columns of its own."""
    texts = row[COLUMN] if isinstance(row.get(COLUMN), Mapping) else row
    languages = [name for name, value in texts.items() if isinstance(value, str)]
    for argument, language in (("source_lang", source_lang), ("target_lang", target_lang)):
        if language not in languages:
            raise InputError(
                f"{place} has no text in {language}: set `{argument}` to one of {', '.join(languages) or '(none)'}"
            )
    return Pair(texts[source_lang], texts[target_lang])  # type: ignore[index]


def _of_hub(
    name: str, config: str | None, revision: str | None, languages: tuple[str | None, str | None]
) -> dict[str, list[Pair]]:
    """The splits of a data set of the Hub."""
    from datasets import load_dataset

    corpus = from_hub(f"`dataset_name={json.dumps(name)}`", lambda: load_dataset(name, name=config, revision=revision))
    splits = {}
    for split in SPLITS:
        if split in corpus:
            rows: Iterable[Mapping[str, Any]] = corpus[split]
            splits[split] = [
                _pair_of(row, *languages, f"row {number} of {split}") for number, row in enumerate(rows, 1)
            ]
    if not splits:
        raise InputError(f"the data set has none of the splits {', '.join(SPLITS)}")
    return splits
