"""What all tests share: the list of cells, tiny models, and settings of the property-based tests.

A test that takes an argument `cell` runs once for each entry of `CELLS`, for some in the slow suite only. pytest
puts this folder on the import path, because it holds a conftest.py and no `__init__.py`: that is how the tests find
`reference`.
"""

import gc
import os
import sys
from pathlib import Path


# Before huggingface_hub reads it: a name that is nowhere is not asked of the Hub, again and again where no network is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import settings

from rnn_hf import RNNConfig, RNNForCausalLM


ROOT = Path(__file__).parents[1]

# They hold no doctests, and two modules of one name cannot be collected: `pytest tests/models tests/training` stopped.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

# The same examples at every run, so that a red run is a change of the code; and no deadline, as machines differ.
settings.register_profile("rnn_hf", max_examples=8, deadline=None, derandomize=True, database=None)
settings.load_profile("rnn_hf")

# The tests run in parallel, and two threads next to a busy core are slower than one.
torch.set_num_threads(1)

# Fields in addition to those of `make_model`. All are tied there, and a tied projection is as wide as the embedding.
CELLS = {
    "lstm": {"cell_type": "lstm"},
    "gru": {"cell_type": "gru"},
    "elman-tanh": {"cell_type": "rnn", "hidden_act": "tanh"},
    "elman-relu": {"cell_type": "rnn", "hidden_act": "relu"},
    "elman-sigmoid": {"cell_type": "rnn", "hidden_act": "sigmoid"},
    "lstm-projected": {"cell_type": "lstm", "projection_size": 3},
}
USUAL_CELLS = ("lstm", "gru", "elman-tanh")  # of the default suite; the others are for the slow one


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("usual_cells")
        usual = marker.args if marker else USUAL_CELLS
        cells = [
            pytest.param(cell, id=name, marks=() if name in usual else pytest.mark.slow)
            for name, cell in CELLS.items()
        ]
        metafunc.parametrize("cell", cells)


@pytest.fixture(scope="session")
def make_model():
    """`make_model(cell, **fields)`: a tiny float64 language model in eval mode with every parameter random."""

    def make(cell: dict, seed: int = 0, model_class=RNNForCausalLM, dtype=torch.float64, **fields):
        sizes = {"vocab_size": 11, "embedding_size": 3, "hidden_size": 5, "num_hidden_layers": 2}
        config = RNNConfig(**{**sizes, **cell, **fields})
        model = model_class(config).to(dtype).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # Initialisation leaves biases at zero and words alike: a test would not see them mixed up.
            for parameter in model.parameters():
                parameter.copy_(torch.empty_like(parameter).uniform_(-0.8, 0.8, generator=generator))
        return model

    return make


@pytest.fixture
def run_script(monkeypatch, capsys):
    """`run_script(name, *argv)`: exit code, output and errors of a script, in this process, as to start one is slow.

    `optimize` is as of `compile`: with 2 there are no docstrings, as under `python -OO`.
    """

    def run(name, *argv, optimize=-1):
        path = ROOT / "scripts" / name
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec", optimize=optimize)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, argv)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            exec(code, {"__name__": "__main__", "__file__": str(path)})
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage():
    """Trainer collects garbage when it starts; to look through all that is loaded takes longer than a run here."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps one state a process; runs of another precision need a new one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
