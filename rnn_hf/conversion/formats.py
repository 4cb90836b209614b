"""The table of formats, and what all of them share. A new one is a file and a line."""

from collections.abc import Callable
from dataclasses import dataclass

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
    """

    hidden_act: str | None = None
    recurrent_activation: str | None = None
    forget_bias: float | None = None
    embedding: str | None = None
    head: str | None = None
    backbone: bool = False
    reads_backward: bool = False


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
    read: Callable[[Checkpoint, Choices], Source]
