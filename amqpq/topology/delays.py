"""The delay ladder: how a message waits in the broker, for any exchange type, without a plugin. Pure.

**How it works.** A delay is a number of units, and a number is octal digits. For each digit there is a level: an exchange, and
seven queues behind it, its rungs 1 to 7, in which every message waits rung x 8^level units. A message carries the header
`amqpq-delay-<level>` with the digit for each one that is not zero, enters at the exchange of the highest one, and falls: where
the level's header is there, a binding leads into the rung it names, and when its time is over, the queue dead-letters it to
the exchange of the next lower level; where it is not there, the alternate exchange *is* the next lower level, which costs no
hop. Below level 0 is the exit, an exchange with one binding per queue of the file: the header `amqpq-to-<queue>` opens it. Body,
properties, routing key and all other headers stay as they were. All messages of a rung wait equally long, so the first one is
always the next one due; a queue with a time to live per message would hold short delays behind long ones
(https://www.rabbitmq.com/docs/ttl#per-message-ttl-caveats).

**Why eight.** A hop costs the broker a write to disk, and what falls due together hops together. With binary digits there are
fewest queues (25 for the defaults, where octal ones take 57) and most hops. Measured on 3.10.8 with 20,000 messages of 3 to 75 s
that waited in 30 s, two cores under other load: late at the 99th percentile by 14.7 s with base 2 (5.0 hops a message), 8.1 s
with 4 (3.9), 3.4 s with 8 (3.2), 4.4 s with 16 (2.7).

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
from amqpq.topology.partitions import partition_names
from amqpq.topology.units import duration_text

BASE: Final = 8
"""Of the digits; see above."""
LEVELS_LIMIT: Final = 11
"""More levels than anybody needs: from milliseconds to weeks it takes eleven."""

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
"""Deliveries of a message on a rung. Looking at a queue counts as one (`amqpq delayed list`), and from 4.0 on the broker
drops after 20 unless told otherwise. -1 means unlimited there, and zero in 3.x; this number means the same in all."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The generated objects, in the order in which to declare them."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Rung:
    """A queue of the ladder: a level, and the digit whose messages wait there."""

    level: int
    digit: int

    @property
    def units(self) -> int:
        """How long they wait."""
        return int(self.digit * BASE**self.level)


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
        Binding(exit_exchange(project), queue, arguments={"x-match": "all", target_header(queue): True})
        # Of a partitioned queue also each partition by its own name: what is tried again comes back to the one it was in.
        for whole in topology.queues.values()
        for queue in dict.fromkeys((whole.name, *partition_names(whole)))
        if reachable(whole)
    ]
    bindings += [
        Binding(exit_exchange(project), queue, arguments={"x-match": "all", target_header(former): True})
        for queue, former in topology.formers.items()
    ]
    for urgent in lanes(delays):
        for level in range(level_count(delays)):
            name = level_name(project, level, urgent=urgent)
            exchanges.append(Exchange(name, "headers", unrouted=_below(project, level, urgent=urgent), generated=True))
        for rung in rungs(delays):
            above, name = level_name(project, rung.level, urgent=urgent), rung_name(project, rung, urgent=urgent)
            below = _below(project, rung.level, urgent=urgent)
            queues.append(_rung_queue(name, delays.unit_seconds * rung.units, below))
            bindings.append(Binding(above, name, arguments={"x-match": "all", f"{DELAY}{rung.level}": rung.digit}))
    return Ladder(tuple(exchanges), tuple(queues), tuple(bindings))


def _below(project: str, level: int, *, urgent: bool) -> str:
    return level_name(project, level - 1, urgent=urgent) if level else exit_exchange(project)


def _rung_queue(name: str, seconds: float, below: str) -> Queue:
    """Return the queue of one rung.

    A quorum queue, because only that dead-letters at least once (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering): a
    classic one forgets the message when it has handed it to the next queue, and a broker that is killed in that moment has it in
    neither. Measured on 3.10.8 with 30,000 messages on their way and kill -9: a ladder of classic queues lost 9,797 of them, one
    of quorum queues none (and doubled up to 123). The price: after such a kill a rung may stand still for three minutes, until
    the broker asks again for confirms of queues that were not back (`dead_letter_worker_publisher_confirm_timeout`), and
    a rung hands on some thousand messages a second instead of more than ten thousand.
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
    return digit_count(units(delays, delays.max_seconds))


def rungs(delays: Delays) -> tuple[Rung, ...]:
    """Return all that the longest delay, or one shorter than that, takes; from the lowest level up."""
    most = units(delays, delays.max_seconds)
    all_ = (Rung(level, digit) for level in range(level_count(delays)) for digit in range(1, BASE))
    return tuple(rung for rung in all_ if rung.units <= most)


def rungs_of(count: int) -> tuple[Rung, ...]:
    """Return the rungs on which a message waits so many units, from the lowest level up."""
    digits = ((level, count // BASE**level % BASE) for level in range(digit_count(count)))
    return tuple(Rung(level, digit) for level, digit in digits if digit)


def digit_count(count: int) -> int:
    """Return how many digits a number has."""
    return (count.bit_length() + BASE.bit_length() - 2) // (BASE.bit_length() - 1)


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
    way = rungs_of(count)
    headers: dict[str, Any] = {f"{DELAY}{rung.level}": rung.digit for rung in way}
    # By its former name a queue that was renamed is known to the ladder before and after the apply that renames it.
    headers.update((target_header(topology.formers.get(target, target)), True) for target in targets)
    headers[DUE] = round(due_seconds * 1000)
    urgent = delays.urgent_lane and (priority or 0) >= URGENT_PRIORITY
    return Entry(level_name(topology.project, way[-1].level, urgent=urgent), headers)


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
    """Return the name of a level's exchange."""
    return f"{project}.delay.urgent.{level}" if urgent else f"{project}.delay.{level}"


def rung_name(project: str, rung: Rung, *, urgent: bool = False) -> str:
    """Return the name of a rung's queue."""
    return f"{level_name(project, rung.level, urgent=urgent)}.{rung.digit}"


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
