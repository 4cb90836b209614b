"""A stranger without rnn_hf loads what we save, by trust_remote_code."""

import subprocess
import sys

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer


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

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

directory, again = sys.argv[1:]
config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
backbone = AutoModel.from_pretrained(directory, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
ids = torch.load(f"{directory}/ids.pt")
assert torch.allclose(model(ids).logits, torch.load(f"{directory}/logits.pt"), atol=1e-6)
assert torch.equal(backbone.embed_tokens.weight, model.model.embed_tokens.weight)
assert type(backbone).__name__ == "RNNModel" and config.cell_type == model.config.cell_type
tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
tokens = model.generate(ids, max_new_tokens=4, num_beams=2, pad_token_id=0, eos_token_id=None)
generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
text = generator("the cat", max_new_tokens=3, do_sample=False)[0]["generated_text"]
assert text.startswith("the cat "), text
model.save_pretrained(again)  # what a stranger saves loads for the next one
tokenizer.save_pretrained(again)
reloaded = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
assert torch.equal(reloaded(ids).logits, model(ids).logits)
print(tokens.tolist())
"""


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_a_process_without_the_package_loads_generates_and_saves_again(tmp_path, cell_type, monkeypatch):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["the cat sat on the mat"])
    config = RNNConfig(vocab_size=len(tokenizer), hidden_size=8, cell_type=cell_type, initializer_range=1.0)
    model = RNNForCausalLM(config).eval()
    directory, again = tmp_path / "model", tmp_path / "again"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    ids = torch.tensor([[2, 3, 4], [5, 6, 2]])
    torch.save(ids, directory / "ids.pt")
    torch.save(model(ids).logits.detach(), directory / "logits.pt")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    result = subprocess.run(
        [sys.executable, script, directory, again], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    expected = model.generate(ids, max_new_tokens=4, num_beams=2, pad_token_id=0, eos_token_id=None)
    assert result.stdout.strip() == str(expected.tolist())
    assert {path.name for path in again.glob("*.py")} == {"modeling_rnn.py", "cache_rnn.py", "configuration_rnn.py"}
