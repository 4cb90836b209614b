"""Learning from other classifiers: what is learned is the mean of what they say, by name of the class."""

import json

import numpy as np
import pytest
import torch
from classifiers import REVIEWS, TEXTS, make_classifier, write_texts
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from rnn_hf.errors import InputError
from rnn_hf.files import read_json
from rnn_hf.hub.repository import without_paths
from rnn_hf.tasks.distillation import check_teachers, soft_labels, soft_loss
from rnn_hf.tasks.labelled import load_data
from rnn_hf.training.labelled_run import train
from rnn_hf.training.parsing import parse_arguments


@pytest.fixture
def train_file(tmp_path):
    return write_texts(tmp_path / "train.csv", REVIEWS)


@pytest.fixture
def data(train_file):
    return load_data(TEXTS, train_file=train_file, validation_file=train_file)


def teacher_of(directory, train_file, seed=0):
    directory.mkdir()
    return make_classifier(TEXTS, directory, seed, {"train_file": train_file, "validation_file": train_file})


def probabilities(name, texts, temperature):
    """By the model alone, one text at a time, columns in the order bad, good."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    columns = [model.config.label2id[label] for label in ("bad", "good")]
    with torch.no_grad():
        logits = torch.cat([model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    return (logits[:, columns].double() / temperature).softmax(dim=1).numpy()


def test_a_label_is_the_class_and_the_mean_of_what_the_teachers_say(tmp_path, train_file, data):
    teachers = [teacher_of(tmp_path / str(seed), train_file, seed) for seed in (0, 1)]
    texts = [text for text, _ in REVIEWS]
    classes = np.array([[label == "bad", label == "good"] for _, label in REVIEWS], dtype=float)
    said = np.mean([probabilities(teacher, texts, 2.0) for teacher in teachers], axis=0)
    labels = np.array(soft_labels(teachers, data, 0.7, 2.0, "cpu"))
    assert labels == pytest.approx(0.3 * classes + 0.7 * said, abs=1e-6)
    assert abs(said[:, 0] - said[0, 0]).max() > 1e-3
    assert np.array(soft_labels(teachers, data, 0.0, 2.0, "cpu")).tolist() == classes.tolist()


def test_a_teacher_may_be_of_another_kind_and_have_its_classes_in_another_order(tmp_path, train_file, data):
    bert = tmp_path / "bert"
    torch.manual_seed(0)
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    tokenizer = AutoTokenizer.from_pretrained(teacher_of(tmp_path / "own", train_file))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **names)
    BertForSequenceClassification(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    check_teachers([str(bert)], data)
    labels = np.array(soft_labels([str(bert)], data, 1.0, 1.0, "cpu"))
    assert labels == pytest.approx(probabilities(str(bert), [text for text, _ in REVIEWS], 1.0), abs=1e-6)


def test_the_loss_is_that_of_the_classes_where_labels_are_certain_and_adds_up_over_parts():
    class Outputs:
        logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    classes = torch.tensor([0, 2, 1, 1, 0, 2])
    certain = F.one_hot(classes, 3).double()
    assert soft_loss(Outputs, certain).item() == pytest.approx(F.cross_entropy(Outputs.logits, classes).item())
    soft = certain.mul(0.7).add(0.1)
    whole, parts = soft_loss(Outputs, soft), 0.0
    for part in (slice(0, 2), slice(2, 6)):
        piece = type("Piece", (), {"logits": Outputs.logits[part]})
        parts += soft_loss(piece, soft[part], num_items_in_batch=torch.tensor(18)).item()
    assert parts == pytest.approx(whole.item())


def test_a_run_learns_from_teachers_and_its_files_name_them_without_directories(tmp_path, train_file):
    teachers = [teacher_of(tmp_path / str(seed), train_file, seed) for seed in (0, 1)]
    argv = [
        "--task", TEXTS, "--train_file", train_file, "--validation_file", train_file, "--hidden_size", "8",
        "--num_train_epochs", "3", "--learning_rate", "0.05",
        "--per_device_train_batch_size", "4", "--disable_tqdm", "--use_cpu",
    ]  # fmt: skip
    runs = {}
    for weight in ("0", "1"):
        directory = str(tmp_path / f"run{weight}")
        more = ["--teachers", ",".join(teachers), "--teacher_weight", weight, "--output_dir", directory]
        runs[weight] = train(parse_arguments([*argv, *more]))
    plain = train(parse_arguments([*argv, "--output_dir", str(tmp_path / "plain")]))
    scores = {name: run["result"]["best_validation_loss"] for name, run in {**runs, "plain": plain}.items()}
    assert scores["0"] == pytest.approx(scores["plain"], abs=1e-6)  # the labels alone
    assert scores["1"] != pytest.approx(scores["plain"], abs=1e-3)
    clean = json.dumps(without_paths(read_json(tmp_path / "run1" / "run.json")))
    assert str(tmp_path) not in clean and '"teachers": "0,1"' in clean


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "token-classification"], "one class a text"),
        (["--label_smoothing_factor", "0.1"], "do not go together"),
        (["--teacher_weight", "1.5"], "`teacher_weight` must be in"),
        (["--teacher_temperature", "0"], "`teacher_temperature` must be positive"),
    ],
)
def test_what_does_not_go_with_teachers_is_refused_by_name(tmp_path, train_file, flags, message):
    words = tmp_path / "train.tsv"
    words.write_text("a\tx\nb\ty\n\na\tx\n", encoding="utf-8")
    file = str(words) if "token-classification" in flags else train_file
    argv = ["--task", TEXTS, "--teachers", "x", "--train_file", file, "--validation_file", file, "--disable_tqdm"]
    argv += ["--output_dir", str(tmp_path / "run")]
    argv = argv[2:] if "--task" in flags else argv
    with pytest.raises(InputError, match=message):
        train(parse_arguments([*argv, *flags]))
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(tmp_path, train_file, data):
    other = write_texts(tmp_path / "other.csv", [("a", "yes"), ("b", "no")])
    with pytest.raises(InputError, match="the classes of .* are no, yes, and the data has bad, good"):
        check_teachers([teacher_of(tmp_path / "t", other)], data)
