"""The configuration of a recurrent network: every number that shapes a checkpoint."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


DROPOUTS = (
    "embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "softmax_dropout", "recurrent_dropout",
    "classifier_dropout",
)  # fmt: skip
# Where those without this package find the classes.
AUTO_MAP = {
    "AutoConfig": "configuration_rnn.RNNConfig",
    "AutoModel": "modeling_rnn.RNNModel",
    "AutoModelForCausalLM": "modeling_rnn.RNNForCausalLM",
    "AutoModelForSequenceClassification": "modeling_rnn.RNNForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_rnn.RNNForTokenClassification",
}
CHARACTER_SIZES = (
    "character_embedding_size", "character_hidden_size", "num_characters", "num_spelled_characters", "num_word_rows",
)  # fmt: skip
MOST_CHARACTERS = 2**15  # their ids are stored in 16 bits


@strict
class RNNConfig(PreTrainedConfig):
    r"""Configuration of [`RNNModel`] and the models built on it.

    Args:
        vocab_size: Number of token types, at least 1.
        input_size: Width of the features that the network reads at each step; `None` for tokens. A linear layer from
            there to `embedding_size` takes the place of the embedding: there are no `input_ids`, no language model and
            no classifier of texts, and nothing is tied.
        embedding_size: Width of the token embeddings; `None` means `hidden_size`.
        hidden_size: Width of the recurrent state of each layer. With `tie_word_embeddings` the last layer is
            `embedding_size` wide instead, as in AWD-LSTM (Merity et al., 2018, section 4.5), if the output matrix is
            applied to it.
        num_hidden_layers: Number of recurrent layers, at least 1.
        cell_type: `"lstm"` (Hochreiter and Schmidhuber, 1997, with forget gates of Gers et al., 2000), `"gru"`
            (Cho et al., 2014, in the variant of cuDNN that resets after the matrix product) or `"rnn"` (Elman, 1990).
        hidden_act: Activation of an Elman cell: `"tanh"` (default), `"relu"` or `"sigmoid"`. Must stay `None`
            for LSTM and GRU, whose activations are part of the cell.
        character_embedding_size: Width of the embeddings of characters in a network that puts words together from
            pieces and also reads their characters ([`WordEncoder`]); 0 for a network over tokens as they come. Such a
            network has no state to go on from, no language model, and nothing is tied.
        character_hidden_size: Width of each direction of the layer that reads the characters of a word.
        num_characters, num_spelled_characters, num_word_rows: What the vocabulary has: kinds of characters, characters
            in all, rows of the word embedding. With `vocab_size` they are `Spelling.of(tokenizer).sizes`.
        max_word_characters: Of a longer word the middle is not read.
        projection_size: Width to which an LSTM projects its output and fed-back state (Sak et al., 2014);
            0 for none.
        last_hidden_size: Width of the last layer; `None` means `embedding_size` with `tie_word_embeddings`, one
            softmax and no output projection, else `hidden_size`.
        output_projection_size: Width to which a linear layer projects the output of the last layer, before the output
            matrix (Melis et al., 2018); `None` for none. With `tie_word_embeddings` it must be `embedding_size`.
        num_softmaxes: Number of softmaxes whose weighted mean is the prediction (mixture of softmaxes, Yang et al.,
            2018); 1 for the plain head. Logits are then log-probabilities.
        tie_word_embeddings: Use the embedding matrix as the output matrix (Press and Wolf, 2017; Inan et al., 2017).
        bidirectional: Whether each layer also reads the text from its end (Schuster and Paliwal, 1997). Layers and
            heads see the outputs of both directions side by side. There is no state to go on from (`use_cache` is
            off), no language model, and nothing is tied.
        reads_backward: Whether the network reads texts from their end, as one of the two whose predictions Howard and
            Ruder (2018) average. A classifier takes and gives them in their own order all the same. A language model
            is one of reversed text: its `input_ids` have the last token first. Not with `bidirectional` or characters.
        embedding_dropout: Probability of dropping a word type everywhere in a batch (Gal and Ghahramani, 2016).
        input_dropout: Probability of dropping a unit of the embedded input; one mask for all time steps.
        hidden_dropout: The same, between recurrent layers.
        output_dropout: The same, on the output of the last layer.
        softmax_dropout: The same, on what each softmax of a mixture sees.
        recurrent_dropout: Probability of dropping a hidden-to-hidden weight (DropConnect; Merity et al., 2018).
        rare_word_dropout: With characters, the row of a word that occurs n times in training is also dropped with
            probability `rare_word_dropout / (rare_word_dropout + n)`, each time (Kiperwasser and Goldberg, 2016).
        classifier_dropout: Probability of dropping a unit of what the linear layer of a classifier sees.
        pooling: What a classifier of whole texts sees of the outputs at real tokens: `"last"` (of a bidirectional
            network, where each direction ends), `"mean"`, `"max"`, or `"concat"` for last, max and mean side by side
            (Howard and Ruder, 2018).
        initializer_range: Embeddings and output matrix start uniform in `[-initializer_range, initializer_range]`.
        use_cache: Whether the model returns its recurrent state.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A value is of the wrong type or outside its range, or does not
            fit another one; the message names the field.

    Example:

    >>> from rnn_hf import RNNConfig
    >>> config = RNNConfig(vocab_size=10_000, embedding_size=400, hidden_size=1150, num_hidden_layers=3)
    >>> config.layer_sizes  # (input, hidden) of each layer: tied, so the last is as wide as the embedding
    [(400, 1150), (1150, 1150), (1150, 400)]
    """

    model_type = "rnn_hf"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    _auto_map = AUTO_MAP

    vocab_size: int = 10_000
    input_size: int | None = None
    embedding_size: int | None = None
    hidden_size: int = 256
    num_hidden_layers: int = 2
    cell_type: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden_act: Literal["tanh", "relu", "sigmoid"] | None = None
    character_embedding_size: int = 0
    character_hidden_size: int = 0
    num_characters: int = 0
    num_spelled_characters: int = 0
    num_word_rows: int = 0
    max_word_characters: int = 32
    projection_size: int = 0
    last_hidden_size: int | None = None
    output_projection_size: int | None = None
    num_softmaxes: int = 1
    tie_word_embeddings: bool = True
    bidirectional: bool = False
    reads_backward: bool = False
    embedding_dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    output_dropout: float | int = 0.0
    softmax_dropout: float | int = 0.0
    recurrent_dropout: float | int = 0.0
    rare_word_dropout: float | int = 0.0
    classifier_dropout: float | int = 0.0
    pooling: Literal["last", "mean", "max", "concat"] = "last"
    initializer_range: float | int = 0.1
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.cell_type == "rnn" and self.hidden_act is None:
            self.hidden_act = "tanh"
        if not self.has_state:
            self.use_cache = False
        super().__post_init__(**kwargs)
        # Saving writes only the entry of the class that is saved, and each Auto class needs its own. What an older
        # release saved gets those that it lacks; an empty map says that there is no code.
        auto_map = getattr(self, "auto_map", None)
        if auto_map is None or auto_map:
            self.auto_map = self._auto_map | (auto_map or {})

    def validate_rnn(self) -> None:
        """Part of the `@strict` validation: ranges, and fields that must fit each other."""
        sizes = (
            "vocab_size",
            "input_size",
            "hidden_size",
            "embedding_size",
            "last_hidden_size",
            "output_projection_size",
            "num_hidden_layers",
            "num_softmaxes",
        )
        for name in sizes:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in DROPOUTS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a probability in [0, 1), got {getattr(self, name)}")
        if not 0 < self.initializer_range < float("inf"):
            raise ValueError(f"`initializer_range` must be positive and finite, got {self.initializer_range}")
        if self.cell_type != "rnn" and self.hidden_act is not None:
            raise ValueError(
                f"`hidden_act` is for cell_type='rnn' only, got {self.hidden_act!r} with cell_type={self.cell_type!r}"
            )
        for name in ("bidirectional", "character_embedding_size"):
            if self.reads_backward and getattr(self, name):
                raise ValueError(f"`reads_backward` does not go with `{name}`: such a network reads whole texts")
        for name in ("embedding_dropout", "character_embedding_size", "reads_backward"):
            if self.input_size is not None and getattr(self, name):
                raise ValueError(f"`{name}` does not go with `input_size`: it is for networks that read tokens")
        self._validate_characters()
        self._validate_last_layer()
        self._validate_projection()
        self._validate_output_projection()

    def _validate_characters(self) -> None:
        for name in CHARACTER_SIZES:
            if (getattr(self, name) < 1) if self.character_embedding_size else getattr(self, name):
                raise ValueError(
                    f"the fields of a network that reads characters go together, all at least 1 or all 0: "
                    f"{', '.join(f'`{each}` ({getattr(self, each)})' for each in CHARACTER_SIZES)}"
                )
        if self.num_characters > MOST_CHARACTERS:
            raise ValueError(f"`num_characters` must be at most {MOST_CHARACTERS}, got {self.num_characters}")
        if self.max_word_characters < 2:
            raise ValueError(f"`max_word_characters` must be at least 2, got {self.max_word_characters}")
        if not 0 <= self.rare_word_dropout < float("inf"):
            raise ValueError(f"`rare_word_dropout` must be 0 or positive, got {self.rare_word_dropout}")
        if self.rare_word_dropout and not self.character_embedding_size:
            raise ValueError("`rare_word_dropout` is for a network with `character_embedding_size` only")

    def _validate_last_layer(self) -> None:
        if self.num_softmaxes == 1 and self.softmax_dropout:
            raise ValueError(f"`softmax_dropout` is for `num_softmaxes` above 1 only, got {self.softmax_dropout}")
        if self.last_hidden_size is None:
            return
        if self.projection_size:
            raise ValueError("`last_hidden_size` does not go with `projection_size`: that is the width of each output")
        if self._is_tied_to_output and self.last_hidden_size != self.embedding_size:
            raise ValueError(
                f"`tie_word_embeddings` needs an output as wide as the embedding: leave `last_hidden_size` "
                f"({self.last_hidden_size}) out, or set `tie_word_embeddings=False`, `output_projection_size` or "
                "`num_softmaxes` above 1"
            )

    def _validate_projection(self) -> None:
        if self.projection_size < 0:
            raise ValueError(f"`projection_size` must be 0 (none) or positive, got {self.projection_size}")
        if not self.projection_size:
            return
        if self.cell_type != "lstm":
            raise ValueError(
                f"`projection_size` is for cell_type='lstm' only, got {self.projection_size} "
                f"with cell_type={self.cell_type!r}"
            )
        if self.projection_size >= self.hidden_size:
            raise ValueError(
                f"`projection_size` ({self.projection_size}) must be smaller than `hidden_size` ({self.hidden_size})"
            )
        if self._is_tied_to_output and self.projection_size != self.embedding_size:
            raise ValueError(
                f"`tie_word_embeddings` needs an output as wide as the embedding: set `projection_size` "
                f"({self.projection_size}) equal to `embedding_size` ({self.embedding_size}), "
                "or `tie_word_embeddings=False`"
            )

    def _validate_output_projection(self) -> None:
        size = self.output_projection_size
        if size is None:
            return
        if self.num_softmaxes > 1:
            raise ValueError(
                f"`output_projection_size` ({size}) does not go with `num_softmaxes` ({self.num_softmaxes}): a "
                "mixture of softmaxes has projections of its own"
            )
        if self.tie_word_embeddings and size != self.embedding_size:
            raise ValueError(
                f"`tie_word_embeddings` needs an output as wide as the embedding: set `output_projection_size` "
                f"({size}) equal to `embedding_size` ({self.embedding_size}), or `tie_word_embeddings=False`"
            )

    def validate_layer_type(self) -> None:
        """Accept this package's own layer type, which transformers' list of attention layers does not have."""

    @property
    def layer_types(self) -> list[str]:
        """Kind of state of each layer: what transformers' cache classes build their layers from."""
        return ["recurrent_state"] * self.num_hidden_layers

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """`(input size, hidden size)` of each recurrent layer, first layer first; of one direction, if it has two."""
        between = (self.projection_size or self.hidden_size) * self.num_directions
        embedded = self.embedding_size + 2 * self.character_hidden_size
        inputs = [embedded] + [between] * (self.num_hidden_layers - 1)
        hiddens = [self.hidden_size] * self.num_hidden_layers
        if self.last_hidden_size is not None:
            hiddens[-1] = self.last_hidden_size
        elif self._is_tied_to_output and not self.projection_size:
            hiddens[-1] = self.embedding_size
        return list(zip(inputs, hiddens, strict=True))

    @property
    def state_sizes(self) -> list[tuple[int, int | None]]:
        """Widths of the state of each layer: of h and, for an LSTM, of c."""
        is_lstm = self.cell_type == "lstm"
        return [(self.projection_size or size, size if is_lstm else None) for _, size in self.layer_sizes]

    @property
    def has_state(self) -> bool:
        """Whether the network reads token by token, so that a state can be carried on and the next token predicted."""
        return not (self.bidirectional or self.character_embedding_size)

    def check_has_state(self, what: str) -> None:
        """Refuse what needs a state.

        Raises:
            ValueError: The network has none; the message names the field.
        """
        if not self.has_state:
            field = "`bidirectional=True`" if self.bidirectional else "`character_embedding_size`"
            raise ValueError(f"{what} is not for a network with {field}: it reads whole texts and has no state")

    def check_reads_tokens(self, what: str) -> None:
        """Refuse what needs token ids.

        Raises:
            ValueError: The network reads features.
        """
        if self.input_size is not None:
            raise ValueError(f"{what} is not for a network with `input_size`: it reads features and not tokens")

    @property
    def num_directions(self) -> int:
        """How many directions a layer reads the text in."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Width of the last layer's output, of both directions if it has two: what heads are built on."""
        return (self.projection_size or self.layer_sizes[-1][1]) * self.num_directions

    @property
    def _is_tied_to_output(self) -> bool:
        """Whether the embedding is the output matrix, with no mixture or projection between it and the last layer."""
        has_plain_head = self.num_softmaxes == 1 and self.output_projection_size is None
        return self.tie_word_embeddings and has_plain_head and self.has_state and self.input_size is None


__all__ = ["RNNConfig"]
