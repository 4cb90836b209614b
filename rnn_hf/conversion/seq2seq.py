"""A state dict of an encoder and a decoder without attention, as tutorials write them."""

import re
from pathlib import Path
from typing import Any

import torch

from rnn_hf.conversion.encoder_decoder import EncoderDecoder
from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.pickles import Inert, StoredTensor
from rnn_hf.conversion.reading import Checkpoint, tensors_of
from rnn_hf.conversion.source import Layer
from rnn_hf.conversion.state_dict import take_embedding, take_head
from rnn_hf.conversion.torch_layers import activation_of, take_layers, unwrap, without_prefix
from rnn_hf.conversion.two_vocabularies import ENDS, FILLER, TwoVocabularies, first
from rnn_hf.conversion.vocabulary import Vocabulary, read_vocabulary
from rnn_hf.errors import InputError


Tensor = torch.Tensor
# Names of the two sides, of modules or of what is in them.
OF_ENCODER = re.compile(r"(enc|encoder|src|source)[._].+")
OF_DECODER = re.compile(r"(dec|decoder)[._].+")
SIDES = ("encoder", "decoder", "enc", "dec")  # a state dict each
UNSEEN = (
    "What stands between the modules is not in a state dict. Here embeddings go into the layers as they are, the last "
    "state of each layer of the encoder is the first one of that layer of the decoder, and a linear layer is the last."
)


def tensors_in(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by name, those of the sides behind `encoder.` and `decoder.`, and the names of what else was saved."""
    if checkpoint.container not in ("torch", "safetensors", "npz"):
        return {}, []
    content, others = unwrap(checkpoint.content)
    if isinstance(content, dict) and sum(isinstance(content.get(side), dict | Inert) for side in SIDES) > 1:
        of_training = [key for key, value in content.items() if is_of_training(str(key), value)]
        others += map(str, of_training)
        content = {key: value for key, value in content.items() if key not in of_training}
    return without_prefix(tensors_of(content), "module.", "model."), others


def is_of_training(name: str, value: Any) -> bool:
    """Whether what a script saved with the state dicts of modules is an optimizer, a schedule or a number."""
    is_weights = isinstance(value, dict | Inert | StoredTensor | torch.Tensor)
    return not is_weights or re.search("opt|sched|scaler", name) is not None


def halves_of(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the encoder, and all others."""
    encoder = {name: tensor for name, tensor in tensors.items() if OF_ENCODER.fullmatch(name)}
    return encoder, {name: tensor for name, tensor in tensors.items() if name not in encoder}


def matches(checkpoint: Checkpoint) -> bool:
    tensors, _ = tensors_in(checkpoint)
    recurrent = [name for name in tensors if "weight_hh" in name]
    return all(any(side.fullmatch(name) for name in recurrent) for side in (OF_ENCODER, OF_DECODER))


def read(checkpoint: Checkpoint, choices: Choices) -> EncoderDecoder:
    tensors, others = tensors_in(checkpoint)
    source = source_of(tensors, choices, activation_of(unwrap(checkpoint.content)[0]))
    source.vocabulary = vocabulary_of(source, choices)
    source.dropped = [f"`{name}`, saved with the weights" for name in others]
    source.notes += [UNSEEN, *notes_of(source.vocabulary)]
    return source


def source_of(tensors: dict[str, Tensor], choices: Choices, activation: str | None = None) -> EncoderDecoder:
    """The network of tensors that torch's modules named, without its vocabulary.

    Args:
        tensors: By name.
        choices: Of their owner.
        activation: Of Elman layers, if the file says it.

    Raises:
        InputError: It has attention or something else that is not known from tensors, or one of them is left over.
    """
    for name in ("backbone", "reads_backward"):
        if getattr(choices, name):
            raise InputError(f"`{name}` is not for an encoder and a decoder, converted whole and read forward")
    if attention := [name for name in tensors if re.search("att(entio)?n", name, re.IGNORECASE)]:
        raise InputError(
            f"it has attention ({', '.join(attention)}), and a state dict does not say what is computed with it"
        )
    activation = choices.hidden_act or activation
    encoder, decoder = halves_of(tensors)
    read_by, read = take_half(encoder, "encoder", Choices(), activation)
    written_by, written = take_half(decoder, "decoder", choices, activation)
    head = take_head(decoder, len(written), written_by[-1].output_size, choices)
    if head is None:
        raise InputError(
            f"its decoder has no linear layer from {written_by[-1].output_size} numbers to {len(written)} tokens"
        )
    if left := encoder | decoder:
        raise InputError(
            "it has tensors that are no part of two embeddings, recurrent layers on both sides and one linear layer: "
            f"{', '.join(f'{name} {list(tensor.shape)}' for name, tensor in left.items())}"
        )
    return EncoderDecoder(read_by, written_by, read, written, head)


def take_half(
    left: dict[str, Tensor], side: str, choices: Choices, activation: str | None
) -> tuple[list[Layer], Tensor]:
    """Layers and embedding of one side, taken out of its tensors.

    Raises:
        InputError: It has layers of two directions, or reads something that is no embedding.
    """
    layers, reverse = take_layers(left, activation)
    if reverse is not None:
        raise InputError(
            f"its {side} has two directions: how their states become that of a decoder is not in a state dict"
        )
    width = layers[0].of_input.shape[1]
    embedding = take_embedding(left, width, layers[-1].output_size, choices)
    if embedding is None:
        raise InputError(
            f"its {side} reads {width} numbers a step, and none of its embeddings is as wide: what else it is fed, "
            "such as what attention found, is not in a state dict"
        )
    return layers, embedding


def vocabulary_of(source: EncoderDecoder, choices: Choices) -> TwoVocabularies | None:
    """What the ids of both sides stand for, by the files that their owner has; `None` without one.

    Raises:
        FileNotFoundError: There is no file.
        InputError: Only one side is known, or a list has another length than its side.
    """
    if choices.vocab is None:
        for name in ("target_vocab", "source_length"):
            if getattr(choices, name) is not None:
                raise InputError(f"`{name}` goes with `vocab`, the tokens that are read")
        return None
    files = {"vocab": choices.vocab, "target_vocab": choices.target_vocab or choices.vocab}
    lists = {name: read_vocabulary(Path(path), Vocabulary()).tokens for name, path in files.items()}
    for (name, tokens), side in zip(lists.items(), (source.read, source.written), strict=True):
        if len(tokens) != len(side):
            what = "reads" if name == "vocab" else "writes"
            raise InputError(f"`{name}` has {len(tokens)} tokens, and the network {what} {len(side)}")
    return TwoVocabularies(lists["vocab"], lists["target_vocab"], length=choices.source_length)


def notes_of(vocabulary: TwoVocabularies | None) -> list[str]:
    """What a card says of the ids."""
    if vocabulary is None:
        return [
            "Ids are those of the source, and which of them start, end and pad a text is not in the file: `generate` "
            "needs `decoder_start_token_id` and `eos_token_id`, and an `attention_mask` where texts are padded."
        ]
    default = "are zero. There is no token for unknown ones, which are an error"
    if vocabulary.unknown is not None:
        default = f"are that of `{vocabulary.unknown}`, as of unknown ones"
    form, length = " ".join(vocabulary.form).replace("$A", "text"), vocabulary.length
    read_as = f"A text is read as `{form}`."
    if length is not None:
        read_as = (
            f"The source reads texts with their padding, {length} tokens in all. So does this model: the tokenizer "
            f"makes `{form} {first(ENDS, vocabulary.read)}` of a text, with as many `{FILLER}` behind it, and cuts "
            "longer ones."
        )
    return [
        "One table has the tokens of both sides: first those that are written, with the ids of the source, then those "
        f"that are read only. The rows of the encoder's embedding for tokens that are written only {default}.",
        f"{read_as} The tokenizer makes ids of what is read and texts of what is written, and not the reverse.",
    ]


FORMAT = Format(
    "seq2seq", "a state dict of an encoder and a decoder", "the authors of the file", matches, read,
)  # fmt: skip
