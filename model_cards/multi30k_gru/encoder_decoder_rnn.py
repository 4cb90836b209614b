"""The two halves of a network that reads a text and writes another one.

Shapes in comments: B batch, S source, T target, E embedding, H hidden size, R width of what the output matrix sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .attention_rnn import CrossAttention, Memory
from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .heads_rnn import last_outputs, mean_outputs
from .inputs_rnn import check_extra, read_inputs, read_mask
from .layers_rnn import RNNLayer, locked_dropout
from .padding_rnn import Compaction


# h and c of a layer.
State = tuple[Tensor, Tensor | None]


@dataclass
class RNNEncoderOutput(ModelOutput):
    """What an encoder read. Each field is a tensor with a row for each source, so that beams may repeat it.

    Attributes:
        last_hidden_state: `(B, S, H)`, zeros at padding.
        hidden_states: Embeddings and the output of each layer, if they are asked for.
        attention_mask: `(B, S)`, true at real tokens; `None` where all are.
        final_state: Of an encoder of one direction h, and of an LSTM c, of each layer, side by side: `(B, sum)`.
        attention_keys, attention_values: What attention makes of `last_hidden_state`, if that was done.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None
    final_state: Tensor | None = None
    attention_keys: Tensor | None = None
    attention_values: Tensor | None = None


@dataclass
class DecoderOutput:
    """What a decoder says of a target.

    Attributes:
        outputs: What the output matrix sees, `(B, T, R)`.
        states: After the last real token, as `config.state_sizes`.
        weights: Of attention, `(B, N, T, S)`; `None` without.
        hidden_states: Embeddings and the output of each layer, if they are asked for.
    """

    outputs: Tensor
    states: list[State]
    weights: Tensor | None
    hidden_states: tuple[Tensor, ...]


def embed(embedding: nn.Embedding, ids: Tensor, dropout: float, training: bool) -> Tensor:
    """Ids `(B, T)` to embeddings; `dropout` drops word types everywhere in the batch (Gal and Ghahramani, 2016)."""
    embeds = embedding(ids)
    if training and dropout:
        embeds = embeds * F.dropout(embeds.new_ones(embedding.num_embeddings), dropout)[ids, None]
    return embeds


def mask_of(inputs: Tensor, width: int, probability: float, training: bool) -> Tensor | None:
    """What to multiply `(B, T, width)` by to drop units at all steps alike, `(B, 1, width)`; `None` for nothing."""
    if not training or not probability:
        return None
    return F.dropout(inputs.new_ones(len(inputs), 1, width), probability)


def dropped(inputs: Tensor, mask: Tensor | None) -> Tensor:
    return inputs if mask is None else inputs * mask


class RNNEncoder(nn.Module):
    """Embedding and recurrent layers that read the whole source, from both ends or from the first token."""

    main_input_name = "input_ids"

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        configs = [config.layer_config(sizes, config.bidirectional_encoder) for sizes in config.encoder_layer_sizes]
        self.layers = nn.ModuleList([RNNLayer(each, 0) for each in configs])

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> RNNEncoderOutput:
        """Read sources.

        Args:
            input_ids: `(B, S)`.
            attention_mask: `(B, S)`, 1 at real tokens, which may stand anywhere; by default all tokens but
                `config.pad_token_id` are real.
            inputs_embeds: `(B, S, E)` instead of `input_ids`.
            output_hidden_states: Whether to return the embeddings and each layer's output.
            kwargs: What transformers passes to every model.
        """
        inputs: Tensor = read_inputs(input_ids, inputs_embeds)
        mask, pad = read_mask(attention_mask, inputs), self.config.pad_token_id
        if mask is None and input_ids is not None and pad is not None:
            mask = input_ids != pad
        check_extra({name: kwargs[name] for name in kwargs.keys() - {"output_attentions"}}, mask)
        keeps = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        rows = None if mask is None else Compaction.from_mask(mask)
        shown, hidden_states, states = self._run_layers(inputs, rows, keeps)
        mask = None if rows is None else mask
        if mask is not None:
            shown = shown.masked_fill(~mask[..., None], 0)
        final = None
        if not self.config.bidirectional_encoder:
            final = torch.cat([part for state in states for part in state if part is not None], dim=1)
        return RNNEncoderOutput(
            last_hidden_state=shown,
            hidden_states=tuple(hidden_states) if keeps else None,
            attention_mask=mask,
            final_state=final,
        )

    # torch.compile does not trace recurrent modules: better one break around all layers than some within each.
    @torch.compiler.disable
    def _run_layers(
        self, inputs: Tensor, rows: Compaction | None, keeps: bool
    ) -> tuple[Tensor, list[Tensor], list[State]]:
        """Outputs `(B, S, H)`, hidden states if it `keeps` them, and the state of each layer of one direction."""
        config, padding = self.config, None if rows is None else rows.padding
        inputs = inputs if rows is None else rows.compact(inputs)
        if inputs.is_floating_point():
            embeds = inputs.to(self.embed_tokens.weight.dtype)
            # Padding may be anything there.
            embeds = embeds if padding is None else embeds.masked_fill(padding[..., None], 0)
        else:
            embeds = embed(self.embed_tokens, inputs, config.embedding_dropout, self.training)
        outputs, hidden_states, states = embeds, [embeds], []
        for index, layer in enumerate(self.layers):
            probability = config.hidden_dropout if index else config.input_dropout
            outputs = locked_dropout(outputs, probability, self.training)
            raw, hidden, cell = layer(outputs, None, None, padding)
            if hidden is not None:
                states.append((hidden if rows is None else rows.last(raw, torch.zeros_like(hidden)), cell))
            adds = config.residual_from is not None and index >= config.residual_from
            outputs = raw + outputs if adds else raw
            hidden_states.append(outputs)
        outputs = locked_dropout(outputs, config.output_dropout, self.training)
        if rows is not None:
            outputs = rows.spread(outputs, None)
            hidden_states = [rows.spread(each, None) for each in hidden_states] if keeps else []
        return outputs, hidden_states, states


class RNNDecoder(nn.Module):
    """Recurrent layers over the target, attention, and a tanh layer of both: what the output matrix sees."""

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.output_vocab_size, config.embedding_size)
        self.layers = nn.ModuleList([RNNLayer(config.layer_config(each), 0) for each in config.decoder_layer_sizes])
        self.attention = self.readout = self.bridge = None
        if config.attention is not None:
            self.attention = CrossAttention(config)
            self.readout = nn.Linear(config.hidden_size + config.context_size, config.readout_size)
        if config.bridge in ("linear", "mean"):
            self.bridge = nn.Linear(config.hidden_size, sum(self._widths()))

    def _widths(self) -> list[int]:
        """Of all parts of the state of the layers, h and then c."""
        sizes = self.config.state_sizes[: self.config.num_decoder_layers]
        return [width for size in sizes for width in size if width is not None]

    def memory_of(self, encoder_outputs: Any, attention_mask: Tensor | None) -> Memory:
        """What the decoder sees of what an encoder read: an [`RNNEncoderOutput`], or a tuple that begins with outputs
        `(B, S, H)`, with the mask of the source, if that is given."""
        states, padding = encoder_outputs[0], None
        mask = read_mask(attention_mask, states)
        mask = getattr(encoder_outputs, "attention_mask", None) if mask is None else mask
        if mask is not None:
            padding = ~mask.to(states.device, torch.bool)
        keys, values = (getattr(encoder_outputs, f"attention_{name}", None) for name in ("keys", "values"))
        if self.attention is not None and keys is None:
            keys, values = self.attention.project(states)
        return Memory(states, keys, values, padding)

    def initial_state(self, encoder_outputs: Any, memory: Memory) -> list[State]:
        """The state before the first token, as `config.state_sizes`."""
        kind, states = self.config.bridge, memory.states
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mask = mask if memory.padding is None else ~memory.padding
        if kind == "identity":
            final = getattr(encoder_outputs, "final_state", None)
            if final is None:
                raise ValueError("`bridge='identity'` needs `encoder_outputs` with their `final_state`")
        elif self.bridge is None:
            final = states.new_zeros(len(states), sum(self._widths()))
        elif kind == "mean":
            final = self.bridge(mean_outputs(states, mask, 1)).tanh()
        else:
            ends = last_outputs(states, mask, self.config.num_directions)
            final = self.bridge(ends).tanh()
        parts = iter(final.split(self._widths(), dim=1))
        layers: list[State] = []
        for _ in self.layers:
            hidden = next(parts)
            layers.append((hidden, next(parts) if self.config.cell_type == "lstm" else None))
        if self.config.input_feeding:
            layers.append((states.new_zeros(len(states), self.config.readout_size), None))
        return layers

    # As in the encoder.
    @torch.compiler.disable
    def forward(
        self, ids: Tensor, states: Sequence[State], memory: Memory, mask: Tensor | None = None, keeps: bool = False
    ) -> DecoderOutput:
        """Read a target and what attention finds for it.

        Args:
            ids: `(B, T)`.
            states: Before them.
            memory: Of the source.
            mask: `(B, T)`, true at real tokens. A position of padding shows what the last real token before it does.
            keeps: Whether to return hidden states.
        """
        rows = None if mask is None else Compaction.from_mask(mask)
        ids = ids if rows is None else rows.compact(ids)
        embeds = embed(self.embed_tokens, ids, self.config.embedding_dropout, self.training)
        embeds = locked_dropout(embeds, self.config.input_dropout, self.training)
        count, hidden = len(self.layers), self.config.hidden_size
        masks = [mask_of(embeds, hidden, self.config.hidden_dropout, self.training) for _ in range(count - 1)]
        if self.config.input_feeding:
            run = self._run_fed(embeds, states, memory, rows, masks)
        else:
            run = self._run(embeds, states, memory, rows, masks)
        if rows is not None:
            run.outputs = rows.spread(run.outputs, None)
            run.hidden_states = tuple(rows.spread(each, None) for each in run.hidden_states) if keeps else ()
            if run.weights is not None:
                spread = rows.spread(run.weights.transpose(1, 2).flatten(2), None)
                run.weights = spread.unflatten(2, (self.config.attention_heads, -1)).transpose(1, 2)
        width = run.outputs.shape[2]
        run.outputs = dropped(run.outputs, mask_of(embeds, width, self.config.output_dropout, self.training))
        return run

    def _run(
        self,
        embeds: Tensor,
        states: Sequence[State],
        memory: Memory,
        rows: Compaction | None,
        masks: Sequence[Tensor | None],
    ) -> DecoderOutput:
        """All steps at once, of what the first layer reads, `(B, T, ...)`, in compacted `rows` if some are padded."""
        config, after, hidden_states = self.config, [], [embeds]
        padding = None if rows is None else rows.padding
        outputs, found, weights = embeds, embeds[..., :0], None
        for index, layer in enumerate(self.layers):
            # Under autocast products have its type, and what recurs keeps that of the weights.
            before, cell = (None if part is None else part.to(embeds) for part in states[index])
            read = torch.cat([outputs, found.to(outputs)], dim=-1) if found.shape[2] else outputs
            raw, hidden, cell = layer(read, before, cell, padding)
            if rows is not None:
                hidden = rows.last(raw, before)
            after.append((hidden, cell))
            adds = config.residual_from is not None and index >= config.residual_from
            outputs = raw + outputs if adds else raw
            hidden_states.append(outputs)
            if index + 1 < len(self.layers):
                outputs = dropped(outputs, masks[index])
            if self.attention is not None and index == (0 if config.deep_fusion else len(self.layers) - 1):
                found, weights = self.attention(outputs, memory)
        if self.readout is not None:
            outputs = self.readout(torch.cat([outputs, found], dim=-1)).tanh()
        return DecoderOutput(outputs, after, weights, tuple(hidden_states))

    def _run_fed(
        self,
        embeds: Tensor,
        states: Sequence[State],
        memory: Memory,
        rows: Compaction | None,
        masks: Sequence[Tensor | None],
    ) -> DecoderOutput:
        """The same with `config.input_feeding`, step by step."""
        *states, (fed, _) = states
        steps = []
        for at in range(embeds.shape[1]):
            step = self._run(torch.cat([embeds[:, at], fed.to(embeds)], dim=1)[:, None], states, memory, None, masks)
            after = step.outputs[:, 0]
            if rows is not None:
                is_over = rows.padding[:, at, None]
                after = torch.where(is_over, fed, after)
                step.states = [
                    (
                        torch.where(is_over, old[0], new[0]),
                        None if new[1] is None else torch.where(is_over, old[1], new[1]),
                    )
                    for old, new in zip(states, step.states, strict=True)
                ]
            fed, states = after, step.states
            steps.append(step)
        above = zip(*(step.hidden_states[1:] for step in steps), strict=True)
        return DecoderOutput(
            torch.cat([step.outputs for step in steps], dim=1),
            [*states, (fed, None)],
            torch.cat([step.weights for step in steps], dim=2),
            (embeds, *(torch.cat(parts, dim=1) for parts in above)),
        )


class RNNSeq2SeqModel(nn.Module):
    """An encoder and a decoder, without the output matrix."""

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.encoder, self.decoder = RNNEncoder(config), RNNDecoder(config)

    @property
    def layers(self) -> list[RNNLayer]:
        """All recurrent layers, those of the encoder first."""
        return [*self.encoder.layers, *self.decoder.layers]


__all__ = ["DecoderOutput", "RNNDecoder", "RNNEncoder", "RNNEncoderOutput", "RNNSeq2SeqModel", "State", "embed"]
