"""Recordings as rows to score, alone and joined into strings, and what a model says of them, by batches."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from rnn_hf.data.speech import Recording
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import input_device
from rnn_hf.models.feature_extraction_rnn import RNNFeatureExtractor


LONGEST_GAP = 0.15  # seconds between two recordings of a string
GAP_NOISE = 1e-3  # of a gap, as a share of the string's root mean square: 60 decibels less


@dataclass(frozen=True)
class Row:
    """A recording, or several in a row, as a model reads it.

    Attributes:
        features: `(T, bands)`.
        text: What is said.
        speaker: Who speaks; `None` where that is not known.
        recordings: How many there are in it.
        name: The files, for messages.
    """

    features: torch.Tensor
    text: str
    speaker: str | None
    recordings: int
    name: str


def features_of(samples: np.ndarray, extractor: RNNFeatureExtractor) -> torch.Tensor:
    """The features of a whole recording `(N,)`, `(T, bands)`."""
    return extractor.features(torch.from_numpy(samples))


def rows_to_score(recordings: Sequence[Recording], extractor: RNNFeatureExtractor, join: int) -> list[Row]:
    """Each recording alone and, with `join` above 1, strings of so many recordings of one speaker.

    Each recording is in one string, but for those that would be alone in theirs. Between two there are up to 150 ms of
    noise that is hardly heard. The draw is always the same for the same recordings.

    Args:
        recordings: Of a split.
        extractor: Of the model.
        join: Recordings in a string.

    Raises:
        InputError: A file that cannot be read, or has another sampling rate than the extractor's.
    """
    waves, rows = [], []
    by_speaker: defaultdict[str | None, list[int]] = defaultdict(list)
    for index, recording in enumerate(recordings):
        samples, _ = recording.file.samples(extractor.sampling_rate)
        waves.append(samples)
        by_speaker[recording.speaker].append(index)
        rows.append(Row(features_of(samples, extractor), recording.text, recording.speaker, 1, recording.file.name))
    for speaker, own in by_speaker.items() if join > 1 else ():
        random.Random(f"strings of {speaker}").shuffle(own)
        for start in range(0, len(own), join):
            chosen = own[start : start + join]
            if len(chosen) > 1:
                generator = np.random.default_rng([len(rows), start])
                samples = joined_waves([waves[index] for index in chosen], extractor.sampling_rate, generator)
                text = " ".join(filter(None, (recordings[index].text for index in chosen)))
                name = " + ".join(recordings[index].file.name for index in chosen)
                rows.append(Row(features_of(samples, extractor), text, speaker, len(chosen), name))
    return rows


def joined_waves(waves: Sequence[np.ndarray], sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Recordings one after the other with short gaps between, `(N,)` float32."""
    level = np.sqrt(np.mean(np.concatenate(waves) ** 2))
    pieces = [waves[0]]
    for wave in waves[1:]:
        length = generator.integers(0, int(LONGEST_GAP * sampling_rate), endpoint=True)
        pieces += [generator.normal(0, GAP_NOISE * level, length).astype("float32"), wave]
    return np.concatenate(pieces)


def batch_of(features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Features `(T, bands)` each as a batch with padding on the right: `input_features` and `attention_mask`."""
    lengths = torch.tensor([len(each) for each in features])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_features": pad_sequence(list(features), batch_first=True), "attention_mask": mask}


@torch.no_grad()
def run_batches(
    model: Any, features: Sequence[torch.Tensor], batch_size: int, progress: bool = False
) -> Iterator[tuple[int, torch.Tensor]]:
    """The logits of a recognizer, batches of about one length together.

    Args:
        model: An `RNNForCTC`; its training mode is restored afterwards.
        features: `(T, bands)` each.
        batch_size: Rows a batch; a matter of memory and speed only.
        progress: Whether to show a progress bar.

    Yields:
        Index of a row and its logits at real steps, `(T', labels)`, on the CPU.
    """
    order = sorted(range(len(features)), key=lambda index: len(features[index]))
    starts = range(0, len(order), batch_size)
    with evaluating(model):
        for start in tqdm(starts, desc="hearing", leave=False, mininterval=1, disable=not progress):
            chosen = order[start : start + batch_size]
            device = input_device(model)
            batch = {name: tensor.to(device) for name, tensor in batch_of([features[i] for i in chosen]).items()}
            logits = model(**batch).logits.cpu()
            for row, index in enumerate(chosen):
                yield index, logits[row, : model._get_feat_extract_output_lengths(len(features[index]))]
