"""How long the broker lets a worker hold a delivery, held against how long tasks may run. Pure.

A delivery that is not acknowledged within the broker's consumer timeout is taken back and given to somebody else, while its
task still runs here: under late acknowledgement a task that may run longer will run twice. What counts, by version
(release notes; https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout):

* before 4.3: every queue but streams; 30 minutes, unless rabbitmq.conf says otherwise (`broker.consumer_timeout` repeats
  that in the file) or, from 3.12 on, the queue does (`consumer_timeout` in the file). The broker closes the channel.
* from 4.3 on: quorum queues only; a consumer may ask for a timeout of its own, which counts before all others. The worker
  asks for as much as its tasks need, so nothing has to be refused there.

A worker holds more deliveries than it runs, and a waiting one ages too. That is warned about and not refused: only the
worst case, every task before it at its limit, comes to that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from amqpq.topology.model import Queue, Topology
from amqpq.topology.partitions import one_by_one
from amqpq.topology.versions import Version

DEFAULT_SECONDS: Final = 1800.0
"""The broker's, where nobody says otherwise."""
BY_CONSUMER: Final[Version] = (4, 3, 0)
"""From here on only quorum queues have the timeout, and a consumer may set it."""
SLACK_SECONDS: Final = 60.0
"""For publishing what must be safe before the acknowledgement."""
UNLIMITED_SECONDS: Final = 24 * 3600.0
"""What the worker asks for where a task has no limit. Something has to bound a delivery that is lost in a bug."""
ARGUMENT: Final = "x-consumer-timeout"


@dataclass(frozen=True, slots=True)
class Patience:
    """What was found: `refusals` are sentences that end the worker, `warnings` are for the log."""

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def consumer_arguments(
    queue: Queue, hard_limits: Iterable[float | None], waves: int, version: Version
) -> dict[str, int]:
    """Return the arguments of `basic.consume` that make the broker as patient as the tasks need.

    Args:
        queue: Which is consumed.
        hard_limits: Of every task that may come, seconds; None is a task without.
        waves: How many tasks may run after one another before a delivery that waits here is settled.
        version: Of the broker.
    """
    if version < BY_CONSUMER or queue.type != "quorum":
        return {}
    limits = list(hard_limits)
    known = [limit for limit in limits if limit is not None]
    seconds = max(known) * waves + SLACK_SECONDS if known and len(known) == len(limits) else UNLIMITED_SECONDS
    return {ARGUMENT: round(max(seconds, DEFAULT_SECONDS) * 1000)}


def patience_of(queue: Queue, topology: Topology, version: Version) -> float | None:
    """Return the seconds after which the broker takes a delivery back, as far as the file knows; None where it never does."""
    if queue.type == "stream" or version >= BY_CONSUMER:
        return None
    return queue.consumer_timeout_seconds or topology.broker.consumer_timeout_seconds or DEFAULT_SECONDS


def remote_refusal(hard_seconds: float, patience_seconds: Mapping[str, float | None]) -> str:
    """Say why a worker that runs cannot take this hard limit for a task; empty where it can.

    Args:
        hard_seconds: The limit.
        patience_seconds: Queue to the time after which the broker takes a delivery of it back; None is never.
    """
    for queue, patience in patience_seconds.items():
        if patience is not None and hard_seconds + SLACK_SECONDS > patience:
            return (
                f"queue {queue!r}: the broker takes back what is not acknowledged within {patience:g} s; a task may be given "
                f"{patience - SLACK_SECONDS:g} s here. Set time_limit on the task, and start the worker anew: it sees what the "
                "broker allows, and asks for more where it can"
            )
    return ""


def check(
    topology: Topology, queues: Iterable[str], hard_limits: Mapping[str, float | None], waves: int, version: Version
) -> Patience:
    """Hold the limits of a worker's tasks against the patience of the broker.

    Args:
        topology: With the queues.
        queues: Which the worker consumes.
        hard_limits: Task name to hard limit, seconds; None is none (nothing is known of it, so nothing is said).
        waves: As for `consumer_arguments`.
        version: Of the broker.
    """
    refusals: list[str] = []
    warnings: list[str] = []
    found = (queue for name in queues if (queue := topology.queue(name)) is not None)
    for name, queue in {queue.part_of or queue.name: queue for queue in found}.items():
        patience = patience_of(queue, topology, version)
        if patience is None:
            continue
        longer = sorted(task for task, limit in hard_limits.items() if limit is not None and limit > patience)
        if longer:
            refusals.append(
                f"queue {name!r}: the broker takes back what is not acknowledged within {patience:g} s, and these tasks may "
                f"run longer: {', '.join(longer)}; {_remedy(version)}"
            )
            continue
        slowest = max((limit for limit in hard_limits.values() if limit is not None), default=0.0)
        if not one_by_one(queue) and waves > 1 and slowest * waves > patience:
            most = max(1, math.floor(patience / slowest))
            warnings.append(
                f"queue {name!r}: a delivery may wait here behind {waves - 1} tasks of up to {slowest:g} s each, and the broker "
                f"takes it back after {patience:g} s; lower --prefetch to {most} times the concurrency, or "
                f"{_remedy(version)}"
            )
    return Patience(tuple(refusals), tuple(warnings))


def _remedy(version: Version) -> str:
    file = "set consumer_timeout in rabbitmq.conf and say so in the file (`broker: {consumer_timeout: 2h}`)"
    if version >= (3, 12, 0):
        return f"give the queue a `consumer_timeout`, or {file}"
    return file
