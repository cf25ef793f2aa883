"""Look whether a store kept what it had promised, and whether it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioruntime.errors import AioRuntimeError, DigestMismatch
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Manifest, decode_document
from tests.store.helpers import content, partials, save
from tests.store.power_worker import OPERATIONS, Worker
from tests.store.promises import PromiseLog

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.oci.documents import Descriptor
    from aioruntime.store.store import ImageStore
    from tests.store.promises import Promised


async def faults_of(store: ImageStore, promised: dict[str, Promised], log: Path) -> list[str]:
    """Return what is wrong with the store; *log* takes the promises of its next use."""
    try:
        faults = await _broken_promises(store, promised) + await _broken_content(store)
        if not faults:
            await _use(store, promised, PromiseLog(log))
            faults = await _broken_content(store)
            faults += [f"{path} was left" for path in store.path.rglob(".*")]
    except AioRuntimeError as exc:
        return [f"{type(exc).__name__}: {exc}"]
    return faults


async def _broken_promises(store: ImageStore, promised: dict[str, Promised]) -> list[str]:
    faults = []
    names = await store.references()
    for subject, expected in promised.items():
        kind, name = subject.split(" ")
        if kind == "name":
            found = str(names[name].digest) if name in names else None
            kept = found in expected.values
        elif kind == "note":
            note = await store.read_note(name)
            found = None if note is None else note.decode()
            kept = found in expected.values
        else:
            found = "there" if await store.has(ImageDigest(name)) else None
            kept = found is not None or None in expected.values
        if not kept:
            faults.append(f"{subject}: promised {expected.values}, found {found}")
    faults += [f"{name} was never set" for name in names if f"name {name}" not in promised]
    return faults


async def _broken_content(store: ImageStore) -> list[str]:
    faults = [f"{digest} is damaged" for digest in await store.verify()]
    for name, descriptor in (await store.references()).items():
        faults += [f"{name} lacks {digest}" for digest in await _lacking(store, descriptor)]
    return faults


async def _lacking(store: ImageStore, descriptor: Descriptor) -> list[ImageDigest]:
    if not await store.has(descriptor.digest, descriptor.size):
        return [descriptor.digest]
    raw = await store.read(descriptor.digest)
    manifest = decode_document(raw, descriptor.media_type, "the store")
    assert isinstance(manifest, Manifest)
    parts = (manifest.config, *manifest.layers)
    return [part.digest for part in parts if not await store.has(part.digest, part.size)]


async def _use(store: ImageStore, promised: dict[str, Promised], log: PromiseLog) -> None:
    """Go on with what the power cut off, and do everything once more."""
    known = {subject.removeprefix("blob sha256:"): value.values[-1] for subject, value in promised.items()}
    for part in partials(store) if (store.path / "ingest").exists() else ():
        seeded = known.get(part.removeprefix("sha256-"))
        if seeded is None:
            continue  # a document, whose writer begins anew
        data, digest = content(*seeded)
        try:
            await save(store, data, digest)
        except DigestMismatch:  # of what was left, nothing was promised
            await save(store, data, digest)
        assert await store.read(digest) == data
    for subject in promised:
        if subject.startswith("note "):
            await store.update_note(subject.removeprefix("note "), lambda old: (old or b"") + b"0")
    worker = Worker(store, log, "next")
    for operation in OPERATIONS:
        await operation(worker)
