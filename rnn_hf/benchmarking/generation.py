"""`generate()` of the package against loops written by hand, transformers' own, and other networks."""

import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from rnn_hf.benchmarking.by_hand import BareLanguageModel
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.models import RNNConfig, RNNForCausalLM, RNNLayer
from rnn_hf.onnx.graph import build_graph
from rnn_hf.onnx.session import open_session
from rnn_hf.plotting import new_figure, save_figure
from rnn_hf.scoring import score
from rnn_hf.timing import alone, announced, in_turn, ratio
from rnn_hf.training.setup import keep_freed_memory


@dataclass(frozen=True)
class DecodingSize:
    """One row of the generation benchmark."""

    cell_type: Any
    hidden_size: int
    num_hidden_layers: int
    batch_size: int
    vocab_size: int = 10_000

    def __str__(self) -> str:
        return f"{self.cell_type} {self.num_hidden_layers}x{self.hidden_size}, batch {self.batch_size}"

    def tokens(self, work: float) -> int:
        """How many tokens to time: the fewer, the more arithmetic one takes, and at least 64."""
        one = self.batch_size**0.5 * self.hidden_size * (self.vocab_size + 8 * self.hidden_size)
        return max(64, int(work / one))


DECODING_SIZES = [
    DecodingSize(cell_type, hidden_size, layers, batch_size)
    for cell_type, hidden_size, layers in (
        ("lstm", 200, 2), ("lstm", 650, 2), ("lstm", 1150, 3), ("gru", 650, 2), ("rnn", 650, 2)
    )
    for batch_size in (1, 32)
]  # fmt: skip
# Where Python's part is the largest, and where the products are; compared for one row alone.
MORE_SIZES_OF_ONE_ROW = [DecodingSize("lstm", 128, 1, 1), DecodingSize("lstm", 1500, 1, 1)]
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.9}


@contextmanager
def stock_generation(model: RNNForCausalLM) -> Iterator[None]:
    """`generate()` by transformers' own loop, each step through the fused modules."""
    model.decodes_directly = RNNLayer.steps_directly = False
    try:
        yield
    finally:
        model.decodes_directly = RNNLayer.steps_directly = True


def bare_copy(model: RNNForCausalLM) -> BareLanguageModel:
    """The same network written by hand, with the same weights."""
    bare = BareLanguageModel(model.config).to(model.device).eval()
    bare.embedding.load_state_dict(model.model.embed_tokens.state_dict())
    bare.output.load_state_dict(model.lm_head.state_dict())
    for index, layer in enumerate(model.model.layers):
        weights = {name.replace("_l0", f"_l{index}"): value for name, value in layer.rnn.state_dict().items()}
        bare.rnn.load_state_dict(weights, strict=False)
    return bare


@torch.no_grad()
def decode_by_hand(bare: BareLanguageModel, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """The greedy loop that one writes by hand, from `(B, 1)` to `(B, count + 1)` tokens."""
    sequence, state = [tokens], None
    for _ in range(count):
        hidden, state = bare.rnn(bare.embedding(sequence[-1]), state)
        sequence.append(bare.output(hidden).argmax(dim=-1))
    return torch.cat(sequence, dim=1)


def random_model(size: DecodingSize) -> Any:
    """A network of this size with the same random weights each time."""
    torch.manual_seed(0)
    config = RNNConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        cell_type=size.cell_type,
        tie_word_embeddings=False,
        initializer_range=0.5,
    )
    model = RNNForCausalLM(config).eval()
    model.flatten_parameters()
    return model


def decoding_runs(size: DecodingSize, count: int) -> dict[str, Callable[[], torch.Tensor]]:
    """`count` tokens by the package's `generate()`, by transformers' loop, and by hand; greedy, and sampled."""
    model = random_model(size)
    bare = bare_copy(model)
    prompt = torch.randint(size.vocab_size, (size.batch_size, 1))
    mask = torch.ones_like(prompt)
    options = {"attention_mask": mask, "max_new_tokens": count, "pad_token_id": 0}

    def stock(**sampling: Any) -> torch.Tensor:
        with stock_generation(model):
            return model.generate(prompt, **options, **sampling)

    runs = {
        "ours": lambda: model.generate(prompt, do_sample=False, **options),
        "by hand": lambda: decode_by_hand(bare, prompt, count),
        "stock generate()": lambda: stock(do_sample=False),
        "ours, sampling": lambda: model.generate(prompt, **options, **SAMPLING),
        "stock generate(), sampling": lambda: stock(**SAMPLING),
    }
    if find_spec("onnxruntime") and find_spec("onnx"):
        session = open_session(build_graph(model).SerializeToString(), "cpu", torch.get_num_threads())
        runs["ONNX Runtime by hand"] = lambda: onnx_loop(session, prompt, count)
    return runs


def onnx_loop(session: Any, prompt: torch.Tensor, count: int) -> torch.Tensor:
    """The greedy loop that one writes by hand over an exported graph, from `(B, 1)` to `(B, count + 1)` tokens."""
    tokens = prompt.numpy()
    state = {value.name: np.zeros((len(tokens), value.shape[1]), np.float32) for value in session.get_inputs()[1:]}
    sequence = [tokens]
    for _ in range(count):
        logits, *after = session.run(None, {"input_ids": sequence[-1], **state})
        state = dict(zip(state, after, strict=True))
        sequence.append(logits[:, -1].argmax(axis=-1)[:, None])
    return torch.from_numpy(np.concatenate(sequence, axis=1))


def benchmark_decoding(rounds: int = 9) -> Iterator[dict[str, Any]]:
    """Time of `generate()` on a CPU against loops written by hand and transformers' own, a row a size.

    Yields:
        Rows of `size`, `milliseconds` a token step of the package, greedy, and `ratio` of its time to that of each
        other candidate, sampling to sampling; below 1 the package is faster.
    """
    for size in announced("generate()", DECODING_SIZES + MORE_SIZES_OF_ONE_ROW):
        count = size.tokens(8e8)
        runs = decoding_runs(size, count)
        greedy = [run() for name, run in runs.items() if "sampling" not in name]
        if not all(torch.equal(tokens, greedy[0]) for tokens in greedy):
            raise AssertionError(f"the loops do not find the same tokens at {size}")
        times = in_turn(runs, rounds)
        pairs = [("ours, sampling" if "sampling" in name else "ours", name) for name in times if "ours" not in name]
        yield {
            "size": str(size),
            "milliseconds": round(1000 * statistics.median(times["ours"]) / count, 3),
            "ratio": {name: round(ratio(times, ours, name), 3) for ours, name in pairs},
        }


CONTEXTS = (1, 256, 1024, 4096, 16_384)


def networks_of_equal_size(vocab_size: int = 10_000) -> dict[str, Any]:
    """An LSTM, and transformers' GPT-2 and Mamba of about as many parameters, all with random weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 256, "n_layer": 5, "n_head": 4, "n_positions": CONTEXTS[-1] + 64}
    gpt2 = GPT2Config(vocab_size=vocab_size, bos_token_id=None, eos_token_id=None, **sizes)
    mamba = MambaConfig(vocab_size=vocab_size, hidden_size=256, num_hidden_layers=9)
    models: dict[str, Any] = {
        "LSTM": RNNForCausalLM(RNNConfig(vocab_size=vocab_size, hidden_size=400, num_hidden_layers=2)),
        "GPT-2": GPT2LMHeadModel(gpt2),
        "Mamba": MambaForCausalLM(mamba),
    }
    models["LSTM"].flatten_parameters()
    return {name: model.eval() for name, model in models.items()}


def bytes_of(content: Any) -> int:
    """Bytes of all tensors in a cache, each counted once."""
    seen: dict[int, int] = {}

    def visit(value: Any, depth: int = 0) -> None:
        if isinstance(value, torch.Tensor):
            seen[value.data_ptr()] = value.numel() * value.element_size()
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part, depth)
        elif isinstance(value, dict):
            visit(list(value.values()), depth)
        elif hasattr(value, "__dict__") and depth < 3:
            visit(list(vars(value).values()), depth + 1)

    visit(content)
    return sum(seen.values())


@torch.no_grad()
def benchmark_context(rounds: int = 5, contexts: tuple[int, ...] = CONTEXTS) -> Iterator[dict[str, Any]]:
    """Time of one more token, and size of what is kept, as the text before it grows.

    Without positions that are learned, as for random weights here, only the length of the context matters, so
    GPT-2's position table is left out of its count of parameters.

    Yields:
        Rows of `model`, `parameters`, `context`, `milliseconds` a token (median), `kilobytes` of state or cache.
    """
    models = networks_of_equal_size()
    for name in announced("context", models):
        model, memory = models[name], name_of_memory(models[name])
        positions = model.transformer.wpe.weight.numel() if name == "GPT-2" else 0
        for context in contexts:
            ids = torch.randint(1, 10_000, (1, context))
            cache = None
            for part in ids.split(2048, dim=1):
                cache = model(part, **{memory: cache}, use_cache=True, logits_to_keep=1)[memory]
            token, seconds = ids[:, -1:], []
            for _ in range(max(rounds, 3) * 4):
                start = time.perf_counter()
                model(token, **{memory: cache}, use_cache=True)
                seconds.append(time.perf_counter() - start)
            yield {
                "model": name,
                "parameters": model.num_parameters() - positions,
                "context": context,
                "milliseconds": round(1000 * statistics.median(seconds), 3),
                "kilobytes": round(bytes_of(cache) / 1024, 1),
            }


def name_of_memory(model: Any) -> str:
    """What a model calls its memory as an argument and an output; transformers renamed it in 5.24."""
    arguments = inspect.signature(model.forward).parameters
    return next(name for name in ("cache", "past_key_values", "cache_params") if name in arguments)


LENGTHS = (1_000, 10_000, 100_000, 1_000_000)


def resident_memory(lengths: tuple[int, ...] = LENGTHS) -> Iterator[dict[str, Any]]:
    """Resident memory, in megabytes, of two processes of their own after so many tokens generated in one call, and
    after so many tokens scored as one text that comes line by line.

    The ids that are generated take 8 bytes a token, and their buffer up to twice that.
    """
    generated, scored = (alone(_memory_after, what, lengths) for what in ("generate", "score"))
    for length, generating, scoring in zip(lengths, generated, scored, strict=True):
        yield {"tokens": length, "megabytes generating": generating, "megabytes scoring": scoring}


def _memory_after(what: str, lengths: tuple[int, ...]) -> list[float]:
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=1000, hidden_size=64, num_hidden_layers=1)).eval()
    tokenizer = build_tokenizer([" ".join(map(str, range(997)))])
    prompt, megabytes = torch.tensor([[1]]), []
    options = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    for length in lengths:
        if what == "generate":
            model.generate(prompt, max_new_tokens=length, **options)
        else:
            lines = (" ".join(map(str, range(100))) for _ in range(length // 100))
            num_scored = sum(len(line.surprisals) for line in score(model, tokenizer, lines, carry_state=True))
            assert num_scored == length // 100 * 100
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        megabytes.append(round(pages * 4096 / 1e6, 1))
    return megabytes


def benchmark_generation(rounds: int = 9) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows of the generation benchmark with their tables: `rows` of times, `context` and `memory`.

    The process keeps freed memory, as in `benchmark_training`; those that `memory` is measured in do not.
    """
    keep_freed_memory()
    yield from zip(repeat("rows"), benchmark_decoding(rounds))
    yield from zip(repeat("context"), benchmark_context(rounds))
    yield from zip(repeat("memory"), resident_memory())


def plot_context(tables: dict[str, Any], png: Path) -> None:
    """Draw the `context` of `benchmark_generation`: time a token and memory over the length of the context.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    rows = tables["context"]
    figure = new_figure(9, 4)
    figure.suptitle("Time and memory of one more token, networks of one size")
    figure.get_layout_engine().set(wspace=0.1)
    panels = figure.subplots(1, 2)
    units = {"milliseconds": "milliseconds a token", "megabytes": "megabytes of state or cache"}
    for panel, (key, label) in zip(panels, units.items(), strict=True):
        for name, marker in zip(dict.fromkeys(row["model"] for row in rows), "os^", strict=True):
            of_model = [row | {"megabytes": row["kilobytes"] / 1024} for row in rows if row["model"] == name]
            contexts, values = zip(*((row["context"], row[key]) for row in of_model), strict=True)
            panel.plot(contexts, values, marker=marker, markersize=5, label=name)
        panel.set(xlabel="tokens of context", ylabel=label, xscale="log", yscale="log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter("{x:g}")
        panel.grid(alpha=0.3)
    panels[0].yaxis.get_major_locator().set_params(subs=(1, 2, 5))  # its times span one power of ten
    panels[0].minorticks_off()
    panels[0].legend()
    save_figure(figure, png)
