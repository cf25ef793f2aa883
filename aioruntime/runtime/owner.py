"""Whose a container is: recorded in the store first, so that none is lost with its program (L4)."""

from __future__ import annotations

__all__ = ("CONTAINER_LABEL", "OWNER_LABEL", "Claim", "Owner", "open_owner")

import logging
import secrets
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aioruntime.errors import StoreError
from aioruntime.store.layout import Layout
from aioruntime.store.owners import Owned, Record
from aioruntime.store.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.store.store import ImageStore

OWNER_LABEL = "aioruntime.owner"
CONTAINER_LABEL = "aioruntime.container"

_log = logging.getLogger("aioruntime")
# Seconds to wait for another process that makes the store, which takes moments unless it was stopped.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Claim:
    """One container that is about to be created, or is there.

    Attributes:
        name: its name.
        nonce: random, of this container alone.
        labels: what it has to be labelled with; they win over those of its image.
    """

    name: str
    nonce: str
    labels: Mapping[str, str]


class Owner:
    """One open runtime, as whose its containers are known; made by `open_owner`.

    A store that can't be written does not keep containers from running: that is told in the log, once, and
    what they leave if this program is killed has to be removed by hand.

    Args:
        store: where containers are recorded; nothing is made there before the first.
        engine_id: the engine that they are in.

    Attributes:
        nonce: random, of this owner alone.
        claims: the containers that are recorded.
    """

    def __init__(self, store: ImageStore, engine_id: str) -> None:
        self.nonce = secrets.token_hex(16)
        self.claims: set[str] = set()
        self._engine_id = engine_id
        self._layout = Layout(store.path)
        self._owned = Owned(self._layout, self.nonce)
        self._threads = Threads(1)
        self._warned = False

    async def claim(self, name: str) -> Claim:
        """Record a container, before the engine is asked to create it with that name and the labels given."""
        nonce = secrets.token_hex(16)
        claim = Claim(name, nonce, {OWNER_LABEL: self.nonce, CONTAINER_LABEL: nonce})
        self.claims.add(nonce)
        try:
            await self._record(claim)
        except BaseException:  # cancelled: nobody will create it
            await self.release(claim)
            raise
        return claim

    async def identify(self, claim: Claim, container_id: str) -> None:
        """Add the ID that the engine gave to a container that was created."""
        await self._record(claim, container_id)

    async def _record(self, claim: Claim, container_id: str = "") -> None:
        record = Record(self._engine_id, claim.name, claim.nonce, container_id)
        attempt = partial(self._owned.put, record)
        try:
            await self._threads.poll(
                attempt, f"the store {self._layout.root}", self._layout.lock_file, give_up=_PATIENCE
            )
        except StoreError as exc:
            self._warn(f"containers run, but can't be found by reap if this program is killed: {exc}")

    async def release(self, claim: Claim) -> None:
        """Forget a container that was removed, or that shall stay when this program ends.

        If one could not be removed, don't: then `reap` removes it once this owner is gone. Runs to its end
        however often it is cancelled.
        """
        self.claims.discard(claim.nonce)
        try:
            await self._threads.run_urgent(self._owned.drop, claim.nonce)
        except StoreError as exc:
            self._warn(f"container {claim.name} stays recorded, and will be reaped if it is there: {exc}")

    async def close(self) -> None:
        """Be alive no longer; what is still recorded is left for `reap`."""
        try:
            await self._threads.run_urgent(self._owned.close)
        except StoreError as exc:
            self._warn(f"what runs containers left something behind: {exc}")

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s", message)


@asynccontextmanager
async def open_owner(store: ImageStore, engine_id: str) -> AsyncIterator[Owner]:
    """Be one who runs containers in an engine, for the time of the context.

    Args:
        store: where containers are recorded.
        engine_id: `EngineCapabilities.engine_id`.
    """
    owner = Owner(store, engine_id)
    try:
        yield owner
    finally:
        await owner.close()
