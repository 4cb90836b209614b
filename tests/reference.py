"""The recurrent networks of this package in plain NumPy and float64, forward and backward, from their equations.

The point of this file is to share nothing with the package: no torch, no automatic differentiation, one loop over
time. Gradients are backpropagation through time worked out by hand. With o_t the output of a layer, h_t its state,
and L the loss, each cell follows

    dL/dh_t = dL/do_t do_t/dh_t + dL/dh_{t+1} dh_{t+1}/dh_t

from the last step to the first, and the gradient of a weight is the sum over t of its gradients at each step.

Symbols: W `weight_ih`, U `weight_hh`, b `bias_ih`, d `bias_hh`, P `weight_hr`; x_t the input, s the logistic
function, * the product element by element. Gates are stacked in one matrix in the order in which they are listed.
Arrays are `(B, T, size)` and states `(B, size)`.
"""

from dataclasses import dataclass, field

import numpy as np


Array = np.ndarray

# f and f' of the Elman cell, the derivative as a function of h = f(a).
ACTIVATIONS = {
    "tanh": (np.tanh, lambda h: 1 - h**2),
    "relu": (lambda a: np.maximum(a, 0.0), lambda h: (h > 0).astype(h.dtype)),
    "sigmoid": (lambda a: logistic(a), lambda h: h * (1 - h)),
}


def logistic(a: Array) -> Array:
    """s(a) = 1 / (1 + exp(-a))."""
    return 1 / (1 + np.exp(-a))


class Elman:
    """Simple recurrent network (Elman, 1990).

    h_t = f(W x_t + b + U h_{t-1} + d)
    """

    def __init__(self, activation: str = "tanh"):
        self.function, self.derivative = ACTIVATIONS[activation]

    def forward(self, p: dict, x: Array, h: Array, c: None) -> tuple[Array, None, tuple]:
        after = self.function(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"])
        return after, None, (x, h, after)

    def backward(self, p: dict, saved: tuple, dh: Array, dc: None) -> tuple[Array, Array, None, dict]:
        """With a_t the argument of f: da_t = dh_t * f'(a_t), dx_t = W' da_t, dh_{t-1} = U' da_t."""
        x, h, after = saved
        da = dh * self.derivative(after)
        gradients = {"weight_ih": da.T @ x, "weight_hh": da.T @ h, "bias_ih": da.sum(0), "bias_hh": da.sum(0)}
        return da @ p["weight_ih"], da @ p["weight_hh"], None, gradients


class GRU:
    """Gated recurrent unit (Cho et al., 2014), in cuDNN's variant, which resets after the matrix product.

    r_t = s(W_r x_t + b_r + U_r h_{t-1} + d_r)
    z_t = s(W_z x_t + b_z + U_z h_{t-1} + d_z)
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + d_n))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    """

    def forward(self, p: dict, x: Array, h: Array, c: None) -> tuple[Array, None, tuple]:
        of_input = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=1)
        of_state = np.split(h @ p["weight_hh"].T + p["bias_hh"], 3, axis=1)
        r = logistic(of_input[0] + of_state[0])
        z = logistic(of_input[1] + of_state[1])
        n = np.tanh(of_input[2] + r * of_state[2])
        return (1 - z) * n + z * h, None, (x, h, r, z, n, of_state[2])

    def backward(self, p: dict, saved: tuple, dh: Array, dc: None) -> tuple[Array, Array, None, dict]:
        """With a the arguments of the gates and u_t = U_n h_{t-1} + d_n:

        da_n = dh_t * (1 - z_t) * (1 - n_t^2), da_z = dh_t * (h_{t-1} - n_t) * z_t * (1 - z_t),
        da_r = da_n * u_t * r_t * (1 - r_t), du_t = da_n * r_t.
        The input sees (da_r, da_z, da_n), the state (da_r, da_z, du) and, past the gate, dh_t * z_t.
        """
        x, h, r, z, n, u = saved
        da_n = dh * (1 - z) * (1 - n**2)
        da_z = dh * (h - n) * z * (1 - z)
        da_r = da_n * u * r * (1 - r)
        of_input = np.concatenate([da_r, da_z, da_n], axis=1)
        of_state = np.concatenate([da_r, da_z, da_n * r], axis=1)
        gradients = {
            "weight_ih": of_input.T @ x,
            "weight_hh": of_state.T @ h,
            "bias_ih": of_input.sum(0),
            "bias_hh": of_state.sum(0),
        }
        return of_input @ p["weight_ih"], of_state @ p["weight_hh"] + dh * z, None, gradients


class LSTM:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997) with forget gates (Gers et al., 2000).

    i_t = s(W_i x_t + b_i + U_i h_{t-1} + d_i)
    f_t = s(W_f x_t + b_f + U_f h_{t-1} + d_f)
    g_t = tanh(W_g x_t + b_g + U_g h_{t-1} + d_g)
    o_t = s(W_o x_t + b_o + U_o h_{t-1} + d_o)
    c_t = f_t * c_{t-1} + i_t * g_t
    m_t = o_t * tanh(c_t)
    h_t = m_t, or P m_t with a recurrent projection (Sak et al., 2014)
    """

    def forward(self, p: dict, x: Array, h: Array, c: Array) -> tuple[Array, Array, tuple]:
        arguments = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
        i, f, g, o = np.split(arguments, 4, axis=1)
        i, f, g, o = logistic(i), logistic(f), np.tanh(g), logistic(o)
        after = f * c + i * g
        m = o * np.tanh(after)
        return m @ p["weight_hr"].T if "weight_hr" in p else m, after, (x, h, c, i, f, g, o, after, m)

    def backward(self, p: dict, saved: tuple, dh: Array, dc: Array) -> tuple[Array, Array, Array, dict]:
        """With a the arguments of the gates and dc_t what step t+1 hands back:

        dm_t = dh_t, or P' dh_t; do_t = dm_t * tanh(c_t); dc_t += dm_t * o_t * (1 - tanh(c_t)^2);
        df_t = dc_t * c_{t-1}; di_t = dc_t * g_t; dg_t = dc_t * i_t; dc_{t-1} = dc_t * f_t;
        da = d(gate) * s' for i, f, o and * (1 - g_t^2) for g; dx_t = W' da, dh_{t-1} = U' da.
        """
        x, h, c, i, f, g, o, after, m = saved
        gradients = {}
        if "weight_hr" in p:
            gradients["weight_hr"] = dh.T @ m
            dh = dh @ p["weight_hr"]
        dc = dc + dh * o * (1 - np.tanh(after) ** 2)
        da = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * c * f * (1 - f),
                dc * i * (1 - g**2),
                dh * np.tanh(after) * o * (1 - o),
            ],
            axis=1,
        )
        gradients |= {"weight_ih": da.T @ x, "weight_hh": da.T @ h, "bias_ih": da.sum(0), "bias_hh": da.sum(0)}
        return da @ p["weight_ih"], da @ p["weight_hh"], dc * f, gradients


def make_cell(cell_type: str, activation: str | None = None) -> Elman | GRU | LSTM:
    """The cell that the configuration's `cell_type` and `hidden_act` name."""
    return Elman(activation) if cell_type == "rnn" else {"gru": GRU, "lstm": LSTM}[cell_type]()


@dataclass
class Network:
    """Embedding, layers of one cell, and a linear map to the vocabulary: y_t = V h_t + a.

    With an output projection, y_t = V (Q h_t + q) + a. A bidirectional layer has a second set of parameters, which
    runs over x_T ... x_1, and its output at t is (h_t, k_t): k_t of that run after it has read x_t.

    Attributes:
        cell: Equations of one step.
        embedding: `(vocabulary, embedding size)`.
        layers: Parameters of each layer, first layer first.
        output_bias: a, `(vocabulary,)`.
        output_weight: V, `(vocabulary, output size)`; `None` where V is the embedding (tied weights).
        output_projection: Q, `(width, output size)`, as `weight`, and q, `(width,)`, as `bias`; `None` for none.
        reverse: Parameters of each layer's second direction; `None` for one direction.
    """

    cell: Elman | GRU | LSTM
    embedding: Array
    layers: list[dict[str, Array]]
    output_bias: Array
    output_weight: Array | None = None
    output_projection: dict[str, Array] | None = None
    reverse: list[dict[str, Array]] | None = None
    tapes: list[tuple] = field(default_factory=list, init=False)  # of each layer and direction, what its steps saved

    @property
    def output_matrix(self) -> Array:
        return self.embedding if self.output_weight is None else self.output_weight

    def zero_states(self, batch: int) -> list[tuple[Array, Array | None]]:
        """(h_0, c_0) of each layer; c_0 is `None` but for an LSTM."""
        states = []
        for p in self.layers:
            fed_back = np.zeros((batch, p["weight_hh"].shape[1]))
            memory = np.zeros((batch, p["weight_hh"].shape[0] // 4)) if isinstance(self.cell, LSTM) else None
            states.append((fed_back, memory))
        return states

    def forward(self, ids: Array, states: list[tuple] | None = None) -> tuple[Array, list[tuple]]:
        """Logits `(B, T, vocabulary)` and the state (h_T, c_T) of each layer; layer l+1 reads h_t of layer l."""
        states = self.zero_states(len(ids)) if states is None else states
        outputs, after, self.tapes = self.embedding[ids], [], []
        for index, (p, state) in enumerate(zip(self.layers, states, strict=True)):
            inputs, second = outputs, None
            outputs, state, tape = self._layer_forward(p, inputs, state)
            if self.reverse is not None:
                zeros = self.zero_states(len(ids))[index]
                backward, _, second = self._layer_forward(self.reverse[index], inputs[:, ::-1], zeros)
                outputs = np.concatenate([outputs, backward[:, ::-1]], axis=2)
            after.append(state)
            self.tapes.append((tape, second))
        self.ids, self.outputs, self.projected = ids, outputs, outputs
        if self.output_projection is not None:
            self.projected = outputs @ self.output_projection["weight"].T + self.output_projection["bias"]
        return self.projected @ self.output_matrix.T + self.output_bias, after

    def _layer_forward(self, p: dict, inputs: Array, state: tuple) -> tuple[Array, tuple, list[tuple]]:
        """Outputs of one layer in one direction, the state after them, and what its steps saved."""
        (h, c), steps, tape = state, [], []
        for t in range(inputs.shape[1]):
            h, c, saved = self.cell.forward(p, inputs[:, t], h, c)
            tape.append(saved)
            steps.append(h)
        return np.stack(steps, axis=1), (h, c), tape

    def backward(self, dlogits: Array) -> dict:
        """Gradients of the last `forward`, given that of the logits.

        With y_t = V h_t + a: dV = sum of dy_t h_t', da = sum of dy_t, dL/do_t = V' dy_t. The embedding's row of a
        word collects dx_t wherever the word stands; where V is the embedding, dV adds to it. With p_t = Q h_t + q in
        the place of h_t: dp_t = V' dy_t, dQ = sum of dp_t h_t', dq = sum of dp_t, dL/do_t = Q' dp_t.

        Returns:
            A dictionary of the attributes' names, with `layers` and `reverse` lists of dictionaries, and `states` a
            list of (dh_0, dc_0).
        """
        doutput = np.einsum("btv,btp->vp", dlogits, self.projected)
        dbias = dlogits.sum((0, 1))
        dh_of_output, dprojection = dlogits @ self.output_matrix, None
        if self.output_projection is not None:
            of_weight = np.einsum("btp,bth->ph", dh_of_output, self.outputs)
            dprojection = {"weight": of_weight, "bias": dh_of_output.sum((0, 1))}
            dh_of_output = dh_of_output @ self.output_projection["weight"]
        layer_gradients, state_gradients, reverse_gradients = [], [], []
        for index in reversed(range(len(self.layers))):
            tape, second = self.tapes[index]
            if self.reverse is not None:
                dh_of_output, dk_of_output = np.split(dh_of_output, 2, axis=2)
                dk_of_output, gradients, _ = self._layer_backward(self.reverse[index], second, dk_of_output[:, ::-1])
                reverse_gradients.insert(0, gradients)
            dh_of_output, gradients, dstate = self._layer_backward(self.layers[index], tape, dh_of_output)
            if self.reverse is not None:
                dh_of_output = dh_of_output + dk_of_output[:, ::-1]
            layer_gradients.insert(0, gradients)
            state_gradients.insert(0, dstate)
        dembedding = np.zeros_like(self.embedding)
        np.add.at(dembedding, self.ids, dh_of_output)
        tied = self.output_weight is None
        return {
            "embedding": dembedding + doutput if tied else dembedding,
            "output_weight": None if tied else doutput,
            "output_bias": dbias,
            "output_projection": dprojection,
            "layers": layer_gradients,
            "reverse": reverse_gradients,
            "states": state_gradients,
        }

    def _layer_backward(self, p: dict, tape: list[tuple], doutputs: Array) -> tuple[Array, dict, tuple]:
        """Backpropagation through time: what step t+1 hands back adds to what the output at t receives."""
        gradients = {name: np.zeros_like(value) for name, value in p.items()}
        dh = np.zeros_like(doutputs[:, 0])
        dc = np.zeros((len(dh), p["weight_hh"].shape[0] // 4)) if isinstance(self.cell, LSTM) else None
        dinputs = []
        for t in reversed(range(len(tape))):
            dx, dh, dc, of_step = self.cell.backward(p, tape[t], doutputs[:, t] + dh, dc)
            dinputs.insert(0, dx)
            for name, value in of_step.items():
                gradients[name] += value
        return np.stack(dinputs, axis=1), gradients, (dh, dc)


def from_parameters(
    arrays: dict[str, Array], cell_type: str, activation: str | None = None, head: str = "lm_head"
) -> Network:
    """A network from the parameters of a package model, under their names there; `head` is the linear layer's."""

    def of_direction(name: str) -> list[dict[str, Array]]:
        layers: list[dict] = []
        while True:
            prefix = f"model.layers.{len(layers)}.{name}."
            layer = {key[len(prefix) : -len("_l0")]: value for key, value in arrays.items() if key.startswith(prefix)}
            if not layer:
                return layers
            layers.append(layer)

    projection = {name: arrays.get(f"output_projection.{name}") for name in ("weight", "bias")}
    return Network(
        cell=make_cell(cell_type, activation),
        embedding=arrays["model.embed_tokens.weight"],
        layers=of_direction("rnn"),
        output_bias=arrays[f"{head}.bias"],
        output_weight=arrays.get(f"{head}.weight"),
        output_projection=None if projection["weight"] is None else projection,
        reverse=of_direction("reverse") or None,
    )


def by_parameter(gradients: dict, head: str = "lm_head") -> dict[str, Array]:
    """What `Network.backward` returns, under the names of the package's parameters."""
    named = {"model.embed_tokens.weight": gradients["embedding"], f"{head}.bias": gradients["output_bias"]}
    if gradients["output_weight"] is not None:
        named[f"{head}.weight"] = gradients["output_weight"]
    for name, value in (gradients["output_projection"] or {}).items():
        named[f"output_projection.{name}"] = value
    for direction, layers in (("rnn", gradients["layers"]), ("reverse", gradients["reverse"])):
        for index, of_layer in enumerate(layers):
            named |= {f"model.layers.{index}.{direction}.{name}_l0": value for name, value in of_layer.items()}
    return named


def cross_entropy(logits: Array, targets: Array, ignored: int = -100) -> tuple[float, Array]:
    """Mean negative log-likelihood in nats over the targets that are not `ignored`, and its gradient.

    L = -1/N sum of log softmax(y_t)[target_t], dL/dy_t = (softmax(y_t) - onehot(target_t)) / N
    """
    counted = targets != ignored
    shifted = logits - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    index = np.where(counted, targets, 0)[..., None]
    picked = np.take_along_axis(log_probabilities, index, -1)[..., 0]
    dlogits = np.exp(log_probabilities)
    np.put_along_axis(dlogits, index, np.take_along_axis(dlogits, index, -1) - 1, -1)
    return -picked[counted].sum() / counted.sum(), dlogits * counted[..., None] / counted.sum()
