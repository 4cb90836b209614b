"""Recordings changed and joined to train on, as log-mels: computed once, they cost a hundredth of new waveforms.

Log-mels here are natural logarithms of energies, `(frames, bands)`, so that gain is a sum and noise `logaddexp`.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch


DECIBEL = math.log(10) / 10  # in natural logarithms of energy
NOISE_SECONDS = 20
QUIET_SNR_DB = 60.0  # of the least noise that is added
LARGEST_TIME_MASK = 0.2  # as a share of all frames
LARGEST_CUT = 0.35  # of a recording that breaks off, the share that is heard


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each string of recordings.

    Attributes:
        speed: Recordings are slowed down and sped up by up to this share.
        frequency_warp: The vocal tract of a string's speaker is shorter and longer by up to this share.
        gain_db: The level changes by up to so many decibels, either way.
        noise_probability: Of background noise, the rest has digital silence between recordings.
        min_snr_db: The loudest noise, in decibels under the recordings.
        silence_frames: Most frames of silence before the first recording, and behind the last of every other string.
        gap_frames: Most frames of silence between two recordings.
        time_masks: Spans of time that are blanked, for each recording of a string.
        time_mask_frames: Most frames of one, which is never more than a fifth of all.
        frequency_masks: Spans of bands that are blanked.
        frequency_mask_bands: Most bands of one.
        cut_probability: Of a single recording that breaks off within its first third and has no label, in place of a
            string: so a network that hears in one direction learns not to answer before it has heard a word.
    """

    speed: float = 0.0
    frequency_warp: float = 0.0
    gain_db: float = 0.0
    noise_probability: float = 0.0
    min_snr_db: float = 10.0
    silence_frames: int = 0
    gap_frames: int = 0
    time_masks: int = 0
    time_mask_frames: int = 0
    frequency_masks: int = 0
    frequency_mask_bands: int = 0
    cut_probability: float = 0.0

    def grown(self, share: float) -> "Augmentation":
        """The same with a share of its silence, its noise and the size of its masks."""
        frames = ("silence_frames", "gap_frames", "time_mask_frames", "frequency_mask_bands")
        less = {name: int(share * getattr(self, name)) for name in frames}
        return replace(self, noise_probability=share * self.noise_probability, **less)


@dataclass(frozen=True)
class Plan:
    """A string of recordings with silence around each.

    Attributes:
        parts: Which recordings, and how many frames each is stretched to.
        silences: Frames of silence before each part, and behind the last.
        cut: Frames after which the one recording breaks off; `None` for whole ones.
    """

    parts: list[tuple[int, int]]
    silences: list[int]
    cut: int | None = None

    @property
    def speech_frames(self) -> int:
        """Frames that are not silence."""
        return sum(frames for _, frames in self.parts) if self.cut is None else self.cut

    @property
    def length(self) -> int:
        """Frames in all."""
        return self.speech_frames + sum(self.silences)


class StringPlans:
    """Strings of recordings of one speaker, drawn again for each epoch.

    String `index` begins with recording `index`, so that an epoch begins one with each; the others are drawn from its
    speaker. A draw depends on the seed, the epoch and the index alone, so that a run that is resumed hears what it
    would have heard.

    Args:
        lengths: Frames of each recording.
        speakers: Of each; recordings without a known one go together.
        augmentation: Says how far speed and silences go.
        most: Recordings in the longest string.
        curriculum_epochs: Epochs over which strings grow to that from single recordings, and silence, noise and masks
            from none; 0: all is there at once. With silence before a string from the start on, a network that hears in
            one direction learns to answer with any word where the first sound begins, and hardly ever leaves that.
        seed: Of the run.
    """

    def __init__(
        self, lengths: Sequence[int], speakers: Sequence[str | None], augmentation: Augmentation, most: int = 1,
        curriculum_epochs: int = 0, seed: int = 0,
    ):  # fmt: skip
        self.lengths, self.speakers, self.augmentation = lengths, speakers, augmentation
        self.most, self.curriculum_epochs, self.seed = most, curriculum_epochs, seed
        self.by_speaker: defaultdict[str | None, list[int]] = defaultdict(list)
        for index, speaker in enumerate(speakers):
            self.by_speaker[speaker].append(index)

    def most_in(self, epoch: int) -> int:
        """Recordings in the longest string of an epoch."""
        if epoch >= self.curriculum_epochs:
            return self.most
        return 1 + (self.most - 1) * epoch // self.curriculum_epochs

    def augmentation_in(self, epoch: int) -> Augmentation:
        """What is drawn for the strings of an epoch."""
        is_grown = epoch >= self.curriculum_epochs
        return self.augmentation if is_grown else self.augmentation.grown(epoch / self.curriculum_epochs)

    def draw(self, epoch: int, index: int) -> tuple[Plan, random.Random]:
        """A string, and the generator that draws what else there is to draw of it."""
        generator = random.Random(f"{self.seed} {epoch} {index}")
        others = self.by_speaker[self.speakers[index]]
        number = generator.randint(1, self.most_in(epoch))
        chosen = [index, *(generator.choice(others) for _ in range(number - 1))]
        augmentation = self.augmentation_in(epoch)
        speed = augmentation.speed
        parts = [
            (each, max(1, round(self.lengths[each] / generator.uniform(1 - speed, 1 + speed)))) for each in chosen
        ]
        before, behind = (generator.randint(0, augmentation.silence_frames) for _ in range(2))
        behind *= generator.randint(0, 1)  # half of the strings end with their last sound
        between = [generator.randint(0, augmentation.gap_frames) for _ in chosen[1:]]
        if generator.random() < augmentation.cut_probability:
            cut = max(1, round(parts[0][1] * generator.uniform(0, LARGEST_CUT)))
            return Plan(parts[:1], [before, 0], cut), generator
        return Plan(parts, [before, *between, behind]), generator


def stretched(log_mel: torch.Tensor, frames: int) -> torch.Tensor:
    """Log-mels `(T, bands)` in another number of frames, interpolated between them.

    The pitch stays: this is another speed of speaking and not of the tape.
    """
    if frames == len(log_mel):
        return log_mel
    positions = torch.linspace(0, len(log_mel) - 1, frames, dtype=log_mel.dtype)
    before = positions.long()
    after = (before + 1).clamp(max=len(log_mel) - 1)
    return torch.lerp(log_mel[before], log_mel[after], (positions - before)[:, None])


def warped(log_mel: torch.Tensor, centers: torch.Tensor, factor: float) -> torch.Tensor:
    """Log-mels `(T, bands)` of another speaker: at each frequency what stood at `factor` times this one.

    The length of the vocal tract scales the resonances of a voice (Jaitly and Hinton, 2013). Between bands there is
    interpolation, and beyond the last one its value.

    Args:
        log_mel: As it was spoken.
        centers: Of each band in Hz, rising, `(bands,)`.
        factor: Above 1 for a longer vocal tract.
    """
    wanted = centers * factor
    above = torch.searchsorted(centers, wanted).clamp(1, len(centers) - 1)
    shares = (wanted - centers[above - 1]) / (centers[above] - centers[above - 1])
    return torch.lerp(log_mel[:, above - 1], log_mel[:, above], shares.clamp(0, 1).to(log_mel))


def joined(plan: Plan, log_mels: Sequence[torch.Tensor], floor: float) -> torch.Tensor:
    """The log-mels of a string, `(plan.length, bands)`, its silences at the `floor` of the logarithm."""
    pieces = []
    bands = log_mels[0].shape[1]
    for silence, part in zip(plan.silences, [*plan.parts, None], strict=True):
        pieces.append(torch.full((silence, bands), floor, dtype=log_mels[0].dtype))
        if part is not None:
            pieces.append(stretched(log_mels[part[0]], part[1])[: plan.cut])
    return torch.cat(pieces)


def noise_log_mels(log_mel: Callable[[torch.Tensor], torch.Tensor], sampling_rate: int) -> torch.Tensor:
    """Background noises of which spans are taken: white, pink and brown, with energies that fall by 0, 3 and 6
    decibels an octave.

    Args:
        log_mel: Gives the log-mels `(T, bands)` of samples.
        sampling_rate: Samples a second.

    Returns:
        `(3, T, bands)`, always the same.
    """
    generator = torch.Generator().manual_seed(0)
    white = torch.fft.rfft(torch.randn(NOISE_SECONDS * sampling_rate, generator=generator))
    steps = torch.arange(len(white)).clamp(min=1)
    # Hearing begins at 20 Hz; what is lower would have nearly all of the energy of brown noise.
    steps = steps.clamp(min=20 * NOISE_SECONDS)
    waves = [torch.fft.irfft(white * steps**-slope) for slope in (0.0, 0.5, 1.0)]
    return torch.stack([log_mel(wave / wave.std()) for wave in waves])


def with_noise(log_mel: torch.Tensor, noise: torch.Tensor, snr_db: float, speech_frames: int) -> torch.Tensor:
    """Add noise to log-mels.

    Args:
        log_mel: `(T, bands)`.
        noise: `(T, bands)`, at any level.
        snr_db: Mean energy of the speech over that of the noise, in decibels.
        speech_frames: Frames that are not silence, over which the mean is taken.
    """
    speech = torch.logsumexp(log_mel.flatten(), 0) - math.log(speech_frames)
    level = torch.logsumexp(noise.flatten(), 0) - math.log(len(noise))
    return torch.logaddexp(log_mel, noise + (speech - level - snr_db * DECIBEL))


def distorted(
    log_mel: torch.Tensor, plan: Plan, augmentation: Augmentation, noises: torch.Tensor, floor: float,
    generator: random.Random,
) -> torch.Tensor:  # fmt: skip
    """Log-mels of a string with noise and gain as they are drawn.

    Args:
        log_mel: `(T, bands)`, as `joined` gives it.
        plan: Of the string.
        augmentation: Says how much.
        noises: As of `noise_log_mels`.
        floor: Of the logarithm.
        generator: As of `StringPlans.draw`.
    """
    if generator.random() < augmentation.noise_probability:
        noise = noises[generator.randrange(len(noises))]
        span = (torch.arange(len(log_mel)) + generator.randrange(len(noise))) % len(noise)
        snr_db = generator.uniform(augmentation.min_snr_db, QUIET_SNR_DB)
        log_mel = with_noise(log_mel, noise[span], snr_db, plan.speech_frames)
    gain_db = generator.uniform(-augmentation.gain_db, augmentation.gain_db)
    return (log_mel + gain_db * DECIBEL).clamp(min=floor)


def masked(
    features: torch.Tensor, recordings: int, augmentation: Augmentation, generator: random.Random
) -> torch.Tensor:
    """Features `(T, bands)` with spans of time and of bands at 0, their mean (SpecAugment; Park et al., 2019).

    Args:
        features: Normalised.
        recordings: How many there are in the string, each of which has its masks of time.
        augmentation: Says how many, and how long they are at most.
        generator: As of `StringPlans.draw`.
    """
    features = features.clone()
    frames, bands = features.shape
    for _ in range(augmentation.time_masks * recordings):
        start, end = _span(frames, min(augmentation.time_mask_frames, int(LARGEST_TIME_MASK * frames)), generator)
        features[start:end] = 0
    for _ in range(augmentation.frequency_masks):
        start, end = _span(bands, min(augmentation.frequency_mask_bands, bands), generator)
        features[:, start:end] = 0
    return features


def _span(size: int, longest: int, generator: random.Random) -> tuple[int, int]:
    width = generator.randint(0, longest)
    start = generator.randint(0, size - width)
    return start, start + width
