"""What the tests of models share: a language model whose words depend on what came before, and ways chosen by hand."""

import pytest
import torch

from rnn_hf.models import kernels_rnn, layers_rnn, loss_rnn


PAD = 0


@pytest.fixture
def model(make_model, cell):
    model = make_model(cell, seed=3, embedding_size=6, hidden_size=8, tie_word_embeddings=False)
    model.generation_config.pad_token_id = PAD
    model.generation_config.suppress_tokens = [PAD]
    with torch.no_grad():
        # What comes next must hang on what came before, or a state that is mixed up would not show: no word is
        # likelier than the others on the whole, and the odds differ from place to place.
        model.get_input_embeddings().weight.mul_(3)
        logits = model(torch.randint(1, 11, (8, 12), generator=torch.Generator().manual_seed(1))).logits
        scale = 2 / (logits - logits.mean((0, 1))).std()
        model.lm_head.weight.mul_(scale)
        model.lm_head.bias.copy_((model.lm_head.bias - logits.mean((0, 1))) * scale)
        model.lm_head.bias[PAD] = -1e4  # never the likeliest, in the loops by hand either
    return model


@pytest.fixture
def choose(monkeypatch):
    """`choose(*names)`: of each list of ways take the first one that bears one of the names, unmeasured."""

    def choose(*names):
        def fastest(what, ways, margin=None):
            return next((name for name in ways if name in names), next(iter(ways)))

        for module in (kernels_rnn, layers_rnn, loss_rnn):
            monkeypatch.setattr(module, "fastest", fastest)

    return choose
