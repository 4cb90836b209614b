"""ULMFiT's language models (Howard and Ruder, 2018) as fastai 0.7, 1 and 2 saved them, whole or the encoder alone."""

import torch

from rnn_hf.conversion.awd_lstm import undropped
from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint, tensors_of
from rnn_hf.conversion.source import Linear, Source
from rnn_hf.conversion.state_dict import is_same
from rnn_hf.conversion.torch_layers import take_layers, unwrap
from rnn_hf.conversion.vocabulary import ENDS, UNKNOWNS, Vocabulary
from rnn_hf.errors import InputError


Tensor = torch.Tensor
COPIES = ("encoder_with_dropout.embed.weight", "encoder_dp.emb.weight")  # fastai 0.7; 1 and 2
# A text begins with the token of its begin, which so stands between two texts.
WANTS = Vocabulary(ends=("xxbos", "xbos", *ENDS), unknowns=("xxunk", "_unk_", *UNKNOWNS))


def matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.container != "torch":
        return False
    content, _ = unwrap(checkpoint.content)
    names = {name.removeprefix("0.") for name in tensors_of(content)}
    return "encoder.weight" in names and any(name in names for name in COPIES)


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    content, others = unwrap(checkpoint.content)
    left = {name.removeprefix("0."): tensor for name, tensor in tensors_of(content).items()}
    if any(".linear." in name and name.startswith("rnns.") for name in left):
        raise InputError("its layers are quasi-recurrent (QRNN), and here they are LSTM, GRU and Elman")
    embedding = left.pop("encoder.weight")
    for name in COPIES:
        if name in left and not is_same(left.pop(name), embedding):
            raise InputError(f"{name} is not equal to encoder.weight, whose copy it should be")
    dropped = [f"`{name}`, saved with the weights" for name in others] + undropped(left)
    layers, reverse = take_layers({name: left.pop(name) for name in list(left) if name.startswith("rnns.")}, None)
    source = Source(layers, reverse, embedding, dropped=dropped, wants=WANTS)
    if "1.decoder.weight" in left and not choices.backbone:
        source.head = Linear(left.pop("1.decoder.weight"), left.pop("1.decoder.bias", None))
        source.is_tied = is_same(source.head.weight, embedding)
    if left and not choices.backbone:
        raise InputError(
            f"it has tensors that are no part of a language model: {', '.join(left)}; `backbone=True` leaves them out"
        )
    source.dropped += [f"`{name}`" for name in left]
    source.needs_vocabulary = source.head is not None
    source.notes += [
        "Texts must be tokenised as fastai does (spaCy's words, xxmaj, xxup, xxrep and the like): the tokenizer here "
        "splits at spaces and knows the words.",
    ]
    return source


FORMAT = Format(
    "fastai", "a language model of fastai (ULMFiT)",
    "Howard and Ruder (2018), and fastai (Apache-2.0)", matches, read,
)  # fmt: skip
