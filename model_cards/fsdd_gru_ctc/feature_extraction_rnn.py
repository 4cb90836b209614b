"""Log-mel features of speech: causal, so that a recording in pieces gives the numbers of the whole.

The arithmetic is NumPy's in float64, in which a short piece takes a third of the time that it takes torch.

Shapes in comments: N samples, T frames, F mel bands.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import hertz_to_mel, mel_filter_bank, mel_to_hertz
from transformers.utils import logging


logger = logging.get_logger(__name__)

NEPERS_PER_DB = math.log(10) / 10  # natural logarithms of energies in a decibel


class RNNFeatureExtractor(SequenceFeatureExtractor):
    r"""Log-mel features for [`RNNForCTC`].

    Frame t sees the `win_length` samples that end with sample `(t + 1) * hop_length`, zeros before the first one, so n
    samples give exactly `n // hop_length` frames, none of which waits for later samples. Energies of a periodic Hann
    window are summed in triangular bands on Slaney's mel scale (Auditory Toolbox, 1998), of height 1, up to half the
    sampling rate; their natural logarithm is at least `floor`.

    With `level_decay` each frame is seen relative to the level of the speech so far, whatever the gain of the
    microphone: the level is the energy of a mean band, rises with it at once and falls by `level_decay`. Then mean and
    standard deviation of the training set are applied. What is computed in pieces, [`log_mel`] and [`normalize`],
    hands on what the next piece needs.

    A network that hears while somebody speaks answers after a word, when a recording may have ended: `end_silence`
    zeros are read behind each whole recording, here and by [`RNNSpeechStream.finish`].

    Args:
        feature_size: Number of mel bands, at least 2.
        sampling_rate: Samples a second that recordings must have.
        hop_length: Samples from one frame to the next.
        win_length: Samples of a frame, at least `hop_length`.
        n_fft: Points of the Fourier transform, at least `win_length`.
        padding_value: Value of features at padding.
        mean: Of each band over the training set, after the level is taken off; `None` for zeros.
        std: Of each band over the training set; `None` for ones.
        level_decay: Decibels a second by which the level falls; `None` leaves the level in.
        floor: Least natural logarithm of the energy of a band. Recordings are numbers in [-1, 1].
        level_floor: Least level, so that silence and faint noise are not taken for speech.
        end_silence: Samples of zeros behind each whole recording.

    Raises:
        ValueError: Sizes that do not fit, a `mean` or `std` of another length, a `std` that is not positive.

    Example:

    >>> import torch
    >>> from rnn_hf import RNNFeatureExtractor
    >>> extractor = RNNFeatureExtractor(feature_size=40, sampling_rate=8000)
    >>> inputs = extractor([torch.zeros(8000), torch.zeros(500)], sampling_rate=8000, return_tensors="pt")
    >>> inputs.input_features.shape, inputs.attention_mask.sum(dim=1)
    (torch.Size([2, 100, 40]), tensor([100,   6]))
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 40,
        sampling_rate: int = 8000,
        hop_length: int = 80,
        win_length: int = 200,
        n_fft: int = 256,
        padding_value: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        level_decay: float | None = None,
        floor: float = -16.0,
        level_floor: float = -6.0,
        end_silence: int = 0,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length, self.win_length, self.n_fft = hop_length, win_length, n_fft
        self.mean = None if mean is None else [float(value) for value in mean]
        self.std = None if std is None else [float(value) for value in std]
        self.level_decay, self.floor, self.level_floor = level_decay, floor, level_floor
        self.end_silence = end_silence
        self._validate()
        # transformers leaves these two names out of the saved file.
        self.window = np.hanning(win_length + 1)[:-1]
        self.mel_filters = mel_filter_bank(
            n_fft // 2 + 1, feature_size, 0.0, sampling_rate / 2, sampling_rate, None, "slaney"
        )

    def _validate(self) -> None:
        if self.feature_size < 2:
            raise ValueError(f"`feature_size` must be at least 2, got {self.feature_size}")
        if not 1 <= self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(
                "`hop_length`, `win_length` and `n_fft` must be at least 1 and in rising order, got "
                f"{self.hop_length}, {self.win_length}, {self.n_fft}"
            )
        if self.level_decay is not None and not 0 <= self.level_decay < math.inf:
            raise ValueError(f"`level_decay` must be None, 0 or positive, in dB a second, got {self.level_decay}")
        if self.end_silence < 0:
            raise ValueError(f"`end_silence` must be 0 or more samples, got {self.end_silence}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.feature_size:
                raise ValueError(f"`{name}` must have {self.feature_size} numbers, one a band, got {len(values)}")
        if self.std is not None and not min(self.std) > 0:
            raise ValueError(f"`std` must be positive, got {min(self.std)}")

    @property
    def centers(self) -> np.ndarray:
        """Frequency in Hz in the middle of each mel band, `(F,)`."""
        mels = np.linspace(0.0, hertz_to_mel(self.sampling_rate / 2, "slaney"), self.feature_size + 2)
        return np.asarray(mel_to_hertz(mels[1:-1], "slaney"))

    def to_dict(self) -> dict[str, Any]:
        """What is saved; it names transformers' class that `AutoProcessor` puts extractor and tokenizer into."""
        return super().to_dict() | {"processor_class": "Wav2Vec2Processor"}

    def log_mel(self, samples: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Natural logarithms of the energies of mel bands, of a recording or of its next piece.

        Args:
            samples: `(N,)`, any number of them, float32 or float64.
            tail: What the call for the piece before returned; `None` at the start.

        Returns:
            `(T, F)` in the type of `samples`, and the samples that later frames still need, `(M,)`, with
            `win_length - hop_length <= M < win_length`.
        """
        before = None if tail is None else tail.cpu().numpy()
        values, rest = self.log_mel_in_numpy(samples.cpu().numpy(), before)
        return torch.from_numpy(values).to(samples), torch.from_numpy(rest).to(samples)

    def log_mel_in_numpy(self, samples: np.ndarray, tail: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """[`log_mel`] of arrays, for streams, to which each call of torch is long."""
        if tail is None:
            tail = np.zeros(self.win_length - self.hop_length, samples.dtype)
        joined = np.concatenate([tail, samples])
        count, step = (len(joined) - self.win_length + self.hop_length) // self.hop_length, joined.itemsize
        rest = joined[count * self.hop_length :].copy()  # a view would hold all samples
        if not count:  # there may be fewer samples than one window
            return np.zeros((0, self.feature_size), joined.dtype), rest
        frames = np.ndarray((count, self.win_length), joined.dtype, joined, 0, (self.hop_length * step, step))
        spectrum = np.fft.rfft(frames * self.window, self.n_fft)
        energies = (spectrum.real**2 + spectrum.imag**2) @ self.mel_filters
        return np.log(np.maximum(energies, math.exp(self.floor))).astype(joined.dtype, copy=False), rest

    def normalize(self, log_mel: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Log-mel energies without level, mean and deviation, of a recording or of its next piece.

        Args:
            log_mel: `(T, F)`.
            level: What the call for the piece before returned; `None` at the start.

        Returns:
            `(T, F)`, and the level at the last frame, a float64 number; `None` before the first frame and where
            `level_decay` is.
        """
        before = None if level is None else float(level)
        values, after = self.normalize_in_numpy(log_mel.cpu().numpy(), before)
        return torch.from_numpy(values).to(log_mel), None if after is None else torch.tensor(after, dtype=torch.double)

    def normalize_in_numpy(self, log_mel: np.ndarray, level: float | None = None) -> tuple[np.ndarray, float | None]:
        """[`normalize`] of an array, for streams."""
        values = log_mel.astype(np.float64)
        if self.level_decay is not None and len(values):
            levels = self._levels(values, level)
            values -= levels[:, None]
            level = float(levels[-1])
        if self.mean is not None:
            values -= self.mean
        if self.std is not None:
            values /= self.std
        return values.astype(log_mel.dtype, copy=False), level

    def _levels(self, values: np.ndarray, level: float | None) -> np.ndarray:
        """The level at each frame, `(T,)`: the energy of a mean band, or the level before less the decay."""
        fall = self.level_decay * NEPERS_PER_DB * self.hop_length / self.sampling_rate
        level, levels = -math.inf if level is None else level, []
        for energy in np.log(np.exp(values).sum(axis=1) / self.feature_size).tolist():
            level = max(energy, level - fall, self.level_floor)
            levels.append(level)
        return np.array(levels)

    def features(self, samples: Tensor) -> Tensor:
        """Features of a whole recording `(N,)` with its silence: `((N + end_silence) // hop_length, F)`."""
        whole = torch.cat([samples, samples.new_zeros(self.end_silence)])
        return self.normalize(self.log_mel(whole)[0])[0]

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Features of one or several whole recordings.

        Args:
            raw_speech: A recording `(N,)` or a batch of them: arrays or tensors of floating-point numbers in [-1, 1],
                lists of such, or numbers in lists. Two dimensions are a batch.
            sampling_rate: That of the recordings; refused where it is not that of the extractor.
            padding, max_length, truncation, pad_to_multiple_of: As in `SequenceFeatureExtractor.pad`, in frames.
            return_attention_mask: Whether to return which frames are real; default yes.
            return_tensors: `"pt"` or `"np"`, the default.

        Returns:
            `input_features` `(B, T, F)`, float64 where a recording is, else float32, and `attention_mask` `(B, T)`.

        Raises:
            ValueError: Another sampling rate; recordings that are empty, of several channels, of whole numbers or not
                finite, named by their place in the batch.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"pass `sampling_rate`, so that recordings of another rate than {self.sampling_rate} are refused"
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` must be {self.sampling_rate}, as in training, got {sampling_rate}: resample first"
            )
        rows = read_batch(raw_speech)
        features = [self.features(row).cpu().numpy() for row in rows]
        padded = self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=True,
        )
        if any(row.dtype == torch.float64 for row in rows):  # `pad` rounds to float32: the digits are put back
            pairs = zip(padded["input_features"], padded["attention_mask"], features, strict=True)
            padded["input_features"] = [with_digits(*pair) for pair in pairs]
        if not (self.return_attention_mask if return_attention_mask is None else return_attention_mask):
            del padded["attention_mask"]
        return padded.convert_to_tensors(return_tensors or "np")


def with_digits(padded: np.ndarray, mask: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Padded features of a recording `(T, F)` in float64, those before `pad` at real frames."""
    wide = padded.astype(np.float64)
    wide[mask == 1] = features[: mask.sum()]
    return wide


def read_batch(raw_speech: Any) -> list[Tensor]:
    """The recordings `(N,)` of a batch, or of one alone, checked.

    Raises:
        ValueError: Naming what is wrong, and with which recording.
    """
    is_array = isinstance(raw_speech, np.ndarray | Tensor)
    if not is_array and not isinstance(raw_speech, list | tuple):
        raise ValueError(f"`raw_speech` must be an array, a tensor or a list, got {type(raw_speech).__name__}")
    if not len(raw_speech):
        raise ValueError("`raw_speech` is empty")
    is_batch = raw_speech.ndim > 1 if is_array else np.ndim(raw_speech[0]) > 0
    rows = [read_samples(row, f"`raw_speech[{index}]`") for index, row in enumerate(raw_speech)] if is_batch else []
    if is_array and is_batch and raw_speech.shape[1] <= 2:
        raise ValueError(
            f"`raw_speech` of shape {tuple(raw_speech.shape)} looks like samples of several channels: mix them to one"
        )
    rows = rows or [read_samples(raw_speech, "`raw_speech`")]
    for index, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"`raw_speech[{index}]` is empty")
    return rows


def read_samples(samples: Any, name: str) -> Tensor:
    """Samples `(N,)` of one channel as a tensor of float32 or float64, detached.

    Raises:
        ValueError: Several channels, whole numbers, numbers that are not finite; with the `name` of the argument.
    """
    samples = samples.detach() if isinstance(samples, Tensor) else torch.as_tensor(np.asarray(samples))
    if samples.ndim != 1:
        raise ValueError(f"{name} must have one channel, shape (samples,), got {tuple(samples.shape)}")
    if not samples.is_floating_point() and len(samples):
        raise ValueError(
            f"{name} must be fractions in [-1, 1], got {samples.dtype}: divide samples of 16 bits by 32768"
        )
    samples = samples if samples.dtype == torch.float64 else samples.float()
    if not np.isfinite(samples.cpu().numpy()).all():
        raise ValueError(f"{name} has samples that are not finite (NaN or infinite)")
    return samples


__all__ = ["RNNFeatureExtractor", "read_samples"]
