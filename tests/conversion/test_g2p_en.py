"""The layout of g2p-en with random weights: equal to its equations, in float64 NumPy, letter by letter."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from rnn_hf.conversion import convert
from rnn_hf.conversion.g2p_en import LETTERS, PHONEMES
from rnn_hf.errors import InputError
from rnn_hf.translation import translate


WIDTH, EMBEDDING = 6, 4
WORDS = ["recurrent", "a", "Café", "it's", "zyzzyva"]


def arrays(seed=0, letters=len(LETTERS), phonemes=len(PHONEMES)):  # noqa: B008
    """What such a file holds, small."""
    generator = np.random.default_rng(seed)
    shapes = {"fc_w": (phonemes, WIDTH), "fc_b": (phonemes,)}
    for side, rows in (("enc", letters), ("dec", phonemes)):
        shapes |= {f"{side}_emb": (rows, EMBEDDING), f"{side}_w_ih": (3 * WIDTH, EMBEDDING)}
        shapes |= {f"{side}_w_hh": (3 * WIDTH, WIDTH), f"{side}_b_ih": (3 * WIDTH,), f"{side}_b_hh": (3 * WIDTH,)}
    made = {name: generator.uniform(-1.5, 1.5, shape).astype("float32") for name, shape in shapes.items()}
    made["fc_b"][:4] -= [9, 0, 9, -1.5]  # so that words end, at times, and what is no phoneme is not written
    return made


def step(weights, side, row, hidden):
    """h of Cho et al. (2014), with the reset gate behind the product, as torch and g2p-en have it."""
    of_input = weights[f"{side}_w_ih"] @ row + weights[f"{side}_b_ih"]
    of_state = weights[f"{side}_w_hh"] @ hidden + weights[f"{side}_b_hh"]
    (r, z, n), (u, v, w) = np.split(of_input, 3), np.split(of_state, 3)
    reset, update = 1 / (1 + np.exp(-r - u)), 1 / (1 + np.exp(-z - v))
    return (1 - update) * np.tanh(n + reset * w) + update * hidden


def logits_of(weights, letters, phonemes):
    """Of each phoneme of a word that is given, the logits of the next one."""
    hidden = np.zeros(WIDTH)
    for index in letters:
        hidden = step(weights, "enc", weights["enc_emb"][index], hidden)
    rows = []
    for index in phonemes:
        hidden = step(weights, "dec", weights["dec_emb"][index], hidden)
        rows.append(weights["fc_w"] @ hidden + weights["fc_b"])
    return np.stack(rows)


def letters_of(word):
    plain = word.lower().replace("é", "e")
    return [LETTERS.index(letter) if letter in LETTERS else 1 for letter in plain] + [LETTERS.index("</s>")]


def phonemes_of(weights, word):
    """The likeliest phoneme each time, 20 at most."""
    start, end = PHONEMES.index("<s>"), PHONEMES.index("</s>")
    ids = [start]
    while len(ids) < 21 and ids[-1] != end:
        ids.append(int(logits_of(weights, letters_of(word), ids)[-1].argmax()))
    return [PHONEMES[index] for index in ids[1:] if index != end]


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_class_for_translation_is_its_equations(tmp_path, seed):
    given = arrays(seed)
    np.savez(tmp_path / "checkpoint.npz", **given)
    done = convert(tmp_path / "checkpoint.npz", tmp_path / "out", license="apache-2.0")
    assert done.format == "g2p-en" and done.difference < 1e-12
    weights = {name: array.astype("float64") for name, array in given.items()}
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = [" ".join(phonemes_of(weights, word)) for word in WORDS]
    assert len(set(expected)) > 2
    assert translate(model, tokenizer, WORDS, num_beams=1) == expected
    phonemes = np.random.default_rng(seed).integers(len(PHONEMES), size=(len(WORDS), 6))
    batch = tokenizer(WORDS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.double()(**batch, decoder_input_ids=torch.from_numpy(phonemes)).logits.numpy()
    for word, row, got in zip(WORDS, phonemes, logits, strict=True):
        np.testing.assert_allclose(got, logits_of(weights, letters_of(word), row), rtol=0, atol=1e-12)


def test_a_file_of_other_letters_has_no_tokenizer_but_the_one_that_is_given(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(letters=5, phonemes=7))
    assert convert(tmp_path / "a.npz", tmp_path / "out").vocabulary is None
    (tmp_path / "read").write_text("<pad>\n<unk>\n</s>\na\nb\n")
    (tmp_path / "written").write_text("<pad>\n<unk>\n<s>\n</s>\nAA\nB\nC\n")
    lists = {"vocab": tmp_path / "read", "target_vocab": tmp_path / "written"}
    assert convert(tmp_path / "a.npz", tmp_path / "out2", **lists).vocabulary == 9


def test_what_is_not_whole_or_not_of_that_kind_is_refused(tmp_path):
    whole = arrays()
    changes = {
        "it lacks 'enc_b_hh'": {name: array for name, array in whole.items() if name != "enc_b_hh"},
        r"attn_w \[3\]|attention": whole | {"attn_w": np.ones(3)},
        r"more \[3\]": whole | {"more": np.ones(3)},
        "no GRUs": whole
        | {f"{side}_{name}": np.ones((4 * WIDTH, 1)) @ np.ones((1, size))
           for side in ("enc", "dec") for name, size in (("w_ih", EMBEDDING), ("w_hh", WIDTH))}
        | {f"{side}_b_{name}": np.ones(4 * WIDTH) for side in ("enc", "dec") for name in ("ih", "hh")},
        "no LSTM, GRU": whole | {"enc_w_ih": np.ones((5, EMBEDDING))},
        "no linear layer": whole | {"fc_w": np.ones((3, WIDTH))},
        "differs": whole | {"fc_b": np.full(len(PHONEMES), np.nan)},
    }  # fmt: skip
    for index, (words, content) in enumerate(changes.items()):
        np.savez(tmp_path / f"{index}.npz", **content)
        with pytest.raises(InputError, match=words):
            convert(tmp_path / f"{index}.npz", tmp_path / "out")
        assert not (tmp_path / "out" / "config.json").exists()
