"""Models that read backward are trained, scored and started from as forward ones on a file in reverse order."""

import pytest
import torch
from classifiers import REVIEWS, SENTENCES, TEXTS, WORDS, write_texts, write_words
from safetensors.torch import load_file
from transformers import AutoConfig

from rnn_hf import RNNConfig
from rnn_hf.data.corpora import load_corpus
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluate_splits
from rnn_hf.tasks.language_modeling import evaluate
from rnn_hf.training.labelled_run import LabelledRun
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.reporting import run_lines
from rnn_hf.training.samples import write_sample


def write_reversed(source, target):
    """The lines of a file in reverse order, and so the words of each."""
    lines = [" ".join(reversed(line.split())) for line in source.read_text().splitlines()]
    target.write_text("\n".join(reversed(lines)))
    return target


def forward_copy(directory):
    """The language model in a directory, told that it reads forward."""
    RNNConfig.from_pretrained(directory, reads_backward=False).save_pretrained(directory)
    return str(directory)


def test_the_perplexity_of_training_is_that_of_evaluate_and_of_a_forward_model_on_a_reversed_file(run, tmp_path, text):
    record = run("a", reads_backward=True, per_device_eval_batch_size=1, optim="adam", learning_rate=0.02)
    result = record["result"]
    assert result["best_validation_perplexity"] < record["data"]["unigram_validation_perplexity"] / 1.5
    evaluated = evaluate(str(tmp_path / "a"), ["validation"], {})["validation"]
    assert evaluated.loss == pytest.approx(result["best_validation_loss"], abs=1e-6)
    corpus = load_corpus(validation_file=str(write_reversed(text / "validation.txt", tmp_path / "reversed.txt")))
    expected = evaluate_splits(forward_copy(tmp_path / "a"), ["validation"], corpus)["validation"]
    assert evaluated == expected
    assert any("backward LSTM" in line for line in run_lines(record))


@pytest.mark.slow
def test_it_trains_as_a_forward_model_does_on_a_reversed_file(run, tmp_path, text):
    run("backward", reads_backward=True)
    files = {f"{split}_file": write_reversed(text / f"{split}.txt", tmp_path / f"{split}.txt")
             for split in ("train", "validation")}  # fmt: skip
    run("forward", tokenizer=tmp_path / "backward", **files)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("backward", "forward"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_is_the_uninterrupted_one(run, tmp_path):
    run("whole", reads_backward=True)
    run("parts", reads_backward=True, max_steps=40)
    with pytest.raises(ValueError, match="`reads_backward`"):
        run("parts", resume_from_checkpoint="last")
    run("parts", reads_backward=True, resume_from_checkpoint="last")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_only_so_many_tokens_are_those_of_the_text_from_its_beginning(run):
    backward, forward = (run(str(reads), reads_backward=reads, max_train_tokens=1000, max_steps=1)["data"]
                         for reads in (True, False))  # fmt: skip
    assert backward.pop("train_sha1") != forward.pop("train_sha1") and backward == forward


@pytest.mark.parametrize("reads_backward", [True, False])
def test_a_language_model_does_not_start_from_one_that_reads_the_other_way(run, tmp_path, reads_backward):
    run("first", reads_backward=reads_backward, max_steps=1)
    with pytest.raises(InputError, match=f"`init_from` .* has `reads_backward={reads_backward}`"):
        run("second", reads_backward=not reads_backward, init_from=tmp_path / "first")
    run("third", reads_backward=reads_backward, init_from=tmp_path / "first", max_steps=1)


def test_a_sample_is_in_the_order_of_a_text(make_model):
    """A forward model of the same weights writes the same tokens, one after the other."""
    tokenizer = build_tokenizer(["a b c d e f g h i"])
    backward, forward = (write_sample(make_model({}, reads_backward=reads), tokenizer, [3, 4], 6, seed=1).split()
                         for reads in (True, False))  # fmt: skip
    assert backward == forward[::-1] != forward


@pytest.fixture
def classifier_of(tmp_path):
    """`classifier_of(task, **flags)`: a run on labelled examples, not begun."""

    def classifier_of(task, **flags):
        write, rows = (write_texts, REVIEWS) if task == TEXTS else (write_words, SENTENCES)
        file = write(tmp_path / ("rows.csv" if task == TEXTS else "rows.tsv"), rows)
        values = {
            "task": task, "train_file": file, "validation_file": file, "output_dir": tmp_path / "classifier",
            "min_frequency": 1, "use_cpu": True, "disable_tqdm": True, "measure_kernels": False, "hidden_size": 12,
            "num_train_epochs": 2, **flags,
        }  # fmt: skip
        return LabelledRun(parse_arguments([part for name in values for part in (f"--{name}", str(values[name]))]))

    return classifier_of


@pytest.mark.parametrize("task", [TEXTS, WORDS])
def test_a_classifier_takes_the_direction_of_its_language_model(run, classifier_of, tmp_path, task):
    run("language", reads_backward=True, max_steps=1, num_hidden_layers=1)
    started = classifier_of(task, init_from=tmp_path / "language", num_hidden_layers=1)
    started.train()
    record = started.finish()
    assert record["result"]["best_step"] and AutoConfig.from_pretrained(tmp_path / "classifier").reads_backward


@pytest.mark.parametrize("task", [TEXTS, WORDS])
def test_both_directions_do_not_start_from_a_backward_language_model(run, classifier_of, tmp_path, task):
    run("language", reads_backward=True, max_steps=1, num_hidden_layers=1)
    with pytest.raises(
        InputError, match="`bidirectional` does not go with the model of `init_from`, which reads back"
    ):
        classifier_of(task, init_from=tmp_path / "language", num_hidden_layers=1, bidirectional=True)


def test_a_forward_language_model_does_not_turn_round(run, classifier_of, tmp_path):
    run("language", max_steps=1)
    with pytest.raises(InputError, match="`reads_backward` is True, and the model of `init_from` has False"):
        classifier_of(TEXTS, init_from=tmp_path / "language", reads_backward=True)


def test_a_direction_does_not_go_with_both(classifier_of):
    with pytest.raises(InputError, match="`reads_backward` does not go with `bidirectional`"):
        classifier_of(TEXTS, reads_backward=True, bidirectional=True)
    assert classifier_of(TEXTS, reads_backward=True).model.config.reads_backward
