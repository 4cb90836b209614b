"""Perplexity: every token once, the state carried, the same for any window."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.corpora import lines_of
from rnn_hf.data.tokenization import build_tokenizer, encode_stream
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluate, evaluating, unigram_loss
from rnn_hf.files import write_json
from rnn_hf.loading import config_of, device_of, load_model
from rnn_hf.runs import describe_weights, load_corpus_of
from rnn_hf.scoring import score
from rnn_hf.training.arguments import DataArguments
from rnn_hf.training.setup import prepare_corpus


def model_of(cell_type):
    torch.manual_seed(0)
    config = RNNConfig(vocab_size=11, hidden_size=6, cell_type=cell_type, hidden_dropout=0.5, initializer_range=1.0)
    return RNNForCausalLM(config).double()


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 10), min_size=1, max_size=40),
    window=st.integers(1, 50),
    cell_type=st.sampled_from(["lstm", "gru", "rnn"]),
)
def test_perplexity_is_that_of_one_pass_over_all_tokens_for_any_window(tokens, window, cell_type):
    model = model_of(cell_type).eval()
    score = evaluate(model, np.array(tokens), start=0, window=window)
    with torch.no_grad():
        logits = model(torch.tensor([[0, *tokens[:-1]]])).logits
    expected = -logits.log_softmax(-1)[0, torch.arange(len(tokens)), torch.tensor(tokens)].mean()
    assert score.num_tokens == len(tokens)
    assert score.loss == pytest.approx(expected.item(), abs=1e-9)
    assert score.perplexity == pytest.approx(math.exp(expected.item()), abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(columns=st.integers(1, 5), window=st.integers(1, 12))
def test_columns_are_scored_as_separate_texts_and_weighted_by_tokens(columns, window):
    model, tokens = model_of("lstm"), np.random.default_rng(0).integers(0, 11, 43)
    score = evaluate(model, tokens, start=0, columns=columns, window=window)
    length = len(tokens) // columns
    pieces = [tokens[i * length : (i + 1) * length] for i in range(columns)]
    starts = [0, *(int(piece[-1]) for piece in pieces[:-1])]
    alone = [evaluate(model, piece, start).loss for piece, start in zip(pieces, starts, strict=True)]
    assert score.loss == pytest.approx(np.mean(alone), abs=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored_and_dropout_is_off(training):
    model = model_of("lstm").train(training)
    first, second = (evaluate(model, np.arange(10), start=0) for _ in range(2))
    assert first == second and model.training is training


def test_the_mode_of_the_model_is_restored_after_an_error_too():
    model = model_of("lstm").train()

    def fail(*arguments):
        raise KeyboardInterrupt

    model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, np.arange(10), start=0)
    assert model.training
    with evaluating(model.eval()):
        pass
    assert not model.training


@pytest.mark.parametrize("tokens, start, named", [([3, 11], 0, 11), ([3, -1], 0, -1), ([3], 11, 11), ([3], -2, -2)])
def test_ids_outside_the_vocabulary_are_refused(tokens, start, named):
    with pytest.raises(ValueError, match=f"token id {named} is outside .* vocabulary of 11: .*another tokenizer"):
        evaluate(model_of("gru"), np.array(tokens), start)


def test_a_run_json_of_another_program_is_no_corpus_and_a_broken_one_is_named(tmp_path):
    write_json(tmp_path / "run.json", {"project": "x"})
    with pytest.raises(ValueError, match="no run.json of a training run: name a corpus by `dataset_name`"):
        load_corpus_of(str(tmp_path))
    (tmp_path / "run.json").write_text('{"argum')
    with pytest.raises(ValueError, match=r"run\.json is broken"):
        load_corpus_of(str(tmp_path))


def test_the_unigram_model_is_a_distribution_that_knows_frequencies():
    train = np.array([0, 0, 0, 1])
    losses = [unigram_loss(train, np.array([token]), vocab_size=3) for token in range(3)]
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1)
    assert [math.exp(-loss) for loss in losses] == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_the_lines_that_a_run_set_aside_for_validation_are_scored_again(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {number}\n" for number in range(50)))
    data = {"train_file": str(text), "validation_split_percentage": 10}
    write_run(tmp_path, data)
    corpus, trained = load_corpus_of(str(tmp_path)), prepare_corpus(DataArguments(**data))
    for split in ("train", "validation"):
        assert encode_stream(lines_of(corpus[split]), trained.tokenizer).tolist() == trained.streams[split].tolist()
    assert len(corpus["validation"]["text"]) == 5


def test_a_text_that_is_gone_is_named_with_the_file_that_calls_it_so(tmp_path):
    write_run(tmp_path, {"train_file": "gone.txt"})
    with pytest.raises(FileNotFoundError, match=r"no file gone.txt .* as the run.json of .* calls it: name the files"):
        load_corpus_of(str(tmp_path))


def write_run(directory, data):
    arguments = {"model": {}, "data": data, "training": {}}
    (directory / "run.json").write_text(json.dumps({"arguments": arguments}))


def test_weights_in_several_files_are_refused_in_words(tmp_path):
    RNNForCausalLM(RNNConfig(vocab_size=50, hidden_size=8)).save_pretrained(tmp_path, max_shard_size=2000)
    with pytest.raises(ValueError, match="in several files: save them in one"):
        describe_weights(tmp_path)


def test_a_device_is_the_best_there_is_or_the_one_that_is_named(monkeypatch, tmp_path):
    for place in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(place, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match=f"`device` {name} is not there: PyTorch .* finds cpu"):
            load_model(str(tmp_path), device=name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of("auto") == device_of("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == torch.device("cuda") and device_of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="`device` must be one of auto, cpu, cuda, mps, got 'gpu'"):
        device_of("gpu")


def test_text_files_are_trained_on_and_scored_where_datasets_is_not_installed(tmp_path, monkeypatch, run_script):
    monkeypatch.setitem(sys.modules, "datasets", None)  # so that importing it fails
    text = tmp_path / "text.txt"
    text.write_text("the cat sat\n" * 40)
    flags = ["--train_file", text, "--hidden_size", 6, "--max_steps", 2, "--per_device_train_batch_size", 2]
    status, _, errors = run_script("train.py", *flags, "--output_dir", tmp_path / "run", "--use_cpu", True)
    assert status == 0, errors
    status, printed, errors = run_script("evaluate.py", tmp_path / "run", "--split", "train", "validation")
    assert status == 0 and printed.count("perplexity") == 2, errors


@pytest.mark.gpu
def test_a_model_on_a_gpu_has_the_scores_that_it_has_on_the_cpu(tmp_path):
    tokenizer = build_tokenizer(["a b c d e f g h i"])
    config = RNNConfig(vocab_size=len(tokenizer), hidden_size=16, initializer_range=1.0)
    RNNForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokens = np.arange(1, 11).repeat(3)
    losses, totals = [], []
    for name in ("cpu", "cuda"):
        model, tokenizer = load_model(str(tmp_path), device=name)
        assert model.device.type == name
        losses.append(evaluate(model, tokens, 0).loss)
        totals.append(next(iter(score(model, tokenizer, "a b c d e f g"))).total)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and totals[0] == pytest.approx(totals[1], rel=1e-3)


def test_weights_that_are_damaged_are_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"model\.safetensors are damaged"):
        describe_weights(tmp_path)


def test_a_configuration_that_is_broken_is_told_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rnn_hf", "hidden_size": -3}))
    with pytest.raises(InputError, match="cannot load the model .*hidden_size"):
        config_of(str(tmp_path))


def test_tables_of_whole_numbers_are_no_parameters(tmp_path):
    tensors = {"weight": torch.zeros(3, 4, dtype=torch.float16), "rows": torch.zeros(7, dtype=torch.int32)}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = describe_weights(tmp_path)
    assert (weights["parameters"], weights["dtype"]) == (12, "float16")
