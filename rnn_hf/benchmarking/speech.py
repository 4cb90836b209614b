"""What it takes to hear: a stream of speech, step by step, against the same loop by hand with torch's layers."""

import math
import statistics
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_hf.models.feature_extraction_rnn import NEPERS_PER_DB, RNNFeatureExtractor
from rnn_hf.models.layers_rnn import CELLS
from rnn_hf.tasks.automatic_speech_recognition import load_recognizer
from rnn_hf.timing import announced, in_turn, ratio


CHUNKS = (1, 4, 20)  # steps of the network in a piece
SECONDS = 3.0  # of speech in a measurement, and
WHOLE_SECONDS = 60.0  # of one that is heard at once


def some_speech(seconds: float, sampling_rate: int) -> Tensor:
    """Noise that swells and fades four times a second, `(N,)`: what it says does not matter to the speed."""
    samples = torch.randn(round(seconds * sampling_rate), generator=torch.Generator().manual_seed(0))
    swell = (torch.arange(len(samples)) / sampling_rate * 4 * 2 * math.pi).sin()
    return 0.02 * samples * (2 * swell).exp()


class ByHand:
    """A stream as one writes it by hand: torch's Fourier transform, one module of several layers, the state kept.

    Args:
        model: An `RNNForCTC` in one direction with layers of torch, whose weights it takes.
        extractor: That of the model.
        tokenizer: That of the model.
    """

    def __init__(self, model: Any, extractor: RNNFeatureExtractor, tokenizer: Any):
        config = model.config
        self.stack, self.extractor, self.labels, self.blank = (
            config.frame_stack, extractor, tokenizer.tokens, config.pad_token_id,
        )  # fmt: skip
        self.window, self.filters = torch.from_numpy(extractor.window), torch.from_numpy(extractor.mel_filters)
        self.mean, self.std = torch.tensor(extractor.mean), torch.tensor(extractor.std)
        self.fall = (extractor.level_decay or 0) * NEPERS_PER_DB * extractor.hop_length / extractor.sampling_rate
        self.project, self.head = model.model.input_projection, model.lm_head
        self.rnn: Any = CELLS[config.cell_type](
            config.embedding_size, config.hidden_size, num_layers=config.num_hidden_layers, batch_first=True
        )
        with torch.no_grad():
            for index, layer in enumerate(model.model.layers):
                for name, weight in layer.rnn.named_parameters():
                    getattr(self.rnn, name.replace("l0", f"l{index}")).copy_(weight)
        nn.Module.eval(self.rnn)
        self.tail = torch.zeros(extractor.win_length - extractor.hop_length)
        self.frames, self.state, self.level, self.last = torch.zeros(0, extractor.feature_size), None, -math.inf, -1

    @torch.inference_mode()
    def push(self, samples: Tensor) -> str:
        """Hear the next samples `(N,)`; returns the labels that they add."""
        extractor = self.extractor
        joined = torch.cat([self.tail, samples])
        frames = joined.unfold(0, extractor.win_length, extractor.hop_length)
        self.tail = joined[len(frames) * extractor.hop_length :]
        spectrum = torch.fft.rfft(frames * self.window, extractor.n_fft)
        log_mel = ((spectrum.real**2 + spectrum.imag**2) @ self.filters).clamp(min=math.exp(extractor.floor)).log()
        if extractor.level_decay is not None:
            for frame in log_mel:
                energy = float(frame.exp().mean().log())
                self.level = max(energy, self.level - self.fall, extractor.level_floor)
                frame -= self.level
        features = torch.cat([self.frames, (log_mel - self.mean) / self.std]).float()
        steps = features[: len(features) // self.stack * self.stack].reshape(1, -1, self.stack * features.shape[1])
        self.frames, added = features[steps.shape[1] * self.stack :], []
        if steps.shape[1]:
            outputs, self.state = self.rnn(F.linear(steps, self.project.weight, self.project.bias), self.state)
            for label in F.linear(outputs[0], self.head.weight, self.head.bias).argmax(dim=1).tolist():
                if label not in (self.last, self.blank):
                    added.append(self.labels[label])
                self.last = label
        return " ".join(added)


def streams(parts: tuple[Any, Any, RNNFeatureExtractor], samples: int) -> dict[str, Callable[[], str]]:
    """Hear some speech in pieces of so many samples, by a stream and by hand; each call returns the text."""
    model, tokenizer, extractor = parts
    speech = some_speech(SECONDS, extractor.sampling_rate)
    pieces = speech[: len(speech) // samples * samples].split(samples)

    def by_stream() -> str:
        stream = model.stream(extractor, tokenizer)
        return "".join(stream.push(piece) for piece in pieces)

    def by_hand() -> str:
        stream = ByHand(model, extractor, tokenizer)
        return " ".join(filter(None, (stream.push(piece) for piece in pieces)))

    return {"stream": by_stream, "by hand": by_hand}


def benchmark_streams(parts: tuple[Any, Any, RNNFeatureExtractor], rounds: int) -> Iterator[dict[str, Any]]:
    """Time of a piece of speech, heard by a stream, over that of the loop by hand.

    Yields:
        Rows of `piece`, `milliseconds` a piece of each, medians, `ratio`, and `real_time_factor` of the stream:
        seconds of work for a second of speech.
    """
    model, _, extractor = parts
    step = model.config.inputs_to_logits_ratio
    for size in announced("steps a piece", CHUNKS):
        ways = streams(parts, size * step)
        times = in_turn(ways, rounds)
        seconds = size * step / extractor.sampling_rate
        number = int(SECONDS // seconds)
        per_piece = {name: 1000 * statistics.median(taken) / number for name, taken in times.items()}
        yield {
            "piece": f"{1000 * seconds:.0f} ms",
            "milliseconds": {name: round(value, 3) for name, value in per_piece.items()},
            "ratio": {"by hand": round(ratio(times, "stream", "by hand"), 3)},
            "real_time_factor": round(per_piece["stream"] / 1000 / seconds, 5),
        }


def benchmark_whole(parts: tuple[Any, Any, RNNFeatureExtractor], rounds: int) -> Iterator[dict[str, Any]]:
    """Work for a second of speech that is heard at once: features, network and text.

    Yields:
        One row: `seconds` of the recording, and the `real_time_factor`.
    """
    model, tokenizer, extractor = parts
    speech = some_speech(WHOLE_SECONDS, extractor.sampling_rate)

    def whole() -> str:
        inputs = extractor(speech, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return tokenizer.decode(model.generate(**inputs)[0])

    (times,) = in_turn({"whole": whole}, rounds).values()
    yield {"seconds": WHOLE_SECONDS, "real_time_factor": round(statistics.median(times) / WHOLE_SECONDS, 5)}


def benchmark_speech(rounds: int, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows with their tables, `streams` and `whole`, of the shipped recognizer on one thread."""
    torch.set_num_threads(1)
    model, tokenizer, extractor = load_recognizer(str(root / "model_cards" / "fsdd_gru_ctc"))
    parts = model.float().eval(), tokenizer, extractor
    yield from zip(repeat("streams"), benchmark_streams(parts, rounds))
    yield from zip(repeat("whole"), benchmark_whole(parts, rounds))
