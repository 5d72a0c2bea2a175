"""A worker as its control commands and its events see it: facts in Celery's shapes, and what may be done to it."""

from __future__ import annotations

import os
import platform
import resource
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from amqpq.clock import Clock
from amqpq.errors import LocalError
from amqpq.task import check_time_limits
from amqpq.topology.declarations import queue_spec
from amqpq.topology.model import Queue, did_you_mean
from amqpq.topology.partitions import selected
from amqpq.transport import url
from amqpq.worker.autoscale import Sizing
from amqpq.worker.control.events import Events, Running, version
from amqpq.worker.control.lamport import LamportClock
from amqpq.worker.control.revoked import Revoked
from amqpq.worker.control.surface import Facts, Refused
from amqpq.worker.deadletter import Place
from amqpq.worker.gate import Gate
from amqpq.worker.host import Host
from amqpq.worker.intake import Intake
from amqpq.worker.jobs import Job, Jobs
from amqpq.worker.lane import Lane, Outlet
from amqpq.worker.limits import Limits, not_kept
from amqpq.worker.pools.interface import Pool
from amqpq.worker.reactor import Reactor
from amqpq.worker.settler import Settler
from amqpq.worker.timeouts import remote_refusal

SHOWN: Final = 1000
"""Tasks or ids in one answer at most; an answer is one message."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The parts of a loop, and what the loop does when asked. `started_at` is on the reactor's clock."""

    host: Host
    place: Place
    sizing: Sizing
    pool: Pool
    jobs: Jobs
    intake: Intake
    gate: Gate
    settler: Settler
    counts: Counter[str]
    outlet: Outlet
    publishing: Lane
    reactor: Reactor
    clock: Clock
    stop: Callable[[], object]
    begin: Callable[[], object]
    """Begin work, now that everything revoked is known."""
    revoke_here: Callable[[], object]
    """Let go of what is here, has not begun, and is revoked."""
    patience: Callable[[str], float | None]
    """After how many seconds the broker takes a delivery of a queue back; None: never, or not known."""


class Desk(Protocol):
    """The office, as the view needs it."""

    revoked: Revoked
    events: Events | None

    @property
    def clock(self) -> LamportClock:
        """Celery's logical clock."""

    @property
    def refused(self) -> int:
        """Messages refused."""

    @property
    def lost(self) -> int:
        """Answers and events dropped."""

    def send_events(self, *, on: bool) -> bool:
        """Switch task events."""


class View:
    """Implements `surface.Surface` and `events.Seen`.

    Args:
        inside: The worker.
        desk: The rest of remote control.
    """

    def __init__(self, inside: Inside, desk: Desk) -> None:
        self._inside = inside
        self._desk = desk
        self._topology = inside.host.topology
        self._started = inside.reactor.monotonic()

    # ---------------------------------------------------------------------------------------------------------- events

    def running(self) -> dict[int, Running]:
        """The works that run now, by number."""
        epoch = self._inside.clock.time() - self._inside.reactor.monotonic()
        return {
            member.number: Running(member.pid, None if member.since is None else epoch + member.since)
            for member in self._inside.pool.census()
            if member.number is not None
        }

    def job(self, number: int) -> Job | None:
        """The job of this number."""
        return self._inside.jobs.get(number)

    def totals(self) -> tuple[int, int]:
        """How many tasks run, and how many have ended."""
        return len(self.running()), sum(self._inside.settler.totals.values())

    # --------------------------------------------------------------------------------------------------------- looking

    def clock(self) -> int:
        """Return Celery's logical clock."""
        return self._desk.clock.value

    def stats(self) -> Facts:
        """Return counts, pool, broker and resource usage."""
        inside, events = self._inside, self._desk.events
        address = url.parse(self._topology.broker.urls[0])
        usage = resource.getrusage(resource.RUSAGE_SELF)
        names = [name for name in dir(usage) if name.startswith("ru_")]
        return {
            "total": {name: count for name, count in inside.settler.totals.items() if count},
            "pid": os.getpid(),
            "clock": str(self.clock()),
            "uptime": int(inside.reactor.monotonic() - self._started),
            "prefetch_count": inside.intake.prefetch * len(inside.intake.queues),
            "broker": {
                "hostname": address.host,
                "userid": address.user,
                "virtual_host": address.vhost,
                "port": address.port,
                "ssl": address.tls is not None,
                "transport": "amqp",
                "heartbeat": self._topology.broker.heartbeat_seconds,
            },
            "pool": self._pool(),
            "rusage": {name.removeprefix("ru_"): getattr(usage, name) for name in names},
            "amqpq": {
                **inside.counts,
                "paused": inside.intake.paused,
                "waiting or running": len(inside.jobs),
                "waiting for a limit": inside.gate.waiting,
                "revoked": len(self._desk.revoked),
                "control messages refused": self._desk.refused,
                "events left out": 0 if events is None else events.left_out,
                "answers and events lost": self._desk.lost,
            },
        }

    def _pool(self) -> Facts:
        pool = self._inside.pool
        return {
            "implementation": pool.name,
            "max-concurrency": getattr(pool, "size", None),
            "processes": list(getattr(pool, "pids", ())) or [os.getpid()],
            "description": pool.describe(),
        }

    def conf(self) -> Facts:
        """Return how the worker was set up."""
        topology, security = self._topology, self._topology.security
        return {
            "project": topology.project,
            "topology": str(topology.path or "given in code"),
            "environment": topology.environment,
            "queues": list(self._inside.intake.queues),
            "prefetch_per_queue": self._inside.intake.prefetch,
            "pool": self._inside.pool.describe(),
            "task_serializer": topology.messages.serializer,
            "accept_content": list(topology.messages.accept),
            "message_max_size": topology.messages.max_size,
            "reply_mode": topology.replies.mode,
            "security_require": security.require,
            "security_control": security.control,
            "signing_key_id": None if security.signing is None else security.signing.key_id,
            "revocations": topology.revocations,
        }

    def report(self) -> str:
        """Return versions and platform."""
        return (
            f"software -> amqpq:{version()} py:{platform.python_version()}\n"
            f"platform -> system:{platform.system()} arch:{platform.machine()} imp:{platform.python_implementation()}\n"
            f"project -> {self._topology.project}, pool {self._inside.pool.describe()}"
        )

    def registered(self, items: Sequence[str]) -> list[str]:
        """Return the names of the tasks, with these of their options."""
        registry = self._inside.host.registry
        found: list[str] = []
        for name in registry.names:
            task = registry.get(name)
            options: Any = None if task is None else task.options
            values = {item: getattr(options, item, None) for item in items if not item.startswith("_")}
            told = " ".join(f"{item}={value}" for item, value in values.items() if value is not None)
            found.append(f"{name} [{told}]" if told else name)
        return found

    def active(self) -> list[Facts]:
        """Return the tasks that run now."""
        running = self.running()
        jobs = [(job, each) for number, each in running.items() if (job := self.job(number)) is not None]
        return [self._task(job, each) for job, each in jobs[:SHOWN]]

    def reserved(self) -> list[Facts]:
        """Return the tasks that are here and have not begun."""
        running = self.running()
        jobs = [job for job in self._inside.jobs.all() if job.number not in running and job.finished is None]
        return [self._task(job, None) for job in jobs[:SHOWN]]

    def _task(self, job: Job, running: Running | None) -> Facts:
        delivery = job.delivery
        headers = delivery.properties.headers
        return {
            "id": job.id,
            "name": job.task,
            # Not decoded here; what a Celery producer wrote in clear is shown.
            "args": headers.get("argsrepr"),
            "kwargs": headers.get("kwargsrepr"),
            "type": job.task,
            "hostname": self._inside.place.worker,
            "time_start": None if running is None else running.since,
            "acknowledged": False,
            "delivery_info": {
                "exchange": delivery.exchange,
                "routing_key": delivery.routing_key,
                "priority": delivery.properties.priority,
                "redelivered": delivery.redelivered,
                "queue": job.queue,
            },
            "worker_pid": None if running is None else running.pid,
        }

    def active_queues(self) -> list[Facts]:
        """Return the queues that are consumed."""
        intake = self._inside.intake
        return [] if intake.paused else [self._queue(name) for name in intake.queues]

    def _queue(self, name: str) -> Facts:
        found = self._topology.queue(name) or Queue(name)
        spec, whole = queue_spec(found), found.part_of or name
        bindings = self._topology.bindings
        binding = next((each for each in bindings if each.target == whole and not each.to_exchange), None)
        source = "" if binding is None else binding.source
        exchange = self._topology.exchanges.get(source)
        key = name if binding is None else binding.key
        kind = "direct" if exchange is None else exchange.type
        return {
            "name": name,
            "exchange": {
                "name": source,
                "type": kind,
                "arguments": None,
                "durable": True,
                "passive": False,
                "auto_delete": False,
                "delivery_mode": None,
                "no_declare": True,
            },
            "routing_key": key,
            "queue_arguments": dict(spec.arguments),
            "binding_arguments": None if binding is None else dict(binding.arguments) or None,
            "consumer_arguments": None,
            "durable": spec.durable,
            "exclusive": spec.exclusive,
            "auto_delete": spec.auto_delete,
            "no_ack": False,
            "alias": None,
            "bindings": [],
            "no_declare": True,
            "expires": None,
            "message_ttl": None,
            "max_length": None,
            "max_length_bytes": None,
            "max_priority": spec.arguments.get("x-max-priority"),
        }

    def revoked(self) -> list[str]:
        """Return the ids of revoked tasks; of very many, the newest."""
        return self._desk.revoked.ids()[-SHOWN:]

    # ---------------------------------------------------------------------------------------------------------- acting

    def revoke(self, ids: Sequence[str]) -> None:
        """Remember these tasks as revoked."""
        if self._desk.revoked.add(ids):
            self._inside.revoke_here()

    def terminate(self, ids: Sequence[str], signal: str) -> list[str]:
        """Signal the processes that run these tasks."""
        number = signal_number(signal)
        running = self.running()
        jobs = [job for job in self._inside.jobs.all() if job.id in set(ids) and job.number in running]
        pool = self._inside.pool
        found = [job.id for job in jobs if pool.terminate(job.number, number)]
        if jobs and not found:
            raise Refused(
                f"the {pool.name} pool cannot end a running task: it has no process of its own; it is flagged as revoked, "
                "and will not run again"
            )
        return found

    def shut_down(self) -> None:
        """Stop warm; after this turn of the loop, so that the answer goes out."""
        self._inside.reactor.post(lambda _: self._inside.stop())

    def add_queue(self, queue: str) -> bool:
        """Consume a queue of the topology."""
        known, chosen = self._topology.queues, selected(self._topology, queue)
        if not chosen or queue == self._topology.revocations:
            raise Refused(
                f"the topology has no queue {queue[:60]!r}{did_you_mean(queue, known)}; it has {', '.join(known)}"
            )
        added = [self._inside.intake.add(name) for name in chosen]
        return any(added)

    def cancel_queue(self, queue: str) -> None:
        """Stop consuming a queue."""
        chosen = selected(self._topology, queue) or (queue,)
        removed = [self._inside.intake.remove(name) for name in chosen]
        if not any(removed):
            consumed = self._inside.intake.queues
            raise Refused(f"queue {queue[:60]!r} is not consumed{did_you_mean(queue, consumed)}")

    def pause(self) -> None:
        """Stop consuming until `resume`."""
        self._inside.intake.pause()

    def resume(self) -> None:
        """Consume again."""
        self._inside.intake.resume()

    def resize(self, by: int) -> int:
        """Grow or shrink the pool."""
        pool = self._inside.pool
        try:
            self._inside.sizing.set_size(pool.size + by)
        except LocalError as error:
            raise Refused(str(error)) from error
        return pool.size

    def limit_rate(self, task: str, rate: str | float | None) -> bool:
        """Change how often this worker may begin a task."""
        gate = self._inside.gate
        try:
            gate.set_rate_limit(task, rate)
        except LocalError as error:
            raise Refused(str(error)) from error
        return gate.limits_rate_of(task)

    def limit_time(self, task: str, hard: float | None, soft: float | None) -> bool:
        """Change how long a task may run; it counts for what is delivered from now on."""
        inside = self._inside
        found = inside.host.registry.get(task)
        if found is None:
            raise Refused(inside.host.registry.explain_missing(task))
        try:
            check_time_limits(hard, soft)
        except LocalError as error:
            raise Refused(str(error)) from error
        reason = not_kept(inside.pool.name, Limits(hard, soft), is_async=found.is_async)
        if not reason and hard is not None:
            reason = remote_refusal(hard, {queue: inside.patience(queue) for queue in inside.intake.queues})
        if reason:
            raise Refused(reason)
        inside.jobs.time_limits[task] = (hard, soft)
        return hard is not None or soft is not None

    def autoscale(self, most: int | None, least: int | None) -> tuple[int, int]:
        """Change between which sizes the pool scales itself."""
        try:
            scale = self._inside.sizing.set_scale(most, least)
        except LocalError as error:
            raise Refused(str(error)) from error
        return scale.most, scale.fewest

    def send_events(self, *, on: bool) -> bool:
        """Switch task events."""
        return self._desk.send_events(on=on)

    def beat(self) -> None:
        """Send a heartbeat event, where events are sent."""
        if self._desk.events is not None:
            self._desk.events.beat()


def signal_number(name: str) -> int:
    """Return the number of a signal: `TERM`, `SIGTERM` or `15`.

    Raises:
        Refused: There is no such signal.
    """
    word = name.upper()
    try:
        return int(
            signal.Signals(int(word))
            if word.isdigit()
            else signal.Signals[word if word.startswith("SIG") else f"SIG{word}"]
        )
    except (ValueError, KeyError):
        raise Refused(f"there is no signal {name[:20]!r}; use TERM, KILL or another name of `kill -l`") from None
