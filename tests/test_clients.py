"""Clients that nobody here wrote, where they are installed: what they compute is what the model says."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.scoring import score


SENTENCES = ["the cat sat on the mat", "the dog ran", "a cat ran on the dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("client")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(SENTENCES)
    ends = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), 0)
    config = RNNConfig(vocab_size=len(tokenizer), hidden_size=16, initializer_range=1.0, **ends)
    RNNForCausalLM(config).eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def loaded(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)


def test_minicons_gives_the_surprisals_of_the_model(loaded):
    scorer = pytest.importorskip("minicons.scorer")
    model, tokenizer = loaded
    theirs = scorer.IncrementalLMScorer(model, "cpu", tokenizer=tokenizer)
    # `bow_correction` means nothing for words that are single tokens; with `bos_token` the first one is scored too.
    token_scores = theirs.token_score(SENTENCES, bos_token=True, surprisal=True)
    for ours, pairs in zip(score(model, tokenizer, SENTENCES, "nats"), token_scores, strict=True):
        assert [value for _, value in pairs][1:] == pytest.approx(ours.surprisals, abs=1e-4)


def test_evaluation_by_transformers_trainer_gives_the_perplexity_of_the_model(loaded, tmp_path):
    model, tokenizer = loaded
    expected = sum((scored.surprisals for scored in score(model, tokenizer, SENTENCES, "nats")), [])
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)  # pads, and leaves padding out of the labels
    rows = [tokenizer(f"<eos> {text}") for text in SENTENCES]
    options = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_eval_batch_size=len(rows))
    metrics = Trainer(model, options, data_collator=collate, eval_dataset=rows).evaluate()
    assert metrics["eval_loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_lm_eval_ranks_and_scores_as_the_model_does(loaded, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = loaded
    file = tmp_path / "task.jsonl"
    rows = [{"text": text} for text in SENTENCES]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ConfigurableTask(config={
        "task": "local_text", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    })  # fmt: skip
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, device="cpu", max_length=64)
    results = simple_evaluate(lm, tasks=[task], bootstrap_iters=0, log_samples=False)
    perplexity = results["results"]["local_text"]["word_perplexity,none"]
    scores = list(score(model, tokenizer, SENTENCES, "nats"))
    words = sum(len(text.split()) for text in SENTENCES)
    total = sum(each.total for each in scores)
    assert perplexity == pytest.approx(torch.tensor(total / words).exp().item(), rel=1e-4)
