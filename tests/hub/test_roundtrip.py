"""What is pushed loads back by name through every Auto class: with rnn_hf, and for a stranger who cannot import it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from transformers.dynamic_module_utils import get_relative_import_files

from rnn_hf import RNNConfig, RNNForCausalLM, RNNModel
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.hub import client as hub
from rnn_hf.models import modeling_rnn


ROOT = Path(__file__).parents[2]
CELL_TYPES = ("lstm", "gru", "rnn")
IDS = torch.tensor([[2, 3, 4], [5, 6, 2]])
CODE = {Path(file).name for file in (modeling_rnn.__file__, *get_relative_import_files(modeling_rnn.__file__))}

STRANGER = """
import importlib.abc, sys

class NoPackage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "rnn_hf" or name.startswith("rnn_hf."):
            raise ImportError("this process has no rnn_hf")

sys.meta_path.insert(0, NoPackage())
try:
    import rnn_hf
except ImportError:
    pass
else:
    raise SystemExit("rnn_hf could be imported: the test would prove nothing")
options, home = {"trust_remote_code": True}, "transformers_modules"
"""
FRIEND = """
import rnn_hf
options, home = {}, "rnn_hf.models"
"""
LOAD = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

ids, seen = torch.tensor([[2, 3, 4], [5, 6, 2]]), {}
for cell_type in ("lstm", "gru", "rnn"):
    name = f"me/{cell_type}"
    model = AutoModelForCausalLM.from_pretrained(name, **options)
    assert type(model).__module__.startswith(home) and type(model).__name__ == "RNNForCausalLM", type(model)
    backbone = AutoModel.from_pretrained(name, **options)
    assert torch.equal(backbone.embed_tokens.weight, model.model.embed_tokens.weight)
    assert type(backbone).__name__ == "RNNModel"
    assert AutoConfig.from_pretrained(name, **options).cell_type == model.config.cell_type == cell_type
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    text = pipeline("text-generation", name, **options)("the cat", max_new_tokens=3, do_sample=False)
    assert text[0]["generated_text"].startswith("the cat "), text
    tokens = model.generate(ids, max_new_tokens=4, num_beams=2, pad_token_id=0, eos_token_id=None)
    first = AutoModelForCausalLM.from_pretrained(name, revision="v1", **options)
    seen[cell_type] = {
        "logits": model(ids).logits.tolist(), "first": first(ids).logits.tolist(), "tokens": tokens.tolist(),
        "tokenizer": tokenizer("the cat")["input_ids"],
    }
backbone = AutoModel.from_pretrained("me/backbone", **options)
seen["backbone"] = backbone(ids).last_hidden_state.tolist()
print(json.dumps(seen))
"""
# What a stranger saves loads for the next one; and what transformers itself pushes.
SAVE_AGAIN = """
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
reloaded = AutoModelForCausalLM.from_pretrained(sys.argv[1], **options)
assert torch.equal(reloaded(ids).logits, model(ids).logits)
"""
PUSH_AGAIN = """
model.push_to_hub("me/by-transformers", private=True)
tokenizer.push_to_hub("me/by-transformers")
"""
LOAD_PUSHED = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("me/by-transformers", **options)
print(len(AutoTokenizer.from_pretrained("me/by-transformers", **options)), model.config.cell_type)
"""


def save_model(directory, cell_type, seed, model_class=RNNForCausalLM):
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(["the cat sat on the mat"])
    fields = {"embedding_size": 6, "output_projection_size": 6} if cell_type == "lstm" else {}
    config = RNNConfig(vocab_size=len(tokenizer), hidden_size=8, cell_type=cell_type, initializer_range=1.0, **fields)
    model = model_class(config).eval()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A Hub that holds a model of each cell, each with an older revision `v1`, and a bare backbone; and the models."""
    directory = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch, HubServer() as server:
        server.connect(patch)
        models = {}
        for cell_type in CELL_TYPES:
            models[cell_type, "v1"] = save_model(directory / cell_type, cell_type, seed=1)
            hub.push(directory / cell_type, f"me/{cell_type}", tag="v1")
            models[cell_type] = save_model(directory / cell_type, cell_type, seed=2)
            hub.push(directory / cell_type, f"me/{cell_type}")
        models["backbone"] = save_model(directory / "backbone", "gru", seed=3, model_class=RNNModel)
        hub.push(directory / "backbone", "me/backbone")
        yield server, models


def client(server, home, code, *argv, preexec=None, **environment):
    """Run code in a process whose Hub is the server; `home` keeps its caches."""
    home.mkdir(exist_ok=True)
    variables = os.environ | server.environment(home, "hf_write") | {"OMP_NUM_THREADS": "1"} | environment
    variables.pop("PYTHONPATH", None)
    if FRIEND in code:
        variables["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        capture_output=True, text=True, env=variables, cwd=home, check=False, preexec_fn=preexec,
    )  # fmt: skip


def assert_is_what_was_pushed(result, models):
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    for cell_type in CELL_TYPES:
        got, model, first = seen[cell_type], models[cell_type], models[cell_type, "v1"]
        assert torch.allclose(torch.tensor(got["logits"]), model(IDS).logits, atol=1e-6)
        assert torch.allclose(torch.tensor(got["first"]), first(IDS).logits, atol=1e-6)
        expected = model.generate(IDS, max_new_tokens=4, num_beams=2, pad_token_id=0, eos_token_id=None)
        assert got["tokens"] == expected.tolist()
        assert got["tokenizer"] == [2, 3]
    assert torch.allclose(torch.tensor(seen["backbone"]), models["backbone"](IDS).last_hidden_state, atol=1e-6)


@pytest.mark.slow
def test_a_stranger_loads_generates_and_saves_again_and_does_it_all_offline(pushed, tmp_path):
    server, models = pushed
    result = client(server, tmp_path, STRANGER + LOAD + SAVE_AGAIN, tmp_path / "again")
    assert_is_what_was_pushed(result, models)
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == CODE
    asked = len(server.requests)
    assert_is_what_was_pushed(client(server, tmp_path, STRANGER + LOAD, HF_HUB_OFFLINE="1"), models)
    assert len(server.requests) == asked


@pytest.mark.slow
def test_who_has_the_package_loads_and_does_it_offline_and_transformers_own_push_works(pushed, tmp_path):
    server, models = pushed
    assert_is_what_was_pushed(client(server, tmp_path, FRIEND + LOAD + PUSH_AGAIN), models)
    asked = len(server.requests)
    assert_is_what_was_pushed(client(server, tmp_path, FRIEND + LOAD, HF_HUB_OFFLINE="1"), models)
    assert len(server.requests) == asked
    assert set(server.files("me/by-transformers")) >= CODE | {"model.safetensors", "tokenizer.json", "README.md"}
    for who in (STRANGER, FRIEND):
        result = client(server, tmp_path / str(len(who)), who + LOAD_PUSHED)
        assert result.stdout.split() == ["7", "rnn"], result.stderr[-2000:]


LOAD_NAMES = """
import os, sys
from rnn_hf.loading import load_model

for name, token in (("me/missing", ""), ("me/gru", "hf_nonsense"), ("me/secret", ""), ("me/secret", "hf_read")):
    os.environ["HF_TOKEN"] = token
    try:
        load_model(name)
    except ValueError as error:
        print(error)
    else:
        print("loaded", name)
"""


@pytest.mark.slow
def test_a_name_that_does_not_load_says_what_to_do(pushed, tmp_path, monkeypatch):
    server, _ = pushed
    server.connect(monkeypatch)
    save_model(tmp_path / "secret", "gru", seed=4)
    hub.push(tmp_path / "secret", "me/secret", private=True)
    result = client(server, tmp_path, FRIEND + LOAD_NAMES)
    missing, wrong_token, no_token, loaded = result.stdout.splitlines()
    for message in (missing, no_token):
        assert "is not a valid model identifier" in message and "hf auth login" in message
    assert "cannot load the model me/gru: the Hub does not accept the access token" in wrong_token
    assert loaded == "loaded me/secret"
    offline = client(server, tmp_path / "cold", FRIEND + LOAD_NAMES, HF_HUB_OFFLINE="1")
    assert offline.stdout.count("couldn't find them in the cached files") == 4


# Downloads that go wrong.

LOAD_ONE = """
from transformers import AutoModelForCausalLM
try:
    model = AutoModelForCausalLM.from_pretrained("me/large", **options, **eval(__import__("sys").argv[1]))
except OSError as error:
    print("refused:", *str(error).split())
else:
    print("loaded", float(model.lm_head.weight.sum()))
"""


@pytest.fixture
def large(pushed, tmp_path, monkeypatch):
    """`load(**options)` loads a model of a megabyte in a process of its own; returns what that printed."""
    server, _ = pushed
    server.connect(monkeypatch)
    tokenizer = build_tokenizer(["the cat sat on the mat"])
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=128))
    model.save_pretrained(tmp_path / "large")
    hub.push(tmp_path / "large", "me/large")

    def load(who=FRIEND, preexec=None, **options):
        result = client(server, tmp_path, who + LOAD_ONE, options, preexec=preexec)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout.splitlines()[-1]

    load.server, load.loaded = server, f"loaded {float(model.lm_head.weight.sum())}"
    yield load
    server.clear_faults()


@pytest.mark.slow
@pytest.mark.parametrize("who", [FRIEND, STRANGER], ids=["friend", "stranger"])
def test_weights_with_a_wrong_byte_are_refused_and_loaded_when_fetched_again(large, who):
    large.server.fault("get", "corrupt")
    assert large(who).startswith("refused: the weights of me/large are damaged (checksum of ")
    assert "force_download=True" in large(who)  # still there, still refused
    assert large(who, force_download=True) == large.loaded
    assert large(who) == large.loaded


@pytest.mark.slow
def test_a_download_that_breaks_off_goes_on(large):
    large.server.fault("get", "drop", times=2)
    assert large() == large.loaded


@pytest.mark.slow
def test_weights_that_come_too_short_are_refused_and_a_second_run_finishes(large):
    large.server.fault("get", "truncate", times=100)
    assert large().startswith("refused: ")
    large.server.clear_faults()
    assert large() == large.loaded


@pytest.mark.slow
def test_a_full_disk_is_named_and_a_second_run_finishes(large):
    def half_a_megabyte():
        # The kernel then refuses to write on, as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    message = large(preexec=half_a_megabyte)
    assert message.startswith("refused: no space for me/large in ") and "set HF_HOME" in message
    assert large() == large.loaded
