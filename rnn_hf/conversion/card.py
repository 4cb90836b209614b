"""The card of a converted model: what it was, how it was compared, what was left out."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from rnn_hf import __version__


class Kind(NamedTuple):
    """Of a class here its Auto class, and what the Hub calls its task, if it has a tokenizer."""

    auto_class: str
    pipeline: str | None


KINDS = {
    "RNNModel": Kind("AutoModel", None),
    "RNNForCausalLM": Kind("AutoModelForCausalLM", "text-generation"),
    "RNNForConditionalGeneration": Kind("AutoModelForSeq2SeqLM", "translation"),
}


@dataclass
class Conversion:
    """What a conversion did.

    Attributes:
        file, sha256: Name and checksum of the source.
        format, title, credit: Of the format.
        license: As the Hub spells it; `None` where nobody said.
        architecture: Class of the model here.
        parameters: How many numbers it has.
        difference, difference_float32: The largest difference between the source's arithmetic in float64 and the
            saved and loaded model, in float64 and as it is stored.
        compared: In how many numbers.
        check: A text; `None` if there was none.
        perplexity, written: Of this text the perplexity, or what an encoder-decoder writes of it.
        vocabulary: Number of tokens; `None` for a model without a tokenizer.
        source_ids: Of an encoder-decoder whose tokens have other ids here than in the file: of each id that the file
            reads, the id here.
        dropped, inexact, notes: In words.
    """

    file: str
    sha256: str
    format: str
    title: str
    credit: str
    license: str | None
    architecture: str
    parameters: int = 0
    difference: float = 0.0
    difference_float32: float = 0.0
    compared: int = 0
    perplexity: float | None = None
    check: str | None = None
    written: str | None = None
    vocabulary: int | None = None
    source_ids: list[int] | None = None
    dropped: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for conversion.json."""
        return asdict(self)


def render_card(conversion: Conversion, name: str, config: Any) -> str:
    """README.md of a converted model.

    Args:
        conversion: What was done.
        name: Of the repository.
        config: Of the model.
    """
    kind = KINDS[conversion.architecture]
    metadata = ModelCardData(
        license=conversion.license, library_name="transformers", tags=["rnn_hf", "rnn", config.cell_type],
        pipeline_tag=kind.pipeline if conversion.vocabulary else None, model_name=name,
    )  # fmt: skip
    parts = [
        f"# {name}",
        f"Converted from {conversion.title} by `rnn-hf convert` of rnn_hf {__version__}: {conversion.architecture}, "
        f"{conversion.parameters:,} parameters.",
        "## Use",
        f"```python\n{_example(conversion, name, kind.auto_class)}\n```",
        "With the package `rnn_hf` imported, `trust_remote_code` is not needed.",
        "" if conversion.vocabulary else "There is no tokenizer here: ids, or features, are those of the source.",
        "## Source",
        f"File `{conversion.file}`, format `{conversion.format}`, sha256 `{conversion.sha256}`.",
        f"Credit: {conversion.credit}.",
        "License: " + (conversion.license or "not stated. Ask those who made the source before you pass it on") + ".",
        "## Compared with the source",
        f"The source's arithmetic, in float64 and from the tensors of its file, and this model, saved and loaded, "
        f"ran the same inputs. Of {conversion.compared:,} outputs the largest difference is "
        f"{conversion.difference:.2g} with this model in float64, and {conversion.difference_float32:.2g} as it is "
        "stored, by rounding.",
        _check(conversion),
        _list(
            "This model is not the source, but near it, for the difference above has these causes:", conversion.inexact
        ),
        _list("Not in this repository:", conversion.dropped),
        _list("Notes:", conversion.notes),
    ]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"


def _example(conversion: Conversion, name: str, auto_class: str) -> str:
    if conversion.architecture != "RNNForConditionalGeneration" or not conversion.vocabulary:
        return (
            f"from transformers import {auto_class}\n\n"
            f'model = {auto_class}.from_pretrained("{name}", trust_remote_code=True)'
        )
    return (
        f"from transformers import {auto_class}, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)\n'
        f'model = {auto_class}.from_pretrained("{name}", trust_remote_code=True)\n'
        f"ids = model.generate(**tokenizer({json.dumps(conversion.check or 'text', ensure_ascii=False)}, "
        'return_tensors="pt"))\n'
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))"
    )


def _check(conversion: Conversion) -> str:
    if conversion.written is not None:
        return f"Of “{conversion.check}” it writes “{conversion.written}”."
    if conversion.perplexity is None:
        return ""
    return f"Perplexity of “{conversion.check}”: {conversion.perplexity:.2f} a token."


def _list(title: str, lines: list[str]) -> str:
    return "\n".join([title, "", *(f"- {line}" for line in lines)]) if lines else ""
