"""``aioruntime store``: look into the local store, clean it, carry images in and out (L5)."""

from __future__ import annotations

__all__ = ("app",)

import sys
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated, NoReturn

import typer

from aioruntime.cli.loop import run_command
from aioruntime.cli.progress import reporter
from aioruntime.cli.show import bytes_of, show, table_of_images, table_of_usage, time_of, told
from aioruntime.errors import one_line
from aioruntime.store.store import ImageStore

app = typer.Typer(help="Look into the local image store and clean it.", no_args_is_help=True)

Store = Annotated[str | None, typer.Option("--store", help="Local image store, a directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as is done where the output is no terminal.")]


@app.command("ls")
def list_images(store: Store = None, json: Json = False) -> NoReturn:
    """List the images in the store."""

    async def work() -> int:
        images = await ImageStore(store).images()
        show(images, lambda: table_of_images(images), json=json)
        return 0

    sys.exit(run_command(work()))


@app.command("du")
def show_usage(store: Store = None, json: Json = False) -> NoReturn:
    """Show the room that the store takes: what each image has alone, and what it shares."""

    async def work() -> int:
        usage = await ImageStore(store).usage()
        show(usage, lambda: table_of_usage(usage), json=json)
        return 0

    sys.exit(run_command(work()))


@app.command()
def prune(
    max_size: Annotated[
        str | None,
        typer.Option(help="Bytes that may stay, such as 20GB; the least recently used images go first."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Images not used for this long go too, such as 30d or 12h.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    store: Store = None,
    json: Json = False,
) -> NoReturn:
    """Remove what no image needs, and images that were not used for long; never what is in use or pinned."""

    async def work() -> int:
        report = await ImageStore(store).prune(
            max_bytes=bytes_of(max_size), older_than=time_of(older_than), dry_run=dry_run
        )
        show(report, lambda: told(report, dry_run=dry_run), json=json)
        return 1 if report.failed else 0

    sys.exit(run_command(work()))


@app.command()
def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Put damaged blobs aside; the next pull fetches them again.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> NoReturn:
    """Hash every blob; exits with 1 if one is damaged and was not put aside."""

    async def work() -> int:
        there = ImageStore(store)
        damaged = await there.verify(repair=repair, progress=reporter())
        left = [digest for digest in damaged if not repair or await there.has(digest)]
        done = f"damaged, {len(damaged) - len(left)} put aside" if repair else "damaged"
        show({"damaged": damaged}, lambda: "\n".join([*damaged, f"{len(damaged)} blobs {done}"]), json=json)
        return 1 if left else 0

    sys.exit(run_command(work()))


@app.command("import")
def import_layout(
    path: Annotated[Path, typer.Argument(help="An OCI image layout: a directory.")],
    name: Annotated[
        str | None, typer.Option(help="Reference for its only image, such as ghcr.io/org/tool:1.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> NoReturn:
    """Copy the images of an OCI image layout into the store; prints their names."""

    async def work() -> int:
        names = await ImageStore(store).import_layout(path, name)
        show({"imported": names}, lambda: "\n".join(map(one_line, names)), json=json)
        return 0

    sys.exit(run_command(work()))


@app.command("export")
def export_layout(
    image: Annotated[str, typer.Argument(help="Its name in the store, or its digest.")],
    path: Annotated[Path, typer.Argument(help="A directory: a new one, or an OCI image layout.")],
    store: Store = None,
) -> NoReturn:
    """Write an image of the store into an OCI image layout, which other tools read."""

    async def work() -> int:
        await ImageStore(store).export_layout(image, path)
        return 0

    sys.exit(run_command(work()))
