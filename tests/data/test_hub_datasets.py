"""Corpora of the Hub, by the real client over HTTP from a server on 127.0.0.1."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


COMMIT = "c" * 40
LOAD = """
import json, sys
from rnn_hf.data import corpora
from rnn_hf.data.corpora import lines_of, load_corpus

corpora.PTB_TOKENS = dict.fromkeys(corpora.SPLITS, 6)
try:
    corpus = load_corpus(**json.loads(sys.argv[1]))
except (ValueError, ConnectionError) as error:
    print(f"{type(error).__name__}: {error}")
else:
    print(json.dumps({split: list(lines_of(corpus[split])) for split in corpus}))
"""


class Hub(BaseHTTPRequestHandler):
    """The requests with which `datasets` reads files of one data set at one revision; all else is 404."""

    files: dict[tuple[str, str], dict[str, bytes]] = {}  # (data set, revision) -> path -> content

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content):
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def not_found(self, code):
        self.answer(404, b"{}", X_Error_Code=code, X_Repo_Commit=COMMIT)

    def entry(self, path, content):
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def serve(self):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            parts = parts[1:]
        if parts[0] != "datasets" or len(parts) < 3:
            return self.not_found("RepoNotFound")
        name, rest = "/".join(parts[1:3]), parts[3:]
        revisions = {revision: files for (known, revision), files in self.files.items() if known == name}
        if not revisions:
            return self.not_found("RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        files = next(iter(revisions.values())) if revision == COMMIT else revisions.get(revision)
        if files is None:
            return self.not_found("RevisionNotFound")
        kind, path = rest[0] if rest else "revision", "/".join(rest[2:])
        if kind == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self.answer_json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        if kind == "paths-info":
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            asked = parse_qs(body).get("paths", [])
            return self.answer_json([self.entry(path, files[path]) for path in asked if path in files])
        if kind == "tree":
            return self.tree(files, path + "/" if path else "")
        if kind == "resolve" and path in files:
            headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"'}
            return self.answer(200, files[path], **headers)
        return self.not_found("EntryNotFound")

    def tree(self, files, folder):
        inside = [path for path in files if path.startswith(folder)]
        here = [path for path in inside if "/" not in path.removeprefix(folder)]
        folders = sorted({folder + path.removeprefix(folder).split("/")[0] for path in inside} - set(here))
        entries = [self.entry(path, files[path]) for path in here]
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "d" * 40} for path in folders]
        return self.answer_json(entries) if entries else self.not_found("EntryNotFound")

    do_GET = do_HEAD = do_POST = serve


def parquet(sentences):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"sentence": sentences}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a corpus in a process whose Hub is a server here; `load.files` is what the server holds."""
    monkeypatch.setattr(Hub, "files", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def load(**arguments):
        environment = {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "", "HF_HUB_OFFLINE": "0",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-c", LOAD, json.dumps(arguments)],
            capture_output=True, text=True, env=environment, timeout=120, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
        last = result.stdout.splitlines()[-1]
        return json.loads(last) if last.startswith("{") else last

    load.files = Hub.files
    yield load
    server.shutdown()
    server.server_close()


def test_penn_treebank_comes_from_the_converted_branch(load):
    files = {
        f"penn_treebank/{split}/0000.parquet": parquet(["a <unk> N", f"{split}"])
        for split in ("train", "validation", "test")
    }
    load.files["ptb-text-only/ptb_text_only", "refs/convert/parquet"] = files
    assert load(dataset_name="ptb") == {split: ["a <unk> N", split] for split in ("train", "validation", "test")}


def test_a_data_set_that_is_a_script_is_refused_with_what_to_do(load):
    load.files["someone/old", "main"] = {"old.py": b"import datasets", "README.md": b""}
    message = load(dataset_name="someone/old")
    assert message.startswith("ValueError: cannot load --dataset_name someone/old")
    assert "--dataset_revision (often refs/convert/parquet)" in message


def test_a_text_data_set_and_one_that_is_missing(load):
    load.files["someone/text", "main"] = {"data/train-0000.parquet": parquet(["a b", "c"])}
    assert load(dataset_name="someone/text", text_column="sentence") == {"train": ["a b", "c"]}
    assert load(dataset_name="someone/missing").startswith(
        "ConnectionError: cannot load --dataset_name someone/missing"
    )
