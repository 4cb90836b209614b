"""What the tests of models share: a language model whose words depend on what came before, and ways chosen by hand."""

import pytest
import torch
from networks import make_words_depend_on_the_past

from rnn_hf.models import kernels_rnn, layers_rnn, loss_rnn, window_rnn


PAD = 0


@pytest.fixture
def model(make_model, cell):
    model = make_model(cell, seed=3, embedding_size=6, hidden_size=8, tie_word_embeddings=False)
    model.generation_config.pad_token_id = PAD
    model.generation_config.suppress_tokens = [PAD]
    make_words_depend_on_the_past(model)
    with torch.no_grad():
        model.lm_head.bias[PAD] = -1e4  # never the likeliest, in the loops by hand either
    return model


@pytest.fixture
def choose(monkeypatch):
    """`choose(*names)`: of each list of ways take the first one that bears one of the names, unmeasured."""

    def choose(*names):
        def fastest(what, ways, margin=None):
            return next((name for name in ways if name in names), next(iter(ways)))

        for module in (kernels_rnn, layers_rnn, loss_rnn, window_rnn):
            monkeypatch.setattr(module, "fastest", fastest)

    return choose
