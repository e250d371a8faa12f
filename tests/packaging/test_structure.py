"""The shape of the source tree: layers, sizes, packaging, names."""

import ast
import configparser
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = {
    "kernels": 0,
    "common": 1,
    "tokenizers": 2,
    "model": 2,
    "envs": 2,
    "data": 3,
    "checkpoints": 3,
    "sampling": 3,
    "rl": 3,
    "reward": 4,
    "synthesis": 4,
    "training": 5,
    "evals": 6,
    "planning": 6,
    "serving": 6,
    "viz": 6,
    "cli": 7,
}
SOURCES = sorted([*ROOT.glob("soler1_jax/**/*.py"), *ROOT.glob("kernels/**/*.py")])


def _package(path: Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "kernels":
        return "kernels"
    return parts[1] if len(parts) > 2 else None


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return {n.split(".")[1] for n in found if n.startswith("soler1_jax.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    package = _package(path)
    if package is None:
        return
    level = LEVELS[package]
    for other in _imports(ast.parse(path.read_text())) - {package}:
        assert LEVELS[other] < level, f"{package} may not import {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_can_be_seen_whole(path):
    text = path.read_text()
    limit = 500 if _package(path) == "kernels" else 400
    assert text.count("\n") <= limit
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is"
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if not isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 80, node.name
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    for node in public:
        if not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_setup_lists_every_package():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    on_disk = set()
    for path in SOURCES:
        if path.name == "__init__.py":
            name = ".".join(path.parent.relative_to(ROOT).parts)
            on_disk.add(f"soler1_jax.{name}" if name.startswith("kernels") else name)
    assert listed == on_disk


def test_our_kernels_do_not_shadow_the_package_of_that_name():
    # transformers imports a distribution called `kernels`; the repository root on
    # sys.path would hand it ours. Run `pytest`, not `python -m pytest`.
    spec = importlib.util.find_spec("kernels")
    assert spec is None or not str(spec.origin).startswith(str(ROOT))
    assert len(ast.parse((ROOT / "kernels/__init__.py").read_text()).body) == 1


def test_no_unfinished_marks():
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for mark in ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error"):
                assert mark not in line, f"{path}:{number}"


def test_python_started_in_a_checkout_finds_the_kernels():
    code = "import soler1_jax.kernels.dispatch as found; print(found.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == ROOT / "kernels" / "dispatch.py"
