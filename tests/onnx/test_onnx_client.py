"""The manual's client runs where there is neither PyTorch nor transformers, and says what the model says."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.onnx.graph import build_graph


CLIENT = Path(__file__).parents[2] / "docs" / "onnx_client.py"
TOKENIZER = build_tokenizer(["the cat sat on a mat and saw dogs run far away from it"])
BARE = """
import importlib.abc, runpy, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rnn_hf", "tokenizers", "torch", "transformers"):
            raise ImportError(f"this process has no {name}")

sys.meta_path.insert(0, Nothing())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def client(*arguments):
    command = [sys.executable, "-c", BARE, CLIENT, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout.split()


def export(folder, model):
    (folder / "model.onnx").write_bytes(build_graph(model).SerializeToString())
    model.config.to_json_file(folder / "config.json")
    TOKENIZER.save_pretrained(folder)


def test_the_process_of_the_client_has_no_torch(tmp_path):
    for name in ("torch", "transformers", "tokenizers", "rnn_hf"):
        (tmp_path / "script.py").write_text(f"import {name}")
        run = subprocess.run([sys.executable, "-c", BARE, tmp_path / "script.py"], capture_output=True, check=False)
        assert f"this process has no {name}" in run.stderr.decode()


@pytest.mark.parametrize("cell_type", ["lstm", "gru"])
def test_the_client_says_what_generate_says_and_stops_at_the_end_token(make_model, cell_type, tmp_path):
    model = make_model({"cell_type": cell_type}, seed=1, vocab_size=len(TOKENIZER), dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(5)  # what comes next depends on what came before
    for prompt in ("the cat", "the gnu sat on", "run"):
        ids = TOKENIZER(prompt, return_tensors="pt").input_ids
        options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "bad_words_ids": [[1]]}
        expected = model.generate(ids, **options)[0, ids.shape[1] :]
        if prompt == "run":
            model.config.eos_token_id = model.generation_config.eos_token_id = int(expected[6])
            expected = model.generate(ids, **options)[0, ids.shape[1] :]
            assert len(expected) <= 7
        export(tmp_path, model)
        assert client(tmp_path, prompt, "--words", 12) == TOKENIZER.decode(expected).split()
    assert len(set(expected.tolist())) > 1


def test_the_word_for_unknown_words_is_said_only_where_it_is_allowed(make_model, tmp_path):
    model = make_model({"cell_type": "gru"}, vocab_size=len(TOKENIZER), dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.bias[1] = 100
    export(tmp_path, model)
    said = client(tmp_path, "the cat", "--words", 5)
    assert said and "<unk>" not in said
    assert client(tmp_path, "the cat", "--words", 5, "--with_unknown") == 5 * ["<unk>"]


def test_a_text_from_its_beginning_starts_after_the_begin_token_or_else_the_end_token(make_model, tmp_path):
    model = make_model({"cell_type": "gru"}, seed=1, vocab_size=len(TOKENIZER), dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(5)
    model.config.eos_token_id = model.generation_config.eos_token_id = 2
    texts = []
    for begin in (None, 0):
        model.config.bos_token_id = begin
        export(tmp_path, model)
        ids = torch.tensor([[2 if begin is None else begin]])
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "bad_words_ids": [[1]]}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, 1:]
        assert client(tmp_path, "", "--words", 8) == TOKENIZER.decode(expected).split()
        texts.append(expected.tolist())
    assert texts[0] != texts[1]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_draws_from_the_distribution(make_model, temperature, tmp_path):
    model = make_model({"cell_type": "gru"}, vocab_size=len(TOKENIZER), dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()  # the same odds at each place
    export(tmp_path, model)
    words = client(tmp_path, "the cat", "--words", 3000, "--temperature", temperature, "--with_unknown")
    expected = (model.lm_head.bias / temperature).softmax(0)
    ids = TOKENIZER.get_vocab()
    shares = torch.tensor([ids.get("▁" + word, ids.get(word)) for word in words])
    shares = shares.bincount(minlength=len(TOKENIZER)) / 3000
    assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / 3000).sqrt()).all()
