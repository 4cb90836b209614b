"""Corpora of the Hub, by the real client over HTTP from a server on 127.0.0.1; and without it, from the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer


SPLITS = ("train", "validation", "test")
LOAD = """
import json, sys, types
from dataclasses import replace

# Of the package its data alone: the models take seconds to import, and data knows none.
package = types.ModuleType("rnn_hf")
package.__path__ = [sys.argv[2]]
sys.modules["rnn_hf"] = package
from rnn_hf.data import corpora
from rnn_hf.data.corpora import lines_of, load_corpus

corpora.PENN_TREEBANK = replace(corpora.PENN_TREEBANK, tokens=dict.fromkeys(corpora.SPLITS, 6))
try:
    corpus = load_corpus(**json.loads(sys.argv[1]))
except (ValueError, ConnectionError) as error:
    print(f"{type(error).__name__}: {error}")
else:
    print(json.dumps({split: list(lines_of(corpus[split])) for split in corpus}))
"""


def parquet(sentences):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"sentence": sentences}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def load(server, tmp_path):
    """Load a corpus in a process whose Hub is the server; with `offline` in one that may not ask it."""

    def load(offline=False, token=None, **arguments):
        environment = os.environ | server.environment(tmp_path, token)
        environment["HF_HUB_OFFLINE"] = str(int(offline))
        result = subprocess.run(
            [sys.executable, "-c", LOAD, json.dumps(arguments), str(Path(__file__).parents[2] / "rnn_hf")],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
        last = result.stdout.splitlines()[-1]
        return json.loads(last) if last.startswith("{") else last

    return load


@pytest.mark.slow
def test_penn_treebank_comes_from_the_converted_branch_and_then_from_the_cache(server, load):
    name, revision = "ptb-text-only/ptb_text_only", "refs/convert/parquet"
    files = {f"penn_treebank/{split}/0000.parquet": parquet(["a <unk> N", split]) for split in SPLITS}
    server.create(name, {"ptb_text_only.py": b"import datasets", "README.md": b""}, "dataset")
    server.create(name, files, "dataset", revision=revision)
    expected = {split: ["a <unk> N", split] for split in SPLITS}
    assert load(dataset_name="ptb") == expected
    asked = len(server.requests)
    assert load(offline=True, dataset_name="ptb") == expected
    assert len(server.requests) == asked


@pytest.mark.slow
def test_text_and_parquet_data_sets_load_and_then_come_from_the_cache(server, load):
    server.create("someone/parquet", {"data/train-0000.parquet": parquet(["a b", "c"])}, "dataset")
    server.create("someone/text", {"train.txt": b"a b\nc\n", "test.txt": b"d\n"}, "dataset")
    for offline in (False, True):
        asked = len(server.requests)
        loaded = load(offline, dataset_name="someone/parquet", text_column="sentence")
        assert loaded == {"train": ["a b", "c"]}
        assert load(offline, dataset_name="someone/text") == {"train": ["a b", "c"], "test": ["d"]}
        assert (len(server.requests) == asked) == offline


@pytest.mark.slow
def test_a_private_data_set_needs_a_token(server, load):
    server.create("me/private", {"train.txt": b"a b\n"}, "dataset", private=True)
    assert load(dataset_name="me/private").startswith("ConnectionError: cannot load the data set me/private")
    assert load(token="hf_read", dataset_name="me/private") == {"train": ["a b"]}


def test_a_data_set_that_is_a_script_is_refused_with_what_to_do(server, load):
    server.create("someone/old", {"old.py": b"import datasets", "README.md": b""}, "dataset")
    message = load(dataset_name="someone/old")
    assert message.startswith("InputError: cannot load the data set someone/old")
    assert "`dataset_revision` (often refs/convert/parquet)" in message


@pytest.mark.slow
def test_a_data_set_that_is_missing_and_one_that_was_never_fetched_are_named(load, server):
    for offline in (False, True):
        asked = len(server.requests)
        message = load(offline, dataset_name="someone/missing")
        assert message.startswith("ConnectionError: cannot load the data set someone/missing")
        message = load(offline, dataset_name="ptb")
        assert message.startswith("ConnectionError: cannot load Penn Treebank (or give `ptb_dir`) from the Hub")
        requests = server.requests[asked:]
        assert bool(requests) != offline and len(set(requests)) == len(requests)  # none is tried again and again
