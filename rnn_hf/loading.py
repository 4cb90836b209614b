"""A model and its tokenizer, by directory or name on the Hub, on a device."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rnn_hf.files import check_local
from rnn_hf.onnx import REPORT_FILE


DEVICES = ("auto", "cpu", "cuda", "mps")


def device_of(name: str) -> torch.device:
    """The device by one of the names in `DEVICES`; `auto` is a GPU where there is one, else the CPU.

    Raises:
        ValueError: Another name, or a device that is not there.
    """
    if name not in DEVICES:
        raise ValueError(f"`device` must be one of {', '.join(DEVICES)}, got {name!r}")
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [kind for kind in is_there if is_there[kind]]
    if name != "auto" and name not in found:
        raise ValueError(f"device {name} is not there: PyTorch {torch.__version__} finds {', '.join(found)}")
    return torch.device(found[0] if name == "auto" else name)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the inputs of a model go: weights on a disk are on no device and are fetched to the CPU."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def load_model(name: str, revision: str | None = None, device: str = "cpu") -> tuple[PreTrainedModel, Any]:
    """A causal language model and its tokenizer, by directory or name on the Hub.

    Args:
        name: Of the model.
        revision: Branch, tag or commit on the Hub.
        device: One of `DEVICES`, where the model goes.

    Raises:
        FileNotFoundError: The name can only be a path, and is not there.
        ValueError: There is neither, what is there does not load, or the device is not there.
    """
    target = device_of(device)
    check_local(name)
    if (Path(name) / REPORT_FILE).is_file():
        raise ValueError(f"{name} is an ONNX export, for RNNONNXForCausalLM: name the model that it was made of")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision)
        return model.to(target), AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cause = error.__cause__
        # A repository that is not there is answered with 401 as well.
        if (
            isinstance(cause, HfHubHTTPError)
            and not isinstance(cause, RepositoryNotFoundError)
            and cause.response.status_code == 401
        ):
            reason = "the Hub does not accept the access token: log in anew by `hf auth login`, or unset HF_TOKEN"
        raise ValueError(f"cannot load the model {name}: {reason}") from error
