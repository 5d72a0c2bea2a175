"""From a call to what is published: envelope, route, encoding, reply queue. No I/O; the clock and the id are given.

Of an option that several say, the call's word counts before the task's, the task's before the route's, the route's before
the project's (`messages:` and `replies:` of the topology).

Expiry is said twice: in a signed header, which the worker checks, and as the message's TTL, with which the broker takes the
message out of the queue. Where a reply is expected the TTL is longer by `replies.expires`: a worker that comes late
still finds the message and answers EXPIRED, and the broker is only the backstop. A reply queue that waits is idle, so it
lives for `expires` (as long as its task may wait, its delay included) and `replies.expires` more.

A call with `countdown` or `eta` is signed for its route as always, and published into the delay ladder (`amqpq.topology.delays`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from amqpq.errors import LocalError, NoRoute
from amqpq.lifecycle import DIRECT_REPLY_QUEUE, MAX_EXPIRES_MS, reply_queue, reply_queue_name
from amqpq.message.codec import Codec, Encoding
from amqpq.message.envelope import TaskEnvelope
from amqpq.producer.delaying import Destinations, check_reply_queue, due_of
from amqpq.producer.options import PLAIN, CallOptions, check_priority, compression_word, moment_of
from amqpq.task import Request, TaskOptions, check_reply_mode, did_you_mean
from amqpq.topology.partitions import exchange_name, physical_queues
from amqpq.topology.renames import now_named
from amqpq.types import EMPTY, Publication, QueueSpec

if TYPE_CHECKING:
    from amqpq.topology.model import Route, Topology

_KEYLESS: Final = frozenset({"fanout", "headers"})
"""Exchange types that do not look at the routing key."""

NO_OPTIONS: Final = TaskOptions()

_VARIANTS: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""The digit of a UUID whose first two bits say what it is, by a random one (RFC 9562, section 4.1)."""


class Call(NamedTuple):
    """A task to send: its name, its arguments, the options of the call and those of the task where its code is here."""

    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = EMPTY
    options: CallOptions = PLAIN
    task_options: TaskOptions = NO_OPTIONS


class Plan(NamedTuple):
    """What to do for one call: the message, and the queue to declare before it is published."""

    task: str
    task_id: str
    publication: Publication
    mode: str
    """Reply mode: task, direct or none."""
    reply_queue: QueueSpec | None = None


class _Target(NamedTuple):
    exchange: str
    key: str
    route: Route | None


class _Course(NamedTuple):
    """What the options of a call, its task and its route decide, whatever its arguments are."""

    task_options: TaskOptions
    target: _Target
    mode: str
    priority: int | None
    encoding: Encoding
    timed: bool
    """Whether it expires, or is due later."""


def new_task_id() -> str:
    """Return a random UUID as text (RFC 9562, version 4); `uuid.uuid4` makes an object of it, and takes twice as long."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:]}"


class Planner:
    """Makes plans for one application.

    Args:
        topology: Where things go.
        codec: How they are written; it signs, so the clock it was made with counts too.
        clock: Seconds since the epoch.
        new_id: Makes task ids.
    """

    def __init__(
        self,
        topology: Topology,
        codec: Codec,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_task_id,
    ) -> None:
        self._topology = topology
        self._codec = codec
        self._clock = clock
        self._new_id = new_id
        self._destinations = Destinations(topology)
        self._queues = frozenset([*topology.queues, *(queue.name for queue in physical_queues(topology))])
        self._formers = topology.formers
        self._renamed = now_named(topology)
        self._partitioned = {queue.name for queue in topology.queues.values() if queue.partitions}
        self._hash_headers = {
            exchange_name(queue.name): queue.hash_header
            for queue in topology.queues.values()
            if queue.partitions and queue.hash_header is not None
        }
        self._routes: dict[str, Route] = {}
        self._courses: dict[str, _Course] = {}
        self._origin = (0, "")

    def plan(self, call: Call, parent: Request | None = None) -> Plan:
        """Decide everything about a call.

        Args:
            call: What is to be sent.
            parent: The task that sends it, where one does.

        Raises:
            LocalError: It cannot be sent as asked: no route, no such queue, arguments that cannot be written, too large.
        """
        options = call.options
        _check_arguments(call)
        _, target, mode, priority, encoding, timed = self._course(call)
        task_id = options.task_id or self._new_id()
        now = due = expires_seconds = expires_text = None
        if timed:
            now = datetime.fromtimestamp(self._clock(), UTC)
            due = due_of(options, now)
            expires_seconds, expires_text = self._expiry(call, target.route, now, due)
        envelope = TaskEnvelope(  # by position: with names it takes twice as long
            task_id,
            call.task,
            call.args,
            call.kwargs,
            options.root_id or (parent.root_id or parent.id if parent is not None else None) or task_id,
            options.parent_id or (parent.id if parent is not None else None),
            options.group_id,
            0,
            due.isoformat() if due is not None else None,
            expires_text,
            (options.time_limit, options.soft_time_limit),
            self.origin,
            options.shadow,
            mode == "none",
            _reply_to(mode, task_id),
            None,
            priority,
            EMPTY,
            options.headers,
        )
        exchange, key, waits_seconds = target.exchange, target.key, expires_seconds or 0.0
        entry = None
        if due is not None and now is not None:
            entry = self._destinations.entry((exchange, key), options.headers, priority, due=due, now=now)
            waits_seconds = max(waits_seconds, (due - now).total_seconds())
        elif expires_seconds is not None:
            # In the ladder a time to live of its own would end the message too early: there the signed header alone decides.
            encoding = replace(encoding, ttl_ms=self._ttl_ms(expires_seconds, mode))
        body, properties = self._codec.encode_task(envelope, exchange=exchange, key=key, encoding=encoding)
        replies_ms = int((self._topology.replies.expires_seconds + waits_seconds) * 1000)
        if entry is not None:
            exchange = entry.exchange
            properties = properties._replace(headers={**properties.headers, **entry.headers})
            check_reply_queue(replies_ms, mode)
        return Plan(
            call.task,
            task_id,
            Publication(exchange, key, body, properties, self._topology.messages.mandatory),
            mode,
            reply_queue(task_id, expires_ms=replies_ms) if mode == "task" else None,
        )

    @property
    def origin(self) -> str:
        """Who sends, as Celery writes it: `gen<pid>@<host>`."""
        pid = os.getpid()
        if self._origin[0] != pid:
            self._origin = (pid, f"gen{pid}@{socket.gethostname()}")
        return self._origin[1]

    def _course(self, call: Call) -> _Course:
        """Decide what the arguments do not; for calls without options once for each task, as most calls are like that."""
        options, task_options = call.options, call.task_options
        if options is PLAIN:
            kept = self._courses.get(call.task)
            if kept is not None and kept.task_options is task_options:
                return kept
        target = self._target(call)
        if not target.exchange and target.key in self._formers:
            target = target._replace(key=self._formers[target.key])  # what the queue is called on the wire
        route = target.route
        priority = options.priority if options.priority is not None else task_options.priority
        if priority is None and route is not None:
            priority = route.priority
        if priority is not None:
            check_priority(priority)
        times = (options.countdown, options.eta, options.expires, task_options.expires, route and route.expires_seconds)
        course = _Course(
            task_options,
            target,
            self._mode(options, task_options, route),
            priority,
            self._encoding(options, task_options, route),
            timed=any(time is not None for time in times),
        )
        if options is PLAIN and route is not None and set(route.fields()) <= {"task"}:
            self._courses[call.task] = course
        return course

    # ---------------------------------------------------------------------------------------------------------- where

    def _target(self, call: Call) -> _Target:
        options = call.options
        if options.queue is not None:
            name = self._queue(options.queue)
            if name in self._partitioned:
                return self._partition(name, call)
            if options.routing_key is not None:
                raise LocalError("queue= publishes straight to that queue, so it excludes routing_key=")
            return _Target("", name, self._route_or_none(call.task))
        if options.exchange is None:
            route = self._route(call.task)
            key = options.routing_key if options.routing_key is not None else route.routing_key(call.task, call.kwargs)
            if self._hash_headers:
                self._check_header(route.exchange, options)
            return _Target(route.exchange, key, route)
        key = self._key(options.exchange, options.routing_key)
        return _Target(options.exchange, key, self._route_or_none(call.task))

    def _partition(self, name: str, call: Call) -> _Target:
        """Return where a call goes that names a queue with partitions: to the exchange before them, with a key."""
        options, route = call.options, self._route_or_none(call.task)
        exchange, queue = exchange_name(name), self._topology.queues[name]
        self._check_header(exchange, options)
        if options.routing_key is not None:
            return _Target(exchange, options.routing_key, route)
        if route is not None and route.exchange == exchange:
            return _Target(exchange, route.routing_key(call.task, call.kwargs), route)
        if queue.hash_header is None and queue.hash_property is None:
            message = (
                f"queue={name!r} has partitions, and the routing key chooses one; give routing_key= too, or name the partition, "
                f"queue='{name}.0'"
            )
            raise LocalError(message)
        return _Target(exchange, "", route)

    def _check_header(self, exchange: str, options: CallOptions) -> None:
        """See that a message has what its partition is chosen by: all that have it not would go to the same one."""
        header = self._hash_headers.get(exchange)
        if header is not None and header not in options.headers:
            message = (
                f"the header {header!r} chooses the partition behind {exchange!r}, and the call has none; give "
                f"headers={{{header!r}: ...}}"
            )
            raise LocalError(message)

    def _route(self, task: str) -> Route:
        route = self._routes.get(task)
        if route is None:
            # Bounded by the number of task names a program uses; looking a route up walks all patterns.
            route = self._routes[task] = self._topology.route_for(task)
        return route

    def _route_or_none(self, task: str) -> Route | None:
        try:
            return self._route(task)
        except NoRoute:
            return None

    def _queue(self, name: str) -> str:
        if name in self._renamed:
            return self._renamed[name]
        if name not in self._queues:
            queues = self._topology.queues
            hint = did_you_mean(name, tuple(queues)) or f"; it has {', '.join(sorted(queues)) or 'none'}"
            message = f"queue={name!r}: the topology of project {self._topology.project!r} has no such queue{hint}"
            raise LocalError(message)
        return name

    def _key(self, name: str, key: str | None) -> str:
        exchanges = self._topology.exchanges
        if name and name not in exchanges and not name.startswith("amq."):
            hint = did_you_mean(name, tuple(exchanges)) or f"; it has {', '.join(sorted(exchanges)) or 'none'}"
            message = (
                f"exchange={name!r}: the topology of project {self._topology.project!r} has no such exchange{hint}"
            )
            raise LocalError(message)
        keyless = name in exchanges and exchanges[name].type in _KEYLESS
        if key is None and not keyless:
            message = f"exchange={name!r} needs a routing_key= too; only fanout and headers exchanges do without"
            raise LocalError(message)
        return key or ""

    # ------------------------------------------------------------------------------------------------------------ how

    def _mode(self, options: CallOptions, task_options: TaskOptions, route: Route | None) -> str:
        if options.reply is not None:
            return options.reply
        if options.ignore_result:
            return "none"
        if options.ignore_result is None and task_options.ignore_result:
            return "none"
        mode = task_options.reply or (route.reply if route is not None else None) or self._topology.replies.mode
        if options.ignore_result is False and mode == "none":
            message = (
                "ignore_result=False asks for a result, but the route says `reply: none`; say reply='task' in the call"
            )
            raise LocalError(message)
        return check_reply_mode(mode)

    def _encoding(self, options: CallOptions, task_options: TaskOptions, route: Route | None) -> Encoding:
        serializer = options.serializer or task_options.serializer or (route.serializer if route is not None else None)
        persistent = self._topology.messages.persistent
        compression = options.compression or compression_word(task_options.compression)
        if compression is None and route is not None and route.compression != "default":
            compression = route.compression or "none"
        return Encoding(serializer=serializer, compression=compression or "default", persistent=persistent)

    def _expiry(
        self, call: Call, route: Route | None, now: datetime, due: datetime | None
    ) -> tuple[float | None, str | None]:
        """Return the seconds until the task expires, and the moment as ISO 8601 in UTC.

        What the call says counts from now, as in Celery. What the task or the route says is how long it may wait in its
        queue, so it counts from when it is due.
        """
        given: object = call.options.expires
        since = now
        if given is None:
            given = call.task_options.expires
            since = due or now
        if given is None and route is not None:
            given = route.expires_seconds
        if given is None:
            return None, None
        moment = moment_of("expires", given, since)
        if moment <= now:
            message = f"expires={given!r} is already past; a task sent with it could never run"
            raise LocalError(message)
        if due is not None and moment <= due:
            message = f"expires={given!r} is over before the task is due ({due.isoformat()}), so it could never run"
            raise LocalError(message)
        return (moment - now).total_seconds(), moment.isoformat()

    def _ttl_ms(self, expires_seconds: float | None, mode: str) -> int | None:
        if expires_seconds is None:
            return None
        seconds = expires_seconds + (self._topology.replies.expires_seconds if mode != "none" else 0.0)
        ttl_ms = max(int(seconds * 1000), 1)
        # Beyond what the broker takes, the signed header alone decides; a shorter TTL would end the task too early.
        return ttl_ms if ttl_ms <= MAX_EXPIRES_MS else None


def _reply_to(mode: str, task_id: str) -> str | None:
    if mode == "none":
        return None
    return DIRECT_REPLY_QUEUE if mode == "direct" else reply_queue_name(task_id)


def _check_arguments(call: Call) -> None:
    task: object = call.task
    if not isinstance(task, str) or not task:
        message = f"a task is named by a non-empty text, not by {task!r}"
        raise LocalError(message)
    args: object = call.args
    kwargs: object = call.kwargs
    if not isinstance(args, (list, tuple)):
        message = f"args={call.args!r:.80} is not a list or tuple; a single argument is written args=[value]"
        raise LocalError(message)
    if not isinstance(kwargs, (dict, Mapping)) or (kwargs and not all(isinstance(name, str) for name in kwargs)):
        message = f"kwargs={call.kwargs!r:.80} is not a mapping from names to values"
        raise LocalError(message)
