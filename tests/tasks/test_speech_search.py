"""Labels in logits: every way to scores and texts gives what `RNNForCTC.generate` gives; mistakes by name."""

import pytest
import torch
from networks import make_words_depend_on_the_past
from speech_files import encoded, tone

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC, RNNSpeechConfig
from rnn_hf.data.audio import find_audio
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import InputError
from rnn_hf.models.beam_rnn import LabelLanguageModel, beam_search
from rnn_hf.tasks.automatic_speech_recognition import predict, scores_of
from rnn_hf.tasks.speech_rows import Row, features_of
from rnn_hf.tasks.speech_search import BEST_PATH, Search, load_search


TOKENIZER = RNNCTCTokenizer.build(["three low high"], unit="words")
SPOKEN = "three low high eight seven six five four two"  # with the end and "<unk>" 11 tokens


@pytest.fixture(scope="module")
def language_model(make_model, tmp_path_factory):
    """The directory of a language model of words."""
    folder = str(tmp_path_factory.mktemp("words"))
    model = make_model({}, seed=3, embedding_size=6, hidden_size=8, tie_word_embeddings=False, dtype=torch.float32)
    make_words_depend_on_the_past(model)
    model.save_pretrained(folder)
    build_tokenizer([SPOKEN]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer():
    torch.manual_seed(0)
    model = RNNForCTC(RNNSpeechConfig(vocab_size=len(TOKENIZER), hidden_size=8)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(9)
    return model


def some_logits(*steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [1.5 * torch.randn(length, len(TOKENIZER), generator=generator) for length in steps]


def test_the_best_path_is_the_default():
    (logits,) = some_logits(9)
    assert torch.equal(BEST_PATH(logits, 0), logits.argmax(-1)) and load_search(TOKENIZER) == BEST_PATH


def test_a_language_model_is_loaded_for_the_labels(language_model):
    search = load_search(TOKENIZER, 4, language_model, 0.7, 0.3)
    assert not search.language_model.model.training
    for logits in some_logits(0, 1, 14):
        expected = beam_search(logits[None], torch.tensor([len(logits)]), 0, 4, search.language_model, 0.7, 0.3)[0]
        assert torch.equal(search(logits, 0), expected)
    assert not torch.equal(expected, Search(4, length_bonus=0.3)(logits, 0))
    by_hand = LabelLanguageModel(search.language_model.model, build_tokenizer([SPOKEN]), TOKENIZER)
    assert by_hand.token_ids == search.language_model.token_ids


@pytest.mark.parametrize("settings", [(3,), (1, "language model"), (3, "language model", 2.0, 1.0), (1, None, 0, 1.0)])
def test_scores_are_those_of_what_is_found(language_model, settings):
    settings = [language_model if part == "language model" else part for part in settings]
    search, outputs = load_search(TOKENIZER, *settings), some_logits(12, 5, 0, 9)
    texts = [TOKENIZER.decode(search(logits, 0)) for logits in outputs]
    rows = [Row(torch.zeros(0), text, None, 1, "") for text in texts]
    right, by_best_path = (scores_of(outputs, rows, TOKENIZER, None, way) for way in (search, BEST_PATH))
    assert right.values["wer"] == 0 < by_best_path.values["wer"] and right.loss == by_best_path.loss > 0


def test_files_are_heard_as_generate_hears_them(recognizer, language_model, tmp_path):
    for number, word in enumerate(("three", "low", "high")):
        (tmp_path / f"{number}.wav").write_bytes(encoded(tone(word, "ann", number)))
    search, extractor, files = (
        load_search(TOKENIZER, 3, language_model),
        RNNFeatureExtractor(),
        find_audio(str(tmp_path)),
    )
    answers = list(predict(recognizer, TOKENIZER, extractor, files, timestamps=True, search=search))
    assert answers != list(predict(recognizer, TOKENIZER, extractor, files, timestamps=True)) and len(answers) == 3
    for answer, file in zip(answers, files, strict=True):
        features = features_of(file.samples(8000)[0], extractor)[None]
        path = recognizer.generate(features, num_beams=3, language_model=search.language_model)[0]
        heard = TOKENIZER.decode(path, output_word_offsets=True)
        assert answer["text"] == heard.text != ""
        times = [(word["start"], word["end"]) for word in answer["words"]]
        offsets = [(word["start_offset"], word["end_offset"]) for word in heard.word_offsets]
        assert times == [(round(0.03 * start, 3), round(0.03 * end, 3)) for start, end in offsets]


def test_mistakes_are_named(recognizer, language_model, tmp_path):
    recognizer.save_pretrained(tmp_path / "recognizer")
    TOKENIZER.save_pretrained(tmp_path / "recognizer")
    other = RNNCTCTokenizer.build(["three nine"], unit="words")
    for settings, said in (
        ((0,), "`num_beams` must be a whole number, at least 1, got 0"),
        ((2, None, -1), "`language_model_weight` must be"),
        ((2, language_model, -1), "`language_model_weight` must be"),
        ((1, None, 1, float("nan")), "`length_bonus` must be"),
        ((2, str(tmp_path / "recognizer")), "is a model of another task: an RNNForCTC"),
    ):
        with pytest.raises(InputError, match=said):
            load_search(TOKENIZER, *settings)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_search(TOKENIZER, 2, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=f"`language_model` {language_model} does not fit: .*1 labels.*'nine'"):
        load_search(other, 2, language_model)
