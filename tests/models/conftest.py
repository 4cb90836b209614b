"""What the tests of generation share: a model whose words hang on what came before."""

import pytest
import torch


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
