"""Two processes, and another tool, that use a store in random order, die, run into faults, and lose power."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioruntime.errors import AioRuntimeError, DigestMismatch
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import directories, files
from aioruntime.store.store import ImageStore
from aioruntime.store.threads import Threads
from tests.store.disk import Died, Machine, Trouble
from tests.store.helpers import MANIFEST_TYPE
from tests.store.model import CHILDREN, CONTENT, DIGESTS, FOREIGN, IMAGES, NAMES, REF_NAME, State, observe
from tests.store.uses import (
    Blocked,
    Discard,
    Ingest,
    Lease,
    Note,
    Pin,
    Prune,
    Put,
    Remove,
    SetName,
    Use,
    touched,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping


_T = TypeVar("_T")
# In memory where that can be: nothing has to outlast the test, and a disk would make it wait.
DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# The processes. The second does what is done in the middle of what the first does.
ONE, OTHER = "one", "other"


class Inline(Threads):
    """Makes the store's calls at once, so that a run can be repeated; who would have to wait is told."""

    async def run(self, call: Callable[..., _T], *args: object) -> _T:
        return call(*args)

    async def run_urgent(self, call: Callable[..., _T], *args: object) -> _T:
        return call(*args)

    async def poll(self, attempt: Callable[[], _T | None], subject: str, lock: Path, **options: object) -> _T:
        if (result := attempt()) is None:
            raise Blocked(subject)
        return result


def _now(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("it waits for something")


processes = st.sampled_from((ONE, OTHER))
calls = st.integers(1, 25)
opens_too = st.integers(1, 50)
digests = st.sampled_from(DIGESTS)
images = st.sampled_from(IMAGES)
image_names = st.sampled_from([*NAMES, FOREIGN])
offsets = st.integers(0, 800)
uses = st.one_of(
    st.builds(
        Ingest,
        digests,
        st.booleans(),
        st.none() | offsets,
        st.just(10**6) | offsets,
        st.booleans() | st.just(True),
        st.integers(1, 300),
        st.booleans(),
    ),
    st.builds(Put, digests, st.sampled_from((False, False, False, True))),
    st.builds(SetName, st.sampled_from(NAMES), images),
    st.builds(Pin, image_names, st.booleans()),
    st.builds(Remove, image_names | images),
    st.builds(
        Prune,
        st.permutations(DIGESTS),
        st.none() | st.integers(0, 3000),
        st.none() | st.integers(0, 4),
        st.booleans(),
    ),
    st.builds(Lease, st.lists(digests, max_size=4), st.none() | images),
    st.builds(Note),
    st.builds(Discard, digests),
)


@dataclass
class Process:
    """One of the processes that use the store, and what it holds."""

    name: str
    store: ImageStore
    leases: list[Any] = field(default_factory=list)
    writing: dict[ImageDigest, Any] = field(default_factory=dict)


class SharedStore(RuleBasedStateMachine):
    """A store that two processes and another tool use."""

    place: str | None = DISK

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="model", dir=self.place))
        (self.directory / "attic").mkdir()
        self.root = self.directory / "store"
        self.machine = Machine(self.directory / "attic")
        self.patch = pytest.MonkeyPatch()
        # The order in which leases are looked at is that of their names: the same whenever this is repeated.
        tokens = random.Random(0)
        for module in (files, directories):
            self.patch.setattr(module, "os", self.machine)
        self.patch.setattr(secrets, "token_hex", lambda count: tokens.randbytes(count).hex())
        self.processes = {name: self.born(name) for name in (ONE, OTHER)}
        self.state = State()
        self.copy = b'{"manifests":[]}'
        # What was there before uses that failed: a power cut may bring it back.
        self.was: dict[str, list[State]] = {"blobs": [], "names": [], "note": []}

    def teardown(self) -> None:
        try:
            for process in self.processes.values():
                self.kill(process)
        finally:
            self.patch.undo()
            shutil.rmtree(self.directory)

    def born(self, name: str) -> Process:
        store = ImageStore(self.root)
        store._threads = Inline()
        return Process(name, store)

    # What the processes do

    @initialize(some=st.lists(images, unique=True, max_size=3))
    def begin(self, some: list[ImageDigest]) -> None:
        """Images that are here from the start."""
        self.do(ONE, Put(IMAGES[0]))
        here = set(some).union(*(CHILDREN[image] for image in some)) - {IMAGES[0]}
        here |= {child for digest in here for child in CHILDREN[digest]}
        for digest in here - {IMAGES[0]}:
            (self.root / "blobs/sha256" / digest.hex).write_bytes(CONTENT[digest])
        self.state = observe(self.root, self.state)
        for image, name in zip(some, NAMES, strict=False):
            self.do(ONE, SetName(name, image))

    @rule(process=processes, use=uses)
    def goes_well(self, process: str, use: Use) -> None:
        self.do(process, use)

    @rule(use=uses, at=calls, seed=st.none() | st.integers(0, 2**32))
    def dies(self, use: Use, at: int, seed: int | None) -> None:
        trouble = Trouble(at)
        expected = self.expected(use, ONE)
        result = self.outcome(use, ONE, trouble)
        if not trouble.happened:
            return self.settled(use, result, expected)
        self.kill(self.processes[ONE])
        if seed is not None:
            self.lose_power(seed)
        self.unfinished(use, expected[1], powerless=seed is not None)

    @rule(use=uses, at=calls, number=st.sampled_from((errno.ENOSPC, errno.EIO)))
    def fails(self, use: Use, at: int, number: int) -> None:
        trouble = Trouble(at, number)
        expected = self.expected(use, ONE)
        result = self.outcome(use, ONE, trouble)
        if not trouble.happened:
            return self.settled(use, result, expected)
        before = self.state
        if isinstance(use, Lease) and result is None:
            self.state = replace(self.state, leases=expected[1].leases)
        self.unfinished(use, expected[1], full=number == errno.ENOSPC)
        if not isinstance(result, type):
            assert self.state.blobs.items() >= expected[1].blobs.items()
            self.remember(use, result, before)

    @rule(use=uses, other=uses, at=opens_too)
    def meanwhile(self, use: Use, other: Use, at: int) -> None:
        """Between two system calls of one process the other does something from beginning to end."""
        before = self.state
        between: list[State] = []
        said: list[Any] = []

        def do() -> None:
            said.append(self.outcome(other, OTHER))
            between.append(observe(self.root, before))

        if isinstance(use, Prune) and isinstance(other, Prune):
            other = replace(other, ranks=use.ranks)  # files have one time of their last use
        other.process = OTHER
        other.prepare(self.root)
        expected = self.expected(use, ONE)
        result = self.outcome(use, ONE, Trouble(at, meanwhile=do))
        if not between:
            return self.settled(use, result, expected)
        first = other.expect(before)
        last, second = other.expect(expected[1]), use.expect(first[1])
        if said == [Blocked]:
            choices = [(expected[0], Blocked, expected[1])]
        elif result is Blocked:
            choices = [(Blocked, first[0], first[1])]
        else:
            choices = [(expected[0], last[0], last[1]), (second[0], first[0], second[1])]
        if isinstance(use, Prune | Remove):
            # What was chosen to go may have come to be needed, and stay.
            choices.append((result, first[0], first[1]))
        if isinstance(use, Prune):
            # What the other wrote is new, unless it had been there.
            choices.append((result, first[0], replace(use, fresh=touched(other)).expect(first[1])[1]))
        leases = tuple(
            (one.process, tuple(one.digests))
            for one, ended in ((use, result), (other, said[0]))
            if isinstance(one, Lease) and ended is None
        )
        seen = observe(self.root, replace(before, leases=(*before.leases, *leases)))
        self.is_one_of(seen, [choice[2] for choice in choices])
        if not any(isinstance(one, Prune | Remove) for one in (use, other)):
            # These go by what they saw some time ago.
            assert (result, said[0], seen.promised) in [(*c[:2], c[2].promised) for c in choices]
        else:
            for one, ended in ((use, result), (other, said[0])):
                if isinstance(one, Pin) and one.pinned and ended is None:
                    assert one.name in seen.pins & seen.named.keys()
        for name, image in seen.named.items():
            gone = before.tree(image) & before.sound & between[0].blobs.keys() - seen.blobs.keys()
            assert not gone, name
        assert not seen.leased & between[0].sound - seen.blobs.keys()
        for one, ended in ((use, result), (other, said[0])):
            self.remember(one, ended, before)
        if isinstance(use, Prune | Remove) or isinstance(other, Prune | Remove):
            self.was["blobs"] += [before, between[0]]
        self.state = seen

    @rule(process=processes, digest=digests, count=offsets)
    def begins_to_write(self, process: str, digest: ImageDigest, count: int) -> None:
        use = Ingest(digest, until=0, commit=False)
        expected = self.expected(use, process)
        with self.machine.running(process):
            context = self.processes[process].store.ingest(digest, len(CONTENT[digest]))
            try:
                ingest = _now(context.__aenter__())
            except Blocked:
                assert expected[0] is Blocked
                return
            if ingest is None:
                _now(context.__aexit__(None, None, None))
                assert expected[0] == "present"
                return
            self.processes[process].writing[digest] = context, ingest
            assert expected[0] == ("left", ingest.kept)
            _now(ingest.write(CONTENT[digest][ingest.offset : count]))
        self.state = observe(self.root, replace(self.state, held=self.state.held | {digest}))

    @precondition(lambda self: self.state.held)
    @rule(data=st.data(), commit=st.booleans())
    def ends_writing(self, data: st.DataObject, commit: bool) -> None:
        held = [(p, d) for p in self.processes.values() for d in p.writing]
        process, digest = data.draw(st.sampled_from(held))
        context, ingest = process.writing.pop(digest)
        self.state = replace(self.state, held=self.state.held - {digest})
        kept = self.state.partial[digest]
        right = CONTENT[digest].startswith(kept)
        partial = {d: found for d, found in self.state.partial.items() if d != digest}
        blobs = dict(self.state.blobs)
        with self.machine.running(process.name):
            if commit:
                _now(ingest.write(CONTENT[digest][ingest.offset :]))
                with suppress(*() if right else (DigestMismatch,)):
                    _now(ingest.commit("registry.test"))
                    assert right
                    blobs[digest] = CONTENT[digest]
                    self.was["blobs"].clear()
            elif end := (kept + CONTENT[digest][len(kept) : ingest.offset]):
                partial[digest] = end
            _now(context.__aexit__(None, None, None))
        self.state = replace(self.state, blobs=blobs, partial=partial)

    @precondition(lambda self: self.state.leases)
    @rule(data=st.data())
    def gives_back(self, data: st.DataObject) -> None:
        process, digests = data.draw(st.sampled_from(self.state.leases))
        held = self.processes[process].leases
        use, context = next(one for one in held if tuple(one[0].digests) == digests)
        held.remove((use, context))
        with self.machine.running(process):
            _now(context.__aexit__(None, None, None))
        leases = list(self.state.leases)
        leases.remove((process, digests))
        self.state = replace(self.state, leases=tuple(leases))

    @rule(process=processes)
    def is_killed(self, process: str) -> None:
        self.kill(self.processes[process])

    @rule(seed=st.integers(0, 2**32))
    def power_is_cut(self, seed: int) -> None:
        self.lose_power(seed)
        self.unfinished(Note(), self.state, powerless=True)

    # What others do

    @rule(digest=digests, at=offsets, how=st.sampled_from(("flip", "cut", "remove")), part=st.booleans())
    def damage(self, digest: ImageDigest, at: int, how: str, part: bool) -> None:
        found = self.state.partial if part else self.state.blobs
        data = found.get(digest)
        if not data or digest in self.state.held:
            return
        self.settle()
        at %= len(data)
        path = self.root / ("ingest" if part else "blobs/sha256")
        path /= f"sha256-{digest.hex}" if part else digest.hex
        if how == "remove":
            path.unlink()
        else:
            path.chmod(0o600)
            path.write_bytes(data[:at] + (bytes([data[at] ^ 1]) + data[at + 1 :]) * (how == "flip"))
        self.state = observe(self.root, self.state)

    @rule(image=images)
    def names_one_elsewhere(self, image: ImageDigest) -> None:
        entries = [] if self.garbled else json.loads(self.index.read_bytes())["manifests"]
        entry = {"mediaType": MANIFEST_TYPE, "digest": image, "size": len(CONTENT[image])}
        entry["annotations"] = {REF_NAME: FOREIGN}
        entries = [old for old in entries if old["annotations"][REF_NAME] != FOREIGN]
        self.writes_index(json.dumps({"schemaVersion": 2, "manifests": [*entries, entry]}).encode())

    @precondition(lambda self: self.index.exists() and not self.garbled)
    @rule()
    def reads_index(self) -> None:
        self.copy = self.index.read_bytes()

    @rule()
    def writes_what_it_read(self) -> None:
        self.writes_index(self.copy)

    @rule()
    def writes_half(self) -> None:
        self.writes_index(self.copy[: len(self.copy) // 2])

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def garbled(self) -> bool:
        try:
            json.loads(self.index.read_bytes())
        except (ValueError, FileNotFoundError):
            return True
        return False

    def writes_index(self, data: bytes) -> None:
        if self.index.exists():
            self.settle()
            self.index.write_bytes(data)
            self.state = observe(self.root, self.state)

    # What comes of it

    @invariant()
    def as_expected(self) -> None:
        seen = observe(self.root, self.state)
        for digest in self.state.held:
            assert digest in seen.partial
        held = {digest: seen.partial[digest] for digest in self.state.held}
        self.state = replace(
            self.state, stamps=seen.stamps, damaged=seen.damaged, partial={**self.state.partial, **held}
        )
        assert seen == self.state

    @rule(process=processes)
    def looks(self, process: str) -> None:
        state, store = self.state, self.processes[process].store
        with self.machine.running(process):
            assert {n: d.digest for n, d in _now(store.references()).items()} == state.named
            found = _now(store.images())
            listed = _now(store.blobs())
            usage = _now(store.usage())
            damaged = asyncio.run(store.verify())
        assert {image.name: image.digest for image in found} == state.named
        assert {image.name for image in found if image.pinned} == state.pins & state.named.keys()
        assert {image.name for image in found if image.in_use} == {
            name for name, digest in state.named.items() if digest in state.leased
        }
        for image in found:
            mine = state.tree(image.digest)
            others = set().union(*(state.tree(d) for d in state.named.values() if d != image.digest))
            assert set(image.blobs) == mine
            assert image.own_bytes == sum(len(state.blobs.get(d, b"")) for d in mine - others)
            assert image.shared_bytes == sum(len(state.blobs.get(d, b"")) for d in mine & others)
        assert {blob.digest: blob.size_bytes for blob in listed} == {
            d: len(b) for d, b in state.blobs.items()
        }
        assert usage.total == state.total
        assert usage.unnamed == sum(len(state.blobs[d]) for d in state.blobs.keys() - state.named_blobs())
        assert damaged == sorted(d for d, data in state.blobs.items() if data != CONTENT[d])

    def expected(self, use: Use, process: str) -> tuple[Any, State]:
        use.process = process
        use.prepare(self.root)
        return use.expect(self.state)

    def outcome(self, use: Use, process: str, trouble: Trouble | None = None) -> Any:
        """Return the result, or the type of the error."""
        with self.machine.running(process, trouble):
            try:
                result = _now(use.run(self.processes[process].store))
            except (AioRuntimeError, Blocked, Died) as exc:
                return type(exc)
        if isinstance(use, Lease):
            self.processes[process].leases.append((use, result))
            return None
        return result

    def do(self, process: str, use: Use) -> None:
        expected = self.expected(use, process)
        self.settled(use, self.outcome(use, process), expected)

    def settled(self, use: Use, result: Any, expected: tuple[Any, State]) -> None:
        assert result == expected[0]
        before, self.state = self.state, expected[1]
        self.remember(use, result, before)

    def remember(self, use: Use, result: Any, before: State) -> None:
        """Learn what a power cut can't bring back any more, now that a use has succeeded, or still can."""
        if isinstance(result, type) or result == "present":
            return
        if isinstance(use, Put | SetName) or (isinstance(use, Ingest) and result[0] == "committed"):
            self.was["blobs"].clear()
        elif isinstance(use, Remove | Prune):
            self.was["blobs"].append(before)
        if isinstance(use, SetName | Pin | Remove):
            self.was["names"].clear()
        elif isinstance(use, Note):
            self.was["note"].clear()

    def unfinished(self, use: Use, after: State, *, powerless: bool = False, full: bool = False) -> None:
        """Check that each thing is as it was, or as it was to be; and that names have all that they had.

        On a full disk, names that were to go may be left without: removing blobs is what makes room.
        """
        before = self.state
        choices = [before, after]
        come = before
        if isinstance(use, Ingest | Put):
            come = replace(before, blobs={**before.blobs, use.digest: CONTENT[use.digest]})
            choices.append(come)
            if use.digest not in before.sound:
                # What was damaged has been replaced, and what replaced it was taken back.
                choices.append(
                    replace(before, blobs={d: b for d, b in before.blobs.items() if d != use.digest})
                )
        seen = observe(self.root, before)
        lost = {d for was in self.was["blobs"] if powerless for d in before.blobs if d not in was.blobs}
        self.is_one_of(seen, choices, self.was if powerless else {})
        for name in seen.named.keys() & after.named.keys() if full else seen.named:
            gone = before.tree(seen.named[name]) & before.sound - seen.blobs.keys() - lost
            assert not gone, name
        assert not seen.leased & before.sound - seen.blobs.keys() - lost
        for kind in self.was.values():
            if powerless:
                kind.clear()
            else:
                kind.append(before)
        if not powerless:
            # Also what was taken back is on the disk, whole, if its end is not.
            self.was["blobs"].append(come)
        self.state = seen

    def settle(self) -> None:
        """Let all that was written come to the disk."""
        self.machine.settle()
        for kind in self.was.values():
            kind.clear()

    def is_one_of(self, seen: State, choices: list[State], was: Mapping[str, list[State]] = {}) -> None:
        for digest in seen.blobs.keys() | DIGESTS:
            allowed = [choice.blobs.get(digest) for choice in (*choices, *was.get("blobs", ()))]
            assert seen.blobs.get(digest) in allowed, digest
        named = [*choices, *was.get("names", ())]
        for name in (*NAMES, FOREIGN):
            assert seen.named.get(name) in [choice.named.get(name) for choice in named], name
            assert (name in seen.pins) in [name in choice.pins for choice in named], name
        assert seen.note in [choice.note for choice in (*choices, *was.get("note", ()))]

    def kill(self, process: Process) -> None:
        """Leave of a process only what it wrote."""
        self.machine.dead.add(process.name)
        held = [context for _, context in process.leases] + [
            context for context, _ in process.writing.values()
        ]
        with self.machine.running(process.name):
            for context in held:
                with suppress(Died):
                    _now(context.__aexit__(Died, Died(), None))
        self.machine.bury(process.name)
        self.processes[process.name] = self.born(process.name)
        leases = tuple(lease for lease in self.state.leases if lease[0] != process.name)
        held_still = self.state.held - process.writing.keys()
        self.state = replace(self.state, leases=leases, held=held_still)

    def lose_power(self, seed: int | None) -> None:
        for process in list(self.processes.values()):
            self.kill(process)
        self.machine.cut_power(self.root, None if seed is None else random.Random(seed))
