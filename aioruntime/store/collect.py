"""Remove what was decided to go (L2), though others use the store meanwhile.

Names go before the blobs that they keep. Blobs go in batches, each under the store's lock, after another
look at what is named and in use by then: so nothing that is needed goes, and nobody waits long.
"""

from __future__ import annotations

__all__ = ("collect",)

import logging
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from aioruntime.errors import StoreError, StoreFull, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import directories, files
from aioruntime.store.layout import digest_of_partial
from aioruntime.store.lease import leased
from aioruntime.store.names import change_names, read_names
from aioruntime.store.prune import UNNAMED_NS
from aioruntime.store.survey import last_used
from aioruntime.store.tree import Tree, read_tree
from aioruntime.store.values import PruneReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from aioruntime.store.layout import Layout
    from aioruntime.store.named import Named
    from aioruntime.store.prune import Plan
    from aioruntime.store.survey import Survey
    from aioruntime.store.threads import Threads

_log = logging.getLogger("aioruntime")

# Files removed in one go, while everybody else who changes something waits.
_BATCH = 200
_T = TypeVar("_T")


async def collect(layout: Layout, threads: Threads, survey: Survey, plan: Plan) -> PruneReport:
    """Remove what *plan* lists, but what is in use, pinned or named by now.

    Args:
        layout: the store's paths.
        threads: where the work is done.
        survey: what the plan was made from.
        plan: what is to go.

    Raises:
        StoreError: a name can't be removed.
    """
    work = _Collection(layout, survey, plan)
    what = f"the store {layout.root}"

    async def drop(step: Callable[[Sequence[_T]], bool | None], items: Iterable[_T]) -> None:
        left = list(items)
        while left:
            batch, left = left[:_BATCH], left[_BATCH:]
            await threads.poll(partial(step, batch), what, layout.lock_file)

    try:
        await threads.poll(work.drop_names, what, layout.lock_file)
    except StoreFull:
        # There is no room to write down which names are left: make some with what they name.
        await drop(work.drop_named_blobs, plan.blobs)
        await threads.poll(work.drop_names, what, layout.lock_file)
    await drop(work.drop_blobs, plan.blobs)
    await drop(work.drop_files, await threads.run(work.waste))
    return work.report()


class _Collection:
    """The steps. Each blocks, and returns None if another holds the store's lock and we must wait."""

    def __init__(self, layout: Layout, survey: Survey, plan: Plan) -> None:
        self._layout = layout
        self._survey = survey
        self._plan = plan
        trees = {**survey.others, **{image.digest: image.tree for image in survey.images}}
        self._trees = {digest: tree for digest, tree in trees.items() if tree.settled}
        self._used = {image.name: image.used for image in survey.images}
        self._roots: frozenset[ImageDigest] = frozenset()
        self._needed: set[str] = set()
        self._unclear = dict.fromkeys(plan.unclear)
        self._images: list[str] = []
        self._blobs: list[str] = []
        self._failed: list[StoreError] = []
        self._freed = 0

    def report(self) -> PruneReport:
        kept = self._survey.total - self._freed
        if self._unclear and self._plan.forced:  # the report of a removal is not seen
            _log.warning(
                "%s: no blob was removed, since it is not known what these need: %s; their manifests, or "
                "those of a platform, are damaged or gone: pull or import the images again, or remove them",
                self._layout.root,
                one_line(", ".join(self._unclear)),
            )
        return PruneReport(
            tuple(self._images),
            tuple(self._blobs),
            self._freed,
            kept,
            unclear=tuple(self._unclear),
            failed=tuple(self._failed),
        )

    def drop_names(self) -> bool | None:
        """Remove the names of images that still mean what they meant, and adopt those that others moved."""

        def change(named: Named) -> Named:
            self._images = self._going(named)
            return named.without(self._images)

        return None if change_names(self._layout, change, mend=False) is None else True

    def _going(self, named: Named) -> list[str]:
        """Tell which images still go: those that mean what they meant, and were not used or pinned since."""
        forced = self._plan.forced
        kept = named.pinned if self._plan.forced else named.pinned | leased(self._layout)
        return [
            name
            for name, digest in self._plan.images.items()
            if named.means(name, digest)
            if name not in kept and digest not in kept
            if forced or last_used(self._layout, digest) in (None, self._used[name])
        ]

    def drop_blobs(self, digests: Sequence[str], *, named: bool = False) -> bool | None:
        """Remove blobs that no image has by now, and nobody uses.

        Args:
            digests: the blobs.
            named: whether the images that are to go count as gone.
        """
        lock = self._layout.lock()
        if lock is None:
            return None
        with lock:
            kept = read_names(self._layout, whole=True)
            needed = self._needed_by(kept.without(self._going(kept)) if named else kept)
            if needed is None:
                return True
            busy = leased(self._layout)
            if not lock.in_place():
                return None  # somebody removed it, and others may have it too
            for digest in map(ImageDigest, digests):
                if digest not in needed and digest not in busy and self._unused_since(digest):
                    with self._going_on():
                        self._unlink(self._layout.blob(digest), self._plan.blobs[digest])
                        self._blobs.append(str(digest))
        return True

    def _unused_since(self, digest: ImageDigest) -> bool:
        found = directories.lookup(self._layout.blob(digest))
        return found is not None and found.modified_ns == self._survey.used[digest]

    def drop_named_blobs(self, digests: Sequence[str]) -> bool | None:
        """Remove blobs, also those of images whose names are still to be removed."""
        return self.drop_blobs(digests, named=True)

    def _needed_by(self, named: Named) -> set[str] | None:
        """Return what images have; None if that is not known."""
        roots = named.roots
        if roots != self._roots or not roots <= self._trees.keys():
            trees = {root: self._tree(root) for root in roots}
            self._needed = set().union(*(tree.blobs for tree in trees.values()))
            self._roots = roots
            if unread := {root for root, tree in trees.items() if tree.unread}:
                names = (name for name, found in named.images.items() if found.digest in unread)
                self._unclear |= dict.fromkeys([*names, *map(str, unread & named.others)])
                return None
        return self._needed

    def _tree(self, root: ImageDigest) -> Tree:
        if (tree := self._trees.get(root)) is None:
            tree = read_tree(self._layout, root)
            if tree.settled:
                self._trees[root] = tree
        return tree

    def waste(self) -> list[tuple[Path, int]]:
        """List what else can go, if nobody holds it: files, and the bytes that each frees."""
        layout, survey, plan = self._layout, self._survey, self._plan
        waste = [(layout.ingest / name, survey.partial[name].size) for name in plan.partial]
        waste += [(layout.damaged / name, survey.damaged[name].size) for name in plan.damaged]
        if not plan.forced:
            waste += [(path, 0) for path in self._leftovers()]
        return waste

    def _leftovers(self) -> Iterator[Path]:
        """Give what may be of the dead; what the living need of it is locked, or young."""
        layout = self._layout
        ours, old = layout.images.parent, time.time_ns() - UNNAMED_NS
        for directory in (layout.root, ours, layout.owners, layout.root / "blobs"):
            for name, found in directories.scan(directory):
                half_written = name.startswith(".") and name.endswith(".new")
                half_made = name.startswith(directories.UNFINISHED) and found.modified_ns < old
                if half_written or half_made or (directory == ours and name.endswith(".lock")):
                    yield directory / name
        for name, found in directories.scan(layout.damaged):
            if not found.regular:
                yield layout.damaged / name
        stamps = {layout.used(image.digest).name for image in self._survey.images}
        for name, found in directories.scan(layout.used_files):
            if name not in stamps and found.modified_ns < old:
                yield layout.used_files / name

    def drop_files(self, paths: Sequence[tuple[Path, int]]) -> bool | None:
        """Remove files that nobody holds a lock on."""
        lock = self._layout.lock()
        if lock is None:
            return None
        with lock:
            busy = leased(self._layout)
            if not lock.in_place():
                return None
            for path, size in paths:
                digest = digest_of_partial(path.name)
                if path.parent != self._layout.ingest or (digest not in busy and self._left(path)):
                    with self._going_on():
                        self._drop_file(path, size)
        return True

    def _left(self, path: Path) -> bool:
        """Tell whether a download that was begun has not been gone on with."""
        found = directories.lookup(path)
        return found is not None and found.modified_ns == self._survey.partial[path.name].used

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Keep what goes wrong with one file for the report."""
        try:
            yield
        except StoreError as exc:
            self._failed.append(exc)

    def _drop_file(self, path: Path, size: int) -> None:
        found = directories.lookup(path)
        if found is None:
            return
        if path.name.startswith(directories.UNFINISHED):
            directories.remove(path)
            return
        if not found.regular:
            _log.warning("%s is not a file of the store's; remove it when you have seen what it is", path)
            return
        if path.parent == self._layout.damaged:
            self._unlink(path, size)  # nobody holds it, and even its owner may only read it
            return
        file = files.open_existing(path)
        if file is not None:
            with file:
                if file.try_lock():
                    self._unlink(path, size)

    def _unlink(self, path: Path, size: int) -> None:
        directories.unlink(path)
        self._freed += size
