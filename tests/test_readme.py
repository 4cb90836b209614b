"""README and manual: their Python blocks run as they stand, their tables are those of the files, commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_hf.models.versions_rnn import NEWEST_TRANSFORMERS, OLDEST_TRANSFORMERS


ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/deployment.md")}


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    monkeypatch.chdir(tmp_path)  # they leave a file
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    # A whole program, which takes arguments, has a test of its own (tests/onnx/test_onnx_client.py).
    blocks = [block for block in blocks if "ArgumentParser" not in block]
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def test_the_tables_are_what_the_result_files_say():
    command = [sys.executable, ROOT / "scripts" / "results.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_flag_that_a_command_names_exists(page):
    commands = re.findall(r"^(?:python|accelerate launch .*) ((?:scripts|docs)/.*)$", PAGES[page], flags=re.MULTILINE)
    assert len(commands) >= 5
    sources = [path for where in ("scripts", "docs", "rnn_hf/training") for path in (ROOT / where).glob("*.py")]
    known = "".join(path.read_text() for path in sources)
    for command in commands:
        for path in re.findall(r"(?:scripts|docs)/[\w/.]+", command):
            assert (ROOT / path).is_file(), command
        for flag in re.findall(r"--(\w+)", command):
            assert flag == "flag" or re.search(rf"\b{flag}\b", known), (command, flag)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "setup.cfg"])
def test_the_releases_of_transformers_are_those_that_the_code_says_were_tested(page):
    oldest, newest = (release.rpartition(".")[0] for release in (OLDEST_TRANSFORMERS, NEWEST_TRANSFORMERS))
    assert f"transformers {oldest} to {newest}" in (ROOT / page).read_text(encoding="utf-8")
