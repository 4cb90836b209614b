"""A network that writes a text from another one, in NumPy and float64, one token at a time, from its equations."""

import numpy as np
import reference


class Equations:
    """The network by its equations, for one source and one target at a time, step by step."""

    def __init__(self, model):
        self.config = model.config
        self.weights = {name: value.numpy() for name, value in model.state_dict().items()}
        self.cell = reference.make_cell(model.config.cell_type, model.config.hidden_act)

    def linear(self, name: str, inputs: np.ndarray) -> np.ndarray:
        outputs = inputs @ self.weights[f"{name}.weight"].T
        return outputs + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else outputs

    def step(self, layer: str, inputs: np.ndarray, state: tuple) -> tuple:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        parts = {name: self.weights[f"{layer}.{name}_l0"] for name in names}
        hidden, cell, _ = self.cell.forward(parts, inputs[None], *state)
        return hidden[0], (hidden, cell)

    def zeros(self, width: int) -> tuple:
        return np.zeros((1, width)), np.zeros((1, width)) if self.config.cell_type == "lstm" else None

    def adds(self, index: int) -> bool:
        return self.config.residual_from is not None and index >= self.config.residual_from

    def read(self, ids: list[int]) -> tuple[np.ndarray, list]:
        """Outputs of the encoder and, of one direction, the state of each layer."""
        rows, states = self.weights["model.encoder.embed_tokens.weight"][ids], []
        for index, (_, width) in enumerate(self.config.encoder_layer_sizes):
            sides = {"rnn": rows}
            if self.config.bidirectional_encoder:
                sides["reverse"] = rows[::-1]
            found = []
            for name, inputs in sides.items():
                state, outputs = self.zeros(width), []
                for row in inputs:
                    output, state = self.step(f"model.encoder.layers.{index}.{name}", row, state)
                    outputs.append(output)
                found.append(np.stack(outputs[::-1] if name == "reverse" else outputs))
            states.append(state)
            rows = np.concatenate(found, axis=1) + (rows if self.adds(index) else 0)
        return rows, states

    def begin(self, memory: np.ndarray, states: list) -> list:
        config, depth = self.config, self.config.num_decoder_layers
        if config.bridge == "identity":
            return states
        if config.bridge == "zero":
            return [self.zeros(config.hidden_size) for _ in range(depth)]
        half = config.hidden_size // config.num_directions
        summary = memory.mean(axis=0)
        if config.bridge == "linear":
            summary = np.concatenate([memory[-1, :half], memory[0, half:]])
        parts = np.split(
            np.tanh(self.linear("model.decoder.bridge", summary)), depth * (1 + (config.cell_type == "lstm"))
        )
        parts = [part[None] for part in parts]
        cells = [None] * depth
        if config.cell_type == "lstm":
            parts, cells = parts[::2], parts[1::2]
        return list(zip(parts, cells, strict=True))

    def attend(self, query: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is found, and the weights of each head."""
        config, place = self.config, "model.decoder.attention"
        keys = memory if config.attention == "dot" else self.linear(f"{place}.k_proj", memory)
        if config.attention == "additive":
            scores = self.linear(f"{place}.score", np.tanh(keys + self.linear(f"{place}.q_proj", query)))[:, 0][None]
        elif config.attention == "multihead":
            size = config.attention_size // config.attention_heads
            query, memory = self.linear(f"{place}.q_proj", query), self.linear(f"{place}.v_proj", memory)
            heads = [slice(start, start + size) for start in range(0, config.attention_size, size)]
            scores = np.stack([keys[:, head] @ query[head] / size**0.5 for head in heads])
        else:
            scores = (keys @ query)[None]
        weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        if config.attention == "multihead":
            return np.concatenate([row @ memory[:, head] for row, head in zip(weights, heads, strict=True)]), weights
        return weights[0] @ memory, weights

    def logits(self, source: list[int], target: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """For each token of the target, and the weights of attention, `(heads, T, S)`."""
        config, (memory, states) = self.config, self.read(source)
        states, seen, logits, looked = self.begin(memory, states), np.zeros(config.readout_size or 0), [], []
        for token in target:
            row = self.weights["model.decoder.embed_tokens.weight"][token]
            row = np.concatenate([row, seen]) if config.input_feeding else row
            found, above = np.zeros(0), None
            for index in range(config.num_decoder_layers):
                inputs = np.concatenate([row, found]) if config.deep_fusion else row
                above, states[index] = self.step(f"model.decoder.layers.{index}.rnn", inputs, states[index])
                row = above + (row if self.adds(index) else 0)
                if config.deep_fusion and index == 0:
                    found, weights = self.attend(row, memory)
            if config.attention is not None:
                if not config.deep_fusion:
                    found, weights = self.attend(row, memory)
                row = seen = np.tanh(self.linear("model.decoder.readout", np.concatenate([row, found])))
                looked.append(weights)
            logits.append(self.linear("lm_head", row))
        return np.stack(logits), np.stack(looked, axis=1) if looked else None
