"""A model and its tokenizer, by directory or name on the Hub, on a device."""

from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from rnn_hf.errors import InputError
from rnn_hf.files import check_local
from rnn_hf.models import HEADS
from rnn_hf.onnx import REPORT_FILE


DEVICES = ("auto", "cpu", "cuda", "mps")
WITHOUT_TOKENIZER = {"AutoModelForTimeSeriesPrediction"}


def device_of(name: str) -> torch.device:
    """The device by one of the names in `DEVICES`; `auto` is a GPU where there is one, else the CPU.

    Raises:
        InputError: Another name, or a device that is not there.
    """
    if name not in DEVICES:
        raise InputError(f"`device` must be one of {', '.join(DEVICES)}, got {name!r}")
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    devices = [kind for kind in is_there if is_there[kind]]
    if name != "auto" and name not in devices:
        raise InputError(f"`device` {name} is not there: PyTorch {torch.__version__} finds {', '.join(devices)}")
    return torch.device(devices[0] if name == "auto" else name)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the inputs of a model go: weights on a disk are on no device and are fetched to the CPU."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def config_of(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a model, by directory or name on the Hub.

    Raises:
        FileNotFoundError: The name can only be a path, and is not there.
        InputError: There is neither, or what is there does not load.
    """
    check_local(name)
    if (Path(name) / REPORT_FILE).is_file():
        raise InputError(f"{name} is an ONNX export: name the model that it was made of")
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(f"cannot load the model {name}: {_reason(error)}") from error


def load_model(
    name: str, revision: str | None = None, device: str = "cpu", auto_class: str = "AutoModelForCausalLM"
) -> tuple[PreTrainedModel, Any]:
    """A model and its tokenizer, by directory or name on the Hub; `None` for what reads numbers.

    Args:
        name: Of the model.
        revision: Branch, tag or commit on the Hub.
        device: One of `DEVICES`, where the model goes.
        auto_class: One of `rnn_hf.models.HEADS`.

    Raises:
        FileNotFoundError: The name can only be a path, and is not there.
        InputError: There is neither, what is there does not load or is the model of another task, or the device is
            not there.
    """
    target = device_of(device)
    architecture = (config_of(name, revision).architectures or [""])[0]
    if architecture in {head.__name__ for head in HEADS.values()} - {HEADS[auto_class].__name__, "RNNModel"}:
        raise InputError(f"{name} is a model of another task: an {architecture}, not an {HEADS[auto_class].__name__}")
    try:
        model: Any = getattr(transformers, auto_class).from_pretrained(name, revision=revision)
        has_tokenizer = auto_class not in WITHOUT_TOKENIZER
        return model.to(target), AutoTokenizer.from_pretrained(name, revision=revision) if has_tokenizer else None
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(f"cannot load the model {name}: {_reason(error)}") from error


def check_reads_forward(model: Any, what: str) -> None:
    """Refuse `what` is for a language model that reads texts from their beginning.

    Raises:
        InputError: It reads them from their end.
    """
    if getattr(model.config, "reads_backward", False):  # which those of other packages lack
        raise InputError(f"{what} needs a language model that reads forward, and this one has `reads_backward=True`")


def _reason(error: Exception) -> str:
    cause = error.__cause__
    # A repository that is not there is answered with 401 as well.
    if (
        isinstance(cause, HfHubHTTPError)
        and not isinstance(cause, RepositoryNotFoundError)
        and cause.response.status_code == 401
    ):
        return "the Hub does not accept the access token: log in again by `hf auth login`, or unset HF_TOKEN"
    return " ".join(str(error).split()) or type(error).__name__
