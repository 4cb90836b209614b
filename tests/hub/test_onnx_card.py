"""Exported models of the Hub: run by name, without a network from the cache, and refused with a wrong byte."""

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from transformers import AutoTokenizer

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.hub import client as hub
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx.export import export_onnx
from rnn_hf.onnx.model import RNNONNXForCausalLM


IDS = torch.tensor([[2, 3, 4], [5, 6, 2]])


@pytest.fixture
def pushed(tmp_path, monkeypatch):
    """A Hub that holds an export of over a megabyte, which it keeps as a large file; and the model."""
    tokenizer = build_tokenizer(["the cat sat on the mat"])
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=150, initializer_range=1.0)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", tmp_path / "onnx")
    with HubServer() as server:
        server.connect(monkeypatch)
        address = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        hub.push(tmp_path / "onnx", "me/cat", tag="v1")
        yield server, model


@pytest.fixture
def load(tmp_path):
    """`load(**options)` runs what the Hub has, with a cache of the test's own."""
    return lambda **options: RNNONNXForCausalLM.from_pretrained("me/cat", cache_dir=tmp_path / "cache", **options)


@torch.no_grad()
def assert_is_what_was_pushed(runner, model):
    assert identity_of(runner) == identity_of(model)
    torch.testing.assert_close(runner(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(runner.generate(IDS, **options), model.generate(IDS, **options))


def test_what_was_pushed_runs_by_name_and_does_it_offline(pushed, load, tmp_path, monkeypatch):
    server, model = pushed
    assert_is_what_was_pushed(load(), model)
    assert_is_what_was_pushed(load(revision="v1"), model)
    assert AutoTokenizer.from_pretrained("me/cat", cache_dir=tmp_path / "cache")("the cat")["input_ids"] == [2, 3]
    asked = len(server.requests)
    assert_is_what_was_pushed(load(local_files_only=True), model)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert_is_what_was_pushed(load(), model)
        assert_is_what_was_pushed(load(revision="v1"), model)
    assert len(server.requests) == asked


def test_a_file_with_a_wrong_byte_is_refused_and_run_when_fetched_again(pushed, load):
    server, model = pushed
    server.fault("get", "corrupt")
    for _ in range(2):  # still there, still refused
        with pytest.raises(OSError, match=r"the weights of me/cat are damaged \(checksum of .*force_download=True"):
            load()
    assert_is_what_was_pushed(load(force_download=True), model)
    assert_is_what_was_pushed(load(), model)


def test_only_the_file_that_is_run_has_to_be_whole(pushed, load):
    server, model = pushed
    load()
    server.commit("me/cat", {"model_int8.onnx": b"?" * 2_000_000})
    server.fault("get", "corrupt")
    with pytest.raises(OSError, match=r"damaged \(checksum of .*model_int8.onnx\)"):
        load(file_name="model_int8.onnx")
    assert_is_what_was_pushed(load(), model)


def test_a_download_that_comes_too_short_is_refused_and_a_second_try_finishes(pushed, load):
    server, model = pushed
    server.fault("get", "truncate", times=100)
    with pytest.raises(OSError):
        load()
    server.clear_faults()
    assert_is_what_was_pushed(load(), model)
