"""The table of formats, and what all of them share. A new one is a file and a line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rnn_hf.conversion.encoder_decoder import EncoderDecoder
from rnn_hf.conversion.reading import Checkpoint
from rnn_hf.conversion.source import Source


@dataclass(frozen=True)
class Choices:
    """What a file does not say, and its owner does.

    Attributes:
        hidden_act: Activation of Elman layers.
        recurrent_activation: How gates of Keras are computed, where its file does not say it.
        forget_bias: What TensorFlow 1 adds to the forget gates of an LSTM when it runs.
        embedding, head: Names of the embedding and of the layer to the vocabulary.
        backbone: Whether to leave out all but embedding and recurrent layers.
        reads_backward: Whether the network was given texts from their end.
        vocab, target_vocab: Of a network that writes what it does not read, the files of what is read and written.
        source_length: How many tokens such a network reads, those of padding among them.
    """

    hidden_act: str | None = None
    recurrent_activation: str | None = None
    forget_bias: float | None = None
    embedding: str | None = None
    head: str | None = None
    backbone: bool = False
    reads_backward: bool = False
    vocab: str | Path | None = None
    target_vocab: str | Path | None = None
    source_length: int | None = None


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: By which it is asked for.
        title: What it is, in the words of a card.
        credit: Whom to cite.
        matches: Whether a file is of that kind, by what it holds.
        read: The network in it. Raises InputError where it cannot be expressed here.
    """

    name: str
    title: str
    credit: str
    matches: Callable[[Checkpoint], bool]
    read: Callable[[Checkpoint, Choices], Source | EncoderDecoder]
