"""Recordings for the tests: each word is a tone of its own, so that what is said can be learned in seconds."""

import io
import zipfile
from pathlib import Path

import numpy as np
import soundfile


TONES = {"three": 400, "low": 900, "high": 2400}  # in hertz; the first has a double letter
SPEAKERS = {"ann": 0.9, "bob": 1.1}  # a factor of the pitch
RATE = 8000


def tone(word: str, speaker: str, number: int, seconds: float = 0.2) -> np.ndarray:
    """The samples of a word by a speaker, `(N,)` float32; `number` says which of its recordings."""
    generator = np.random.default_rng([list(TONES).index(word), list(SPEAKERS).index(speaker), number])
    time = np.arange(round(RATE * seconds * generator.uniform(0.8, 1.2))) / RATE
    wave = np.sin(2 * np.pi * TONES[word] * SPEAKERS[speaker] * time) * generator.uniform(0.05, 0.5)
    return (wave + generator.normal(0, 0.002, len(time))).astype("float32")


def encoded(samples: np.ndarray, rate: int = RATE, format: str = "WAV") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=format)
    return content.getvalue()


def contents(numbers) -> dict[str, bytes]:
    """Files `WORD_SPEAKER_NUMBER.wav` of each word by each speaker."""
    return {
        f"{word}_{speaker}_{number}.wav": encoded(tone(word, speaker, number))
        for word in TONES for speaker in SPEAKERS for number in numbers
    }  # fmt: skip


def write_folder(folder: Path, numbers) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents(numbers).items():
        (folder / name).write_bytes(content)
    return str(folder)


def write_archive(path: Path, numbers) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents(numbers).items():
            archive.writestr(name, content)
    return str(path)


PATTERN = r"(?P<text>[a-z]+)_(?P<speaker>[a-z]+)_\d+"
