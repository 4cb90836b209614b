"""Exports: kept only when they agree with PyTorch, in one piece, and with all else that a runtime needs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from classifiers import TEXTS, WORDS
from onnx import numpy_helper
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer, unknown_id
from rnn_hf.files import read_json, sha256_of
from rnn_hf.hub.onnx_card import write_onnx_card
from rnn_hf.hub.repository import build_repository
from rnn_hf.models import HEADS
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx import export
from rnn_hf.onnx.classifier_graph import INPUTS, build_classifier_graph
from rnn_hf.onnx.export import SIZES, TOLERANCE, ExportError, export_onnx
from rnn_hf.onnx.model import RNNONNXForCausalLM


ROOT = Path(__file__).parents[2]
TOKENIZER = build_tokenizer(["the cat sat on the mat"])
FILES = {"config.json", "export.json", "generation_config.json", "model.onnx", "tokenizer.json",
         "tokenizer_config.json", "trtexec.sh"}  # fmt: skip


def save_model(directory, cell=None, seed=0, scale=0.5, dtype=torch.float32, **fields):
    config = RNNConfig(**{"vocab_size": len(TOKENIZER), "hidden_size": 6, **(cell or {}), **fields})
    torch.manual_seed(seed)
    model = RNNForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -scale, scale)
    model.generation_config.max_new_tokens = 7
    model.to(dtype).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


@pytest.fixture
def model_dir(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture
def break_graph(monkeypatch):
    """`break_graph(change)`: from now on the exporter's graph is built wrong, by `change` of the file's content."""

    def arrange(change):
        def build(*args):
            proto = build_graph(*args)
            change(proto.graph)
            return proto

        build_graph = export.build_graph
        monkeypatch.setattr(export, "build_graph", build)

    return arrange


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None


def changed(name, change):
    """A change of a graph: the weight `name` replaced by `change` of it."""

    def apply(graph):
        (weight,) = (weight for weight in graph.initializer if weight.name == name)
        weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), name))

    return apply


def frozen(graph):
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def test_the_folder_has_all_that_a_runtime_needs(tmp_path, cell):
    if "projection_size" in cell:
        cell = cell | {"embedding_size": cell["projection_size"]}
    model_dir, out = save_model(tmp_path / "model", cell), tmp_path / "new" / "onnx"
    report = export_onnx(model_dir, out)
    model = RNNForCausalLM.from_pretrained(model_dir)
    assert set(content(out)) == FILES
    assert read_json(out / "export.json") == report
    assert report["bytes"] == (out / "model.onnx").stat().st_size
    assert report["sha256"] == sha256_of(out / "model.onnx")
    assert report["identity"] == identity_of(model) and report["source"] == "model"
    assert [(check["batch"], check["sequence"]) for check in report["checked"]] == list(SIZES)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for check in report["checked"]:
        assert list(check["largest_difference"]) == [output.name for output in session.get_outputs()]
        assert all(0 <= value <= TOLERANCE for value in check["largest_difference"].values())
    exported, config = AutoConfig.from_pretrained(out), model.config
    config.auto_map, config.name_or_path = {}, exported.name_or_path  # there is no code with the file
    assert exported.to_dict() == config.to_dict() and str(tmp_path) not in (out / "config.json").read_text()
    assert GenerationConfig.from_pretrained(out).max_new_tokens == 7
    assert AutoTokenizer.from_pretrained(out)("the cat")["input_ids"] == TOKENIZER("the cat")["input_ids"]


def test_with_the_last_logits_only_the_file_gives_one_position(model_dir, tmp_path):
    report = export_onnx(model_dir, tmp_path / "onnx", last_logits_only=True)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert session.get_outputs()[0].shape == ["batch", 1, len(TOKENIZER)] and report["logits"] == "last"


def test_the_example_of_the_card_runs_and_leaves_the_word_for_unknown_words_out(tmp_path, capsys):
    save_model(tmp_path / "model")
    model = RNNForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        model.lm_head.bias[unknown_id(TOKENIZER)] = 100
    model.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", tmp_path / "onnx")
    interface = export.check_folder(tmp_path / "onnx")
    write_onnx_card(tmp_path / "onnx", interface, str(tmp_path / "onnx"))
    (example,) = re.findall(r"```python\n(.*?)```", (tmp_path / "onnx" / "README.md").read_text(), flags=re.DOTALL)
    exec(example, {})
    said = capsys.readouterr().out.removeprefix(TOKENIZER.decode(TOKENIZER("The")["input_ids"]))
    assert said.strip() and "<unk>" not in said


def test_a_model_of_half_precision_becomes_float32(tmp_path):
    export_onnx(save_model(tmp_path / "model", dtype=torch.float16), tmp_path / "onnx")
    assert read_json(tmp_path / "onnx" / "config.json")["dtype"] == "float32"


@pytest.mark.parametrize("exists", [False, True], ids=["new", "there"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("layers.0.W", lambda weight: np.roll(weight, 6, axis=1)), "at batch 1 and sequence 1 .*differs from"),
        (
            changed("layers.1.R", lambda weight: weight * 1.01),
            "its output logits differs from PyTorch by .* is allowed",
        ),
        (changed("lm_head.bias", lambda bias: bias + 2e-5), "logits differs from PyTorch by [12].*e-05, and 1e-05 is"),
        (changed("lm_head.bias", lambda bias: bias * np.nan), "logits differs from PyTorch by nan"),
        (frozen, r"fails at batch and sequence \(1, 1\): .*Expected: 7"),
        (lambda graph: graph.output.pop(), "not kept: .*present.1.cell"),
    ],
    ids=["gates", "recurrent", "little", "nan", "frozen", "output"],
)
def test_of_a_file_that_is_wrong_nothing_is_left(model_dir, tmp_path, break_graph, exists, change, message):
    out = tmp_path / "onnx"
    if exists:
        export_onnx(model_dir, out)
    before = content(out)
    break_graph(change)
    with pytest.raises(ExportError, match=message):
        export_onnx(model_dir, out)
    assert content(out) == before


def test_a_network_that_multiplies_rounding_is_kept_and_a_wrong_weight_is_seen_nevertheless(tmp_path, break_graph):
    chaotic = {"cell_type": "rnn", "hidden_act": "tanh", "hidden_size": 30}
    model_dir = save_model(tmp_path / "model", chaotic, scale=0.6)
    first, *_, last = export_onnx(model_dir, tmp_path / "onnx")["checked"]
    assert set(first["allowed"].values()) == {TOLERANCE}
    assert TOLERANCE < last["largest_difference"]["logits"] <= last["allowed"]["logits"]
    break_graph(changed("layers.0.R", lambda weight: weight * 1.001))
    with pytest.raises(ExportError, match="at batch 1 and sequence 1 its output"):
        export_onnx(model_dir, tmp_path / "onnx")


def test_an_export_is_replaced_and_what_was_made_of_the_old_file_goes(model_dir, tmp_path):
    out = tmp_path / "onnx"
    export_onnx(model_dir, out)
    (out / "model_int8.onnx").write_text("of the old file")
    old = sha256_of(out / "model.onnx")
    assert export_onnx(save_model(model_dir, seed=1), out)["sha256"] == sha256_of(out / "model.onnx") != old
    assert set(content(out)) == FILES


def test_a_directory_that_is_in_use_for_something_else_is_refused_before_the_model_is_loaded(model_dir, tmp_path):
    for out, message in ((model_dir, "something that is no export"), (model_dir / "config.json", "is a file")):
        before = content(model_dir)
        with pytest.raises(ValueError, match=f"`out_dir`.*{message}"):
            export_onnx("nowhere", out)
        assert content(model_dir) == before


def test_after_a_writer_that_failed_the_same_directory_serves(model_dir, tmp_path, monkeypatch):
    out = tmp_path / "onnx"

    def fail(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export, "trtexec_command", fail)
        with pytest.raises(OSError, match="No space"):
            export_onnx(model_dir, out)
    assert not (out / "model.onnx").exists()
    export_onnx(model_dir, out)
    assert set(content(out)) == FILES


def test_the_weights_come_into_place_last(model_dir, tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(Path(target)), replace(source, target)))
    export_onnx(model_dir, tmp_path / "onnx")
    assert [path.name for path in moved if path.parent == tmp_path / "onnx"][-1] == "model.onnx"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_the_extra_is_named(model_dir, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need.? {package}: pip install 'rnn_hf\[onnx\]'"):
        export_onnx("nowhere", tmp_path / "onnx")


def test_the_command_of_tensorrt_has_sizes_for_every_input_and_says_that_it_was_not_run(model_dir, tmp_path):
    out = tmp_path / "onnx"
    export_onnx(model_dir, out)
    program = tmp_path / "bin" / "trtexec"  # a stand-in that prints its arguments
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    run = subprocess.run(["sh", out / "trtexec.sh"], capture_output=True, text=True, check=True, env=environment)
    flags = dict(line.removeprefix("--").split("=", 1) for line in run.stdout.splitlines())
    assert flags.pop("onnx") == "model.onnx" and flags.pop("saveEngine") == "model.plan"
    assert set(flags) == {"minShapes", "optShapes", "maxShapes"}
    inputs = onnxruntime.InferenceSession(out / "model.onnx").get_inputs()
    for kind, sizes in (("minShapes", (1, 1)), ("maxShapes", (32, 512))):
        dims = dict(zip(("batch", "sequence"), sizes, strict=True))
        shapes = dict(part.split(":") for part in flags[kind].split(","))
        assert shapes == {i.name: "x".join(str(dims.get(size, size)) for size in i.shape) for i in inputs}
    assert "was not run" in (out / "trtexec.sh").read_text()


def test_the_script_prints_what_was_checked_and_refuses_in_one_line(model_dir, tmp_path, run_script):
    status, printed, errors = run_script("export_onnx.py", model_dir, tmp_path / "onnx", "--last_logits_only")
    assert status == 0, errors
    report = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert report["logits"] == "last"
    title, *rows, last = printed.splitlines()
    assert [tuple(map(int, row.split()[:2])) for row in rows] == list(SIZES)
    assert f"{report['bytes']:,} bytes" in last
    status, _, errors = run_script("export_onnx.py", model_dir, model_dir)
    assert status == 2 and errors.startswith("error: `out_dir`") and errors.count("\n") == 1


# Classifiers

CLASSIFIER_FILES = {"config.json", "export.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(params=[TEXTS, WORDS])
def classifier(request, make_small):
    """The path of a classifier of texts, and of one of words."""
    return make_small(request.param, **{"pooling": "concat"} if request.param == TEXTS else {})


def test_the_folder_of_a_classifier_has_its_labels_and_the_file_what_the_model_says(classifier, tmp_path):
    out = tmp_path / "onnx"
    report = export_onnx(classifier, out)
    assert set(content(out)) == CLASSIFIER_FILES and read_json(out / "export.json") == report
    config, exported = (AutoConfig.from_pretrained(folder) for folder in (classifier, out))
    assert exported.id2label == config.id2label and {"good", "NOUN"} & exported.label2id.keys()
    is_of_words = config.architectures == ["RNNForTokenClassification"]
    assert report["task"] == (WORDS if is_of_words else TEXTS)
    for check in report["checked"]:
        assert set(check["largest_difference"]) == {"logits"}
        assert check["largest_difference"]["logits"] <= check["allowed"]["logits"] == TOLERANCE
    tokenizer = AutoTokenizer.from_pretrained(out)
    rows = [["a", "unforgettable", "dog", "!"], ["cats"]] if is_of_words else ["a dull, cold film!", "funny"]
    inputs = tokenizer(rows, is_split_into_words=is_of_words, padding=True, return_tensors="pt")
    model = HEADS[export.auto_class_of(classifier)].from_pretrained(classifier)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    session = onnxruntime.InferenceSession(out / "model.onnx")
    (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert json.loads((out / "config.json").read_text())["id2label"] == {
        str(index): label for index, label in config.id2label.items()
    }


def test_of_a_classifier_that_is_wrong_nothing_is_left(classifier, tmp_path, monkeypatch):
    def build(model):
        proto = build_classifier_graph(model)
        changed("layers.0.W", lambda weight: weight[::-1])(proto.graph)  # the directions change places
        return proto

    monkeypatch.setattr(export, "build_classifier_graph", build)
    with pytest.raises(ExportError, match="its output logits differs from PyTorch by"):
        export_onnx(classifier, tmp_path / "onnx")
    assert not content(tmp_path / "onnx")


def test_padding_is_part_of_the_check(make_small, tmp_path, monkeypatch):
    def build(model):
        proto = build_classifier_graph(model)
        for node in proto.graph.node:
            if node.op_type == "LSTM":
                node.input[4] = ""
        return proto

    monkeypatch.setattr(export, "build_classifier_graph", build)
    with pytest.raises(ExportError, match=r"at batch [25] and .* its output logits differs from PyTorch by"):
        export_onnx(make_small(TEXTS), tmp_path / "onnx")


def test_a_classifier_replaces_a_language_model_whole_and_the_reverse(model_dir, classifier, tmp_path):
    out = tmp_path / "onnx"
    for source, files in ((model_dir, FILES), (classifier, CLASSIFIER_FILES), (model_dir, FILES)):
        export_onnx(source, out)
        assert set(content(out)) == files


def test_a_classifier_is_no_language_model(classifier, tmp_path):
    with pytest.raises(ValueError, match="`last_logits_only` is for a language model, and .* is a classifier"):
        export_onnx(classifier, tmp_path / "onnx", last_logits_only=True)
    export_onnx(classifier, tmp_path / "onnx")
    with pytest.raises(ValueError, match="is a classifier and no language model"):
        RNNONNXForCausalLM.from_pretrained(tmp_path / "onnx")


def test_a_network_without_a_head_is_refused(model_dir, tmp_path):
    RNNForCausalLM.from_pretrained(model_dir).model.save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match="backbone is a network without a head"):
        export_onnx(tmp_path / "backbone", tmp_path / "onnx")


@pytest.mark.parametrize(
    ("task", "problem_type"),
    [(WORDS, None), *((TEXTS, kind) for kind in (None, "multi_label_classification", "regression"))],
)
def test_the_example_of_a_classifiers_card_gives_what_the_model_gives(
    make_small, tmp_path, capsys, task, problem_type
):
    path = make_small(task)
    model = HEADS[export.auto_class_of(path)].from_pretrained(path)
    labels, model.config.problem_type = model.config.id2label, problem_type or model.config.problem_type
    model.save_pretrained(path)
    export_onnx(path, tmp_path / "onnx")
    build_repository(tmp_path / "onnx", tmp_path / "repository", str(tmp_path / "repository"))
    assert set(content(tmp_path / "repository")) == CLASSIFIER_FILES | {"README.md"}
    card = (tmp_path / "repository" / "README.md").read_text()
    assert f"pipeline_tag: {task}" in card and "`attention_mask` | (batch, sequence) | int64" in card
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict = {}
    exec(example, names)
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(names["inputs"][name]) for name in INPUTS}).logits.numpy()
    np.testing.assert_allclose(names["logits"], logits, atol=1e-5)
    if problem_type == "regression":
        said = names["logits"]
    elif problem_type:
        said = [[labels[index] for index in np.flatnonzero(row > 0)] for row in logits]
    elif task == TEXTS:
        said = [labels[index] for index in logits.argmax(axis=1)]
    else:
        said = [[labels[index] for index in row] for row in logits.argmax(axis=2)]
    assert capsys.readouterr().out == f"{said}\n"


def test_the_script_exports_a_classifier_and_refuses_flags_of_language_models(classifier, tmp_path, run_script):
    status, printed, errors = run_script("export_onnx.py", classifier, tmp_path / "onnx")
    assert status == 0, errors
    title, *rows, _ = printed.splitlines()
    assert title.endswith("PyTorch: logits") and [tuple(map(int, row.split()[:2])) for row in rows] == list(SIZES)
    for flags in (["--last_logits_only"], ["--ptb_dir", tmp_path]):
        status, _, errors = run_script("export_onnx.py", classifier, tmp_path / "other", *flags)
        assert status == 2 and re.fullmatch(rf"error: {flags[0]} does not go with .*, which is a classifier\n", errors)
    assert not (tmp_path / "other").exists()


def test_flags_of_classifiers_do_not_go_with_a_language_model(model_dir, tmp_path, run_script):
    status, _, errors = run_script("export_onnx.py", model_dir, tmp_path / "onnx", "--label_column", "label")
    assert status == 2 and "--label_column does not go with" in errors and "a language model" in errors
