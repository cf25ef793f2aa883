"""Entry point of ``aioruntime`` and ``python -m aioruntime`` (L7)."""

from __future__ import annotations

__all__ = ("main",)

import sys


def main() -> None:
    """Run the command line; what it needs beside the library is an extra."""
    try:
        from aioruntime.cli.main import main as run
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "aioruntime":
            raise
        sys.exit(f"aioruntime: the command line needs {exc.name}; install it: pip install 'aioruntime[cli]'")
    run()


if __name__ == "__main__":
    main()
