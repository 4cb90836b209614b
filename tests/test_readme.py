"""The manual: its Python runs as it stands, its commands can be typed, its tables are those of the files, links lead
somewhere."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from rnn_hf.commands import RECIPES
from rnn_hf.models.versions_rnn import NEWEST_TRANSFORMERS, OLDEST_TRANSFORMERS
from rnn_hf.training.parsing import parse_arguments
from rnn_hf_command import COMMANDS


ROOT = Path(__file__).parents[1]
NAMES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}


def blocks(page, language):
    """The blocks of code of a page in a language. A whole program that takes arguments has a test of its own
    (tests/onnx/test_onnx_client.py)."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [block for block in found if "ArgumentParser" not in block]


def commands_of(page):
    """The command lines of a page, as lists of words, without comments."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    monkeypatch.chdir(tmp_path)  # they leave files
    namespace = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), namespace)


def test_the_notebook_runs(tmp_path, monkeypatch):
    cells = json.loads((ROOT / "docs" / "teaching.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip("\n") for block in blocks("docs/teaching.md", "python")]
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for source in code:
        exec(compile(source, "notebook", "exec"), namespace)


def test_pages_have_python_to_run_and_what_is_only_shown_is_python_too():
    assert sum(bool(blocks(page, "python")) for page in PAGES) >= 6
    for page in PAGES:
        for block in blocks(page, "py"):
            compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    fences = re.findall(r"^```(.*)$", PAGES[page], flags=re.MULTILINE)
    assert len(fences) % 2 == 0 and set(fences[::2]) <= {"bash", "python", "py", "text"} and set(fences[1::2]) <= {""}


def check_rnn_hf(words):
    name, argv = words[0], words[1:]
    assert name in COMMANDS
    if name == "train":
        recipe = [str(RECIPES / f"{word}.yaml") for word in argv[:1] if not word.startswith("-")]
        parse_arguments([*recipe, *argv[len(recipe) :]])
    elif "--help" not in argv:
        importlib.import_module(f"rnn_hf.commands.{name}").parse(argv)


def check_python(words):
    file = ROOT / words[0]
    assert file.is_file()
    if words[0] == "scripts/train.py":
        return check_rnn_hf(["train", *words[1:]])
    flags = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert all(f'"--{flag}"' in file.read_text(encoding="utf-8") for flag in flags), words


def check_launch(words):
    check_python(words[next(index for index, word in enumerate(words) if word.endswith(".py")) :])


def check_make(words):
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def check_pip(words):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"(?:\.|rnn_hf)\[(.*?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(setup["options.extras_require"])


CHECKS = {
    "rnn-hf": check_rnn_hf, "python": check_python, "accelerate": check_launch, "torchrun": check_launch,
    "make": check_make, "pip": check_pip, **dict.fromkeys(("git", "cd", "curl", "tensorboard"), lambda words: None),
}  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")])
def test_every_command_can_be_typed(page):
    for words in commands_of(page):
        assert words[0] in CHECKS, words
        try:
            CHECKS[words[0]](words[1:])
        except SystemExit as error:  # of a parser, which has said why on standard error
            raise AssertionError(" ".join(words)) from error


@pytest.mark.parametrize(
    "line",
    [
        "rnn-hf rain ptb_lstm_small",
        "rnn-hf train no_recipe",
        "rnn-hf train ptb_lstm_small --windows 3",
        "rnn-hf score MODEL --no_such_flag",
        "python scripts/no.py",
        "python scripts/benchmark.py train --pear DIR",
        "accelerate launch --multi_gpu scripts/train.py --no_such_flag 3",
        "make coffee",
        "pip install -e '.[coffee]'",
    ],
)
def test_a_command_that_cannot_be_typed_is_seen(line):
    words = shlex.split(line)
    with pytest.raises((AssertionError, ValueError, SystemExit)):
        CHECKS[words[0]](words[1:])


def slug(heading):
    """The anchor of a heading, as a forge and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_readme_leads_to_every_page():
    assert {f"docs/{name}" for name in re.findall(r"\]\(docs/([\w-]+\.md)", PAGES["README.md"])} == {
        name for name in NAMES if name.startswith("docs/")
    }


@pytest.mark.parametrize("page", PAGES)
def test_code_is_no_wider_than_a_page(page):
    code = "".join(block for language in ("bash", "python", "py", "text") for block in blocks(page, language))
    if page != "CONTRIBUTING.md":  # whose layout has lines of comment
        assert [line for line in code.splitlines() if len(line) > 97] == []  # 830 pixels on a forge


def test_readme_is_short_and_its_tables_narrow():
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 220
    assert max(line.count("|") for line in lines) <= 6  # five columns


def test_the_tables_are_what_the_result_files_say(run_script):
    status, *said = run_script("results.py", "--check")
    assert status == 0, said


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/compatibility.md", "setup.cfg"])
def test_the_releases_of_transformers_are_those_that_the_code_says_were_tested(page):
    oldest, newest = (release.rpartition(".")[0] for release in (OLDEST_TRANSFORMERS, NEWEST_TRANSFORMERS))
    assert f"transformers {oldest} to {newest}" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "RNNConfig" in (tmp_path / "site" / "api" / "models" / "index.html").read_text(encoding="utf-8")
