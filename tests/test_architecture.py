"""The house's own rules, held by reading the imports and the public names."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import aioruntime

PACKAGE = Path(aioruntime.__file__).parent

# DESIGN: imports go to a lower level only, and never sideways between the parts of level 2.
LEVELS = {
    "errors": 0,
    "progress": 0,
    "rich_progress": 0,
    "tasks": 0,
    "oci": 1,
    "registry": 2,
    "store": 2,
    "engine": 2,
    "assembly": 3,
    "runtime": 4,
    "demo": 5,
    "cli": 6,
    "__main__": 7,
}


def part_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, module) for module in modules]
    return [(line, module) for line, module in found if module.startswith("aioruntime.")]


def test_imports_go_down() -> None:
    """A module imports only from its own part or from lower levels; the failing line is named."""
    broken: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for line, module in imports_of(path):
            target = part_of(module)
            if target != part and LEVELS[target] >= LEVELS[part]:
                broken.append(f"{path.relative_to(PACKAGE)}:{line}: {part} may not import {module}")

    assert broken == []


FORBIDDEN_CALLS = {"extract", "extractall"}
FORBIDDEN_ARGUMENTS = {"shell", "allow_redirects", "trust_env", "auto_decompress"}


def test_dangerous_calls_are_absent() -> None:
    """THREATS I4, I5: nobody unpacks archives, follows redirects blindly or runs a shell line."""
    broken: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            if isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_CALLS:
                broken.append(f"{where}: {node.func.attr}")
            broken += [
                f"{where}: {keyword.arg}=True"
                for keyword in node.keywords
                if keyword.arg in FORBIDDEN_ARGUMENTS
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value is True
            ]

    assert broken == []


def test_public_names_are_those_promised() -> None:
    """`__all__` names what exists, each once, and importing * gives just that."""
    namespace: dict[str, object] = {}
    exec("from aioruntime import *", namespace)
    namespace.pop("__builtins__")

    assert sorted(namespace) == sorted(aioruntime.__all__)
    assert len(set(aioruntime.__all__)) == len(aioruntime.__all__)


@pytest.mark.parametrize("name", aioruntime.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Every public class, function, method and property has a docstring of its own or an inherited one."""
    public = getattr(aioruntime, name)
    assert inspect.getdoc(public), name
    if not inspect.isclass(public):
        return
    for member, value in inspect.getmembers(public):
        function = getattr(value, "fget", None) or value
        ours = str(getattr(function, "__module__", "")).startswith("aioruntime")
        if not member.startswith("_") and ours and callable(function):
            assert inspect.getdoc(value), f"{name}.{member}"


def test_every_module_tells_its_duty() -> None:
    """Each module's docstring begins with one line that ends in a full stop."""
    untold = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not ((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]).endswith(".")
    ]

    assert untold == []
