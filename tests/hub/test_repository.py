"""What a repository holds of a recognizer; those of other models are in test_client.py."""

import json
from pathlib import Path

import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer
from transformers.dynamic_module_utils import get_relative_import_files

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC, RNNSpeechConfig
from rnn_hf.hub.repository import build_repository
from rnn_hf.models import modeling_rnn_speech


def test_a_recognizer_comes_with_all_that_a_recording_needs(tmp_path):
    tokenizer = RNNCTCTokenizer.build(["one two three"], "characters")
    model = RNNForCTC(RNNSpeechConfig(vocab_size=len(tokenizer), hidden_size=4)).eval()
    extractor = RNNFeatureExtractor(mean=[0.5] * 40, std=[2.0] * 40)
    for part in (model, tokenizer, extractor):
        part.save_pretrained(tmp_path / "run")
    build_repository(tmp_path / "run", tmp_path / "repository", "me/ear")
    source = Path(modeling_rnn_speech.__file__)
    code = {Path(file).name for file in (source, *get_relative_import_files(source))}
    files = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"}
    assert {path.name for path in (tmp_path / "repository").iterdir()} == code | files | {"README.md"}
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / "repository" / file).read_text())["auto_map"]
    samples = torch.linspace(-1, 1, 4000).sin().numpy()
    logits, text = [], []
    for folder in (tmp_path / "run", tmp_path / "repository"):
        loaded = AutoModelForCTC.from_pretrained(folder)
        inputs = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=8000, return_tensors="pt")
        logits.append(loaded(**inputs).logits)
        text += AutoTokenizer.from_pretrained(folder).batch_decode(loaded.generate(**inputs))
    torch.testing.assert_close(*logits)
    assert text[0] == text[1]
