"""Labels of texts, or of the words of sentences, by a classifier; text of recordings, by a recognizer of speech.

    rnn-hf predict MODEL "a warm , funny film" [TEXT ...] [--format csv] [--all_scores]
    rnn-hf predict MODEL --file FILE
    ... | rnn-hf predict MODEL
    rnn-hf predict RECOGNIZER FILE.wav [FOLDER ...] [--timestamps] [--language_model MODEL]

A model of texts gives a label and its probability to each text, one of words a label to each word, with punctuation
split off; with --is_split_into_words what stands between spaces is a word. A file has a text or a sentence a line, or
is what such a model is trained on, by its suffix: .csv and .tsv for texts, .tsv, .conll and .conllu for words, .jsonl.
Recordings are WAV, FLAC or OGG files, or folders and zip archives of them. By default the likeliest label of each step
is heard; a search among hypotheses can ask a language model of the same words or characters how likely they are.
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
    search_of,
    utf8_text,
)
from rnn_hf.errors import InputError
from rnn_hf.tables import FORMATS


LABELLED_FILES = (".csv", ".tsv", ".json", ".jsonl", ".conll", ".conllu")  # which `read_file` reads
BATCHES_AT_ONCE = 16  # of which texts of about one length go together


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "predict")
    add_model_argument(parser)
    parser.add_argument(
        "texts", type=utf8_text, nargs="*", metavar="TEXT", help="or file of audio; default: lines of standard input"
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
    from rnn_hf.tasks import LANGUAGE_MODELING, SPEECH_RECOGNITION, TEXT_CLASSIFICATION, task_of_model

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


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.loading import load_model
    from rnn_hf.tables import table_lines
    from rnn_hf.tasks import SPEECH_RECOGNITION

    task = check(arguments)
    disable_progress_bar()
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
