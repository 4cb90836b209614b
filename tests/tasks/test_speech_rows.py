"""Rows to score: each recording alone and in one string; batches give what each row has alone."""

import numpy as np
import pytest
import torch
from speech_files import PATTERN, RATE, write_folder

from rnn_hf import RNNForCTC, RNNSpeechConfig
from rnn_hf.data.speech import load_speech
from rnn_hf.errors import InputError
from rnn_hf.models.feature_extraction_rnn import RNNFeatureExtractor
from rnn_hf.tasks.speech_rows import features_of, joined_waves, rows_to_score, run_batches


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("speech"), range(3))
    return load_speech(train_file=folder, transcript_pattern=PATTERN)["train"]


@pytest.fixture
def extractor():
    return RNNFeatureExtractor(feature_size=8, sampling_rate=RATE, level_decay=10)


def test_each_recording_is_a_row_and_in_one_string_of_its_speaker(recordings, extractor):
    rows = rows_to_score(recordings, extractor, 4)
    single, strings = rows[: len(recordings)], rows[len(recordings) :]
    for row, recording in zip(single, recordings, strict=True):
        assert (row.text, row.speaker, row.recordings) == (recording.text, recording.speaker, 1)
        samples, _ = recording.file.samples(RATE)
        expected = extractor([samples], sampling_rate=RATE, return_tensors="pt").input_features[0]
        torch.testing.assert_close(row.features, expected)
    by_name = {recording.file.name: recording for recording in recordings}
    names = [name for row in strings for name in row.name.split(" + ")]
    assert len(names) == len(set(names)) == 16 and set(names) < set(by_name)  # one of nine would be alone
    for row in strings:
        parts = [by_name[name] for name in row.name.split(" + ")]
        assert {part.speaker for part in parts} == {row.speaker} and len(parts) == row.recordings
        assert row.text.split() == [part.text for part in parts]
        samples = sum(len(part.file.samples(RATE)[0]) for part in parts)
        frames = len(row.features)
        assert samples // 80 <= frames <= (samples + (len(parts) - 1) * 0.15 * RATE) // 80


def test_strings_are_always_the_same_and_one_recording_is_none(recordings, extractor):
    one, again = (rows_to_score(recordings, extractor, 4) for _ in range(2))
    assert all(torch.equal(a.features, b.features) and a.text == b.text for a, b in zip(one, again, strict=True))
    assert len(rows_to_score(recordings, extractor, 1)) == len(recordings)


def test_another_sampling_rate_is_told_with_the_file(recordings):
    with pytest.raises(InputError, match=r"\.wav has 8,000 samples a second, and 16,000 are needed"):
        rows_to_score(recordings, RNNFeatureExtractor(sampling_rate=16_000), 1)


def test_between_joined_recordings_there_is_hardly_a_sound():
    generator = np.random.default_rng(0)
    waves = [generator.normal(0, 0.1, 1000).astype("float32") for _ in range(6)]
    joined = joined_waves(waves, RATE, np.random.default_rng(1))
    assert joined.dtype == np.float32 and 6000 < len(joined) <= 6000 + 5 * 0.15 * RATE
    assert np.array_equal(joined[:1000], waves[0]) and np.array_equal(joined[-1000:], waves[-1])
    gaps = joined[np.abs(joined) < 1e-3]
    assert 0 < np.sqrt(np.mean(gaps**2)) < 3e-4


@pytest.mark.parametrize("bidirectional", [False, True])
def test_rows_have_in_batches_what_they_have_alone(bidirectional):
    torch.manual_seed(0)
    config = RNNSpeechConfig(vocab_size=5, num_mel_bins=8, hidden_size=6, bidirectional=bidirectional, cell_type="gru")
    model = RNNForCTC(config).double().train()
    features = [torch.randn(frames, 8, dtype=torch.float64) for frames in (30, 7, 19, 2, 31)]
    for size in (1, 2, 5):
        outputs = dict(run_batches(model, features, size))
        assert sorted(outputs) == list(range(5)) and model.training
        for index, each in enumerate(features):
            assert outputs[index].shape == (len(each) // 3, 5)
            if len(each) >= 3:
                with torch.no_grad():
                    alone = model.eval()(each[None]).logits[0]
                torch.testing.assert_close(outputs[index], alone, atol=1e-12, rtol=0)
                model.train()


def test_features_are_those_of_the_extractor(extractor):
    samples = np.random.default_rng(0).normal(0, 0.1, 2001).astype("float32")
    expected = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features[0]
    assert torch.equal(features_of(samples, extractor), expected)
