"""Speech recognised while somebody speaks: samples in, text out, whatever the pieces.

Shapes in comments: N samples, T frames, T' steps, V kinds of labels.
"""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .cache_rnn import RNNCache, identity_of
from .feature_extraction_rnn import RNNFeatureExtractor, read_samples
from .kernels_rnn import InPlaceProduct, has_global_hooks, has_own_forward, is_bare, is_own
from .tokenization_rnn_ctc import RNNCTCTokenizer
from .versions_rnn import autocast_dtype


# What decides the features of a recording; a saved stream goes on with the same ones only.
SETTINGS = (
    "feature_size", "sampling_rate", "hop_length", "win_length", "n_fft", "mean", "std", "level_decay", "floor",
    "level_floor", "end_silence",
)  # fmt: skip
GAPS = (None, "", " ")  # what may stand before the next character or word, in a file by its place here
FEW_STEPS = 4  # of one stream at once: more are faster in one call of the modules
CPU = torch.device("cpu")
# Of each layer h `(B, H)` and, of an LSTM, c.
State = list[tuple[Tensor, Tensor | None]]


class RNNSpeechStream:
    r"""What a recognizer has heard of one speaker, so that it can go on: any pieces give the numbers of the whole.

    It holds the samples that later frames need, the level, frames that fill no step yet, the state of the network and
    the last label: as much after an hour as after a second. `text` alone grows; the stream does not read it, so it may
    be set to `""` at any time.

    Args:
        model: An [`RNNForCTC`] in one direction, in evaluation mode, whose weights stay as they are meanwhile.
        feature_extractor: That of the model.
        tokenizer: That of the model.

    Attributes:
        text: All that was heard, as `tokenizer.decode(model.generate(...)[0])` of the whole.

    Raises:
        ValueError: The model reads in both directions or is in training mode; the parts do not fit each other.

    Example:

    >>> import torch
    >>> from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC, RNNSpeechConfig, RNNSpeechStream
    >>> tokenizer = RNNCTCTokenizer.build(["one two"], unit="words")
    >>> model = RNNForCTC(RNNSpeechConfig(vocab_size=len(tokenizer), hidden_size=8)).eval()
    >>> stream = RNNSpeechStream(model, RNNFeatureExtractor(), tokenizer)
    >>> heard = [stream.push(chunk) for chunk in torch.zeros(8000).split(300)] + [stream.finish()]
    >>> "".join(heard) == stream.text
    True
    """

    def __init__(self, model: Any, feature_extractor: RNNFeatureExtractor, tokenizer: RNNCTCTokenizer):
        config = model.config
        config.check_has_state("a stream of speech")
        if model.training:
            raise ValueError("`model` is in training mode, in which it drops units at random: call model.eval() first")
        for name, wanted in (("feature_size", config.num_mel_bins), ("hop_length", config.hop_length)):
            found = getattr(feature_extractor, name)
            if found != wanted:
                raise ValueError(f"`feature_extractor` has the `{name}` {found}, that of the model is {wanted}")
        if len(tokenizer) != config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
            raise ValueError(
                f"`tokenizer` is not that of the model: it has {len(tokenizer)} tokens and the blank "
                f"{tokenizer.pad_token_id}, should be {config.vocab_size} and {config.pad_token_id}"
            )
        self.model, self.feature_extractor, self.tokenizer = model, feature_extractor, tokenizer
        self.text, self.is_finished, self.frame_stack = "", False, config.frame_stack
        self.tail: np.ndarray | None = None
        self.level: float | None = None
        self.frames = np.zeros((0, config.num_mel_bins), np.float32)
        zeros = torch.zeros(1, 0, dtype=model.dtype, device=model.device)
        self.state: State = [
            (zeros.new_zeros(1, hidden), None if cell is None else zeros.new_zeros(1, cell))
            for hidden, cell in config.state_sizes
        ]
        self.one_row: OneRow | None = None
        self.last: int | None = None  # the label or blank of the last step
        self.gap: str | None = None  # see `RNNCTCTokenizer.join`

    def push(self, samples: Any) -> str:
        """Hear the next samples.

        Args:
            samples: `(N,)`, any number of them, as the feature extractor takes them.

        Returns:
            The text that they add, which may be empty, with the space before it.

        Raises:
            ValueError: The stream is finished; samples of several channels, of whole numbers or not finite. The stream
                is then as before.
        """
        return push_all([self], [samples])[0]

    def finish(self) -> str:
        """End the stream: hear the `end_silence` of the feature extractor, as behind a whole recording.

        Frames that fill no step are not read, here as in the whole.

        Returns:
            The text that this adds, which may be empty.

        Raises:
            ValueError: The stream is finished.
        """
        added = self.push(torch.zeros(self.feature_extractor.end_silence))
        self.is_finished = True
        return added

    def fork(self) -> "RNNSpeechStream":
        """A stream of its own with the same content, to go on from twice."""
        return copy.copy(self)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, a fork or a pickle holds: not the one thing that is written to, whose parts share memory."""
        return vars(self) | {"one_row": None}

    def save(self, path: str | os.PathLike) -> None:
        """Write the stream to a safetensors file: a draft, then moved in place. Its `text` is not written.

        Raises:
            ValueError: The stream is finished.
        """
        check_open(self)
        tensors = {"frames": torch.from_numpy(self.frames), "gap": torch.tensor(GAPS.index(self.gap))}
        tensors["last"] = torch.tensor(-1 if self.last is None else self.last)
        if self.tail is not None:
            tensors["tail"] = torch.from_numpy(self.tail)
        if self.level is not None:
            tensors["level"] = torch.tensor(self.level, dtype=torch.double)
        for index, (hidden, cell) in enumerate(self.state):
            tensors |= {f"layers.{index}.hidden": hidden} | ({} if cell is None else {f"layers.{index}.cell": cell})
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        draft = f"{os.fspath(path)}.writing"
        save_file(tensors, draft, self._identity())
        os.replace(draft, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        model: Any,
        feature_extractor: RNNFeatureExtractor,
        tokenizer: RNNCTCTokenizer,
    ) -> "RNNSpeechStream":
        """Read a stream of a model from a file, onto its device, with an empty `text`.

        Raises:
            ValueError: It is the stream of another model or other features, or no stream at all.
        """
        stream = cls(model, feature_extractor, tokenizer)
        try:
            opened = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)} is not a whole file of a stream: {error}") from error
        with opened as file:
            if (file.metadata() or {}) != stream._identity():
                raise ValueError(f"{os.fspath(path)} is the stream of another model, with other weights or features")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        last, gap = (int(tensors.pop(name)) for name in ("last", "gap"))
        stream.last, stream.gap = None if last < 0 else last, GAPS[gap]
        stream.frames, level = tensors.pop("frames").numpy(), tensors.pop("level", None)
        stream.tail = tensors.pop("tail").numpy() if "tail" in tensors else None
        stream.level = None if level is None else float(level)
        tensors = {name: tensor.to(model.device) for name, tensor in tensors.items()}
        stream.state = [
            (tensors[f"layers.{index}.hidden"], tensors.get(f"layers.{index}.cell"))
            for index in range(len(stream.state))
        ]
        return stream

    def _identity(self) -> dict[str, str]:
        """Which model and which features the stream is of."""
        settings = json.dumps([getattr(self.feature_extractor, name) for name in SETTINGS])
        return {
            "model": identity_of(self.model),
            "features": hashlib.sha256(settings.encode()).hexdigest(),
        }

    def _hear(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None]:
        """Features `(T, F)` that fill no step yet and those of new samples, the tail and the level after them."""
        log_mel, tail = self.feature_extractor.log_mel_in_numpy(samples, self.tail)
        features, level = self.feature_extractor.normalize_in_numpy(log_mel, self.level)
        return np.concatenate([self.frames, features]) if len(self.frames) else features, tail, level

    def _one_row(self, steps: int) -> "OneRow | None":
        """What runs so many steps of this stream alone; `None` for the model itself."""
        if steps > FEW_STEPS:
            return None
        if self.one_row is None or not self.one_row.is_current():
            self.one_row = OneRow.make(self.model, self.state)
        return self.one_row

    def _write(self, logits: Tensor) -> str:
        """The text that steps `(T', V)` add, by the best path."""
        ids = logits.argmax(dim=-1).tolist()
        if all(index == self.last for index in ids):
            return ""
        labels = self.tokenizer.collapse(ids, self.last)
        added, self.gap = self.tokenizer.join([label for label, _, _ in labels], self.gap)
        self.last = ids[-1]
        self.text += added
        return added


def push_all(streams: Sequence[RNNSpeechStream], samples: Sequence[Any]) -> list[str]:
    """Hear the next samples of many streams in one batch; each as `stream.push`.

    Args:
        streams: Of one model, with one feature extractor; they may be others at each call.
        samples: Of each stream, `(N,)`, different numbers of them.

    Returns:
        The text that is added to each.

    Raises:
        ValueError: As in [`RNNSpeechStream.push`]; streams that differ in model or extractor, or one that is there
            twice. All streams are then as before.
    """
    all_logits = advance_all(streams, samples)
    return [stream._write(logits) for stream, logits in zip(streams, all_logits, strict=True)]


@torch.no_grad()
def advance_all(streams: Sequence[RNNSpeechStream], samples: Sequence[Any]) -> list[Tensor]:
    """As `push_all`, up to the logits `(T', V)` that each stream adds."""
    check_streams(streams, samples)
    pieces = [read_samples(piece, f"`samples[{index}]`").cpu().numpy() for index, piece in enumerate(samples)]
    heard = [stream._hear(piece) for stream, piece in zip(streams, pieces, strict=True)]
    lengths = [
        len(features) // stream.frame_stack * stream.frame_stack
        for stream, (features, _, _) in zip(streams, heard, strict=True)
    ]
    active = [index for index, length in enumerate(lengths) if length]
    logits = dict[int, Tensor]()
    if active:
        features = [heard[index][0][: lengths[index]] for index in active]
        outputs, states = run_all([streams[index] for index in active], features)
        for index, rows, state in zip(active, outputs, states, strict=True):
            logits[index], streams[index].state = rows, state
    for stream, (frames, tail, level), length in zip(streams, heard, lengths, strict=True):
        stream.frames, stream.tail, stream.level = frames[length:].copy(), tail, level
    size = streams[0].model.config.vocab_size if streams else 0
    return [logits[index] if index in logits else torch.zeros(0, size) for index in range(len(streams))]


def run_all(streams: Sequence[RNNSpeechStream], features: Sequence[np.ndarray]) -> tuple[list[Tensor], list[State]]:
    """Run the network on features `(T, F)` of each stream: its logits `(T', V)`, and its state after them."""
    model, frame_stack, lengths = streams[0].model, streams[0].frame_stack, [len(each) for each in features]
    if len(streams) == 1 and (one_row := streams[0]._one_row(lengths[0] // frame_stack)) is not None:
        logits, state = one_row(features[0].reshape(lengths[0] // frame_stack, -1), streams[0].state)
        return [logits], [state]
    weight = model.lm_head.weight  # model.device and model.dtype look through all weights, as long as a step takes
    batch = pad_sequence(list(map(torch.from_numpy, features)), batch_first=True).to(weight.device, weight.dtype)
    cache, mask = RNNCache(join_states([stream.state for stream in streams])), None
    if len(set(lengths)) > 1:
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(weight.device)
    logits = model(batch, attention_mask=mask, cache=cache).logits
    rows = [row[: length // frame_stack] for row, length in zip(logits, lengths, strict=True)]
    return rows, split_state(list(cache), len(rows))


class OneRow:
    """A few steps of a single stream on a CPU, without the modules, which take more than twice the time.

    Args:
        model: An [`RNNForCTC`] whose modules are the package's own, unchanged.
        stack: `RNNLayer.one_row` of each layer.
    """

    def __init__(self, model: Any, stack: list):
        project, head, layers = model.model.input_projection, model.lm_head, model.model.layers
        self.stack, self.modules = stack, [model, model.model, project, *layers, *(each.rnn for each in layers), head]
        weight, bias = (each.detach() for each in (project.weight, project.bias))
        inputs, outputs = weight.new_zeros(weight.shape[1]), torch.from_numpy(stack[-1].hidden)
        self.project = InPlaceProduct(weight, inputs, bias=bias)
        self.head = InPlaceProduct(head.weight.detach(), outputs, bias=head.bias.detach())
        self.inputs, self.projected, self.logits = (
            part.numpy() for part in (inputs, self.project.outputs, self.head.outputs)
        )
        self.state: State | None = None  # that the buffers hold

    @classmethod
    def make(cls, model: Any, state: State) -> "OneRow | None":
        """`None` where the modules must be run, or are faster."""
        layers, weight = model.model.layers, model.lm_head.weight
        if weight.device.type != "cpu" or autocast_dtype(CPU) is not None:
            return None
        if not all(map(has_own_forward, (model, model.model, *layers))):
            return None
        if not all(is_own(module, nn.Linear) for module in (model.lm_head, model.model.input_projection)):
            return None
        stack = [layer.one_row(hidden, cell) for layer, (hidden, cell) in zip(layers, state, strict=True)]
        return cls(model, stack) if all(stack) else None

    def is_current(self) -> bool:
        """Whether nobody hooked anything onto the modules since."""
        return all(map(is_bare, self.modules)) and not has_global_hooks() and autocast_dtype(CPU) is None

    def __call__(self, steps: np.ndarray, state: State) -> tuple[Tensor, State]:
        """Stacked frames `(T', F)` to logits `(T', V)`, and the state after them."""
        if state is not self.state:
            for layer, (hidden, cell) in zip(self.stack, state, strict=True):
                layer.hidden[:] = hidden.numpy()
                if cell is not None:
                    layer.cell[:] = cell.numpy()
        self.state = None  # until the steps are done: what is interrupted begins from its state again
        logits = np.empty((len(steps), len(self.logits)), self.logits.dtype)
        for index, row in enumerate(steps):
            self.inputs[:] = row
            self.project()
            row = self.projected
            for layer in self.stack:
                layer.inputs[:] = row
                layer.step()
                row = layer.hidden
            self.head()
            logits[index] = self.logits
        self.state = [
            (as_row(layer.hidden), None if layer.cell is None else as_row(layer.cell)) for layer in self.stack
        ]
        return torch.from_numpy(logits), self.state


def as_row(values: np.ndarray) -> Tensor:
    """A copy of `(H,)` as `(1, H)`."""
    return torch.from_numpy(values[None].copy())


def join_states(states: Sequence[State]) -> State:
    """The states of several streams in one batch."""
    if len(states) == 1:
        return states[0]
    hiddens = [torch.cat([hidden for hidden, _ in layer]) for layer in zip(*states, strict=True)]
    cells = [
        None if layer[0][1] is None else torch.cat([cell for _, cell in layer]) for layer in zip(*states, strict=True)
    ]
    return list(zip(hiddens, cells, strict=True))


def split_state(state: State, size: int) -> list[State]:
    """The states of several streams one by one, as copies: views would hold those of all streams with that of one."""
    if size == 1:
        return [state]
    return [
        [(hidden[i : i + 1].clone(), None if cell is None else cell[i : i + 1].clone()) for hidden, cell in state]
        for i in range(size)
    ]


def check_streams(streams: Sequence[RNNSpeechStream], samples: Sequence[Any]) -> None:
    """Refuse what cannot be one batch."""
    if len(streams) != len(samples):
        raise ValueError(f"`samples` must be one piece a stream: {len(streams)} streams, {len(samples)} pieces")
    if len({id(stream) for stream in streams}) < len(streams):
        raise ValueError("`streams` has a stream twice: join its samples")
    if len({(id(stream.model), id(stream.feature_extractor)) for stream in streams}) > 1:
        raise ValueError("`streams` are of several models or feature extractors")
    for stream in streams:
        check_open(stream)


def check_open(stream: RNNSpeechStream) -> None:
    if stream.is_finished:
        raise ValueError("the stream is finished: begin another one")


__all__ = ["RNNSpeechStream", "push_all"]
