"""transformers' pipelines on a saved checkpoint: right spaces, and batches that equal single prompts."""

import pytest
import torch
from transformers import pipeline

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer


LINES = ["the cat sat on the mat , and the dog ran away from it ."]
PROMPTS = ["the cat", "the dog ran away from", "it", "the mat , and the gnu"]


@pytest.fixture
def checkpoint(tmp_path, cell):
    """A random model whose next word depends on its state, with its tokenizer."""
    torch.manual_seed(1)
    tokenizer = build_tokenizer(LINES)
    fields = {"hidden_size": 16, "embedding_size": 16, **cell}
    if cell.get("projection_size"):
        fields |= {"embedding_size": 3}
    config = RNNConfig(vocab_size=len(tokenizer), initializer_range=2.0, eos_token_id=0, pad_token_id=0, **fields)
    RNNForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_text_generation_goes_on_from_the_prompt_with_right_spaces_alone_and_in_batches(checkpoint):
    generator = pipeline("text-generation", model=checkpoint)
    # transformers 5.17 would take the space before punctuation out, whatever the tokenizer says.
    options = {"max_new_tokens": 6, "do_sample": False, "clean_up_tokenization_spaces": False}
    alone = [generator(prompt, **options)[0]["generated_text"] for prompt in PROMPTS]
    batched = [texts[0]["generated_text"] for texts in generator(PROMPTS, batch_size=4, **options)]
    assert batched == alone
    known = set(LINES[0].split()) | {"<unk>", "gnu"}
    for prompt, text in zip(PROMPTS, alone, strict=True):
        assert text == prompt or text.startswith(prompt + " ")
        assert set(text.split()) <= known
    new = generator(PROMPTS[0], return_full_text=False, **options)[0]["generated_text"]
    assert PROMPTS[0] + new == alone[0]


def test_feature_extraction_gives_the_outputs_of_the_last_layer(checkpoint):
    features = pipeline("feature-extraction", model=checkpoint)("the cat sat", return_tensors=True)
    assert features.shape[:2] == (1, 3) and torch.isfinite(features).all()
