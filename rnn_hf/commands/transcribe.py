"""The text of recordings, whole or as they are heard.

    rnn-hf transcribe MODEL FILE.wav [FILE ...]
    rnn-hf transcribe MODEL --stream FILE.wav [--chunk_ms 100]
    arecord -f S16_LE -r 8000 -t raw | rnn-hf transcribe MODEL --stream -

With --stream the model reads a piece at a time, keeps its state, and prints each word when it has heard it: the text
is that of the whole recording, whatever the pieces. A - is standard input: samples of 16 bits, little-endian, of one
channel, at the sampling rate of the model.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_device_flag, add_model_argument
from rnn_hf.errors import InputError


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "transcribe")
    add_model_argument(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="WAV, FLAC or OGG; - for standard input")
    parser.add_argument("--stream", action="store_true", help="print words as they are heard, piece by piece")
    parser.add_argument(
        "--chunk_ms", type=float, default=100, help="milliseconds of a piece; does not change the text"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model of the Hub")
    add_device_flag(parser)
    return parser.parse_args(argv)


def check(arguments: Namespace) -> None:
    """What makes no sense is refused before the model is loaded."""
    from rnn_hf.loading import config_of

    if arguments.chunk_ms <= 0:
        raise InputError(f"--chunk_ms must be positive, got {arguments.chunk_ms:g}")
    for file in arguments.files:
        if file != "-" and not Path(file).is_file():
            raise FileNotFoundError(f"no file {file}")
    config: Any = config_of(arguments.model, arguments.revision)
    if arguments.stream and config.bidirectional:
        raise InputError(
            f"--stream needs a model that hears in one direction, and {arguments.model} hears a recording in both: "
            "leave it out"
        )


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.tasks.automatic_speech_recognition import load_recognizer

    check(arguments)
    disable_progress_bar()
    model, tokenizer, extractor = load_recognizer(arguments.model, arguments.revision, arguments.device)
    model.eval()
    length = max(1, round(arguments.chunk_ms / 1000 * extractor.sampling_rate))
    for file in arguments.files:
        if arguments.stream:
            stream = model.stream(extractor, tokenizer)
            for piece in pieces(file, extractor.sampling_rate, length):
                print(stream.push(piece), end="", flush=True)
            print(stream.finish(), flush=True)
        else:
            print(whole_text(model, tokenizer, extractor, file))
    return 0


def whole_text(model: Any, tokenizer: Any, extractor: Any, file: str) -> str:
    """What is said in a recording, read at once."""
    import numpy as np

    from rnn_hf.tasks.speech_rows import features_of, run_batches

    samples = np.concatenate(list(pieces(file, extractor.sampling_rate, None)) or [np.zeros(0, "float32")])
    ((_, logits),) = run_batches(model, [features_of(samples, extractor)], 1)
    return tokenizer.decode(logits.argmax(dim=-1))


def pieces(file: str, sampling_rate: int, length: int | None) -> Iterator[Any]:
    """The samples of a recording in pieces of a length, as they come; `None` gives one piece."""
    import numpy as np

    from rnn_hf.data.audio import decode_audio

    if file == "-":
        size = -1 if length is None else 2 * length
        while content := sys.stdin.buffer.read(size):
            yield np.frombuffer(content[: len(content) // 2 * 2], "<i2").astype("float32") / 32768
        return
    samples, _ = decode_audio(Path(file).read_bytes(), file, sampling_rate)
    step = length or len(samples)
    for start in range(0, len(samples), step):
        yield samples[start : start + step]
