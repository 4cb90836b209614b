"""The ONNX graph: PyTorch's numbers at any size and from any state, by operators that runtimes have."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

from rnn_hf import RNNCache, RNNModel, __version__
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx import graph as onnx_graph
from rnn_hf.onnx.graph import build_graph, interface_of, untie


HEADS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "last": {"tie_word_embeddings": False, "last_hidden_size": 4},
    "projection": {"output_projection_size": 3},
    "projection-untied-last": {"output_projection_size": 2, "tie_word_embeddings": False, "last_hidden_size": 4},
    "mixture": {"num_softmaxes": 3},
    "mixture-untied-last": {"num_softmaxes": 2, "tie_word_embeddings": False, "last_hidden_size": 4},
    "mixture-tied-last": {"num_softmaxes": 2, "last_hidden_size": 6},
}
SIZES = [(1, 1), (2, 7), (5, 3), (1, 40)]

# From docs/operators.md of onnx/onnx-tensorrt at TensorRT 10.0: each of these takes FP32, opset 9 to 20. Restrictions
# there that touch us: LSTM needs `layout` 0 and `input_forget` 0; Squeeze, ReduceSum need `axes` as an initializer,
# Unsqueeze as a constant. Scan (projections alone) is listed without any. Gather, Transpose and Reshape take INT64.
TENSORRT = {
    "Add", "Exp", "GRU", "Gather", "Identity", "LSTM", "Log", "LogSoftmax", "MatMul", "Mul", "RNN", "ReduceMax",
    "ReduceSum", "Reshape", "Scan", "Sigmoid", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip
AXES_ARE_WEIGHTS = {"Squeeze", "Unsqueeze", "ReduceSum"}


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def head(request, cell):
    is_projected = "projection_size" in cell  # which is the width of every output
    return {name: value for name, value in request.param.items() if not (is_projected and name == "last_hidden_size")}


@pytest.fixture(scope="module")
def make(make_model):
    def make(cell, **fields):
        return make_model(cell, dtype=torch.float32, **fields)

    return make


def session_of(proto):
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def random_inputs(model, batch, time, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {"input_ids": torch.randint(model.config.vocab_size, (batch, time), generator=generator)}
    for state in interface_of(model.config, False)["inputs"][1:]:
        inputs[state["name"]] = torch.randn(batch, state["shape"][1], generator=generator)
    return inputs


def by_torch(model, inputs):
    """Logits and state in the order of the graph's outputs."""
    state = RNNCache(model.config)
    for index, layer in enumerate(state.layers):
        layer.lazy_initialization(inputs[f"past.{index}.hidden"], inputs.get(f"past.{index}.cell"))
    with torch.no_grad():
        outputs = model(inputs["input_ids"], cache=state)
    states = [part for layer in outputs.cache.layers for part in (layer.keys, layer.values)]
    return [tensor.numpy() for tensor in (outputs.logits, *states) if tensor is not None]


def by_onnx(session, inputs):
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def nodes_of(graph):
    """Each node of a graph, those of inner graphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def assert_equal(actual, expected, scale=1.0):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * scale, rtol=1e-5)


def test_the_graph_has_pytorchs_logits_and_states_at_any_size_and_from_any_state(make, cell, head):
    model = make(cell, **head)
    session, last = session_of(build_graph(model)), session_of(build_graph(model, last_logits_only=True))
    for batch, time in SIZES:
        inputs = random_inputs(model, batch, time)
        expected = by_torch(model, inputs)
        assert_equal(by_onnx(session, inputs), expected)
        expected[0] = expected[0][:, -1:]
        assert_equal(by_onnx(last, inputs), expected)


@given(cuts=st.sets(st.integers(1, 11), max_size=4), seed=st.integers(0, 9))
def test_any_split_of_a_sequence_gives_what_the_whole_gives(make, cell, cuts, seed):
    model = make(cell)
    session = session_of(build_graph(model))
    inputs = random_inputs(model, 2, 12, seed)
    whole, state = by_onnx(session, inputs), dict(inputs)
    logits = []
    for part in inputs["input_ids"].tensor_split(sorted(cuts), dim=1):
        state["input_ids"] = part
        outputs = by_onnx(session, state)
        logits.append(outputs[0])
        state = dict(zip(inputs, [part, *map(torch.from_numpy, outputs[1:])], strict=True))
    assert_equal([np.concatenate(logits, axis=1), *outputs[1:]], whole)


def test_zeros_are_the_empty_state(make, cell):
    model = make(cell)
    inputs = random_inputs(model, 2, 3)
    inputs |= {name: torch.zeros_like(tensor) for name, tensor in inputs.items() if name != "input_ids"}
    with torch.no_grad():
        assert_equal(by_onnx(session_of(build_graph(model)), inputs)[:1], [model(inputs["input_ids"]).logits])


def test_a_graph_does_not_depend_on_those_built_before(make, cell):
    model = make(cell)
    first = build_graph(model).SerializeToString(deterministic=True)
    build_graph(make({"cell_type": "gru"}, num_hidden_layers=3), last_logits_only=True)
    assert build_graph(model).SerializeToString(deterministic=True) == first


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_every_type_are_float32_in_the_file(make_model, cell, dtype):
    model = make_model(cell, dtype=dtype)
    weights, expected = build_graph(model).graph.initializer, build_graph(model.float()).graph.initializer
    assert {weight.data_type for weight in weights} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    for weight, other in zip(weights, expected, strict=True):
        assert np.array_equal(numpy_helper.to_array(weight), numpy_helper.to_array(other))


def test_a_mixture_is_exact_where_every_softmax_is_far_from_a_word(make):
    model = make({"cell_type": "gru"}, num_softmaxes=2)
    model.lm_head.bias.data[0] = -500
    inputs = random_inputs(model, 2, 3)
    (logits, *_), (expected, *_) = by_onnx(session_of(build_graph(model)), inputs), by_torch(model, inputs)
    assert (expected[..., 0] < -400).all()
    assert_equal([logits], [expected])


def test_operators_are_those_that_tensorrt_documents_within_its_restrictions(make, cell, head):
    for last_logits_only in (False, True):
        proto = build_graph(make(cell, **head), last_logits_only)
        assert [(opset.domain, 9 <= opset.version <= 20) for opset in proto.opset_import] == [("", True)]
        nodes = list(nodes_of(proto.graph))
        assert {node.op_type for node in nodes} <= TENSORRT
        assert ("Scan" in {node.op_type for node in nodes}) == bool(cell.get("projection_size"))
        weights = {weight.name for weight in proto.graph.initializer}
        for node in nodes:
            assert not {attribute.name for attribute in node.attribute} & {"layout", "input_forget", "direction"}
            if node.op_type in AXES_ARE_WEIGHTS:
                assert node.input[1] in weights
            if node.op_type in ("LSTM", "GRU", "RNN"):
                assert set(node.input[1:4]) <= weights and not node.input[4]


def test_names_shapes_and_types_in_the_metadata_are_the_sessions_own(make, cell):
    model = make(cell)
    for last_logits_only in (False, True):
        session = session_of(build_graph(model, last_logits_only))
        metadata = session.get_modelmeta().custom_metadata_map
        assert metadata.pop("logits") == ("last" if last_logits_only else "all")
        types = {"tensor(int64)": "int64", "tensor(float)": "float32"}
        real = {
            side: [{"name": value.name, "shape": value.shape, "dtype": types[value.type]} for value in values]
            for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
        }
        assert json.loads(metadata.pop("interface")) == real
        assert metadata == {"rnn_hf_version": __version__, "identity": identity_of(model)}
        parts = ["hidden", "cell"] if cell["cell_type"] == "lstm" else ["hidden"]
        names = [f"{index}.{part}" for index in range(2) for part in parts]
        assert [value["name"] for value in real["inputs"]] == ["input_ids", *(f"past.{name}" for name in names)]
        assert [value["name"] for value in real["outputs"]] == ["logits", *(f"present.{name}" for name in names)]


def test_a_tied_matrix_is_stored_once_and_one_that_is_stored_twice_for_quantisation_gives_the_same(make, tmp_path):
    model = make({"cell_type": "lstm"}, vocab_size=500, embedding_size=64)
    proto = build_graph(model)
    assert len(proto.SerializeToString()) < 4 * sum(p.numel() for p in model.parameters()) + 5000
    inputs = random_inputs(model, 2, 3)
    expected = by_onnx(session_of(proto), inputs)
    untie(proto)
    assert all(np.array_equal(*pair) for pair in zip(by_onnx(session_of(proto), inputs), expected, strict=True))
    onnx.save(proto, tmp_path / "model.onnx")
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "int8.onnx", per_channel=True)
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"DynamicQuantizeLSTM", "MatMulInteger"} <= operators and not {"LSTM", "MatMul"} & operators


def test_what_no_file_can_hold_is_refused(make, monkeypatch):
    model = make({"cell_type": "gru"})
    monkeypatch.setattr(onnx_graph, "LARGEST_FILE", 4 * model.num_parameters() - 1)
    with pytest.raises(ValueError, match=f"the weights take {4 * model.num_parameters():,} bytes.*at most 2 GB"):
        build_graph(model)
    monkeypatch.setattr(onnx_graph, "LARGEST_FILE", 4 * model.num_parameters())
    build_graph(model)


def test_a_backbone_is_refused(make):
    with pytest.raises(ValueError, match="`model` must be a language model of this package, not RNNModel"):
        build_graph(make({"cell_type": "gru"}, model_class=RNNModel))


def test_a_language_model_that_reads_backward_is_refused(make):
    with pytest.raises(ValueError, match="an ONNX file needs a language model that reads forward"):
        build_graph(make({"cell_type": "gru"}, reads_backward=True))


def test_without_onnx_the_extra_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'rnn_hf\[onnx\]'"):
        build_graph(make({"cell_type": "gru"}))
