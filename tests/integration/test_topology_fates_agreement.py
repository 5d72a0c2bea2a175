"""What checks say of failing and expiring messages, against a real broker: the same copies end in the same queues.

A broker tells nobody that it has dropped a message. So each case has a clock of its own: a message that the broker itself
hands over when its time to live is over, well after the last event that the simulation foresees. What is in the queues then is
where everything has ended.

The random cases are drawn from seeds, so that a failure can be run again by its seed alone.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from amqpq.errors import ObjectNotFound
from amqpq.topology.fates import End, Ending, Failure, Follower, Message
from amqpq.topology.routing import Router
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Properties, Publication, QueueSpec
from tests.support.lab import answer

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 60.0
AFTER_MS = 1500
"""How long the broker's clock runs after the last event that is foreseen."""
WAITS_SECONDS = 10.0
"""Longer than all waits that are to be over, and shorter than those that are not."""
SEEDS = 100
SETTLED = frozenset({End.RESTS, End.DONE, End.DROPPED})
"""Ends after which nothing moves any more."""


@dataclass(frozen=True, slots=True)
class Case:
    """Some wiring, and a message in its queue `start`. `failure` None: nobody takes it."""

    queues: tuple[QueueSpec, ...]
    exchanges: tuple[ExchangeSpec, ...] = ()
    bindings: tuple[BindingSpec, ...] = ()
    failure: Failure | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    ttl_seconds: float | None = None
    start: str = "a"


def queue(name: str, dead: str | None = None, key: str | None = None, **arguments: object) -> QueueSpec:
    """Make a queue; `ttl` stands for `x-message-ttl`."""
    made: dict[str, object] = {f"x-{word.replace('_', '-')}": value for word, value in arguments.items()}
    made |= {} if dead is None else {"x-dead-letter-exchange": dead}
    made |= {} if key is None else {"x-dead-letter-routing-key": key}
    return QueueSpec(name, arguments=made)


def fanout(name: str, *targets: str) -> tuple[tuple[ExchangeSpec, ...], tuple[BindingSpec, ...]]:
    """Make a fanout exchange to some queues."""
    return (ExchangeSpec(name, "fanout"),), tuple(BindingSpec(name, target) for target in targets)


CASES = {
    "rejected three times, it waits and comes back each time, and is run": Case(
        (queue("a", "", "wait"), queue("wait", "", "a", message_ttl=150)), failure=Failure("reject", 3)
    ),
    "a circle of three queues with a rejection is cut by old brokers": Case(
        (queue("a", "", "b"), queue("b", "", "c", message_ttl=50), queue("c", "", "a", message_ttl=50)),
        failure=Failure("reject", 5),
    ),
    "an expiring circle is cut where it would close": Case(
        (queue("a", "x", message_ttl=100), queue("b", "y", message_ttl=100), queue("seen"), queue("seen.too")),
        fanout("x", "b", "seen")[0] + fanout("y", "a", "seen.too")[0],
        fanout("x", "b", "seen")[1] + fanout("y", "a", "seen.too")[1],
    ),
    "the expiration of the message counts once, and the alternate exchange takes its dead letter": Case(
        (queue("a", "dlx", message_ttl=60_000), queue("rest", "", "late", message_ttl=60_000), queue("late")),
        (ExchangeSpec("dlx", arguments={"alternate-exchange": "others"}), *fanout("others", "rest")[0]),
        fanout("others", "rest")[1],
        ttl_seconds=0.1,
    ),
    "beyond the delivery limit it is a dead letter, with its own key": Case(
        (queue("a", "dlx", queue_type="quorum", delivery_limit=2), queue("mine"), queue("others")),
        (ExchangeSpec("dlx", "topic"),),
        (BindingSpec("dlx", "mine", "web.#"), BindingSpec("dlx", "others", "mail.#")),
        failure=Failure("limit"),
        key="web.resize",
    ),
    "below the delivery limit it is run": Case(
        (queue("a", "", "dead", queue_type="quorum", delivery_limit=2), queue("dead")), failure=Failure("limit", 2)
    ),
    "a dead letter key takes CC away": Case(
        (queue("a", "", "dead"), queue("dead"), queue("copy")), failure=Failure("reject", 1), headers={"CC": ["copy"]}
    ),
    "without a dead letter key CC counts again": Case(
        (queue("a", "", message_ttl=100), queue("copy", "", "late", message_ttl=60_000), queue("late")),
        headers={"CC": ["copy"]},
        key="nobody",
    ),
    "a queue that expires takes its message along": Case((queue("a", "", "dead", expires=200), queue("dead"))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_broker_does_what_a_check_says(connection: Connection, name: str) -> None:
    """Every copy ends in the same queue in both."""
    assert observed(connection, [CASES[name]]) == [foreseen(connection, CASES[name])]


@pytest.mark.parametrize("failing", [False, True])
def test_random_wirings_end_alike(connection: Connection, failing: bool) -> None:
    """Dead letters that lead in any way from queue to queue, with one that rejects among them or without."""
    drawn = [generate(seed, failing=failing) for seed in range(SEEDS)]
    cases = [case for case in drawn if all(ending.end in SETTLED for ending in endings_of(connection, case))]
    assert len(cases) > SEEDS * 0.9
    for case, found in zip(cases, observed(connection, cases), strict=True):
        assert found == foreseen(connection, case), case


def test_old_brokers_let_a_message_expire_in_a_circle_for_ever(connection: Connection) -> None:
    """After one rejection, between two queues in which nobody rejects; new ones drop it at the first turn."""
    case = Case(
        (queue("a", "", "b"), queue("b", "", "c", message_ttl=30), queue("c", "", "b", message_ttl=30)),
        failure=Failure("reject", 1),
    )
    (ending,) = endings_of(connection, case)
    channel = connection.channel()
    clock = queue("clock", "", "alarm", message_ttl=AFTER_MS)
    declare(channel, case, Case((queue("alarm"), clock)))
    publish(channel, case)
    rejected = answer(channel.get("a"))
    assert rejected is not None
    channel.reject(rejected.tag, requeue=False)
    rung = threading.Event()
    answer(channel.consume("alarm", lambda _: rung.set(), no_ack=True))
    answer(channel.publish([Publication("", "clock", b"", Properties())]))
    assert rung.wait(DEADLINE_SECONDS)
    if ending.end is End.LOOPS:
        taken = None
        while taken is None:
            taken = answer(channel.get("b", no_ack=True))
        assert max(death["count"] for death in taken.properties.headers["x-death"]) > 5
    else:
        assert (ending.end, _left(connection, "b"), _left(connection, "c")) == (End.DROPPED, 0, 0)


# ----------------------------------------------------------------------------------------------------------- foreseen


def endings_of(connection: Connection, case: Case) -> list[Ending]:
    """Follow the message of a case."""
    router = Router(case.exchanges, case.queues, case.bindings, version=connection.server.version_tuple)
    message = Message(case.start, case.key or case.start, case.headers, case.ttl_seconds)
    if case.failure is None:
        return Follower(router).expire(message, WAITS_SECONDS)
    return Follower(router).fail(message, case.failure)


def foreseen(connection: Connection, case: Case) -> Counter[str]:
    """Count copies by the queue that they rest in, and those that are run."""
    return Counter(ending.where for ending in endings_of(connection, case) if ending.end is not End.DROPPED)


# --------------------------------------------------------------------------------------------------------- generating


def generate(seed: int, *, failing: bool) -> Case:
    """Draw queues that dead-letter to one another, some through a fanout or to nowhere."""
    draw = random.Random(seed)
    names = [f"{seed}.{letter}" for letter in "abcd"]
    start, everywhere = names[0], f"{seed}.all"
    queues = []
    for name in names:
        dead = draw.choice([None, "", "", "", everywhere, "nowhere"])
        key = draw.choice([None, *names]) if dead is not None else None
        waits = (dead is not None or not failing) and draw.random() < 0.7 and not (failing and name == start)
        queues.append(queue(name, dead, key, **({"message_ttl": draw.choice([0, 20, 60])} if waits else {})))
    exchanges, bindings = fanout(everywhere, *(name for name in names if draw.random() < 0.4))
    return Case(tuple(queues), exchanges, bindings, failure=Failure("reject", 2) if failing else None, start=start)


# ----------------------------------------------------------------------------------------------------------- observing


def observed(connection: Connection, cases: Sequence[Case]) -> list[Counter[str]]:
    """Declare the cases, put a message into each, let it fail; count what is where in the end."""
    seconds = max(ending.seconds[1] for case in cases for ending in endings_of(connection, case))
    clock = queue("clock", "", "alarm", message_ttl=round(seconds * 1000) + AFTER_MS)
    channel = connection.channel()
    declare(channel, *cases, Case((queue("alarm"), clock)))
    rung = threading.Event()
    answer(channel.consume("alarm", lambda _: rung.set(), no_ack=True))
    run = [Counter[str]() for _ in cases]
    consumers = [_Consumer(connection, case, count) for case, count in zip(cases, run, strict=True) if case.failure]
    for case in cases:
        publish(channel, case)
    answer(channel.publish([Publication("", "clock", b"", Properties())]))
    assert rung.wait(DEADLINE_SECONDS)
    for consumer in consumers:
        consumer.stop()
    for case, count in zip(cases, run, strict=True):
        count.update({spec.name: left for spec in case.queues if (left := _left(connection, spec.name))})
        remove(channel, case)
    remove(channel, Case((queue("alarm"), clock)))
    answer(channel.close())
    return run


def declare(channel: Channel, *cases: Case) -> None:
    """Declare all of some cases."""
    for case in cases:
        declared: list[Pending[Any]] = [channel.declare_exchange(spec) for spec in case.exchanges]
        declared += [channel.declare_queue(spec) for spec in case.queues]
        declared += [channel.bind(spec) for spec in case.bindings]
        for pending in declared:
            answer(pending)


def publish(channel: Channel, case: Case) -> None:
    """Put the message of a case into the queue where it begins, and into no other, with its own key."""
    expiration = None if case.ttl_seconds is None else round(case.ttl_seconds * 1000)
    properties = Properties(headers=dict(case.headers), expiration=expiration, delivery_mode=2)
    exchange = ""
    if case.key or case.headers:
        exchange = "in"
        declare(channel, Case((), *fanout("in", case.start)))
    (outcome,) = answer(channel.publish([Publication(exchange, case.key or case.start, b"", properties)]))
    assert outcome.confirmed


class _Consumer:
    """Lets messages fail where a case begins, each as often as its own history says."""

    def __init__(self, connection: Connection, case: Case, run: Counter[str]) -> None:
        assert case.failure is not None
        self._connection = connection
        self._failure = case.failure
        self._queue = case.start
        self._run = run
        self._returned = 0
        self._stopped = False
        self._channel = self._subscribe()

    def _subscribe(self) -> Channel:
        channel = self._connection.channel()
        answer(channel.consume(self._queue, partial(self._take, channel), prefetch=1))
        return channel

    def _take(self, channel: Channel, delivery: Delivery) -> None:
        times = self._failure.times
        failed = self._returned if self._failure.how == "limit" else self._rejections(delivery)
        if times is not None and failed >= times:
            self._run["done"] += 1
            channel.ack(delivery.tag)
        elif self._failure.how == "reject":
            channel.reject(delivery.tag, requeue=False)
        else:
            self._returned += 1
            threading.Thread(target=self._come_back, args=(channel,), daemon=True).start()

    def _come_back(self, channel: Channel) -> None:
        """Close the channel over the delivery: every version counts that."""
        answer(channel.close())
        if not self._stopped:
            self._channel = self._subscribe()

    def stop(self) -> None:
        """Take no more."""
        self._stopped = True
        answer(self._channel.close())

    def _rejections(self, delivery: Delivery) -> int:
        deaths = delivery.properties.headers.get("x-death", [])
        return sum(
            int(each["count"]) for each in deaths if (each["queue"], each["reason"]) == (self._queue, "rejected")
        )


def _left(connection: Connection, name: str) -> int:
    """Take everything out of a queue, and count it; none where the queue is gone."""
    channel = connection.channel()
    count = 0
    try:
        while answer(channel.get(name, no_ack=True)) is not None:
            count += 1
    except ObjectNotFound:
        return 0
    answer(channel.close())
    return count


def remove(channel: Channel, case: Case) -> None:
    """Delete what a case has declared."""
    for spec in case.queues:
        answer(channel.delete_queue(spec.name))
    for exchange in (*(spec.name for spec in case.exchanges), "in"):
        answer(channel.delete_exchange(exchange))
