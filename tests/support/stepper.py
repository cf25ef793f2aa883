"""Cancel a coroutine at each of its suspensions in turn: every await is tried, with no chance involved.

A step is one suspension (a future, or a bare yield, handed to the event loop) of any task of the run:
the root task and every task created below it by whatever means (asyncio, anyio, callbacks), found by context.
Suspensions count from 1; step 0 is the moment before the root has run at all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Sequence
    from contextvars import Context

T = TypeVar("T")
How = Literal["task", "scope"]


class CancellationSwallowed(AssertionError):
    """The coroutine was cancelled and yet ended as if nothing had happened."""


class StuckAfterCancel(AssertionError):
    """The coroutine did not end within the bound after it was cancelled."""


@dataclass(slots=True, eq=False)
class _Run:
    """One run of a coroutine: the steps so far, and what to do at which."""

    actions: dict[int, Callable[[], object]] = field(default_factory=dict)
    steps: int = 0
    root: asyncio.Task[Any] | None = None

    def suspended(self) -> None:
        """Count one suspension; those of tasks that outlive the root do not count."""
        if self.root is None or self.root.done():
            return
        self.steps += 1
        action = self.actions.pop(self.steps, None)
        if action is not None:
            action()


_current: ContextVar[_Run | None] = ContextVar("stepper_run", default=None)


class _Counted(Coroutine[Any, Any, T], Generic[T]):
    """Stands for a coroutine: everything goes to it, and each yield of it is counted."""

    def __init__(self, inner: Coroutine[Any, Any, T], run: _Run) -> None:
        self._inner = inner
        self._run = run
        self.__name__ = getattr(inner, "__name__", type(inner).__name__)
        self.__qualname__ = getattr(inner, "__qualname__", self.__name__)

    def send(self, value: Any) -> Any:
        waiting_for = self._inner.send(value)
        self._run.suspended()
        return waiting_for

    def throw(self, *error: Any) -> Any:
        waiting_for = self._inner.throw(*error)
        self._run.suspended()
        return waiting_for

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        # cr_frame, cr_code, cr_running, cr_suspended: anyio, inspect and task reprs look at them.
        return getattr(self._inner, name)


class _CountingTasks:
    """Task factory for the time of one run: wraps the coroutines of its tasks, leaves the others alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._previous = loop.get_task_factory()

    def __enter__(self) -> _CountingTasks:
        self._loop.set_task_factory(self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.set_task_factory(self._previous)

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T],
        *,
        context: Context | None = None,
        **rest: Any,
    ) -> asyncio.Future[T]:
        run = _current.get() if context is None else context.get(_current)
        if run is None:
            # A context made from nothing by a task of the run: the task that creates it tells.
            creator = asyncio.current_task(loop)
            known = getattr(creator.get_coro() if creator else None, "_run", None)
            run = known if isinstance(known, _Run) else None
        if run is not None and not isinstance(coro, _Counted):
            coro = _Counted(coro, run)
        if context is not None:
            rest["context"] = context
        if self._previous is None:
            return asyncio.Task(coro, loop=loop, **rest)
        return self._previous(loop, coro, **rest)


async def _drive(
    make_coro: Callable[[], Coroutine[Any, Any, T]], run: _Run, seconds: float, *, at_once: bool = False
) -> asyncio.Task[T]:
    """Run the coroutine as the root task until it is done."""
    loop = asyncio.get_running_loop()
    context = copy_context()
    context.run(_current.set, run)
    with _CountingTasks(loop):
        run.root = root = loop.create_task(context.run(make_coro), context=context)
        if at_once:
            root.cancel()
        try:
            done, _ = await asyncio.wait({root}, timeout=seconds)
        except BaseException:
            root.cancel()
            await asyncio.wait({root}, timeout=seconds)
            raise
        if not done:
            where = "\n".join(str(frame) for frame in root.get_stack())
            root.cancel()
            await asyncio.wait({root}, timeout=1)
            raise StuckAfterCancel(f"not done {seconds} s later, at step {run.steps}; it waits in:\n{where}")
    return root


async def count_steps(make_coro: Callable[[], Coroutine[Any, Any, object]], *, seconds: float = 30) -> int:
    """Run the coroutine undisturbed and return how many times it and its tasks suspended."""
    run = _Run()
    (await _drive(make_coro, run, seconds)).result()
    return run.steps


async def run_cancelled_at(
    make_coro: Callable[[], Coroutine[Any, Any, object]],
    n: int,
    *,
    again_after: int | None = None,
    how: How = "task",
    may_finish: bool = False,
    seconds: float = 30,
) -> bool:
    """Run the coroutine and cancel its root at the n-th suspension of any of its tasks.

    Args:
        make_coro: Makes a new coroutine for this run.
        n: The step at which to cancel; 0 cancels before the first one.
        again_after: Cancel once more so many suspensions after the first time (while it cleans up).
        how: "task" cancels the root task, which passes through anyio's shields; "scope" runs it in an anyio
            `CancelScope` and cancels that: stopped by shields, repeated at each further await outside them.
        may_finish: Return False, rather than raise, if it ends normally in spite of being cancelled.
        seconds: Bound for the whole run.

    Returns:
        True if the cancellation came out of it; False if it was done before step `n`.

    Raises:
        CancellationSwallowed: It was cancelled but returned a value.
        StuckAfterCancel: It was not done within the bound.
        BaseException: Whatever else the coroutine raised.
    """
    if how == "scope":
        return await _run_in_scope(make_coro, n, may_finish=may_finish, seconds=seconds)
    cancelled = False
    run = _Run()

    def cancel() -> None:
        nonlocal cancelled
        assert run.root is not None
        cancelled = run.root.cancel() or cancelled
        if again_after is not None and run.steps < n + again_after:
            run.actions[n + again_after] = run.root.cancel

    if n > 0:
        run.actions[n] = cancel
    elif again_after is not None:
        run.actions[again_after] = lambda: run.root and run.root.cancel()
    root = await _drive(make_coro, run, seconds, at_once=n == 0)
    if root.cancelled():
        if not cancelled and n > 0:
            raise CancellationSwallowed(f"it raised CancelledError by itself, before step {n}")
        return True
    root.result()
    return _finished(cancelled or n == 0, n, may_finish)


async def _run_in_scope(
    make_coro: Callable[[], Coroutine[Any, Any, object]], n: int, *, may_finish: bool, seconds: float
) -> bool:
    scopes: list[anyio.CancelScope] = []
    inside: list[Coroutine[Any, Any, object]] = []

    async def root() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            if n == 0:
                scope.cancel()
            await inside.pop()

    def make_root() -> Coroutine[Any, Any, object]:
        inside.append(make_coro())
        return root()

    run = _Run({n: lambda: scopes[0].cancel()})
    (await _drive(make_root, run, seconds)).result()
    return scopes[0].cancelled_caught or _finished(scopes[0].cancel_called, n, may_finish)


def _finished(cancelled: bool, n: int, may_finish: bool) -> bool:
    if cancelled and not may_finish:
        raise CancellationSwallowed(f"cancelled at step {n}, it went on and returned a value")
    return False


async def each_step(
    make_coro: Callable[[], Coroutine[Any, Any, object]],
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    *,
    seconds: float = 30,
) -> AsyncIterator[int]:
    """Run the coroutine once undisturbed, then yield the steps at which to cancel it.

    Every step up to `limit`, or a random `sample` of so many of them, the same for the same seed.
    """
    for n in choose_steps(await count_steps(make_coro, seconds=seconds), limit, sample, seed):
        yield n


def choose_steps(
    total: int, limit: int | None = None, sample: int | None = None, seed: int = 0
) -> Sequence[int]:
    """The steps to try out of `total`."""
    steps = range(1, (total if limit is None else min(total, limit)) + 1)
    if sample is None or sample >= len(steps):
        return steps
    return sorted(random.Random(seed).sample(steps, sample))
