"""The decoding path: one-token steps by direct arithmetic, and a light loop for greedy search and sampling.

Shapes in comments: B batch, E embedding, H width of a layer, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, LogitsProcessorList
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    MaxLengthCriteria,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .cache_rnn import RNNCache
from .loss_rnn import has_onednn


# What scales or filters candidates by their own probabilities alone, so that it may see the k likeliest only.
AFTER_TOP_K = (TemperatureLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
# Steps that pay for packed copies of the weights.
STEPS_TO_PACK = 16
MINUS_ONE = torch.tensor(-1.0)


Product = Callable[[torch.Tensor], torch.Tensor]  # inputs (B, K) to `inputs @ weight.T + bias`, (B, N)


def in_parts(weight: torch.Tensor, bias: torch.Tensor) -> Product:
    """The product with a matrix `(N, K)` on its own memory, its rows in parts and the inputs as columns.

    On a CPU up to 5 times as fast as `F.linear` for few inputs, for which that leaves the matrix to a single thread
    or to a slow kernel.
    """
    rows, width = weight.shape
    parts = next(parts for parts in (4, 2, 1) if rows % parts == 0)
    matrix, column = weight.view(parts, rows // parts, width), bias.view(parts, rows // parts, 1)

    def product(inputs: torch.Tensor) -> torch.Tensor:
        found = torch.baddbmm(column, matrix, inputs.t().expand(parts, -1, -1))
        # A single column is viewed as a row, since transposing would leave it the strides of a column.
        return found.view(1, -1) if len(inputs) == 1 else found.view(rows, -1).t()

    return product


def packed(weight: torch.Tensor, bias: torch.Tensor, rows: int) -> Product:
    """The product with a copy of a matrix `(N, K)` in the order that oneDNN's kernel reads, for so many rows of input.

    The copy takes the time of a step or two, and is 2 to 3 times as fast as the matrix itself for two rows or more.
    For one row, which memory limits, `in_parts` is as fast.
    """
    if rows == 1 or not has_onednn(weight):
        return in_parts(weight, bias)
    matrix = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return lambda inputs: torch.ops.mkldnn._linear_pointwise(inputs, matrix, bias, "none", [], "")


def pays_to_step(kind: str, rows: int, hidden_size: int) -> bool:
    """Whether `step` is faster than the fused module, as measured on two CPU cores for widths of 200 to 1150.

    oneDNN orders the weights of an LSTM anew at each call: that costs several steps for few rows, or where the layer
    is wide, and pays for many rows. The other cells gain little, but gain.
    """
    if kind != "lstm" or hidden_size >= 1000:
        return rows <= 64
    return rows <= (32 if hidden_size < 300 else 16)


def tanh(x: torch.Tensor) -> torch.Tensor:
    """The same to single precision as `torch.tanh`, by the sigmoid, which torch computes 5 times as fast on a CPU."""
    return torch.add(MINUS_ONE, (x + x).sigmoid(), alpha=2)


ELMAN_ACTIVATIONS = {"tanh": tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}


def step(kind: str, inputs, hidden, cell, products: Sequence[Product]):
    """One time step of one layer, from the equations.

    Args:
        kind: `"lstm"`, `"gru"`, or the activation of an Elman cell.
        inputs: `(B, input size)`.
        hidden, cell: State before the step, `(B, H)` each; `cell` of an LSTM only.
        products: With the weights, biases added and gates in torch's order: of the input and of the hidden state, or
            (not for a GRU) one of both side by side.

    Returns:
        The state after the step, `(hidden, cell)`.
    """
    if kind == "gru":
        of_input, of_hidden = products
        (reset_in, keep_in, new_in), (reset, keep, new) = of_input(inputs).chunk(3, 1), of_hidden(hidden).chunk(3, 1)
        new = tanh(torch.addcmul(new_in, (reset + reset_in).sigmoid(), new))
        return torch.lerp(new, hidden, (keep + keep_in).sigmoid()).contiguous(), None
    if len(products) == 1:
        gates = products[0](torch.cat([inputs, hidden], dim=1))
    else:
        gates = products[0](inputs) + products[1](hidden)
    # What comes out is laid out in rows: the next product is several times as fast where its columns lie apart.
    if kind == "lstm":
        size = hidden.shape[1]
        gates[:, 2 * size : 3 * size] *= 2  # one sigmoid for all four gates: see `tanh`
        open_in, forget, update, out = gates.sigmoid().chunk(4, 1)
        cell = torch.addcmul(forget * cell, open_in, torch.add(MINUS_ONE, update, alpha=2))
        return (out * tanh(cell)).contiguous(), cell.contiguous()
    return ELMAN_ACTIVATIONS[kind](gates).contiguous(), None


@dataclass
class Sampler:
    """Chooses the next tokens from logits, as transformers' loop does.

    Where the last processors are top-k and what may follow it, the k likeliest are taken first and the rest of the
    work is done on these: the same distribution, other random numbers.
    """

    processors: LogitsProcessorList
    do_sample: bool
    keeps_scores: bool

    def __post_init__(self):
        self.top_k, self.after = None, []
        position = next((i for i, p in enumerate(self.processors) if isinstance(p, TopKLogitsWarper)), None)
        if position is None or not self.do_sample or self.keeps_scores:
            return
        before, after = self.processors[:position], self.processors[position + 1 :]
        if not all(isinstance(processor, AFTER_TOP_K) for processor in after):
            return
        if before and isinstance(before[-1], TemperatureLogitsWarper):  # keeps the order, so it may come after
            before, after = before[:-1], [before[-1], *after]
        self.top_k, self.before, self.after = self.processors[position].top_k, LogitsProcessorList(before), after

    def __call__(self, input_ids, logits):
        """Tokens `(B,)` and processed scores `(B, V)` from `(B, V)` in float32; no scores with top-k first."""
        if self.top_k is not None and self.top_k < logits.shape[1]:
            scores = self.before(input_ids, logits) if len(self.before) else logits
            values, candidates = scores.topk(self.top_k + 1)
            # transformers keeps all that are level with the last; so exactly k only where none is.
            if not (values[:, -1] == values[:, -2]).any():
                values = values[:, :-1]
                for processor in self.after:
                    values = processor(input_ids, values)
                chosen = torch.multinomial(values.softmax(dim=-1), 1)
                return candidates.gather(1, chosen).squeeze(1), None
            scores = LogitsProcessorList(self.processors[len(self.before) :])(input_ids, scores)
        else:
            scores = self.processors(input_ids, logits) if len(self.processors) else logits
        if self.do_sample:
            return torch.multinomial(scores.softmax(dim=-1), 1).squeeze(1), scores
        if scores.device.type == "cpu":  # NumPy's search is 4 to 6 times as fast as torch's
            return torch.from_numpy(scores.numpy().argmax(axis=-1)), scores
        return scores.argmax(dim=-1), scores


class TokenBuffer:
    """Token ids that grow at the end without being copied at each step."""

    def __init__(self, input_ids):
        self.length = input_ids.shape[1]
        self.storage = F.pad(input_ids, (0, 256))

    def append(self, tokens):
        """Add `(B,)` tokens; returns all `(B, length)`, a view that later tokens leave as it is."""
        if self.length == self.storage.shape[1]:
            self.storage = F.pad(self.storage, (0, self.length))
        self.storage[:, self.length] = tokens
        self.length += 1
        return self.storage[:, : self.length]


class RNNGenerationMixin(GenerationMixin):
    """`generate()` of a recurrent language model.

    Attributes:
        decodes_directly: Whether greedy search and sampling on a CPU take the light loop below, with the tokens of
            transformers' own (with top-k first, its distribution). `False` brings that one back.
    """

    decodes_directly = True
    config: Any
    model: Any
    lm_head: nn.Linear
    mixture: nn.Module | None
    compute_logits: Callable[[torch.Tensor], torch.Tensor]
    training: bool
    device: torch.device

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs) -> None:
        implementation = generation_config.cache_implementation
        if implementation not in (None, "dynamic", "static"):
            raise ValueError(
                f"cache_implementation={implementation!r} is of no use here: a recurrent state has one size at every "
                "length. Leave it out; 'static' and 'dynamic' mean the same."
            )
        if model_kwargs.get("past_key_values") is not None:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = RNNCache(self.config)
            if getattr(generation_config, "is_assistant", False):
                model_kwargs["past_key_values"].activate_past_recording()

    def _can_decode_directly(self, generation_config, model_kwargs) -> bool:
        """Whether the loop below gives what transformers' own would, faster."""
        return (
            self.decodes_directly
            and not self.training
            and isinstance(model_kwargs.get("past_key_values"), RNNCache)
            and not (generation_config.output_hidden_states or generation_config.output_attentions)
            and self._is_plain()
        )

    def _is_plain(self) -> bool:
        """Whether the modules' arithmetic may be done without them: no hooks, no wrappers, no autocast."""
        modules = (self, self.model, self.lm_head, self.model.embed_tokens, *self.model.layers)
        return not torch.is_autocast_enabled(self.device.type) and all(is_bare(module) for module in modules)

    def _sample(
        self,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        synced_gpus=False,
        streamer=None,
        **model_kwargs,
    ):
        """Greedy search and sampling; see `GenerationMixin._sample`, whose place this takes."""
        if synced_gpus or not self._can_decode_directly(generation_config, model_kwargs):
            return super()._sample(
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                synced_gpus,
                streamer,
                **model_kwargs,
            )
        outputs = self._prefill(
            input_ids, generation_config, model_kwargs, is_first_iteration=not generation_config.is_assistant
        )
        logits, cache = outputs.logits[:, -1].float(), outputs.past_key_values
        del outputs
        keeps = generation_config.return_dict_in_generate
        scores: list | None = [] if keeps and generation_config.output_scores else None
        raw: list | None = [] if keeps and generation_config.output_logits else None
        sampler = Sampler(logits_processor, generation_config.do_sample, scores is not None)
        finished = Finished(stopping_criteria, generation_config._pad_token_tensor, len(input_ids))
        buffer = TokenBuffer(input_ids)
        decode = self._decoder(len(input_ids), generation_config.max_length - input_ids.shape[1])
        while True:
            tokens, processed = sampler(input_ids, logits)
            if scores is not None:
                scores.append(processed)
            if raw is not None:
                raw.append(logits)
            tokens = finished.pad(tokens)
            input_ids = buffer.append(tokens)
            is_over = finished(input_ids, tokens, None if scores is None else tuple(scores))
            if streamer is not None:
                streamer.put(tokens.cpu())
            if is_over:
                break
            logits = decode(tokens, cache).float()
        if streamer is not None:
            streamer.end()
        input_ids = input_ids.contiguous()
        if not keeps:
            return input_ids
        return GenerateDecoderOnlyOutput(
            sequences=input_ids,
            scores=None if scores is None else tuple(scores),
            logits=None if raw is None else tuple(raw),
            past_key_values=cache,
        )

    def _decoder(self, rows: int, steps: int) -> Callable[[torch.Tensor, RNNCache], torch.Tensor]:
        """The step of the light loop, so many times for so many rows: tokens `(B,)` and state to logits `(B, V)`."""
        products, head = self._products(rows, steps)
        return lambda tokens, cache: self._decode(tokens, cache, products, head)

    def _products(self, rows: int, steps: int) -> tuple[list, Product]:
        """What `_decode` computes so many steps with: the products of each layer, and that of the output matrix.

        `None` stands for a layer that goes through its module. Packed copies are made anew for each call of
        `generate()`, since no sign shows reliably that weights have changed.
        """
        if self.device.type != "cpu":
            return [None] * len(self.model.layers), self.compute_logits
        packs = steps >= STEPS_TO_PACK
        products = [layer.step_products(rows, packs) for layer in self.model.layers]
        weight, bias = self.lm_head.weight, self.lm_head.bias
        rows *= 1 if self.mixture is None else self.config.num_softmaxes
        head = packed(weight, bias, rows) if packs else in_parts(weight, bias)
        return products, head if self.mixture is None else partial(self.mixture, head=head)

    def _decode(self, tokens, cache, products, head):
        """Logits `(B, V)` after one more token `(B,)` of each row, by `_products`; updates the state in `cache`."""
        outputs = F.embedding(tokens, self.model.embed_tokens.weight)
        for layer, state, own in zip(self.model.layers, cache.layers, products, strict=True):
            if own is None:
                _, *after = layer(outputs[:, None], state.keys, state.values)
            else:
                after = step(layer.kind, outputs, state.keys, state.values, own)
            outputs, _ = state.update(*after)
        return head(outputs)


class Finished:
    """Which rows have ended, by transformers' criteria; length and end token without its overhead."""

    def __init__(self, criteria, pad_token, rows: int):
        self.criteria, self.pad_token = criteria, pad_token
        self.ends = next(
            (criterion.eos_token_id for criterion in criteria if hasattr(criterion, "eos_token_id")), None
        )
        is_simple = all(type(criterion) in (MaxLengthCriteria, EosTokenCriteria) for criterion in criteria)
        self.max_length = criteria.max_length if is_simple else None
        self.end_ids = None if self.ends is None else set(self.ends.tolist())
        self.rows = torch.zeros(rows, dtype=torch.bool)
        self.any = False

    def pad(self, tokens):
        """Padding in place of the tokens of rows that have ended."""
        if not self.any or self.ends is None:
            return tokens
        return torch.where(self.rows.to(tokens.device), self.pad_token.to(tokens.device), tokens)

    def __call__(self, input_ids, tokens, scores) -> bool:
        """Take notice of new tokens; returns whether all rows have ended."""
        if self.max_length is None:
            self.rows |= self.criteria(input_ids, scores).cpu()
        else:
            if input_ids.shape[1] >= self.max_length:
                return True
            if self.end_ids is None:
                return False
            self.rows |= torch.tensor([token in self.end_ids for token in tokens.tolist()])
        self.any = bool(self.rows.any())
        return self.any and bool(self.rows.all())


def is_bare(module: nn.Module) -> bool:
    """Whether nothing is hooked onto or wrapped around a module, so that its arithmetic may be done without it."""
    return not (module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module))


__all__ = ["RNNGenerationMixin"]
