"""Cards: rendered again they are the same, each number stands in the run's files, their examples run."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classifiers import REVIEWS, SENTENCES, SPANS, write_texts, write_words
from huggingface_hub import ModelCard
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_relative_import_files

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.data.tokenization import build_tokenizer, load_tokenizer, unknown_id
from rnn_hf.evaluation import Score
from rnn_hf.hub import cards
from rnn_hf.hub.cards import CELL_CITATIONS, MARK, render_card, verify_card, write_card
from rnn_hf.hub.repository import build_repository
from rnn_hf.models import modeling_rnn
from rnn_hf.runs import describe_weights, save_scores
from rnn_hf.tasks import FORECASTING, LANGUAGE_MODELING, SPEECH_RECOGNITION, TRANSLATION, Task, task_of_model
from rnn_hf.training.labelled_run import train
from rnn_hf.training.parsing import parse_arguments


ROOT = Path(__file__).parents[2]
STORED = sorted(path.relative_to(ROOT) for path in (ROOT / "model_cards").glob("*/"))
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])"


def task_of(model_dir: Path) -> Task:
    return task_of_model(AutoConfig.from_pretrained(ROOT / model_dir).architectures)


LANGUAGE_MODELS = [path for path in STORED if task_of(path) is LANGUAGE_MODELING]
stored = pytest.mark.parametrize("model_dir", STORED, ids=lambda path: path.name)


@pytest.fixture(autouse=True)
def in_the_source_directory(monkeypatch):
    monkeypatch.chdir(ROOT)  # a stored card loads its model by the path from there


def test_there_is_a_model_of_each_cell_and_one_of_the_offline_corpus():
    configs = [AutoConfig.from_pretrained(path).cell_type for path in STORED]
    assert {"lstm", "gru", "rnn"} <= set(configs)
    assert any(path.name.startswith("sotu") for path in STORED)


@stored
def test_rendering_a_stored_card_again_changes_nothing(model_dir):
    assert render_card(model_dir) == (model_dir / "README.md").read_text(encoding="utf-8")


@stored
def test_a_stored_model_is_a_complete_repository_with_the_packages_code(model_dir):
    names = {path.name for path in model_dir.iterdir()}
    task = task_of(model_dir)
    starts = {
        FORECASTING: ("modeling_rnn_time_series",),
        SPEECH_RECOGNITION: ("modeling_rnn_speech", "tokenization_rnn_ctc"),
        TRANSLATION: ("modeling_rnn_seq2seq", "pipeline_rnn_translation"),
    }.get(task, ("modeling_rnn",))  # fmt: skip
    code = set()
    for start in starts:
        model = Path(modeling_rnn.__file__).with_name(f"{start}.py")
        code |= {Path(file).name for file in (model, *get_relative_import_files(model))}
    files = {
        FORECASTING: set(), SPEECH_RECOGNITION: {"tokenizer_config.json", "preprocessor_config.json", "vocab.json"},
        **dict.fromkeys((LANGUAGE_MODELING, TRANSLATION), {"tokenizer_config.json", "tokenizer.json",
                                                           "generation_config.json"}),
    }.get(task, {"tokenizer_config.json", "tokenizer.json"})  # fmt: skip
    assert names == code | files | {"README.md", "config.json", "curve.png", "evaluation.json", "metrics.jsonl",
                                    "model.safetensors", "run.json"}  # fmt: skip
    for name in code:
        assert (model_dir / name).read_text() == (ROOT / "rnn_hf" / "models" / name).read_text(), "run make cards"
    assert (model_dir / "model.safetensors").stat().st_size <= 12e6
    # The test splits of the labelled corpora are not part of what the shipped classifiers were measured on.
    splits = {"validation", "test"} if task in (LANGUAGE_MODELING, FORECASTING) else {"validation"}
    assert splits == set(json.loads((model_dir / "evaluation.json").read_text())["scores"])


@stored
def test_what_was_evaluated_are_the_weights_that_are_stored(model_dir):
    assert json.loads((model_dir / "evaluation.json").read_text())["weights"] == describe_weights(model_dir)


@pytest.mark.parametrize("model_dir", LANGUAGE_MODELS, ids=lambda path: path.name)
def test_unknown_words_stay_in_the_text_of_a_stored_model(model_dir):
    tokenizer = load_tokenizer(str(model_dir))
    assert tokenizer.decode([unknown_id(tokenizer), tokenizer.eos_token_id], skip_special_tokens=True) == " <unk>"


def numbers_in(content):
    """All numbers in JSON content, and those in its names and strings."""
    if isinstance(content, dict):
        return [number for item in content.items() for part in item for number in numbers_in(part)]
    if isinstance(content, list):
        return [number for value in content for number in numbers_in(value)]
    if isinstance(content, bool) or content is None:
        return []
    if isinstance(content, str):
        return [float(text.replace(",", "")) for text in re.findall(NUMBER, content)]
    return [float(content)]


def unexplained(card, numbers, literal):
    """The numbers of a card that are not in `literal` text and that no number rounds to, percentages included."""
    for text in re.findall(NUMBER, card):
        plain = text.replace(",", "")
        decimals = len(plain.partition(".")[2]) if "e" not in plain else 12
        near = 0.5 * 10**-decimals + 1e-9
        if text not in literal and not any(
            abs(float(plain) - abs(value)) <= near for number in numbers for value in (number, 100 * number)
        ):
            yield text


def texts_of_cards():
    """All that the templates, the records of corpora and the version bring into a card."""
    templates = [cards.TEMPLATE, *(ROOT / "rnn_hf" / "tasks").glob("*.md")]
    records = [str(corpus) for corpus in CORPORA.values()]
    return " ".join([*(path.read_text() for path in templates), *CELL_CITATIONS.values(), *records, cards.__version__])


@stored
def test_each_number_of_a_card_is_in_the_files_of_the_run(model_dir):
    card = (model_dir / "README.md").read_text(encoding="utf-8")
    names = ("run.json", "evaluation.json", "config.json")
    numbers = [n for name in names for n in numbers_in(json.loads((model_dir / name).read_text()))]
    rows = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    numbers += [row[name] for row in rows for name in ("tokens_per_second", "samples_per_second") if name in row]
    literal = set(re.findall(NUMBER, texts_of_cards()))
    assert len(re.findall(NUMBER, card)) > 40
    assert list(unexplained(card, numbers, literal)) == []
    # And the check can fail: a score with another digit is found.
    metric = task_of(model_dir).metric
    score = metric.text(json.loads((model_dir / "evaluation.json").read_text())["scores"]["validation"][metric.name])
    other = f"{float(score) + 3.01:.{len(score.partition('.')[2])}f}"
    assert other in list(unexplained(card.replace(score, other), numbers, literal))


@stored
def test_the_metadata_is_what_the_table_says(model_dir):
    text, task = (model_dir / "README.md").read_text(), task_of(model_dir)
    check_metadata(text, task)
    data = ModelCard(text).data
    assert data.pipeline_tag == task.pipeline_tag and data.license


def check_metadata(text, task):
    """The results of a card's head are those of its table, each metric in its column."""
    data = ModelCard(text).data
    if task is FORECASTING:  # whose card has a table a split, in which the model is a row
        found = re.findall(r"On the (\w+) split, .*\n\n\| forecast \| (.*) \|\n.*\n\| this model \| (.*) \|\n", text)
    else:
        header, rows = re.search(
            r"^\| split \| (.*) \|\n.*\n((?:\| (?:validation|test) .*\n)+)", text, re.MULTILINE
        ).groups()
        lines = [line.strip("| ").partition(" | ") for line in rows.splitlines()]
        found = [(split, header, cells) for split, _, cells in lines]
    table = {
        (split, column): cell.strip()
        for split, columns, cells in found
        for column, cell in zip(columns.split(" | "), cells.split(" |"), strict=True)
    }
    metrics = {metric.name: metric for metric in task.metrics}
    for result in data.eval_results:
        metric = metrics[result.metric_type]
        digits = len(metric.text(0.0).partition(".")[2])
        assert table[result.dataset_split, metric.column] == f"{result.metric_value:.{digits}f}"
        assert (result.task_type, result.task_name) == (task.pipeline_tag, task.title)
    assert {result.metric_type for result in data.eval_results} == set(data.metrics)
    assert data.library_name == "transformers"


@stored
@pytest.mark.slow
def test_the_examples_of_a_card_run(model_dir, tmp_path):
    shown = examples_of(model_dir / "README.md")
    if task_of(model_dir) is LANGUAGE_MODELING:
        assert len(shown[0]["generated_text"].split()) > 10
    if "sotu" in model_dir.name:  # one is enough for what takes a process of its own
        assert len(without_the_package(model_dir / "README.md", ROOT, tmp_path).split()) > 10


def blocks_of(card):
    """The examples of a card; their last line is an expression, whose value is named `shown`."""
    blocks = re.findall(r"^```python\n(.*?)^```", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert 1 <= len(blocks) <= 2
    return [re.sub(r"^(?!    )(.*)\n\Z", r"shown = \1\n", code, flags=re.MULTILINE) for code in blocks]


def examples_of(card):
    """What the example with the package shows."""
    names = {}
    exec(compile(blocks_of(card)[0], "card", "exec"), names)
    return names.get("shown")


def without_the_package(card, folder, cache):
    """What the example without the package prints, in a process that cannot import it."""
    code = f"import sys\nsys.modules['rnn_hf'] = None\n{blocks_of(card)[1]}\nprint(globals().get('shown', ''))"
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def save_model(directory, **fields):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["the cat sat on the mat"])
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=8, **fields)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_model_without_a_run_has_a_card_without_results(tmp_path):
    card = render_card(save_model(tmp_path / "cat"), "me/cat", "mit")
    assert "## Results" not in card and "## Training" not in card
    data = ModelCard(card).data
    assert data.license == "mit" and data.eval_results is None and data.datasets is None
    assert 'pipeline("text-generation", "me/cat"' in card


def test_a_card_says_the_shape(tmp_path):
    card = render_card(save_model(tmp_path / "cat", embedding_size=4, output_projection_size=4))
    assert "2 layers of 8 units, the output projected to 4, embeddings of 4 that also serve as the output" in card
    assert "project" not in render_card(save_model(tmp_path / "dog"))


def test_a_card_says_that_a_model_reads_backward_and_what_it_is_for(tmp_path):
    card = render_card(save_model(tmp_path / "cat", reads_backward=True), "me/cat")
    assert "language model that reads texts from their end, of" in card and "--init_from me/cat" in card
    assert "pipeline(" not in card
    assert "from their end" not in render_card(save_model(tmp_path / "dog"))


def test_scores_of_other_weights_are_left_out(tmp_path):
    model_dir = save_model(tmp_path / "cat")
    save_scores(model_dir, {"validation": Score(1.5, 10)})
    save_scores(model_dir, {"test": Score(2.5, 20)})
    card = render_card(model_dir)
    assert "| validation | 4.48 | 1.5000 | 10 |" in card and "| test | 12.18 | 2.5000 | 20 |" in card
    model = RNNForCausalLM.from_pretrained(model_dir)
    torch.nn.init.ones_(model.lm_head.bias)
    model.save_pretrained(model_dir)
    assert "## Results" not in render_card(model_dir)
    save_scores(model_dir, {"test": Score(3.5, 20)})
    assert "| validation |" not in render_card(model_dir)


def test_a_run_that_was_not_evaluated_shows_its_own_validation_unless_the_weights_are_rounded(tmp_path):
    model_dir = save_model(tmp_path / "cat")
    run = json.loads((LANGUAGE_MODELS[0] / "run.json").read_text())
    (model_dir / "run.json").write_text(json.dumps(run))
    shown = f"| validation | {run['result']['best_validation_perplexity']:.2f} |"
    assert shown in render_card(model_dir)
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert shown not in render_card(model_dir)


def test_the_license_of_a_rendered_card_stays_and_a_card_written_by_hand_stays(tmp_path):
    model_dir = save_model(tmp_path / "cat")
    write_card(model_dir, "me/cat", "mit")
    write_card(model_dir, "me/cat")
    text = (model_dir / "README.md").read_text()
    assert ModelCard(text).data.license == "mit" and MARK in text
    (model_dir / "README.md").write_text("by hand")
    write_card(model_dir, "me/cat")
    assert (model_dir / "README.md").read_text() == "by hand"


@pytest.fixture
def small_run(tmp_path):
    """A model with a run over text files, evaluated."""
    model_dir, text = save_model(tmp_path / "cat"), tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\n" * 20)
    run = json.loads((LANGUAGE_MODELS[0] / "run.json").read_text())
    run["arguments"]["data"] = dict.fromkeys(("train_file", "validation_file", "test_file"), str(text))
    (model_dir / "run.json").write_text(json.dumps(run))
    return model_dir


def test_a_figure_that_moved_is_found(small_run, run_script):
    status, _, errors = run_script("evaluate.py", small_run, "--split", "validation", "test", "--save")
    assert status == 0, errors
    write_card(small_run)
    for printed, measured in verify_card(small_run).values():
        assert abs(printed - measured) < 0.01
    card = small_run / "README.md"
    value = ModelCard.load(card).data.eval_results[0].metric_value
    card.write_text(card.read_text().replace(f"value: {value}", f"value: {value + 0.06:.2f}", 1))
    status, printed, errors = run_script("cards.py", small_run, "--verify")
    assert status == 1 and "DIFFERS" in printed, errors


def test_penn_treebank_is_not_verified_without_its_directory_and_says_so(run_script):
    stored = next(path for path in STORED if path.name.startswith("ptb"))
    status, printed, errors = run_script("cards.py", stored, "--verify")
    assert status == 0 and "NOT VERIFIED, needs --corpus_dir ptb=DIR" in printed, errors


def test_a_card_without_results_is_not_verified(tmp_path):
    model_dir = save_model(tmp_path / "cat")
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    with pytest.raises(ValueError, match="no results in .*run scripts/evaluate.py .* --save"):
        verify_card(model_dir)


# Classifiers


def train_classifier(folder, task, file, **flags):
    """Two epochs of a tiny network on a file, which is also for validation."""
    settings = {
        "train_file": file, "validation_file": file, "output_dir": folder, "hidden_size": 8, "num_hidden_layers": 1,
        "bidirectional": True, "initializer_range": 1.5, "num_train_epochs": 2, "per_device_train_batch_size": 3,
        "logging_steps": 1, "save_total_limit": 0, "use_cpu": True, "disable_tqdm": True, **flags,
    }  # fmt: skip
    train(parse_arguments(["--task", task, *(f"--{name}={value}" for name, value in settings.items())]))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind of classifier, not evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    texts = write_texts(folder / "texts.csv", REVIEWS)
    numbers = write_texts(folder / "numbers.csv", [(text, len(text) / 7) for text, _ in REVIEWS])
    words, spans = write_words(folder / "words.tsv", SENTENCES), write_words(folder / "spans.tsv", SPANS)
    return {
        "texts": train_classifier(folder / "texts", "text-classification", texts),
        "numbers": train_classifier(folder / "numbers", "text-classification", numbers),
        "words": train_classifier(folder / "words", "token-classification", words),
        "spans": train_classifier(folder / "spans", "token-classification", spans),
    }


KINDS = ("texts", "numbers", "words", "spans")


@pytest.fixture
def evaluated(runs, tmp_path, run_script):
    """`evaluated(kind)`: a copy of a run, evaluated, with its card."""

    def make(kind):
        model_dir = shutil.copytree(runs[kind], tmp_path / kind)
        status, _, errors = run_script("evaluate.py", model_dir, "--split", "train", "validation", "--save")
        assert status == 0, errors
        scores = json.loads((model_dir / "evaluation.json").read_text())
        scores["scores"]["test"] = scores["scores"].pop("train")  # as if it were a split of its own
        (model_dir / "evaluation.json").write_text(json.dumps(scores))
        build_repository(model_dir, model_dir)
        return model_dir

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_each_number_of_a_classifiers_card_is_in_the_files_of_its_run(evaluated, kind):
    model_dir = evaluated(kind)
    card = (model_dir / "README.md").read_text()
    names = ("run.json", "evaluation.json", "config.json")
    numbers = [n for name in names for n in numbers_in(json.loads((model_dir / name).read_text()))]
    rows = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    numbers += [row["samples_per_second"] for row in rows if "samples_per_second" in row]
    literal = set(re.findall(NUMBER, texts_of_cards()))
    assert list(unexplained(card, numbers, literal)) == []
    check_metadata(card, task_of(model_dir))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_card_holds_what_was_measured(evaluated, kind):
    model_dir = evaluated(kind)
    card = (model_dir / "README.md").read_text()
    scores = json.loads((model_dir / "evaluation.json").read_text())["scores"]
    metrics = [metric for metric in task_of(model_dir).metrics if metric.name in scores["test"]]
    assert len(metrics) >= 2
    for split, score in scores.items():
        for metric in metrics:
            assert f" {metric.text(score[metric.name])} |" in re.search(rf"^\| {split} \|.*$", card, re.MULTILINE)[0]
        kind_of_floor = "mean squared error" if kind == "numbers" else "accuracy"
        assert re.search(rf"has .*{kind_of_floor} [\d.]+( %)? on {split}", card)
    for name, row in scores["test"]["classes"].items():
        assert f"| `{name}` | {100 * row['precision']:.2f} | {100 * row['recall']:.2f} |" in card
    assert ("| class |" in card) is (kind != "numbers")
    assert re.search(rf", about [\d,]+ {'sentences' if kind in ('words', 'spans') else 'texts'} a second\.", card)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_classifiers_card_runs(evaluated, kind, monkeypatch, capsys):
    model_dir = evaluated(kind)
    monkeypatch.chdir(model_dir.parent)
    text = (model_dir / "README.md").read_text()
    card = model_dir / "card.md"
    card.write_text(text.replace(f'"{model_dir.name}"', f'"{model_dir}"'))
    capsys.readouterr()
    shown, printed = examples_of(card), capsys.readouterr().out
    if kind == "words":
        words = re.search(r'^words = "(.*)"', text, re.MULTILINE)[1].split()
        pairs = eval(printed)
        assert [word for word, _ in pairs] == words
        assert {label for _, label in pairs} <= set(RNNConfig.from_pretrained(model_dir).id2label.values())
    elif kind == "spans":
        assert all(line.split()[-1] in ("PER", "LOC") for line in printed.splitlines())
    else:
        assert set(shown[0]) == {"label", "score"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_classifiers_card_runs_without_the_package(evaluated, kind, tmp_path):
    model_dir = evaluated(kind)
    printed = without_the_package(model_dir / "README.md", model_dir.parent, tmp_path / "cache")
    assert kind == "spans" or printed.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_that_was_not_evaluated_shows_its_own_validation(runs, kind):
    card = render_card(runs[kind])
    result = json.loads((runs[kind] / "run.json").read_text())["result"]
    row = re.search(r"^\| validation \| .*$", card, re.MULTILINE)[0]
    for metric in task_of(runs[kind]).metrics:
        value = result.get(f"best_validation_{metric.name}")
        assert value is None or f" {metric.text(value)} |" in row
    assert "As measured during training." in card and "| class |" not in card
    check_metadata(card, task_of(runs[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_card_agrees_with_its_weights_until_a_figure_is_changed(runs, kind, tmp_path, run_script):
    model_dir = shutil.copytree(runs[kind], tmp_path / kind)
    assert run_script("evaluate.py", model_dir, "--save")[0] == 0
    write_card(model_dir)
    status, printed, errors = run_script("cards.py", model_dir, "--verify")
    assert status == 0 and "DIFFERS" not in printed and "validation" in printed, errors
    card = model_dir / "README.md"
    value = ModelCard.load(card).data.eval_results[0].metric_value
    card.write_text(card.read_text().replace(f"value: {value}", f"value: {value + 0.06:.2f}", 1))
    status, printed, _ = run_script("cards.py", model_dir, "--verify")
    assert status == 1 and printed.count("DIFFERS") == 1


def test_what_others_published_stands_in_a_classifiers_card(runs, tmp_path, monkeypatch):
    model_dir = shutil.copytree(runs["texts"], tmp_path / "texts")
    run = json.loads((model_dir / "run.json").read_text())
    run["arguments"]["data"] |= {"dataset_name": "mr", "train_file": None, "validation_file": None}
    (model_dir / "run.json").write_text(json.dumps(run))
    corpus = replace(CORPORA["mr"], published={"any": "seventy-six of a hundred."})
    monkeypatch.setitem(CORPORA, "mr", corpus)
    card = render_card(model_dir)
    assert "Published by others: seventy-six of a hundred.\n" in card and corpus.data in card
    assert ModelCard(card).data.datasets == ["cornell-movie-review-data/rotten_tomatoes"]


def test_a_card_of_a_classifier_without_a_run_says_what_the_configuration_says(runs, tmp_path):
    model_dir = shutil.copytree(runs["words"], tmp_path / "words")
    for name in ("run.json", "metrics.jsonl"):
        (model_dir / name).unlink()
    card = render_card(model_dir, "me/words", "mit")
    assert "## Results" not in card and "## Training" not in card and "`DET`, `NOUN`" in card
    assert ModelCard(card).data.pipeline_tag == "token-classification"


def test_the_command_of_a_card_can_be_typed_as_it_was(runs, tmp_path):
    model_dir = shutil.copytree(runs["texts"], tmp_path / "texts")
    run = json.loads((model_dir / "run.json").read_text())
    for command, shown in (("train.py a", "python scripts/train.py a"), ("rnn-hf train a", "rnn-hf train a")):
        (model_dir / "run.json").write_text(json.dumps(run | {"command": command}))
        assert f"\n```\n{shown}\n```\n" in render_card(model_dir)
