"""A sample of text shows what a model writes, and changes nothing in the run."""

import pytest
import torch
from networks import make_words_depend_on_the_past

from rnn_hf.data.tokenization import build_tokenizer, unknown_id
from rnn_hf.training.samples import TEMPERATURE, write_sample


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["a b c d e f g h i"])


def test_a_run_ends_with_the_same_bits_with_and_without_samples(run, tmp_path, capsys):
    records, said = [], []
    for count in (0, 9):
        records.append(run(f"run-{count}", sample_tokens=count, disable_tqdm=False))
        said.append(capsys.readouterr().out)
    weights = [(tmp_path / f"run-{count}" / "model.safetensors").read_bytes() for count in (0, 9)]
    assert weights[0] == weights[1]
    losses = [record["result"]["best_validation_loss"] for record in records]
    assert losses[0] == losses[1]
    samples = [line.split()[2:] for line in said[1].splitlines() if line.startswith("sample: ... ")]
    validations = [line for line in said[1].splitlines() if "validation loss" in line]
    assert "sample: " not in said[0] and len(samples) == len(validations) == 2
    assert all(len(sample) == 9 for sample in samples)


def test_samples_are_left_out_with_the_progress_bar(run, capsys):
    run("quiet", sample_tokens=9, num_train_epochs=1)
    assert "sample" not in capsys.readouterr().out


def test_each_word_is_drawn_from_what_the_model_says_after_all_words_before_it(make_model, cell, tokenizer):
    """Step by step equals the whole sequence; the word for unknown words is never drawn."""
    model = make_model(cell)
    make_words_depend_on_the_past(model)
    prompt = [tokenizer.eos_token_id, 5, 3]
    ids = tokenizer(write_sample(model, tokenizer, prompt, 30, seed=0))["input_ids"]
    logits = model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, 2:].float() / TEMPERATURE
    logits[:, unknown_id(tokenizer)] = -torch.inf
    generator = torch.Generator().manual_seed(0)
    assert [int(torch.multinomial(odds, 1, generator=generator)) for odds in logits.softmax(dim=-1)] == ids
    assert len(ids) == 30


def test_the_seed_alone_decides_what_is_written_and_the_model_and_torch_are_left_as_they_were(make_model, tokenizer):
    model = make_model({"cell_type": "gru"}, hidden_dropout=0.5).train()
    before = torch.get_rng_state()
    text = write_sample(model, tokenizer, [0], 50, seed=3)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    torch.manual_seed(123)
    assert write_sample(model, tokenizer, [0], 50, seed=3) == text != write_sample(model, tokenizer, [0], 50, seed=4)
    assert len(text.split()) == 50 and len(set(text.split())) > 5 and "<unk>" not in text


def test_a_model_that_diverges_still_writes(make_model, tokenizer):
    model = make_model({"cell_type": "lstm"})
    with torch.no_grad():
        model.lm_head.bias[3] = torch.nan
        model.lm_head.bias[4] = torch.inf
    assert write_sample(model, tokenizer, [0], 5, seed=0)
