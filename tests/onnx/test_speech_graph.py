"""The ONNX graphs of a recognizer: PyTorch's numbers for whole recordings, padded, and for pieces with the state."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_graph import TENSORRT, nodes_of

from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM, RNNForCTC, RNNSpeechConfig
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx.speech_graph import build_speech_graph, build_stream_graph


BINS, STACK, BLANK = 4, 3, 2
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
BUILDERS = pytest.mark.parametrize("build", [build_speech_graph, build_stream_graph], ids=["whole", "stream"])
# Frames, and how many of them are real in each row: steps that a row or nobody fills, rows without a step.
BATCHES = [(1, [1]), (3, [3]), (12, [12, 11, 7, 3, 2, 0]), (10, [9]), (2, [2, 1]), (100, [4, 100])]


@pytest.fixture(scope="module")
def make():
    """`make(cell, **fields)`: a tiny recognizer in evaluation mode with every parameter random, float32."""

    def build(cell, dtype=torch.float32, **fields):
        sizes = {"vocab_size": 6, "embedding_size": 3, "hidden_size": 5, "num_mel_bins": BINS, "frame_stack": STACK}
        model = RNNForCTC(RNNSpeechConfig(**{**sizes, "pad_token_id": BLANK, **cell, **fields})).to(dtype).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.empty_like(parameter).uniform_(-0.8, 0.8, generator=generator))
        return model

    return build


def session_of(proto):
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def some_frames(batch, time, seed=0):
    return torch.randn(batch, time, BINS, generator=torch.Generator().manual_seed(seed))


def padded(time, lengths):
    """Frames and mask; what stands at padding is no number."""
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    return some_frames(len(lengths), time).masked_fill(~mask[..., None], torch.nan), mask.long()


def by_onnx(session, features, mask):
    return session.run(None, {"input_features": features.numpy(), "attention_mask": mask.numpy()})[0]


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


@DIRECTIONS
@pytest.mark.parametrize("stack", [1, STACK])
def test_whole_recordings_have_pytorchs_logits_with_those_of_a_certain_blank_at_padding(
    make, cell, bidirectional, stack
):
    model = make(cell, bidirectional=bidirectional, frame_stack=stack)
    session = session_of(build_speech_graph(model))
    for time, lengths in BATCHES:
        features, mask = padded(time, lengths)
        with torch.no_grad():
            expected = model(features, mask).logits.numpy()
        logits = by_onnx(session, features, mask)
        assert_near(logits, expected)
        for row, length in zip(logits, lengths, strict=True):
            behind = row[length // stack :]
            assert (behind.argmax(axis=1) == BLANK).all() and (np.delete(behind, BLANK, axis=1) < -1e38).all()


@DIRECTIONS
def test_a_row_has_the_logits_of_its_recording_alone(make, cell, bidirectional):
    session = session_of(build_speech_graph(make(cell, bidirectional=bidirectional)))
    for time, lengths in BATCHES:
        features, mask = padded(time, lengths)
        for row, logits, length in zip(features, by_onnx(session, features, mask), lengths, strict=True):
            if length:
                alone = by_onnx(session, row[None, :length], torch.ones(1, length, dtype=torch.long))[0]
                assert_near(logits[: length // STACK], alone)


def start_of(session, batch):
    """Zeros for each part of the state."""
    return {value.name: np.zeros((batch, value.shape[1]), np.float32) for value in session.get_inputs()[1:]}


@pytest.mark.parametrize("batch", [1, 3])
def test_a_piece_from_any_state_has_pytorchs_logits_and_state(make, cell, batch):
    model = make(cell)
    session, generator = session_of(build_stream_graph(model)), torch.Generator().manual_seed(1)
    for steps in (1, 2, 30):
        features, state = some_frames(batch, STACK * steps), RNNCache(model.config)
        zeros = start_of(session, batch)
        given = {name: torch.randn(zero.shape, generator=generator) for name, zero in zeros.items()}
        for index, layer in enumerate(state.layers):
            layer.lazy_initialization(given[f"past.{index}.hidden"], given.get(f"past.{index}.cell"))
        with torch.no_grad():
            outputs = model(features, cache=state)
        parts = [part for layer in outputs.cache.layers for part in (layer.keys, layer.values) if part is not None]
        inputs = {"input_features": features} | given
        actual = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        for one, expected in zip(actual, [outputs.logits, *parts], strict=True):
            assert_near(one, expected.numpy())


def test_any_pieces_give_what_the_whole_graph_and_pytorch_give(make, cell):
    model, features = make(cell), some_frames(2, 12 * STACK)
    whole = by_onnx(session_of(build_speech_graph(model)), features, torch.ones(2, 12 * STACK, dtype=torch.long))
    with torch.no_grad():
        assert_near(whole, model(features).logits.numpy())
    stream = session_of(build_stream_graph(model))
    for cuts in ((), (1,), (5,), (2, 3, 9), range(1, 12)):
        logits, state = [], start_of(stream, 2)
        for piece in np.split(features.numpy(), [STACK * cut for cut in cuts], axis=1):
            outputs = stream.run(None, {"input_features": piece, **state})
            logits.append(outputs[0])
            state = dict(zip(state, outputs[1:], strict=True))
        assert_near(np.concatenate(logits, axis=1), whole)


def test_frames_that_fill_no_step_are_refused_by_the_streaming_graph(make):
    session = session_of(build_stream_graph(make({"cell_type": "gru"})))
    for batch, time in ((1, STACK - 1), (STACK, STACK + 1)):
        inputs = {"input_features": some_frames(batch, time).numpy(), **start_of(session, batch)}
        with pytest.raises(Exception, match="(?i)reshape"):
            session.run(None, inputs)


def test_a_network_in_both_directions_has_no_streaming_graph(make):
    with pytest.raises(ValueError, match="a streaming graph is not for a network with `bidirectional=True`"):
        build_stream_graph(make({"cell_type": "gru"}, bidirectional=True))


@BUILDERS
def test_what_is_no_recognizer_is_refused(build):
    model = RNNForCausalLM(RNNConfig(vocab_size=11, hidden_size=4))
    with pytest.raises(ValueError, match="`model` must be a recognizer of speech of this package, not RNNForCausalLM"):
        build(model)


@BUILDERS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_every_type_are_float32_in_the_file(make, cell, build, dtype):
    model = make(cell, dtype)
    weights, expected = (build(each).graph.initializer for each in (model, model.float()))
    assert {weight.data_type for weight in weights} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert [weight.SerializeToString() for weight in weights] == [other.SerializeToString() for other in expected]


@BUILDERS
def test_names_shapes_and_types_in_the_metadata_are_the_sessions_own(make, cell, build):
    model = make(cell)
    session = session_of(build(model))
    metadata = session.get_modelmeta().custom_metadata_map
    types = {"tensor(int64)": "int64", "tensor(float)": "float32"}
    real = {
        side: [{"name": value.name, "shape": value.shape, "dtype": types[value.type]} for value in values]
        for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
    }
    assert json.loads(metadata["interface"]) == real and metadata["identity"] == identity_of(model)
    assert metadata["task"] == "automatic-speech-recognition" and metadata["frame_stack"] == str(STACK)
    assert real["inputs"][0] == {"name": "input_features", "shape": ["batch", "frames", BINS], "dtype": "float32"}
    assert real["outputs"][0] == {"name": "logits", "shape": ["batch", "steps", 6], "dtype": "float32"}


def test_operators_of_the_streaming_graph_are_those_that_tensorrt_documents(make, cell):
    nodes = list(nodes_of(build_stream_graph(make(cell)).graph))
    assert {node.op_type for node in nodes} <= TENSORRT
    for node in nodes:
        assert not {attribute.name for attribute in node.attribute} & {"layout", "input_forget", "direction"}
