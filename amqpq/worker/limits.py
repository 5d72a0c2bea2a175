"""How long a task may run, and how long a child may live. Values and decisions; nothing here acts.

Three speak about a time limit: the call (header `timelimit`, signed like the rest), the task's options (or what remote
control has said in their place), the worker's options. The first that has a word counts, for the hard and the soft limit
separately, as in Celery. The decision is made where the message has been checked, so a forged header limits nothing.

A pool keeps a limit or refuses it. To keep a soft one, an exception must be raised in the middle of the task: CPython
runs signal handlers on the main thread only, and elsewhere there must be something that can raise it where the task waits,
an event loop or the hub of greenlets. To keep a hard one, the task must be ended from outside, so it needs a process of its
own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from amqpq.errors import ConfigurationError, Undecodable
from amqpq.task import TaskOptions, is_positive
from amqpq.worker.host import Tasks


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds from when the task begins: at `soft` it is told, at `hard` its process is killed. None: no limit."""

    hard: float | None = None
    soft: float | None = None

    def or_else(self, other: Limits) -> Limits:
        """Return these limits, with those of `other` where these say nothing."""
        if other is NO_LIMITS:
            return self
        if self is NO_LIMITS:
            return other
        return Limits(
            self.hard if self.hard is not None else other.hard, self.soft if self.soft is not None else other.soft
        )


NO_LIMITS: Final = Limits()


class Timekeeper(Protocol):
    """Keeps the limits of the task that runs; hears only of tasks that have limits which its pool keeps (`KEPT`)."""

    def begin(self, limits: Limits) -> None:
        """A task with these limits begins now."""

    def end(self) -> None:
        """It has ended. The soft limit may still be raised from in here, and not after it."""

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Run a limited `async def` task to its end, where no event loop runs."""

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[object]:
        """Return what the running event loop has to await for a limited `async def` task."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How an executor bounds its tasks: for which pool it works, the worker's own limits, and who keeps them."""

    pool: str = "threads"
    limits: Limits = NO_LIMITS
    keeper: Timekeeper | None = None


NO_TIMING: Final = Timing()


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a child of the prefork pool is replaced: after so many tasks, or when a task left it with so many bytes."""

    tasks: int | None = None
    memory_bytes: int | None = None


NO_RECYCLING: Final = Recycling()

STATM: Final = Path("/proc/self/statm")
"""Where a process reads its own size."""

_SOFT: Final = frozenset({"soft_time_limit"})
_NONE: Final[frozenset[str]] = frozenset()

KEPT: Final[Mapping[str, frozenset[str]]] = {
    "prefork": frozenset({"time_limit", "soft_time_limit"}),
    "solo": _SOFT,
    "threads": _NONE,
    "gevent": _SOFT,
    "eventlet": _SOFT,
    "asyncio": _NONE,
}
"""What each pool keeps."""

KEPT_FOR_COROUTINES: Final[Mapping[str, frozenset[str]]] = {**KEPT, "asyncio": _SOFT}
"""What each pool keeps for `async def` tasks."""

_WHY: Final[Mapping[str, str]] = {
    "solo": "the task runs in the worker's own process, which cannot be killed for it",
    "threads": "Python can neither end a thread nor raise an error in one",
    "gevent": "a greenlet that does not yield ends with its process only, and others run there too",
    "eventlet": "a greenlet that does not yield ends with its process only, and others run there too",
    "asyncio": "a plain function runs in a thread, and Python can neither end a thread nor raise an error in one",
}

_WHY_FOR_COROUTINES: Final[Mapping[str, str]] = {
    **_WHY,
    "asyncio": "a coroutine that takes no notice of its cancellation ends with its process only, and others run there too",
}


def limits_of_call(timelimit: tuple[float | None, float | None]) -> Limits:
    """Return the limits in a message's header; 0 is none, as Celery reads it.

    Raises:
        Undecodable: One is no number of seconds.
    """
    if timelimit == (None, None):
        return NO_LIMITS
    for value in timelimit:
        if value and not is_positive(value):
            raise Undecodable(f"header timelimit: {value!r} is not a positive number of seconds")
    hard, soft = timelimit
    return Limits(hard or None, soft or None)


def limits_of_task(options: TaskOptions) -> Limits:
    """Return the limits that a task's decorator says."""
    if options.time_limit is None and options.soft_time_limit is None:
        return NO_LIMITS
    return Limits(options.time_limit, options.soft_time_limit)


def not_kept(pool: str, limits: Limits, *, is_async: bool = False) -> str:
    """Say which of these limits the pool cannot keep for a task and why; empty where it keeps them all.

    Args:
        pool: Its name.
        limits: To be kept.
        is_async: Whether it is an `async def` task.
    """
    kept = (KEPT_FOR_COROUTINES if is_async else KEPT)[pool]
    wanted = {"time_limit": limits.hard, "soft_time_limit": limits.soft}
    missed = [name for name, value in wanted.items() if value is not None and name not in kept]
    if not missed:
        return ""
    why = (_WHY_FOR_COROUTINES if is_async else _WHY)[pool]
    return f"the {pool} pool cannot keep {' and '.join(missed)}: {why}"


def check_pool(pool: str, worker: Limits, recycling: Recycling, tasks: Tasks) -> None:
    """See that the pool can keep every limit of the worker and of its tasks.

    Raises:
        ConfigurationError: It cannot; the message names the pool, the reason and the tasks.
    """
    if pool != "prefork" and recycling != NO_RECYCLING:
        raise ConfigurationError(
            f"-P {pool}: --max-tasks-per-child and --max-memory-per-child need children; use -P prefork"
        )
    if recycling.memory_bytes is not None and not STATM.exists():
        raise ConfigurationError(f"--max-memory-per-child: this system has no {STATM}, so memory cannot be measured")
    every: list[Any] = [task for name in tasks.names if (task := tasks.get(name)) is not None]
    kinds = sorted({task.is_async for task in every}) or [False]
    reason = next((reason for kind in kinds if (reason := not_kept(pool, worker, is_async=kind))), "")
    if reason:
        raise ConfigurationError(f"{reason}; use -P prefork, or leave out --time-limit and --soft-time-limit")
    found: dict[str, list[str]] = {}
    for task in every:
        reason = not_kept(pool, limits_of_task(task.options), is_async=task.is_async)
        if reason:
            found.setdefault(reason, []).append(task.name)
    if found:
        listed = "; ".join(f"{reason} (tasks: {', '.join(names)})" for reason, names in found.items())
        raise ConfigurationError(f"{listed}; use -P prefork, or drop the limits of these tasks")
