"""transformers' pipelines on a saved checkpoint: right spaces and words, and batches that equal single texts."""

import pytest
import torch
from transformers import pipeline

from rnn_hf import RNNConfig, RNNForCausalLM, RNNForSequenceClassification, RNNForTokenClassification
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.data.wordpiece import build_wordpiece


LINES = ["the cat sat on the mat , and the dog ran away from it ."]
PROMPTS = ["the cat", "the dog ran away from", "it", "the mat , and the gnu"]


@pytest.fixture
def checkpoint(tmp_path, cell):
    """A random model whose next word depends on its state, with its tokenizer."""
    torch.manual_seed(1)
    tokenizer = build_tokenizer(LINES)
    fields = {"hidden_size": 16, "embedding_size": 16, **cell}
    if cell.get("projection_size"):
        fields |= {"embedding_size": 3}
    config = RNNConfig(vocab_size=len(tokenizer), initializer_range=2.0, eos_token_id=0, pad_token_id=0, **fields)
    RNNForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_text_generation_goes_on_from_the_prompt_with_right_spaces_alone_and_in_batches(checkpoint):
    generator = pipeline("text-generation", model=checkpoint)
    # transformers 5.17 would take the space before punctuation out, whatever the tokenizer says.
    options = {"max_new_tokens": 6, "do_sample": False, "clean_up_tokenization_spaces": False}
    alone = [generator(prompt, **options)[0]["generated_text"] for prompt in PROMPTS]
    batched = [texts[0]["generated_text"] for texts in generator(PROMPTS, batch_size=4, **options)]
    assert batched == alone
    known = set(LINES[0].split()) | {"<unk>", "gnu"}
    for prompt, text in zip(PROMPTS, alone, strict=True):
        assert text == prompt or text.startswith(prompt + " ")
        assert set(text.split()) <= known
    new = generator(PROMPTS[0], return_full_text=False, **options)[0]["generated_text"]
    assert PROMPTS[0] + new == alone[0]


def test_feature_extraction_gives_the_outputs_of_the_last_layer(checkpoint):
    features = pipeline("feature-extraction", model=checkpoint)("the cat sat", return_tensors=True)
    assert features.shape[:2] == (1, 3) and torch.isfinite(features).all()


# Classifiers

TEXTS = ["The cat can't fail.", "A dog sat, and it ran", "unheard-of words: zzz"]


@pytest.fixture
def classifier(tmp_path, cell):
    """`classifier(kind, words=False, **fields)`: the path of a random one, over pieces of words, and itself."""

    def make(kind, texts=TEXTS[:2], **fields):
        torch.manual_seed(2)
        tokenizer = build_wordpiece(texts, min_frequency=1, pieces="characters")
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 8, "id2label": dict(enumerate("XYZ"))}
        config = RNNConfig(
            **{"initializer_range": 2.0, "pad_token_id": 0, "bidirectional": True, **sizes, **cell, **fields}
        )
        model = kind(config).eval()
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path), model, tokenizer

    return make


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification", "regression"])
def test_text_classification_gives_the_scores_of_the_logits_alone_and_in_batches(classifier, problem_type):
    path, model, tokenizer = classifier(RNNForSequenceClassification, pooling="concat", problem_type=problem_type)
    classify = pipeline("text-classification", model=path, top_k=None)
    for text, *answers in zip(TEXTS, classify(TEXTS), classify(TEXTS, batch_size=3), strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        if problem_type is None:
            logits = logits.softmax(-1)
        elif problem_type == "multi_label_classification":
            logits = logits.sigmoid()
        for answer in answers:
            scores = {each["label"]: each["score"] for each in answer}
            assert [scores[label] for label in "XYZ"] == pytest.approx(logits.tolist(), abs=1e-5)


def test_token_classification_gives_words_as_they_stand_in_the_text_alone_and_in_batches(classifier):
    path, model, tokenizer = classifier(RNNForTokenClassification)
    tag = pipeline("token-classification", model=path, aggregation_strategy="first")
    every = pipeline("token-classification", model=path)
    batches = zip(TEXTS, tag(TEXTS, batch_size=3), every(TEXTS, batch_size=3), strict=True)
    for text, in_batch, each_piece in batches:
        for alone, together in ((tag(text), in_batch), (every(text), each_piece)):
            assert [(word["start"], word["end"]) for word in together] == [
                (word["start"], word["end"]) for word in alone
            ]
            scores = [word["score"] for word in alone]
            assert [word["score"] for word in together] == pytest.approx(scores, abs=1e-5)
        with torch.no_grad():
            labels = model(**tokenizer(text, return_tensors="pt")).logits[0].argmax(-1)
        assert [word["entity"] for word in each_piece] == [model.config.id2label[label] for label in labels.tolist()]
        assert "".join(text[word["start"] : word["end"]] for word in each_piece) == text.replace(" ", "")


def test_token_classification_of_words_that_are_given_has_one_label_a_word(classifier):
    words = [["can't", "fail", "."], ["U.S.", "dogs"]]
    path, _, _ = classifier(RNNForTokenClassification, texts=words)
    tag = pipeline("token-classification", model=path, aggregation_strategy="first")
    for given, tagged in zip(words, tag(words, is_split_into_words=True), strict=True):
        joined = " ".join(given)
        merged = " ".join(joined[group["start"] : group["end"]] for group in tagged)
        assert merged == joined  # neighbours of one label are one group


def test_feature_extraction_takes_the_backbone_of_a_classifier(classifier):
    path, model, tokenizer = classifier(RNNForTokenClassification)
    features = pipeline("feature-extraction", model=path)(TEXTS[0], return_tensors=True)
    with torch.no_grad():
        expected = model.model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(features, expected)
