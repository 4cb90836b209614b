"""The configuration of a network that hears: what [`RNNConfig`] has, and how frames become steps."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_rnn import RNNConfig


# Where those without this package find the classes.
AUTO_MAP = {
    "AutoConfig": "configuration_rnn_speech.RNNSpeechConfig",
    "AutoModelForCTC": "modeling_rnn_speech.RNNForCTC",
}


@strict
class RNNSpeechConfig(RNNConfig):
    r"""Configuration of [`RNNForCTC`]. Fields as in [`RNNConfig`], and:

    Args:
        vocab_size: Number of kinds of labels with the blank, at least 2.
        pad_token_id: Id of the blank, which is the padding token of the tokenizer as well.
        num_mel_bins: Width of a frame: mel bands of the feature extractor.
        frame_stack: Frames side by side that the network reads as one step. A step gives one label at most, so words
            that are spelled fast need a small one.
        hop_length: Samples from frame to frame, as in the feature extractor; only `inputs_to_logits_ratio` needs it.
        ctc_zero_infinity: Whether a row that is too short for its labels has a loss of 0; else it is refused by name.
        input_size: Follows from the others: `num_mel_bins * frame_stack`.
        use_cache: Whether the model returns its recurrent state even where it is not given one.

    Raises:
        huggingface_hub.errors.StrictDataclassError: As of [`RNNConfig`].

    Example:

    >>> from rnn_hf import RNNSpeechConfig
    >>> config = RNNSpeechConfig(vocab_size=11, hidden_size=128, cell_type="gru")
    >>> config.input_size, config.inputs_to_logits_ratio  # numbers a step, samples a step
    (120, 240)
    """

    model_type = "rnn_hf_speech"
    _auto_map = AUTO_MAP

    vocab_size: int = 32
    num_mel_bins: int = 40
    frame_stack: int = 3
    hop_length: int = 80
    ctc_zero_infinity: bool = False
    tie_word_embeddings: bool = False
    use_cache: bool = False
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.input_size is None:
            self.input_size = self.num_mel_bins * self.frame_stack
        super().__post_init__(**kwargs)

    def validate_rnn(self) -> None:
        """Part of the `@strict` validation: as of [`RNNConfig`], and the fields of speech."""
        for name in ("num_mel_bins", "frame_stack", "hop_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 2:
            raise ValueError(f"`vocab_size` must be at least 2, a blank and a label, got {self.vocab_size}")
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"`pad_token_id` is the blank and must be from 0 to {self.vocab_size - 1}, got {self.pad_token_id}"
            )
        if self.input_size != self.num_mel_bins * self.frame_stack:
            raise ValueError(
                f"`input_size` ({self.input_size}) must be `num_mel_bins` ({self.num_mel_bins}) times `frame_stack` "
                f"({self.frame_stack}), and may be left out"
            )
        if self.num_softmaxes > 1 or self.output_projection_size is not None:
            raise ValueError("`num_softmaxes` and `output_projection_size` are for language models only")
        super().validate_rnn()

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples a step: what transformers' speech pipeline cuts long recordings by."""
        return self.hop_length * self.frame_stack


__all__ = ["RNNSpeechConfig"]
