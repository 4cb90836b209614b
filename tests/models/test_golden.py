"""A checkpoint that version 0.1.0 wrote keeps loading and keeps its numbers."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import rnn_hf  # noqa: F401 (registers the models)


GOLDEN = Path(__file__).parent / "golden_lstm"


def test_the_golden_checkpoint_gives_the_numbers_it_was_saved_with():
    expected = json.loads((GOLDEN / "expected.json").read_text())
    model, report = AutoModelForCausalLM.from_pretrained(GOLDEN, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    outputs = model(torch.tensor(expected["input_ids"]))
    state = outputs.cache.layers[-1].values
    torch.testing.assert_close(outputs.logits[:, -1], torch.tensor(expected["last_logits"]), atol=2e-6, rtol=0)
    torch.testing.assert_close(state, torch.tensor(expected["last_state"]), atol=2e-6, rtol=0)
