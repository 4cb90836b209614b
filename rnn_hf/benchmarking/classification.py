"""What classifiers take: both directions against torch's packed module, and words a second of a tagger."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_hf.benchmarking.training import CELL_TYPES, CellType
from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.rows import read_file
from rnn_hf.loading import load_model
from rnn_hf.models import RNNConfig, RNNModel
from rnn_hf.models.layers_rnn import CELLS
from rnn_hf.tasks.labelled import run_batches
from rnn_hf.tasks.token_classification import EVALUATION_BATCH, predict
from rnn_hf.timing import announced, in_turn, ratio
from rnn_hf.training.setup import keep_freed_memory


WIDTHS = (128, 300)
ROWS, SHORTEST, LONGEST = 50, 18, 22  # of a batch of texts of about one length
VOCABULARY = 1000


class PackedNetwork(nn.Module):
    """The network as one writes it by hand: one bidirectional module of torch over packed rows."""

    def __init__(self, cell_type: CellType, width: int):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.rnn = CELLS[cell_type](width, width, batch_first=True, bidirectional=True)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows = pack_padded_sequence(self.embed(ids), mask.sum(dim=1), batch_first=True, enforce_sorted=False)
        outputs, _ = self.rnn(rows)
        return pad_packed_sequence(outputs, batch_first=True, total_length=ids.shape[1])[0]


def bidirectional_passes(cell_type: CellType, width: int) -> dict[str, Callable[[], Any]]:
    """A forward and backward pass of this package's network and of the one by hand, on the same weights and batch.

    Each returns the gradient of the embedding.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (ROWS, LONGEST), generator=generator)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (ROWS, 1), generator=generator)
    lengths[0] = LONGEST
    mask = torch.arange(LONGEST) < lengths
    upstream = torch.randn(ROWS, LONGEST, 2 * width, generator=generator) * mask[..., None]
    config = RNNConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=1, cell_type=cell_type, bidirectional=True
    )
    ours: Any = RNNModel(config).train()
    by_hand: Any = PackedNetwork(cell_type, width).train()

    with torch.no_grad():
        by_hand.embed.weight.copy_(ours.embed_tokens.weight)
        for name, weight in by_hand.rnn.named_parameters():
            module = ours.layers[0].reverse if name.endswith("_reverse") else ours.layers[0].rnn
            weight.copy_(getattr(module, name.removesuffix("_reverse")))

    def run_ours() -> torch.Tensor:
        ours.zero_grad()
        ours(ids, attention_mask=mask).last_hidden_state.backward(upstream)
        return ours.embed_tokens.weight.grad

    def run_by_hand() -> torch.Tensor:
        by_hand.zero_grad()
        by_hand(ids, mask).backward(upstream)
        return by_hand.embed.weight.grad

    return {"ours": run_ours, "packed": run_by_hand}


def benchmark_bidirectional(rounds: int) -> Iterator[dict[str, Any]]:
    """Time of a forward and backward pass in both directions over that of torch's packed bidirectional module.

    Yields:
        Rows of `size`, `milliseconds` of each, medians, and `ratio`.
    """
    sizes = [(cell_type, width) for cell_type in CELL_TYPES for width in WIDTHS]
    for cell_type, width in announced("both directions", sizes):
        times = in_turn(bidirectional_passes(cell_type, width), 3 * rounds)  # of milliseconds
        yield {
            "size": f"{cell_type} 1x{width}, {ROWS} texts of {SHORTEST} to {LONGEST} tokens",
            "milliseconds": {name: round(1000 * statistics.median(seconds), 2) for name, seconds in times.items()},
            "ratio": {"packed module": round(ratio(times, "ours", "packed"), 3)},
        }


def benchmark_tagging(name: str, sentences: Sequence[list[str]], rounds: int) -> Iterator[dict[str, Any]]:
    """Words a second of a tagger: of the network alone, on ids, and of `predict`, from words to labels.

    Args:
        name: Directory of the model.
        sentences: Words each.
        rounds: Runs of each, of which the median counts.

    Yields:
        One row: `model` and `words_per_second`.
    """
    model, tokenizer = load_model(name, auto_class="AutoModelForTokenClassification")
    examples = encode_rows([{"words": words} for words in sentences], tokenizer)
    ways: dict[str, Callable[[], object]] = {
        "from ids": lambda: list(run_batches(model, examples, EVALUATION_BATCH)),
        "from words": lambda: list(predict(model, tokenizer, sentences)),
    }
    num_words, seconds = sum(map(len, sentences)), dict[str, list[float]]()
    for _ in range(max(3, rounds // 2)):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds.setdefault(way, []).append(time.perf_counter() - start)
    rates = {way: round(num_words / statistics.median(times)) for way, times in seconds.items()}
    yield {"model": Path(name).name, "words_per_second": rates}


def benchmark_classification(rounds: int, directory: Path | None, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows with their tables: `bidirectional` and, with a `directory` of the words of ewt_pos, `tagging`."""
    keep_freed_memory()
    yield from zip(repeat("bidirectional"), benchmark_bidirectional(rounds))
    if directory is not None:
        rows = read_file(str(directory / "validation.tsv"), "token-classification", None, None)
        tagger = str(root / "model_cards" / "ewt_pos_bilstm")
        yield from zip(repeat("tagging"), benchmark_tagging(tagger, [row.text for row in rows], rounds))
