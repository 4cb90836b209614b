"""A recurrent network that reads a text and writes another one.

Shapes in comments: B batch, S source, T target, R width of what the output matrix sees, V vocabulary that is written.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import EosTokenCriteria, MaxLengthCriteria
from transformers.utils import can_return_tuple

from .attention_rnn import Memory
from .cache_rnn import RNNCache, check_state
from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .decoding_seq2seq_rnn import BeamSearch, LightDecoder, is_plain_decoder, search_beams
from .encoder_decoder_rnn import DecoderOutput, RNNEncoder, RNNEncoderOutput, RNNSeq2SeqModel, State
from .generation_rnn import RNNGenerationMixin
from .heads_rnn import label_loss
from .inputs_rnn import check_extra, read_mask
from .kernels_rnn import has_own_forward, is_own
from .loss_rnn import linear_cross_entropy
from .modeling_rnn import RNNPreTrainedModel, placed
from .versions_rnn import (
    CACHE_NAME,
    CACHE_NAMES,
    HAS_BEAM_SEARCH,
    GenerateEncoderDecoderOutput,
    Seq2SeqLMOutput,
    autocast_dtype,
    one_cache,
)


ASSISTED = ("assistant_model", "prompt_lookup_num_tokens")


class RNNForConditionalGeneration(RNNPreTrainedModel, RNNGenerationMixin):
    """An encoder, which reads a source, and a decoder with attention to it, which writes a target token by token.

    After Sutskever et al. (2014), Bahdanau et al. (2015) and Luong et al. (2015), by [`RNNSeq2SeqConfig`].
    """

    config_class = RNNSeq2SeqConfig
    config: RNNSeq2SeqConfig
    output_kind = GenerateEncoderDecoderOutput
    _tied_weights_keys = {
        "lm_head.weight": "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight": "model.encoder.embed_tokens.weight",
    }

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__(config)
        self.model = RNNSeq2SeqModel(config)
        self.lm_head = nn.Linear(config.output_size, config.output_vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As in [`RNNPreTrainedModel`], but linear layers within the network by Glorot and Bengio (2010)."""
        if not isinstance(module, nn.Linear) or module is self.lm_head:
            super()._init_weights(module)
            return
        for name, parameter in module.named_parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                init.zeros_(parameter) if name == "bias" else init.xavier_uniform_(parameter)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which weights are others, by `tie_word_embeddings` and `share_embeddings`."""
        encoder, decoder = (f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder"))
        is_one, tied = self.config.has_one_embedding, {}
        if self.config.tie_word_embeddings:
            tied["lm_head.weight"] = encoder if is_one else decoder
        if is_one:
            tied[decoder] = encoder
        return tied

    def get_encoder(self, *args: Any, **kwargs: Any) -> RNNEncoder:
        """The encoder."""
        return self.model.encoder

    def get_decoder(self) -> nn.Module:
        """The decoder."""
        return self.model.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source, and of the target where both have one."""
        return self.model.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source, and of the target where both have one."""
        self.model.encoder.embed_tokens = value
        if self.config.has_one_embedding:
            self.model.decoder.embed_tokens = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As of any model of transformers, where both sides have one embedding.

        Raises:
            ValueError: Each side has its own.
        """
        if not self.config.has_one_embedding:
            raise ValueError("`resize_token_embeddings` is for a network whose sides have one embedding")
        return super(RNNPreTrainedModel, self).resize_token_embeddings(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to predict `labels` `(B, T)`: the start token, and all but the last one of them.

        Raises:
            ValueError: The configuration has no start token.
        """
        start = self.config.decoder_start_token_id
        if start is None:
            raise ValueError("`decoder_start_token_id` of the configuration is needed to predict labels")
        pad = 0 if self.config.pad_token_id is None else self.config.pad_token_id  # which no loss sees
        return F.pad(labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad), (1, 0), value=start)

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_outputs: Any = None,
        output_hidden_states: bool | None = None,
    ) -> RNNEncoderOutput:
        """What the decoder needs of a source, read once: to be given as `encoder_outputs` as often as it is needed.

        Args:
            input_ids: `(B, S)`; or
            inputs_embeds: `(B, S, E)`; or
            encoder_outputs: What the encoder or this method returned, or a tuple that begins with outputs `(B, S, H)`.
            attention_mask: `(B, S)`, 1 at real tokens, anywhere; by default those that are not `config.pad_token_id`.
            output_hidden_states: Whether to return the embeddings and each layer's output.
        """
        read = encoder_outputs
        if read is None:
            read = self.model.encoder(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        elif isinstance(read, tuple | list):
            read = RNNEncoderOutput(last_hidden_state=read[0])
        memory = self.model.decoder.memory_of(read, attention_mask)
        return RNNEncoderOutput(
            last_hidden_state=memory.states,
            hidden_states=read.get("hidden_states"),
            attention_mask=None if memory.padding is None else ~memory.padding,
            final_state=getattr(read, "final_state", None),
            attention_keys=memory.keys,
            attention_values=memory.values,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        cache: RNNCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        skip_logits: bool | None = None,
        past_key_values: RNNCache | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read sources, and predict the next token at each position of targets.

        Args:
            input_ids, attention_mask, inputs_embeds, encoder_outputs: Sources, as in `encode`.
            decoder_input_ids: Targets, `(B, T)`, from the start token on; by default from `labels`.
            decoder_attention_mask: `(B, T)` or longer, of which the last T columns count, 1 at real tokens, by default
                all. It matters for padding before or between tokens, and for the state of short rows.
            cache: State of the decoder to go on from; an empty one begins from the source. `past_key_values` is its
                name before transformers 5.24.
            labels: `(B, T)`, the target without the start token and with its end token, -100 to ignore.
            use_cache: Whether to return the state; default `config.use_cache`, or no with `labels`.
            output_attentions, output_hidden_states: Whether to return these, of both sides.
            skip_logits: With labels, compute the loss in parts and return no logits; by default so in training.
            num_items_in_batch: Divides the summed loss in place of the number of labels.

        Returns:
            `loss` (nats a label, in training with `config.label_smoothing`), `logits` `(B, T, V)`, `cache`,
            `cross_attentions` (one tensor `(B, heads, T, S)`) and what the encoder said.

        Raises:
            ValueError: No source or no target; ids, masks or a state that do not fit; `skip_logits` without labels.
        """
        check_extra(kwargs, None)
        keeps = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        use_cache = (self.config.use_cache and labels is None) if use_cache is None else use_cache
        ids, skips = self._read_target(decoder_input_ids, labels, skip_logits)
        given = (input_ids, attention_mask, inputs_embeds, keeps)
        encoder_outputs = self.model.encoder(*given) if encoder_outputs is None else encoder_outputs
        memory = self.model.decoder.memory_of(encoder_outputs, attention_mask)
        cache = one_cache(cache, past_key_values)
        run = self._decode(encoder_outputs, memory, ids, decoder_attention_mask, cache, keeps)
        logits = None if skips else self.lm_head(run.outputs)
        shows = self.config.output_attentions if output_attentions is None else output_attentions
        return Seq2SeqLMOutput(
            loss=None if labels is None else self.compute_loss(run.outputs, labels, logits, num_items_in_batch),
            logits=logits,
            decoder_hidden_states=run.hidden_states if keeps else None,
            cross_attentions=(run.weights,) if shows and run.weights is not None else None,
            encoder_last_hidden_state=memory.states,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            **{CACHE_NAME: self._write_state(cache, run.states, ids.shape[1]) if use_cache else None},
        )

    def _read_target(self, ids: Tensor | None, labels: Tensor | None, skip_logits: bool | None) -> tuple[Tensor, bool]:
        """What the decoder reads, and whether there shall be no logits."""
        if ids is None and labels is None:
            raise ValueError(
                "pass `decoder_input_ids` or `labels`. Where Trainer's `label_smoothing_factor` took the labels away, "
                "give `DataCollatorForSeq2Seq` the model, or set `label_smoothing` in its configuration"
            )
        if skip_logits and labels is None:
            raise ValueError("`skip_logits=True` needs `labels`: there is nothing else to return")
        skips = self.training and labels is not None if skip_logits is None else skip_logits
        return self.prepare_decoder_input_ids_from_labels(labels) if ids is None else ids, skips

    def _decode(
        self,
        encoder_outputs: Any,
        memory: Memory,
        ids: Tensor,
        mask: Tensor | None,
        cache: RNNCache | None,
        keeps: bool,
    ) -> DecoderOutput:
        """The decoder over targets `(B, T)` with their mask, from a state on or from the beginning."""
        if ids.ndim != 2 or len(ids) != len(memory.states):
            raise ValueError(
                f"`decoder_input_ids` must be ({len(memory.states)}, time), a row for each source, got "
                f"{tuple(ids.shape)}"
            )
        states = self._read_state(cache, len(ids), memory.states)
        if states is None:
            states = self.model.decoder.initial_state(encoder_outputs, memory)
        return self.model.decoder(ids, states, memory, read_mask(mask, ids), keeps)

    def _write_state(self, cache: RNNCache | None, states: list[State], num_tokens: int) -> RNNCache:
        cache = RNNCache(self.config) if cache is None else cache
        for layer, (hidden, cell) in zip(cache.layers, states, strict=True):
            layer.update(hidden, cell, num_tokens)
        return cache

    def _read_state(self, cache: RNNCache | None, rows: int, like: Tensor) -> list[State] | None:
        """What is in a state, in the type and on the device of the network; `None` of an empty one."""
        if cache is None:
            return None
        check_state(cache, self.config.state_sizes, rows)
        if not cache.layers[0].is_initialized:
            return None
        return [(placed(layer.keys, like), placed(layer.values, like)) for layer in cache.layers]

    def compute_loss(
        self,
        outputs: Tensor,
        labels: Tensor,
        logits: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
    ) -> Tensor:
        """Cross entropy in nats, mean over the labels, in training smoothed; without `logits` part by part.

        Args:
            outputs: What the output matrix sees, `(B, T, R)`.
            labels: `(B, T)`, -100 to ignore.
            logits: `(B, T, V)`, where they are at hand.
            num_items_in_batch: Divides the summed loss in place of the number of labels.

        Raises:
            ValueError: Labels of another shape.
        """
        if labels.shape != outputs.shape[:2]:
            raise ValueError(
                f"`labels` must have shape {tuple(outputs.shape[:2])}, one a token of the target, got "
                f"{tuple(labels.shape)}"
            )
        smoothing = float(self.config.label_smoothing) if self.training else 0.0
        targets = labels.to(outputs.device).flatten().long()
        count = (targets != -100).sum() if num_items_in_batch is None else num_items_in_batch
        if logits is not None or not (has_own_forward(self) and is_own(self.lm_head, nn.Linear)):
            logits = (self.lm_head(outputs) if logits is None else logits).flatten(0, 1)
            return label_loss(logits, targets, count, smoothing)
        outputs = outputs.flatten(0, 1)
        if outputs.device.type == "cpu":  # where nothing waits to know how many there are
            real = (targets != -100).nonzero().squeeze(1)
            outputs, targets = outputs.index_select(0, real), targets.index_select(0, real)
        return linear_cross_entropy(outputs, self.lm_head.weight, self.lm_head.bias, targets, smoothing) / count

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Write with transformers' own `generate()`: its arguments, and its results.

        The sources are read once, before the rows are repeated for beams or for `num_return_sequences`. Where ids are
        padded and no `attention_mask` is given, one is made from them.

        Args:
            inputs: Ids of the sources, `(B, S)`. Left out where `inputs_embeds` or `encoder_outputs` are given.
            args, kwargs: As of `transformers.GenerationMixin.generate`: `attention_mask`, `decoder_input_ids`,
                `num_beams`, `max_new_tokens`, `cache` and others.

        Returns:
            Ids, `(B * num_return_sequences, T)`, that begin with `decoder_start_token_id`; with
            `return_dict_in_generate` transformers' outputs.

        Raises:
            ValueError: For assisted generation, which a recurrent network gains nothing from.
        """
        options = kwargs.get("generation_config") or self.generation_config
        if any(kwargs.get(name, getattr(options, name, None)) is not None for name in ASSISTED):
            raise ValueError("assisted generation is not for a recurrent network with an encoder: it gains nothing")
        keeps = kwargs.get("output_hidden_states", getattr(options, "output_hidden_states", None))
        ids = kwargs.get("input_ids") if inputs is None else inputs
        with torch.no_grad():
            kwargs["encoder_outputs"] = self.encode(
                ids,
                kwargs.pop("attention_mask", None),
                kwargs.pop("inputs_embeds", None),
                kwargs.get("encoder_outputs"),
                output_hidden_states=keeps,
            )
        state = one_cache(*(kwargs.get(name) for name in CACHE_NAMES))
        prompt, mask = (kwargs.get(f"decoder_{name}") for name in ("input_ids", "attention_mask"))
        if state is not None and prompt is not None and mask is None and prompt.shape[1] > state.get_seq_length():
            # By its length transformers knows that the prompt begins with what the state has seen.
            kwargs["decoder_attention_mask"] = torch.ones_like(prompt)
        return super().generate(inputs, *args, **kwargs)

    def _is_plain(self) -> bool:
        return autocast_dtype(self.device) is None and is_plain_decoder(self)

    def _decoder_of(
        self, config: GenerationConfig, given: dict[str, Any], cache: RNNCache, rows: int, steps: int
    ) -> LightDecoder:
        memory = self.model.decoder.memory_of(given["encoder_outputs"], given.get("attention_mask"))
        ends = None if config.return_dict_in_generate else config._eos_token_tensor
        return LightDecoder(self, memory, cache, steps, frozenset(() if ends is None else ends.tolist()))

    def _beam_search(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The light search where nothing but tokens is asked for, else `GenerationMixin._beam_search`."""
        options = generation_config
        is_light = (
            HAS_BEAM_SEARCH
            and not (args or kwargs.get("synced_gpus") or options.return_dict_in_generate or options.do_sample)
            and not len(logits_processor)
            and all(type(each) in (MaxLengthCriteria, EosTokenCriteria) for each in stopping_criteria)
            and BeamSearch.of(options, input_ids.shape[1]).num_candidates <= self.config.output_vocab_size
            and self._can_decode_directly(options, kwargs)
            and not kwargs[CACHE_NAME].layers[0].is_initialized
        )
        if is_light:
            return search_beams(self, input_ids, options, kwargs)
        return super()._beam_search(input_ids, logits_processor, stopping_criteria, options, *args, **kwargs)


__all__ = ["RNNForConditionalGeneration"]
