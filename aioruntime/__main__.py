"""Run the command line: ``python -m aioruntime``."""

from aioruntime.cli.main import main

main()
