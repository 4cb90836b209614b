"""Variables of TensorFlow 1, against its cells' equations in NumPy."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from rnn_hf.conversion import convert
from rnn_hf.errors import InputError


V, E, H = 11, 3, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run(kernel, bias, inputs, forget_bias, projection=None):
    """BasicLSTMCell: one product of input and state, gates i j f o, and a number added to the forget gate."""
    size = kernel.shape[1] // 4
    h, c, outputs = np.zeros(size if projection is None else projection.shape[1]), np.zeros(size), []
    for x in inputs:
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = c * sigmoid(f + forget_bias) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        h = h if projection is None else h @ projection
        outputs.append(h)
    return np.stack(outputs)


def variables(projected=0):
    generator = np.random.default_rng(0)
    made = {"Model/embedding": (V, E), "Model/softmax_w": (projected or H, V), "Model/softmax_b": (V,)}
    for index in range(2):
        cell = f"Model/RNN/multi_rnn_cell/cell_{index}/basic_lstm_cell"
        width = (E if index == 0 else projected or H) + (projected or H)
        made |= {f"{cell}/kernel": (width, 4 * H), f"{cell}/bias": (4 * H,)}
        made |= {f"{cell}/projection/kernel": (H, projected)} if projected else {}
    return {name: generator.uniform(-0.8, 0.8, shape).astype("float32") for name, shape in made.items()}


def logits_of(arrays, ids, forget_bias):
    outputs = arrays["Model/embedding"][ids].astype("float64")
    for index in range(2):
        cell = f"Model/RNN/multi_rnn_cell/cell_{index}/basic_lstm_cell"
        projection = arrays.get(f"{cell}/projection/kernel")
        outputs = run(arrays[f"{cell}/kernel"], arrays[f"{cell}/bias"], outputs, forget_bias, projection)
    return outputs @ arrays["Model/softmax_w"] + arrays["Model/softmax_b"]


@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
@pytest.mark.parametrize("projected", [0, 4])
def test_variables_give_the_logits_of_the_equations(tmp_path, projected, forget_bias):
    arrays = variables(projected)
    extra = {"global_step": np.array(7), "Model/softmax_w/Adam": arrays["Model/softmax_w"]}
    np.savez(tmp_path / "ptb.npz", **arrays, **extra)
    done = convert(tmp_path / "ptb.npz", tmp_path / "out", forget_bias=forget_bias)
    assert done.format == "tf1" and done.difference < 1e-12 and len(done.dropped) == 2
    ids = np.random.default_rng(1).integers(V, size=13)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = logits_of(arrays, ids, forget_bias)
    logits = model(torch.from_numpy(ids)[None]).logits[0].detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6)
    exact = model.double()(torch.from_numpy(ids)[None]).logits[0].detach().numpy()
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-12)


def test_elman_cells_and_a_backbone(tmp_path):
    arrays = {
        "rnn/basic_rnn_cell/kernel:0": np.ones((E + H, H), "float32") / 4,
        "rnn/basic_rnn_cell/bias:0": np.ones(H, "float32"),
    }
    np.savez(tmp_path / "a.npz", **arrays, table=np.ones((V, E), "float32"), other=np.ones((2, 2), "float32"))
    with pytest.raises(InputError, match=r"other \[2, 2\]; `backbone=True`"):
        convert(tmp_path / "a.npz", tmp_path / "out")
    convert(tmp_path / "a.npz", tmp_path / "out", backbone=True)
    got = AutoModel.from_pretrained(tmp_path / "out")(torch.tensor([[1, 2]])).last_hidden_state[0].detach().numpy()
    h = np.zeros(H)
    for step in got:
        h = np.tanh(np.concatenate([np.ones(E), h]) @ arrays["rnn/basic_rnn_cell/kernel:0"] + 1)
        np.testing.assert_allclose(step, h, atol=1e-6)


@pytest.mark.parametrize(
    "extra, options, words",
    [
        ({}, {}, "give `forget_bias`"),
        (
            {"a/gru_cell/gates/kernel": (8, 10), "a/gru_cell/candidate/kernel": (8, 5)},
            {"forget_bias": 1.0},
            "GRUCell resets",
        ),
        ({"Model/RNN/multi_rnn_cell/cell_0/basic_lstm_cell/w_f_diag": (5,)}, {"forget_bias": 1.0}, "peepholes"),
        ({"Model/other": (V, E)}, {"forget_bias": 1.0}, "name it by `embedding`"),
    ],
)
def test_what_is_not_converted_is_said(tmp_path, extra, options, words):
    arrays = variables() | {name: np.ones(shape, "float32") for name, shape in extra.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=words):
        convert(tmp_path / "a.npz", tmp_path / "out", **options)
