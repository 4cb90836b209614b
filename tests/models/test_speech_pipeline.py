"""transformers' speech pipeline on one folder: batches, timestamps, chunks, with and without this package.

The recognizer is made by hand: each label is a tone, and the network says which one it hears.
"""

import json

import numpy as np
import pytest
import torch
from strangers import told_by_a_stranger
from transformers import AutoModelForCTC, AutoProcessor, Wav2Vec2Processor, pipeline

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC, RNNSpeechConfig


RATE, BANDS, STACK, HOP = 8000, 40, 3, 80
STEP = HOP * STACK / RATE  # seconds
SPOKEN = {"characters": ["three two", "who tore the tree"], "words": ["three two two", "one one three two one three"]}
TONE, PAUSE = 0.09, 0.06  # seconds of a label, and of the silence after it

units = pytest.mark.parametrize("unit", ["characters", "words"])
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])


def band_of(label: int) -> int:
    """The mel band in which a label is heard."""
    return 4 * label - 4


def recognizer_of(unit: str, bidirectional: bool = False) -> tuple[RNNForCTC, RNNFeatureExtractor, RNNCTCTokenizer]:
    """Each unit of the network is 1 while one label's band is loud and -1 while not, with a short memory."""
    tokenizer = RNNCTCTokenizer.build(SPOKEN[unit], unit)
    size = len(tokenizer)
    config = RNNSpeechConfig(
        vocab_size=size, embedding_size=size, hidden_size=size, num_hidden_layers=1, cell_type="rnn",
        bidirectional=bidirectional,
    )  # fmt: skip
    model = RNNForCTC(config).eval()
    rnn, loud = model.model.layers[0], torch.zeros(size, STACK, BANDS)
    for label in range(2, size):
        loud[label, STACK // 2, band_of(label)] = 2
    with torch.no_grad():
        model.model.input_projection.weight.copy_(loud.flatten(1))
        for direction in (rnn.rnn, rnn.reverse) if bidirectional else (rnn.rnn,):
            direction.weight_ih_l0.copy_(torch.eye(size))
            direction.weight_hh_l0.copy_(torch.eye(size) / 5)
            direction.bias_ih_l0.fill_(-4.0)
            direction.bias_hh_l0.zero_()
        speaks = torch.eye(size)
        speaks[:2] = 0  # the blank has a logit of 0, and the unknown label is never said
        model.lm_head.weight.copy_(torch.cat([speaks] * config.num_directions, dim=1))
        model.lm_head.bias.zero_()
        model.lm_head.bias[1] = -9
    return model, RNNFeatureExtractor(level_decay=20.0, end_silence=900), tokenizer


def speech_of(text: str, tokenizer) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """A tone for each label of a text, `(N,)`, and when each begins and ends, in seconds."""
    pieces, places, now = [np.zeros(round(RATE * PAUSE))], [], PAUSE
    mels = np.linspace(0, 15 + 27 * np.log(4) / np.log(6.4), BANDS + 2)[1:-1]  # Slaney's, up to 4000 Hz
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    for label in tokenizer(text).input_ids:
        tone = np.sin(2 * np.pi * hertz[band_of(label)] * np.arange(round(RATE * TONE)) / RATE)
        pieces += [0.3 * tone, np.zeros(round(RATE * PAUSE))]
        places.append((now, now + TONE))
        now += TONE + PAUSE
    return np.concatenate(pieces).astype(np.float32), places


@pytest.fixture
def saved(tmp_path):
    """`saved(unit, bidirectional)`: the folder of a recognizer, and its tokenizer."""

    def make(unit, bidirectional=False):
        model, extractor, tokenizer = recognizer_of(unit, bidirectional)
        for part in (model, extractor, tokenizer):
            part.save_pretrained(tmp_path)
        return str(tmp_path), tokenizer

    return make


@units
@directions
def test_recordings_are_heard_alone_and_in_batches(saved, unit, bidirectional):
    folder, tokenizer = saved(unit, bidirectional)
    transcribe = pipeline("automatic-speech-recognition", model=folder)
    texts = [*SPOKEN[unit], *SPOKEN[unit][::-1]]
    recordings = [speech_of(text, tokenizer)[0] for text in texts] + [np.zeros(50, np.float32)]
    assert [transcribe(each)["text"] for each in recordings] == [*texts, ""]
    assert [each["text"] for each in transcribe(list(recordings), batch_size=3)] == [*texts, ""]
    raw = {"raw": recordings[1].astype(np.float64), "sampling_rate": RATE}
    assert transcribe(raw)["text"] == texts[1]
    model, inputs = (
        AutoModelForCTC.from_pretrained(folder),
        transcribe.feature_extractor(recordings, sampling_rate=RATE, return_tensors="pt"),
    )
    assert tokenizer.batch_decode(model.generate(**inputs)) == [*texts, ""]


@units
@directions
def test_timestamps_are_when_labels_and_words_were_said(saved, unit, bidirectional):
    folder, tokenizer = saved(unit, bidirectional)
    transcribe = pipeline("automatic-speech-recognition", model=folder)
    for text in SPOKEN[unit]:
        recording, places = speech_of(text, tokenizer)
        words = text.split()
        if unit == "characters":
            starts = [sum(len(word) + 1 for word in words[:index]) for index in range(len(words))]
            of_words = [(places[i][0], places[i + len(word) - 1][1]) for i, word in zip(starts, words, strict=True)]
        else:
            of_words = places
        labels = list(text) if unit == "characters" else words
        for kind, expected, times in (("char", labels, places), ("word", words, of_words)):
            output = transcribe(recording, return_timestamps=kind)
            assert output["text"] == text
            assert [chunk["text"] for chunk in output["chunks"]] == expected
            for chunk, place in zip(output["chunks"], times, strict=True):
                assert chunk["timestamp"] == pytest.approx(place, abs=STEP)
            json.dumps(output)  # numbers of Python


@units
@directions
@pytest.mark.parametrize("seconds", [0.9, 1.0])
def test_long_recordings_in_chunks_give_the_text_and_the_times_of_the_whole(saved, unit, bidirectional, seconds):
    folder, tokenizer = saved(unit, bidirectional)
    transcribe = pipeline("automatic-speech-recognition", model=folder)
    text = " ".join(SPOKEN[unit] * 5)
    recording, _ = speech_of(text, tokenizer)
    assert len(recording) > 5 * RATE * seconds
    whole = transcribe(recording, return_timestamps="word")
    for batch_size in (1, 3):
        chunks = transcribe(
            recording, chunk_length_s=seconds, stride_length_s=(0.35, 0.2), return_timestamps="word",
            batch_size=batch_size,
        )  # fmt: skip
        assert chunks == whole and whole["text"] == text


def test_another_sampling_rate_is_not_heard_as_ones_own(saved):
    folder, tokenizer = saved("words")
    transcribe = pipeline("automatic-speech-recognition", model=folder)
    with pytest.raises(ValueError, match="`sampling_rate` must be 8000"):
        transcribe.feature_extractor(np.zeros(100), sampling_rate=16_000)


@units
@pytest.mark.parametrize("is_processor", [False, True], ids=["parts", "processor"])
def test_a_processor_holds_both_however_they_were_saved(saved, unit, is_processor, tmp_path):
    folder, tokenizer = saved(unit)
    processor = AutoProcessor.from_pretrained(folder)
    if is_processor:
        folder = str(tmp_path / "together")
        processor.save_pretrained(folder)
        recognizer_of(unit)[0].save_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        transcribe = pipeline("automatic-speech-recognition", model=folder)
        assert transcribe(speech_of(SPOKEN[unit][0], tokenizer)[0])["text"] == SPOKEN[unit][0]
    assert type(processor) is Wav2Vec2Processor
    assert type(processor.feature_extractor) is RNNFeatureExtractor and type(processor.tokenizer) is RNNCTCTokenizer
    recording, _ = speech_of(SPOKEN[unit][0], tokenizer)
    inputs = processor(audio=recording, sampling_rate=RATE, text=SPOKEN[unit][0], return_tensors="pt")
    assert inputs.labels.tolist() == [tokenizer(SPOKEN[unit][0]).input_ids]
    ids = recognizer_of(unit)[0].generate(inputs.input_features, inputs.attention_mask)
    assert processor.batch_decode(ids) == [SPOKEN[unit][0]]


STRANGER = """
import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoProcessor, AutoTokenizer, pipeline

options, heard = {"trust_remote_code": True}, {}
for unit in ("characters", "words"):
    said = np.load(unit + ".npy")
    autos = (AutoFeatureExtractor, AutoTokenizer, AutoModelForCTC, AutoProcessor)
    *parts, processor = (auto.from_pretrained(unit, **options) for auto in autos)
    assert all(type(part).__module__.startswith("transformers_modules") for part in parts), parts
    extractor, tokenizer, model = parts
    inputs = extractor(said, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    stream = model.stream(extractor, tokenizer)
    for part in (*parts, processor):
        part.save_pretrained(unit + "-again")
    transcribe, again = (
        pipeline("automatic-speech-recognition", model=name, **options) for name in (unit, unit + "-again")
    )
    heard[unit] = [
        tokenizer.decode(model.generate(**inputs)[0]),
        "".join(stream.push(said[start : start + 1000]) for start in range(0, len(said), 1000)),
        processor.batch_decode(model.generate(**processor(said, sampling_rate=8000, return_tensors="pt")))[0],
        transcribe(said)["text"],
        again(said)["text"],
        " ".join(chunk["text"] for chunk in transcribe(said, return_timestamps="word")["chunks"]),
    ]
print(json.dumps(heard))
"""


@pytest.mark.slow
def test_a_stranger_hears_the_same_without_the_package_and_the_network(tmp_path):
    for unit, texts in SPOKEN.items():
        model, extractor, tokenizer = recognizer_of(unit)
        for part in (model, extractor, tokenizer):
            part.save_pretrained(tmp_path / unit)
        np.save(tmp_path / f"{unit}.npy", speech_of(texts[1], tokenizer)[0])
    assert told_by_a_stranger(STRANGER, tmp_path) == {unit: [texts[1]] * 6 for unit, texts in SPOKEN.items()}
