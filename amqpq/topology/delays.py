"""The delay ladder: how a message waits in the broker, for any exchange type, without a plugin. Pure.

**How it works.** A delay is a number of units, and a number is bits. For each bit there is a level: a queue in which every
message waits 2^level units, and an exchange before it. A message carries the header `amqpq-delay-<level>` for each bit that
is set in its delay, enters at the exchange of the highest one, and falls: where the level's header is there, the binding
leads into the level's queue, and when its time is over, the queue dead-letters it to the exchange of the next lower level;
where it is not there, the alternate exchange *is* the next lower level, which costs no hop. Below level 0 is the exit, an
exchange with one binding per queue of the file: the header `amqpq-to-<queue>` opens it. Body, properties, routing key and
all other headers stay as they were. All messages of a level wait equally long, so the first one is always the next one due;
a queue with a time to live per message would hold short delays behind long ones
(https://www.rabbitmq.com/docs/ttl#per-message-ttl-caveats).

**The exit leads to queues, not to exchanges.** Where a delayed message goes is found out when it is sent, by the simulator
behind `amqpq topology route`, as the broker would have done for a message without a delay. If the exit led to exchanges, a
binding that was removed meanwhile would make a message unroutable there: RabbitMQ drops it (dead-lettering at most once), or
keeps it at the head of the level (at least once), and 32 such messages stop the level, since its dead-lettering has a
prefetch of 32. So each binding of the exit ends in a queue, and a message whose queue is gone goes by the exit's alternate
exchange to a dead-letter queue.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from amqpq.errors import LocalError
from amqpq.topology.model import Binding, Delays, Exchange, Limits, Queue, Topology
from amqpq.topology.units import duration_text

LEVELS_LIMIT: Final = 32
"""More levels than anybody needs: from milliseconds to weeks it takes 32."""

URGENT_PRIORITY: Final = 5
"""From here on a quorum queue of RabbitMQ 4.0 to 4.2 lets a message overtake (https://www.rabbitmq.com/docs/quorum-queues#priorities),
and one that is not due then holds up all others behind it: measured on 4.0.5, 3 s late for 4 s of delay; not on 4.3.6. 3.x
does not look at priorities there. So where such messages are to be expected they have levels of their own."""

DELAY: Final = "amqpq-delay-"
TO: Final = "amqpq-to-"
DUE: Final = "amqpq-due"
"""When the message is due, milliseconds since the epoch. For whoever looks; nothing is decided by it."""

_BROKERS_NAMES: Final = frozenset({"x-death", "x-delivery-count", "x-acquired-count"})
_BROKERS_PREFIXES: Final = ("x-first-death-", "x-last-death-")
_NAME_BYTES: Final = 255
"""A header's name is a short string on the wire (AMQP 0-9-1, section 4.2.5.5)."""
_NO_LIMIT: Final = 1_000_000
"""Deliveries of a message in a level queue. Looking at a queue counts as one (`amqpq delayed list`), and from 4.0 on the broker
drops after 20 unless told otherwise. -1 means unlimited there, and zero in 3.x; this number means the same in all."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The generated objects, in the order in which to declare them."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a delayed message is published, and the headers that find its way."""

    exchange: str
    headers: Mapping[str, Any]


def ladder(topology: Topology) -> Ladder:
    """Return the generated objects; none where nothing of the topology can be delayed."""
    delays = topology.delays
    if delays is None:
        return Ladder()
    project = topology.project
    lost = lost_exchange(project)
    exchanges = [
        Exchange(lost, "fanout", generated=True),
        Exchange(exit_exchange(project), "headers", unrouted=lost, generated=True),
    ]
    queues: list[Queue] = []
    bindings = [Binding(lost, delays.lost)]
    bindings += [
        Binding(exit_exchange(project), queue.name, arguments={"x-match": "all", target_header(queue.name): True})
        for queue in topology.queues.values()
        if reachable(queue)
    ]
    for urgent in lanes(delays):
        for level in range(level_count(delays)):
            name = level_name(project, level, urgent=urgent)
            below = level_name(project, level - 1, urgent=urgent) if level else exit_exchange(project)
            exchanges.append(Exchange(name, "headers", unrouted=below, generated=True))
            queues.append(_level_queue(name, delays.unit_seconds * 2**level, below))
            bindings.append(Binding(name, name, arguments={"x-match": "all", f"{DELAY}{level}": True}))
    return Ladder(tuple(exchanges), tuple(queues), tuple(bindings))


def _level_queue(name: str, seconds: float, below: str) -> Queue:
    """Return the queue of one level.

    A quorum queue, because only that dead-letters at least once (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering): a
    classic one forgets the message when it has handed it to the next queue, and a broker that is killed in that moment has it in
    neither. Measured on 3.10.8 with 30,000 messages on their way and kill -9: a ladder of classic queues lost 9,797 of them, one
    of quorum queues none (and doubled up to 123). The price: after such a kill a level may stand still for three minutes, until
    the broker asks again for confirms of queues that were not back (`dead_letter_worker_publisher_confirm_timeout`), and
    a level hands on some thousand messages a second instead of more than ten thousand.
    """
    return Queue(
        name,
        type="quorum",
        delivery_limit=_NO_LIMIT,
        ttl_seconds=seconds,
        limits=Limits(overflow="reject-publish"),
        extra_arguments={"x-dead-letter-exchange": below, "x-dead-letter-strategy": "at-least-once"},
        generated=True,
    )


def lanes(delays: Delays) -> tuple[bool, ...]:
    """Return the sets of levels: for all messages, or (False, True) one for others and one for urgent ones."""
    return (False, True) if delays.urgent_lane else (False,)


def reachable(queue: Queue) -> bool:
    """Whether a delayed message can end in this queue: nobody binds what somebody else owns."""
    return queue.manage != "external"


def level_count(delays: Delays) -> int:
    """Return how many levels the longest delay takes."""
    return units(delays, delays.max_seconds).bit_length()


def units(delays: Delays, seconds: float) -> int:
    """Return a delay in units, rounded up, so that nothing is early; at least one."""
    return units_of(seconds, delays.unit_seconds)


def units_of(seconds: float, unit_seconds: float) -> int:
    """Return how many units cover a time; at least one."""
    return max(1, math.ceil(round(seconds / unit_seconds, 6)))


def entry(
    topology: Topology, seconds: float, targets: Iterable[str], due_seconds: float, *, priority: int | None = None
) -> Entry:
    """Return how to publish a message so that it reaches queues after a while.

    Args:
        topology: The project's.
        seconds: The delay; from now, and above zero.
        targets: The names of the queues.
        due_seconds: When it is due, since the epoch; for those who look.
        priority: The message's.

    Raises:
        LocalError: The topology has no ladder, or the delay is longer than it.
    """
    delays = topology.delays
    if delays is None:
        raise LocalError(no_ladder(topology))
    if seconds > delays.max_seconds:
        raise LocalError(
            f"a delay of {seconds:g} s is longer than delays.max of project {topology.project!r} "
            f"({duration_text(delays.max_seconds)}); raise that, and run `amqpq topology apply`"
        )
    count = units(delays, seconds)
    headers: dict[str, Any] = {f"{DELAY}{level}": True for level in range(count.bit_length()) if count & (1 << level)}
    headers.update((target_header(target), True) for target in targets)
    headers[DUE] = round(due_seconds * 1000)
    urgent = delays.urgent_lane and (priority or 0) >= URGENT_PRIORITY
    return Entry(level_name(topology.project, count.bit_length() - 1, urgent=urgent), headers)


def no_ladder(topology: Topology) -> str:
    """Return why nothing can be delayed, with the remedy."""
    return (
        f"the topology of project {topology.project!r} has no delay ladder; add `delays: {{}}` to it, and run "
        "`amqpq topology apply`"
    )


def came_down(topology: Topology, exchange: str) -> bool:
    """Whether a delivery with this exchange comes from the ladder."""
    return topology.delays is not None and exchange.startswith(f"{topology.project}.delay.")


def is_hint(header: str) -> bool:
    """Whether a header is one of the ladder's own."""
    return header.startswith((DELAY, TO)) or header == DUE


def is_passing(header: str) -> bool:
    """Whether a header must not go with a copy: the ladder's, and what the broker noted on the way.

    Among that is `x-death`: a message that comes to a queue for the second time, expired each time, is dropped as a cycle
    (https://www.rabbitmq.com/docs/dlx#automatic-dead-lettering-cycles).
    """
    return is_hint(header) or header in _BROKERS_NAMES or header.startswith(_BROKERS_PREFIXES)


def level_name(project: str, level: int, *, urgent: bool = False) -> str:
    """Return the name of a level's exchange, and of its queue."""
    return f"{project}.delay.urgent.{level}" if urgent else f"{project}.delay.{level}"


def exit_exchange(project: str) -> str:
    """Return the name of the exchange below the lowest level."""
    return f"{project}.delay.out"


def lost_exchange(project: str) -> str:
    """Return the name of the exchange for what has no queue any more."""
    return f"{project}.delay.lost"


def target_header(queue: str) -> str:
    """Return the header that opens the exit to a queue; a name that would be too long for one is digested."""
    header = TO + queue
    if len(header.encode()) <= _NAME_BYTES:
        return header
    return TO + hashlib.blake2b(queue.encode(), digest_size=16).hexdigest()
