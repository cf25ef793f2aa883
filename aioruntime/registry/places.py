"""Ask each place that has an image until one gives what is wanted: mirrors before the registry (L2)."""

from __future__ import annotations

__all__ = ("FAULTS", "Places")

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from aioruntime.errors import (
    DigestMismatch,
    InvalidManifest,
    NotFound,
    RegistryError,
    SizeMismatch,
    one_line,
)
from aioruntime.registry.mirrors import places_of
from aioruntime.registry.registries_conf import explicit_rules, read_registries
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from aioruntime.oci.reference import OciRef
    from aioruntime.registry.mirrors import Place
    from aioruntime.registry.origins import Rules
    from aioruntime.registry.registries_conf import RegistryRule
    from aioruntime.registry.retry import Retry

FAULTS = (RegistryError, DigestMismatch, SizeMismatch, InvalidManifest)
"""What one place can fail with where another may not."""

# Long enough for the rest of a pull; one that failed is still asked, after those that did not.
_LAST_FOR = 600.0
_REMEMBERED = 1024
_T = TypeVar("_T")


class Places:
    """The places of images, and which of them failed lately.

    Args:
        mirrors: mirrors by prefix, in order; None to read ``registries.conf`` when it is first needed.
        rules: which hosts are spoken to without TLS.
        retry: tries again what all of them failed with.
    """

    def __init__(self, mirrors: Mapping[str, Sequence[str]] | None, rules: Rules, retry: Retry) -> None:
        self._registries = None if mirrors is None else explicit_rules(mirrors)
        self._rules = rules
        self._retry = retry
        self._reading = asyncio.Lock()
        self._failed: dict[Place, float] = {}

    async def of(self, image: OciRef, *, by_digest: bool) -> tuple[Place, ...]:
        """List the places of *image*, its own registry last (`places_of`).

        Raises:
            RequestRefused: the image is blocked.
            InvalidConfiguration: ``registries.conf`` is broken.
        """
        return places_of(image, await self._known(), self._rules, by_digest=by_digest)

    async def _known(self) -> tuple[RegistryRule, ...]:
        async with self._reading:
            if self._registries is None:
                self._registries = await in_thread(read_registries, dict(os.environ))
            return self._registries

    async def ask(
        self, image: OciRef, attempt: Callable[[Place], Awaitable[_T]], *, by_digest: bool = True
    ) -> _T:
        """Return what *attempt* gives at the first of the image's places that has it, tried again as is due.

        Raises:
            RegistryError: no place has it, or none could tell.
            DigestMismatch: the last one gave something else.
            SizeMismatch: likewise.
        """
        places = await self.of(image, by_digest=by_digest)
        return await self._retry(partial(self.first, places, attempt))

    async def first(
        self,
        places: Sequence[Place],
        attempt: Callable[[Place], Awaitable[_T]],
        avoiding: Collection[Place] = (),
    ) -> _T:
        """Return what *attempt* gives at the first place where it does not fail.

        Args:
            places: where, in order; those that failed lately come after the others.
            attempt: asks one of them.
            avoiding: places that have given what was wrong; not asked.

        Raises:
            RegistryError: what the last of *places* said, with a note of what the others did.
            DigestMismatch: likewise.
            SizeMismatch: likewise.
            InvalidManifest: likewise.
        """
        for place in avoiding:
            self.note_failure(place)
        asked = [place for place in places if place not in avoiding] or places
        faults: dict[Place, RegistryError | DigestMismatch | SizeMismatch | InvalidManifest] = {}
        for place in sorted(asked, key=self._failed_lately):
            try:
                found = await attempt(place)
            except FAULTS as exc:
                faults[place] = exc
                if not isinstance(exc, NotFound):  # it may have the next
                    self.note_failure(place)
            else:
                if not avoiding:
                    self._failed.pop(place, None)
                return found
        fault = faults.pop(asked[-1])
        if faults:
            fault.add_note("also asked: " + "; ".join(one_line(str(other), 200) for other in faults.values()))
        raise fault

    def note_failure(self, place: Place) -> None:
        """Ask *place* after all others for a while."""
        self._failed.pop(place, None)
        self._failed[place] = self._retry.clock.now() + _LAST_FOR
        if len(self._failed) > _REMEMBERED:
            del self._failed[next(iter(self._failed))]

    def _failed_lately(self, place: Place) -> bool:
        return self._failed.get(place, 0.0) > self._retry.clock.now()
