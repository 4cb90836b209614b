"""What a run on recordings works on: strings by epoch, their labels and masks; what is too short is named."""

import numpy as np
import pytest
import torch
from speech_files import PATTERN, RATE, TONES, encoded, write_folder

from rnn_hf import RNNForCTC
from rnn_hf.data.augmentation import Augmentation, StringPlans
from rnn_hf.errors import InputError
from rnn_hf.models.ctc_rnn import steps_needed
from rnn_hf.models.feature_extraction_rnn import RNNFeatureExtractor
from rnn_hf.models.tokenization_rnn_ctc import DELIMITER, RNNCTCTokenizer
from rnn_hf.tasks.speech_runs import SpeechExamples, SpeechWork, collate, mean_and_deviation, steps_for
from rnn_hf.training.parsing import parse_arguments


TEXTS = ["three", "low", "", "three low"]
LENGTHS = [30, 12, 9, 45]
STACK = 2


@pytest.fixture
def log_mels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 8, generator=generator) for length in LENGTHS]


def examples_of(log_mels, augmentation=None, unit="characters", **options):
    tokenizer = RNNCTCTokenizer.build(TEXTS, unit)
    plans = StringPlans(LENGTHS, [None] * 4, augmentation or Augmentation(), **options)
    separator = [] if unit == "words" else [tokenizer.convert_tokens_to_ids(DELIMITER)]
    labels = [tokenizer(text).input_ids for text in TEXTS]
    extractor = RNNFeatureExtractor(feature_size=8, sampling_rate=RATE, level_decay=10)
    return SpeechExamples(log_mels, labels, plans, extractor, STACK, separator), tokenizer


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_the_labels_of_a_string_are_those_of_the_texts_together(log_mels, unit):
    examples, tokenizer = examples_of(log_mels, unit=unit, most=4)
    for epoch in range(9):
        examples.begin_epoch(epoch)
        for index in range(4):
            plan, labels, _ = examples._draw(index)
            text = " ".join(filter(None, (TEXTS[part] for part, _ in plan.parts)))
            assert labels == tokenizer(text).input_ids == examples[index]["labels"].tolist()


def test_an_example_depends_on_the_epoch_and_its_place_alone_and_is_as_long_as_was_said(log_mels):
    everything = Augmentation(0.2, 6, 0.8, 5, 9, 4, 2, 3, 1, 3)
    examples, _ = examples_of(log_mels, everything, most=3, seed=5)
    seen = {}
    for epoch in (0, 1, 2):
        lengths = examples.begin_epoch(epoch)
        for index in (3, 0, 2, 1):
            example = seen[epoch, index] = examples[index]
            assert len(example["input_features"]) == lengths[index] >= STACK * steps_for(example["labels"].tolist())
            assert example["input_features"].dtype == torch.float32
    again, _ = examples_of(log_mels, everything, most=3, seed=5)
    for epoch in (2, 0):
        again.begin_epoch(epoch)
        for index in range(4):
            for name, tensor in seen[epoch, index].items():
                assert torch.equal(tensor, again[index][name])
    assert not torch.equal(seen[0, 1]["input_features"], seen[1, 1]["input_features"])


def test_without_augmentation_an_example_is_what_the_extractor_gives(log_mels):
    examples, _ = examples_of(log_mels)
    for epoch in range(2):
        assert examples.begin_epoch(epoch) == LENGTHS
        for index, log_mel in enumerate(log_mels):
            assert torch.equal(examples[index]["input_features"], examples.extractor.normalize(log_mel)[0])


def test_there_is_silence_behind_what_is_too_short_for_its_labels(log_mels):
    short = [log_mel[:5] for log_mel in log_mels]
    examples, _ = examples_of(short)
    examples.plans.lengths = [5] * 4
    lengths = examples.begin_epoch(0)
    needed = [STACK * steps_for(labels) for labels in examples.labels]
    assert lengths == [max(5, steps) for steps in needed] and lengths[0] == 12 and lengths[2] == 5


def test_a_recording_that_breaks_off_has_no_labels_and_a_step_at_least(log_mels):
    examples, _ = examples_of(log_mels, Augmentation(cut_probability=0.5))
    for epoch in range(9):
        lengths = examples.begin_epoch(epoch)
        for index in range(4):
            plan, labels, _ = examples._draw(index)
            assert labels == ([] if plan.cut is not None else examples.labels[index])
            assert STACK <= len(examples[index]["input_features"]) == lengths[index]


def test_steps_are_counted_as_the_model_counts_them():
    for labels in ([], [3], [3, 3], [1, 2, 2, 2, 1], [4, 4, 5, 5]):
        assert steps_for(labels) == int(steps_needed(torch.tensor([labels], dtype=torch.long)))


def test_a_batch_is_padded_behind_each_row():
    rows = [
        {"input_features": torch.ones(frames, 8), "labels": torch.arange(1, 1 + labels)}
        for frames, labels in ((4, 0), (7, 3), (2, 1))
    ]
    batch = collate(rows)
    assert batch["input_features"].shape == (3, 7, 8) and batch["attention_mask"].sum(1).tolist() == [4, 7, 2]
    assert torch.equal(batch["input_features"][..., 0], batch["attention_mask"].float())
    assert batch["labels"].tolist() == [[-100, -100, -100], [1, 2, 3], [1, -100, -100]]


def test_normalised_features_of_the_training_data_have_no_mean_and_a_deviation_of_one(log_mels):
    extractor = RNNFeatureExtractor(feature_size=8, sampling_rate=RATE, level_decay=10)
    louder = [log_mel * torch.arange(1, 9) + 2 for log_mel in log_mels]
    extractor.mean, extractor.std = mean_and_deviation(louder, extractor)
    features = torch.cat([extractor.normalize(log_mel)[0] for log_mel in louder])
    torch.testing.assert_close(features.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(8), atol=1e-5, rtol=0)
    extractor = RNNFeatureExtractor(feature_size=8, sampling_rate=RATE)
    assert mean_and_deviation([torch.full((9, 8), -16.0)], extractor)[1] == [0.1] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("speech") / "all", range(4))


@pytest.fixture
def work(folder, tmp_path):
    """`work(**flags)`: what a run with these flags works on."""

    def work(**flags):
        values = {
            "train_file": folder, "transcript_pattern": PATTERN, "num_mel_bins": 8, "hidden_size": 6,
            "output_dir": tmp_path / "run", "label_unit": "words", **flags,
        }  # fmt: skip
        argv = [str(part) for name, value in values.items() if value != "" for part in (f"--{name}", value)]
        return SpeechWork(parse_arguments(["--task", "automatic-speech-recognition", "--disable_tqdm", *argv]))

    return work


def test_recordings_become_a_model_that_fits_its_processors(work):
    made = work(window_ms=20, hop_ms=8, cell_type="gru", frame_stack=4, validation_split_percentage=25)
    extractor, model = made.prepared.extractor, made.build_model()
    assert (extractor.win_length, extractor.hop_length, extractor.n_fft) == (160, 64, 256)
    assert isinstance(model, RNNForCTC) and model.config.inputs_to_logits_ratio == 256
    assert model.config.vocab_size == len(made.prepared.tokenizer) == len(TONES) + 2
    assert set(made.prepared.data) == {"train", "validation"} and made.counts()["rows"] == {
        "train": 18, "validation": 6
    }  # fmt: skip
    assert made.summary()[0].startswith("train: 18 recordings, 18 words, 2 speakers, 0.00 hours")
    assert made.summary()[-1].startswith("always the most frequent word of train: word error rate")


def test_the_checksum_knows_data_and_changes_of_it_but_no_places(work, folder, tmp_path):
    one = work().counts()["train_sha1"]
    other = write_folder(tmp_path / "elsewhere", range(4))
    assert work(train_file=other).counts()["train_sha1"] == one
    changes = [
        {"speed": 0.2}, {"join_recordings": 2}, {"max_train_samples": 20}, {"window_ms": 20},
        {"label_unit": "characters"}, {"train_file": write_folder(tmp_path / "more", range(5))},
    ]  # fmt: skip
    assert len({one, *(work(**flags).counts()["train_sha1"] for flags in changes)}) == 1 + len(changes)


def test_recordings_that_are_too_short_for_their_labels_are_named(work):
    with pytest.raises(InputError, match=r"^\d+ of 22 recordings are too short for their labels, ") as error:
        work(label_unit="characters", hop_ms=25, frame_stack=4)
    assert ".wav" in str(error.value) and "`ctc_zero_infinity`" in str(error.value)
    made = work(label_unit="characters", hop_ms=25, frame_stack=4, ctc_zero_infinity=True, cut_probability=0)
    assert made.counts()["too_short"] == made.too_short > 0
    assert any("have silence put behind" in line for line in made.summary())
    examples = made.prepared.examples["train"]
    for length, (index, labels) in zip(examples.begin_epoch(0), enumerate(examples.labels), strict=True):
        assert length // 4 >= steps_for(labels), index


def test_what_cannot_be_trained_on_is_told(work, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(encoded(np.zeros(2000)))
    (tmp_path / "silent.tsv").write_text("a.wav\t\nb.wav\t\n")
    with pytest.raises(InputError, match="nobody says a word in the recordings to train on"):
        work(train_file=tmp_path / "silent.tsv", validation_split_percentage=50)
    with pytest.raises(InputError, match="there are no recordings for train: give `train_file`"):
        work(train_file="", validation_file=tmp_path / "silent.tsv")
