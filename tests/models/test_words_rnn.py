"""Words from pieces and characters: every cut of a word reads alike, padding and batches change nothing."""

import copy

import numpy as np
import pytest
import reference
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from networks import DROPOUTS, assert_same_gradients, gradients_of
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM, RNNForSequenceClassification, RNNForTokenClassification
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.models.words_rnn import NO_ROW, Spelling


CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SENTENCES = [["The", "cat", "can't", "sit", "."], ["the", "cat", "sat"], ["a", "unheard-of", "cat", "sat", "the"]]
COUNTS = {"The": 2, "the": 3, "cat": 5, "sat": 2, ".": 1, "a": 1}

both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])


@pytest.fixture(scope="session")
def tokenizer():
    """Whole are `the`, `cat` and `sat`, which occur twice, and characters."""
    return build_wordpiece(SENTENCES, pieces="characters")


@pytest.fixture(scope="session")
def make_tagger(make_model, tokenizer):
    """`make_tagger(cell, **fields)`: as `make_model`, a tagger that reads the characters of `tokenizer`'s words."""

    def make(cell, counts=None, model_class=RNNForTokenClassification, spelling=None, **fields):
        spelling = spelling or Spelling.of(tokenizer, counts)
        sizes = {"character_embedding_size": 3, "character_hidden_size": 2, "num_labels": 4, **spelling.sizes}
        fields = {"bidirectional": True, **sizes, **fields}
        model = make_model(cell, model_class=model_class, **fields)
        model.model.words.set_spelling(spelling)
        return model

    return make


def ids_of(tokenizer, *texts: str) -> torch.Tensor:
    """Ids of texts whose pieces are written apart, padded on the right."""
    rows = [torch.tensor(tokenizer.convert_tokens_to_ids(text.split())) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def char_vectors(model, ids, mask=None) -> torch.Tensor:
    return model.model.words(ids, mask)[1]


# The spelling of a vocabulary


def test_words_of_one_lower_case_form_share_a_row_and_continued_pieces_have_none(tokenizer):
    spelling, tokens = Spelling.of(tokenizer), tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    rows = dict(zip(tokens, spelling.rows.tolist(), strict=True))
    assert rows["T"] == rows["t"] > NO_ROW and rows["cat"] > NO_ROW and rows["[UNK]"] == rows["[PAD]"] == NO_ROW
    assert {rows[token] for token in tokens if token.startswith("##")} == {-1}
    assert len(set(rows.values()) - {0, -1}) == spelling.sizes["num_word_rows"] - 1 == max(rows.values())
    starts = [0, *spelling.ends.tolist()]
    letters = [spelling.characters[start:end].tolist() for start, end in zip(starts, starts[1:], strict=False)]
    of = dict(zip(tokens, letters, strict=True))
    assert of["cat"] == of["c"] + of["##a"] + of["t"] and of["a"] == of["##a"] != of["t"] and not of["[UNK]"]
    assert of["T"] != of["t"]
    assert spelling.sizes["num_characters"] == len({token.removeprefix("##") for token in tokens if of[token]} - {
        "the", "cat", "sat"
    })  # fmt: skip


def test_with_counts_words_that_never_occur_have_no_row(tokenizer):
    spelling = Spelling.of(tokenizer, COUNTS)
    rows = dict(zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), spelling.rows.tolist(), strict=True))
    with_row = {word for word, row in rows.items() if row > NO_ROW}
    assert with_row == {"the", "cat", "sat", ".", "a"}
    assert spelling.counts[rows["the"]] == 5 and spelling.counts[rows["a"]] == 1 and spelling.counts[NO_ROW] == 0


def test_other_tokenizers_and_other_vocabularies_are_refused(tokenizer, make_tagger):
    with pytest.raises(ValueError, match="`tokenizer`.*WordPiece"):
        Spelling.of(build_tokenizer(["the cat"]))
    model = make_tagger({})
    with pytest.raises(ValueError, match=r"rows.*spelling.sizes"):
        model.model.words.set_spelling(Spelling.of(build_wordpiece(["another text"])))
    spelling = Spelling.of(tokenizer)
    with pytest.raises(ValueError, match="`rare_word_dropout`.*counts"):
        make_tagger({}, spelling=spelling, rare_word_dropout=0.5)


def test_a_vocabulary_without_spelling_is_refused(make_tagger, tokenizer):
    model = make_tagger({})
    fresh = RNNForTokenClassification(copy.deepcopy(model.config))
    with pytest.raises(ValueError, match="set_spelling"):
        fresh(ids_of(tokenizer, "the cat"))


# Reading


CUTS = ["cat", "c ##at", "ca ##t", "c ##a ##t"]


@pytest.fixture(scope="session")
def cutting(tokenizer):
    """The tokenizer with more pieces, so that a word may be cut in several ways."""
    vocabulary = dict(tokenizer.get_vocab())
    for piece in ("ca", "##at", "##heard", "un"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = copy.deepcopy(tokenizer)
    model = tokenizer.backend_tokenizer.model
    tokenizer.backend_tokenizer.model = type(model)(vocabulary, unk_token="[UNK]")
    return tokenizer


def test_a_word_reads_alike_however_it_is_cut(make_tagger, cutting, cell):
    model = make_tagger(cell, spelling=Spelling.of(cutting))
    vectors = [char_vectors(model, ids_of(cutting, cut))[0] for cut in CUTS]
    for vector in vectors:
        torch.testing.assert_close(vector, vectors[0][:1].expand_as(vector), **CLOSE)
    other = char_vectors(model, ids_of(cutting, "c ##t ##a"))
    assert not torch.allclose(other[0, :1], vectors[0])
    with torch.no_grad():  # without the row of the whole word, nothing else knows of the cut
        model.model.embed_tokens.weight.zero_()
    logits = [model(ids_of(cutting, f"the {cut} sat")).logits[0] for cut in CUTS]
    for of_cut in logits:
        torch.testing.assert_close(of_cut[[0, 1, -1]], logits[0], **CLOSE)
        torch.testing.assert_close(of_cut[1:-1], logits[0][1:2].expand_as(of_cut[1:-1]), **CLOSE)


def test_the_row_counts_where_the_word_is_one_piece_alone(make_tagger, cutting):
    model = make_tagger({}, spelling=Spelling.of(cutting))
    before = [model(ids_of(cutting, f"the {cut} .")).logits for cut in CUTS]
    row = model.model.words.rows[cutting.convert_tokens_to_ids("cat")]
    with torch.no_grad():
        model.model.embed_tokens.weight[NO_ROW] += 100  # which no word has
        model.model.embed_tokens.weight[row] += 1
    after = [model(ids_of(cutting, f"the {cut} .")).logits for cut in CUTS]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, True, True]


def test_of_a_long_word_both_ends_are_read(make_tagger, cutting):
    model = make_tagger({}, spelling=Spelling.of(cutting), max_word_characters=5)

    def vector_of(letters):
        return char_vectors(model, ids_of(cutting, " ##".join(letters)))[0, 0]

    for word in ("catsat", "cathtsat"):
        torch.testing.assert_close(vector_of(word), vector_of("casat"), **CLOSE)
    torch.testing.assert_close(char_vectors(model, ids_of(cutting, "ca ##t ##s ##at"))[0, 0], vector_of("casat"))
    assert not any(torch.allclose(vector_of(word), vector_of("casat")) for word in ("chtsat", "catsah", "cattat"))


@st.composite
def batches(draw):
    """Ids, and masks with padding anywhere, between the pieces of a word too."""
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 9))

    def rows(elements):
        row = st.lists(elements, min_size=time, max_size=time)
        return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))

    return rows(st.integers(0, 29)), rows(st.booleans())


@both_directions
@given(batch=batches())
def test_a_text_in_a_batch_reads_as_alone(make_tagger, cell, bidirectional, batch):
    ids, mask = batch
    model = make_tagger(cell, bidirectional=bidirectional)
    ids = ids % model.config.vocab_size
    output = model(ids, mask, output_hidden_states=True)
    for row in [row for row in range(len(mask)) if mask[row].any()]:
        alone = model(ids[row, mask[row]][None], output_hidden_states=True)
        torch.testing.assert_close(output.logits[row, mask[row]], alone.logits[0], **CLOSE)
        for layer, of_layer in zip(output.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(layer[row, mask[row]], of_layer[0], **CLOSE)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "concat"])
def test_a_classifier_of_texts_pools_over_words_not_pieces(make_tagger, cutting, cell, pooling):
    fields = {"model_class": RNNForSequenceClassification, "spelling": Spelling.of(cutting), "pooling": pooling}
    model = make_tagger(cell, **fields)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    logits = [model(ids_of(cutting, f"the {cut} sat")).logits for cut in CUTS]
    for of_cut in logits:
        torch.testing.assert_close(of_cut, logits[0], **CLOSE)
    ids = ids_of(cutting, "c ##a ##t", "the c ##a ##t sat .")
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    torch.testing.assert_close(model(ids, mask).logits[:1], model(ids[:1, :3]).logits, **CLOSE)


def test_gradients_of_a_batch_are_those_of_its_rows(make_tagger, cell):
    torch.manual_seed(0)
    model = make_tagger(cell)
    ids, labels = torch.randint(2, model.config.vocab_size, (4, 8)), torch.randint(4, (4, 8))
    mask = torch.rand(4, 8) < 0.7
    labels = labels.masked_fill(~mask, -100)
    whole = model(ids, mask, labels=labels)
    whole.loss.backward()
    expected, count = gradients_of(model), (labels >= 0).sum()
    for row in range(4):
        real = mask[row]
        model(ids[row, real][None], labels=labels[row, real][None], num_items_in_batch=count).loss.backward()
    assert_same_gradients(gradients_of(model), expected, **CLOSE)


def test_a_row_that_begins_within_a_word_and_a_row_of_padding(make_tagger, tokenizer):
    model = make_tagger({})
    ids = ids_of(tokenizer, "##a ##t the")
    torch.testing.assert_close(char_vectors(model, ids)[0, 0], char_vectors(model, ids_of(tokenizer, "a ##t"))[0, 0])
    assert model.model.words.first_pieces(ids, None).tolist() == [[True, False, True]]
    for mask in (torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.long)):
        assert model(ids, mask).logits.isfinite().all()
    unknown = torch.full((1, 2), tokenizer.unk_token_id)
    assert not char_vectors(model, unknown).any() and model(unknown).logits.isfinite().all()


def test_characters_are_read_as_the_equations_say(make_tagger, tokenizer, cell):
    """A whole tagger in NumPy: characters, words, tags."""
    model = make_tagger(cell, num_hidden_layers=1)
    arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def run(layer: str, inputs: np.ndarray) -> np.ndarray:
        """A layer of both directions over `(T, size)`."""
        ways = []
        for way in ("rnn.", "reverse."):
            prefix = layer + way
            ways.append({name[len(prefix) : -3]: value for name, value in arrays.items() if name.startswith(prefix)})
        width = 2 * ways[0]["weight_hh"].shape[1]
        equations = reference.make_cell(model.config.cell_type, model.config.hidden_act)
        network = reference.Network(
            equations, inputs, ways[:1], np.zeros(1), output_weight=np.zeros((1, width)), reverse=ways[1:]
        )
        network.forward(np.arange(len(inputs))[None])
        return network.outputs[0]

    ids, spelling = ids_of(tokenizer, "the c ##a ##n ##' ##t cat"), Spelling.of(tokenizer)
    starts, vectors, size = [0, *spelling.ends.tolist()], [], model.config.character_hidden_size
    words = [[0], [1, 2, 3, 4, 5], [6]]
    for word in words:
        pieces = ids[0, word].tolist()
        letters = [int(c) for piece in pieces for c in spelling.characters[starts[piece] : spelling.ends[piece]]]
        outputs = run("model.words.layer.", arrays["model.words.embed_characters.weight"][letters])
        known = np.zeros(model.config.embedding_size)
        if len(word) == 1:
            known = arrays["model.embed_tokens.weight"][spelling.rows[pieces[0]]]
        vectors.append(np.concatenate([known, outputs[-1, :size], outputs[0, size:]]))
    outputs = run("model.layers.0.", np.stack(vectors))
    expected = outputs @ arrays["score.weight"].T + arrays["score.bias"]
    logits = model(ids).logits[0].detach().numpy()
    for word, of_word in zip(words, expected, strict=True):
        np.testing.assert_allclose(logits[word], np.tile(of_word, (len(word), 1)), rtol=1e-9, atol=1e-9)


# In training


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_acts_in_training_and_not_in_eval(make_tagger, tokenizer, cell, name):
    ids = ids_of(tokenizer, "the c ##a ##n cat sat .")
    expected = make_tagger(cell)(ids).logits
    model = make_tagger(cell, **{name: 0.5})
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0)
    torch.manual_seed(0)
    assert not torch.allclose(model.train()(ids).logits, model(ids).logits)


def test_rare_words_lose_their_row_in_training_as_often_as_said(make_tagger, tokenizer):
    model = make_tagger({}, counts=COUNTS, rare_word_dropout=2.0)
    ids = ids_of(tokenizer, "the cat .")
    expected = model.model.words(ids, None)[0]
    torch.manual_seed(0)
    words = model.model.words.train()
    kept = sum((words(ids, None)[0] == expected).double() for _ in range(300)) / 300
    assert expected.all() and torch.allclose(kept, torch.tensor([[5 / 7, 5 / 7, 1 / 3]], dtype=kept.dtype), atol=0.1)
    assert torch.equal(words.eval()(ids, None)[0], expected)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_equal_gradients(make_tagger, tokenizer, cell):
    model, ids = make_tagger(cell, **dict.fromkeys(DROPOUTS, 0.4)).train(), ids_of(tokenizer, "the c ##a ##n sat .")

    def gradients():
        torch.manual_seed(5)
        model(ids).logits.square().sum().backward()
        return gradients_of(model)

    expected = gradients()
    model.gradient_checkpointing_enable()
    assert_same_gradients(gradients(), expected)


# What does not go with it


def test_what_needs_a_state_is_refused_by_name(make_tagger, tokenizer):
    model, ids = make_tagger({}, bidirectional=False), ids_of(tokenizer, "the cat")
    assert not model.config.use_cache
    for make in (RNNCache, RNNForCausalLM):
        with pytest.raises(ValueError, match="`character_embedding_size`"):
            make(model.config)
    with pytest.raises(ValueError, match="`use_cache=True`.*`character_embedding_size`"):
        model.model(ids, use_cache=True)
    with pytest.raises(ValueError, match="`character_embedding_size`.*`inputs_embeds`"):
        model(inputs_embeds=torch.zeros(1, 2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="`character_embedding_size`.*resized"):
        model.resize_token_embeddings(50)


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"character_embedding_size": 3}, "`character_hidden_size` (0)"),
        ({"character_hidden_size": 3}, "`character_embedding_size` (0)"),
        ({"num_word_rows": 3}, "`num_word_rows` (3)"),
        ({"rare_word_dropout": 0.5}, "`rare_word_dropout`"),
        ({"max_word_characters": 1}, "`max_word_characters`"),
        ({"character_embedding_size": -1}, "`character_embedding_size` (-1)"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, name):
    with pytest.raises(StrictDataclassError) as refusal:
        RNNConfig(**fields)
    assert name in str(refusal.value)


# Saving, pipelines


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_saved_is_loaded_with_the_spelling(make_tagger, tokenizer, tmp_path, dtype):
    model = make_tagger({}, counts=COUNTS, dtype=dtype)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForTokenClassification.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype and torch.equal(loaded.state_dict()[name], value), name


def test_a_spelling_that_a_file_lacks_is_refused_when_it_is_needed(make_tagger, make_model, tokenizer, tmp_path):
    config = make_tagger({}).config
    make_model({}, vocab_size=config.vocab_size).save_pretrained(tmp_path)
    names = ("character_embedding_size", "character_hidden_size", *Spelling.of(tokenizer).sizes)
    fields = {name: getattr(config, name) for name in names}
    loaded = RNNForTokenClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **fields)
    assert not loaded.model.words.ends.any()
    with pytest.raises(ValueError, match="set_spelling"):
        loaded(ids_of(tokenizer, "the cat"))


def test_the_pipeline_gives_one_label_a_word_at_its_place_in_the_text(make_tagger, tokenizer, tmp_path):
    model = make_tagger({}, dtype=torch.float32, id2label=dict(enumerate("WXYZ")))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert Spelling.of(AutoTokenizer.from_pretrained(tmp_path)).rows.tolist() == model.model.words.rows.tolist()
    tag = pipeline("token-classification", model=str(tmp_path))
    for words in (["The", "cat", "can't", "."], ["zebra", "sat"]):
        pieces, text = tag([words], is_split_into_words=True)[0], " ".join(words)
        for word in words:
            start = text.index(word)
            of_word = [piece for piece in pieces if start <= piece["start"] < start + len(word)]
            assert "".join(text[piece["start"] : piece["end"]] for piece in of_word) == word
            assert len({piece["entity"] for piece in of_word}) == 1
            assert len({round(float(piece["score"]), 6) for piece in of_word}) == 1
