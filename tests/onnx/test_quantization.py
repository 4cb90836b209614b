"""Models in 8 bits: the same model, smaller and near, with measured figures; and all of it or nothing."""

import logging
import re
import sys
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from classifiers import REVIEWS, TEXTS, write_texts
from onnx import numpy_helper
from onnxruntime import quantization as ort_quantization

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer, encode_stream
from rnn_hf.evaluation import evaluate
from rnn_hf.files import read_json, sha256_of
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx import quantization
from rnn_hf.onnx.export import SIZES, check_folder, export_onnx
from rnn_hf.onnx.model import RNNONNXForCausalLM
from rnn_hf.onnx.quantization import quantize, quantize_classifier, write_int8
from rnn_hf.onnx.session import open_session
from rnn_hf.tasks import TASKS


SCRIPT = Path(__file__).parents[2] / "scripts" / "export_onnx.py"
WORDS = [f"w{number}" for number in range(300)]
TOKENIZER = build_tokenizer([" ".join(WORDS)])
LINES = [" ".join(WORDS[start::7]) for start in range(7)]
HEADS = {
    "untied": {"tie_word_embeddings": False},
    "projection": {"embedding_size": 24, "output_projection_size": 24},
    "mixture": {"num_softmaxes": 3},
    "mixture-untied-last": {"num_softmaxes": 2, "tie_word_embeddings": False, "last_hidden_size": 24},
}
# Of the range that an output has in the float32 file. The models here are off by 0.01 at most, a small word by 0.02;
# with scales or gates in another order by 0.1 and more, and with one scale for words of every size by 1.
NEAR = 0.05


@pytest.fixture(autouse=True)
def given_times(monkeypatch):
    """Two steps of each file are taken, and said to take 6 and 4 milliseconds."""

    def in_turn(candidates, rounds):
        for run in candidates.values():
            run()
        return dict(zip(candidates, ([0.006], [0.004]), strict=True))

    monkeypatch.setattr(quantization, "STEPS", 2)
    monkeypatch.setattr(quantization, "in_turn", in_turn)


def save_model(directory, scales=None, **fields):
    """A model with rows of every size in its matrices; `scales` multiply those of the output matrix."""
    torch.manual_seed(0)
    if "projection_size" in fields:
        fields |= {"projection_size": 24, "embedding_size": 24}
    model = RNNForCausalLM(RNNConfig(**{"vocab_size": len(TOKENIZER), "hidden_size": 48, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.25, 0.25)
            parameter.mul_(torch.empty(len(parameter), *[1] * (parameter.ndim - 1)).uniform_(0.2, 1))
        if scales is not None:
            model.lm_head.weight.mul_(scales[:, None])
    model.save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def make_int8(tmp_path_factory):
    """`make_int8(**fields)`: folder of a model, folder of its export, and what `quantize` returned; each made once."""

    @cache
    def make(last_logits_only=False, **fields):
        folder = tmp_path_factory.mktemp("int8")
        save_model(folder / "model", **fields)
        export_onnx(folder / "model", folder / "onnx", last_logits_only=last_logits_only)
        return folder / "model", folder / "onnx", quantize(folder / "onnx", LINES)

    return make


@pytest.fixture
def exported(tmp_path):
    """An export of an LSTM, not quantised."""
    export_onnx(save_model(tmp_path / "model"), tmp_path / "onnx")
    return tmp_path / "onnx"


def sessions_of(folder):
    """Of the float32 file and the int8 file."""
    return [onnxruntime.InferenceSession(folder / name) for name in ("model.onnx", "model_int8.onnx")]


def outputs_of(folder, batch, sequence):
    """Name, float32 and int8 of each output, from the same ids and the same random state."""
    sessions, generator = sessions_of(folder), np.random.default_rng(0)
    inputs = {"input_ids": generator.integers(0, len(TOKENIZER), (batch, sequence))}
    for value in sessions[0].get_inputs()[1:]:
        inputs[value.name] = generator.uniform(-1, 1, (batch, value.shape[1])).astype(np.float32)
    names = [value.name for value in sessions[0].get_outputs()]
    return list(zip(names, *(session.run(names, inputs) for session in sessions), strict=True))


def float_matrices(folder):
    """Names of the matrices of the int8 file that are in float."""
    weights = onnx.load(folder / "model_int8.onnx").graph.initializer
    is_matrix = {weight.name: sum(size > 1 for size in weight.dims) > 1 for weight in weights}
    return {weight.name for weight in weights if weight.data_type == onnx.TensorProto.FLOAT and is_matrix[weight.name]}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is written


def test_the_perplexities_are_those_of_the_files_there_and_that_of_float32_is_pytorchs(make_int8, cell):
    model_dir, folder, comparison = make_int8(**cell)
    tokens, end = encode_stream(LINES, TOKENIZER), TOKENIZER.eos_token_id
    for name, file in (("float32", "model.onnx"), ("int8", "model_int8.onnx")):
        runner = RNNONNXForCausalLM.from_pretrained(folder, file_name=file)
        assert comparison["perplexity"][name] == round(evaluate(runner, tokens, end, window=256).perplexity, 3)
    model = RNNForCausalLM.from_pretrained(model_dir)
    assert comparison["perplexity"]["float32"] == pytest.approx(evaluate(model, tokens, end).perplexity, rel=1e-5)
    assert comparison["tokens"] == len(tokens)


def test_the_figures_stand_in_the_report_beside_those_of_the_export(make_int8, cell):
    _, folder, comparison = make_int8(**cell)
    report = read_json(folder / "export.json")
    assert report["int8"] == comparison and report["sha256"] == sha256_of(folder / "model.onnx") and report["checked"]
    assert comparison["sha256"] == sha256_of(folder / "model_int8.onnx")
    files = {"float32": "model.onnx", "int8": "model_int8.onnx"}
    assert comparison["bytes"] == {name: (folder / file).stat().st_size for name, file in files.items()}
    assert comparison["bytes"]["int8"] < comparison["bytes"]["float32"]
    assert comparison["milliseconds"] == {"float32": 3.0, "int8": 2.0} and comparison["speedup"] == 1.5
    assert not list(folder.glob("*writing*")) + list(folder.glob(".*"))


def test_the_int8_file_is_the_same_model_with_the_same_interface(make_int8, cell):
    model_dir, folder, _ = make_int8(**cell)
    float32, int8 = sessions_of(folder)
    metadata = int8.get_modelmeta().custom_metadata_map
    assert metadata == float32.get_modelmeta().custom_metadata_map
    assert metadata["identity"] == identity_of(RNNForCausalLM.from_pretrained(model_dir))
    for side in ("get_inputs", "get_outputs"):
        theirs, ours = ([(v.name, v.shape, v.type) for v in getattr(one, side)()] for one in (float32, int8))
        assert theirs == ours


@pytest.mark.parametrize("head", [{}, *HEADS.values()], ids=["tied", *HEADS])
@pytest.mark.usual_cells("lstm", "gru")
def test_at_any_size_and_from_any_state_logits_and_state_are_near(make_int8, cell, head):
    if "projection_size" in cell:  # which is the width of every output
        head = {name: value for name, value in head.items() if name != "last_hidden_size"}
    _, folder, _ = make_int8(**cell, **head)
    for batch, sequence in SIZES:
        for name, float32, int8 in outputs_of(folder, batch, sequence):
            assert np.abs(int8 - float32).max() <= NEAR * np.ptp(float32), name


@pytest.mark.parametrize("version, is_right", [("1.20.1", 1), ("1.21.0", 0), ("1.24.4", 0), ("1.25.0", 1)])
def test_releases_that_multiply_8_bits_wrongly_run_the_float_file_alone(make_int8, monkeypatch, version, is_right):
    _, folder, _ = make_int8(cell_type="lstm")
    monkeypatch.setattr(onnxruntime, "__version__", version)
    open_session(str(folder / "model.onnx"), "cpu", 1)
    with nullcontext() if is_right else pytest.raises(ImportError, match="install 1.25 or later"):
        open_session(str(folder / "model_int8.onnx"), "cpu", 1)


def test_a_word_of_small_weights_is_as_near_as_one_of_large_ones(tmp_path):
    scales = torch.logspace(0, -4, len(TOKENIZER))
    folder = tmp_path / "onnx"
    export_onnx(save_model(tmp_path / "model", scales, tie_word_embeddings=False), folder)
    quantize(folder, LINES)
    _, float32, int8 = outputs_of(folder, 8, 32)[0]
    difference = np.abs(int8 - float32).max(axis=(0, 1)) / np.ptp(float32, axis=(0, 1))
    assert (difference <= NEAR).all()


def test_two_products_fit_into_the_16_bits_that_some_cpus_add_them_in(make_int8, cell):
    _, folder, _ = make_int8(**cell)
    proto = onnx.load(folder / "model_int8.onnx")
    is_factor = (onnx.TensorProto.INT8, "_quantized")  # an embedding, which is only looked up, is of another type
    weights = [w for w in proto.graph.initializer if (w.data_type, w.name[-10:]) == is_factor]
    assert weights and all(2 * 255 * np.abs(numpy_helper.to_array(w).astype(int)).max() < 2**15 for w in weights)


@pytest.mark.parametrize("head", [{}, *HEADS.values()], ids=["tied", *HEADS])
def test_of_an_lstm_no_matrix_stays_in_float_tied_or_not(make_int8, head):
    _, folder, comparison = make_int8(cell_type="lstm", **head)
    operators = {node.op_type for node in onnx.load(folder / "model_int8.onnx").graph.node}
    assert not float_matrices(folder) and not comparison["float_operators"]
    assert {"DynamicQuantizeLSTM", "MatMulInteger"} <= operators and not {"LSTM", "MatMul"} & operators


def test_the_steps_of_a_projected_lstm_are_in_8_bits_too(make_int8):
    _, folder, comparison = make_int8(cell_type="lstm", projection_size=3)
    scans = [node for node in onnx.load(folder / "model_int8.onnx").graph.node if node.op_type == "Scan"]
    bodies = [{node.op_type for node in a.g.node} for scan in scans for a in scan.attribute if a.name == "body"]
    assert len(bodies) == 2 and all("MatMulInteger" in body and "MatMul" not in body for body in bodies)
    assert not float_matrices(folder) and not comparison["float_operators"]


@pytest.mark.parametrize(("cell_type", "operator"), [("gru", "GRU"), ("rnn", "RNN")])
def test_what_stays_in_float_is_listed_and_is_the_recurrence_alone(make_int8, cell_type, operator):
    _, folder, comparison = make_int8(cell_type=cell_type)
    assert comparison["float_operators"] == [operator]
    assert float_matrices(folder) == {"layers.0.W", "layers.0.R", "layers.1.W", "layers.1.R"}


def test_an_export_of_the_last_logits_has_the_same_figures(make_int8):
    last, whole = (make_int8(cell_type="lstm", **flag)[2]["perplexity"] for flag in ({"last_logits_only": True}, {}))
    assert last["float32"] == pytest.approx(whole["float32"], abs=2e-3)
    assert last["int8"] == pytest.approx(whole["int8"], rel=1e-3)  # a position at a time has scales of its own


# All of it or nothing


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (ort_quantization, "quantize_dynamic"),
        (quantization, "evaluate"),
        (quantization, "in_turn"),
        (quantization, "write_json"),
    ],
    ids=["quantisation", "perplexity", "time", "report"],
)
def test_after_a_failure_the_folder_is_as_before(exported, monkeypatch, there, module, name):
    if there:
        quantize(exported, LINES)
    before = content(exported)

    def fail(*args, **options):
        if name == "quantize_dynamic":
            args[1].write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match="No space"):
        quantize(exported, LINES[:3])
    assert content(exported) == before and not list(exported.glob("*writing*")) + list(exported.glob(".*"))
    assert logging.getLogger().isEnabledFor(logging.WARNING)


def test_a_folder_that_is_no_export_or_another_one_is_refused_and_left_alone(exported, tmp_path):
    for folder in (tmp_path / "model", tmp_path / "nowhere"):
        before = content(folder)
        with pytest.raises(FileNotFoundError, match="no export in .*: it needs model.onnx and export.json"):
            quantize(folder, LINES)
        assert content(folder) == before
    weights = (exported / "model.onnx").read_bytes()
    (exported / "model.onnx").write_bytes(weights[:-1] + b"?")
    before = content(exported)
    with pytest.raises(OSError, match="not the file that export.json is about: export the model again"):
        quantize(exported, LINES)
    assert content(exported) == before


def test_a_text_without_tokens_is_refused_and_nothing_is_written(exported):
    before = content(exported)
    with pytest.raises(ValueError, match="tokens"):
        quantize(exported, [])
    assert content(exported) == before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.ERROR])
def test_what_the_application_silenced_stays_so(exported, tmp_path, level):
    logging.disable(level)
    try:
        write_int8(exported / "model.onnx", tmp_path / "int8.onnx")
        assert logging.root.manager.disable == level
    finally:
        logging.disable(logging.NOTSET)


def test_a_file_in_8_bits_that_is_not_that_of_the_report_is_refused(exported):
    quantize(exported, LINES)
    assert check_folder(exported)
    path = exported / "model_int8.onnx"
    path.write_bytes((exported / "model.onnx").read_bytes())  # it loads, but is another file
    with pytest.raises(OSError, match="model_int8.onnx is not the file that export.json is about"):
        check_folder(exported)


def test_quantised_again_the_file_is_the_same_and_exported_again_it_is_gone(exported, tmp_path, caplog):
    first = quantize(exported, LINES)
    again = quantize(exported, LINES[:3])
    assert again["sha256"] == first["sha256"] and again["tokens"] < first["tokens"]
    assert read_json(exported / "export.json")["int8"] == again
    assert not [record for record in caplog.records if record.name == "root"]  # the advice that changes nothing
    export_onnx(tmp_path / "model", exported)
    assert not (exported / "model_int8.onnx").exists() and "int8" not in read_json(exported / "export.json")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_the_extra_is_named(exported, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need.? {package}: pip install 'rnn_hf\[onnx\]'"):
        quantize(exported, LINES)


# The script


@pytest.fixture
def script(run_script):
    """`script(*argv)`: status, output and errors of the script, run here, where the times are given."""
    return partial(run_script, "export_onnx.py")


def test_the_script_says_what_int8_costs_and_gains_and_what_gains_nothing(script, tmp_path):
    text = tmp_path / "text"
    text.write_text("\n".join(LINES))
    for cell_type, operator in (("lstm", None), ("gru", "GRU")):
        out = tmp_path / cell_type
        save_model(tmp_path / "model", cell_type=cell_type)
        status, printed, errors = script(tmp_path / "model", out, "--int8", "--validation_file", text)
        assert status == 0, errors
        int8, rows = read_json(out / "export.json")["int8"], printed.splitlines()[len(SIZES) + 2 :]
        for name, row in zip(("float32", "int8"), rows, strict=False):
            assert row.startswith(f"{name}: {int8['bytes'][name]:,} bytes, perplexity {int8['perplexity'][name]:.2f} ")
            assert row.endswith(f"over {int8['tokens']:,} tokens, {int8['milliseconds'][name]:.3f} ms a token")
        assert rows[2] == f"int8 is {int8['speedup']:.2f} times as fast, on one thread"
        words = f"{operator}: ONNX Runtime has no int8 form, so the recurrence gains nothing"
        assert rows[3:] == ([words] if operator else [])


def test_the_script_refuses_int8_without_a_text_before_anything_is_written(script, tmp_path, capsys):
    model_dir, out, text = save_model(tmp_path / "model"), tmp_path / "onnx", tmp_path / "text"
    text.write_text("\n".join(LINES))
    for flags, message in (
        (["--train_file", text], "error: --int8 needs a validation text: add --validation_file FILE\n"),
        ([], rf"error: {re.escape(str(model_dir))} has no run.json of a training run: name a corpus by .*\n"),
        (["--validation_file", tmp_path / "none"], "error: no file .*none for the validation split\n"),
    ):
        capsys.readouterr()
        status, printed, errors = script(model_dir, out, "--int8", *flags)
        assert status == 2 and not printed and re.fullmatch(message, errors) and not out.exists()


# Classifiers


@pytest.mark.parametrize("task", [TEXTS, "token-classification"])
def test_the_script_compares_a_classifier_on_its_own_validation_data(script, make_small, tmp_path, task):
    path = make_small(task, hidden_size=32, embedding_size=32)
    status, printed, errors = script(path, tmp_path / "onnx", "--int8")
    assert status == 0, errors
    int8 = read_json(tmp_path / "onnx" / "export.json")["int8"]
    expected = TASKS[task].module.evaluate(path, ["validation"], {})["validation"]
    assert int8["scores"]["float32"] == {
        **expected.values, "loss": pytest.approx(expected.loss, abs=1e-5), expected.unit: expected.count
    }  # fmt: skip
    assert int8["scores"]["int8"]["loss"] == pytest.approx(expected.loss, abs=0.05)
    assert int8["scores"]["int8"]["loss"] != int8["scores"]["float32"]["loss"]
    assert int8["bytes"]["int8"] < int8["bytes"]["float32"] / 2
    for row, name in zip(printed.splitlines()[len(SIZES) + 2 :], ("float32", "int8"), strict=False):
        score = f"accuracy {100 * int8['scores'][name]['accuracy']:.2f} % over {expected.count} {expected.unit}"
        assert row.startswith(f"{name}: {int8['bytes'][name]:,} bytes, {score}, ") and row.endswith(" ms a text")
    assert check_folder(tmp_path / "onnx")["outputs"][0]["name"] == "logits"


@pytest.mark.parametrize("task", [TEXTS, "token-classification"])
def test_of_a_classifier_the_int8_file_is_near_any_padding(make_small, tmp_path, cell, task):
    projection = {"projection_size": 24} if "projection_size" in cell else {}
    folder = tmp_path / "onnx"
    export_onnx(make_small(task, hidden_size=32, **{**cell, **projection}), folder)
    int8 = quantize_classifier(folder, [[2, 3]], lambda model: {})
    assert int8["float_operators"] == {"lstm": [], "gru": ["GRU"], "rnn": ["RNN"]}[cell["cell_type"]]
    generator, outputs = np.random.default_rng(0), ([], [])
    for batch, sequence in SIZES:
        inputs = {
            "input_ids": generator.integers(0, 10, (batch, sequence)),
            "attention_mask": generator.integers(0, 2, (batch, sequence)),
        }
        for session, logits in zip(sessions_of(folder), outputs, strict=True):
            logits.append(session.run(None, inputs)[0].ravel())
    float32, of_int8 = map(np.concatenate, outputs)
    assert 0 < np.abs(of_int8 - float32).max() <= NEAR * np.ptp(float32)


def test_a_classifier_without_validation_data_is_refused_before_anything_is_written(script, make_small, tmp_path):
    path = make_small(TEXTS)
    test = write_texts(tmp_path / "test.csv", REVIEWS)
    status, printed, errors = script(path, tmp_path / "onnx", "--int8", "--test_file", test)
    assert status == 2 and not printed and "--int8 needs labelled text for validation" in errors
    assert not (tmp_path / "onnx").exists()
