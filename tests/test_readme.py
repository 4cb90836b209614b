"""README: its Python blocks run as they stand, its tables are what the result files say, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    monkeypatch.chdir(tmp_path)  # they leave a file
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_tables_are_what_the_result_files_say():
    command = [sys.executable, ROOT / "scripts" / "results.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_file_and_flag_that_a_command_names_exists():
    commands = re.findall(r"^(?:python|accelerate launch) (scripts/.*)$", README, flags=re.MULTILINE)
    assert len(commands) >= 6
    known = "".join(path.read_text() for path in [*ROOT.glob("scripts/*.py"), *ROOT.glob("rnn_hf/training/*.py")])
    for command in commands:
        for path in re.findall(r"scripts/[\w/.]+", command):
            assert (ROOT / path).is_file(), command
        for flag in re.findall(r"--(\w+)", command):
            assert flag == "flag" or re.search(rf"\b{flag}\b", known), (command, flag)
