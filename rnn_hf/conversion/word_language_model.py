"""The language models of pytorch/examples word_language_model, and those that kept its names.

Gulordava et al. (2018) and van Schijndel and Linzen (2018) saved the same class; ESPnet's recurrent language model has
the same names behind `lm.`.
"""

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint, tensors_of
from rnn_hf.conversion.source import Source
from rnn_hf.conversion.state_dict import source_of
from rnn_hf.conversion.torch_layers import unwrap, without_prefix
from rnn_hf.conversion.vocabulary import Vocabulary
from rnn_hf.errors import InputError


PARTS = {"encoder.weight", "decoder.weight", "decoder.bias"}


def matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.container not in ("torch", "safetensors", "npz"):
        return False
    content, _ = unwrap(checkpoint.content)
    names = set(without_prefix(tensors_of(content), "module.", "lm."))
    return names >= PARTS and all(name.startswith("rnn.") for name in names - PARTS)


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    content, others = unwrap(checkpoint.content)
    tensors = without_prefix(tensors_of(content), "module.")
    if any(".self_attn." in name or name.startswith("transformer") for name in tensors):
        raise InputError("it is the transformer of word_language_model, which has no recurrent layer")
    is_espnet = all(name.startswith("lm.") for name in tensors)
    source = source_of(without_prefix(tensors, "lm."), choices, content)
    source.wants = Vocabulary()
    source.needs_vocabulary = source.head is not None and not is_espnet
    source.dropped = [f"`{name}`, saved with the weights" for name in others] + source.dropped
    source.notes.append("The source gives logarithms of probabilities; these are logits, which have the same softmax.")
    return source


FORMAT = Format(
    "word-language-model", "a model of pytorch/examples word_language_model",
    "pytorch/examples word_language_model (BSD-3-Clause) for the code, and whoever trained the model", matches, read,
)  # fmt: skip
