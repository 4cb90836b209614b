"""Recurrent networks (Elman, GRU, LSTM) as Hugging Face models.

Importing the package registers them with transformers' Auto classes, so that a checkpoint loads by
`AutoModelForCausalLM.from_pretrained` without `trust_remote_code`.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from rnn_hf.models import RecurrentStateLayer, RNNCache, RNNConfig, RNNForCausalLM, RNNModel


__version__ = "0.1.0"

AutoConfig.register(RNNConfig.model_type, RNNConfig, exist_ok=True)
AutoModel.register(RNNConfig, RNNModel, exist_ok=True)
AutoModelForCausalLM.register(RNNConfig, RNNForCausalLM, exist_ok=True)

# With these, save_pretrained writes the code beside the weights.
RNNConfig.register_for_auto_class()
RNNModel.register_for_auto_class("AutoModel")
RNNForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["RNNCache", "RNNConfig", "RNNForCausalLM", "RNNModel", "RNNONNXForCausalLM", "RecurrentStateLayer"]


def __getattr__(name: str) -> Any:
    """The runner of exported models, when it is asked for: it stands above the modules that import this one."""
    if name == "RNNONNXForCausalLM":
        from rnn_hf.onnx.model import RNNONNXForCausalLM

        return RNNONNXForCausalLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
