"""A process of somebody who has not installed the package, in which only `trust_remote_code` helps."""

import json
import os
import subprocess
import sys


WITHOUT_PACKAGE = """
import importlib.abc, json, sys

class NoPackage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rnn_hf":
            raise ImportError("this process has no rnn_hf")

sys.meta_path.insert(0, NoPackage())
"""


def told_by_a_stranger(program, folder):
    """What the last line that a program prints in a folder says, which is JSON; it is run without the package."""
    environment = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_PACKAGE + program]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])
