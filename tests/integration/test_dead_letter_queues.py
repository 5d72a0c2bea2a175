"""The desk on queues of a real broker: classic and quorum, with x-death as it comes over the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from amqpq.deadletters.choosing import Choice
from amqpq.deadletters.desk import Bounds, Desk, Sending, Source, Tally
from amqpq.deadletters.planning import Return
from amqpq.transport import blocking, url
from amqpq.transport.interface import Connection
from amqpq.types import Properties, Publication, QueueSpec
from tests.support.lab import answer

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 30.0
COUNT = 300
RETURNING = "amqpq.returning"
ALL = Choice()


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection into a vhost with two dead-letter queues and a queue that has one of them."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS)
    channel = opened.channel()
    answer(channel.declare_queue(QueueSpec("classic")))
    answer(channel.declare_queue(QueueSpec("quorum", arguments={"x-queue-type": "quorum"})))
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "classic"}
    answer(channel.declare_queue(QueueSpec("work", arguments=dead)))
    yield opened
    answer(opened.close())


def publish(connection: Connection, publications: Sequence[Publication]) -> None:
    """Publish, and see it confirmed."""
    outcomes = answer(connection.channel().publish(publications))
    assert all(outcome.confirmed for outcome in outcomes)


def dead_letters(queue: str) -> list[Publication]:
    """Numbered dead letters for a queue."""
    headers = {"task": "shop.add", "amqpq-cause": "failed", "amqpq-queue": "work"}
    return [
        Publication("", queue, b"%d" % number, Properties(headers={**headers, "id": str(number)}, delivery_mode=2))
        for number in range(COUNT)
    ]


def settled(connection: Connection, queue: str, count: int) -> None:
    """Wait until so many are ready: a quorum queue takes them back after it has answered that the channel is closed."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while Desk(connection).count(Source(queue)) != count:
        assert time.monotonic() < deadline, f"{queue} does not hold {count} messages"
        pause.wait(0.02)


def held(connection: Connection, queue: str, count: int) -> list[int]:
    """The numbers that a queue holds, in its order, once it holds so many; they stay there."""
    settled(connection, queue, count)
    return [int(letter.delivery.body) for letter in Desk(connection).look(Source(queue), ALL, Bounds()).letters]


def test_looking_again_and_again_keeps_a_classic_queue_as_it_is(connection: Connection) -> None:
    """The same messages in the same order, however often and however far somebody looks."""
    publish(connection, dead_letters("classic"))
    desk = Desk(connection)
    for bounds in (Bounds(), Bounds(limit=5), Bounds(scan=150), Bounds()):
        desk.look(Source("classic"), Choice(text="7"), bounds)
    assert held(connection, "classic", COUNT) == list(range(COUNT))


def test_looking_at_a_quorum_queue_loses_nothing_and_is_counted(connection: Connection) -> None:
    """The broker counts each look as a delivery, which is what the limit of looks rests on."""
    publish(connection, dead_letters("quorum"))
    desk = Desk(connection)
    desk.look(Source("quorum"), ALL, Bounds())
    settled(connection, "quorum", COUNT)
    again = desk.look(Source("quorum"), ALL, Bounds()).letters
    assert sorted(int(letter.delivery.body) for letter in again) == list(range(COUNT))
    assert {letter.deliveries for letter in again} == {1}


@pytest.mark.parametrize("queue", ["classic", "quorum"])
def test_every_message_is_in_one_of_the_two_queues(connection: Connection, queue: str) -> None:
    """Half of them sent back: each is where it belongs, once."""
    publish(connection, dead_letters(queue))
    chosen = frozenset(str(number) for number in range(0, COUNT, 2))
    tally = Tally()
    Desk(connection).send_back(Source(queue), Choice(ids=chosen), Sending(Return({"work"})), tally)
    assert tally.sent == {"work": COUNT // 2}
    assert held(connection, "work", COUNT // 2) == list(range(0, COUNT, 2))
    assert sorted(held(connection, queue, COUNT // 2)) == list(range(1, COUNT, 2))


def test_x_death_of_a_real_broker_is_understood_and_taken_off(connection: Connection) -> None:
    """Its queue, its reason and its time are those of the death; the copy that goes back has no past at the broker."""
    properties = Properties(headers={"task": "shop.add", "id": "1", "CC": ["classic"]}, user_id="guest")
    publish(connection, [Publication("", "work", b"1", properties)])
    channel = connection.channel()
    taken = answer(channel.get("work"))
    assert taken is not None
    channel.reject(taken.tag, requeue=False)
    answer(channel.close())
    letters = Desk(connection).look(Source("classic"), Choice(causes=frozenset({"rejected"})), Bounds()).letters
    assert [(letter.by, letter.origin, letter.id) for letter in letters] == [("broker", "work", "1")]
    assert letters[0].failed_at is not None
    tally = Tally()
    Desk(connection).send_back(Source("classic"), Choice(origins=frozenset({"work"})), Sending(Return({"work"})), tally)
    assert tally.sent_count == 1
    (back,) = Desk(connection).look(Source("work"), ALL, Bounds()).letters
    ours = {name for name in back.headers if not name.startswith(("x-death", "x-first-death-", "x-last-death-"))}
    assert ours == {"task", "id", "amqpq-requeues", "amqpq-user-id", "amqpq-returned"}
    assert {death["queue"] for death in back.headers["x-death"]} == {RETURNING}  # the way back is the whole past


def test_what_a_full_queue_does_not_take_is_kept_on_the_way(
    connection: Connection, vhost_url: str, broker_server: Any
) -> None:
    """A queue that rejects what is too much gets what it takes; the broker keeps the rest for it, and none is lost."""
    full = {"x-max-length": 10, "x-overflow": "reject-publish"}
    answer(connection.channel().declare_queue(QueueSpec("small", arguments=full)))
    publish(connection, dead_letters("classic"))
    tally = Tally()
    Desk(connection).send_back(Source("classic"), ALL, Sending(Return((), to="small")), tally)
    assert tally.sent_count == COUNT
    arrived = held(connection, "small", 10)
    assert len(set(arrived)) == 10
    address = f"queues/{urlsplit(vhost_url).path[1:]}/{RETURNING}"
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    # What waits for its target is not among the ready messages; the management API counts it, every few seconds.
    while broker_server.request("GET", address).get("messages_dlx") != COUNT - 10:
        assert time.monotonic() < deadline, broker_server.request("GET", address)
        pause.wait(0.2)
    assert Desk(connection).count(Source("classic")) == 0
