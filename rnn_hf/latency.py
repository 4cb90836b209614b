"""How long a model's next token takes, as a reader of a stream sees it: median and 95th percentile."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """A streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """There is nothing to show."""


def latencies(model: Any, batch_size: int, tokens: int) -> list[float]:
    """Seconds between one greedy token and the next, for `tokens` tokens of `batch_size` texts, after a warm-up.

    Args:
        model: A causal language model of this package, or its ONNX export's runner.
        batch_size: Texts that are written together.
        tokens: Tokens of each.
    """
    prompt = torch.ones(batch_size, 1, dtype=torch.long, device=model.device)
    options = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for count in (min(tokens, 16), tokens):
        clock = Clock()
        model.generate(prompt, max_new_tokens=count + 1, streamer=clock, **options)
    # The first is the prompt, and the token after it waits for what generate() prepares.
    return [after - before for before, after in zip(clock.times[1:], clock.times[2:], strict=False)]


def measure(models: Mapping[str, Any], batch_sizes: Sequence[int], tokens: int) -> Iterator[dict[str, Any]]:
    """A row for each model and batch size, as it is measured.

    Returns:
        Rows of `runtime`, `batch_size`, `p50_ms` and `p95_ms` of a token's latency, and `tokens_per_second` of all
        texts together.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4)).eval()
    >>> [row["batch_size"] for row in measure({"PyTorch": model}, (1, 2), tokens=8)]
    [1, 2]
    """
    for batch_size in batch_sizes:
        for name, model in models.items():
            seconds = latencies(model, batch_size, tokens)
            percentiles = statistics.quantiles(seconds, n=20, method="inclusive")
            yield {
                "runtime": name,
                "batch_size": batch_size,
                "p50_ms": round(1000 * statistics.median(seconds), 4),
                "p95_ms": round(1000 * percentiles[-1], 4),
                "tokens_per_second": round(batch_size * len(seconds) / sum(seconds)),
            }
