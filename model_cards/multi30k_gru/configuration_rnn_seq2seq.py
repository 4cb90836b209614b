"""The configuration of a network that reads a text and writes another one: translation, transcription of letters."""

import copy
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_rnn import RNNConfig
from .pipeline_rnn_translation import custom_pipelines


# Where those without this package find the classes.
AUTO_MAP = {
    "AutoConfig": "configuration_rnn_seq2seq.RNNSeq2SeqConfig",
    "AutoModelForSeq2SeqLM": "modeling_rnn_seq2seq.RNNForConditionalGeneration",
}
SIZES = (
    "vocab_size", "decoder_vocab_size", "embedding_size", "hidden_size", "num_encoder_layers", "num_decoder_layers",
    "attention_heads", "attention_size", "readout_size", "residual_from",
)  # fmt: skip
DROPOUTS = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout")
WITH_SIZE = ("additive", "multihead")  # kinds of attention that have a width of their own


@strict
class RNNSeq2SeqConfig(PreTrainedConfig):
    r"""Configuration of [`RNNForConditionalGeneration`].

    Args:
        vocab_size: Number of token types, of both sides if they share one vocabulary, else of what is read.
        decoder_vocab_size: Number of token types that are written; `None` where both sides share one vocabulary. With
            a vocabulary each, the sides share no embedding.
        embedding_size: Width of the token embeddings; `None` means `hidden_size`.
        hidden_size: Width of the state of each layer of the decoder, and of the outputs of each layer of the encoder:
            each direction of a bidirectional encoder is half as wide.
        num_encoder_layers: Number of recurrent layers that read the source, at least 1.
        num_decoder_layers: Number of recurrent layers that write the target, at least 1.
        cell_type: `"lstm"`, `"gru"` or `"rnn"`, as in [`RNNConfig`], on both sides.
        hidden_act: Activation of an Elman cell: `"tanh"` (default), `"relu"` or `"sigmoid"`.
        bidirectional_encoder: Whether each layer of the encoder also reads from the end.
        attention: How the decoder finds what it looks at in the outputs of the encoder: `"dot"`, `"general"` (Luong et
            al., 2015), `"additive"` (Bahdanau et al., 2015), `"multihead"` (scaled dot products, Vaswani et al., 2017)
            or `None`, for a decoder that sees the last state only.
        attention_heads: Number of heads of `"multihead"`.
        attention_size: Width of the space in which `"additive"` and `"multihead"` compare, of all heads together;
            `None` means `hidden_size`.
        input_feeding: Whether each step of the decoder also reads what the output matrix saw at the step before (Luong
            et al., 2015, section 3.3). Training then takes the target step by step, which is several times as long.
        deep_fusion: Whether attention asks with the output of the first decoder layer, and what it finds also goes
            into the layers above (as in GNMT, Wu et al., 2016); training takes the whole target at once all the same.
        bridge: Where the first state of the decoder comes from: `"linear"`, tanh of a linear layer on where each
            direction of the encoder ends; `"mean"`, the same on the mean of its outputs (Sennrich et al., 2017);
            `"identity"`, the state of the same layer of an encoder of one direction (Sutskever et al., 2014);
            `"zero"`.
        residual_from: First layer of each side, counted from 0, whose output adds its input (Wu et al., 2016); at
            least 1, since the first one reads embeddings. `None` for none.
        readout_size: Width of the tanh layer between decoder and output matrix, which sees the last layer and what
            attention found; `None` means `embedding_size`. Without attention there is none.
        tie_word_embeddings: Whether the output matrix is the embedding of the decoder (Press and Wolf, 2017).
        share_embeddings: Whether both sides have one embedding, where they have one vocabulary.
        embedding_dropout: Probability of dropping a word type everywhere in a batch (Gal and Ghahramani, 2016), on
            each side.
        input_dropout: Probability of dropping a unit of the embedded input of each side; one mask for all time steps.
        hidden_dropout: The same, between recurrent layers.
        output_dropout: The same, on what the encoder gives to the decoder, and on what the output matrix sees.
        recurrent_dropout: Probability of dropping a hidden-to-hidden weight (DropConnect; Merity et al., 2018).
        label_smoothing: Share of each target that the loss spreads over all words, in training only (Szegedy et al.,
            2016).
        initializer_range: Embeddings and output matrix start uniform in `[-initializer_range, initializer_range]`.
        use_cache: Whether the model returns the state of its decoder.
        decoder_start_token_id: What the decoder reads first; by default `bos_token_id`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: As of [`RNNConfig`].

    Example:

    >>> from rnn_hf import RNNSeq2SeqConfig
    >>> config = RNNSeq2SeqConfig(vocab_size=4000, embedding_size=256, hidden_size=512, attention="general")
    >>> config.encoder_layer_sizes, config.decoder_layer_sizes  # (input, hidden) of each layer and direction
    ([(256, 256)], [(256, 512)])
    """

    model_type = "rnn_hf_seq2seq"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {"num_hidden_layers": "num_decoder_layers"}
    _auto_map = AUTO_MAP

    vocab_size: int = 4000
    decoder_vocab_size: int | None = None
    embedding_size: int | None = None
    hidden_size: int = 256
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    cell_type: Literal["lstm", "gru", "rnn"] = "gru"
    hidden_act: Literal["tanh", "relu", "sigmoid"] | None = None
    bidirectional_encoder: bool = True
    attention: Literal["dot", "general", "additive", "multihead"] | None = "general"
    attention_heads: int = 1
    attention_size: int | None = None
    input_feeding: bool = False
    deep_fusion: bool = False
    bridge: Literal["linear", "mean", "identity", "zero"] = "linear"
    residual_from: int | None = None
    readout_size: int | None = None
    tie_word_embeddings: bool = True
    share_embeddings: bool = True
    embedding_dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    output_dropout: float | int = 0.0
    recurrent_dropout: float | int = 0.0
    label_smoothing: float | int = 0.0
    initializer_range: float | int = 0.1
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.cell_type == "rnn" and self.hidden_act is None:
            self.hidden_act = "tanh"
        if self.attention in WITH_SIZE and self.attention_size is None:
            self.attention_size = self.hidden_size
        if self.attention is not None and self.readout_size is None:
            self.readout_size = self.embedding_size
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id
        super().__post_init__(**kwargs)
        auto_map = getattr(self, "auto_map", None)
        if auto_map is None or auto_map:  # as in RNNConfig
            self.auto_map = self._auto_map | (auto_map or {})

    def validate_rnn(self) -> None:
        """Part of the `@strict` validation: ranges, and fields that must fit each other."""
        for name in SIZES:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in (*DROPOUTS, "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a share in [0, 1), got {getattr(self, name)}")
        if not 0 < self.initializer_range < float("inf"):
            raise ValueError(f"`initializer_range` must be positive and finite, got {self.initializer_range}")
        if self.cell_type != "rnn" and self.hidden_act is not None:
            raise ValueError(
                f"`hidden_act` is for cell_type='rnn' only, got {self.hidden_act!r} with cell_type={self.cell_type!r}"
            )
        if not self.is_encoder_decoder:
            raise ValueError("`is_encoder_decoder` must be true: there is an encoder and a decoder")
        if self.bidirectional_encoder and self.hidden_size % 2:
            raise ValueError(
                f"`bidirectional_encoder` needs an even `hidden_size`, half for each direction, got {self.hidden_size}"
            )
        deepest = max(self.num_encoder_layers, self.num_decoder_layers)
        if self.residual_from is not None and self.residual_from >= deepest:
            raise ValueError(f"`residual_from` ({self.residual_from}) is none of the layers 0 to {deepest - 1}")
        self._validate_attention()
        self._validate_bridge()
        self._validate_output()

    def _validate_attention(self) -> None:
        if self.attention is None:
            for name in ("input_feeding", "deep_fusion", "readout_size", "attention_size"):
                if getattr(self, name):
                    raise ValueError(f"`{name}` is for a network with `attention` only, got {getattr(self, name)}")
        elif self.attention not in WITH_SIZE and self.attention_size is not None:
            raise ValueError(
                f"`attention_size` ({self.attention_size}) is for the attention {' and '.join(WITH_SIZE)} only"
            )
        if self.attention != "multihead" and self.attention_heads != 1:
            raise ValueError(f"`attention_heads` ({self.attention_heads}) is for attention='multihead' only")
        if self.attention == "multihead" and self.attention_size % self.attention_heads:
            raise ValueError(
                f"`attention_size` ({self.attention_size}) must be a multiple of `attention_heads` "
                f"({self.attention_heads})"
            )
        if self.deep_fusion and self.num_decoder_layers < 2:
            raise ValueError(
                "`deep_fusion` needs `num_decoder_layers` of 2 or more: it goes into those above the first"
            )
        if self.input_feeding and self.recurrent_dropout:
            raise ValueError(
                "`recurrent_dropout` does not go with `input_feeding`: each step would drop other weights"
            )

    def _validate_bridge(self) -> None:
        if self.bridge == "zero" and self.attention is None:
            raise ValueError("`bridge='zero'` needs `attention`: nothing of the source would reach the decoder")
        if self.bridge != "identity":
            return
        if self.bidirectional_encoder:
            raise ValueError("`bridge='identity'` needs `bidirectional_encoder=False`: a state of one direction")
        if self.num_encoder_layers != self.num_decoder_layers:
            raise ValueError(
                f"`bridge='identity'` needs as many layers on each side, got {self.num_encoder_layers} in the encoder "
                f"and {self.num_decoder_layers} in the decoder"
            )

    def _validate_output(self) -> None:
        if self.tie_word_embeddings and self.output_size != self.embedding_size:
            name = "hidden_size" if self.attention is None else "readout_size"
            raise ValueError(
                f"`tie_word_embeddings` needs an output matrix as wide as the embedding: set `{name}` "
                f"({self.output_size}) equal to `embedding_size` ({self.embedding_size}), or "
                "`tie_word_embeddings=False`"
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "RNNSeq2SeqConfig":
        """The configuration, with the vocabulary that is written as `vocab_size`, which transformers' searches go by,
        unless the `encoder` is asked for. Transformers' own would cut names that begin with `decoder_`."""
        if self.decoder_vocab_size is None or (encoder and not decoder):
            return self
        written = copy.copy(self)
        written.vocab_size = self.decoder_vocab_size
        return written

    def validate_layer_type(self) -> None:
        """As of [`RNNConfig`]."""

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """Where those without this package find the pipeline."""
        return custom_pipelines()

    @custom_pipelines.setter
    def custom_pipelines(self, value: Any) -> None:
        """What a pipeline writes here when it is saved is what there is."""

    @property
    def layer_types(self) -> list[str]:
        """Kind of state of each layer of the decoder."""
        return ["recurrent_state"] * self.num_decoder_layers

    def check_has_state(self, what: str) -> None:
        """Nothing to refuse: every decoder has a state."""

    @property
    def output_vocab_size(self) -> int:
        """Number of token types that are written."""
        return self.decoder_vocab_size or self.vocab_size

    @property
    def has_one_embedding(self) -> bool:
        """Whether both sides have the same embedding."""
        return self.share_embeddings and self.decoder_vocab_size is None

    @property
    def num_directions(self) -> int:
        """How many directions the encoder reads in."""
        return 2 if self.bidirectional_encoder else 1

    @property
    def context_size(self) -> int:
        """Width of what attention finds; 0 without."""
        if self.attention is None:
            return 0
        return (self.attention == "multihead" and self.attention_size) or self.hidden_size

    @property
    def output_size(self) -> int:
        """Width of what the output matrix sees."""
        return self.readout_size or self.hidden_size

    @property
    def encoder_layer_sizes(self) -> list[tuple[int, int]]:
        """`(input size, hidden size)` of each direction of each layer of the encoder."""
        inputs = [self.embedding_size] + [self.hidden_size] * (self.num_encoder_layers - 1)
        return [(size, self.hidden_size // self.num_directions) for size in inputs]

    @property
    def decoder_layer_sizes(self) -> list[tuple[int, int]]:
        """`(input size, hidden size)` of each layer of the decoder."""
        first = self.embedding_size + (self.readout_size if self.input_feeding else 0)
        above = self.hidden_size + (self.context_size if self.deep_fusion else 0)
        return [(size, self.hidden_size) for size in [first] + [above] * (self.num_decoder_layers - 1)]

    @property
    def state_sizes(self) -> list[tuple[int, int | None]]:
        """Widths of the parts of the decoder's state: h and, of an LSTM, c of each layer; with `input_feeding` last of
        all what the output matrix saw, as the h of one layer more."""
        cell = self.hidden_size if self.cell_type == "lstm" else None
        fed = [(self.readout_size, None)] if self.input_feeding else []
        return [(self.hidden_size, cell)] * self.num_decoder_layers + fed

    def layer_config(self, sizes: tuple[int, int], bidirectional: bool = False) -> RNNConfig:
        """The configuration of one layer of these `(input size, hidden size)`, for `RNNLayer`."""
        return RNNConfig(
            vocab_size=1,
            embedding_size=sizes[0],
            hidden_size=sizes[1],
            num_hidden_layers=1,
            cell_type=self.cell_type,
            hidden_act=self.hidden_act,
            bidirectional=bidirectional,
            tie_word_embeddings=False,
            recurrent_dropout=self.recurrent_dropout,
        )


__all__ = ["RNNSeq2SeqConfig"]
