"""A recognizer of the tones of `speech_files`, trained in seconds, as a run leaves it."""

from pathlib import Path

from speech_files import PATTERN, write_archive

from rnn_hf.training.labelled_run import train
from rnn_hf.training.parsing import parse_arguments


def train_recognizer(directory: Path, **flags) -> str:
    """The path of a run's directory; its data is next to it."""
    values = {
        "train_file": write_archive(directory / "train.zip", range(4)),
        "validation_file": write_archive(directory / "validation.zip", range(4, 6)), "transcript_pattern": PATTERN,
        "output_dir": directory / "run", "label_unit": "words", "num_mel_bins": 10, "hidden_size": 16,
        "embedding_size": 16, "num_hidden_layers": 1, "cell_type": "gru", "learning_rate": 0.03,
        "per_device_train_batch_size": 4, "num_train_epochs": 24, "join_recordings": 3, "curriculum_epochs": 8,
        "validation_join": 3, "eval_steps": 36, "cut_probability": 0, "noise_probability": 0,
        "time_masks": 0, "frequency_masks": 0, "disable_tqdm": True, "use_cpu": True, "measure_kernels": False,
        **flags,
    }  # fmt: skip
    argv = [str(part) for key, value in values.items() for part in (f"--{key}", value)]
    train(parse_arguments(["--task", "automatic-speech-recognition", *argv]))
    return str(values["output_dir"])
