"""How the tests are run: what CI demands, and what is left out unless asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY = Path(__file__).parents[2]
TESTS = """
import os
import pytest

@pytest.mark.skipif(os.name != "", reason="no such program")
def test_by_mark(): pass

@pytest.fixture
def lacking(): pytest.skip("no such right")

def test_by_fixture(lacking): pass

def test_within(): pytest.skip("no such kernel")

@pytest.mark.full
def test_long(): pass
"""


def outcomes(directory: Path, *arguments: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Run TESTS with our configuration; return its last line, without the time, and all that it said."""
    (directory / "test_it.py").write_text(TESTS)
    options = ["-c", str(REPOSITORY / "pyproject.toml"), f"--rootdir={directory}", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "tests.conftest", *arguments, "test_it.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ran.stdout.splitlines()[-1]
    return re.sub(r"^=+ | in [0-9.]+s.*$", "", last), ran.stdout


def test_ci_demands_every_test(tmp_path: Path) -> None:
    """What is skipped elsewhere, for whatever reason, fails in CI, and the reason is told."""
    assert outcomes(tmp_path, environ={"CI": ""})[0] == "3 skipped, 1 deselected"
    said, output = outcomes(tmp_path, environ={"CI": "true"})
    assert re.fullmatch("[0-9] failed, 1 deselected(, [0-9] errors?)?|2 failed, 1 deselected, 1 error", said)
    assert "skipped" not in said
    for why in ("no such program", "no such right", "no such kernel"):
        assert f"CI demands every test: Skipped: {why}" in output


@pytest.mark.parametrize(("marked", "ran"), [("full", "1 passed, 3 deselected"), ("not full", "3 skipped")])
def test_full_ones_are_asked_for(tmp_path: Path, marked: str, ran: str) -> None:
    """`-m full` runs those that take minutes, and those alone, though they are left out without it."""
    assert ran in outcomes(tmp_path, "-m", marked, environ={"CI": ""})[0]
