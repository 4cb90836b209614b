"""Speech recognised while somebody speaks: samples in, text out, whatever the pieces.

Shapes in comments: N samples, T frames, T' steps, V kinds of labels.
"""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .cache_rnn import RNNCache, identity_of
from .feature_extraction_rnn import RNNFeatureExtractor, read_samples
from .tokenization_rnn_ctc import RNNCTCTokenizer


# What decides the features of a recording; a saved stream goes on with the same ones only.
SETTINGS = (
    "feature_size", "sampling_rate", "hop_length", "win_length", "n_fft", "mean", "std", "level_decay", "floor",
    "level_floor",
)  # fmt: skip
GAPS = (None, "", " ")  # what may stand before the next character or word, in a file by its place here


class RNNSpeechStream:
    r"""What a recognizer has heard of one speaker, so that it can go on: any pieces give the numbers of the whole.

    It holds the samples that later frames need, the level, frames that fill no step yet, the state of the network and
    the last label: as much after an hour as after a second. `text` alone grows; the stream does not read it, so it may
    be set to `""` at any time.

    Args:
        model: An [`RNNForCTC`] in one direction, in evaluation mode.
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
        self.text, self.is_finished = "", False
        self.tail: Tensor | None = None
        self.level: Tensor | None = None
        self.frames = torch.zeros(0, config.num_mel_bins)
        self.cache = RNNCache([tuple(zeros_like_state(model, size) for size in sizes) for sizes in config.state_sizes])
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
        """End the stream; returns the rest of its text.

        That is empty: each step adds its text at once, and frames that fill no step are not read, here as in the
        whole. Who wants to give a network time to answer pushes some silence first.
        """
        self.is_finished = True
        return ""

    def fork(self) -> "RNNSpeechStream":
        """A stream of its own with the same content, to go on from twice."""
        forked = copy.copy(self)  # tensors are replaced and never written to
        forked.cache = self.cache.copy()
        return forked

    def save(self, path: str | os.PathLike) -> None:
        """Write the stream to a safetensors file: a draft, then moved in place. Its `text` is not written.

        Raises:
            ValueError: The stream is finished.
        """
        check_open(self)
        tensors = {"frames": self.frames, "last": torch.tensor(-1 if self.last is None else self.last)}
        tensors["gap"] = torch.tensor(GAPS.index(self.gap))
        tensors |= {name: part for name in ("tail", "level") if (part := getattr(self, name)) is not None}
        for index, (hidden, cell) in enumerate(self.cache):
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
        for name in ("frames", "tail", "level"):
            setattr(stream, name, tensors.pop(name, None))
        for index, layer in enumerate(stream.cache.layers):
            parts = (tensors.get(f"layers.{index}.{part}") for part in ("hidden", "cell"))
            layer.lazy_initialization(*(None if part is None else part.to(model.device) for part in parts))
        return stream

    def _identity(self) -> dict[str, str]:
        """Which model and which features the stream is of."""
        settings = json.dumps([getattr(self.feature_extractor, name) for name in SETTINGS])
        return {
            "model": identity_of(self.model),
            "features": hashlib.sha256(settings.encode()).hexdigest(),
        }

    def _write(self, logits: Tensor) -> str:
        """The text that steps `(T', V)` add, by the best path."""
        ids = logits.argmax(dim=-1).tolist()
        if not ids:
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
    heard = hear_all(streams, samples)
    size = streams[0].model.config.frame_stack if streams else 1
    lengths = [len(features) // size * size for features, _, _ in heard]
    active = [index for index, length in enumerate(lengths) if length]
    logits = [torch.zeros(0, stream.model.config.vocab_size) for stream in streams]
    if active:
        parts = [heard[index][0][: lengths[index]] for index in active]
        for index, (row, cache) in zip(active, run_all([streams[i] for i in active], parts), strict=True):
            logits[index], streams[index].cache = row, cache
    for stream, (features, tail, level), length in zip(streams, heard, lengths, strict=True):
        stream.frames, stream.tail, stream.level = features[length:].clone(), tail, level
    return logits


def hear_all(streams: Sequence[RNNSpeechStream], samples: Sequence[Any]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Of each stream the features that fill no step yet and the new ones, `(T, F)`, the tail and the level."""
    if not streams:
        return []
    extractor = streams[0].feature_extractor
    pieces = [read_samples(piece, f"`samples[{index}]`").cpu() for index, piece in enumerate(samples)]
    windows, tails = zip(*map(extractor.frames, pieces, [stream.tail for stream in streams]), strict=True)
    log_mels = extractor.band_energies(torch.cat(windows)).split([len(frames) for frames in windows])
    heard = []
    for stream, log_mel, tail in zip(streams, log_mels, tails, strict=True):
        features, level = extractor.normalize(log_mel, stream.level)
        heard.append((torch.cat([stream.frames, features]), tail, level))
    return heard


def run_all(streams: Sequence[RNNSpeechStream], features: Sequence[Tensor]) -> list[tuple[Tensor, RNNCache]]:
    """Run the network on features `(T, F)` of each stream: its logits `(T', V)`, and its state after them."""
    model, lengths = streams[0].model, [len(each) for each in features]
    # A new object even for one stream: where the network fails, that one is as before.
    cache = join_states([stream.cache for stream in streams])
    mask = None
    if len(set(lengths)) > 1:
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(model.device)
    batch = pad_sequence(list(features), batch_first=True).to(model.device)
    logits = model(batch, attention_mask=mask, cache=cache).logits
    states = [cache] if len(streams) == 1 else split_state(cache, len(streams))
    size = model.config.frame_stack
    return [(row[: length // size], state) for row, length, state in zip(logits, lengths, states, strict=True)]


def join_states(states: Sequence[RNNCache]) -> RNNCache:
    """The rows of several states in one batch."""
    layers = zip(*states, strict=True)
    parts = [zip(*layer, strict=True) for layer in layers]
    return RNNCache([tuple(None if part[0] is None else torch.cat(part) for part in layer) for layer in parts])


def split_state(state: RNNCache, size: int) -> list[RNNCache]:
    """The rows of a state one by one, as copies: views would hold the states of all streams with that of one."""
    rows = []
    for index in range(size):
        pairs = [[None if part is None else part[index : index + 1].clone() for part in pair] for pair in state]
        rows.append(RNNCache([(hidden, cell) for hidden, cell in pairs]))
    return rows


def zeros_like_state(model: Any, size: int | None) -> Tensor | None:
    """A part of the state before the first sample; `None` where the cell has no such part."""
    return None if size is None else torch.zeros(1, size, dtype=model.dtype, device=model.device)


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
