"""`rnn-hf inspect`: models side by side, units over a sentence, and flags that make no sense."""

import json
import shutil

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer(["the cat sat on a mat"])
    for cell_type in ("lstm", "rnn"):
        torch.manual_seed(0)
        config = RNNConfig(vocab_size=len(tokenizer), hidden_size=6, cell_type=cell_type)
        RNNForCausalLM(config).save_pretrained(directory / cell_type)
        tokenizer.save_pretrained(directory / cell_type)
    (directory / "rnn" / "metrics.jsonl").write_text('{"step": 1, "grad_norm": 0.5}\n')
    (directory / "text").write_text("the cat sat on the mat\n" * 9)
    return directory


def test_models_are_inspected_side_by_side(models, tmp_path, run_script):
    names = [str(models / "lstm"), str(models / "rnn")]
    flags = ["--text", models / "text", "--rows", 2, "--steps", 9, "--distances", 4]
    outputs = ["--json", tmp_path / "a.json", "--plot", tmp_path / "a.png"]
    status, printed, _ = run_script("inspect_model.py", *names, *flags, *outputs)
    content = json.loads((tmp_path / "a.json").read_text())
    assert status == 0 and list(content) == names and all(f"{name}\n" in printed for name in names)
    assert [content[name]["kind"] for name in names] == ["lstm", "tanh"]
    assert "training" not in content[names[0]] and content[names[1]]["training"]["norms"] == [0.5]
    assert (tmp_path / "a.png").is_file()
    run_script("inspect_model.py", names[0], *flags, *outputs[:2])
    assert json.loads((tmp_path / "a.json").read_text()) == content[names[0]]


def test_a_model_that_reads_backward_is_inspected_on_the_text_as_it_reads_it(models, tmp_path, run_script):
    """As the same model told that it reads forward is on the text in reverse order."""
    orders = {True: "a cat on the\ncat mat\n" * 9, False: "mat cat\nthe on cat a\n" * 9}
    model, contents = shutil.copytree(models / "lstm", tmp_path / "model"), []
    for reads_backward, text in orders.items():
        RNNConfig.from_pretrained(model, reads_backward=reads_backward).save_pretrained(model)
        (tmp_path / "text").write_text(text)
        flags = ["--text", tmp_path / "text", "--rows", 2, "--steps", 9, "--distances", 4]
        assert run_script("inspect_model.py", model, *flags, "--json", tmp_path / "a.json")[0] == 0
        contents.append(json.loads((tmp_path / "a.json").read_text()))
    assert contents[0] == contents[1]


def test_units_over_a_sentence_are_drawn_and_a_gate_that_a_cell_lacks_is_named(models, tmp_path, run_script):
    flags = ["--sentence", "the Cat sat", "--heatmap", tmp_path / "a.png"]
    status, printed, _ = run_script("inspect_model.py", models / "lstm", models / "rnn", *flags)
    assert (status, printed) == (0, "") and (tmp_path / "a.png").is_file()
    status, _, errors = run_script("inspect_model.py", models / "rnn", *flags, "--show", "forget")
    assert status == 2 and errors == f"error: {models / 'rnn'} has no 'forget' to show, only hidden\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rows", "0"), "--rows must be at least 1, got 0"),
        (("--steps", "-1"), "--steps must be at least 1, got -1"),
        (("--units", "0"), "--units must be at least 1, got 0"),
        (("--steps", "40"), "--distances 50 must be at most --steps 40"),
        (("--heatmap", "a.png"), "--heatmap PNG and --sentence TEXT go together"),
        (("--json", "nowhere/a.json"), "--json: no directory nowhere"),
        (("--json", "."), "--json must name a file, and . is a directory"),
        (("--plot", "a.txt"), "--plot must end in .png or .pdf or .svg, got a.txt"),
    ],
)
def test_flags_are_checked_before_the_model_is_loaded(flags, message, run_script):
    assert run_script("inspect_model.py", "no-model", *flags) == (2, "", f"error: {message}\n")
