"""flair's language models over characters (Akbik et al., 2018), which read forward or backward."""

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.pickles import Inert
from rnn_hf.conversion.reading import Checkpoint, tensors_of
from rnn_hf.conversion.source import Linear, Source
from rnn_hf.conversion.torch_layers import take_layers
from rnn_hf.conversion.vocabulary import Vocabulary
from rnn_hf.errors import InputError


WANTS = Vocabulary(kind="char", ends=("\n",), unknowns=("<unk>",))


def matches(checkpoint: Checkpoint) -> bool:
    content = checkpoint.content
    return isinstance(content, dict) and {"state_dict", "dictionary", "is_forward_lm"} <= content.keys()


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    content = checkpoint.content
    left = tensors_of(content["state_dict"])
    layers, reverse = take_layers(left, None)
    if reverse is not None:
        raise InputError("its layers have two directions")
    source = Source(layers, embedding=left.pop("encoder.weight"), wants=WANTS)
    source.reads_backward = not content["is_forward_lm"]
    source.vocabulary = Vocabulary(characters_of(content["dictionary"]), WANTS.kind, WANTS.ends, WANTS.unknowns)
    if "decoder.weight" in left and not choices.backbone:
        source.head = Linear(left.pop("decoder.weight"), left.pop("decoder.bias"))
        if "proj.weight" in left:
            source.projection = Linear(left.pop("proj.weight"), left.pop("proj.bias", None))
    if left and not choices.backbone:
        raise InputError(f"it has tensors that are not known: {', '.join(left)}; `backbone=True` leaves them out")
    source.dropped += [f"`{name}`" for name in left]
    if source.reads_backward:
        source.notes.append(
            "It reads texts from their end (`reads_backward`): it scores and classifies, and does not write."
        )
    return source


def characters_of(dictionary: object) -> list[str]:
    """The characters of a pickled `flair.data.Dictionary` by their ids; they are kept as UTF-8 in bytes.

    Raises:
        InputError: They are not there, or not those of ids from 0 on.
    """
    attributes = dictionary.attributes if isinstance(dictionary, Inert) else {}
    ids = attributes.get("item2idx")
    if not isinstance(ids, dict) or sorted(ids.values(), key=str) != sorted(range(len(ids)), key=str):
        raise InputError("its dictionary has no characters with ids from 0 on")
    by_id = {index: item for item, index in ids.items()}
    items = [by_id[index] for index in range(len(ids))]
    try:
        return [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in items]
    except UnicodeDecodeError as error:
        raise InputError(f"its dictionary has an item that is not UTF-8: {error}") from error


FORMAT = Format(
    "flair", "a character language model of flair",
    "Akbik, Blythe and Vollgraf (2018), and flairNLP/flair (MIT)", matches, read,
)  # fmt: skip
