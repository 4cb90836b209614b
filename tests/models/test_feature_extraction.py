"""Features of speech: equal to loops over the definition, the same in pieces, saved and loaded, mistakes by name."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from rnn_hf import RNNFeatureExtractor


RATE, HOP, WINDOW, BANDS = 8000, 80, 200, 40
DOUBLE = {"rtol": 1e-12, "atol": 1e-12}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}
MEAN, STD = [0.1 * band - 2 for band in range(BANDS)], [1 + 0.05 * band for band in range(BANDS)]


def extractor_of(**fields) -> RNNFeatureExtractor:
    return RNNFeatureExtractor(**{"mean": MEAN, "std": STD, "level_decay": 12.0, **fields})


def some_speech(samples: int = 2400, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Noise whose loudness comes and goes, with silence at the end."""
    noise = torch.randn(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    loudness = 10 ** torch.linspace(-2, 0, samples).double().mul(7).sin()
    loudness[samples * 4 // 5 :] = 0
    return (0.05 * noise * loudness).to(dtype)


def features_of(extractor, pieces) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mels and features of a recording in pieces, each handing on to the next."""
    tail = level = None
    log_mels, features = [], []
    for piece in pieces:
        log_mel, tail = extractor.log_mel(piece, tail)
        normalized, level = extractor.normalize(log_mel, level)
        log_mels.append(log_mel)
        features.append(normalized)
    return torch.cat(log_mels), torch.cat(features)


def log_mel_by_loops(samples: np.ndarray, floor: float) -> np.ndarray:
    """The definition: each frame, each frequency and each band on its own."""
    samples = np.concatenate([np.zeros(WINDOW - HOP), samples])
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / WINDOW) for n in range(WINDOW)])
    filters = mel_filter_bank(129, BANDS, 0.0, RATE / 2, RATE, norm=None, mel_scale="slaney")
    waves = np.exp(-2j * np.pi * np.outer(np.arange(129), np.arange(WINDOW)) / 256)
    frames = []
    for start in range(0, len(samples) - WINDOW + 1, HOP):
        power = [abs(np.sum(wave * window * samples[start : start + WINDOW])) ** 2 for wave in waves]
        bands = [sum(power[k] * filters[k, band] for k in range(129)) for band in range(BANDS)]
        frames.append([math.log(max(energy, math.exp(floor))) for energy in bands])
    return np.array(frames)


def normalize_by_loops(log_mel: np.ndarray, extractor) -> np.ndarray:
    level, rows = -math.inf, []
    for frame in log_mel:
        energy = math.log(np.mean(np.exp(frame)))
        fallen = level - extractor.level_decay * math.log(10) / 10 * HOP / RATE
        level = max(energy, fallen, extractor.level_floor)
        rows.append([(value - level - mean) / std for value, mean, std in zip(frame, MEAN, STD, strict=True)])
    return np.array(rows)


def test_features_are_those_of_the_definition():
    extractor, speech = extractor_of(level_floor=-3.0), some_speech()
    log_mel = extractor.log_mel(speech)[0]
    expected = log_mel_by_loops(speech.numpy(), extractor.floor)
    np.testing.assert_allclose(log_mel.numpy(), expected, rtol=1e-10, atol=1e-10)
    assert expected.min() == extractor.floor  # the silence at the end is there
    energies = np.log(np.exp(expected).mean(axis=1))
    assert energies[0] < extractor.level_floor < energies.max()
    features = normalize_by_loops(expected, extractor)
    np.testing.assert_allclose(extractor.normalize(log_mel)[0].numpy(), features, rtol=1e-9, atol=1e-9)


def test_every_length_gives_its_samples_over_the_hop_in_frames():
    extractor = extractor_of()
    for samples in range(1001):
        log_mel, tail = extractor.log_mel(torch.zeros(samples))
        assert log_mel.shape == extractor.normalize(log_mel)[0].shape == (samples // HOP, BANDS)
        assert WINDOW - HOP <= len(tail) < WINDOW


@pytest.mark.parametrize("level_decay", [None, 0.0, 12.0])
@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=12))
def test_a_recording_in_pieces_gives_the_features_of_the_whole(level_decay, sizes):
    extractor = extractor_of(level_decay=level_decay)
    for dtype, close in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
        speech = some_speech(sum(sizes), dtype=dtype)
        whole, pieces = features_of(extractor, [speech]), features_of(extractor, speech.split(sizes))
        for got, expected in zip(pieces, whole, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got, expected, **close)


def test_the_level_is_that_of_the_whole_after_an_hour_of_frames():
    extractor = RNNFeatureExtractor(feature_size=2, level_decay=12.0)
    log_mel = torch.randn(360_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level, parts = None, []
    for part in log_mel.split(9_999):
        features, level = extractor.normalize(part, level)
        parts.append(features)
    torch.testing.assert_close(torch.cat(parts), extractor.normalize(log_mel)[0], rtol=1e-11, atol=1e-11)


def test_louder_speech_has_the_same_features_where_the_level_is_taken_off():
    speech = some_speech()[:1900]  # without the silence, in which the floor is the same
    extractor = extractor_of(floor=-40.0, level_floor=-40.0)
    louder = features_of(extractor, [10 * speech])[1]
    torch.testing.assert_close(louder, features_of(extractor, [speech])[1], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(
        *(features_of(extractor_of(level_decay=None), [each])[1] for each in (speech, 10 * speech))
    )


def test_later_samples_change_no_earlier_frame():
    extractor, speech = extractor_of(), some_speech()
    changed = torch.cat([speech[:1234], torch.ones(1166, dtype=torch.float64)])
    before, after = (features_of(extractor, [each])[1][: 1234 // HOP] for each in (speech, changed))
    torch.testing.assert_close(before, after, **DOUBLE)


def test_the_filters_are_those_of_transformers():
    expected = mel_filter_bank(129, BANDS, 0.0, RATE / 2, RATE, norm=None, mel_scale="slaney")
    np.testing.assert_array_equal(extractor_of().mel_filters, expected)


def test_a_tone_is_loudest_in_the_band_whose_center_is_nearest():
    extractor, time = extractor_of(level_decay=None), torch.arange(RATE, dtype=torch.float64) / RATE
    for band, center in enumerate(extractor.centers.tolist()):
        if band >= 8:  # below, bands are as narrow as the window can tell apart
            assert extractor.log_mel((2 * torch.pi * center * time).sin())[0].mean(0).argmax() == band


@pytest.mark.parametrize("kind", ["array", "tensor", "list", "two dimensions", "numbers"])
def test_a_batch_has_each_recording_padded_at_its_end(kind):
    extractor = extractor_of(padding_value=-7.0)
    rows = [some_speech(1000), some_speech(1000 if kind == "two dimensions" else 500, seed=1)]
    batch = {
        "array": [row.numpy() for row in rows],
        "tensor": tuple(rows),
        "list": [row.tolist() for row in rows],
        "two dimensions": np.stack([rows[0], rows[-1]]) if kind == "two dimensions" else None,
        "numbers": rows[0].tolist(),
    }[kind]
    rows = rows[:1] if kind == "numbers" else rows
    inputs = extractor(batch, sampling_rate=RATE, return_tensors="pt")
    assert inputs.input_features.dtype == torch.float64
    assert inputs.attention_mask.sum(dim=1).tolist() == [len(row) // HOP for row in rows]
    for row, features, mask in zip(rows, inputs.input_features, inputs.attention_mask, strict=True):
        torch.testing.assert_close(features[mask == 1], features_of(extractor, [row])[1], **DOUBLE)
        assert (features[mask == 0] == -7.0).all()


@pytest.mark.parametrize("end_silence", [1, 37, 500])
def test_zeros_are_read_behind_each_whole_recording(end_silence):
    rows, zeros = [some_speech(1000), some_speech(543)], torch.zeros(end_silence, dtype=torch.float64)
    inputs = extractor_of(end_silence=end_silence)(rows, sampling_rate=RATE, return_tensors="pt")
    expected = extractor_of()([torch.cat([row, zeros]) for row in rows], sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(dict(inputs), dict(expected), rtol=0, atol=0)


def test_arguments_of_transformers_are_heeded():
    extractor, rows = extractor_of(), [some_speech(1000, dtype=torch.float32), some_speech(500, dtype=torch.float32)]
    plain = extractor(rows, RATE, padding=False)
    assert [each.shape for each in plain.input_features] == [(12, BANDS), (6, BANDS)]
    assert all(each.dtype == np.float32 for each in plain.input_features)
    fixed = extractor(rows, RATE, padding="max_length", max_length=9, truncation=True, return_tensors="np")
    assert fixed.input_features.shape == (2, 9, BANDS) and fixed.attention_mask.sum() == 15
    doubles = extractor([row.double() for row in rows], RATE, padding="max_length", max_length=9, truncation=True)
    np.testing.assert_allclose(np.stack(doubles.input_features), fixed.input_features, atol=1e-4)
    assert "attention_mask" not in extractor(rows, RATE, return_attention_mask=False)
    assert extractor(rows, RATE, pad_to_multiple_of=8, return_tensors="pt").input_features.shape[1] == 16
    with torch.no_grad():
        halves = extractor([row.half() for row in rows], RATE, return_tensors="pt")
    assert halves.input_features.dtype == torch.float32
    padded = extractor.pad([{"input_features": each} for each in plain.input_features], return_tensors="pt")
    torch.testing.assert_close(padded.input_features, extractor(rows, RATE, return_tensors="pt").input_features)


@pytest.mark.parametrize(
    "raw_speech, message",
    [
        ([], "`raw_speech` is empty"),
        (np.zeros(0), "`raw_speech` is empty"),
        ([np.zeros(100), np.zeros(0)], r"`raw_speech\[1\]` is empty"),
        (np.zeros((100, 2)), "several channels"),
        ([np.zeros(100), np.zeros((2, 100))], r"`raw_speech\[1\]` must have one channel"),
        (np.zeros((2, 3, 100)), "one channel"),
        (np.array([0.0, np.nan]), "`raw_speech` has samples that are not finite"),
        ([torch.zeros(9), torch.full((9,), torch.inf)], r"`raw_speech\[1\]` has samples that are not finite"),
        (np.zeros(100, dtype=np.int16), "divide samples of 16 bits by 32768"),
        ("speech.wav", "`raw_speech` must be an array"),
    ],
)
def test_what_is_no_speech_is_refused_by_name(raw_speech, message):
    with pytest.raises(ValueError, match=message):
        extractor_of()(raw_speech, sampling_rate=RATE)


def test_another_sampling_rate_is_refused():
    with pytest.raises(ValueError, match="`sampling_rate` must be 8000, as in training, got 16000"):
        extractor_of()(np.zeros(100), sampling_rate=16_000)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"feature_size": 1}, "`feature_size`"),
        ({"hop_length": 201}, "in rising order"),
        ({"hop_length": 0}, "in rising order"),
        ({"win_length": 257}, "in rising order"),
        ({"level_decay": -1.0}, "`level_decay`"),
        ({"end_silence": -1}, "`end_silence` must be 0 or more samples, got -1"),
        ({"mean": [0.0]}, "`mean` must have 40 numbers"),
        ({"std": [1.0] * 41}, "`std` must have 40 numbers"),
        ({"std": [0.0] + [1.0] * 39}, "`std` must be positive"),
    ],
)
def test_fields_that_do_not_fit_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        RNNFeatureExtractor(**fields)


def test_saved_is_loaded(tmp_path):
    extractor = extractor_of(
        floor=-15.0, level_floor=-11.0, end_silence=70, padding_side="left", mean=torch.tensor(MEAN)
    )
    extractor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert not saved.keys() & {"window", "mel_filters"}
    for kind in (RNNFeatureExtractor, AutoFeatureExtractor):
        loaded = kind.from_pretrained(tmp_path)
        assert type(loaded) is RNNFeatureExtractor and loaded.to_dict() == saved
        torch.testing.assert_close(features_of(loaded, [some_speech()]), features_of(extractor, [some_speech()]))
