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
parser.add_argument("--with_unknown", action="store_true", help="let the word for unknown words be said")
options = parser.parse_args()

# In the vocabulary a word is written with a mark for the space before it.
ids = json.loads((options.folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
words = {index: word.replace("▁", "") for word, index in ids.items()}
config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
end, begin, unknown = config["eos_token_id"], config.get("bos_token_id"), ids["<unk>"]

session = onnxruntime.InferenceSession(options.folder / "model.onnx")
# All that the network knows of the text so far: it goes in, zeros at first, and comes out new.
state = {value.name: np.zeros((1, value.shape[1]), np.float32) for value in session.get_inputs()[1:]}

generator = np.random.default_rng()
# A text begins after the begin token, or, where there is none, after the end of another.
tokens = [ids.get("▁" + word, unknown) for word in options.prompt.split()] or [end if begin is None else begin]
for _ in range(options.words):
    logits, *after = session.run(None, {"input_ids": np.array([tokens]), **state})
    state = dict(zip(state, after, strict=True))
    # The largest of the logits and Gumbel's noise is a draw from the softmax of logits / temperature.
    noise = options.temperature * generator.gumbel(size=logits.shape[-1])
    scores = logits[0, -1] + noise
    if not options.with_unknown:
        scores[unknown] = -np.inf
    tokens = [int(scores.argmax())]
    print(words[tokens[0]], end=" ", flush=True)
    if tokens == [end]:
        break
print()
