"""``aioruntime store``: look into the local store, clean it, carry images in and out (L5)."""

from __future__ import annotations

__all__ = ("app",)

import os
import sys
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated, NoReturn

import typer
from rich.filesize import decimal

from aioruntime.cli.loop import run_command
from aioruntime.cli.progress import reporter
from aioruntime.cli.show import bytes_of, show, table_of_images, table_of_usage, time_of, told
from aioruntime.errors import StoreError, one_line
from aioruntime.store.store import ImageStore
from aioruntime.tasks import in_thread

app = typer.Typer(
    help="See what the local image store has, keep or remove it, carry images in and out.",
    no_args_is_help=True,
)

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIRECTORY",
        help="The image store; if left out, $AIORUNTIME_STORE, else one in your cache directory.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, as is done anyway where the output is no terminal.")
]
Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        help="Its name, such as ghcr.io/org/tool:1, or its whole digest, which `ls --json` tells.",
    ),
]


async def _store(path: str | None) -> ImageStore:
    """Return the store to look into. That there is none is told; if it was asked for by name, as an error."""
    store = ImageStore(path)
    if not await in_thread(os.path.lexists, store.path):
        if path is not None:
            raise StoreError(
                f"there is no image store at {store.path}; check --store, or pull or import an image "
                "with it, which makes the store"
            )
        print(f"nothing is stored yet: {store.path} is made by the first pull or import", file=sys.stderr)
    return store


@app.command("ls")
def list_images(store: Store = None, json: Json = False) -> NoReturn:
    """List the images in the store: when each was last used, its size, whether it is pinned or in use."""

    async def work() -> int:
        images = await (await _store(store)).images()
        show(images, lambda: table_of_images(images), json=json)
        return 0

    sys.exit(run_command(work()))


@app.command("du")
def show_usage(store: Store = None, json: Json = False) -> NoReturn:
    """Show the room that the store takes: what each image has alone (OWN), and what it shares with others."""

    async def work() -> int:
        usage = await (await _store(store)).usage()
        show(usage, lambda: table_of_usage(usage), json=json)
        return 0

    sys.exit(run_command(work()))


@app.command()
def prune(
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What the store may take afterwards, such as 20GB: what was not used for longest goes.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Images not used for this long go too, such as 30d or 12h."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    store: Store = None,
    json: Json = False,
) -> NoReturn:
    """Remove what no image needs and nobody used for an hour; with options, images too.

    Never what is in use or pinned.
    """

    async def work() -> int:
        size, age = bytes_of(max_size), time_of(older_than)
        report = await (await _store(store)).prune(max_bytes=size, older_than=age, dry_run=dry_run)
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
    """Read all that is stored and compare it with its digests.

    Exits with 1 if something is damaged and was not put aside, with 2 if not all could be read or put aside.
    """

    async def work() -> int:
        damaged = await (await _store(store)).verify(repair=repair, progress=reporter())
        done = "put aside" if repair else "damaged"
        show({"damaged": damaged}, lambda: "\n".join([*damaged, f"{len(damaged)} blobs {done}"]), json=json)
        return 1 if damaged and not repair else 0

    sys.exit(run_command(work(), failure=2))


@app.command()
def pin(image: Image, store: Store = None, json: Json = False) -> NoReturn:
    """Keep an image: `prune` and `rm` leave it until it is unpinned."""

    async def work() -> int:
        await (await _store(store)).pin(image)
        show({"pinned": image}, lambda: f"pinned {one_line(image)}", json=json)
        return 0

    sys.exit(run_command(work()))


@app.command()
def unpin(image: Image, store: Store = None, json: Json = False) -> NoReturn:
    """Let an image be removed again."""

    async def work() -> int:
        await (await _store(store)).unpin(image)
        show({"unpinned": image}, lambda: f"unpinned {one_line(image)}", json=json)
        return 0

    sys.exit(run_command(work()))


@app.command("rm")
def remove(image: Image, store: Store = None, json: Json = False) -> NoReturn:
    """Remove an image, and what no other has; what is in use stays until a later `prune`."""

    async def work() -> int:
        freed = await (await _store(store)).remove(image)
        done = {"removed": image, "freed_bytes": freed}
        show(done, lambda: f"removed {one_line(image)}, {decimal(freed)} freed", json=json)
        return 0

    sys.exit(run_command(work()))


@app.command("import")
def import_layout(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTORY",
            help="An OCI image layout, such as `export` or `skopeo copy ... oci:DIRECTORY:NAME` makes.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Reference for its only image, such as ghcr.io/org/tool:1; if left out, images keep theirs.",
        ),
    ] = None,
    store: Store = None,
    json: Json = False,
) -> NoReturn:
    """Copy the images of an OCI image layout into the store; prints their names.

    A full reference means the new image from then on. A short name such as `latest` is never taken from
    another image.
    """

    async def work() -> int:
        names = await ImageStore(store).import_layout(path, name)
        show({"imported": names}, lambda: "\n".join(map(one_line, names)), json=json)
        return 0

    sys.exit(run_command(work()))


@app.command("export")
def export_layout(
    image: Image,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTORY", help="A new or empty one, or an OCI image layout: then the image is added."
        ),
    ],
    store: Store = None,
) -> NoReturn:
    """Write an image of the store into an OCI image layout, for other tools or machines."""

    async def work() -> int:
        await (await _store(store)).export_layout(image, path)
        return 0

    sys.exit(run_command(work()))
