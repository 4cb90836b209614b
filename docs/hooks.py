"""What makes a site of README.md and docs/ (mkdocs.yml): pages from outside docs/, formulas, docstrings."""

import ast
import logging
import re
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File


ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
WITH_FORMULAS = {"teaching.md"}
log = logging.getLogger("mkdocs.hooks.manual")  # in strict mode a warning fails the build


def on_files(files, config):
    """Add the pages and pictures that are not under docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for picture in (ROOT / "results").rglob("*.png"):
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are on a forge become links of the site, and formulas MathML, which needs no script."""
    for name, target in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{name}", f"]({target}", markdown)
    markdown = markdown.replace("](docs/", "](").replace("](../results/", "](results/")
    if page.file.src_uri in WITH_FORMULAS:
        markdown = re.sub(
            r"\$\$(.+?)\$\$", lambda found: convert(found[1], display="block"), markdown, flags=re.DOTALL
        )
        markdown = re.sub(r"\$([^$\n]+)\$", lambda found: f"<span>{convert(found[1])}</span>", markdown)
    for module in re.findall(r"^::: ([\w.]+)$", markdown, re.MULTILINE):
        for name in without_docstring(module):
            log.warning(f"{module}: {name} has no docstring")
    return markdown


def without_docstring(module: str) -> list[str]:
    """The public functions and classes of a module that have none; of a class in `a.b.C` its methods."""
    path, name = ROOT / f"{module.replace('.', '/')}.py", ""
    if not path.exists():
        path, name = path.parent.with_suffix(".py"), path.stem
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    if name:
        nodes = next(node for node in nodes if getattr(node, "name", "") == name)
        nodes = [nodes, *nodes.body]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in nodes if isinstance(node, kinds) and not node.name.startswith("_")]
    return [node.name for node in public if not ast.get_docstring(node)]


class Doctests(griffe.Extension):
    """The examples of docstrings as code, which they are to Python and not to Markdown."""

    def on_object(self, *, obj, **options):
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^(>>> .*(?:\n.+)*)", r"```pycon\n\1\n```", obj.docstring.value)
