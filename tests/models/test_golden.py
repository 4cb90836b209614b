"""What earlier releases wrote keeps working: a checkpoint of 0.1.0 and its state, and the repositories that ship."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rnn_hf import RNNCache


GOLDEN = Path(__file__).parent / "golden_lstm"
CARDS = Path(__file__).parents[2] / "model_cards"
SHIPPED = [path.parent for path in sorted(CARDS.glob("*/config.json"))
           if json.loads(path.read_text())["architectures"] == ["RNNForCausalLM"]]  # fmt: skip


@pytest.fixture(scope="module", params=[GOLDEN, *SHIPPED], ids=lambda path: path.name)
def saved(request):
    """A model that an earlier release wrote; in float64, so that two ways round to the same tokens."""
    return AutoModelForCausalLM.from_pretrained(request.param, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def ids(saved):
    return torch.randint(1, saved.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))


def test_the_golden_checkpoint_gives_the_numbers_it_was_saved_with():
    expected = json.loads((GOLDEN / "expected.json").read_text())
    model, report = AutoModelForCausalLM.from_pretrained(GOLDEN, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    outputs = model(torch.tensor(expected["input_ids"]))
    state = outputs.cache.layers[-1].values
    torch.testing.assert_close(outputs.logits[:, -1], torch.tensor(expected["last_logits"]), atol=2e-6, rtol=0)
    torch.testing.assert_close(state, torch.tensor(expected["last_state"]), atol=2e-6, rtol=0)


@torch.no_grad()
def test_the_golden_state_goes_on_where_it_was_saved():
    before = torch.tensor(json.loads((GOLDEN / "expected.json").read_text())["input_ids"])
    model = AutoModelForCausalLM.from_pretrained(GOLDEN).eval()
    state = RNNCache.load(GOLDEN / "state.safetensors", model)
    expected = model(torch.cat([before, before], dim=1)).logits[:, 4:]
    torch.testing.assert_close(model(before, cache=state).logits, expected, atol=2e-6, rtol=0)


@torch.no_grad()
def test_a_saved_model_scores_a_text_in_pieces_as_in_one(saved, ids):
    whole = saved(ids, labels=ids)
    by_hand = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(whole.loss, by_hand)
    first = saved(ids[:, :4])
    rest = saved(ids[:, 4:], cache=first.cache)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), whole.logits)


# How a text is generated: options, and the length of the prompt that a given state has seen.
WAYS = {
    "greedily": ({}, 0),
    "from a state": ({}, 5),
    "by beams": ({"num_beams": 3}, 0),
    "by beams from a state": ({"num_beams": 3}, 5),
    "with prefill in chunks": ({"prefill_chunk_size": 4}, 0),
    "by beams with prefill in chunks": ({"num_beams": 3, "prefill_chunk_size": 4}, 0),
}


@torch.no_grad()
@pytest.mark.parametrize("options, seen", WAYS.values(), ids=WAYS)
def test_a_saved_model_generates_what_recomputing_the_text_at_each_step_gives(saved, ids, options, seen):
    beams = options.get("num_beams", 1)
    given = {"cache": saved(ids[:, :seen]).cache.fork(beams)} if seen else {}
    always = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    always["attention_mask"] = torch.ones_like(ids)
    expected = saved.generate(ids, num_beams=beams, use_cache=False, **always)
    got = saved.generate(ids, **options, **given, **always)
    assert got.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(torch.stack(got.logits), torch.stack(expected.logits))
