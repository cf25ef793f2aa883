"""The threat model keeps its word: each row is held by tests that are there and that name it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_ROW = re.compile(r"^\| ([A-Z]\d+) \|.*\| ([^|]+) \|$", re.MULTILINE)
_NAMED = re.compile(r"`(tests/[^`]+\.py)::(\w+)`")
_ROWS = re.compile(r"(?:THREATS )?((?:[A-Z]\d+(?:, )?)+):")
# Rows that have to be there: registries, credentials, images, engines, this machine.
DEMANDED = {
    *(f"R{number}" for number in range(1, 23)),
    *(f"C{number}" for number in range(1, 13)),
    *(f"I{number}" for number in range(1, 15)),
    *(f"L{number}" for number in range(1, 18)),
    *(f"E{number}" for number in range(1, 14)),
    *(f"E{number}" for number in (*range(1, 10), 12, 13)),
}
# Figures to reach, which tests name beside the rows.
FIGURE = "T"


def table() -> dict[str, list[tuple[str, str]]]:
    """The tests that hold each row: file and name."""
    text = (ROOT / "docs/THREAT_MODEL.md").read_text()
    return {row: _NAMED.findall(tests) for row, tests in _ROW.findall(text)}


def rows_named(path: Path) -> dict[str, set[str]]:
    """The rows that the docstring of each test in a file names, by the test's name."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tests = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)]
    said = {test.name: _ROWS.match(ast.get_docstring(test) or "") for test in tests}
    return {name: set(match[1].split(", ")) if match else set() for name, match in said.items()}


@pytest.mark.parametrize("row", sorted(DEMANDED | table().keys()))
def test_a_row_is_held(row: str) -> None:
    """Each row has a test; each test named for it exists and names it."""
    held_by = table()[row]
    assert held_by
    for file, name in held_by:
        found = rows_named(ROOT / file)
        assert name in found, f"{file} has no {name}"
        assert row in found[name], f"{file}::{name} does not name {row}"


def test_no_row_is_left_out() -> None:
    """Every row that a test says it holds is in the table."""
    files = (ROOT / "tests").rglob("test_*.py")
    named = {row for file in files for rows in rows_named(file).values() for row in rows}

    assert {row for row in named if not row.startswith(FIGURE)} <= table().keys()
