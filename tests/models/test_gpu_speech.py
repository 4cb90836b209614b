"""The recognizer of speech and its loss on a GPU: the numbers and gradients of a CPU."""

import copy

import pytest
import torch
from networks import assert_same_gradients, gradients_of

from rnn_hf import RNNForCTC, RNNSpeechConfig


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
# Left, right and interior padding, and a row that ends amid a step.
MASK = torch.tensor([[0] * 4 + [1] * 6, [1] * 8 + [0] * 2, [1, 0] * 5, [1] * 9 + [0], [1] * 10])
LABELS = torch.tensor([[1, 2, -100], [3, 3, -100], [-100] * 3, [1, 2, 4], [-100, 4, 1]])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_speech_is_heard_and_learned_as_on_a_cpu(cell, bidirectional):
    torch.manual_seed(0)
    sizes = {"vocab_size": 5, "hidden_size": 5, "num_mel_bins": 3, "frame_stack": 2, "initializer_range": 0.8}
    model = RNNForCTC(RNNSpeechConfig(**sizes, **cell, bidirectional=bidirectional)).double()
    elsewhere, frames = copy.deepcopy(model).to(DEVICE), torch.randn(5, 10, 3, dtype=torch.float64)
    for mask, labels in ((MASK, LABELS), (None, LABELS), (MASK, torch.full((5, 0), -100))):
        expected = model(frames, mask, labels=labels)
        output = elsewhere(frames.to(DEVICE), None if mask is None else mask.to(DEVICE), labels=labels.to(DEVICE))
        torch.testing.assert_close(output.logits.cpu(), expected.logits, **CLOSE)
        torch.testing.assert_close(output.loss.cpu(), expected.loss, **CLOSE)
        expected.loss.backward()
        output.loss.backward()
        got = {name: gradient.cpu() for name, gradient in gradients_of(elsewhere).items()}
        assert_same_gradients(got, gradients_of(model), **CLOSE)
    with pytest.raises(ValueError, match="row 0 has 3 of 5"):
        elsewhere(frames.to(DEVICE), MASK.to(DEVICE), labels=torch.tensor([[1, 1, 1]] + [[2, -100, -100]] * 4))
