"""The card of an exported folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import AutoTokenizer

from rnn_hf.data.tokenization import unknown_id
from rnn_hf.files import read_json, write_text
from rnn_hf.hub.cards import CELL_NAMES, MARK, license_of, read_card
from rnn_hf.onnx import REPORT_FILE


CARD = """\
{mark}

# {name}

A language model ({cell}) as an ONNX file with its state as inputs and outputs, made of {source} by rnn_hf \
{versions[rnn_hf]}. ONNX Runtime {versions[onnxruntime]} ran it at {sizes} sizes of batch and sequence from random \
states; its logits and states differ from PyTorch's by {largest:.1e} at most, relative to values above 1.

## Use

```python
from transformers import AutoTokenizer
from rnn_hf import RNNONNXForCausalLM  # pip install 'rnn_hf[onnx]'

tokenizer = AutoTokenizer.from_pretrained("{model_id}")
model = RNNONNXForCausalLM.from_pretrained("{model_id}")
inputs = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20{without_unknown})[0]))
```

## Interface

{interface}

Zeros are the state before the first token; each `present` is the next call's `past`. There is no attention mask: the \
rows of a batch are of one length.

The model says what its training text makes likely, with that text's gaps and prejudices.
"""


def write_onnx_card(folder: Path, interface: dict[str, Any], model_id: str, license: str | None = None) -> None:
    """Render README.md of an exported folder; one that was written by hand stays.

    Args:
        folder: With `config.json` and `export.json`.
        interface: Of the file in it.
        model_id: Name under which the card's example loads it.
        license: Of the weights, as the Hub spells it; `None` keeps that of the card there is.
    """
    before = read_card(folder)
    if before is not None and MARK not in before:
        return
    report, unknown = read_json(folder / REPORT_FILE), unknown_id(AutoTokenizer.from_pretrained(folder))
    rows = ["| | name | shape | type |", "|---|---|---|---|"]
    rows += [
        f"| {side[:-1]} | `{value['name']}` | ({', '.join(map(str, value['shape']))}) | {value['dtype']} |"
        for side in ("inputs", "outputs")
        for value in interface[side]
    ]
    text = CARD.format(
        cell=CELL_NAMES[read_json(folder / "config.json")["cell_type"]],
        interface="\n".join(rows),
        largest=max(max(check["largest_difference"].values()) for check in report["checked"]),
        mark=MARK,
        model_id=model_id,
        name=model_id.rpartition("/")[2],
        sizes=len(report["checked"]),
        source=report["source"],
        without_unknown="" if unknown is None else f", bad_words_ids=[[{unknown}]]",
        versions=report["versions"],
    )
    license = license or license_of(folder)
    metadata = ModelCardData(license=license, library_name="onnx", pipeline_tag="text-generation", tags=["rnn_hf"])
    write_text(folder / "README.md", f"---\n{metadata.to_yaml()}\n---\n{text}")
