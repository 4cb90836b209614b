"""Write down what is said in a WAV file, with an exported recognizer, by onnxruntime and numpy alone."""

import argparse
import json
import wave
from pathlib import Path

import numpy as np
import onnxruntime


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("file", help="of 16 bits, one channel and the sampling rate of the model")
options = parser.parse_args()

names = ("config", "preprocessor_config", "mel_filters", "tokenizer_config", "vocab")
read = (json.loads((options.folder / f"{name}.json").read_text(encoding="utf-8")) for name in names)
config, features, filters, tokenizer, ids = read
hop, width = features["hop_length"], features["win_length"]

with wave.open(options.file) as file:
    if (file.getsampwidth(), file.getnchannels(), file.getframerate()) != (2, 1, features["sampling_rate"]):
        parser.error(f"the file must have 16 bits, one channel and {features['sampling_rate']} samples a second")
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768

# A frame ends with each hop, and sees zeros before the first sample; the network answers after the last one.
samples = np.concatenate([samples, np.zeros(features["end_silence"])])
padded = np.concatenate([np.zeros(width - hop), samples])
frames = [padded[start : start + width] for start in range(0, len(samples) - hop + 1, hop)]
spectrum = np.fft.rfft(np.reshape(frames, (-1, width)) * np.hanning(width + 1)[:-1], features["n_fft"])
log_mel = np.log(np.maximum(np.abs(spectrum) ** 2 @ filters, np.exp(features["floor"])))

if features["level_decay"] is not None:  # what is heard is relative to the level of the speech so far
    level, fall = -np.inf, features["level_decay"] * np.log(10) / 10 * hop / features["sampling_rate"]
    for row in log_mel:
        level = max(np.log(np.exp(row).mean()), level - fall, features["level_floor"])
        row -= level
log_mel = (log_mel - np.array(features["mean"] or 0.0)) / np.array(features["std"] or 1.0)

session = onnxruntime.InferenceSession(options.folder / "model.onnx")
inputs = {"input_features": log_mel[None].astype(np.float32), "attention_mask": np.ones((1, len(log_mel)), np.int64)}
path = session.run(["logits"], inputs)[0][0].argmax(axis=1)  # a label or the blank at each step
labels = {index: label for label, index in ids.items()}
before = np.concatenate([[-1], path[:-1]])
heard = [labels[index] for index in path[(path != before) & (path != config["pad_token_id"])]]
print(" ".join(heard if tokenizer["unit"] == "words" else "".join(heard).replace("|", " ").split()))
