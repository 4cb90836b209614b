"""What the tests of training share: a small text, and a function that trains on it."""

import numpy as np
import pytest

from rnn_hf.training import reporting
from rnn_hf.training.loop import train
from rnn_hf.training.parsing import parse_arguments


@pytest.fixture(autouse=True)
def _no_picture(request, monkeypatch):
    """A run draws its curve only in tests that ask for it by `curve`, as this takes longer than all else there."""
    if "curve" not in request.fixturenames:
        monkeypatch.setattr(reporting, "plot_curve", lambda *paths: None)


@pytest.fixture
def curve(tmp_path):
    """`curve(name)`: whether the picture of a run is one."""
    return lambda name: (tmp_path / name / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Sentences of a small grammar: the next word depends on the one before it, so a unigram model is beaten."""
    directory, generator = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    sentences = [" ".join(str((start + i) % 12) for i in range(8)) for start in generator.integers(0, 12, 400)]
    (directory / "train.txt").write_text("\n".join(sentences))
    (directory / "validation.txt").write_text("\n".join(sentences[:40]))
    return directory


@pytest.fixture
def run(text, tmp_path):
    """Train a tiny model with dropout of every kind; returns the content of run.json."""

    def run(name, **flags):
        values = {
            "train_file": text / "train.txt", "validation_file": text / "validation.txt",
            "output_dir": tmp_path / name, "hidden_size": 12, "embedding_dropout": 0.1, "hidden_dropout": 0.1,
            "recurrent_dropout": 0.1, "per_device_train_batch_size": 6, "window": 10, "optim": "sgd",
            "learning_rate": 5, "max_grad_norm": 0.25, "num_train_epochs": 2, "logging_steps": 7,
            "disable_tqdm": True, "use_cpu": True,
            "measure_kernels": False,  # two runs, which are compared, might choose other ones
            **flags,
        }  # fmt: skip
        argv = [part for name, value in values.items() for part in (f"--{name}", str(value))]
        return train(parse_arguments(argv))

    return run
