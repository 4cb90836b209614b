"""What tests of several parts do with networks: rows to run, gradients to compare, words that depend on the past."""

import torch
from torch import nn


DROPOUTS = ["embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout"]


def some_ids(batch: int = 2, time: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(11, (batch, time), generator=torch.Generator().manual_seed(seed))


def left_padded(batch: int = 2, time: int = 5) -> torch.Tensor:
    mask = torch.ones(batch, time, dtype=torch.long)
    mask[0, :2] = 0
    return mask


def gradients_of(model) -> dict[str, torch.Tensor]:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return gradients


def assert_same_gradients(got: dict, expected: dict, **tolerance):
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], msg=lambda text, n=name: f"{n}: {text}", **tolerance)


def recurrent_modules(model) -> list[nn.RNNBase]:
    return [module for module in model.modules() if isinstance(module, nn.RNNBase)]


def make_words_depend_on_the_past(model) -> None:
    """Scale a language model so that no word is likelier than the others on the whole, and the odds differ from place
    to place: or a state that is mixed up would not show."""
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3)
        logits = model(torch.randint(1, 11, (8, 12), generator=torch.Generator().manual_seed(1))).logits
        scale = 2 / (logits - logits.mean((0, 1))).std()
        model.lm_head.weight.mul_(scale)
        model.lm_head.bias.copy_((model.lm_head.bias - logits.mean((0, 1))) * scale)
