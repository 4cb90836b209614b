"""Translate sentences with a network that `rnn-hf export` wrote, by onnxruntime, tokenizers and numpy alone.

A sentence a line, from a file or from the standard input. One beam is greedy search.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("file", nargs="?", type=argparse.FileType(encoding="utf-8"), default=sys.stdin)
parser.add_argument("--num_beams", type=int, default=5)
parser.add_argument("--length_penalty", type=float, default=1.0)
parser.add_argument("--max_length", type=int, default=100, help="most tokens of a translation, with the start token")
parser.add_argument("--int8", action="store_true", help="take the files in 8 bits")
options = parser.parse_args()

config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
ends = np.atleast_1d(config["eos_token_id"]).tolist()
tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
files = ("encoder_int8.onnx", "model_int8.onnx") if options.int8 else ("encoder.onnx", "model.onnx")
encoder, decoder = (onnxruntime.InferenceSession(options.folder / file) for file in files)
of_encoder, wanted, given = (
    [value.name for value in values] for values in (encoder.get_outputs(), decoder.get_inputs(), decoder.get_outputs())
)


def translate(text: str) -> str:
    """The best translation that a beam search finds."""
    ids = np.array([tokenizer.encode(text).ids])
    source = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    read = dict(zip(of_encoder, encoder.run(of_encoder, source), strict=True)) | {"attention_mask": np.ones_like(ids)}
    written, scores, done = [[config["decoder_start_token_id"]]], np.zeros(1), []
    state = {name: value for name, value in read.items() if name.startswith("present.")}
    for count in range(1, options.max_length):
        inputs = {name: np.repeat(read[name], len(written), axis=0) for name in wanted if name in read}
        inputs |= {name.replace("present", "past"): value for name, value in state.items()}
        inputs["input_ids"] = np.array(written)[:, -1:]
        logits, *after = decoder.run(given, {name: inputs[name] for name in wanted})
        logits = logits[:, -1].astype(np.float64)
        total = scores[:, None] + logits - np.logaddexp.reduce(logits, axis=1)[:, None]
        places = np.argsort(-total, axis=None, kind="stable")[: (1 + len(ends)) * options.num_beams]
        best = [(total.flat[place], *divmod(int(place), total.shape[1])) for place in places]
        for score, row, token in best[: options.num_beams]:
            if token in ends or count + 1 == options.max_length:
                done.append((score / count**options.length_penalty, [*written[row], token]))
        done = sorted(done, key=lambda each: -each[0])[: options.num_beams]
        live = [each for each in best if each[2] not in ends][: options.num_beams]
        if len(done) == options.num_beams and live[0][0] / count**options.length_penalty <= done[-1][0]:
            break
        scores, rows = np.array([score for score, _, _ in live]), [row for _, row, _ in live]
        written = [[*written[row], token] for _, row, token in live]
        state = {name: value[rows] for name, value in zip(given[1:], after, strict=True)}
    return tokenizer.decode(done[0][1])


for line in options.file:
    print(translate(line) if line.strip() else "", flush=True)
