"""Tiny recognizers of speech with random weights, in directories as a run leaves them, and something to hear."""

from pathlib import Path

import numpy as np
import torch
from speech_files import tone

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC, RNNSpeechConfig


BANDS = 12
FEATURES = {
    "level_decay": 30.0, "floor": -14.0, "level_floor": -9.0, "end_silence": 730,
    "mean": [-3.0 + band / 6 for band in range(BANDS)], "std": [2.0 + band / 9 for band in range(BANDS)],
}  # fmt: skip


def some_speech(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Tones of several words, silence between them, `(N,)` float32 with values that 16 bits hold."""
    generator = np.random.default_rng(seed)
    pieces, words = [], ["three", "low", "high"]
    while sum(map(len, pieces)) < 8000 * seconds:
        pieces.append(np.zeros(generator.integers(1000), "float32"))
        pieces.append(tone(words[generator.integers(3)], "ann", int(generator.integers(9))))
    samples = np.concatenate(pieces)[: round(8000 * seconds)]
    return (np.round(samples * 32768) / 32768).astype("float32")


def make_recognizer(directory: Path, unit: str = "characters", features=FEATURES, scale: float = 1.0, **fields) -> str:
    """The path of a random recognizer with feature extractor and tokenizer, to which no label is likelier than another
    on the whole: what it says depends on what it hears."""
    tokenizer = RNNCTCTokenizer.build(["three low high", "one two"], unit)
    extractor = RNNFeatureExtractor(feature_size=BANDS, **features)
    sizes = {"embedding_size": 6, "hidden_size": 8, "num_mel_bins": BANDS, "cell_type": "gru"}
    model = RNNForCTC(RNNSpeechConfig(vocab_size=len(tokenizer), **{**sizes, **fields})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.empty_like(parameter).uniform_(-scale, scale, generator=generator))
        inputs = extractor(some_speech(5.0, seed=1), sampling_rate=8000, return_tensors="pt")
        logits = model(**inputs).logits
        model.lm_head.bias -= logits.mean((0, 1))
    for part in (model, tokenizer, extractor):
        part.save_pretrained(directory)
    return str(directory)


def text_of(path: str, samples: np.ndarray) -> str:
    """What a recognizer says of a recording."""
    extractor, tokenizer = RNNFeatureExtractor.from_pretrained(path), RNNCTCTokenizer.from_pretrained(path)
    inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return tokenizer.decode(RNNForCTC.from_pretrained(path).eval().generate(**inputs)[0])
