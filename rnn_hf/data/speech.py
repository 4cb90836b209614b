"""Recordings with their transcripts: by a table, by the names of the files, of the Hub; and how they are split."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rnn_hf.data.audio import AudioFile, decode_audio, find_audio
from rnn_hf.data.corpora import check_sources, from_hub, set_aside
from rnn_hf.data.named_corpora import SPLITS, NamedCorpus
from rnn_hf.errors import InputError
from rnn_hf.files import read_text


TASK = "automatic-speech-recognition"
Splits = dict[str, list["Recording"]]


@dataclass(frozen=True)
class Recording:
    """A recording and what is said in it.

    Attributes:
        file: Its audio.
        text: Words with one space between them; empty where nobody speaks.
        speaker: Who speaks; `None` where that is not known.
    """

    file: AudioFile
    text: str
    speaker: str | None = None


def load_speech(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    dataset_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    audio_dir: str | None = None,
    transcript_pattern: str | None = None,
    audio_column: str | None = None,
    text_column: str = "text",
    speaker_column: str = "speaker",
    lowercase: bool = False,
) -> Splits:
    r"""Load recordings and their transcripts; the audio itself is read later.

    Args:
        dataset_name: `"fsdd"`, or a data set of the Hub with a column of audio; `None` for files.
        dataset_config_name: Configuration of a data set of the Hub; `dataset_revision` is its branch, tag or commit.
        dataset_revision: See `dataset_config_name`.
        dataset_dir: Of a corpus with a name: the folder or the zip archive of its recordings.
        train_file: A table of transcripts (`.tsv`), or a folder or a zip archive of audio; also `validation_file` and
            `test_file`. A table has the columns of the next arguments by a header; without one they are the file, the
            text and, if there are three, the speaker.
        validation_file: See `train_file`.
        test_file: See `train_file`.
        audio_dir: Folder or zip archive that the files of a table are in; by default the folder of the table.
        transcript_pattern: Regular expression of the names of files in a folder or an archive, without their suffix,
            whose groups `text` and, if it is there, `speaker` say what is spoken and by whom, as in
            `(?P<text>\w+)_(?P<speaker>\w+)_\d+`. A pattern with a slash is for the whole path below the folder.
        audio_column: Of a table or the Hub; by default `file` or `audio`.
        text_column: Of a table or the Hub; a class of the Hub is its name. `speaker_column` need not be there.
        speaker_column: See `text_column`.
        lowercase: Whether to lower-case the transcripts.

    Returns:
        The recordings of those splits among `train`, `validation` and `test` that there are.

    Raises:
        InputError: The arguments do not name data, or the data is not what it should be; the message names the file.
        FileNotFoundError: A file is missing.
        ConnectionError: The Hub cannot be reached.
    """
    named = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: file for split, file in named.items() if file is not None}
    corpus = check_sources(TASK, dataset_name, dataset_dir, files)
    if corpus is not None:
        splits = _of_corpus(corpus, dataset_name or "", dataset_dir)
    elif dataset_name is not None:
        columns = (audio_column or "audio", text_column, speaker_column)
        splits = _of_hub(dataset_name, dataset_config_name, dataset_revision, columns)
    else:
        columns = (audio_column or "file", text_column, speaker_column)
        splits = {split: _of_file(file, audio_dir, transcript_pattern, columns) for split, file in files.items()}
    return {split: [_tidy(recording, lowercase) for recording in rows] for split, rows in splits.items()}


def _tidy(recording: Recording, lowercase: bool) -> Recording:
    text = " ".join(recording.text.split())
    return Recording(recording.file, text.lower() if lowercase else text, recording.speaker)


def choose_splits(
    splits: Splits, percentage: int, seed: int, held_out_speaker: str | None = None, most: int | None = None
) -> Splits:
    """The recordings of each split, with some for validation where there are none.

    Args:
        splits: As loaded.
        percentage: Share of a hundred of `train` that is drawn for validation where there is no such split; the draw
            depends on nothing but the number of recordings, this and `seed`.
        seed: Of the draw.
        held_out_speaker: A speaker whose recordings alone are those for validation, from both of the splits, and for
            test, and who is not trained on; nobody else is validated on.
        most: Recordings to train on.

    Raises:
        InputError: There is no such speaker, or there are too few recordings.
    """
    splits = dict(splits)
    if held_out_speaker is not None:
        splits = _held_out(splits, held_out_speaker)
    elif "train" in splits and "validation" not in splits:
        splits["train"], splits["validation"] = set_aside(splits["train"], percentage, seed, "recordings")
    if "train" in splits:
        splits["train"] = splits["train"][:most]
    return splits


def _held_out(splits: Splits, speaker: str) -> Splits:
    speakers = sorted({str(row.speaker) for rows in splits.values() for row in rows if row.speaker is not None})
    if speaker not in speakers:
        raise InputError(f"`held_out_speaker` must be one of {', '.join(speakers) or '(none known)'}, got {speaker!r}")
    others = {split: [row for row in rows if row.speaker != speaker] for split, rows in splits.items()}
    own = {split: [row for row in rows if row.speaker == speaker] for split, rows in splits.items()}
    chosen = {
        "train": others.get("train", []),
        "validation": [*own.get("train", []), *own.get("validation", [])],
        "test": own.get("test", []),
    }
    if "train" in splits and not chosen["train"]:
        raise InputError(f"`held_out_speaker` {speaker} is the only one that there is to train on")
    return {split: rows for split, rows in chosen.items() if rows}


def _of_corpus(corpus: NamedCorpus, name: str, directory: str | None) -> Splits:
    """The recordings of a corpus with a name, whose files say what is spoken, by whom, and to which split they go."""
    if directory is None:
        raise InputError(f"`dataset_name` {name} needs `dataset_dir`, the folder or zip archive of its recordings")
    recordings = _of_names(find_audio(directory), corpus.transcript_pattern or "", corpus.spoken, directory)
    splits: Splits = {split: [] for split in SPLITS}
    for recording in recordings:
        stem = PurePosixPath(recording.file.name).stem
        split = next((split for split, pattern in corpus.files.items() if re.fullmatch(pattern, stem)), None)
        if split is None:
            raise InputError(f"{recording.file.name} in {directory} is of no split of {name}")
        splits[split].append(recording)
    return {split: rows for split, rows in splits.items() if rows}


def _of_file(file: str, audio_dir: str | None, pattern: str | None, columns: tuple[str, str, str]) -> list[Recording]:
    path = Path(file)
    if path.suffix.lower() in (".tsv", ".txt") and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        return list(_of_table(path, audio_dir, columns))
    files = find_audio(file)
    if pattern is None:
        raise InputError(f"{file} has no transcripts: give a .tsv file in its place, or `transcript_pattern`")
    return list(_of_names(files, pattern, {}, file))


def _of_names(files: Iterable[AudioFile], pattern: str, spoken: Mapping[str, str], place: str) -> Iterator[Recording]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`transcript_pattern` is no regular expression: {error}") from error
    if "text" not in expression.groupindex:
        raise InputError(f"`transcript_pattern` needs a group `(?P<text>...)`, got {pattern!r}")
    for file in files:
        path = PurePosixPath(file.name)
        match = expression.fullmatch(path.with_suffix("").as_posix() if "/" in pattern else path.stem)
        if match is None:
            raise InputError(f"`transcript_pattern` {pattern!r} does not fit {file.name} in {place}")
        groups = match.groupdict()
        text = groups["text"] or ""
        yield Recording(file, spoken.get(text, text), groups.get("speaker"))


def _of_table(path: Path, audio_dir: str | None, columns: tuple[str, str, str]) -> Iterator[Recording]:
    """The rows of a table of transcripts, whose files are found by name."""
    folder = audio_dir or str(path.parent)
    files = {file.name: file for file in find_audio(folder)}
    rows = list(csv.reader(read_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = rows[0] if rows else []
    has_header = columns[0] in header and columns[1] in header
    names = header if has_header else list(columns)
    for number, cells in enumerate(rows[has_header:], 1 + has_header):
        place = f"{path}, line {number}"
        if not cells:
            continue
        if has_header and len(cells) != len(header):
            raise InputError(f"{place} has {len(cells)} fields, the header has {len(header)}")
        if not has_header and len(cells) not in (2, 3):
            raise InputError(
                f"{place} must be a file and its text, with a tab between them, and maybe a speaker; or give the "
                f"file a header with {columns[0]!r} and {columns[1]!r} (`audio_column`, `text_column`)"
            )
        row = dict(zip(names, cells, strict=False))
        name = PurePosixPath(row[columns[0]]).as_posix()
        if name not in files:
            raise InputError(f"{place} names {name}, which is not in {folder}: set `audio_dir`")
        yield Recording(files[name], row[columns[1]], row.get(columns[2]) or None)
    if len(rows) <= has_header:
        raise InputError(f"{path} has no rows")


def _of_hub(name: str, config: str | None, revision: str | None, columns: tuple[str, str, str]) -> Splits:
    """The splits of a data set of the Hub; its audio stays as it is stored, for which no decoder is needed."""
    from datasets import Audio, load_dataset

    corpus = from_hub(f"`dataset_name={json.dumps(name)}`", lambda: load_dataset(name, name=config, revision=revision))
    splits: Splits = {}
    for split in SPLITS:
        if split not in corpus:
            continue
        features = corpus[split].features
        for column, argument in zip(columns[:2], ("audio_column", "text_column"), strict=True):
            if column not in features:
                raise InputError(f"{split} has no column {column!r}: set `{argument}` to one of {', '.join(features)}")
        names = getattr(features[columns[1]], "names", None)
        rows = corpus[split].cast_column(columns[0], Audio(decode=False))
        splits[split] = [_of_row(rows, index, columns, names, split) for index in range(len(rows))]
    if not splits:
        raise InputError(f"the data set has none of the splits {', '.join(SPLITS)}")
    return splits


def _of_row(rows: Any, index: int, columns: tuple[str, str, str], names: list[str] | None, split: str) -> Recording:
    place, (audio, text_column, speaker_column) = f"row {index + 1} of {split}", columns
    others = [column for column in (text_column, speaker_column) if column in rows.features]
    row = rows.select_columns(others)[index]
    text = row[text_column] if names is None else names[row[text_column]]
    if not isinstance(text, str):
        raise InputError(f"{place}: `text_column` must hold text, got {text!r:.60}")

    def read() -> bytes:
        stored = rows[index][audio]
        return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()

    speaker = row.get(speaker_column)
    return Recording(AudioFile(place, read), text, None if speaker is None else str(speaker))


def sampling_rate_of(recordings: Iterable[Recording]) -> int:
    """Samples a second of the first recording, which all others must have.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    for recording in recordings:
        return decode_audio(recording.file.read(), recording.file.name)[1]
    raise InputError("there is no recording to train on")
