"""What a worker is asked to do, checked before anything starts."""

from __future__ import annotations

import difflib
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from amqpq.endpoint import Address
from amqpq.errors import ConfigurationError
from amqpq.topology import Topology
from amqpq.topology.model import Queue
from amqpq.topology.partitions import physical_queues, selected
from amqpq.topology.renames import now_named
from amqpq.topology.units import size_bytes
from amqpq.worker.autoscale import Scale
from amqpq.worker.intake import PREFETCH_LIMIT
from amqpq.worker.limits import NO_LIMITS, NO_RECYCLING, Limits, Recycling
from amqpq.worker.logs import PLAIN, LogPlan
from amqpq.worker.pools.hubpool import HUB_POOLS

POOLS: Final = ("prefork", "threads", "solo", "asyncio", "gevent", "eventlet")
EXTRA_POOLS: Final = ("gevent", "eventlet")
"""Those that need a library of the same name, which comes as an extra of the same name."""
SCALED_POOLS: Final = ("prefork", "threads")
HUB_CONCURRENCY: Final = 100
"""Tasks at a time where they share a process and wait most of the time; a CPU is no measure for those."""
PREFETCH_MULTIPLIER: Final = 4
"""Deliveries held per task that can run, as in Celery. It hides the way to the broker and back behind running tasks; more
would keep from other workers what this one cannot begin. For tasks of under a millisecond `--prefetch` 10 to 50 times the
concurrency pays (they go to children in batches); for tasks of minutes, `--prefetch` equal to the concurrency."""
SHUTDOWN_TIMEOUT_SECONDS: Final = 60.0
"""Between the first signal and giving up on running tasks; below the 90 s after which systemd kills."""

LONGEST_SECONDS: Final = 1e8
"""A longer time limit, three years, is a mistake."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """A worker, as it was asked for.

    `name` is complete (`w1@host`), `queues` are those on the broker, `prefetch` is per queue. `reference` is where children
    find the application, `module:attribute`; they take the `topology` as it is here, so that it cannot differ when the file
    changes. `apply` declares it first. `health` is where the worker says how it is. With a `scale`, `concurrency` is the largest
    size. `opened` are the descriptors that the application's modules have opened, if children may be forks (see `pools.forked`);
    None: each is started anew.
    """

    reference: str
    queues: tuple[str, ...]
    pool: str = "prefork"
    concurrency: int = 1
    prefetch: int = PREFETCH_MULTIPLIER
    name: str = ""
    shutdown_timeout_seconds: float = SHUTDOWN_TIMEOUT_SECONDS
    logs: LogPlan = PLAIN
    apply: bool = False
    topology: Topology | None = None
    limits: Limits = NO_LIMITS
    recycling: Recycling = NO_RECYCLING
    health: Address | None = None
    events: bool = False
    scale: Scale | None = None
    opened: frozenset[int] | None = None

    @property
    def first_size(self) -> int:
        """How many tasks run at a time when it starts."""
        return self.concurrency if self.scale is None else self.scale.fewest


def choose_pool(name: str) -> str:
    """Return the pool of that name.

    Raises:
        ConfigurationError: There is none, or its library is not installed.
    """
    if name not in POOLS:
        raise ConfigurationError(f"-P {name}: there is no such pool{_meant(name, POOLS)}; use {', '.join(POOLS)}")
    if name in EXTRA_POOLS and importlib.util.find_spec(name) is None:
        raise ConfigurationError(f"-P {name}: {name} is not installed; pip install 'amqpq[{name}]'")
    return name


def check_unpatched() -> None:
    """See that nobody has replaced the sockets and threads of this process, which owns the connection.

    Raises:
        ConfigurationError: The application did, when it was imported; its greenlets could then hold up the heartbeats.
    """
    monkey, patcher = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if monkey is not None and monkey.is_module_patched("socket"):
        library, call = "gevent", "monkey.patch_all()"
    elif patcher is not None and patcher.is_monkey_patched("socket"):
        library, call = "eventlet", "monkey_patch()"
    else:
        return
    raise ConfigurationError(
        f"the application patches the standard library for {library} as it is imported ({call}), and the process that owns "
        f"the connection must not be patched; take that out of the tasks' modules: -P {library} patches the one that runs tasks"
    )


def choose_concurrency(pool: str, wanted: int | None) -> int:
    """Return how many tasks run at a time; by default one per CPU, one in solo, a hundred where they share a process.

    Raises:
        ConfigurationError: The pool cannot do that.
    """
    if wanted is not None and wanted < 1:
        raise ConfigurationError(f"-c {wanted}: at least one task must be able to run")
    if pool == "solo":
        if wanted is not None and wanted != 1:
            raise ConfigurationError(f"-c {wanted}: the solo pool runs one task at a time; use -P threads or prefork")
        return 1
    return wanted or (HUB_CONCURRENCY if pool in HUB_POOLS else _cpus())


def choose_scale(pool: str, wanted: str | None, concurrency: int | None) -> Scale | None:
    """Return the bounds that `--autoscale MAX,MIN` names; MIN is 1 where it is left out.

    Raises:
        ConfigurationError: They are none, contradict `-c`, or the pool has no use for them.
    """
    if wanted is None:
        return None
    if pool not in SCALED_POOLS:
        raise ConfigurationError(
            f"--autoscale {wanted}: a pool that shrinks gives back processes or threads, and {pool} has none to give; "
            f"use -P {' or '.join(SCALED_POOLS)}, or -c"
        )
    if concurrency is not None:
        raise ConfigurationError(f"--autoscale {wanted} and -c {concurrency} contradict each other; drop one of them")
    most, comma, fewest = wanted.partition(",")
    try:
        scale = Scale(int(most), int(fewest) if comma else 1)
    except ValueError:
        scale = Scale(0, 0)
    if not 1 <= scale.fewest <= scale.most:
        raise ConfigurationError(f"--autoscale {wanted}: use MAX,MIN, as in 10,2, with MIN at least 1")
    return scale


def choose_prefetch(wanted: int | None, concurrency: int) -> int:
    """Return how many deliveries of each queue are held unacknowledged at most.

    Raises:
        ConfigurationError: It would be unbounded, or larger than AMQP can say.
    """
    if wanted is None:
        return concurrency * PREFETCH_MULTIPLIER
    if not 1 <= wanted <= PREFETCH_LIMIT:
        raise ConfigurationError(
            f"--prefetch {wanted}: from 1 to {PREFETCH_LIMIT}; 0 would mean unlimited, and memory has to have a bound"
        )
    return wanted


def choose_limits(hard: float | None, soft: float | None) -> Limits:
    """Return the time limits of every task that has none of its own.

    Raises:
        ConfigurationError: The soft limit would never be reached.
    """
    if hard is not None and soft is not None and soft >= hard:
        raise ConfigurationError(
            f"--soft-time-limit {soft:g} is not below --time-limit {hard:g}: tasks would be killed before they are told"
        )
    return Limits(hard, soft)


def choose_recycling(tasks: int | None, memory: str | None) -> Recycling:
    """Return when children are replaced.

    Raises:
        ConfigurationError: The size is none, or has no unit.
    """
    if memory is None:
        return Recycling(tasks)
    try:
        size = size_bytes(memory)
    except ValueError as error:
        hint = " (Celery counts kilobytes; here the unit is part of the size)" if memory.isdigit() else ""
        raise ConfigurationError(f"--max-memory-per-child {memory}: {error}{hint}") from error
    return Recycling(tasks, size)


def choose_queues(topology: Topology, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the queues to consume, as the broker has them; by default all of the topology but dead letters.

    A queue with partitions is all of them; `clicks.3` is one, and `clicks.0-3` are four.

    Raises:
        ConfigurationError: One does not exist, or there is none.
    """
    if not wanted:
        others = {*topology.dead_letter_queues(), topology.revocations}
        every = tuple(queue.name for queue in physical_queues(topology) if queue.name not in others)
        if not every:
            raise ConfigurationError(f"project {topology.project!r} has no queue to consume; add one under `queues:`")
        return every
    chosen: list[str] = []
    for name in wanted:
        if name == topology.revocations:
            raise ConfigurationError(f"-Q {name}: it holds revocations, which every worker reads anyway, and no tasks")
        found = selected(topology, now_named(topology).get(name, name))
        if not found:
            known = ", ".join(_shown(queue) for queue in topology.queues.values())
            raise ConfigurationError(
                f"-Q {name}: the topology has no such queue{_meant(name, topology.queues)}; it has {known}"
            )
        chosen += found
    return tuple(dict.fromkeys(chosen))


def _shown(queue: Queue) -> str:
    return f"{queue.name} ({queue.name}.0-{queue.partitions - 1})" if queue.partitions else queue.name


def worker_name(pattern: str | None, pid: int | None = None) -> str:
    """Return the worker's name: `%h` is the host with its domain, `%n` the host without, `%d` the domain, `%p` the pid."""
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    values = {"%h": host, "%n": short, "%d": domain, "%p": str(os.getpid() if pid is None else pid), "%%": "%"}
    name = pattern or "amqpq@%h"
    for mark, value in values.items():
        name = name.replace(mark, value)
    return name if "@" in name else f"{name}@{host}"


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _meant(word: str, known: Sequence[str] | Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
