"""What all tests share: the list of cells, tiny models, and settings of the property-based tests.

A test that takes an argument `cell` runs once for each entry of `CELLS`. pytest puts this folder on the import path,
because it holds a conftest.py and no `__init__.py`: that is how the tests find `reference`.
"""

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import settings

from rnn_hf import RNNConfig, RNNForCausalLM


# They hold no doctests, and two modules of one name cannot be collected: `pytest tests/models tests/training` stopped.
collect_ignore_glob = ["*/conftest.py"]

# The same examples at every run, so that a red run is a change of the code; and no deadline, as machines differ.
settings.register_profile("rnn_hf", max_examples=8, deadline=None, derandomize=True, database=None)
settings.load_profile("rnn_hf")

# The tests run in parallel, and two threads beside a busy core are slower than one.
torch.set_num_threads(1)

# Fields beside those of `make_model`. All are tied there, and a tied projection is as wide as the embedding.
CELLS = {
    "lstm": {"cell_type": "lstm"},
    "gru": {"cell_type": "gru"},
    "elman-tanh": {"cell_type": "rnn", "hidden_act": "tanh"},
    "elman-relu": {"cell_type": "rnn", "hidden_act": "relu"},
    "elman-sigmoid": {"cell_type": "rnn", "hidden_act": "sigmoid"},
    "lstm-projected": {"cell_type": "lstm", "projection_size": 3},
}


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize("cell", CELLS.values(), ids=CELLS.keys())


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


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps one state a process; runs of another precision need a new one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
