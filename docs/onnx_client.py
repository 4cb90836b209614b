"""Go on from a text with a model that scripts/export_onnx.py wrote, by onnxruntime and numpy alone.

The model's tokens must be words between spaces (`--tokenizer whitespace` in training), so that no tokenizer is needed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("prompt")
parser.add_argument("--words", type=int, default=30)
parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest word each time")
options = parser.parse_args()

# In the vocabulary a word is written with a mark for the space before it.
ids = json.loads((options.folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
words = {index: word.replace("▁", "") for word, index in ids.items()}
end = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]

session = onnxruntime.InferenceSession(options.folder / "model.onnx")
# All that the network knows of the text so far: it goes in, zeros at first, and comes out anew.
state = {value.name: np.zeros((1, value.shape[1]), np.float32) for value in session.get_inputs()[1:]}

generator = np.random.default_rng()
tokens = [ids.get("▁" + word, ids["<unk>"]) for word in options.prompt.split()] or [end]
for _ in range(options.words):
    logits, *after = session.run(None, {"input_ids": np.array([tokens]), **state})
    state = dict(zip(state, after, strict=True))
    # The largest of the logits and Gumbel's noise is a draw from the softmax of logits / temperature.
    noise = options.temperature * generator.gumbel(size=logits.shape[-1])
    tokens = [int((logits[0, -1] + noise).argmax())]
    print(words[tokens[0]], end=" ", flush=True)
    if tokens == [end]:
        break
print()
