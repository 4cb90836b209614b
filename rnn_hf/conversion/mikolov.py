"""The network of Mikolov's RNNLM (Mikolov et al., 2010), from its text format; its output layer is none of here."""

from collections.abc import Iterator

import torch

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint
from rnn_hf.conversion.source import Layer, Source
from rnn_hf.conversion.vocabulary import UNKNOWNS, Vocabulary
from rnn_hf.errors import InputError


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.container == "text"


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    lines = iter(checkpoint.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    header = header_of(lines)
    size, rows = header.get("hidden layer size", 0), header.get("vocabulary size", 0)
    if header.get("file format", 0) != 0:
        raise InputError("its weights are binary: save it as text (rnnlm without -binary)")
    if size < 1 or rows < 1 or size * (rows + size) > checkpoint.path.stat().st_size:
        raise InputError(f"it is not whole: {rows} words and {size} units are more than its bytes")
    if not choices.backbone:
        raise InputError(
            f"its output is P(class) P(word | class) over {header.get('class size', 1)} classes, no single softmax; "
            "`backbone=True` converts what is below it"
        )
    words = [next_words(lines) for _ in range(rows)]
    numbers = numbers_after(lines, "Weights 0->1:", size * (rows + size), checkpoint)
    matrix = torch.tensor(numbers, dtype=torch.float64).view(size, rows + size).to(torch.float32)
    # The input is one-hot, so the columns of its words are rows of an embedding that goes in as it is.
    layer = Layer("rnn", torch.eye(size), matrix[:, rows:].contiguous(), activation="sigmoid")
    source = Source([layer], embedding=matrix[:, :rows].T.contiguous())
    source.vocabulary = Vocabulary(words, ends=("</s>",), unknowns=UNKNOWNS)
    source.dropped += ["the output layer over classes, and direct connections, if there are any"]
    source.notes += [
        "The file has four decimals of each weight.",
        "The source begins a text with a state of ones, and this model with zeros: give it a cache of ones to begin "
        "as the source does.",
    ]
    return source


def header_of(lines: Iterator[str]) -> dict[str, int]:
    """The lines `name: number` before the vocabulary."""
    header: dict[str, int] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "Vocabulary":
            return header
        if value.strip().isdecimal() and len(value) < 20:
            header[name.strip()] = int(value.strip())
    raise InputError("it has no vocabulary")


def next_words(lines: Iterator[str]) -> str:
    """The word of a line `index count word class`."""
    parts = next(lines, "").split()
    if len(parts) != 4:
        raise InputError("its vocabulary is not whole")
    return parts[2]


def numbers_after(lines: Iterator[str], title: str, count: int, checkpoint: Checkpoint) -> list[float]:
    """So many numbers, a line each, after a line."""
    for line in lines:
        if line.strip() == title:
            break
    try:
        return [float(next(lines)) for _ in range(count)]
    except (StopIteration, ValueError, RuntimeError) as error:
        raise InputError(f"{checkpoint.path.name} is not whole: fewer than {count} numbers after {title!r}") from error


FORMAT = Format(
    "rnnlm", "a network of Mikolov's RNNLM toolkit", "Mikolov, Karafiát, Burget, Černocký and Khudanpur (2010)",
    matches, read,
)  # fmt: skip
