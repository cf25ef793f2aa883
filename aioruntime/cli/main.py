"""The commands and their options (L5)."""

from __future__ import annotations

__all__ = ("main",)

import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from aioruntime.cli import commands
from aioruntime.cli import store as store_commands
from aioruntime.cli.loop import run_command, unwritten

# What `docker run` exits with when it fails itself, so that it can't be taken for the container's status.
_RUN_FAILED = 125
_STDOUT, _STDERR = 1, 2

app = typer.Typer(
    name="aioruntime",
    help="Pull, keep, assemble and run OCI images on Docker or Podman.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(store_commands.app, name="store")

Url = Annotated[str | None, typer.Option("--url", help="Engine address, such as unix:///run/docker.sock.")]
Store = store_commands.Store
Image = Annotated[str, typer.Argument(help="Image reference, such as ghcr.io/org/samtools:1.21.")]
Wanted = Annotated[
    str | None, typer.Option("--platform", help="Such as linux/arm64; the engine's own if left out.")
]


@app.command()
def pull(image: Image, url: Url = None, store: Store = None, platform: Wanted = None) -> NoReturn:
    """Fetch an image layer by layer and make it runnable; prints its digest."""
    sys.exit(run_command(commands.pull(image, url=url, store=store, platform=platform)))


@app.command()
def push(
    image: Image,
    to: Annotated[str | None, typer.Argument(help="Where to, if not by its own name.")] = None,
    url: Url = None,
    store: Store = None,
) -> NoReturn:
    """Push an image that was pulled or composed to a registry; prints its digest."""
    sys.exit(run_command(commands.push(image, to, url=url, store=store)))


@app.command()
def tags(
    repository: Annotated[str, typer.Argument(help="Such as ghcr.io/org/samtools.", metavar="REPO")],
) -> NoReturn:
    """List the tags of a repository."""
    sys.exit(run_command(commands.tags(repository)))


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    image: Image,
    command: Annotated[list[str] | None, typer.Argument(help="What to run in it, after --.")] = None,
    url: Url = None,
    store: Store = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE; can be repeated.")] = None,
    mount: Annotated[
        list[str] | None, typer.Option("--mount", "-v", help="HOST:CONTAINER[:ro]; can be repeated.")
    ] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", help="Directory to start in.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="User or uid[:gid].")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give it the GPU.")] = False,
) -> NoReturn:
    """Run a command in an image, pulled first if the engine lacks it; exits with the container's status."""
    words = command or []
    if words[:1] == ["--"]:  # options end at the image already; the dashes only show it
        words = words[1:]
    spec = commands.RunOptions(image, words, env or [], mount or [], workdir, user, gpu)
    sys.exit(run_command(commands.run(spec, url=url, store=store), failure=_RUN_FAILED))


@app.command()
def reap(url: Url = None, store: Store = None) -> NoReturn:
    """Remove the containers that killed programs left; prints their IDs.

    Never what belongs to a program that lives. Exits with 1 if something could not be removed, or not yet.
    """
    sys.exit(run_command(commands.reap(url=url, store=store)))


@app.command()
def doctor(url: Url = None, store: Store = None) -> NoReturn:
    """Tell which engine is found, how, and what it can do."""
    sys.exit(run_command(commands.doctor(url=url, store=store)))


@app.command()
def demo(url: Url = None) -> NoReturn:
    """Show the main job on real packages: two tools that share their layers."""
    from aioruntime.cli.demo import demo as show

    sys.exit(run_command(show(url)))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"aioruntime {version('aioruntime')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line."""
    _open_streams()
    # In a pipe, lines shall come when they are written, in order with those of standard error.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        app()
    except OSError as exc:
        sys.exit(unwritten(exc, 1))
    except SystemExit as exc:
        # So typer tells that nobody reads its help.
        if isinstance(exc.__context__, BrokenPipeError):
            sys.exit(unwritten(exc.__context__, 1))
        raise


def _open_streams() -> None:
    """Have streams that were closed for us go nowhere, before another file gets their number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(fd)
    sys.stdout = sys.stdout or open(_STDOUT, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(_STDERR, "w", closefd=False)  # noqa: SIM115
