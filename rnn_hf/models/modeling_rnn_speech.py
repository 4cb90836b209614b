"""A recurrent network that hears: log-mel frames to labels, by connectionist temporal classification (CTC).

Shapes in comments: B batch, T frames, T' steps, F numbers a frame, U labels, V kinds of labels with the blank.
"""

from typing import Any

import torch
from torch import nn
from transformers.utils import can_return_tuple

from .beam_rnn import LabelLanguageModel, find_path
from .cache_rnn import RNNCache
from .configuration_rnn_speech import RNNSpeechConfig
from .ctc_rnn import ctc_loss
from .feature_extraction_rnn import RNNFeatureExtractor
from .inputs_rnn import read_mask
from .modeling_rnn import RNNModel, RNNPreTrainedModel
from .streaming_rnn import RNNSpeechStream
from .tokenization_rnn_ctc import RNNCTCTokenizer
from .versions_rnn import CACHE_NAME, CausalLMOutputWithPast, one_cache


class RNNForCTC(RNNPreTrainedModel):
    """A recognizer of speech: [`RNNModel`] over stacked frames, dropout, and a linear layer to the labels.

    In one direction it has a state, so that it hears while somebody speaks: chunks of a multiple of
    `config.frame_stack` frames, each with the state after the one before, give the numbers of the whole.
    """

    config_class = RNNSpeechConfig
    config: RNNSpeechConfig
    main_input_name = "input_features"
    input_modalities = "audio"
    _input_embed_layer = "input_projection"

    def __init__(self, config: RNNSpeechConfig):
        super().__init__(config)
        self.model = RNNModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.lm_head = nn.Linear(config.output_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        cache: RNNCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: RNNCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict a label or the blank at each step.

        Args:
            input_features: `(B, T, num_mel_bins)`, frames of the feature extractor.
            attention_mask: `(B, T)`, 1 at real frames. Padding may stand left, right or between: a row's steps are
                those of its real frames and stand at its start; `T' = T // frame_stack`. Frames at the end of a row
                that fill no step are not read.
            labels: `(B, U)`, what was said, -100 where a row has no label; a row may have none at all.
            cache: State to go on from, as in [`RNNModel.forward`]; it is updated in place.
            use_cache: Whether to return the state; by default where one is given, or `config.use_cache` is set.
            output_hidden_states: Whether to return what the first layer reads and each layer's output.
            past_key_values: The name of `cache` before transformers 5.24.
            kwargs: `num_items_in_batch`, which divides the summed loss in place of the number of labels.

        Returns:
            `loss` (see [`ctc_loss`]), `logits` `(B, T', V)`, at padding those of a certain blank, `cache`,
            `hidden_states` `(B, T', ...)`.

        Raises:
            ValueError: Features, a mask, a state or labels that do not fit; a state for a bidirectional network; more
                labels in a row than its steps can bear, but for `config.ctc_zero_infinity`.
        """
        steps, lengths = self._stack(input_features, attention_mask)
        cache, num_steps = one_cache(cache, past_key_values), steps.shape[1]
        if not num_steps:
            steps = steps.new_zeros(len(steps), 1, steps.shape[2])  # the network wants one, even if it is padding
        is_real = torch.arange(steps.shape[1], device=lengths.device) < lengths[:, None]
        outputs = self.model(
            inputs_embeds=steps,
            attention_mask=None if attention_mask is None and num_steps else is_real,
            cache=cache,
            use_cache=cache is not None or self.config.use_cache if use_cache is None else use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(self.dropout(outputs.last_hidden_state[:, :num_steps]))
        if attention_mask is not None:
            logits = torch.where(is_real[:, :num_steps, None].to(logits.device), logits, self._certain_blank(logits))
        loss = None
        if labels is not None:
            blank, zeroes = self.config.pad_token_id, self.config.ctc_zero_infinity
            loss = ctc_loss(logits, lengths, labels, blank, kwargs.get("num_items_in_batch"), zeroes)
        hidden_states = outputs.hidden_states and tuple(states[:, :num_steps] for states in outputs.hidden_states)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=hidden_states, **{CACHE_NAME: outputs.cache}
        )

    def _stack(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames `(B, T, F)` to steps of several side by side, and how many each row has, `(B,)`."""
        size, bands = self.config.frame_stack, self.config.num_mel_bins
        if features.ndim != 3 or features.shape[2] != bands:
            raise ValueError(
                f"`input_features` must be (batch, time, `num_mel_bins`: {bands}), got shape {tuple(features.shape)}"
            )
        batch, time = len(features), features.shape[1] // size
        lengths = torch.full((batch,), time, device=features.device)
        mask = read_mask(mask, features)
        if mask is not None:
            order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            features, lengths = features.take_along_dim(order[..., None], dim=1), mask.sum(dim=1) // size
        return features[:, : time * size].reshape(batch, time, size * bands), lengths

    def _certain_blank(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(V,)` that give the blank a probability of 1."""
        certain = logits.new_full(logits.shape[-1:], torch.finfo(logits.dtype).min)
        certain[self.config.pad_token_id] = 0
        return certain

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_beams: int | None = None,
        language_model: LabelLanguageModel | None = None,
        language_model_weight: float = 0.5,
        length_bonus: float = 0.0,
    ) -> torch.Tensor:
        """A label or blank at each step, `(B, T')`, of which `tokenizer.batch_decode` makes text.

        By default the likeliest one at each: the best path (Graves et al., 2006, section 3.2). With more than one
        beam, a language model or a bonus: the labels that a prefix beam search finds, on the likeliest of their paths,
        see [`beam_search`]. At padding there are blanks.

        Args:
            input_features: As in `forward`.
            attention_mask: As in `forward`.
            num_beams: Hypotheses that are kept from step to step; by default 16, where there is a search.
            language_model: As `label_language_model` makes it.
            language_model_weight: Of its log-probabilities.
            length_bonus: In nats a label.

        Raises:
            ValueError: As in `forward` and [`beam_search`].
        """
        logits, (_, lengths) = self(input_features, attention_mask).logits, self._stack(input_features, attention_mask)
        blank = self.config.pad_token_id
        return find_path(logits, lengths, blank, num_beams, language_model, language_model_weight, length_bonus)

    def label_language_model(
        self, language_model: Any, language_tokenizer: Any, tokenizer: RNNCTCTokenizer
    ) -> LabelLanguageModel:
        """What `generate` takes as `language_model`, see [`LabelLanguageModel`].

        Args:
            language_model: An [`RNNForCausalLM`] of texts that are spelled as the labels.
            language_tokenizer: Its own.
            tokenizer: That of the recognizer.

        Raises:
            ValueError: As of [`LabelLanguageModel`].
        """
        return LabelLanguageModel(language_model, language_tokenizer, tokenizer)

    def stream(self, feature_extractor: RNNFeatureExtractor, tokenizer: RNNCTCTokenizer) -> RNNSpeechStream:
        """A stream that hears samples while somebody speaks, see [`RNNSpeechStream`].

        Raises:
            ValueError: The network reads in both directions or is in training mode; the parts do not fit each other.
        """
        return RNNSpeechStream(self, feature_extractor, tokenizer)

    def _get_feat_extract_output_lengths(self, input_lengths: torch.Tensor | int) -> torch.Tensor | int:
        """How many steps so many frames give."""
        return input_lengths // self.config.frame_stack


__all__ = ["RNNForCTC"]
