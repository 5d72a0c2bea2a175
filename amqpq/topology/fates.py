"""What becomes of a message that fails, or that nobody takes: followed through dead letters, waits and retries. Pure.

It asks `amqpq.topology.routing` where each dead letter goes, and counts time itself. What it knows of RabbitMQ:

* A queue hands on what dies in it to its dead-letter exchange, with its dead-letter routing key, or else the key the message
  came with. No such exchange, or nothing bound: it is dropped without a word; a quorum queue that dead-letters at least once
  keeps it (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
* A dead letter that comes back to a queue it died in is dropped, unless somebody rejected it on the way (`routing.is_cut`).
  With a rejection it may go round for ever.
* A message expires after the shorter of its queue's time to live and its own, and loses its own when it dies
  (https://www.rabbitmq.com/docs/ttl). A queue with `x-expires` that nobody uses is deleted with what it holds, and that is no
  dead letter.
* A quorum queue dead-letters what came back more often than its delivery limit: 20 times by default from 4.0 on, without a
  limit before; -1 is no limit from 4.0 on, and 0 before. A classic queue does not count.

And of workers of amqpq: a function that raises is tried again as `retries` say, each time through the delay ladder; a child that
dies is replaced, `CRASH_LIMIT` times; then the message is parked in its queue's dead letter, or dropped. Options in the
tasks' code are not seen here.

A queue in which the message does not fail, with a time to live and a dead-letter exchange, is one to wait in; any other is where
it ends. Length limits are not simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from amqpq.topology import delays
from amqpq.topology.expected import How
from amqpq.topology.model import Retries, Topology
from amqpq.topology.routing import DELIVERY_LIMIT, EXPIRED, REJECTED, Deaths, Reach, Router, died, is_cut
from amqpq.topology.units import SECONDS, duration_text
from amqpq.types import BindingSpec, QueueSpec

CRASH_LIMIT: Final = 3
"""Children that a message may kill before it is parked, `amqpq.worker.settle.CRASH_LIMIT`; a test holds the two together."""

COUNTED_SINCE: Final = (4, 0, 0)
"""From here on a quorum queue has a delivery limit by default, and -1 switches it off."""
DEFAULT_DELIVERY_LIMIT: Final = 20

COPIES: Final = 10_000
"""Steps that are followed of one message; dead letters that multiply are given up beyond that."""
TOLD: Final = 3
"""Attempts that are told one by one, also where all wait equally long."""
TOLD_GROWING: Final = 20
"""Attempts that are told at all while their waits grow."""
FOLLOWED: Final = 10_000
"""Attempts whose waits are found out one by one; those of all further ones are taken for the longest."""

Span: TypeAlias = tuple[float, float]
"""From how many seconds to how many: jitter spreads waits."""


class End(StrEnum):
    """How the way of a message ends."""

    RESTS = "rests"
    """In a queue."""
    KEPT = "kept"
    """In the queue it died in, because its dead letter has no queue to go to."""
    DONE = "done"
    """It is run."""
    DROPPED = "dropped"
    LOOPS = "loops"
    """It goes round for ever."""
    UNDECIDED = "undecided"
    """It multiplies, and was not followed to the end."""


ENDLESS: Final = frozenset({End.LOOPS, End.UNDECIDED})


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, and until when at the latest, in seconds from the beginning."""

    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Ending:
    """Where one copy of a message ends, after how long, and how it got there. `queue`: where it was last."""

    end: End
    queue: str
    seconds: Span
    steps: tuple[Step, ...] = ()
    reason: str = ""
    """Why it was dropped, or loops."""

    @property
    def where(self) -> str:
        """As `ends_in` of a check says it."""
        words = {End.DONE: "done", End.DROPPED: "nowhere", End.LOOPS: "a loop", End.UNDECIDED: "too many copies"}
        return words.get(self.end, self.queue)


@dataclass(slots=True)
class Walked:
    """What messages passed: bindings (`binding_id`), exchanges whose alternate took over, queues that dead letters left."""

    bindings: set[tuple[str, ...]] = field(default_factory=set)
    unrouted: set[str] = field(default_factory=set)
    dead_letters: set[str] = field(default_factory=set)

    def note(self, reach: Reach) -> None:
        """Take in where a message went."""
        self.bindings.update(binding_id(binding) for binding in reach.bindings)
        self.unrouted.update(reach.unrouted)


def binding_id(binding: BindingSpec) -> tuple[str, ...]:
    """Return what tells a binding from others; its arguments are a table, which has no hash."""
    kind = "exchange" if binding.to_exchange else "queue"
    arguments = (f"{name}={value!r}" for name, value in sorted(binding.arguments.items()))
    return (binding.source, kind, binding.target, binding.key, *arguments)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a message fails wherever it begins. `times` None: for ever. The rest is for workers of amqpq: raise and crash."""

    how: How
    times: int | None = None
    retries: Retries = field(default_factory=Retries)
    priority: int | None = None
    expires_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What is in a queue at the beginning. `ttl_seconds`: its own time to live."""

    queue: str
    key: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict)
    ttl_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Copy:
    """A message on its way."""

    queue: str
    key: str
    headers: Mapping[str, Any]
    deaths: Deaths = ()
    path: tuple[str, ...] = ()
    """The queues that it died in."""
    failures: int = 0
    at: Span = (0.0, 0.0)
    ttl_seconds: float | None = None
    steps: tuple[Step, ...] = ()
    seen: frozenset[tuple[str, str, Deaths]] = frozenset()

    def told(self, text: str) -> _Copy:
        """Return it with one more step."""
        return replace(self, steps=(*self.steps, Step(self.at[1], text)))

    def later(self, low: float, high: float) -> _Copy:
        """Return it after a while."""
        return replace(self, at=(self.at[0] + low, self.at[1] + high))

    def ends(self, end: End, reason: str = "") -> Ending:
        """Return how it ends."""
        return Ending(end, self.queue, self.at, self.steps, reason)

    def dropped(self, reason: str) -> Ending:
        """Return that it is dropped here."""
        return self.told(f"dropped: {reason}").ends(End.DROPPED, reason)


Next: TypeAlias = "list[_Copy | Ending]"


class Follower:
    """Follows messages through exchanges and queues.

    Args:
        router: Of all that exists.
        topology: For what workers do: dead letters, and the delay ladder. None: nothing is said of that.
        walked: Takes in what messages passed.
    """

    def __init__(self, router: Router, topology: Topology | None = None, walked: Walked | None = None) -> None:
        self._router = router
        self._topology = topology
        self._walked = Walked() if walked is None else walked
        self._falls: dict[tuple[str, int | None, int], tuple[float, str]] = {}

    def fail(self, message: Message, failure: Failure) -> list[Ending]:
        """Follow a message that fails in the queue where it begins, whenever it comes there."""
        start = _Copy(message.queue, message.key, message.headers)
        return self._follow(start, lambda copy: self._failing(copy, message.queue, failure))

    def expire(self, message: Message, after_seconds: float) -> list[Ending]:
        """Follow a message that nobody takes, until so much time has passed."""
        start = _Copy(message.queue, message.key, message.headers, ttl_seconds=message.ttl_seconds)
        return self._follow(start, lambda copy: self._idle(copy, after_seconds))

    def _follow(self, start: _Copy, step: Any) -> list[Ending]:
        endings: list[Ending] = []
        copies: list[_Copy] = [start]
        for _ in range(COPIES):
            if not copies:
                return endings
            for found in step(copies.pop()):
                (endings if isinstance(found, Ending) else copies).append(found)
        reason = f"its dead letters multiply: not followed beyond {COPIES} of them"
        return [*endings, *([copies[-1].ends(End.UNDECIDED, reason)] if copies else [])]

    # --------------------------------------------------------------------------------------------------- expiring

    def _idle(self, copy: _Copy, until: float) -> Next:
        """Let time pass over a message that nobody takes."""
        spec = self._router.queues[copy.queue]
        deleted = _seconds(spec, "x-expires")
        if deleted is not None and deleted <= copy.at[1]:
            return [copy.dropped(f"{copy.queue} was deleted after {time_text(deleted)} without use")]
        lives = [each for each in (_seconds(spec, "x-message-ttl"), copy.ttl_seconds) if each is not None]
        dies = copy.at[1] + min(lives) if lives else None
        if deleted is not None and deleted <= until and (dies is None or deleted <= dies):
            gone = replace(copy, at=(deleted, deleted))
            return [gone.dropped(f"{copy.queue} is deleted after {time_text(deleted)} without use, with what it holds")]
        if dies is None or dies > until:
            return [copy.told(f"stays in {copy.queue}").ends(End.RESTS)]
        expired = copy.later(min(lives), min(lives)).told(f"{copy.queue}: it expires")
        return self._dead_letter(expired, EXPIRED)

    # ---------------------------------------------------------------------------------------------------- failing

    def _failing(self, copy: _Copy, where: str, failure: Failure) -> Next:
        """Let a message fail, or wait, or rest."""
        if copy.queue != where:
            return self._elsewhere(copy)
        state = (copy.queue, copy.key, copy.deaths)
        if failure.times is None and state in copy.seen:
            reason = "it goes round for ever: " + _circle(copy.path, copy.queue)
            return [replace(copy.told(reason).ends(End.LOOPS, reason), seconds=(float("inf"), float("inf")))]
        copy = replace(copy, seen=copy.seen | {state})
        if failure.how == "reject":
            return self._reject(copy, failure)
        if failure.how == "limit":
            return self._come_back(copy, failure)
        if failure.how == "crash":
            return self._crash(copy, failure)
        return self._raise(copy, failure)

    def _elsewhere(self, copy: _Copy) -> Next:
        spec = self._router.queues[copy.queue]
        ttl = _seconds(spec, "x-message-ttl")
        if ttl is None or "x-dead-letter-exchange" not in spec.arguments:
            return [copy.ends(End.RESTS)]
        waited = copy.later(ttl, ttl).told(f"{copy.queue}: it has waited {time_text(ttl)}, and expires")
        return self._dead_letter(waited, EXPIRED)

    def _reject(self, copy: _Copy, failure: Failure) -> Next:
        if failure.times is not None and copy.failures >= failure.times:
            return [copy.told(f"{copy.queue}: it is run").ends(End.DONE)]
        failed = replace(copy, failures=copy.failures + 1).told(f"{copy.queue}: a consumer rejects it")
        return self._dead_letter(failed, REJECTED)

    def _come_back(self, copy: _Copy, failure: Failure) -> Next:
        limit = self._delivery_limit(copy.queue)
        left = None if failure.times is None else failure.times - copy.failures
        if left is not None and (limit is None or left <= limit):
            return [copy.told(f"{copy.queue}: it comes back {_times(left)}, and is run").ends(End.DONE)]
        if limit is None:
            quorum = self._router.queues[copy.queue].arguments.get("x-queue-type") == "quorum"
            why = "has no delivery limit" if quorum else "counts no deliveries, as no classic queue does"
            reason = f"{copy.queue} {why}: it is handed out for ever"
            ending = copy.told(reason).ends(End.LOOPS, reason)
            return [replace(ending, seconds=(float("inf"), float("inf")))]
        failed = replace(copy, failures=copy.failures + limit + 1)
        return self._dead_letter(
            failed.told(f"{copy.queue}: it has come back {_times(limit + 1)}; its delivery limit is {limit}"),
            DELIVERY_LIMIT,
        )

    def _delivery_limit(self, queue: str) -> int | None:
        arguments = self._router.queues[queue].arguments
        if arguments.get("x-queue-type") != "quorum":
            return None
        counted = self._router.version >= COUNTED_SINCE
        limit: int | None = arguments.get("x-delivery-limit", DEFAULT_DELIVERY_LIMIT if counted else None)
        if limit is not None and limit < 0:
            return None if counted else 0
        return limit

    def _crash(self, copy: _Copy, failure: Failure) -> Next:
        if failure.times is not None and failure.times - copy.failures < CRASH_LIMIT:
            left = failure.times - copy.failures
            return [copy.told(f"{copy.queue}: it kills {left} of its processes, and is run").ends(End.DONE)]
        failed = replace(copy, failures=copy.failures + CRASH_LIMIT)
        return self._park(failed.told(f"{copy.queue}: it kills the process that runs it, {_times(CRASH_LIMIT)}"))

    # ---------------------------------------------------------------------------------------------------- retries

    def _raise(self, copy: _Copy, failure: Failure) -> Next:
        """Let the function raise, wait and raise again until it runs, or no retry is left."""
        retries, left = failure.retries, None if failure.times is None else failure.times - copy.failures
        waits = retries.max if left is None else min(left, retries.max)
        attempt = 0
        while attempt < waits:
            wait = self._wait(copy.queue, retries, attempt, failure.priority)
            if isinstance(wait, str):
                lost = copy.told(f"{copy.queue}: attempt {attempt + 1} raises, and no binding of the ladder leads back")
                return [replace(lost, queue=wait).ends(End.RESTS)]
            same = waits - attempt if attempt >= TOLD and _has_grown(retries, attempt) else 1
            copy = self._tried(copy, (attempt, same), wait, retries.max)
            if failure.expires_seconds is not None and copy.at[1] >= failure.expires_seconds:
                return self._park(copy.told(f"{copy.queue}: it has expired meanwhile"))
            attempt += same
        if left is not None and left <= retries.max:
            return [copy.told(f"{copy.queue}: attempt {waits + 1} runs").ends(End.DONE)]
        of_all = f" of {retries.max + 1} raises, and no retry is left" if retries.max else " raises"
        failed = replace(copy, failures=copy.failures + waits + 1)
        failed = failed.told(f"{copy.queue}: attempt {waits + 1}{of_all}")
        if retries.then == "drop":
            return [failed.dropped("`retries` say `then: drop`")]
        return self._park(failed)

    def _tried(self, copy: _Copy, attempts: tuple[int, int], wait: Span, most: int) -> _Copy:
        """Return a message after attempts that raised, and the waits behind them; a long row is told as one step."""
        first, count = attempts
        rest = f"waits {span_text(wait)}" if wait[1] else "is tried again at once"
        if count > 1:
            text = f"attempts {first + 1} to {first + count} raise; after each it {rest}"
        else:
            text = f"attempt {first + 1} of {most + 1} raises; it {rest}"
        told = copy.told(f"{copy.queue}: {text}") if first < TOLD_GROWING or count > 1 else copy
        return replace(told.later(wait[0] * count, wait[1] * count), deaths=(), headers={})

    def _wait(self, queue: str, retries: Retries, attempt: int, priority: int | None) -> Span | str:
        """Return how long an attempt waits for the next, or the queue in which it gets lost."""
        wait: list[float] = []
        for chance in (0.0, 1.0):
            seconds = retries.backoff.wait_seconds(attempt if attempt < FOLLOWED else 10**9, chance)
            if seconds <= 0:
                wait.append(0.0)
                continue
            fall = self._fall(queue, seconds, priority)
            if fall is None:
                wait.append(seconds)
            elif fall[1] != queue:
                return fall[1]
            else:
                wait.append(fall[0])
        return wait[0], wait[1]

    def _fall(self, queue: str, seconds: float, priority: int | None) -> tuple[float, str] | None:
        """Let a message fall down the delay ladder; return how long that takes, and the queue below."""
        topology = self._topology
        if topology is None or topology.delays is None:
            return None
        seconds = min(seconds, topology.delays.max_seconds)
        known = (queue, priority, delays.units(topology.delays, seconds))
        if known not in self._falls:
            entry = delays.entry(topology, seconds, (queue,), 0.0, priority=priority)
            arrived = self._router.route(entry.exchange, queue, entry.headers)
            copies = [_Copy(name, queue, entry.headers) for name in arrived.queues]  # one: a rung
            below = topology.queues
            endings = self._follow(
                copies[0], lambda copy: [copy.ends(End.RESTS)] if copy.queue in below else self._elsewhere(copy)
            )
            self._falls[known] = (endings[0].seconds[1], endings[0].queue)
        return self._falls[known]

    # ----------------------------------------------------------------------------------------------- dead letters

    def _park(self, copy: _Copy) -> Next:
        """Copy a message to the dead letter of its queue, as a worker does."""
        target = self._topology.dead_letter_of(copy.queue) if self._topology is not None else None
        if target is None:
            return [copy.dropped(f"{copy.queue} has no dead letter")]
        self._walked.dead_letters.add(copy.queue)
        parked = copy.told(f"{copy.queue}: the worker parks it in {target}")
        return [replace(parked, queue=target, key=target, path=(*copy.path, copy.queue))]

    def _dead_letter(self, copy: _Copy, reason: str) -> Next:
        """Hand a message that died to its queue's dead-letter exchange, as the broker does."""
        spec = self._router.queues[copy.queue]
        exchange, key = spec.arguments.get("x-dead-letter-exchange"), spec.arguments.get("x-dead-letter-routing-key")
        if exchange is None:
            return [copy.dropped(f"{copy.queue} has no dead letter")]
        named = f"the exchange '{exchange}'" if exchange else "the default exchange"
        if not self._router.has_exchange(exchange):
            return self._stuck(copy, spec, f"its dead letters go to {named}, which does not exist")
        kept = copy.headers if key is None else {n: v for n, v in copy.headers.items() if n not in {"CC", "BCC"}}
        reach = self._router.route(exchange, copy.key if key is None else key, kept)
        deaths = died(copy.deaths, copy.queue, reason, version=self._router.version)
        targets = sorted(name for name in reach.queues if reason == REJECTED or not is_cut(deaths, name))
        cut = sorted(reach.queues - set(targets))
        if not targets and not cut:
            key_text = f" with key '{copy.key if key is None else key}'"
            return self._stuck(copy, spec, f"its dead letters go to {named}{key_text}, where no queue takes them")
        if not targets:
            why = "a circle of dead letters without a rejection, which the broker cuts: "
            return self._stuck(copy, spec, why + _circle((*copy.path, copy.queue), cut[0]))
        self._walked.note(reach)
        self._walked.dead_letters.add(copy.queue)
        path = (*copy.path, copy.queue)
        moved = replace(
            copy, key=copy.key if key is None else key, headers=kept, deaths=deaths, path=path, ttl_seconds=None
        )
        text = f"{copy.queue}: dead letter ({reason}) to {', '.join(targets)}"
        return [replace(moved.told(text), queue=name) for name in targets]

    def _stuck(self, copy: _Copy, spec: QueueSpec, reason: str) -> Next:
        """End the way of a dead letter that no queue takes: dropped, or kept by a queue that dead-letters at least once."""
        arguments = spec.arguments
        careful = (
            arguments.get("x-queue-type") == "quorum"
            and arguments.get("x-dead-letter-strategy") == "at-least-once"
            and arguments.get("x-overflow") == "reject-publish"
        )
        if careful:
            return [copy.told(f"kept in {copy.queue}: {reason}").ends(End.KEPT, reason)]
        return [copy.dropped(reason)]


def _has_grown(retries: Retries, attempt: int) -> bool:
    """Whether all further waits are as long as that after this attempt."""
    backoff = retries.backoff
    still = backoff.factor == 1 or backoff.min_seconds == 0 or attempt >= FOLLOWED
    return still or replace(backoff, jitter=False).wait_seconds(attempt, 1.0) >= backoff.max_seconds


def span_text(span: Span) -> str:
    """Write a span of time: `3s`, or `1.5s to 3s`."""
    low, high = (time_text(seconds) for seconds in span)
    return high if low == high else f"{low} to {high}"


def time_text(seconds: float) -> str:
    """Write a time with all its units: `1h48m31.5s`."""
    if seconds == float("inf"):
        return "for ever"
    if seconds < SECONDS["m"]:
        return duration_text(round(seconds, 3)) if seconds else "0s"
    text, left = "", round(seconds, 3)
    for unit in ("d", "h", "m"):
        count, left = divmod(left, SECONDS[unit])
        text += f"{count:g}{unit}" if count else ""
    left = round(left, 3)
    return f"{text}{left:g}s" if left else text


def _circle(path: tuple[str, ...], back: str) -> str:
    """Write the circle that a way closes when it comes back to a queue."""
    latest = max(position for position, queue in enumerate(path) if queue == back)
    return " -> ".join((*path[latest:], back))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _seconds(spec: QueueSpec, argument: str) -> float | None:
    value = spec.arguments.get(argument)
    return value / 1000 if isinstance(value, int) and not isinstance(value, bool) else None
