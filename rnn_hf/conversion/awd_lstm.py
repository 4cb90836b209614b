"""awd-lstm-lm (Merity et al., 2018) and the mixture of softmaxes that was built on it (Yang et al., 2018).

Both saved whole modules: a list of model, criterion and optimizer, or the model alone.
"""

import re
from typing import Any

import torch

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.pickles import Inert
from rnn_hf.conversion.reading import Checkpoint, tensors_of
from rnn_hf.conversion.source import Linear, Source
from rnn_hf.conversion.state_dict import is_same
from rnn_hf.conversion.torch_layers import take_layers, unwrap, without_prefix
from rnn_hf.errors import InputError


Tensor = torch.Tensor
RAW = "_raw"
HIERARCHY = "SplitCrossEntropyLoss"


def matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.container != "torch":
        return False
    model, _ = parts_of(checkpoint.content)
    names = tensors_of(model)
    return "encoder.weight" in names and any(name.startswith("rnns.") for name in names)


def parts_of(content: Any) -> tuple[Any, list[Any]]:
    """The model, and what was saved with it."""
    if isinstance(content, (list, tuple)) and content:
        return content[0], list(content[1:])
    model, _ = unwrap(content)
    return model, []


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    model, others = parts_of(checkpoint.content)
    if not choices.backbone:
        check_criterion(model, others)
    left = without_prefix(tensors_of(model), "module.")
    if any(re.match(r"rnns\.\d+\..*linear\.(weight|bias)", name) for name in left):
        raise InputError("its layers are quasi-recurrent (QRNN), and here they are LSTM, GRU and Elman")
    dropped = undropped(left)
    layers, reverse = take_layers({name: left.pop(name) for name in list(left) if name.startswith("rnns.")}, None)
    if reverse is not None:
        raise InputError("its layers have two directions")
    source = Source(layers, embedding=left.pop("encoder.weight"), needs_vocabulary=True, dropped=dropped)
    take_mixture(left, source)
    if not choices.backbone:
        source.head = Linear(left.pop("decoder.weight"), left.pop("decoder.bias", None))
        source.is_tied = is_same(source.head.weight, source.embedding)  # type: ignore[arg-type]
    else:
        source.latent = source.prior = None
    if left and not choices.backbone:
        raise InputError(f"it has tensors that are not known: {', '.join(left)}")
    source.dropped += [f"`{name}`" for name in left]
    source.dropped += ["the state of its optimizer"] * any("optim" in origin_of(other) for other in others)
    source.notes.append("Dropout, which the source trained with, is not set in config.json.")
    return source


def check_criterion(model: Any, others: list[Any]) -> None:
    """Refuse a model whose output is a tree of softmaxes. Without splits, which are kept as [0, ..., V], it is one.

    Raises:
        InputError: With the splits.
    """
    for part in (model, *others):
        if isinstance(part, Inert) and HIERARCHY in part.origin:
            splits = part.attributes.get("splits")
            if isinstance(splits, list) and len(splits) > 2:
                raise InputError(
                    f"a hierarchical softmax (splits {splits[1:-1]}) has no single output matrix; `backbone=True` "
                    "converts what is below it"
                )


def origin_of(part: Any) -> str:
    return part.origin if isinstance(part, Inert) else ""


def undropped(left: dict[str, Tensor]) -> list[str]:
    """Give matrices that training dropped weights from their own names: `weight_hh_l0_raw` is the whole one.

    A `weight_hh_l0` next to it is what was left of it at the last step of training. `.module` of the wrapper is left
    out of names.
    """
    dropped = []
    for name in [name for name in left if name.endswith(RAW)]:
        plain = name.removesuffix(RAW)
        around = [other for other in left if other.replace(".module.", ".") == plain.replace(".module.", ".")]
        for other in around:
            dropped.append(f"`{other}`, the matrix with the last mask of dropout, in favour of `{name}`")
            left.pop(other)
        left[plain] = left.pop(name)
    for name in [name for name in left if ".module." in name]:
        left[name.replace(".module.", ".")] = left.pop(name)
    return dropped


def take_mixture(left: dict[str, Tensor], source: Source) -> None:
    """The mixture of softmaxes of Yang et al. (2018), if there is one."""
    if "prior.weight" not in left:
        return
    prior = left.pop("prior.weight")
    latent = Linear(left.pop("latent.0.weight"), left.pop("latent.0.bias"))
    source.prior, source.latent = prior, latent
    source.notes.append(
        "The source adds 1e-8 to probabilities before it takes their logarithm, which is left out: probabilities "
        "below that are what they are."
    )


FORMAT = Format(
    "awd-lstm", "a model of awd-lstm-lm, or of the mixture of softmaxes on it",
    "Merity, Keskar and Socher (2018), salesforce/awd-lstm-lm (BSD-3-Clause); of a mixture also Yang, Dai, "
    "Salakhutdinov and Cohen (2018), zihangdai/mos (MIT)", matches, read,
)  # fmt: skip
