"""A network as its source has it, and the same under the names and in the order of gates of this package."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rnn_hf.conversion.vocabulary import Vocabulary
from rnn_hf.errors import InputError
from rnn_hf.models import RNNConfig


Tensor = torch.Tensor
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}  # torch's order, from the first row of a matrix to the last


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors were one, or are equal."""
    return one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other))


@dataclass
class Layer:
    """A recurrent layer in one direction. G is the number of gates, H the width, P that of a projection.

    Attributes:
        cell: `lstm`, `gru` or `rnn`.
        of_input, of_state: `(G H, input)` and `(G H, H or P)`.
        bias, state_bias: `(G H,)`, added to the two products; `None` for none.
        gates: Letters of the gates in the order of the source: `i f g o`, `r z n` or `h` in some order.
        projection: `(P, H)`, of an LSTM's output; `None` for none.
        activation: Of an Elman cell: `tanh`, `relu` or `sigmoid`.
        gate_activation: `sigmoid`, `hard_sigmoid` (Keras 1 and 2) or `hard_sigmoid_6` (Keras 3).
        forget_bias: What the source adds to the forget gate when it runs.
        resets_after: Whether a GRU resets the state after the product with its matrix.
    """

    cell: str
    of_input: Tensor
    of_state: Tensor
    bias: Tensor | None = None
    state_bias: Tensor | None = None
    gates: str = ""
    projection: Tensor | None = None
    activation: str | None = None
    gate_activation: str = "sigmoid"
    forget_bias: float = 0.0
    resets_after: bool = True

    def __post_init__(self) -> None:
        self.gates = self.gates or GATES[self.cell]

    @property
    def size(self) -> int:
        """H."""
        return len(self.of_input) // len(self.gates)

    @property
    def output_size(self) -> int:
        """Width of what the layer gives."""
        return self.size if self.projection is None else len(self.projection)

    def weights(self) -> dict[str, Tensor]:
        """What the module of torch holds; biases that the source lacks are zero."""
        given = {
            "weight_ih_l0": self.of_input, "weight_hh_l0": self.of_state, "bias_ih_l0": self.bias,
            "bias_hh_l0": self.state_bias,
        }  # fmt: skip
        zeros = torch.zeros(len(self.of_input), dtype=self.of_input.dtype)
        made = {name: self._in_order(zeros if value is None else value) for name, value in given.items()}
        if self.forget_bias:
            # To the bias that is zero, where there is one, so that nothing is rounded.
            name = "bias_hh_l0" if self.state_bias is None else "bias_ih_l0"
            made[name][self.size : 2 * self.size] += self.forget_bias
        return made if self.projection is None else made | {"weight_hr_l0": self.projection}

    def _in_order(self, matrix: Tensor) -> Tensor:
        blocks = dict(zip(self.gates, matrix.split(self.size), strict=True))
        return torch.cat([blocks[gate] for gate in GATES[self.cell]])


@dataclass
class Linear:
    """`weight` `(outputs, inputs)` and `bias` `(outputs,)` or `None`."""

    weight: Tensor
    bias: Tensor | None = None

    def weights(self, name: str) -> dict[str, Tensor]:
        """As a module of torch with that name."""
        bias = torch.zeros(len(self.weight), dtype=self.weight.dtype) if self.bias is None else self.bias
        return {f"{name}.weight": self.weight, f"{name}.bias": bias}


@dataclass
class Source:
    """A network that reads tokens, or features, as its source has it.

    Attributes:
        layers: First layer first.
        reverse: The same of the second direction; `None` for one direction.
        embedding: `(V, E)`; `None` for a network over features.
        head: To the vocabulary; `None` for a network without.
        is_tied: Whether the matrix of `head` is the embedding.
        projection: Between the last layer and `head`.
        latent, prior: Of a mixture of softmaxes; `prior` `(K, H)`.
        reads_backward: Whether the network reads texts from their end.
        vocabulary: If it is in the file.
        wants: How its texts became tokens, for a vocabulary from another file.
        needs_vocabulary: Whether ids mean nothing to a stranger without one.
        dropped: What the file has besides, in words.
        inexact: What cannot be expressed here, in words.
        notes: What a reader of the card should know.
    """

    layers: list[Layer]
    reverse: list[Layer] | None = None
    embedding: Tensor | None = None
    head: Linear | None = None
    is_tied: bool = False
    projection: Linear | None = None
    latent: Linear | None = None
    prior: Tensor | None = None
    reads_backward: bool = False
    vocabulary: Vocabulary | None = None
    wants: Vocabulary = field(default_factory=Vocabulary)
    needs_vocabulary: bool = False
    dropped: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        """The class here: `RNNForCausalLM`, or `RNNModel` without a head."""
        return "RNNModel" if self.head is None else "RNNForCausalLM"

    @property
    def tied(self) -> set[str]:
        """Names of weights here that are others."""
        return {"lm_head.weight"} if self.is_tied else set()

    def config(self) -> RNNConfig:
        """What shapes the network here.

        Raises:
            InputError: This package has no such network; the message says why.
        """
        first, widths = self.layers[0], [layer.size for layer in self.layers]
        if len({(layer.cell, layer.activation) for layer in self.layers}) > 1:
            raise InputError("its layers are of different cells, and here all are of one")
        if len(set(widths[:-1])) > 1:
            raise InputError(f"its layers have the widths {widths}, and here only the last may have another one")
        projections = {0 if layer.projection is None else len(layer.projection) for layer in self.layers}
        if len(projections) > 1:
            raise InputError(f"its layers have projections of the widths {sorted(projections)}, and here all have one")
        input_size, has_head = first.of_input.shape[1], self.head is not None
        cell: dict[str, Any] = {"cell_type": first.cell, "hidden_act": first.activation}
        vocabulary: dict[str, Any] = {} if self.embedding is None else {"vocab_size": len(self.embedding)}
        default = input_size if has_head and self.is_tied and self.prior is None else widths[0]
        return RNNConfig(
            **vocabulary,
            input_size=input_size if self.embedding is None else None,
            embedding_size=input_size,
            hidden_size=widths[0],
            num_hidden_layers=len(self.layers),
            **cell,
            projection_size=projections.pop(),
            last_hidden_size=None if widths[-1] == default or first.projection is not None else widths[-1],
            output_projection_size=None if self.projection is None else len(self.projection.weight),
            num_softmaxes=1 if self.prior is None else len(self.prior),
            tie_word_embeddings=has_head and self.is_tied,
            bidirectional=self.reverse is not None,
            reads_backward=self.reads_backward,
        )

    def weights(self) -> Mapping[str, Tensor]:
        """The weights of the network here, by name; a tied matrix is there once."""
        body: dict[str, Tensor] = {}
        if self.embedding is not None:
            body["embed_tokens.weight"] = self.embedding
        else:  # what reads features is a linear layer, and this one leaves them as they are
            width, dtype = self.layers[0].of_input.shape[1], self.layers[0].of_input.dtype
            body |= Linear(torch.eye(width, dtype=dtype)).weights("input_projection")
        for direction, layers in (("rnn", self.layers), ("reverse", self.reverse or [])):
            for index, layer in enumerate(layers):
                body |= {f"layers.{index}.{direction}.{name}": value for name, value in layer.weights().items()}
        if self.head is None:
            return body
        named = {f"model.{name}": value for name, value in body.items()} | self.head.weights("lm_head")
        if self.projection is not None:
            named |= self.projection.weights("output_projection")
        if self.latent is not None and self.prior is not None:
            named |= self.latent.weights("mixture.latent") | {"mixture.prior.weight": self.prior}
        return named
