"""The decoding path of `generate()` of networks that write a text from another one: light steps, and a beam search.

Shapes in comments: B sources, K beams of each, R = B * K rows, S source, H hidden size, C width of what attention
finds, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from .attention_rnn import Memory
from .cache_rnn import RNNCache
from .encoder_decoder_rnn import RNNEncoderOutput, State
from .kernels_rnn import InPlaceProduct, OneRowLayer, Product, has_own_forward, is_own, product_of, step, tanh


# Steps that pay for packed copies of the weights.
STEPS_TO_PACK = 16


def is_plain_decoder(model: Any) -> bool:
    """Whether the arithmetic of the decoder may be done without its modules."""
    decoder = model.model.decoder
    own = [model, decoder, *decoder.layers, *([] if decoder.attention is None else [decoder.attention])]
    linear = [model.lm_head, *([] if decoder.readout is None else [decoder.readout])]
    return (
        all(has_own_forward(module) for module in own)
        and all(is_own(module, nn.Linear) and module.bias is not None for module in linear)
        and is_own(decoder.embed_tokens, nn.Embedding)
    )


class Steps:
    """One-token steps of the decoder for some rows: tokens `(R,)` to logits `(R, V)`, and the state goes with them.

    Packed copies of weights are made for each call of `generate()`, since no sign shows reliably that they changed.

    Args:
        model: A [`RNNForConditionalGeneration`] with a plain decoder.
        memory: Of B sources, of which each has as many rows, one after the other.
        states: Before the first step, as `config.state_sizes`.
        rows: R, at most.
        steps: How many there may be.
    """

    def __init__(self, model: Any, memory: Memory, states: Sequence[State], rows: int, steps: int):
        decoder, config, packs = model.model.decoder, model.config, steps >= STEPS_TO_PACK
        self.layers, self.attention, self.states = decoder.layers, decoder.attention, list(states)
        self.embedding, self.is_fed = decoder.embed_tokens.weight, config.input_feeding
        self.asks = 0 if config.deep_fusion else len(self.layers) - 1
        self.adds_from = len(self.layers) if config.residual_from is None else config.residual_from
        self.products = [layer.step_products(rows, packs) for layer in self.layers]
        self.readout = None if decoder.readout is None else linear_product(decoder.readout, rows, packs)
        self.head = linear_product(model.lm_head, rows, packs)
        self.remember(memory)

    def remember(self, memory: Memory) -> None:
        """Look at these sources from now on."""
        self.memory = memory
        self.bias = memory.states.new_zeros(())
        if memory.padding is not None:
            low = torch.finfo(memory.states.dtype).min
            self.bias = memory.states.new_zeros(memory.padding.shape).masked_fill(memory.padding, low)[:, None]

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Go on with these rows, and of some `sources` only."""
        self.states = [
            tuple(None if part is None else part.index_select(0, rows) for part in state) for state in self.states
        ]
        if sources is not None:
            parts = {name: getattr(self.memory, name) for name in ("states", "keys", "values", "padding")}
            chosen = {name: None if part is None else part.index_select(0, sources) for name, part in parts.items()}
            self.remember(Memory(**chosen))

    def __call__(self, tokens: Tensor) -> Tensor:
        outputs = F.embedding(tokens, self.embedding)
        found = outputs[:, :0]
        if self.is_fed:
            outputs = torch.cat([outputs, self.states[-1][0]], dim=1)
        for index, (layer, products) in enumerate(zip(self.layers, self.products, strict=True)):
            read = torch.cat([outputs, found], dim=1) if found.shape[1] else outputs
            if products is None:
                _, *after = layer(read[:, None], *self.states[index])
            else:
                after = step(layer.kind, read, *self.states[index], products)
            self.states[index] = tuple(after)
            outputs = after[0] + outputs if index >= self.adds_from else after[0]
            if self.attention is not None and index == self.asks:
                found = self._attend(outputs)
        if self.readout is not None:
            outputs = tanh(self.readout(torch.cat([outputs, found], dim=1)))
            if self.is_fed:
                self.states[-1] = (outputs, None)
        return self.head(outputs)

    def _attend(self, outputs: Tensor) -> Tensor:
        """What `(R, H)` find, `(R, C)`: rows of one source as if they were steps of one target."""
        queries = outputs.unflatten(0, (len(self.memory.states), -1))
        if self.attention.kind in ("dot", "general"):
            scores = torch.baddbmm(self.bias, queries, self.memory.keys.transpose(1, 2))
            found = torch.bmm(scores.softmax(dim=-1), self.memory.values)
        else:
            found, _ = self.attention(queries, self.memory)
        return found.flatten(0, 1)


def linear_product(module: nn.Linear, rows: int, packs: bool) -> Product:
    """The fastest product of so many rows with the matrix of a linear layer."""
    if module.weight.device.type != "cpu" or module.weight.dtype not in (torch.float32, torch.float64):
        return partial(F.linear, weight=module.weight, bias=module.bias)
    return product_of(module.weight, module.bias, rows, packs)


class OneRowSteps:
    """The same for a single row on a CPU, on the weights' own memory: products are torch's and the rest NumPy's.

    Args:
        model, memory, states: As of `Steps`; attention is by products with the keys, if there is any.
        stack: The layers, each with its state.
    """

    def __init__(self, model: Any, memory: Memory, states: Sequence[State], stack: list[OneRowLayer]):
        decoder, config, self.stack = model.model.decoder, model.config, stack
        self.embedding, self.is_fed, self.is_deep = decoder.embed_tokens.weight.detach().numpy(), False, False
        self.adds_from = len(stack) if config.residual_from is None else config.residual_from
        self.asks, outputs = None, torch.from_numpy(stack[-1].hidden)
        if len(stack) > self.adds_from:
            outputs = torch.empty_like(outputs)
        self.last, self.readout = outputs.numpy(), None
        if decoder.attention is not None:
            self.is_fed, self.is_deep = config.input_feeding, config.deep_fusion
            self.asks = 0 if self.is_deep else len(stack) - 1
            real = slice(None) if memory.padding is None else ~memory.padding[0]
            self.keys, self.values = (part[0][real].contiguous().numpy() for part in memory.compared)
            weight = decoder.readout.weight.detach()
            inputs = weight.new_zeros(weight.shape[1])
            self.readout = InPlaceProduct(weight, inputs, bias=decoder.readout.bias.detach())
            self.seen, outputs = inputs.numpy(), self.readout.outputs
            self.said = outputs.numpy()
            if self.is_fed:
                self.said[:] = states[-1][0][0].numpy()
        self.head = InPlaceProduct(model.lm_head.weight.detach(), outputs, bias=model.lm_head.bias.detach())

    def __call__(self, tokens: Tensor) -> Tensor:
        outputs, found = self.embedding[int(tokens[0])], None
        for index, layer in enumerate(self.stack):
            width = len(outputs)
            layer.inputs[:width] = outputs
            if self.is_fed and not index:
                layer.inputs[width:] = self.said
            if self.is_deep and index:
                layer.inputs[width:] = found
            layer.step()
            outputs = layer.hidden + outputs if index >= self.adds_from else layer.hidden
            if index == self.asks:
                found = self._attend(outputs)
        if self.readout is None:
            if self.last is not outputs:
                self.last[:] = outputs
        else:
            self.seen[: len(outputs)], self.seen[len(outputs) :] = outputs, found
            self.readout()
            np.tanh(self.said, out=self.said)
        self.head()
        return self.head.outputs[None]

    def _attend(self, query: np.ndarray) -> np.ndarray:
        scores = self.keys @ query
        if not len(scores):
            return np.zeros_like(self.values, shape=self.values.shape[1])
        weights = np.exp(scores - scores.max())
        return (weights / weights.sum()) @ self.values

    @property
    def states(self) -> list[State]:
        """After the last step, as `config.state_sizes`."""
        parts = [(layer.hidden, layer.cell) for layer in self.stack]
        parts += [(self.said, None)] if self.is_fed else []
        return [tuple(None if part is None else torch.tensor(part)[None] for part in state) for state in parts]


class LightDecoder:
    """Steps for the loop of greedy search and sampling; the state is in `cache` once it is closed.

    Args:
        model: A [`RNNForConditionalGeneration`] with a plain decoder.
        memory: Of the sources.
        cache: The state to go on from.
        steps: How many there may be.
        ends: Tokens after which nothing of a row is asked for.
    """

    def __init__(self, model: Any, memory: Memory, cache: RNNCache, steps: int, ends: frozenset[int]):
        states, rows = [(layer.keys, layer.values) for layer in cache.layers], cache.batch_size
        self.cache, self.num_tokens, self.ends = cache, 0, ends
        self.steps: Any = one_row_steps(model, memory, states) if rows == 1 else None
        self.steps = self.steps or Steps(model, memory, states, rows, steps)
        self.going, self.live, self.rows = list(range(rows)), set(range(rows)), rows

    def __call__(self, tokens: Tensor) -> Tensor:
        self.num_tokens += 1
        if self.ends:
            self.live -= {row for row, token in enumerate(tokens.tolist()) if token in self.ends}
            # Each time a quarter of the rows has ended the others go on without them.
            if len(self.live) <= 0.75 * len(self.going) and self.live:
                kept = [place for place, row in enumerate(self.going) if row in self.live]
                self.going, places = [self.going[place] for place in kept], torch.tensor(kept, device=tokens.device)
                self.steps.select(places, places)
        if len(self.going) == self.rows:
            return self.steps(tokens)
        going = torch.tensor(self.going, device=tokens.device)
        logits = self.steps(tokens.index_select(0, going))
        return logits.new_zeros(self.rows, logits.shape[1]).index_copy_(0, going, logits)

    def close(self) -> None:
        if len(self.going) < self.rows:
            return  # nobody asks for the state
        for layer, (hidden, cell) in zip(self.cache.layers, self.steps.states, strict=True):
            layer.update(hidden, cell, self.num_tokens)


def one_row_steps(model: Any, memory: Memory, states: Sequence[State]) -> OneRowSteps | None:
    """Steps of a single row; `None` where `Steps` must be taken."""
    config, layers = model.config, model.model.decoder.layers
    if config.attention not in ("dot", "general", None) or memory.states.device.type != "cpu":
        return None
    stack = [layer.one_row(*state) for layer, state in zip(layers, states, strict=False)]
    return OneRowSteps(model, memory, states, stack) if all(stack) else None


class StepsOfRows(Protocol):
    """What a search takes steps by, such as `Steps`."""

    def __call__(self, tokens: Tensor) -> Tensor: ...

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None: ...


@dataclass
class BeamSearch:
    """Beam search by the rules of transformers' own, over sources that leave it as soon as they are done.

    Attributes:
        num_beams: K.
        num_return_sequences: Best sequences of each source to return.
        length_penalty: A sequence of n new tokens is worth its log-probability divided by n to this power.
        early_stopping: As in `GenerationConfig`.
        ends: Tokens that end a sequence.
        max_new_tokens: Longest sequence.
        are_log_probs: Whether steps give what is added up, such as the mean of several networks' log-probabilities.
    """

    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | str
    ends: frozenset[int]
    max_new_tokens: int
    are_log_probs: bool = False

    @classmethod
    def of(cls, config: GenerationConfig, prompt_length: int) -> "BeamSearch":
        """The search that `generate()` was asked for."""
        ends = getattr(config, "_eos_token_tensor", None)
        return cls(
            config.num_beams, config.num_return_sequences, config.length_penalty, config.early_stopping,
            frozenset(() if ends is None else ends.tolist()), config.max_length - prompt_length,
        )  # fmt: skip

    @property
    def num_candidates(self) -> int:
        """Continuations that are looked at: so many that K of them do not end."""
        return max(2, 1 + len(self.ends)) * self.num_beams

    def __call__(self, logits: Tensor, begin: Callable[[], StepsOfRows]) -> list[list[list[int]]]:
        """Search from the logits of the first token, `(B, V)`, on.

        Args:
            logits: Of one row a source.
            begin: Makes the steps of R rows, K of each source.

        Returns:
            For each source its best sequences of new tokens, best first.
        """
        beams, device = self.num_beams, logits.device
        found: list[list[tuple[float, list[int]]]] = [[] for _ in logits]
        active, scores = list(range(len(logits))), logits.new_zeros(len(logits), 1, dtype=torch.float32)
        written: list[list[int]] = [[] for _ in logits]
        steps: StepsOfRows | None = None
        for count in range(1, self.max_new_tokens + 1):
            values, tokens, parents = self._candidates(logits.float(), scores)
            going, live = [], []
            for place, source in enumerate(active):
                first = place * scores.shape[1]
                chosen = self._sift(
                    found[source],
                    count,
                    list(zip(values[place], tokens[place], [first + each for each in parents[place]], strict=True)),
                    written,
                )
                if chosen:
                    going.append(place)
                    live += chosen
            if not going:
                break
            values, tokens, rows = (list(part) for part in zip(*live, strict=True))
            written = [[*written[row], token] for row, token in zip(rows, tokens, strict=True)]
            sources = None if len(going) == len(active) else torch.tensor(going, device=device)
            if steps is None:
                steps, rows = begin(), [place * beams for place in going for _ in range(beams)]
                if sources is None:
                    rows = None
            if rows is not None:
                steps.select(torch.tensor(rows, device=device), sources)
            active = [active[place] for place in going]
            scores = torch.tensor(values, device=device).view(-1, beams)
            logits = steps(torch.tensor(tokens, device=device))
        return [[tokens for _, tokens in each[: self.num_return_sequences]] for each in found]

    def _candidates(self, logits: Tensor, scores: Tensor) -> tuple[list, list, list]:
        """Of each source the likeliest continuations, best first: log-probabilities, tokens, and of which beam."""
        size, (sources, beams) = self.num_candidates, scores.shape
        best, tokens = logits.topk(size, dim=1)
        best = best if self.are_log_probs else best - logits.logsumexp(dim=1, keepdim=True)
        total = best.view(sources, beams, size) + scores[..., None]
        if beams > 1:
            values, places = total.flatten(1).topk(size, dim=1)
        else:
            values, places = total[:, 0], torch.arange(size, device=logits.device).expand(sources, -1)
        tokens = tokens.view(sources, -1).gather(1, places)
        return values.tolist(), tokens.tolist(), (places // size).tolist()

    def _sift(
        self, found: list[tuple[float, list[int]]], count: int, candidates: list[tuple], written: list[list[int]]
    ) -> list[tuple]:
        """Put what has ended among what was `found` for a source; returns the K beams to go on with, or none.

        Candidates are log-probability, token and row of `written`, best first; with this token they are `count` long.
        """
        is_last = count == self.max_new_tokens
        for value, token, row in candidates[: self.num_beams]:
            if is_last or token in self.ends:
                found.append((value / count**self.length_penalty, [*written[row], token]))
        found.sort(key=lambda each: -each[0])
        del found[self.num_beams :]
        live = [each for each in candidates if each[1] not in self.ends][: self.num_beams]
        is_full = len(found) == self.num_beams
        longest = self.max_new_tokens if self.early_stopping == "never" and self.length_penalty > 0 else count
        gains = not is_full or live[0][0] / longest**self.length_penalty > found[-1][0]
        return [] if is_last or not gains or (is_full and self.early_stopping is True) else live


def search_beams(model: Any, input_ids: Tensor, config: GenerationConfig, given: dict[str, Any]) -> Tensor:
    """The sequences of a beam search, as `generate()` returns them.

    Args:
        model: A [`RNNForConditionalGeneration`] with a plain decoder.
        input_ids: Prompts, `(R, T)`, K equal rows of each source.
        config: As `generate()` made it.
        given: Other arguments of the model, with K rows of each source.
    """
    beams, mask = config.num_beams, given.get("decoder_attention_mask")
    parts = {name: part for name, part in given["encoder_outputs"].items() if isinstance(part, Tensor)}
    read, prompts = RNNEncoderOutput(**{name: part[::beams] for name, part in parts.items()}), input_ids[::beams]
    cache = RNNCache(model.config)
    logits = model(
        decoder_input_ids=prompts,
        decoder_attention_mask=None if mask is None else mask[::beams],
        encoder_outputs=read,
        cache=cache,
        use_cache=True,
        return_dict=True,
    ).logits[:, -1]
    search = BeamSearch.of(config, input_ids.shape[1])

    def begin() -> Steps:
        cache.batch_repeat_interleave(beams)
        states = [(layer.keys, layer.values) for layer in cache.layers]
        memory = model.model.decoder.memory_of(read, None)
        return Steps(model, memory, states, len(input_ids), search.max_new_tokens)

    found = [tokens for sequences in search(logits, begin) for tokens in sequences]
    pad, end = config._pad_token_tensor, config._eos_token_tensor
    filler = -1 if end is None else int(end[0] if pad is None or not pad else pad)  # as transformers has it
    longest = max(map(len, found))
    new = torch.tensor([tokens + [filler] * (longest - len(tokens)) for tokens in found], device=input_ids.device)
    return torch.cat([prompts.repeat_interleave(config.num_return_sequences, dim=0), new], dim=1)


__all__ = ["BeamSearch", "LightDecoder", "Steps", "is_plain_decoder", "search_beams"]
