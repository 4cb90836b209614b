"""ONNX Runtime: the module, its providers by name, and sessions on exported files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput

from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.onnx.graph import import_onnx


# ONNX Runtime's name of each provider, and the package that brings it.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu, and TensorRT"),
}
# Releases whose products of 8-bit matrices are wrong in some rows, on several threads of a CPU with AMX. Measured with
# 1.20.0, 1.21.1, 1.22.1, 1.23.2, 1.24.1 and 1.25.0; microsoft/onnxruntime issue 26324 reports it of 1.23.1.
WRONG_INT8 = re.compile(r"1\.2[1-4]\.")


def import_onnxruntime() -> Any:
    """The module `onnxruntime`.

    Raises:
        MissingPackageError: It is not installed; the message names the extra.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("running ONNX files needs onnxruntime: pip install 'rnn_hf[onnx]'") from error
    return onnxruntime


def check_provider(provider: str) -> None:
    """Refuse a provider that this installation has not.

    Raises:
        InputError: The message says which there are, and what brings the one asked for.
    """
    if provider not in PROVIDERS:
        raise InputError(f"`provider` must be one of {', '.join(PROVIDERS)}, got {provider!r}")
    there, (needed, package) = import_onnxruntime().get_available_providers(), PROVIDERS[provider]
    if needed not in there:
        raise InputError(
            f"`provider` {provider!r} is not there: this onnxruntime has {', '.join(there)}. Install {package} "
            "in place of onnxruntime"
        )


def open_session(graph: str | bytes, provider: str, threads: int) -> Any:
    """An ONNX Runtime session on a file or its content.

    Raises:
        MissingPackageError: The file is in 8 bits, and this release of ONNX Runtime computes these wrongly.
        OSError: It is no graph that ONNX Runtime can load.
        InputError: The provider is installed and does not start.
    """
    onnxruntime = import_onnxruntime()
    wanted = PROVIDERS[provider][0]
    if WRONG_INT8.match(onnxruntime.__version__):
        content = graph if isinstance(graph, bytes) else Path(graph).read_bytes() if Path(graph).is_file() else b""
        if b"MatMulInteger" in content or b"DynamicQuantizeLSTM" in content:
            raise MissingPackageError(
                f"onnxruntime {onnxruntime.__version__} multiplies 8-bit matrices wrongly on some CPUs: install 1.25 "
                "or later, or 1.20, or take the float32 file"
            )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its idle threads would wait by spinning, on the cores of whoever runs next: PyTorch, which chooses the token.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What a provider does not take goes to the next.
    fallback = ["CUDAExecutionProvider"] * (provider == "tensorrt") + ["CPUExecutionProvider"] * (provider != "cpu")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[wanted, *fallback])
    except Exception as error:  # ONNX Runtime's own, one class a status, without a common base
        raise OSError(f"{graph if isinstance(graph, str) else 'the graph'} does not load: {error}") from error
    if wanted not in session.get_providers():
        raise InputError(f"`provider` {provider!r} did not start; ONNX Runtime has said above what it lacks")
    return session


class RNNONNXClassifier(torch.nn.Module):
    """An exported classifier, called as the model in PyTorch that it was made of, for what scores that."""

    device = torch.device("cpu")

    def __init__(self, path: str, threads: int):
        """Errors as of `open_session`."""
        super().__init__()
        self.session = open_session(path, "cpu", threads)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """The logits of ids `(B, T)` with a mask `(B, T)`, int64."""
        return SequenceClassifierOutput(logits=run(self.session, input_ids=input_ids, attention_mask=attention_mask))


class RNNONNXRecognizer(torch.nn.Module):
    """An exported recognizer of whole recordings, called as the model in PyTorch, for what scores that."""

    device = torch.device("cpu")

    def __init__(self, path: str, threads: int):
        """Errors as of `open_session`."""
        super().__init__()
        self.session = open_session(path, "cpu", threads)
        self.frame_stack = int(self.session.get_modelmeta().custom_metadata_map["frame_stack"])

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> CausalLMOutput:
        """The logits of features `(B, T, bands)`, float32, with a mask `(B, T)`, int64."""
        return CausalLMOutput(logits=run(self.session, input_features=input_features, attention_mask=attention_mask))

    def _get_feat_extract_output_lengths(self, input_lengths: int) -> int:
        """How many steps so many frames give."""
        return input_lengths // self.frame_stack


class RNNONNXTranslator:
    """An exported network that translates: greedy search for one source at a time.

    Args:
        encoder, decoder: Paths of its two files.
        config: Its configuration, as `config.json` has it.
        max_length: Most tokens of a translation, with the start token.

    Raises:
        OSError, MissingPackageError: As `open_session`.
    """

    def __init__(self, encoder: str, decoder: str, config: dict[str, Any], max_length: int):
        self.encoder, self.decoder = (open_session(path, "cpu", 1) for path in (encoder, decoder))
        ends = config["eos_token_id"]
        self.start, self.ends = config["decoder_start_token_id"], ends if isinstance(ends, list) else [ends]
        self.max_length = max_length
        self.read, self.said = ([value.name for value in part.get_outputs()] for part in (self.encoder, self.decoder))
        self.wanted = [value.name for value in self.decoder.get_inputs()]

    def __call__(self, ids: Sequence[int]) -> list[int]:
        """The tokens for a source, without the start token."""
        source = np.array([ids], dtype=np.int64)
        given = {"input_ids": source, "attention_mask": np.ones_like(source)}
        given |= dict(zip(self.read, self.encoder.run(self.read, given), strict=True))
        tokens = [self.start]
        while len(tokens) < self.max_length and (len(tokens) == 1 or tokens[-1] not in self.ends):
            given["input_ids"] = np.array([tokens[-1:]], dtype=np.int64)
            inputs = {name: given[name.replace("past.", "present.")] for name in self.wanted}
            given |= dict(zip(self.said, self.decoder.run(self.said, inputs), strict=True))
            tokens.append(int(given["logits"][0, -1].argmax()))
        return tokens[1:]


def run(session: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """The logits that a session gives."""
    (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(logits)


def head_of(path: str, width: int) -> bytes:
    """The part of an exported graph from the last layer's output `hidden`, `(B, T, width)`, to `logits`.

    Raises:
        MissingPackageError: onnx is not installed; the message names the extra.
    """
    onnx = import_onnx()
    proto = onnx.load(path)
    makers = {output: node for node in proto.graph.node for output in node.output}
    needed: set[str] = set()
    names = ["logits"]
    while names:
        name = names.pop()
        if name in makers and name != "hidden" and name not in needed:
            needed.add(name)
            names += makers[name].input
    nodes = [node for node in proto.graph.node if needed & set(node.output)]
    used = {name for node in nodes for name in node.input}
    weights = [weight for weight in proto.graph.initializer if weight.name in used]
    hidden = onnx.helper.make_tensor_value_info("hidden", onnx.TensorProto.FLOAT, ["batch", "sequence", width])
    head = onnx.helper.make_graph(nodes, "head", [hidden], [proto.graph.output[0]], weights)
    model = onnx.helper.make_model(head, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return model.SerializeToString()
