"""What translation takes: a training step, greedy search and beams, against the same by hand with torch's layers."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_hf.benchmarking.by_hand import adam_step
from rnn_hf.models import RNNForConditionalGeneration, RNNSeq2SeqConfig
from rnn_hf.models.layers_rnn import CELLS
from rnn_hf.timing import in_turn, ratio


# The shape of the recipe multi30k_gru.
SHAPE: dict[str, Any] = {
    "vocab_size": 4000, "embedding_size": 256, "hidden_size": 512, "attention": "general", "bridge": "linear",
    "input_dropout": 0.3, "output_dropout": 0.3, "label_smoothing": 0.1,
}  # fmt: skip
SENTENCES, LONGEST, BEAMS = 64, 16, 5  # sentences of a training step, and pieces of the longest
PAD, START, END = 0, 1, 2


class ByHand(nn.Module):
    """Such a network as one writes it by hand: one bidirectional module over packed rows, a step at a time.

    Args:
        model: An `RNNForConditionalGeneration` of the shape `SHAPE`, of GRUs or LSTMs, whose weights it takes.
    """

    def __init__(self, model: Any):
        super().__init__()
        config, encoder, decoder = model.config, model.model.encoder, model.model.decoder
        cell, width = CELLS[config.cell_type], config.embedding_size
        self.embedding, self.size = nn.Embedding.from_pretrained(encoder.embed_tokens.weight.clone(), False), width
        self.encoder = cell(width, config.hidden_size // 2, bidirectional=True, batch_first=True)
        self.decoder = cell(width, config.hidden_size, batch_first=True)
        with torch.no_grad():
            for suffix, rnn in (("", encoder.layers[0].rnn), ("_reverse", encoder.layers[0].reverse)):
                for name, weight in rnn.named_parameters():
                    getattr(self.encoder, name + suffix).copy_(weight)
        self.decoder.load_state_dict(decoder.layers[0].rnn.state_dict())
        self.bridge, self.keys, self.readout = (
            nn.Linear(module.in_features, module.out_features, module.bias is not None)
            for module in (decoder.bridge, decoder.attention.k_proj, decoder.readout)
        )
        for own, module in zip(
            (self.bridge, self.keys, self.readout),
            (decoder.bridge, decoder.attention.k_proj, decoder.readout),
            strict=True,
        ):
            own.load_state_dict(module.state_dict())
        self.head = nn.Linear(width, config.vocab_size)
        self.head.weight = self.embedding.weight
        self.head.bias.data.copy_(model.lm_head.bias.data)
        self.dropout, self.smoothing = nn.Dropout(config.output_dropout), config.label_smoothing

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Outputs of the encoder `(B, S, H)`, keys, and the first state of the decoder."""
        embeds = self.dropout(self.embedding(ids))
        rows = nn.utils.rnn.pack_padded_sequence(embeds, mask.sum(1), batch_first=True, enforce_sorted=False)
        outputs, state = self.encoder(rows)
        memory, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
        last = state[0] if isinstance(state, tuple) else state
        first = self.bridge(last.transpose(0, 1).flatten(1)).tanh()[None]
        memory = self.dropout(memory)
        if isinstance(state, tuple):
            hidden, cell = first.chunk(2, dim=2)
            return memory, self.keys(memory), (hidden.contiguous(), cell.contiguous())
        return memory, self.keys(memory), first

    def say(self, ids: Tensor, state: Any, memory: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        """Logits `(B, T, V)` after the tokens `(B, T)`, and the state."""
        outputs, state = self.decoder(self.dropout(self.embedding(ids)), state)
        scores = torch.bmm(outputs, keys.transpose(1, 2)).masked_fill(~mask[:, None], -1e9)
        found = torch.bmm(scores.softmax(dim=-1), memory)
        said = self.dropout(self.readout(torch.cat([outputs, found], dim=-1)).tanh())
        return self.head(said), state

    def loss(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of targets `(B, T)`, which begin with what comes after the start token."""
        memory, keys, state = self.read(ids, mask)
        logits, _ = self.say(F.pad(labels[:, :-1].clamp(min=0), (1, 0), value=START), state, memory, keys, mask)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=self.smoothing)

    @torch.inference_mode()
    def greedy(self, ids: Tensor, mask: Tensor, steps: int) -> Tensor:
        """Greedy search; ends when all rows have."""
        memory, keys, state = self.read(ids, mask)
        written, over = [torch.full((len(ids),), START)], torch.zeros(len(ids), dtype=torch.bool)
        for _ in range(steps):
            logits, state = self.say(written[-1][:, None], state, memory, keys, mask)
            written.append(torch.where(over, PAD, logits[:, 0].argmax(dim=-1)))
            over |= written[-1] == END
            if over.all():
                break
        return torch.stack(written, dim=1)

    @torch.inference_mode()
    def beams(self, ids: Tensor, mask: Tensor, steps: int, beams: int = BEAMS) -> Tensor:
        """The plain search with beams: what has ended stays in its beam; ends when all beams of all rows have."""
        rows, size = len(ids), self.head.out_features
        memory, keys, state = self.read(ids, mask)
        memory, keys, mask = (part.repeat_interleave(beams, dim=0) for part in (memory, keys, mask))
        parts = state if isinstance(state, tuple) else (state,)
        parts = tuple(part.repeat_interleave(beams, dim=1) for part in parts)
        scores = torch.full((rows, beams), -1e9)
        scores[:, 0] = 0
        written, over = torch.full((rows * beams, 1), START), torch.zeros(rows * beams, dtype=torch.bool)
        first = torch.arange(rows)[:, None] * beams
        stays = torch.full((size,), -1e9)
        stays[PAD] = 0
        for _ in range(steps):
            given = parts if isinstance(state, tuple) else parts[0]
            logits, after = self.say(written[:, -1:], given, memory, keys, mask)
            likelihood = torch.where(over[:, None], stays, logits[:, 0].log_softmax(dim=-1))
            total = (scores[..., None] + likelihood.view(rows, beams, size)).flatten(1)
            scores, places = total.topk(beams, dim=1)
            chosen = (places // size + first).flatten()
            parts = tuple(part[:, chosen] for part in (after if isinstance(after, tuple) else (after,)))
            written = torch.cat([written[chosen], (places % size).flatten()[:, None]], dim=1)
            over = over[chosen] | (written[:, -1] == END)
            if over.all():
                break
        return written.view(rows, beams, -1)[torch.arange(rows), scores.argmax(dim=1)]


def make_both(cell_type: Any) -> tuple[RNNForConditionalGeneration, ByHand]:
    """The network and the same by hand, which never say the end token: each search takes all of its steps."""
    torch.manual_seed(0)
    model = RNNForConditionalGeneration(RNNSeq2SeqConfig(**SHAPE, cell_type=cell_type))
    with torch.no_grad():
        model.lm_head.bias[END] = model.lm_head.bias[PAD] = -1e4
    model.generation_config.max_length = LONGEST + 1
    return model, ByHand(model)


def some_sources(rows: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of sentences of two thirds of the longest and more."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(LONGEST * 2 // 3, LONGEST + 1, (rows, 1), generator=generator)
    lengths[0] = LONGEST
    mask = torch.arange(LONGEST) < lengths
    return torch.randint(4, SHAPE["vocab_size"], mask.shape, generator=generator).masked_fill(~mask, PAD), mask


def training_steps(cell_type: str) -> dict[str, Callable[[], Tensor]]:
    """A step of Adam by the package and by hand, on the same sentences; each call returns the loss before it."""
    model, by_hand = make_both(cell_type)
    (ids, mask), (labels, real) = some_sources(SENTENCES), some_sources(SENTENCES)
    labels = labels.masked_fill(~real, -100)

    return {
        "package": adam_step(model, lambda: model(ids, attention_mask=mask, labels=labels).loss),
        "by hand": adam_step(by_hand, lambda: by_hand.loss(ids, mask, labels)),
    }


def searches(cell_type: str, rows: int, beams: int) -> dict[str, Callable[[], Tensor]]:
    """Translations of some sentences by the package, by hand, and by the package in transformers' own loop."""
    network, by_hand = make_both(cell_type)
    model: Any = network.eval()
    by_hand.eval()
    ids, mask = some_sources(rows)

    def generate(directly: bool) -> Tensor:
        model.decodes_directly = directly
        written: Tensor = model.generate(inputs=ids, attention_mask=mask.long(), num_beams=beams)
        return written

    search = by_hand.greedy if beams == 1 else by_hand.beams
    return {
        "package": lambda: generate(True),
        "by hand": lambda: search(ids, mask, LONGEST),
        "transformers' loop": lambda: generate(False),
    }


def benchmark_translation(rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the table `translation` on one thread: `case`, `milliseconds` (medians) of each way and `ratio`."""
    torch.set_num_threads(1)
    for table, cell_type in zip(repeat("translation"), ("gru", "lstm")):
        cases = {f"{cell_type}, a training step of {SENTENCES} sentences": partial(training_steps, cell_type)}
        for rows, (beams, search) in product((1, 32), ((1, "greedy"), (BEAMS, f"{BEAMS} beams"))):
            cases[f"{cell_type}, {search}, batch {rows}"] = partial(searches, cell_type, rows, beams)
        for case, make in cases.items():
            times = in_turn(make(), rounds)
            milliseconds = {name: round(1000 * statistics.median(taken), 1) for name, taken in times.items()}
            others = [name for name in times if name != "package"]
            ratios = {name: round(ratio(times, "package", name), 3) for name in others}
            yield table, {"case": case, "milliseconds": milliseconds, "ratio": ratios}
