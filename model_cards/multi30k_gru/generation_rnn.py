"""`generate()` of recurrent language models, with a light loop for greedy search and sampling.

Shapes in comments: B batch, H width of a layer, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    BaseStreamer,
    EosTokenCriteria,
    MaxLengthCriteria,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .cache_rnn import RNNCache
from .graph_rnn import GraphDecoder
from .kernels_rnn import Product, has_own_forward, is_own, product_of, step
from .versions_rnn import (
    CACHE_NAME,
    HAS_SAMPLE,
    NEWEST_TRANSFORMERS,
    OLDEST_TRANSFORMERS,
    GenerateDecoderOnlyOutput,
    answering_to_either,
    autocast_dtype,
    rename_cache,
)


# What scales or filters candidates by their own probabilities alone, so that it may see the k likeliest only.
AFTER_TOP_K = (TemperatureLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
# Steps that pay for packed copies of the weights, or for a recording.
STEPS_TO_PACK = 16


@dataclass
class Sampler:
    """Chooses the next tokens from logits, as transformers' loop does.

    Where the last processors are top-k and what may follow it, the k likeliest are taken first and the rest of the
    work is done on these: the same distribution, other random numbers.
    """

    processors: LogitsProcessorList
    do_sample: bool
    keeps_scores: bool

    def __post_init__(self) -> None:
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

    def __call__(self, input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | None]:
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
            return torch.from_numpy(scores.detach().numpy().argmax(axis=-1)), scores
        return scores.argmax(dim=-1), scores


class TokenBuffer:
    """Token ids that grow at the end without being copied at each step."""

    def __init__(self, input_ids: Tensor):
        self.length = input_ids.shape[1]
        self.storage = F.pad(input_ids, (0, 256))

    def append(self, tokens: Tensor) -> Tensor:
        """Add `(B,)` tokens; returns all `(B, length)`, a view that later tokens leave as it is."""
        if self.length == self.storage.shape[1]:
            self.storage = F.pad(self.storage, (0, self.length))
        self.storage[:, self.length] = tokens
        self.length += 1
        return self.storage[:, : self.length]


class RNNGenerationMixin(GenerationMixin):
    """`generate()` of a recurrent language model.

    Attributes:
        decodes_directly: Whether greedy search and sampling take the light loop below, with the tokens of
            transformers' own (with top-k first, its distribution). `False` brings that one back.
    """

    decodes_directly = True
    output_kind: type = GenerateDecoderOnlyOutput  # of the light loop
    config: Any
    model: Any
    lm_head: nn.Linear
    mixture: nn.Module | None
    output_projection: nn.Linear | None
    compute_logits: Callable[[Tensor], Tensor]
    training: bool
    device: torch.device
    tiny_network: Callable[[], "RNNGenerationMixin"]  # what `check_contract` runs

    @wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.config, "reads_backward", False):
            raise ValueError("a language model with `reads_backward=True` does not generate: it would write backward")
        check_contract()
        return answering_to_either(super().generate(*args, **rename_cache(kwargs)))

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        implementation = generation_config.cache_implementation
        if implementation not in (None, "dynamic", "static"):
            raise ValueError(
                f"cache_implementation={implementation!r} is of no use here: a recurrent state has one size at every "
                "length. Leave it out; 'static' and 'dynamic' mean the same."
            )
        if model_kwargs.get(CACHE_NAME) is not None:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        elif generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = RNNCache(self.config)
            if getattr(generation_config, "is_assistant", False):
                model_kwargs[CACHE_NAME].activate_past_recording()

    def _can_decode_directly(self, generation_config: GenerationConfig, model_kwargs: dict[str, Any]) -> bool:
        """Whether the loop below gives what transformers' own would, faster."""
        return (
            hasattr(generation_config, "_pad_token_tensor")
            and self.decodes_directly
            and not self.training
            and isinstance(model_kwargs.get(CACHE_NAME), RNNCache)
            and not (generation_config.output_hidden_states or generation_config.output_attentions)
            and self._is_plain()
        )

    def _is_plain(self) -> bool:
        """Whether the arithmetic of the modules may be done without them: they are the package's own, unchanged."""
        return (
            autocast_dtype(self.device) is None
            and self._has_plain_head()
            and is_own(self.model.embed_tokens, nn.Embedding)
            and all(has_own_forward(module) for module in (self.model, *self.model.layers))
            and (self.mixture is None or has_own_forward(self.mixture))
            and (self.output_projection is None or has_plain_weights(self.output_projection))
        )

    def _has_plain_head(self) -> bool:
        """Whether the weights of the output matrix may be used without its module."""
        return has_own_forward(self) and has_plain_weights(self.lm_head)

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        """Greedy search and sampling; see `GenerationMixin._sample`, which this replaces."""
        return self._sample_directly(*args, **kwargs) if HAS_SAMPLE else super()._sample(*args, **kwargs)

    def _sample_directly(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **model_kwargs: Any,
    ) -> Any:
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
        logits, cache = outputs.logits[:, -1].float(), outputs.cache
        del outputs
        keeps = generation_config.return_dict_in_generate
        scores: list | None = [] if keeps and generation_config.output_scores else None
        raw: list | None = [] if keeps and generation_config.output_logits else None
        sampler = Sampler(logits_processor, generation_config.do_sample, scores is not None)
        rows, steps = len(input_ids), generation_config.max_length - input_ids.shape[1]
        buffer = TokenBuffer(input_ids)
        decoder = self._decoder_of(generation_config, model_kwargs, cache, rows, steps)
        finished = Finished(stopping_criteria, generation_config._pad_token_tensor, rows, decoder)
        try:
            while True:
                tokens, processed = sampler(input_ids, logits)
                if scores is not None:
                    scores.append(processed.clone())  # a graph writes over its logits
                if raw is not None:
                    raw.append(logits.clone())
                tokens = finished.pad(tokens)
                input_ids = buffer.append(tokens)
                is_over = finished(input_ids, tokens, None if scores is None else tuple(scores))
                if streamer is not None:
                    streamer.put(tokens.cpu())
                if is_over:
                    break
                logits = decoder(tokens).float()
        finally:
            decoder.close()
        if streamer is not None:
            streamer.end()
        if not keeps:
            return input_ids.contiguous()
        return self.output_kind(
            sequences=input_ids.contiguous(),
            scores=None if scores is None else tuple(scores),
            logits=None if raw is None else tuple(raw),
            **{CACHE_NAME: cache},
        )

    def _decoder_of(self, config: GenerationConfig, given: dict[str, Any], *arguments: Any) -> Any:
        """`_decoder`, by what is `given` to the model besides."""
        return self._decoder(*arguments)

    def _decoder(self, cache: RNNCache, rows: int, steps: int) -> "Decoder | GraphDecoder | OneRowDecoder":
        """The step of the light loop, so many times for so many rows, on from the state in `cache`."""
        layers, records = self.model.layers, cache.layers[0].record_past
        if steps >= STEPS_TO_PACK and not records:
            graph = GraphDecoder.make(self, cache, rows, lambda state: Decoder(self, state, rows, steps))
            if graph is not None:
                return graph
        if rows == 1 and self.device.type == "cpu" and not records:
            stack = [
                layer.one_row(state.keys, state.values) for layer, state in zip(layers, cache.layers, strict=True)
            ]
            if all(stack):
                return OneRowDecoder(self, cache, stack)
        return Decoder(self, cache, rows, steps)


class Decoder:
    """One-token steps for some rows: tokens `(B,)` to logits `(B, V)`; the state in `cache` goes with them.

    Packed copies of weights are made for each call of `generate()`, since no sign shows reliably that they changed.
    """

    def __init__(self, model: RNNGenerationMixin, cache: RNNCache, rows: int, steps: int):
        self.model, self.cache = model.model, cache
        packs = steps >= STEPS_TO_PACK
        self.products = [layer.step_products(rows, packs) for layer in self.model.layers]
        self.head = head_of(model, rows, packs)

    def __call__(self, tokens: Tensor) -> Tensor:
        outputs = F.embedding(tokens, self.model.embed_tokens.weight)
        for layer, state, products in zip(self.model.layers, self.cache.layers, self.products, strict=True):
            if products is None:
                _, *after = layer(outputs[:, None], state.keys, state.values)
            else:
                after = step(layer.kind, outputs, state.keys, state.values, products)
            outputs, _ = state.update(*after)
        return self.head(outputs)

    def close(self) -> None:
        """Leave the state after the last step in `cache`."""


class OneRowDecoder:
    """As `Decoder`, for a single row on a CPU: its state is in `cache` once it is closed."""

    def __init__(self, model: RNNGenerationMixin, cache: RNNCache, stack: list):
        self.cache, self.stack, self.num_tokens = cache, stack, 0
        self.embedding = model.model.embed_tokens.weight.detach().numpy()
        self.outputs = torch.from_numpy(stack[-1].hidden)[None]
        self.head = head_of(model, 1, packs=False)

    def __call__(self, tokens: Tensor) -> Tensor:
        outputs = self.embedding[int(tokens[0])]
        for layer in self.stack:
            layer.inputs[:] = outputs
            layer.step()
            outputs = layer.hidden
        self.num_tokens += 1
        return self.head(self.outputs)

    def close(self) -> None:
        for layer, state in zip(self.stack, self.cache.layers, strict=True):
            hidden, cell = (
                None if part is None else torch.from_numpy(part)[None] for part in (layer.hidden, layer.cell)
            )
            state.update(hidden, cell, self.num_tokens)


def head_of(model: RNNGenerationMixin, rows: int, packs: bool) -> Product:
    """Outputs of the last layer, `(B, H)`, to logits `(B, V)`, the fastest way for so many rows."""
    if model.device.type != "cpu":
        return model.compute_logits
    heads = rows if model.mixture is None else rows * model.config.num_softmaxes
    head = product_of(model.lm_head.weight, model.lm_head.bias, heads, packs)
    if model.mixture is not None:
        return partial(model.mixture, head=head)
    if model.output_projection is None:
        return head
    project = product_of(model.output_projection.weight, model.output_projection.bias, rows, packs)
    return lambda outputs: head(project(outputs).contiguous())


def has_plain_weights(module: nn.Module) -> bool:
    """Whether the matrix and the bias of a linear layer may be used without it."""
    return is_own(module, nn.Linear) and module.bias is not None


class Finished:
    """Which rows have ended, by transformers' criteria; length and end token without its overhead."""

    def __init__(self, criteria: StoppingCriteriaList, pad_token: Tensor, rows: int, decoder: Any):
        self.criteria, self.pad_token = criteria, pad_token
        self.read: Callable[[Tensor], list[int]] = getattr(decoder, "read", Tensor.tolist)
        self.ends = next(
            (criterion.eos_token_id for criterion in criteria if hasattr(criterion, "eos_token_id")), None
        )
        is_simple = all(type(criterion) in (MaxLengthCriteria, EosTokenCriteria) for criterion in criteria)
        self.max_length = criteria.max_length if is_simple else None
        self.end_ids = None if self.ends is None else set(self.ends.tolist())
        self.rows = torch.zeros(rows, dtype=torch.bool, device="cpu")
        self.ended: Tensor | None = None  # `rows` where the tokens are, once one has ended

    def pad(self, tokens: Tensor) -> Tensor:
        """Padding in place of the tokens of rows that have ended."""
        if self.ended is None or self.ends is None:
            return tokens
        return torch.where(self.ended, self.pad_token.to(tokens.device), tokens)

    def __call__(self, input_ids: Tensor, tokens: Tensor, scores: tuple[Tensor, ...] | None) -> bool:
        """Take notice of new tokens; returns whether all rows have ended."""
        if self.max_length is None:
            rows = self.rows | self.criteria(input_ids, scores).cpu()
        else:
            if input_ids.shape[1] >= self.max_length:
                return True
            if self.end_ids is None:
                return False
            rows = self.rows | torch.tensor([token in self.end_ids for token in self.read(tokens)], device="cpu")
        if not torch.equal(rows, self.rows):
            self.rows, self.ended = rows, rows.to(tokens.device)
        return bool(rows.all())


def check_contract() -> None:
    """See once a process that the installed transformers carries the state through `generate()`.

    A tiny network is run by beam search with its state and without: the tokens must be the same.

    Raises:
        RuntimeError: They differ, so `generate()` would give wrong text.
    """
    if check_contract.is_kept:  # type: ignore[attr-defined]
        return
    check_contract.is_kept = True  # type: ignore[attr-defined]  # `generate()` of the tiny network comes here too
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            network, prompt = RNNGenerationMixin.tiny_network(), torch.tensor([[1, 2, 3]])
            options = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False, "attention_mask": prompt > 0}
            with_state, without = (network.generate(prompt, use_cache=use, **options) for use in (True, False))
        if with_state.tolist() != without.tolist():
            raise RuntimeError("beam search with the state differs from beam search without it")
    except Exception as error:
        check_contract.is_kept = False  # type: ignore[attr-defined]
        raise RuntimeError(
            f"transformers {transformers.__version__} does not carry a recurrent state through `generate()`: {error}. "
            f"The text would be wrong. Install a release from {OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}"
        ) from error


check_contract.is_kept = False  # type: ignore[attr-defined]


__all__ = ["RNNGenerationMixin"]
