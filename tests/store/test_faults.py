"""Every file-system call fails once, or is the last before SIGKILL."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.store.helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_fault_at_any_call_leaves_a_sound_store(tmp_path: Path, fault: str | int) -> None:
    """Whichever call fails: it is a StoreError, no blob or name is wrong or lost, the next use succeeds."""
    command = [sys.executable, "-m", "tests.store.faults", str(tmp_path), str(fault)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
