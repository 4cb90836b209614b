"""Cards: rendered again they are the same, each number stands in the run's files, their examples run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.data.tokenization import build_tokenizer, load_tokenizer, unknown_id
from rnn_hf.evaluation import Score
from rnn_hf.hub import cards
from rnn_hf.hub.cards import CELL_CITATIONS, MARK, render_card, verify_card, write_card
from rnn_hf.models import modeling_rnn
from rnn_hf.runs import describe_weights, save_scores


ROOT = Path(__file__).parents[2]
STORED = sorted(path.relative_to(ROOT) for path in (ROOT / "model_cards").glob("*/"))
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])"

stored = pytest.mark.parametrize("model_dir", STORED, ids=lambda path: path.name)


@pytest.fixture(autouse=True)
def in_the_source_directory(monkeypatch):
    monkeypatch.chdir(ROOT)  # a stored card loads its model by the path from there


def test_there_is_a_model_of_each_cell_and_one_of_the_offline_corpus():
    configs = [RNNConfig.from_pretrained(path).cell_type for path in STORED]
    assert {"lstm", "gru", "rnn"} <= set(configs)
    assert any(path.name.startswith("sotu") for path in STORED)


@stored
def test_rendering_a_stored_card_again_changes_nothing(model_dir):
    assert render_card(model_dir) == (model_dir / "README.md").read_text(encoding="utf-8")


@stored
def test_a_stored_model_is_a_complete_repository_with_the_packages_code(model_dir):
    names = {path.name for path in model_dir.iterdir()}
    code = {path.name for path in Path(modeling_rnn.__file__).parent.glob("*_rnn.py")}
    files = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names == code | files | {"README.md", "curve.png", "evaluation.json", "metrics.jsonl", "model.safetensors",
                                    "run.json"}  # fmt: skip
    for name in code:
        assert (model_dir / name).read_text() == (ROOT / "rnn_hf" / "models" / name).read_text(), "run make cards"
    assert (model_dir / "model.safetensors").stat().st_size <= 12e6
    assert {"validation", "test"} == set(json.loads((model_dir / "evaluation.json").read_text())["scores"])


@stored
def test_what_was_evaluated_are_the_weights_that_are_stored(model_dir):
    assert json.loads((model_dir / "evaluation.json").read_text())["weights"] == describe_weights(model_dir)


@stored
def test_unknown_words_stay_in_the_text_of_a_stored_model(model_dir):
    tokenizer = load_tokenizer(str(model_dir))
    assert tokenizer.decode([unknown_id(tokenizer), tokenizer.eos_token_id], skip_special_tokens=True) == " <unk>"


def numbers_in(content):
    """All numbers in JSON content, and those in its strings."""
    if isinstance(content, dict):
        return [number for value in content.values() for number in numbers_in(value)]
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
            abs(float(plain) - value) <= near for number in numbers for value in (number, 100 * number)
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
    numbers += [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    literal = set(re.findall(NUMBER, texts_of_cards()))
    assert len(re.findall(NUMBER, card)) > 40
    assert list(unexplained(card, numbers, literal)) == []
    # And the check can fail: a perplexity with another digit is found.
    perplexity = json.loads((model_dir / "evaluation.json").read_text())["scores"]["test"]["perplexity"]
    wrong = card.replace(f"{perplexity:.2f}", f"{perplexity + 3:.2f}")
    assert f"{perplexity + 3:.2f}" in list(unexplained(wrong, numbers, literal))


@stored
def test_the_metadata_is_what_the_table_says(model_dir):
    data = ModelCard.load(model_dir / "README.md").data
    table = dict(
        re.findall(r"^\| (validation|test) \| ([\d.]+) \|", (model_dir / "README.md").read_text(), re.MULTILINE)
    )
    assert {result.dataset_split: f"{result.metric_value:.2f}" for result in data.eval_results} == table
    assert data.library_name == "transformers" and data.pipeline_tag == "text-generation" and data.license


@stored
def test_the_examples_of_a_card_run(model_dir, tmp_path):
    card = (model_dir / "README.md").read_text(encoding="utf-8")
    with_package, without = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    # As typed at a prompt, where the last line shows its value.
    with_package, without = (
        re.sub(r"^(.*)\n\Z", r"shown = \1", code, flags=re.MULTILINE) for code in (with_package, without)
    )
    names = {}
    exec(compile(with_package, "card", "exec"), names)
    assert len(names["shown"][0]["generated_text"].split()) > 10
    if "sotu" in model_dir.name:  # one is enough for what takes a process of its own
        code = f"import sys\nsys.modules['rnn_hf'] = None\n{without}\nprint(shown[0]['generated_text'])"
        environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        assert len(result.stdout.split()) > 10


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
    run = json.loads((STORED[0] / "run.json").read_text())
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
    run = json.loads((STORED[0] / "run.json").read_text())
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
