"""Speech in pieces: the logits and the text of the whole, whatever the pieces, saved, forked and many at once."""

import copy
import pickle
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.parametrize import register_parametrization

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC, RNNSpeechConfig, RNNSpeechStream
from rnn_hf.models.streaming_rnn import advance_all, push_all


CLOSE = {"rtol": 1e-12, "atol": 1e-12}
BANDS, STACK, HOP = 4, 3, 20
STEP = STACK * HOP
SIZES = {"feature_size": BANDS, "hop_length": HOP, "win_length": 50, "n_fft": 64}


def parts_of(cell, unit="characters", dtype=torch.float64, level_decay=30.0, **fields):
    """A random recognizer that says much, its feature extractor and its tokenizer."""
    tokenizer = RNNCTCTokenizer.build(["one two three"], unit)
    extractor = RNNFeatureExtractor(**SIZES, level_decay=level_decay, mean=[-1.0, -1.5, -0.5, 0.0], std=[2.0] * BANDS)
    sizes = {"embedding_size": 3, "hidden_size": 5, "num_mel_bins": BANDS, "frame_stack": STACK, "hop_length": HOP}
    config = RNNSpeechConfig(**{**sizes, "vocab_size": len(tokenizer), **cell, **fields})
    model = RNNForCTC(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.empty_like(parameter).uniform_(-0.9, 0.9, generator=generator))
        logits = model(torch.randn(8, 60, BANDS, generator=generator).to(dtype)).logits
        model.lm_head.bias -= logits.mean((0, 1))  # no label is likelier than the others on the whole
    return model, extractor, tokenizer


def some_speech(samples: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    noise = torch.randn(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (0.1 * noise * torch.linspace(0, samples / 300, samples).double().sin().exp()).to(dtype)


@torch.no_grad()
def whole_of(parts, speech) -> tuple[torch.Tensor, str]:
    """Logits and text of a whole recording."""
    model, extractor, tokenizer = parts
    inputs = extractor(speech, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return model(**inputs).logits[0], tokenizer.decode(model.generate(**inputs)[0])


def logits_of(stream, pieces) -> torch.Tensor:
    return torch.cat([advance_all([stream], [piece])[0] for piece in pieces])


def cuts(speech: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """A recording in pieces of any sizes, of no sample and one sample too."""
    chance, sizes = random.Random(seed), []
    while sum(sizes) < len(speech):
        sizes.append(min(chance.choice([0, 1, 7, STEP, chance.randrange(10 * STEP)]), len(speech) - sum(sizes)))
    return list(speech.split(sizes))


@given(sizes=st.lists(st.integers(0, 9 * STEP), min_size=1, max_size=6))
def test_any_pieces_give_the_logits_of_the_whole(cell, sizes):
    parts = parts_of(cell)
    speech = some_speech(STEP + sum(sizes))
    sizes = [*sizes, STEP]
    expected, _ = whole_of(parts, speech)
    got = logits_of(parts[0].stream(*parts[1:]), speech.split(sizes))
    torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("unit", ["characters", "words"])
@pytest.mark.parametrize("end_silence", [0, 20 * STEP + 5])
@pytest.mark.usual_cells("lstm")
def test_the_text_is_that_of_the_whole(cell, unit, dtype, end_silence):
    parts = parts_of(cell, unit, dtype)
    parts[1].end_silence = end_silence
    speech = some_speech(80 * STEP + 17, dtype=dtype)
    _, expected = whole_of(parts, speech)
    assert len(expected) > 5 and len(set(expected)) > 2
    for seed in range(4):
        stream = parts[0].stream(*parts[1:])
        heard = [stream.push(piece) for piece in cuts(speech, seed)]
        assert "".join([*heard, stream.finish()]) == stream.text == expected


def test_arrays_lists_and_tensors_are_heard_alike(cell):
    parts, speech = parts_of(cell), some_speech(20 * STEP)
    streams = [parts[0].stream(*parts[1:]) for _ in range(3)]
    for piece in speech.split(5 * STEP):
        texts = [
            stream.push(each) for stream, each in zip(streams, (piece, piece.numpy(), piece.tolist()), strict=True)
        ]
        assert len(set(texts)) == 1
    assert streams[0].text == whole_of(parts, speech)[1]


@pytest.mark.parametrize("cut", [0, 1, HOP, STEP + HOP + 3, 10 * STEP + 47])
def test_a_stream_goes_on_where_it_was_saved(cell, cut, tmp_path):
    parts, speech = parts_of(cell), some_speech(20 * STEP)
    stream = parts[0].stream(*parts[1:])
    before = logits_of(stream, [speech[:cut]])
    stream.save(tmp_path / "stream.safetensors")
    loaded = RNNSpeechStream.load(tmp_path / "stream.safetensors", *parts)
    assert loaded.text == ""
    got = torch.cat([before, logits_of(loaded, speech[cut:].split(70))])
    torch.testing.assert_close(got, whole_of(parts, speech)[0], **CLOSE)


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_the_text_goes_on_where_it_was_saved_at_any_step(unit, tmp_path):
    parts = parts_of({"cell_type": "gru"}, unit)
    speech, stream, text = some_speech(60 * STEP), parts[0].stream(*parts[1:]), ""
    for piece in speech.split(STEP):
        text += stream.push(piece)
        stream.save(tmp_path / "stream")
        stream = RNNSpeechStream.load(tmp_path / "stream", *parts)
    assert text == whole_of(parts, speech)[1] and len(text) > 10


COPIES = {
    "fork": RNNSpeechStream.fork,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_forks_and_copies_go_their_own_ways(cell, copied):
    parts, speech = parts_of(cell), some_speech(12 * STEP)
    stream = parts[0].stream(*parts[1:])
    for piece in speech.split(STEP):
        stream.push(piece)
    ends = [some_speech(9 * STEP + 7, seed) for seed in (1, 2)]
    streams = [stream, copied(stream)]
    assert streams[1].text == stream.text
    assert streams[1].one_row is not stream.one_row or stream.one_row is None  # two threads would write to one
    logits: tuple[list, list] = ([], [])
    # In turns, so that what one wrote would show in the other.
    for pieces in zip(*(end.split(STEP) for end in ends), strict=True):
        for each, piece, rows in zip(streams, pieces, logits, strict=True):
            rows += advance_all([each], [piece])
    for rows, end in zip(logits, ends, strict=True):
        torch.testing.assert_close(torch.cat(rows), whole_of(parts, torch.cat([speech, end]))[0][12:], **CLOSE)


def test_a_push_that_is_interrupted_can_be_repeated():
    parts, speech = parts_of({"cell_type": "gru"}), some_speech(4 * STEP)
    stream, pieces = parts[0].stream(*parts[1:]), speech.split(STEP)
    logits = advance_all([stream], [pieces[0]])
    head = stream.one_row.head

    def interrupt():
        raise KeyboardInterrupt

    stream.one_row.head = interrupt  # after the layers have stepped
    with pytest.raises(KeyboardInterrupt):
        advance_all([stream], [pieces[1]])
    stream.one_row.head = head
    for piece in pieces[1:]:
        logits += advance_all([stream], [piece])
    torch.testing.assert_close(torch.cat(logits), whole_of(parts, speech)[0], **CLOSE)


def test_many_streams_at_once_are_each_as_alone_while_they_come_and_go(cell):
    parts = parts_of(cell)
    speeches = [some_speech(size * STEP + size, seed=size) for size in (30, 11, 50, 0, 23)]
    waiting = [cuts(speech, seed) for seed, speech in enumerate(speeches)]
    streams = [parts[0].stream(*parts[1:]) for _ in speeches]
    logits, chance = [[] for _ in streams], random.Random(0)
    while any(waiting):
        talking = [index for index, pieces in enumerate(waiting) if pieces and chance.random() < 0.7]
        pieces = [waiting[index].pop(0) for index in talking]
        for index, rows in zip(talking, advance_all([streams[i] for i in talking], pieces), strict=True):
            logits[index].append(rows)
    for speech, rows in zip(speeches, logits, strict=True):
        if len(speech):
            torch.testing.assert_close(torch.cat(rows), whole_of(parts, speech)[0], **CLOSE)


def test_many_streams_at_once_write_what_each_hears(cell):
    parts = parts_of(cell)
    speeches = [some_speech(size * STEP, seed=size) for size in (30, 40, 50)]
    streams = [parts[0].stream(*parts[1:]) for _ in speeches]
    texts = ["", "", ""]
    for start in range(0, 50 * STEP, 5 * STEP):
        pieces = [speech[start : start + 5 * STEP] for speech in speeches]
        texts = [text + added for text, added in zip(texts, push_all(streams, pieces), strict=True)]
    assert texts == [stream.text for stream in streams] == [whole_of(parts, speech)[1] for speech in speeches]
    assert push_all([], []) == []


def test_a_stream_holds_as_much_after_long_as_after_short(tmp_path):
    parts = parts_of({"cell_type": "lstm"}, dtype=torch.float32)
    stream, sizes = parts[0].stream(*parts[1:]), []
    for second in range(1, 101):
        stream.push(some_speech(8000, seed=second, dtype=torch.float32))
        stream.text = ""
        if second in (10, 100):
            stream.save(tmp_path / "stream")
            sizes.append((tmp_path / "stream").stat().st_size)
    assert sizes[0] == sizes[1]
    held = [value for value in vars(stream).values() if isinstance(value, torch.Tensor)]
    held += [part for pair in stream.state for part in pair if part is not None]
    assert all(tensor.untyped_storage().nbytes() <= 4000 for tensor in held)  # no views of what was heard


@pytest.mark.parametrize(
    "place", ["model", "model.layers.0", "model.layers.1.rnn", "lm_head", "model.input_projection"]
)
def test_what_is_hooked_onto_a_module_between_pieces_is_run(place):
    parts = parts_of({"cell_type": "gru"})
    stream, speech, calls = parts[0].stream(*parts[1:]), some_speech(3 * STEP), []
    stream.push(speech[:STEP])
    hook = parts[0].get_submodule(place).register_forward_hook(lambda *_: calls.append(place))
    got = logits_of(stream, [speech[STEP : 2 * STEP]])
    assert calls
    hook.remove()
    got = torch.cat([got, logits_of(stream, [speech[2 * STEP :]])])
    assert len(calls) == 1
    torch.testing.assert_close(got, whole_of(parts, speech)[0][1:], **CLOSE)


def test_streams_are_heard_under_autocast():
    parts, speech = parts_of({"cell_type": "gru"}, dtype=torch.float32), some_speech(9 * STEP, dtype=torch.float32)
    stream = parts[0].stream(*parts[1:])
    stream.push(speech[:STEP])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = logits_of(stream, speech[STEP:].split(STEP)), whole_of(parts, speech)[0][1:]
    torch.testing.assert_close(got.float(), expected.float(), rtol=0.05, atol=0.05)


def test_reparametrized_weights_are_heeded():
    class Half(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    parts, speech = parts_of({"cell_type": "lstm"}), some_speech(4 * STEP)
    register_parametrization(parts[0].lm_head, "weight", Half())
    register_parametrization(parts[0].model.layers[0].rnn, "weight_hh_l0", Half())
    got = logits_of(parts[0].stream(*parts[1:]), speech.split(STEP))
    torch.testing.assert_close(got, whole_of(parts, speech)[0], **CLOSE)


def test_a_piece_that_is_refused_leaves_all_streams_as_they_were():
    parts, speech = parts_of({"cell_type": "gru"}), some_speech(20 * STEP)
    streams = [parts[0].stream(*parts[1:]) for _ in range(2)]
    push_all(streams, [speech[: 7 * STEP + 9]] * 2)
    for wrong, message in (
        (torch.full((100,), torch.nan), r"`samples\[1\]` has samples that are not finite"),
        (torch.zeros(100, 2), r"`samples\[1\]` must have one channel"),
        (torch.ones(100, dtype=torch.int16), "divide samples of 16 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            push_all(streams, [speech[:500], wrong])
    for wrong, message in (
        ((streams, [speech]), "one piece a stream: 2 streams, 1 pieces"),
        ((streams[:1] * 2, [speech] * 2), "a stream twice"),
        ((streams[:1] + [parts_of({"cell_type": "gru"})[0].stream(*parts[1:])], [speech] * 2), "several models"),
    ):
        with pytest.raises(ValueError, match=message):
            push_all(*wrong)
    push_all(streams, [speech[7 * STEP + 9 :]] * 2)
    assert [stream.text for stream in streams] == [whole_of(parts, speech)[1]] * 2


def test_a_finished_stream_hears_no_more(tmp_path):
    parts = parts_of({"cell_type": "gru"})
    stream = parts[0].stream(*parts[1:])
    stream.push(some_speech(STEP))
    assert stream.finish() == ""
    for more in (lambda: stream.push(some_speech(STEP)), stream.finish, lambda: stream.save(tmp_path / "stream")):
        with pytest.raises(ValueError, match="the stream is finished"):
            more()


def test_parts_that_do_not_fit_are_refused_by_name():
    model, extractor, tokenizer = parts_of({"cell_type": "gru"})
    both, *_ = parts_of({"cell_type": "gru", "bidirectional": True})
    for wrong, message in (
        ((both, extractor, tokenizer), "a stream of speech is not for a network with `bidirectional=True`"),
        ((parts_of({})[0].train(), extractor, tokenizer), "training mode"),
        ((model, RNNFeatureExtractor(**{**SIZES, "feature_size": 5}), tokenizer), "`feature_size` 5, that of the"),
        ((model, RNNFeatureExtractor(**{**SIZES, "hop_length": 25}), tokenizer), "`hop_length` 25, that of the"),
        ((model, extractor, RNNCTCTokenizer.build(["a"])), "`tokenizer` is not that of the model"),
    ):
        with pytest.raises(ValueError, match=message):
            RNNSpeechStream(*wrong)


def test_a_saved_stream_is_loaded_for_its_own_model_and_features_only(tmp_path):
    parts, path = parts_of({"cell_type": "gru"}), tmp_path / "stream"
    parts[0].stream(*parts[1:]).save(path)
    other_model, other_features = parts_of({"cell_type": "rnn"})[0], parts_of({}, level_decay=10.0)[1]
    for wrong in ((other_model, *parts[1:]), (parts[0], other_features, parts[2])):
        with pytest.raises(ValueError, match="is the stream of another model"):
            RNNSpeechStream.load(path, *wrong)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole file of a stream"):
        RNNSpeechStream.load(path, *parts)
