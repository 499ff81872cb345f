"""Imports of the package, tests, benchmarks and examples are of distributions that pyproject.toml names."""

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {"lucidlm", "benchmarks", "tests"} | {path.stem for path in ROOT.glob("tests/**/*.py")}
OWN |= {path.stem for path in ROOT.glob("benchmarks/*.py")}
PROVIDERS = importlib.metadata.packages_distributions()
# Not installed everywhere, so that no metadata says it; backports.zstd stands in for Python 3.14's module.
DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "compression": "backports.zstd"}


def canonical(requirement: str) -> str:
    """The name of a distribution in one spelling: huggingface-hub for huggingface_hub[hf_xet]>=1."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared(*extras: str) -> set[str]:
    """Distributions of `dependencies` and of these extras."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {canonical(requirement) for each in lists for requirement in each}


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, int], ...]:
    """First part and line of all that a file imports, inside functions too, and by importorskip."""
    return tuple(_imports_in(ast.parse(path.read_text(encoding="utf-8"))))


def _imports_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
            yield str(ast.literal_eval(node.args[0])).split(".")[0], node.lineno


def distributions_of(module: str) -> set[str]:
    """Names of what may provide a module."""
    names = PROVIDERS.get(module) or [DISTRIBUTIONS.get(module, module)]
    return {canonical(name) for name in names}


def undeclared(folder: str, *extras: str) -> list[str]:
    known = declared(*extras)
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module, line in imports_of(path):
            if module in sys.stdlib_module_names or module in OWN:
                continue
            if not known & distributions_of(module):
                found.append(f"{path.relative_to(ROOT)}:{line}: {module}")
    return found


OPTIONAL = [extra for extra in PROJECT["optional-dependencies"] if extra not in ("test", "check", "docs")]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("lucidlm", OPTIONAL),
        *((folder, [*OPTIONAL, "test"]) for folder in ("tests", "benchmarks", "examples")),
    ],
)
def test_what_is_imported_is_declared(folder, extras):
    assert undeclared(folder, *extras) == []


def test_what_is_declared_is_imported():
    used = set()
    for path in (ROOT / "lucidlm").rglob("*.py"):
        for module, _ in imports_of(path):
            used |= distributions_of(module)
    assert declared() - used == set()


def test_what_is_declared_is_pinned():
    pins = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line]
    assert declared("test", "check") - {canonical(pin) for pin in pins} == set()
