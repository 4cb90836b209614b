"""Training to translate: resumed equals uninterrupted, batches, a toy language is learned, the best model scores."""

import pytest
import torch
from parallel_files import some_pairs, translation_of, write_pairs
from run_files import history, state_of
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from rnn_hf.errors import InputError
from rnn_hf.tasks import translation as task
from rnn_hf.training.labelled_run import LabelledRun, closing_lines, train
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.trainer import LabelledTrainer
from rnn_hf.translation import translate


STEPS = 5  # an epoch has: 40 pairs, 8 a batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train", some_pairs(40))
    write_pairs(folder / "validation", some_pairs(6, seed=1))
    return folder


@pytest.fixture
def arguments_of(folder, tmp_path):
    """The arguments of a run, into a directory by name."""

    def arguments_of(name, **flags):
        values = {
            "train_file": folder / "train", "validation_file": folder / "validation", "source_lang": "en",
            "target_lang": "xx", "tokenizer_vocab_size": 60, "output_dir": tmp_path / name, "hidden_size": 8,
            "embedding_size": 6, "input_dropout": 0.2, "output_dropout": 0.2, "recurrent_dropout": 0.1,
            "word_dropout": 0.1, "label_smoothing_factor": 0.1, "per_device_train_batch_size": 8,
            "learning_rate": 0.01, "num_train_epochs": 3, "logging_steps": 2, "disable_tqdm": True, "use_cpu": True,
            "measure_kernels": False, **flags,
        }  # fmt: skip
        argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        return parse_arguments(["--task", task.NAME, *argv])

    return arguments_of


@pytest.fixture
def run(arguments_of):
    """Train; returns the content of run.json."""
    return lambda name, **flags: train(arguments_of(name, **flags))


@pytest.mark.parametrize(
    "flags",
    [{"average_decay": 0.8, "eval_steps": 3, "save_steps": 3, "logging_steps": 4, "bpe_dropout": 0.3},
     pytest.param({"gradient_accumulation_steps": 2, "cell_type": "lstm", "group_by_length": False},
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run, tmp_path, flags):
    """Stopped within an epoch, and at the end of one."""
    steps = run("whole", **flags)["steps_per_epoch"]
    assert steps == -(-STEPS // flags.get("gradient_accumulation_steps", 1))
    for stop_at in (steps + 1, steps):
        name = f"parts-{stop_at}"
        assert not run(name, max_steps=stop_at, **flags)["result"]["is_complete"]
        resumed = run(name, resume_from_checkpoint="last", **flags)
        assert resumed["first_step"] == stop_at and resumed["result"]["is_complete"]
        assert state_of(tmp_path / "whole") == state_of(tmp_path / name)
        assert history(tmp_path / "whole") == history(tmp_path / name)


def test_a_checkpoint_of_other_data_or_of_other_pieces_dropped_is_refused(run):
    run("a", max_steps=2)
    for name, value in {"word_dropout": 0.3, "bpe_dropout": 0.2, "max_train_samples": 30}.items():
        with pytest.raises(ValueError, match="another run: `(train_sha1|vocab_size)` was"):
            run("a", resume_from_checkpoint="last", **{name: value})


def test_each_epoch_sees_each_pair_once_in_batches_of_its_own(run, monkeypatch, arguments_of):
    original, seen = LabelledTrainer.training_step, []

    def training_step(self, model, inputs, *rest):
        seen.append({name: tensor.clone() for name, tensor in inputs.items()})
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(LabelledTrainer, "training_step", training_step)
    run("a", word_dropout=0)
    examples = LabelledRun(arguments_of("b")).prepared.examples["train"]
    assert len(seen) == 3 * STEPS and len(examples) == 40
    expected = sorted(zip(examples.sources, examples.targets, strict=True))
    for epoch in range(3):
        drawn = []
        for batch in seen[epoch * STEPS : (epoch + 1) * STEPS]:
            for ids, mask, labels in zip(*(batch[name].tolist() for name in batch), strict=True):
                drawn.append((ids[: sum(mask)], [label for label in labels if label != -100]))
        assert sorted(drawn) == expected
    assert not torch.equal(seen[0]["input_ids"], seen[STEPS]["input_ids"])


@pytest.mark.parametrize("number", [1, 5, 7, 40])
def test_batches_have_about_as_many_tokens_each_and_none_is_empty(arguments_of, number):
    examples = LabelledRun(arguments_of("a")).prepared.examples["train"]
    sizes = [len(source) + len(target) for source, target in zip(examples.sources, examples.targets, strict=True)]
    for by_length in (True, False):
        batches = examples.batches(0, number, by_length)
        assert sorted(index for batch in batches for index in batch) == list(range(40)) and len(batches) == number
        assert all(batches)
        if number <= 7:
            tokens = [sum(sizes[index] for index in batch) for batch in batches]
            assert max(tokens) - sum(sizes) / number <= max(sizes)
    assert examples.batches(0, number) == examples.batches(0, number)


def test_a_batch_has_texts_of_about_one_length(arguments_of):
    examples = LabelledRun(arguments_of("a")).prepared.examples["train"]
    spans = [[len(examples.targets[index]) for index in batch] for batch in examples.batches(3, STEPS)]
    spans.sort()
    assert all(max(before) <= min(after) for before, after in zip(spans, spans[1:], strict=False))


def test_dropped_pieces_are_drawn_anew_each_epoch_and_never_the_end(arguments_of):
    examples = LabelledRun(arguments_of("a", word_dropout=0.5)).prepared.examples["train"]
    examples.batches(1, STEPS)
    one = [examples[index]["input_ids"] for index in range(40)]
    assert one == [examples[index]["input_ids"] for index in range(40)]
    examples.batches(2, STEPS)
    other = [examples[index]["input_ids"] for index in range(40)]
    assert one != other
    kept = [piece == own for read, source in zip(one, examples.sources, strict=True)
            for piece, own in zip(read, source, strict=True)]  # fmt: skip
    assert 0.4 < sum(kept) / len(kept) < 0.8 and all(read[-1] == 2 for read in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that learned the toy language: its directory and the content of run.json."""
    folder = tmp_path_factory.mktemp("learned")
    values = {
        "train_file": write_pairs(folder / "train", some_pairs(1500, longest=4)),
        "validation_file": write_pairs(folder / "validation", some_pairs(20, seed=1, longest=4)),
        "source_lang": "en", "target_lang": "xx", "output_dir": folder / "model", "hidden_size": 64,
        "embedding_size": 32, "num_train_epochs": 6, "per_device_train_batch_size": 16, "learning_rate": 0.01,
        "adam_beta2": 0.98, "max_grad_norm": 0.5,
        "eval_steps": 188, "tokenizer_vocab_size": 200, "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    return folder / "model", train(parse_arguments(["--task", task.NAME, *argv]))


@pytest.mark.slow
def test_a_toy_language_is_learned_and_the_best_model_scores_what_its_step_says(trained):
    directory, record = trained
    values = [row["validation_bleu"] for row in history(directory) if "validation_bleu" in row]
    assert record["metric"] == "bleu" and record["result"]["best_validation_bleu"] == max(values) > 90
    scores = task.evaluate(str(directory), ["validation"], {}, num_beams=1)["validation"]
    assert scores.values["bleu"] == pytest.approx(max(values), abs=1e-6)
    assert scores.loss == pytest.approx(record["result"]["best_validation_loss"], rel=1e-4)
    assert scores.floor == record["data"]["floor"] and "always the source itself has" in closing_lines(record)[0]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert model.config.use_cache  # which Trainer turns off
    texts = ["two small dog", "cat", "red  bird sees tree"]
    alone = [translate(model, tokenizer, [text])[0] for text in texts]
    assert translate(model, tokenizer, texts) == alone == [translation_of(text) for text in texts]


def test_the_loss_of_validation_is_that_of_each_pair_alone(trained):
    directory, _ = trained
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    pairs = task.load_data(**trained[1]["arguments"]["data"]).splits["validation"]
    loss = task.mean_loss(model.eval(), tokenizer, pairs, 7)
    total, count = 0.0, 0
    for pair in pairs:
        ids, labels = (torch.tensor([tokenizer(text).input_ids]) for text in (pair.source, pair.target))
        total += float(model(input_ids=ids, labels=labels).loss.detach()) * labels.shape[1]
        count += labels.shape[1]
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_weights_to_start_from_keep_their_tokenizer_and_shape(run, trained, tmp_path):
    directory, record = trained
    shape = {"hidden_size": 64, "embedding_size": 32}
    started = run("b", init_from=directory, learning_rate=1e-9, num_train_epochs=1, tokenizer_vocab_size=40, **shape)
    assert started["data"]["vocab_size"] == record["data"]["vocab_size"]
    with pytest.raises(InputError, match="`embedding_size` is 6, and the model of `init_from` has 32"):
        run("c", init_from=directory)


def test_without_attention_and_by_an_existing_tokenizer(run, trained):
    directory, record = trained
    flags = {"attention": "none", "tokenizer_name": directory, "num_train_epochs": 1, "bridge": "linear"}
    assert run("a", tie_word_embeddings=False, **flags)["data"]["vocab_size"] == record["data"]["vocab_size"]
