"""Labels of texts or words by a classifier, text of recordings by a recognizer of speech, forecasts of time series.

    rnn-hf predict MODEL "a warm , funny film" [TEXT ...] [--format csv] [--all_scores]
    rnn-hf predict MODEL --file FILE
    ... | rnn-hf predict MODEL
    rnn-hf predict RECOGNIZER FILE.wav [FOLDER ...] [--timestamps] [--language_model MODEL]
    rnn-hf predict FORECASTER SERIES.csv [--horizon 96] [--output forecast.csv] [--picture forecast.png]
    rnn-hf predict FORECASTER [SERIES.csv | --append NEW.csv] --state STATE.safetensors

A model of texts gives a label and its probability to each text, one of words a label to each word, with punctuation
split off; with --is_split_into_words what stands between spaces is a word. A file has a text or a sentence a line, or
is what such a model is trained on, by its suffix: .csv and .tsv for texts, .tsv, .conll and .conllu for words, .jsonl.
Recordings are WAV, FLAC or OGG files, or folders and zip archives of them. By default the likeliest label of each step
is heard; a search among hypotheses can ask a language model of the same words or characters how likely they are.

Series are a table with a column of times, .csv or .parquet, or entries, .jsonl, as for training. The forecast begins
behind their last value or, with --forecast_start, at a step before, and has quantiles where the model has them. With
--state the whole series are read and what the model then knows is kept in a file; new values go on from it.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rnn_hf.commands import (
    SEARCH,
    Parser,
    add_device_flag,
    add_model_argument,
    add_search_flags,
    check_file,
    check_picture,
    search_of,
    utf8_text,
)
from rnn_hf.errors import InputError
from rnn_hf.tables import FORMATS


LABELLED_FILES = (".csv", ".tsv", ".json", ".jsonl", ".conll", ".conllu")  # which `read_file` reads
# Of a model that forecasts.
OF_FORECASTS: dict[str, tuple[type, str, str]] = {
    "horizon": (int, "N", "steps to predict; default: as many as in training"),
    "forecast_start": (
        str,
        "TIME",
        "of the first step to predict, such as 2017-10-20; default: behind the last value",
    ),
    "output": (str, "CSV", "file of the forecast; default: printed"),
    "picture": (str, "PNG", "picture of the past, the forecast, and what followed where it is known"),
    "state": (str, "FILE", "what the model knows after the values, written and, with --append, read: .safetensors"),
    "append": (str, "FILE", "series of the values that follow those of the state"),
    "time_column": (str, "COLUMN", "column of times of a table; default: the first that holds no numbers"),
    "target_columns": (str, "COLUMNS", "columns of a table, A,B,C; default: those that the model knows"),
    "frequency": (str, "NAME", "of the steps, such as h or D; default: what the times say"),
}
BATCHES_AT_ONCE = 16  # of which texts of about one length go together


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "predict")
    add_model_argument(parser)
    parser.add_argument(
        "texts",
        type=utf8_text,
        nargs="*",
        metavar="TEXT",
        help="or file of audio or of series; default: lines of standard input",
    )
    parser.add_argument("--file", metavar="FILE", help="file of texts, - for standard input")
    parser.add_argument(
        "--text_column", metavar="COLUMN", help="column of texts or words in such a file as for training"
    )
    parser.add_argument(
        "--is_split_into_words", action="store_true", help="what stands between spaces is a word, for a model of words"
    )
    parser.add_argument("--timestamps", action="store_true", help="when each word was heard, in seconds")
    add_search_flags(parser)
    for name, (kind, value, text) in OF_FORECASTS.items():
        parser.add_argument(f"--{name}", type=kind, metavar=value, help=f"of a model that forecasts: {text}")
    parser.add_argument(
        "--format", choices=("text", *FORMATS), default="text", help="of what is printed; json is an object a line"
    )
    parser.add_argument("--all_scores", action="store_true", help="the probability of each label, in a table")
    parser.add_argument("--batch_size", type=int, default=64, help="texts read together; does not change the result")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model of the Hub")
    add_device_flag(parser)
    return parser.parse_args(argv)


def check(arguments: Namespace) -> Any:
    """The task of the model; what makes no sense is refused before it is loaded."""
    from rnn_hf.loading import config_of
    from rnn_hf.tasks import (
        FORECASTING,
        LANGUAGE_MODELING,
        SPEECH_RECOGNITION,
        TEXT_CLASSIFICATION,
        TRANSLATION,
        task_of_model,
    )

    if arguments.texts and arguments.file:
        raise InputError("give either texts or --file FILE")
    if arguments.batch_size < 1:
        raise InputError(f"--batch_size must be at least 1, got {arguments.batch_size}")
    if arguments.all_scores and arguments.format == "text":
        raise InputError(f"--all_scores is for a table: --format {', '.join(FORMATS)}")
    file = arguments.file
    if file and file != "-" and (not Path(file).exists() or Path(file).is_dir()):  # a pipe is a file too
        raise FileNotFoundError(f"no file {file}")
    config: Any = config_of(arguments.model, arguments.revision)
    task = task_of_model(config.architectures)
    if task is LANGUAGE_MODELING:
        raise InputError(
            f"{arguments.model} is no classifier: `rnn-hf generate` writes text with a language model, `rnn-hf score` "
            "says how likely one is, and `rnn-hf train --init_from` makes a classifier of it"
        )
    if task is TRANSLATION:
        raise InputError(f"{arguments.model} is a translator: `rnn-hf translate` has it write")
    if task is FORECASTING:
        check_forecast(arguments)
        return task
    for flag in OF_FORECASTS:
        if getattr(arguments, flag) is not None:
            raise InputError(f"--{flag} is for a model that forecasts, and {arguments.model} is none")
    if task is SPEECH_RECOGNITION:
        for flag in ("file", "text_column", "is_split_into_words", "all_scores"):
            if getattr(arguments, flag):
                raise InputError(f"--{flag} is for a classifier, and {arguments.model} is a recognizer of speech")
        if not arguments.texts:
            raise InputError(f"{arguments.model} is a recognizer of speech: name files of audio, or folders of them")
        search_of(arguments)
    else:
        for flag in ("timestamps", *SEARCH):
            if (value := getattr(arguments, flag)) is not None and value is not False:
                raise InputError(f"--{flag} is for a recognizer of speech, and {arguments.model} is a classifier")
    if arguments.is_split_into_words and task is TEXT_CLASSIFICATION:
        raise InputError(f"--is_split_into_words is for a model of words, and {arguments.model} is one of texts")
    if arguments.all_scores and config.problem_type == "regression":
        raise InputError(f"--all_scores is for classes, and {arguments.model} gives a number")
    return task


def check_forecast(arguments: Namespace) -> None:
    """Refuse flags that do not fit a model that forecasts, or each other."""
    for flag in ("file", "text_column", "is_split_into_words", "all_scores", "timestamps", *SEARCH):
        if (value := getattr(arguments, flag)) is not None and value is not False:
            raise InputError(f"--{flag} is not for a model that forecasts, as {arguments.model} is")
    if len(arguments.texts) + (arguments.append is not None) != 1:
        raise InputError(
            f"{arguments.model} forecasts time series: name one file of them (CSV, Parquet or JSON lines)"
        )
    if arguments.append and not arguments.state:
        raise InputError("--append goes on from --state, which is not given")
    if arguments.forecast_start and arguments.state:
        raise InputError("--forecast_start is for a window, and --state has read all values: drop one of them")
    if arguments.horizon is not None and arguments.horizon < 1:
        raise InputError(f"--horizon must be at least 1, got {arguments.horizon}")
    for flag in ("output", "state"):
        check_file(flag, getattr(arguments, flag))
    check_picture("picture", arguments.picture)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.loading import load_model
    from rnn_hf.tables import table_lines
    from rnn_hf.tasks import FORECASTING, SPEECH_RECOGNITION

    task = check(arguments)
    disable_progress_bar()
    if task is FORECASTING:
        return forecast(arguments)
    if task is SPEECH_RECOGNITION:
        rows = heard_rows(task, arguments)
        form = "tsv" if arguments.format == "text" else arguments.format
        lines = table_lines(rows, form)
        for line in islice(lines, arguments.format == "text", None):  # without names of columns
            print(line)
        return 0
    model, tokenizer = load_model(arguments.model, arguments.revision, arguments.device, task.module.AUTO_CLASS)
    empty: list[int] = []
    inputs = texts_of(arguments, task, empty)
    answers = answers_of(task, model, tokenizer, inputs, arguments.batch_size)
    is_words = task.name == "token-classification"
    if arguments.format == "text":
        lines = sentence_lines(answers) if is_words else text_lines(answers, model.config.id2label)
    else:
        lines = table_lines(rows_of(answers, is_words, arguments), arguments.format)
    is_empty = True
    for line in lines:
        print(line)
        is_empty = False
    if empty:
        sys.stderr.write(f"warning: without text and left out: {', '.join(map(str, empty))}\n")
    if is_empty:
        source = arguments.file or ("the arguments" if arguments.texts else "standard input")
        raise InputError(f"there is no text in {source}")
    return 0


def texts_of(arguments: Namespace, task: Any, empty: list[int]) -> Iterator[tuple[int, Any]]:
    """Number and content of each text, or words of each sentence; the numbers of those without any go to `empty`."""
    from rnn_hf.scoring import read_lines
    from rnn_hf.tasks.token_classification import split_words

    is_words = task.name == "token-classification"
    file = arguments.file
    if file and Path(file).suffix.lower() in LABELLED_FILES:
        texts = read_table(file, task.name, arguments.text_column)
    else:
        if not (arguments.texts or file) and sys.stdin.isatty():
            sys.stderr.write("reading texts from standard input, one a line; Ctrl-D ends them\n")
        texts = iter(arguments.texts) if arguments.texts else read_lines(file or "-")
    for number, text in enumerate(texts, 1):
        if is_words and isinstance(text, str):
            text = text.split() if arguments.is_split_into_words else split_words(text)
        if text if is_words else text.strip():
            yield number, text
        else:
            empty.append(number)


def read_table(file: str, task: str, text_column: str | None) -> Iterator[Any]:
    """The texts, or lists of words, of a file as for training, whose labels need not be there."""
    from rnn_hf.data.rows import COLUMNS, WORDS, read_file

    suffix = Path(file).suffix.lower()
    column = text_column or {".conllu": "FORM", ".conll": "1", ".tsv": "1" if task == WORDS else None}.get(suffix)
    column = column or COLUMNS[task][0]
    for row in read_file(file, task, column, column):
        words = row.text if isinstance(row.text, list) else [row.text]
        if isinstance(row.text, list) is not (task == WORDS) or not all(isinstance(word, str) for word in words):
            kind = "a list of words" if task == WORDS else "text"
            raise InputError(f"{row.place}: `text_column` must hold {kind}, got {row.text!r:.60}")
        yield row.text


def answers_of(
    task: Any, model: Any, tokenizer: Any, texts: Iterator[tuple[int, Any]], batch_size: int
) -> Iterator[tuple[int, Any]]:
    """Number of each text and what the model says of it."""
    while chunk := list(islice(texts, BATCHES_AT_ONCE * batch_size)):
        numbers, contents = zip(*chunk, strict=True)
        yield from zip(numbers, task.module.predict(model, tokenizer, contents, batch_size), strict=True)


def text_lines(answers: Iterator[tuple[int, Any]], names: Any) -> Iterator[str]:
    """A line a text: label, probability, text."""
    width = max(map(len, names.values()))
    for _, answer in answers:
        label = answer["label"]
        parts = [f"{label:.4f}" if isinstance(label, float) else label.ljust(width)]
        parts += [f"{answer['score']:.4f}"] if "score" in answer else []
        yield "  ".join([*parts, answer["text"]])


def sentence_lines(answers: Iterator[tuple[int, Any]]) -> Iterator[str]:
    """A line a word with its label behind a tab, an empty line between sentences: a file to train on."""
    for index, (_, words) in enumerate(answers):
        if index:
            yield ""
        for row in words:
            yield f"{row['word']}\t{row['label'] or '_'}"


def rows_of(answers: Iterator[tuple[int, Any]], is_words: bool, arguments: Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a table: of texts one each, of sentences one a word."""
    for number, answer in answers:
        for row in answer if is_words else [answer]:
            scores = row.pop("scores", {})
            if arguments.all_scores:
                row |= {f"score {name}": value for name, value in scores.items()}
            yield {"sentence": number, **row} if is_words else row


def heard_rows(task: Any, arguments: Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a table: a file and what is said in it, or one a word with `--timestamps`."""
    from rnn_hf.tasks.speech_search import load_search

    model, tokenizer, extractor = task.module.load_recognizer(arguments.model, arguments.revision, arguments.device)
    search = load_search(tokenizer, device=arguments.device, **search_of(arguments))
    files = audio_files(arguments.texts)
    while chunk := list(islice(files, arguments.batch_size)):
        options = (arguments.batch_size, arguments.timestamps, search)
        answers = task.module.predict(model, tokenizer, extractor, chunk, *options)
        for answer in answers:
            words = answer.pop("words", None)
            if words is None:
                yield answer
            for word in words or ():
                yield {"file": answer["file"], **word}


def audio_files(places: Sequence[str]) -> Iterator[Any]:
    """The files of audio at places, by their paths."""
    from dataclasses import replace

    from rnn_hf.data.audio import find_audio

    for place in places:
        is_alone = Path(place).is_file() and Path(place).suffix.lower() != ".zip"
        for file in find_audio(place):
            yield replace(file, name=place if is_alone else str(Path(place) / file.name))


def forecast(arguments: Namespace) -> int:
    """Print or write forecasts, with a picture if one is wanted."""
    from rnn_hf.files import write_text
    from rnn_hf.tables import table_lines
    from rnn_hf.tasks.forecast_tables import forecast_rows, plot_forecasts
    from rnn_hf.tasks.time_series_forecasting import load_forecaster, predict, read_known

    model = load_forecaster(arguments.model, arguments.revision, arguments.device)
    file = arguments.append or arguments.texts[0]
    series = read_known(model, file, arguments.time_column, arguments.target_columns, arguments.frequency)
    if arguments.state:
        forecasts = forecast_by_state(arguments, model, series)
    else:
        forecasts = predict(model, series, arguments.horizon, arguments.forecast_start)
    if arguments.picture:
        plot_forecasts(forecasts, Path(arguments.picture), f"{Path(arguments.model).name}: {Path(file).name}")
    form = arguments.format if arguments.format != "text" else "csv" if arguments.output else "tsv"
    rows = forecast_rows(forecasts)
    if form != "json":  # six digits, wherever the point is
        rows = (
            {name: f"{cell:.6g}" if isinstance(cell, float) else cell for name, cell in row.items()} for row in rows
        )
    lines = table_lines(rows, form)
    if arguments.output:
        write_text(Path(arguments.output), "\n".join([*lines, ""]))
    else:
        for line in lines:
            print(line)
    return 0


def forecast_by_state(arguments: Namespace, model: Any, series: list[Any]) -> list[Any]:
    """Read series, from their beginning or on from a state, keep the state, and forecast of it."""
    from rnn_hf.tasks.forecast_state import forecast_of_state, load_state, read_series_state, save_state

    path = Path(arguments.state)
    before = load_state(model, path, series) if arguments.append else None
    state = read_series_state(model, series, before)
    forecasts = forecast_of_state(model, state, series, arguments.horizon)
    save_state(model, state, series, path)
    return forecasts
