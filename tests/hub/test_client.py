"""Pushing, by the real client over HTTP to a server on 127.0.0.1: what arrives, and what goes wrong on the way."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_relative_import_files

from rnn_hf import RNNConfig, RNNForCausalLM, RNNModel
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import InputError
from rnn_hf.hub import client as hub
from rnn_hf.hub import repository
from rnn_hf.hub.cards import name_of
from rnn_hf.hub.client import HubError, push
from rnn_hf.hub.repository import build_repository, without_paths
from rnn_hf.models import modeling_rnn
from rnn_hf.onnx.export import export_onnx
from rnn_hf.tasks import TASKS
from rnn_hf.training.parsing import parse_arguments


ROOT = Path(__file__).parents[2]
CODE = {Path(file).name for file in (modeling_rnn.__file__, *get_relative_import_files(modeling_rnn.__file__))}
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
RUN = {"run.json", "metrics.jsonl", "evaluation.json"}


def save_model(directory, hidden_size=8, seed=0):
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(["the cat sat on the mat"])
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=hidden_size)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def model_dir(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(hub, "WAIT_SECONDS", 0.01)


@pytest.fixture(params=["lfs", "default"])
def server(request, monkeypatch):
    """A Hub, to which large files go as plain LFS; or all files in the commit, with the client as it is by default."""
    with HubServer(lfs=request.param == "lfs") as server:
        server.connect(monkeypatch, xet=request.param == "default")
        yield server


@pytest.fixture
def lfs_server(monkeypatch):
    with HubServer(lfs=True) as server:
        server.connect(monkeypatch)
        yield server


def content(folder):
    return {name: path.read_bytes() for name, path in hub.files_below(folder)}


def test_a_push_is_one_commit_of_the_whole_repository(server, model_dir, tmp_path):
    address = push(model_dir, "me/cat", commit_message="A cat")
    build_repository(model_dir, tmp_path / "expected", "me/cat")
    files = server.files("me/cat")
    assert files.pop(".gitattributes")
    assert files == content(tmp_path / "expected")
    assert set(files) == CODE | MODEL | {"README.md"}
    first, *before = server.commits("me/cat")
    assert first.message == "A cat" and len(before) == 1 and address.endswith(f"/me/cat/commit/{first.oid}")


def test_pushing_again_changes_nothing_and_what_others_put_there_stays(server, model_dir):
    push(model_dir, "me/cat")
    server.commit("me/cat", {"notes.txt": b"mine"})
    count, sent = len(server.commits("me/cat")), len(server.uploads)
    push(model_dir, "me/cat")
    assert len(server.commits("me/cat")) == count and len(server.uploads) == sent
    save_model(model_dir, seed=1)
    push(model_dir, "me/cat")
    assert len(server.commits("me/cat")) == count + 1
    assert server.files("me/cat")["notes.txt"] == b"mine"
    assert server.files("me/cat")["model.safetensors"] == (model_dir / "model.safetensors").read_bytes()


def test_organisation_privacy_branch_and_tag(server, model_dir):
    push(model_dir, "team/cat", private=True, revision="trial/one", tag="v1")
    api = HfApi(token="hf_write")
    assert api.model_info("team/cat").private
    refs = api.list_repo_refs("team/cat")
    assert [ref.name for ref in refs.branches] == ["main", "trial/one"]
    assert set(server.files("team/cat")) == {".gitattributes"}
    assert refs.tags[0].target_commit == server.commits("team/cat", "trial/one")[0].oid
    assert "model.safetensors" in server.files("team/cat", "v1")


def test_a_name_without_a_user_is_the_users_own(lfs_server, model_dir):
    push(model_dir, "cat")
    assert "config.json" in lfs_server.files("me/cat")


def test_a_tag_on_other_files_is_refused_and_on_the_same_files_serves(lfs_server, model_dir):
    push(model_dir, "me/cat", tag="v1")
    count = len(lfs_server.commits("me/cat"))
    push(model_dir, "me/cat", tag="v1")
    save_model(model_dir, seed=1)
    with pytest.raises(HubError, match="tag v1 already"):
        push(model_dir, "me/cat", tag="v1")
    assert len(lfs_server.commits("me/cat")) == count


def test_a_repository_that_is_public_does_not_take_what_should_be_private(lfs_server, model_dir):
    lfs_server.create("me/cat")
    with pytest.raises(HubError, match="me/cat is there and public"):
        push(model_dir, "me/cat", private=True)


def test_a_backbone_and_a_model_without_tokenizer_are_pushed_as_they_are(lfs_server, tmp_path):
    RNNModel(RNNConfig(vocab_size=5, hidden_size=4, cell_type="gru")).save_pretrained(tmp_path / "backbone")
    push(tmp_path / "backbone", "me/backbone")
    files = lfs_server.files("me/backbone")
    assert json.loads(files["config.json"])["architectures"] == ["RNNModel"]
    assert "tokenizer.json" not in files


# An ONNX export is a folder like any other.


@pytest.fixture
def onnx_dir(model_dir, tmp_path):
    export_onnx(model_dir, tmp_path / "onnx")
    return tmp_path / "onnx"


def test_an_onnx_export_is_one_commit_of_the_very_files_with_a_card_and_runs_from_the_hub(
    server, onnx_dir, tmp_path, monkeypatch
):
    push(onnx_dir, "me/cat", license="mit", commit_message="A cat")
    assert [commit.message for commit in server.commits("me/cat")][0] == "A cat" and len(server.commits("me/cat")) == 2
    address = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    downloaded = Path(snapshot_download("me/cat", cache_dir=tmp_path / "cache"))
    files = content(downloaded)
    card = ModelCard(files.pop("README.md").decode())
    assert files.pop(".gitattributes") and files == content(onnx_dir)
    about = {"library_name": "onnx", "pipeline_tag": "text-generation", "tags": ["rnn_hf"], "license": "mit"}
    assert card.data.to_dict() == about
    assert 'RNNONNXForCausalLM.from_pretrained("me/cat")' in card.text
    session = onnxruntime.InferenceSession(downloaded / "model.onnx")
    for value in (*session.get_inputs(), *session.get_outputs()):
        assert f"| `{value.name}` | ({', '.join(map(str, value.shape))}) |" in card.text
    inputs = {value.name: np.zeros((1, 8), np.float32) for value in session.get_inputs()}
    inputs["input_ids"] = np.array([[1, 2, 3]])
    expected = RNNForCausalLM.from_pretrained(tmp_path / "model")(torch.tensor([[1, 2, 3]])).logits
    assert np.allclose(session.run(["logits"], inputs)[0], expected.detach().numpy(), atol=1e-5)
    count = len(server.commits("me/cat"))
    push(downloaded, "me/cat")  # the license stays, the name too
    assert len(server.commits("me/cat")) == count


def test_a_card_of_an_export_that_was_written_by_hand_stays(onnx_dir, tmp_path):
    (onnx_dir / "README.md").write_text("---\nlicense: mit\n---\nby hand\n")
    build_repository(onnx_dir, tmp_path / "repository")
    assert content(tmp_path / "repository") == content(onnx_dir)


def test_an_export_that_is_not_the_one_that_was_checked_is_refused(lfs_server, onnx_dir):
    with pytest.raises(ValueError, match="`dtype` is for the weights of a model"):
        build_repository(onnx_dir, onnx_dir, dtype="float16")
    weights = (onnx_dir / "model.onnx").read_bytes()
    (onnx_dir / "model.onnx").write_bytes(weights[:-1] + b"?")
    with pytest.raises(OSError, match="not the file that export.json is about"):
        push(onnx_dir, "me/cat")
    (onnx_dir / "model.onnx").write_bytes(weights)
    (onnx_dir / "model_int8.onnx").write_bytes(b"no graph")
    with pytest.raises(OSError, match="model_int8.onnx is not the file that export.json is about"):
        push(onnx_dir, "me/cat")
    (onnx_dir / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="no export in .*needs model.onnx"):
        push(onnx_dir, "me/cat")
    assert not lfs_server.requests


# What the user does wrong, or may not do: said at once, before anything is uploaded.


def refused(server, model_dir, message, repo_id="me/cat", **options):
    with pytest.raises(HubError, match=message) as caught:
        push(model_dir, repo_id, **options)
    assert "hf_" not in str(caught.value)  # no token in a message
    assert not server.uploads and not any("/commit/" in path for _, path in server.requests)


def test_no_token(lfs_server, model_dir, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    refused(lfs_server, model_dir, "no access token: make one with the role 'write'.*hf auth login")
    assert not any(method == "POST" for method, _ in lfs_server.requests)


def test_a_wrong_token(lfs_server, model_dir, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nonsense")
    refused(lfs_server, model_dir, "does not accept the access token.*hf auth login")


@pytest.mark.parametrize("exists", [False, True])
def test_a_token_that_may_only_read(lfs_server, model_dir, monkeypatch, exists):
    if exists:
        lfs_server.create("me/cat")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    refused(lfs_server, model_dir, "may not write to me/cat.*role 'write'")


@pytest.mark.parametrize("exists", [False, True])
def test_a_name_of_another_user(lfs_server, model_dir, exists):
    if exists:
        lfs_server.create("other/cat")
    refused(lfs_server, model_dir, "may not write to other/cat: the name must begin with", "other/cat")


def test_a_name_that_is_none(lfs_server, model_dir):
    with pytest.raises(InputError, match="`repo_id` must be NAME or USER/NAME, of .* got 'me/cat/too/deep'"):
        push(model_dir, "me/cat/too/deep")
    assert not lfs_server.requests


def test_a_directory_without_a_model_and_weights_that_do_not_load(lfs_server, model_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model in .*nowhere"):
        push(tmp_path / "nowhere", "me/cat")
    weights = model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="damaged"):
        push(model_dir, "me/cat")
    config = model_dir / "config.json"
    save_model(model_dir)
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(OSError, match="not those of its config.json: .*layers.2"):
        push(model_dir, "me/cat")
    assert not lfs_server.requests


# What goes wrong on the way.


@pytest.mark.parametrize("where", ["auth", "create", "preupload", "commit"])
@pytest.mark.parametrize("what", [503, "drop"])
def test_what_passes_is_tried_again(server, model_dir, monkeypatch, where, what):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    server.fault(where, what, times=2)
    push(model_dir, "me/cat")
    assert len(server.commits("me/cat")) == 2
    assert server.files("me/cat")["model.safetensors"] == (model_dir / "model.safetensors").read_bytes()


def test_a_hub_that_stays_away_is_named_and_the_second_run_finishes_without_sending_twice(lfs_server, model_dir):
    lfs_server.fault("commit", 503, times=hub.TRIES)
    with pytest.raises(HubError, match="could not be reached.*push again; what was uploaded is not sent twice"):
        push(model_dir, "me/cat")
    assert len(lfs_server.commits("me/cat")) == 1 and len(lfs_server.uploads) == 1
    push(model_dir, "me/cat")
    assert len(lfs_server.commits("me/cat")) == 2 and len(lfs_server.uploads) == 1


def test_the_answer_of_the_commit_is_lost_and_it_is_not_committed_twice(server, model_dir):
    server.fault("commit", "lost")
    address = push(model_dir, "me/cat", tag="v1")
    assert len(server.commits("me/cat")) == 2
    assert address.endswith(server.commits("me/cat")[0].oid)
    assert HfApi().list_repo_refs("me/cat").tags[0].target_commit == server.commits("me/cat")[0].oid


def test_somebody_elses_commit_in_between_stays_and_the_second_push_goes_on_top(server, model_dir):
    server.fault("commit", lambda: server.commit("me/cat", {"README.md": b"theirs"}))
    with pytest.raises(HubError, match="somebody else committed to me/cat.*push again to go on top"):
        push(model_dir, "me/cat")
    assert set(server.files("me/cat")) == {".gitattributes", "README.md"}
    theirs = server.commits("me/cat")[0].oid
    push(model_dir, "me/cat")
    assert [commit.oid for commit in server.commits("me/cat")][1] == theirs
    assert "model.safetensors" in server.files("me/cat")


def test_a_connection_that_breaks_in_the_middle_of_a_large_upload(lfs_server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    model_dir = save_model(tmp_path / "large", hidden_size=300)
    size = (model_dir / "model.safetensors").stat().st_size
    lfs_server.fault("put", "drop", times=2)  # the client sends it again
    push(model_dir, "me/cat")
    assert lfs_server.uploads == [size] and len(lfs_server.commits("me/cat")) == 2
    save_model(model_dir, hidden_size=300, seed=1)
    lfs_server.fault("put", "drop", times=20)  # until the client gives up
    with pytest.raises(HubError, match="broke off.*push again"):
        push(model_dir, "me/cat")
    assert len(lfs_server.commits("me/cat")) == 2
    lfs_server.clear_faults()
    push(model_dir, "me/cat")
    assert len(lfs_server.commits("me/cat")) == 3 and lfs_server.uploads == [size, size]


def test_a_large_file_goes_in_parts(tmp_path, monkeypatch):
    model_dir = save_model(tmp_path / "large", hidden_size=200)
    with HubServer(multipart_size=500_000) as server:
        server.connect(monkeypatch)
        push(model_dir, "me/cat")
        assert len(server.uploads) > 1
        assert server.files("me/cat")["model.safetensors"] == (model_dir / "model.safetensors").read_bytes()


def test_a_hub_that_does_not_answer_at_all(model_dir, monkeypatch):
    with HubServer() as server:
        server.connect(monkeypatch)
    with pytest.raises(HubError, match="could not be reached"):
        push(model_dir, "me/cat")


def test_metadata_that_the_hub_refuses_is_named_before_the_upload(lfs_server, model_dir):
    (model_dir / "README.md").write_text("---\nlicense: [\n---\nby hand\n")
    refused(lfs_server, model_dir, "(?i)metadata|yaml")


# What is pushed.


def test_a_repository_has_the_weights_as_they_are_and_half_precision_loads_as_before(model_dir, tmp_path):
    build_repository(model_dir, tmp_path / "half", dtype="float16")
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    model = RNNForCausalLM.from_pretrained(tmp_path / "half")
    assert model.dtype == torch.float32
    build_repository(tmp_path / "half", tmp_path / "again")
    assert content(tmp_path / "again").pop("model.safetensors") == content(tmp_path / "half").pop("model.safetensors")
    exact = load_file(model_dir / "model.safetensors")
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in exact.items())


def test_building_a_repository_over_itself_changes_nothing(model_dir):
    build_repository(model_dir, model_dir, "me/cat", "mit")
    before = content(model_dir)
    build_repository(model_dir, model_dir, "me/cat")
    assert content(model_dir) == before


def test_a_card_written_by_hand_stays(model_dir, tmp_path):
    (model_dir / "README.md").write_text("---\nlicense: mit\n---\nby hand\n")
    build_repository(model_dir, tmp_path / "repository")
    assert (tmp_path / "repository" / "README.md").read_text() == "---\nlicense: mit\n---\nby hand\n"


def test_a_type_that_cannot_hold_a_weight_is_refused_before_anything_is_written(model_dir, tmp_path):
    model = RNNForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        model.lm_head.bias[3] = 1e5
    model.save_pretrained(model_dir)
    with pytest.raises(ValueError, match=r"up to 65504, and lm_head\.bias has 100000: use bfloat16"):
        build_repository(model_dir, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    build_repository(model_dir, tmp_path / "half", dtype="bfloat16")
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "half" / "model.safetensors").values())


def test_a_license_for_a_card_written_by_hand_is_refused_unless_it_has_it(lfs_server, model_dir, onnx_dir, tmp_path):
    for directory in (model_dir, onnx_dir):
        card = directory / "README.md"
        for text in ("---\nlicense: mit\n---\nby hand\n", "by hand\n", ""):
            card.write_text(text)
            with pytest.raises(ValueError, match=f"{card} was written by hand .* `license: apache-2.0`"):
                push(directory, "me/cat", license="apache-2.0")
        card.write_text("\ufeff---\nlicense: mit\n---\nby hand\n", encoding="utf-8")
        build_repository(directory, tmp_path / "repository", license="mit")
        assert (tmp_path / "repository" / "README.md").read_bytes() == card.read_bytes()
        card.write_bytes("---\nlicense: mit\n---\ncaf\xe9\n".encode("latin-1"))
        with pytest.raises(ValueError, match=f"{card} is not UTF-8"):
            push(directory, "me/cat")
    assert not lfs_server.requests


def test_the_card_of_a_repository_on_this_disk_names_no_directory_above_it(model_dir, onnx_dir, tmp_path, monkeypatch):
    for directory in (model_dir, onnx_dir):
        build_repository(directory, tmp_path / "repository")
        card = (tmp_path / "repository" / "README.md").read_text()
        assert '"repository"' in card and str(tmp_path.parent) not in card and tmp_path.name not in card
    monkeypatch.chdir(tmp_path)
    for name, shown in (("below/cat", "below/cat"), ("../cat", "cat"), (".", tmp_path.name)):
        assert name_of(Path(name)) == shown


def test_a_run_json_of_another_program_stays_here_and_a_broken_file_is_named(model_dir, tmp_path):
    (model_dir / "run.json").write_text('{"project": "x"}')
    build_repository(model_dir, tmp_path / "repository")
    assert "run.json" not in content(tmp_path / "repository")
    (model_dir / "metrics.jsonl").write_text('{"step": 4, "tokens_per_second": 7.0}\n{"step": 8, "epo')
    build_repository(model_dir, tmp_path / "repository")
    for name in ("run.json", "evaluation.json"):
        (model_dir / name).write_text('{"argum')
        with pytest.raises(ValueError, match=f"{model_dir / name} is broken"):
            build_repository(model_dir, tmp_path / "repository")
        (model_dir / name).unlink()


def cleaned(command="", recipe=None, training=(), **data):
    """`without_paths` of a run with these arguments; what is not a path must not be touched."""
    rest = {"model": {"cell_type": "gru"}, "recipe": recipe}
    arguments = rest | {"data": data, "training": {"learning_rate": 20.0, "optim": "sgd", **dict(training)}}
    kept = {"versions": {"torch": "2.13.0"}, "data": {"tokens": {"train": 5}, "train": "data"}}
    clean = without_paths(kept | {"arguments": arguments, "command": command})
    assert clean == kept | {"arguments": clean["arguments"], "command": clean["command"]}
    assert clean["arguments"].keys() == arguments.keys() and clean["arguments"]["model"] == {"cell_type": "gru"}
    assert clean["arguments"]["training"] | {"learning_rate": 20.0, "optim": "sgd"} == clean["arguments"]["training"]
    assert without_paths(clean) == clean
    return clean


@pytest.mark.parametrize("name", ["ptb", "data", "train", ".", "..", "sgd", "2", "/", "~", "~me", "DIR"])
def test_a_path_that_occurs_elsewhere_is_replaced_where_it_is_a_path_alone(name):
    training, command = {"output_dir": name}, f"train.py --ptb_dir {name} --output_dir={name} --optim sgd --window 2"
    clean = cleaned(command, training=training, dataset_name="ptb", ptb_dir=name, tokenizer="whitespace")
    shown = "DIR" if name in (".", "..", "/", "~", "~me") else name
    assert clean["arguments"]["data"] == {"dataset_name": "ptb", "ptb_dir": None, "tokenizer": "whitespace"}
    assert clean["arguments"]["training"]["output_dir"] == shown
    assert clean["command"] == f"train.py --ptb_dir DIR --output_dir={shown} --optim sgd --window 2"


def test_a_run_on_penn_treebank_by_its_directory_alone_names_the_corpus():
    clean = cleaned(dataset_name=None, ptb_dir="/home/me/ptb")
    assert clean["arguments"]["data"] == {"dataset_name": "ptb", "ptb_dir": None}


def test_no_directory_stays_where_one_path_is_the_beginning_of_another():
    names = {"output_dir": "/home/X", "resume_from_checkpoint": "/home/X/private/checkpoint-5"}
    command = "train.py --output_dir /home/X --resume-from-checkpoint /home/X/private/checkpoint-5"
    clean = cleaned(command, training=names, train_file="/home/X/private/it's mine.txt")
    assert clean["command"] == "train.py --output_dir X --resume-from-checkpoint checkpoint-5"
    assert clean["arguments"]["data"] == {"train_file": "it's mine.txt"}
    assert "private" not in json.dumps(clean) and "home" not in json.dumps(clean)


def test_a_command_reads_back_and_names_on_the_hub_and_recipes_of_the_project_stay():
    words = ["train.py", "scripts/recipes/ptb.yaml", "--train_file", "a b/c d.txt", "--text_column", "a/b c"]
    data = {"tokenizer": "org/name", "text_column": "a/b c", "train_file": ""}
    clean = cleaned(shlex.join(words), "scripts/recipes/ptb.yaml", **data)
    assert shlex.split(clean["command"]) == [*words[:3], "c d.txt", *words[4:]]
    assert clean["arguments"]["data"] == data
    assert cleaned(recipe="/home/me/scripts/recipes/ptb.yaml")["arguments"]["recipe"] == "scripts/recipes/ptb.yaml"
    # Words that were joined without quotes, a program of the user's own, another system.
    assert shlex.split(cleaned("x.py --train_file /me/it's mine/a.txt")["command"])[2:] == ["it's", "a.txt"]
    assert cleaned("k.py -f /home/me/k.json --to ../a/b")["command"] == "k.py -f k.json --to b"
    assert cleaned(train_file=r"C:\Users\me\a.txt")["arguments"]["data"] == {"train_file": "a.txt"}


def test_every_path_among_the_arguments_of_a_run_is_known():
    values = {}
    for task in TASKS:
        arguments = parse_arguments(["--task", task])
        values |= {**vars(arguments.data), **vars(arguments.training)}
    names = {name for name, value in values.items() if value is None or isinstance(value, str)}
    listed = {*repository.PATHS, *repository.PATHS_OR_NAMES} - {repository.ANY_PATH, "recipe"}
    assert listed <= names
    assert {name for name in names if re.search("(_dir|_file|_path|checkpoint|_from)$", name)} <= listed


def test_paths_of_the_machine_stay_here():
    data = {"train_file": "/home/me/secret/a.txt", "ptb_dir": None, "tokenizer": "word", "dataset_name": None}
    arguments = {"data": data, "training": {"output_dir": "../runs/x"}, "recipe": "/home/me/secret/r.yaml"}
    command = "train.py /home/me/secret/r.yaml --train_file /home/me/secret/a.txt --output_dir ../runs/x"
    clean = without_paths({"arguments": arguments, "command": command, "data": {"unknown": {"train": 0.5}}})
    assert clean["command"] == "train.py r.yaml --train_file a.txt --output_dir x"
    assert "secret" not in json.dumps(clean) and ".." not in json.dumps(clean)
    assert clean["data"] == {"unknown": {"train": 0.5}}


@pytest.mark.slow
def test_the_script_lists_what_would_go_and_pushes_nothing_and_then_pushes(lfs_server, model_dir, tmp_path):
    def script(*argv):
        command = [sys.executable, ROOT / "scripts" / "push_to_hub.py", *argv]
        environment = os.environ | lfs_server.environment(tmp_path / "home", "hf_write") | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    listed = script(model_dir, "me/cat", "--dry_run")
    size = (model_dir / "model.safetensors").stat().st_size
    assert f"{size:>12,}  model.safetensors" in listed.stdout.splitlines(), listed.stderr
    assert not lfs_server.requests
    pushed = script(model_dir, "me/cat", "--private")
    assert pushed.returncode == 0 and f"{lfs_server.endpoint}/me/cat/commit/" in pushed.stdout, pushed.stderr
    names = [line.split()[1] for line in listed.stdout.splitlines()[:-1]]
    assert set(names) == set(lfs_server.files("me/cat")) - {".gitattributes"}
    refused = script(model_dir, "other/cat")
    assert refused.returncode == 2 and "error: this access token may not write" in refused.stderr.splitlines()[-1]
