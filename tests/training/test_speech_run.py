"""Training on recordings: resumed equals uninterrupted, the best model loads and scores, tones are learned."""

import json
import sys
from pathlib import Path

import pytest
import torch
from run_files import history, state_of
from safetensors.torch import load_file
from speech_files import PATTERN, SPEAKERS, TONES, tone, write_archive
from speech_models import train_recognizer
from transformers import AutoModelForCTC, pipeline

from rnn_hf.errors import MissingPackageError
from rnn_hf.tasks import automatic_speech_recognition as task
from rnn_hf.training.labelled_run import LabelledRun, closing_lines, train
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.trainer import LabelledTrainer


STEPS = 6  # an epoch has: 3 words, 2 speakers, 4 recordings of each
WITHOUT_DROPOUT = dict.fromkeys(("input_dropout", "hidden_dropout", "classifier_dropout"), 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("speech")
    return {
        "train_file": write_archive(directory / "train.zip", range(4)),
        "validation_file": write_archive(directory / "validation.zip", range(4, 6)),
    }


@pytest.fixture
def arguments_of(data, tmp_path):
    """The arguments of a run with every change of the recordings, into a directory by name."""

    def arguments_of(name, **flags):
        values = {
            **data, "transcript_pattern": PATTERN, "output_dir": tmp_path / name, "label_unit": "words",
            "num_mel_bins": 8, "hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 2, "cell_type": "gru",
            **dict.fromkeys(WITHOUT_DROPOUT, 0.2), "per_device_train_batch_size": 4, "learning_rate": 0.01,
            "num_train_epochs": 3, "join_recordings": 3, "curriculum_epochs": 2, "validation_join": 3,
            "logging_steps": 4, "disable_tqdm": True, "use_cpu": True, "measure_kernels": False, **flags,
        }  # fmt: skip
        argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        return parse_arguments(["--task", task.NAME, *argv])

    return arguments_of


@pytest.fixture
def run(arguments_of):
    """Train; returns the content of run.json."""
    return lambda name, **flags: train(arguments_of(name, **flags))


@pytest.mark.parametrize(
    "flags",
    [
        {"average_decay": 0.8, "eval_steps": 4, "save_steps": 3, "logging_steps": 5, "frequency_warp": 0.2},
        {"bidirectional": True, "cell_type": "lstm", "gradient_accumulation_steps": 2,
         "per_device_train_batch_size": 2, "label_unit": "characters", "frame_stack": 1, "group_by_length": False},
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_resumed_run_hears_what_the_uninterrupted_one_does_and_is_it_bit_for_bit(run, tmp_path, flags):
    """Stopped within an epoch, and at the end of one; strings grow from epoch to epoch."""
    assert run("whole", **flags)["steps_per_epoch"] == STEPS
    for stop_at in (4, STEPS):
        name = f"parts-{stop_at}"
        assert not run(name, max_steps=stop_at, **flags)["result"]["is_complete"]
        resumed = run(name, resume_from_checkpoint="last", **flags)
        assert resumed["first_step"] == stop_at and resumed["result"]["is_complete"]
        assert state_of(tmp_path / "whole") == state_of(tmp_path / name)
        assert history(tmp_path / "whole") == history(tmp_path / name)


def test_each_epoch_begins_a_string_with_each_recording_and_strings_grow(run, arguments_of, monkeypatch):
    original, seen = LabelledTrainer.training_step, []

    def training_step(self, model, inputs, *rest):
        examples = self.train_dataset
        assert examples.epoch == int(self.state.epoch or 0)
        seen.extend((inputs["labels"] != -100).sum(1).tolist())
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(LabelledTrainer, "training_step", training_step)
    run("a", cut_probability=0)
    plans = LabelledRun(arguments_of("b", cut_probability=0)).prepared.examples["train"].plans
    size = 4 * STEPS
    for epoch in range(3):
        drawn = [len(plans.draw(epoch, index)[0].parts) for index in range(size)]
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == sorted(drawn)
    assert max(seen[:size]) == 1 and max(seen[2 * size :]) == 3


def test_accumulated_batches_train_as_the_whole_batch_does(run, tmp_path):
    flags = {**WITHOUT_DROPOUT, "logging_steps": 1, "max_steps": STEPS}
    run("whole", per_device_train_batch_size=4, **flags)
    run("parts", per_device_train_batch_size=1, gradient_accumulation_steps=4, **flags)
    for one, other in zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_a_checkpoint_of_other_data_or_changes_of_it_is_refused(run):
    run("a", max_steps=2)
    for name, value in {"speed": 0.3, "label_unit": "characters", "max_train_samples": 20, "level_decay": 3}.items():
        with pytest.raises(ValueError, match="another run: `(train_sha1|vocab_size)` was"):
            run("a", resume_from_checkpoint="last", **{name: value, "frame_stack": 3})
    with pytest.raises(ValueError, match="another run: `frame_stack` was 3, is 2"):
        run("a", resume_from_checkpoint="last", frame_stack=2)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run that learned the tones: its directory and the content of run.json."""
    directory = Path(train_recognizer(tmp_path_factory.mktemp("trained"), **data))
    return directory, json.loads((directory / "run.json").read_text())


@pytest.mark.slow
def test_what_was_learned_stands_in_the_directory_and_scores_what_its_step_says(trained):
    directory, record = trained
    best = min((row for row in history(directory) if "validation_wer" in row), key=lambda row: row["validation_wer"])
    assert record["metric"] == "wer" and record["result"]["best_validation_wer"] == best["validation_wer"] < 0.3
    assert record["data"]["floor"] == pytest.approx(2 / 3)
    scores = task.evaluate(str(directory), ["validation"], {})["validation"]
    told = {name.removeprefix("validation_"): value for name, value in best.items() if "validation" in name}
    assert {"loss": scores.loss, **scores.values} == {name: pytest.approx(value, abs=1e-5)
                                                     for name, value in told.items()}  # fmt: skip
    assert scores.count == record["data"]["words"]["validation"] * 2  # alone and in strings
    assert set(scores.speakers) == set(SPEAKERS)
    assert closing_lines(record)[0].endswith("always the most frequent word has 66.67")


def test_the_pipeline_and_predict_say_what_evaluate_scores(trained, data):
    directory, _ = trained
    model, tokenizer, extractor = task.load_recognizer(str(directory))
    recordings = task.load_data(**data, transcript_pattern=PATTERN)["validation"]
    answers = list(task.predict(model, tokenizer, extractor, [each.file for each in recordings], 5))
    right = sum(answer["text"] == each.text for answer, each in zip(answers, recordings, strict=True))
    scores = task.evaluate(str(directory), ["validation"], {})["validation"]
    assert right / len(recordings) == scores.values["isolated_accuracy"]
    hear = pipeline(
        "automatic-speech-recognition", model=AutoModelForCTC.from_pretrained(directory), tokenizer=tokenizer,
        feature_extractor=extractor,
    )  # fmt: skip
    for answer, each in zip(answers, recordings, strict=True):
        assert hear({"raw": each.file.samples()[0], "sampling_rate": 8000})["text"] == answer["text"]


def test_words_have_times_in_order_within_the_recording(trained):
    model, tokenizer, extractor = task.load_recognizer(str(trained[0]))
    samples = torch.cat([torch.from_numpy(tone(word, "ann", 9)) for word in TONES])
    answers = task.predict(model, tokenizer, extractor, [_File(samples.numpy())], timestamps=True)
    (answer,) = answers
    words = answer["words"]
    assert [word["word"] for word in words] == answer["text"].split()
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times) and times[-1] <= (len(samples) + extractor.end_silence) / 8000


class _File:
    name = "a.wav"

    def __init__(self, samples):
        self.content = samples

    def samples(self, sampling_rate):
        return self.content, sampling_rate


def test_a_run_starts_from_the_model_of_another_one(trained, run, arguments_of):
    flags = {"num_mel_bins": 10, "hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1}
    started = LabelledRun(arguments_of("a", init_from=trained[0], **flags))
    for name, tensor in load_file(trained[0] / "model.safetensors").items():
        assert torch.equal(started.model.state_dict()[name], tensor)
    _, _, extractor = task.load_recognizer(str(trained[0]))
    assert started.prepared.extractor.mean == extractor.mean and started.model.dropout.p == 0.2
    with pytest.raises(ValueError, match="`hidden_size` is 9, and the model of `init_from` has 16"):
        run("a", init_from=trained[0], **{**flags, "hidden_size": 9})


def test_a_held_out_speaker_is_validated_on_and_not_trained_on(arguments_of):
    prepared = LabelledRun(arguments_of("a", held_out_speaker="bob")).prepared
    assert {each.speaker for each in prepared.data["train"]} == {"ann"}
    assert {row.speaker for row in prepared.examples["validation"]} == {"bob"}


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is for one class out of several, not for speech"),
        ({"frame_stack": 0}, "`frame_stack` must be at least 1, got 0"),
        ({"held_out_speaker": "eve"}, "`held_out_speaker` must be one of ann, bob, got 'eve'"),
        ({"window_ms": 5}, "`window_ms` must be at least `hop_ms`, got 5 and 10"),
        ({"noise_probability": 2}, r"`noise_probability` must be in \[0, 1\], got 2"),
        ({"speed": 1}, r"`speed` must be in \[0, 1\), got 1"),
        ({"join_recordings": 0}, "`join_recordings` must be at least 1, got 0"),
    ],
)
def test_what_is_refused_leaves_no_directory(run, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run("a", **flags)
    assert not (tmp_path / "a").exists()


def test_the_package_that_scores_is_missed_before_the_first_step(arguments_of, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'rnn_hf\[speech\]'"):
        LabelledRun(arguments_of("a"))
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(task, "score", None)  # is not reached
    with pytest.raises(MissingPackageError, match=r"pip install 'rnn_hf\[speech\]'"):
        task.evaluate(str(trained[0]), ["validation"], {})


def test_the_opening_lines_say_what_there_is_to_hear(run, capsys):
    run("a", max_steps=1, disable_tqdm=False)
    said = capsys.readouterr().out
    assert "train: 24 recordings, 24 words, 2 speakers, 0.00 hours" in said
    assert "validation: 12 recordings, 12 words, 2 speakers, and 4 strings of them" in said
    assert "labels: 5 words, with the blank and <unk>" in said
    assert "always the most frequent word of train: word error rate 66.67 %" in said
