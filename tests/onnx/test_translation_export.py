"""Exported networks that translate: the folder, the card, the command, and the manual's client without PyTorch."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from parallel_files import WORDS, some_pairs
from seq2seq_models import KINDS, make_writer
from test_onnx_client import BARE

from rnn_hf.commands import export as command
from rnn_hf.data.bpe import build_bpe
from rnn_hf.files import read_json, sha256_of
from rnn_hf.hub.repository import build_repository
from rnn_hf.onnx.export import SIZES, check_folder, export_onnx
from rnn_hf.translation import translate


CLIENT = Path(__file__).parents[2] / "docs" / "onnx_translation_client.py"
FILES = {
    "config.json", "encoder.onnx", "export.json", "generation_config.json", "model.onnx", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip
TEXTS = ["two small cat", "bird", "", "dog sees red tree snow runs", "cat cat cat"]
some_kinds = pytest.mark.parametrize("kind", ["general", "fed", "deep-fed", "none"])


@pytest.fixture
def save(tmp_path):
    """`save(kind)`: a random model and its tokenizer, and the folder that they are saved in."""

    def saved(kind):
        tokenizer = build_bpe([text for pair in some_pairs(50) for text in pair], vocab_size=60, min_frequency=1)
        fields = {**KINDS[kind], "vocab_size": len(tokenizer), "cell_type": "lstm", "decoder_vocab_size": None}
        model = make_writer(**fields).float()
        model.generation_config.max_length = 9
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / "model")
        return model, tokenizer, str(tmp_path / "model")

    return saved


def test_the_folder_has_both_halves_and_a_report(save, tmp_path):
    _, _, path = save("general")
    out = tmp_path / "onnx"
    report = export_onnx(path, out)
    assert {each.name for each in out.iterdir()} == FILES and read_json(out / "export.json") == report
    for file, about in (("model.onnx", report), ("encoder.onnx", report["encoder"])):
        assert about["task"] == "translation" and about["sha256"] == sha256_of(out / file)
        assert [(check["batch"], check["sequence"]) for check in about["checked"]] == list(SIZES)
    assert check_folder(out) == report["interface"] and not read_json(out / "config.json").get("auto_map")
    (out / "encoder.onnx").write_bytes((out / "encoder.onnx").read_bytes() + b"\0")
    with pytest.raises(OSError, match="encoder.onnx"):
        check_folder(out)


def test_the_command_says_what_was_checked_and_the_card_what_goes_in(save, tmp_path, capsys):
    _, _, path = save("general")
    out = tmp_path / "onnx"
    assert command.run(command.parse([path, str(out)])) == 0
    said = capsys.readouterr().out
    assert "PyTorch: logits, state\n" in said and "PyTorch: keys and values, state\n" in said
    assert "model.onnx: " in said and "encoder.onnx: " in said
    build_repository(out, tmp_path / "repository", "someone/translator")
    card = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: translation" in card and "{" not in card and (tmp_path / "repository/encoder.onnx").is_file()
    report = read_json(out / "export.json")
    for interface in (report["interface"], report["encoder"]["interface"]):
        assert all(f"`{value['name']}`" in card for side in interface.values() for value in side)


def test_8_bits_are_written_of_both_halves_and_compared(save, tmp_path, capsys):
    _, _, path = save("general")
    lines = ["\t".join(pair) for pair in some_pairs(6)]
    (tmp_path / "validation.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out, flags = tmp_path / "onnx", ["--int8", "--validation_file", str(tmp_path / "validation.tsv")]
    assert command.run(command.parse([path, str(out), *flags])) == 0
    said, int8 = capsys.readouterr().out, read_json(out / "export.json")["int8"]
    assert "encoder: " in said and "% of the translations are the same" in said and "ms a text" in said
    for file, about in (("model_int8.onnx", int8), ("encoder_int8.onnx", int8["encoder"])):
        assert about["bytes"]["int8"] == (out / file).stat().st_size and about["sha256"] == sha256_of(out / file)
    assert int8["scores"]["float32"]["texts"] == 6 and 0 <= int8["equal_texts"] <= 1
    check_folder(out)


@some_kinds
@pytest.mark.parametrize("beams", [1, 3])
def test_the_client_writes_what_pytorch_does(save, tmp_path, monkeypatch, capsys, kind, beams):
    model, tokenizer, path = save(kind)
    export_onnx(path, tmp_path / "onnx")
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    expected = translate(model, tokenizer, TEXTS, num_beams=beams)
    assert len(set(expected)) > 1
    options = ["--num_beams", str(beams), "--max_length", "9"]
    monkeypatch.setattr(sys, "argv", [str(CLIENT), str(tmp_path / "onnx"), str(tmp_path / "texts"), *options])
    capsys.readouterr()
    runpy.run_path(str(CLIENT), run_name="__main__")
    assert capsys.readouterr().out.split("\n")[:-1] == expected


@pytest.mark.slow
def test_the_client_needs_no_pytorch(save, tmp_path):
    model, tokenizer, path = save("general")
    export_onnx(path, tmp_path / "onnx")
    program = BARE.replace('"tokenizers", ', "")
    arguments = [sys.executable, "-c", program, CLIENT, tmp_path / "onnx", "--max_length", "9"]
    words = " ".join(WORDS[:3])
    run = subprocess.run(list(map(str, arguments)), input=words + "\n", capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:-1] == translate(model, tokenizer, [words])
