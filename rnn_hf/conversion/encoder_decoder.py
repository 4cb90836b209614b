"""A network that reads a text and writes another one, without attention, as its source has it and as it is here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rnn_hf.conversion.arithmetic import Array, double, run_layer, run_linear
from rnn_hf.conversion.source import Layer, Linear, Tensor, is_same
from rnn_hf.conversion.two_vocabularies import TwoVocabularies
from rnn_hf.errors import InputError
from rnn_hf.models import RNNSeq2SeqConfig


LONGEST = 128  # tokens that are written, where the source says nothing


@dataclass
class EncoderDecoder:
    """An encoder of one direction, whose last state is the first one of the decoder (Sutskever et al., 2014).

    Attributes:
        encoder, decoder: Layers, first layer first.
        read, written: Embeddings `(V, E)` of the two sides, in the source's order of ids.
        head: From the decoder to what is written.
        vocabulary: Of both sides; `None` where nobody said.
        longest: Most tokens that are written, with the one that starts them.
        dropped: What the file has besides, in words.
        inexact: What cannot be expressed here, in words.
        notes: What a reader of the card should know.
    """

    encoder: list[Layer]
    decoder: list[Layer]
    read: Tensor
    written: Tensor
    head: Linear
    vocabulary: TwoVocabularies | None = None
    longest: int = LONGEST
    dropped: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    architecture = "RNNForConditionalGeneration"

    @property
    def source_ids(self) -> list[int]:
        """Of each id that the source reads, the id here."""
        return list(range(len(self.read))) if self.vocabulary is None else self.vocabulary.source_ids

    @property
    def is_tied(self) -> bool:
        """Whether the matrix of `head` is the embedding of what is written."""
        return is_same(self.head.weight, self.written)

    @property
    def is_shared(self) -> bool:
        """Whether both sides have one embedding, and one vocabulary."""
        return is_same(self.read, self.written) and self.source_ids == list(range(len(self.read)))

    @property
    def tied(self) -> set[str]:
        """Names of weights here that are others."""
        names = {"lm_head.weight": self.is_tied, "model.decoder.embed_tokens.weight": self.is_shared}
        return {name for name, is_other in names.items() if is_other}

    def config(self) -> RNNSeq2SeqConfig:
        """What shapes the network here.

        Raises:
            InputError: This package has no such network; the message says why.
        """
        layers = [*self.encoder, *self.decoder]
        if len({(layer.cell, layer.activation) for layer in layers}) > 1:
            raise InputError("its layers are of different cells, and here all are of one")
        if any(layer.projection is not None for layer in layers):
            raise InputError("its layers have projections, and those of an encoder and a decoder here have none")
        if len(self.encoder) != len(self.decoder):
            raise InputError(
                f"its encoder has {len(self.encoder)} layers and its decoder {len(self.decoder)}: how the state of "
                "the one becomes that of the other is not in the file"
            )
        if len(widths := sorted({layer.size for layer in layers})) > 1:
            raise InputError(f"its layers have the widths {widths}, and here those of both sides have one")
        if self.read.shape[1] != self.written.shape[1]:
            raise InputError(
                f"its embeddings are {self.read.shape[1]} and {self.written.shape[1]} wide, and here both are as wide"
            )
        vocabulary = self.vocabulary
        return RNNSeq2SeqConfig(
            vocab_size=len(self.read) if vocabulary is None else len(vocabulary.tokens),
            decoder_vocab_size=None if self.is_shared else len(self.written),
            embedding_size=self.read.shape[1],
            hidden_size=widths[0],
            num_encoder_layers=len(self.encoder),
            num_decoder_layers=len(self.decoder),
            cell_type=layers[0].cell,  # type: ignore[arg-type]
            hidden_act=layers[0].activation,  # type: ignore[arg-type]
            bidirectional_encoder=False,
            attention=None,
            bridge="identity",
            tie_word_embeddings=self.is_tied,
            share_embeddings=self.is_shared,
            pad_token_id=None if vocabulary is None else vocabulary.ids[vocabulary.pad],
            bos_token_id=None if vocabulary is None else vocabulary.ids[vocabulary.start],
            eos_token_id=None if vocabulary is None else vocabulary.ids[vocabulary.end],
        )

    def weights(self) -> Mapping[str, Tensor]:
        """The weights of the network here, by name. A token that is only written is embedded as an unknown one, if
        there is such a token, and else by zeros."""
        read = self.read
        if self.vocabulary is not None:
            unknown = self.vocabulary.unknown
            default = torch.zeros_like(read[0]) if unknown is None else read[self.vocabulary.read.index(unknown)]
            read = default.repeat(len(self.vocabulary.tokens), 1)
            read[self.source_ids] = self.read
        named = {"model.encoder.embed_tokens.weight": read, "model.decoder.embed_tokens.weight": self.written}
        for side, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for index, layer in enumerate(layers):
                here = f"model.{side}.layers.{index}.rnn"
                named |= {f"{here}.{name}": value for name, value in layer.weights().items()}
        return named | self.head.weights("lm_head")

    def tokenizer(self) -> PreTrainedTokenizerFast | None:
        """Of both sides, with the ids here; `None` without a vocabulary."""
        return None if self.vocabulary is None else self.vocabulary.tokenizer()

    def sample(self, generator: np.random.Generator, rows: int, steps: int) -> tuple[Array, Array]:
        """Ids of sources and of targets, each `(rows, steps)`, as the source counts them."""
        read, written = (generator.integers(len(side), size=(rows, steps)) for side in (self.read, self.written))
        return read, written

    def expected(self, inputs: tuple[Array, Array]) -> Array:
        """What the source's arithmetic says in float64, `(rows, steps, V)`."""
        return np.stack([self.logits(*row) for row in zip(*inputs, strict=True)])

    def logits(self, read: Array, written: Array) -> Array:
        """The source's arithmetic for one row: `(T, V)` of ids `(S,)` that are read and `(T,)` that are written."""
        outputs, states = double(self.read)[read], []
        for layer in self.encoder:
            outputs, state = run_layer(layer, outputs)
            states.append(state)
        outputs = double(self.written)[written]
        for layer, state in zip(self.decoder, states, strict=True):
            outputs, _ = run_layer(layer, outputs, state)
        return run_linear(self.head, outputs)

    @torch.no_grad()
    def run(self, model: Any, inputs: tuple[Array, Array]) -> Array:
        """The same of the model here, in float64. Every id is real, that of padding too."""
        read = torch.tensor(self.source_ids)[torch.from_numpy(inputs[0])]
        mask = torch.ones_like(read)
        outputs = model(input_ids=read, attention_mask=mask, decoder_input_ids=torch.from_numpy(inputs[1]))
        return outputs.logits.double().numpy()
