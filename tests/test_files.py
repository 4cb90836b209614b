"""Files written as drafts and moved into place: a half-written one is never taken for a whole one."""

import json
import os

import pytest

from rnn_hf.files import check_local, link_or_copy, read_json, read_json_lines, sha256_of, write_into, write_json
from rnn_hf.runs import read_run


def fill(**files):
    def write(directory):
        for name, text in files.items():
            (directory / name.replace("__", ".")).write_text(text)

    return write


def test_a_model_replaces_the_one_before_it_file_by_file(tmp_path):
    (tmp_path / "run.json").write_text("stays")
    write_into(tmp_path, fill(config__json="old", model__safetensors="old"))
    write_into(tmp_path, fill(config__json="new", model__safetensors="new"))
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"run.json": "stays", "config.json": "new", "model.safetensors": "new"}


def test_a_writer_that_fails_leaves_the_model_before_it_whole(tmp_path):
    write_into(tmp_path, fill(config__json="old", model__safetensors="old"))

    def fail(directory):
        fill(config__json="new")(directory)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_into(tmp_path, fail)
    assert (tmp_path / "config.json").read_text() == (tmp_path / "model.safetensors").read_text() == "old"
    write_into(tmp_path, fill(config__json="newer"))  # what the failed one left does not get in
    assert not (tmp_path / ".writing").exists()


def test_json_is_replaced_in_one_piece(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_json_file_that_is_not_there_is_none(tmp_path):
    assert read_json(tmp_path / "run.json") is None


@pytest.mark.parametrize("content", [b"", b'{"argum', b"\x00\x00\x00", b'{"a": "\xe9"}', b"[1, 2]", b"null"])
def test_a_json_file_that_is_cut_empty_or_something_else_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    for read in (read_json, read_run):
        with pytest.raises(ValueError, match=r"run\.json .*in its place, or remove it"):
            read(path)


def test_the_run_json_of_another_program_is_as_good_as_none(tmp_path):
    path = tmp_path / "run.json"
    assert read_run(path) is None
    for content in ({}, {"project": "x"}, {"arguments": ["a"]}, {"arguments": {"data": {}, "model": {}}}):
        write_json(path, content)
        assert read_run(path) is None
    run = {"arguments": {"data": {}, "model": {}, "training": {}}}
    write_json(path, run)
    assert read_run(path) == run


WHOLE = b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    "torn", [b"", b'{"step": 3, "lo', b'{"loss": "\xc3', b"\x00" * 9, b'{"step": 3', b"3", b"\n\n"]
)
def test_a_last_line_that_is_cut_is_left_out(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(WHOLE + torn)
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(torn + b"\n" + WHOLE)
    if torn.strip():
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1 is no JSON object: remove the line"):
            read_json_lines(path)
    else:
        assert len(read_json_lines(path)) == 2
    path.write_bytes(WHOLE.rstrip())  # only the end of the line is missing
    assert len(read_json_lines(path)) == 2


def test_a_second_name_of_a_file_takes_no_space_where_the_disk_can_do_that(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("content")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")

    def refuse(source, target):
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "content" and not (tmp_path / "a").samefile(tmp_path / "c")


def test_the_checksum_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_text("abc")  # the first example of FIPS 180-4
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_may_be_a_name_on_the_hub_and_what_is_there_pass_and_other_paths_do_not(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("", ".", str(tmp_path / "model"), "USER/NAME", "name"):
        check_local(name)
    with pytest.raises(FileNotFoundError, match=r"there is no .*modle; did you mean .*model\?"):
        check_local(str(tmp_path / "modle"))
    with pytest.raises(FileNotFoundError, match=r"there is no \./none/such"):
        check_local("./none/such")


def test_a_name_on_the_hub_passes_although_a_folder_is_called_like_its_user(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "USER" / "NAME-2").mkdir(parents=True)
    check_local("USER/NAME-2")
    assert not caplog.messages
    check_local("USER/NAME-1")
    check_local("USER/else")
    assert caplog.messages == [
        "there is no USER/NAME-1; did you mean USER/NAME-2? Asking the Hub for it.",
        "there is no USER/else here. Asking the Hub for it.",
    ]
    for name in ("USER/NAME 2", "USER/NAME-1/", "USER/NAME--3", "USER/NAME-2/epoch", "./USER/NAME-1"):
        with pytest.raises(FileNotFoundError, match=f"there is no {name}"):
            check_local(name)
