"""Write down what is said while it is heard, with an exported recognizer, by onnxruntime and numpy alone.

The samples come from a WAV file here, a step of the network at a time; what is kept from step to step does not grow.
"""

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
labels, is_spelled = {index: label for label, index in ids.items()}, tokenizer["unit"] == "characters"
hop, width, decay = features["hop_length"], features["win_length"], features["level_decay"]
size, window = config["frame_stack"] * hop, np.hanning(width + 1)[:-1]  # of a step of the network, and of a frame
fall = (decay or 0.0) * np.log(10) / 10 * hop / features["sampling_rate"]
mean, std = np.array(features["mean"] or 0.0), np.array(features["std"] or 1.0)

session = onnxruntime.InferenceSession(options.folder / "stream.onnx")
state = {value.name: np.zeros((1, value.shape[1]), np.float32) for value in session.get_inputs()[1:]}
tail, level = np.zeros(width - hop), -np.inf  # samples that later frames see too, and the level of the speech so far
silence = features["end_silence"]  # samples of zeros that are still to be read behind the recording
last, gap = None, None  # the label of the step before, and what stands before the next one that is written

with wave.open(options.file) as file:
    if (file.getsampwidth(), file.getnchannels(), file.getframerate()) != (2, 1, features["sampling_rate"]):
        parser.error(f"the file must have 16 bits, one channel and {features['sampling_rate']} samples a second")
    while True:
        piece = np.frombuffer(file.readframes(size), "<i2") / 32768
        missing = min(size - len(piece), silence)
        silence -= missing
        piece = np.concatenate([piece, np.zeros(missing)])
        if len(piece) < size:
            break
        samples = np.concatenate([tail, piece])
        tail = samples[size:]
        frames = np.array([samples[start : start + width] for start in range(0, size, hop)])
        energies = np.abs(np.fft.rfft(frames * window, features["n_fft"])) ** 2 @ filters
        log_mel = np.log(np.maximum(energies, np.exp(features["floor"])))
        for row in log_mel if decay is not None else ():
            level = max(np.log(np.exp(row).mean()), level - fall, features["level_floor"])
            row -= level
        inputs = {"input_features": ((log_mel - mean) / std)[None].astype(np.float32), **state}
        logits, *after = session.run(None, inputs)
        state = dict(zip(state, after, strict=True))
        label = int(logits[0, 0].argmax())
        if label not in (last, config["pad_token_id"]):
            if is_spelled and labels[label] == "|":
                gap = None if gap is None else " "
            else:
                print((gap or "") + labels[label], end="", flush=True)
                gap = "" if is_spelled else " "
        last = label
print()
