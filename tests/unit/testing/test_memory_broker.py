"""The in-memory broker beyond what every transport has: its clock, its bad weather, its limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from amqpq.errors import (
    AccessRefused,
    AmqpqError,
    BrokerUnreachable,
    ConnectionLost,
    LocalError,
    NotBuiltYet,
    NotSerializable,
    OperationTimeout,
    PreconditionFailed,
)
from amqpq.testing.memory import MemoryBroker, memory_link
from amqpq.testing.memory.channel import WINDOW_DELIVERIES
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Flow, Pending
from amqpq.transport.url import Address
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Fate, Properties, Publication, QueueSpec

T = TypeVar("T")

DEADLINE_SECONDS = 10.0


def wait(pending: Pending[T]) -> T:
    """Wait for an answer."""

    def protocol() -> Flow[T]:
        answer: T = yield pending
        return answer

    return flow.run(protocol(), DEADLINE_SECONDS)


def fails(pending: Pending[Any], kind: type[AmqpqError]) -> str:
    """Wait for an error of this kind; return its words."""
    with pytest.raises(kind) as caught:
        wait(pending)
    return str(caught.value)


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    """A broker whose connections end with the test."""
    made = MemoryBroker()
    yield made
    made.unblock()
    made.kill_connections()


def declare(channel: Channel, name: str, **arguments: object) -> str:
    """Declare a durable queue; `x_expires=5` stands for `x-expires`."""
    spec = QueueSpec(name, arguments={key.replace("_", "-"): value for key, value in arguments.items()})
    return wait(channel.declare_queue(spec)).name


def post(channel: Channel, queue: str, *bodies: bytes, **properties: Any) -> list[Fate]:
    """Publish to a queue; return the fates."""
    value = Properties(**properties)
    return [outcome.fate for outcome in wait(channel.publish([Publication("", queue, body, value) for body in bodies]))]


def bodies(broker: MemoryBroker, queue: str) -> list[bytes]:
    """What a queue holds ready."""
    return [delivery.body for delivery in broker.messages(queue)]


# ---------------------------------------------------------------------------------------------------------- its clock


def test_time_stands_still_until_it_is_put_forward(broker: MemoryBroker) -> None:
    """A message lives exactly as long as its expiration says, on the broker's own clock."""
    channel = broker.connect().channel()
    declare(channel, "q")
    post(channel, "q", b"x", expiration=5000)
    broker.advance(4.999)
    assert bodies(broker, "q") == [b"x"]
    broker.advance(0.001)
    assert bodies(broker, "q") == []
    assert broker.now == pytest.approx(5.0)


def test_a_ladder_of_delays_is_climbed_in_one_leap(broker: MemoryBroker) -> None:
    """What happens on the way happens in its order, each at its own time."""
    channel = broker.connect().channel()
    declare(channel, "end")
    declare(channel, "second", x_message_ttl=3000, x_dead_letter_exchange="", x_dead_letter_routing_key="end")
    declare(channel, "first", x_message_ttl=2000, x_dead_letter_exchange="", x_dead_letter_routing_key="second")
    post(channel, "first", b"x")
    broker.advance(4.9)
    assert bodies(broker, "second") == [b"x"]
    broker.advance(100)
    (letter,) = broker.messages("end")
    deaths = letter.properties.headers["x-death"]
    assert [(death["queue"], death["reason"]) for death in deaths] == [("second", "expired"), ("first", "expired")]
    assert (deaths[0]["time"] - deaths[1]["time"]).total_seconds() == pytest.approx(3, abs=1)
    assert letter.properties.headers["x-last-death-queue"] == "second"


def test_a_message_expires_at_the_head_only(broker: MemoryBroker) -> None:
    """A short life behind a long one ends when it comes to the head, as on a real queue."""
    channel = broker.connect().channel()
    declare(channel, "q")
    post(channel, "q", b"long", expiration=10_000)
    post(channel, "q", b"short", expiration=1000)
    broker.advance(5)
    assert bodies(broker, "q") == [b"long", b"short"]
    assert wait(channel.get("q", no_ack=True)) is not None
    assert wait(channel.get("q", no_ack=True)) is None


def test_a_message_without_a_life_needs_a_consumer_that_waits(broker: MemoryBroker) -> None:
    """A TTL of 0 expires at once unless it can be delivered at once."""
    channel = broker.connect().channel()
    declare(channel, "q", x_message_ttl=0)
    assert post(channel, "q", b"nobody waits") == [Fate.CONFIRMED]
    assert bodies(broker, "q") == []
    arrived = threading.Event()
    got: list[Delivery] = []
    wait(channel.consume("q", lambda delivery: (got.append(delivery), arrived.set()), no_ack=True))
    post(channel, "q", b"somebody waits")
    assert arrived.wait(DEADLINE_SECONDS)
    assert got[0].body == b"somebody waits"


@pytest.mark.parametrize("use", ["declare", "get", "consume"])
def test_a_queue_in_use_does_not_expire(broker: MemoryBroker, use: str) -> None:
    """Declaring again and fetching renew a queue's life, and a consumer keeps it."""
    channel = broker.connect().channel()
    declare(channel, "q", x_expires=1000)
    broker.advance(0.9)
    if use == "declare":
        declare(channel, "q", x_expires=1000)
    elif use == "get":
        wait(channel.get("q"))
    else:
        wait(channel.consume("q", lambda _: None))
    broker.advance(0.9)
    assert "q" in broker.queues()
    broker.advance(0.2)
    assert ("q" in broker.queues()) == (use == "consume")


def test_time_does_not_go_back(broker: MemoryBroker) -> None:
    """A negative leap is refused."""
    with pytest.raises(LocalError):
        broker.advance(-1)


# --------------------------------------------------------------------------------------------------------- bad weather


def test_a_blocked_publisher_waits_and_is_told_why(broker: MemoryBroker) -> None:
    """Under an alarm the publication and what follows on the connection wait; others that do not publish go on."""
    connection, other = broker.connect(), broker.connect()
    channel = connection.channel()
    declare(channel, "q")
    broker.block("low on disk")
    published = channel.publish([Publication("", "q", b"x", Properties())])
    behind = channel.purge_queue("q")
    assert connection.blocked == "low on disk"
    assert other.blocked is None
    assert wait(other.channel().declare_queue(QueueSpec("q"), passive=True)).messages == 0
    with pytest.raises(OperationTimeout):
        flow.run(iter_one(published), 0.0)
    broker.unblock()
    assert wait(published)[0].confirmed
    assert wait(behind) == 1
    assert connection.blocked is None


def iter_one(pending: Pending[Any]) -> Flow[Any]:
    """A flow that waits for one pending."""
    return (yield pending)


def test_a_blocked_connection_may_be_closed(broker: MemoryBroker) -> None:
    """What was held back fails, because nothing of it was read."""
    connection = broker.connect()
    channel = connection.channel()
    broker.block()
    published = channel.publish([Publication("", "q", b"x", Properties())])
    wait(connection.close())
    fails(published, ConnectionLost)


def test_memory_is_bounded() -> None:
    """Above its limit the broker blocks publishers until somebody takes messages away."""
    broker = MemoryBroker(memory_limit_bytes=1000)
    channel = broker.connect().channel()
    declare(channel, "q")
    assert post(channel, "q", bytes(600), bytes(600)) == [Fate.CONFIRMED] * 2
    assert broker.alarm == "low on memory"
    held = channel.publish([Publication("", "q", b"x", Properties())])
    with pytest.raises(OperationTimeout):
        flow.run(iter_one(held), 0.0)
    assert wait(broker.connect().channel().purge_queue("q")) == 2
    assert wait(held)[0].confirmed
    broker.kill_connections()


def test_a_slow_consumer_leaves_the_rest_in_the_queue(broker: MemoryBroker) -> None:
    """An unbounded consumer gets a window of deliveries at a time, and all of them in the end, in order."""
    channel = broker.connect().channel()
    declare(channel, "q")
    total = WINDOW_DELIVERIES * 2 + 10
    post(channel, "q", *(b"%d" % number for number in range(total)))
    gate, done = threading.Event(), threading.Event()
    got: list[bytes] = []

    def slow(delivery: Delivery) -> None:
        gate.wait(DEADLINE_SECONDS)
        got.append(delivery.body)
        if len(got) == total:
            done.set()

    channel.consume("q", slow, no_ack=True)
    assert broker.queues()["q"].messages == total - WINDOW_DELIVERIES
    gate.set()
    assert done.wait(DEADLINE_SECONDS)
    assert got == [b"%d" % number for number in range(total)]


def test_a_restart_forgets_what_is_not_durable(broker: MemoryBroker) -> None:
    """After a stop only durable queues and persistent messages are left, and connections are refused meanwhile."""
    connection = broker.connect()
    channel = connection.channel()
    declare(channel, "durable")
    wait(channel.declare_queue(QueueSpec("transient", durable=False)))
    wait(channel.declare_exchange(ExchangeSpec("passing", durable=False)))
    post(channel, "durable", b"gone")
    post(channel, "durable", b"kept", delivery_mode=2)
    broker.stop()
    assert "stopped" in str(wait(connection.closed))
    with pytest.raises(BrokerUnreachable):
        broker.connect()
    broker.start()
    assert list(broker.queues()) == ["durable"]
    assert bodies(broker, "durable") == [b"kept"]


# --------------------------------------------------------------------------------------------------------------- a link


def test_a_link_to_it_heals(broker: MemoryBroker) -> None:
    """`memory_link` is a link like any other: after a loss it has another connection."""
    link = memory_link(broker)
    first = link.channel(DEADLINE_SECONDS)
    declare(first, "q")
    broker.kill_connections()
    wait(first.closed)
    assert post(link.channel(DEADLINE_SECONDS), "q", b"x") == [Fate.CONFIRMED]
    link.close()


def test_it_has_one_virtual_host(broker: MemoryBroker) -> None:
    """An address into another virtual host is refused, not ignored."""
    with pytest.raises(AccessRefused, match="'/elsewhere'"):
        broker.open(Address(vhost="/elsewhere"), heartbeat_seconds=0, timeout_seconds=1)


# ----------------------------------------------------------------------------------------------------- special queues


def test_a_quorum_queue_counts_returns(broker: MemoryBroker) -> None:
    """Each return is counted in `x-delivery-count`; past the limit the message is a dead letter."""
    channel = broker.connect().channel()
    declare(channel, "dead")
    declare(
        channel,
        "q",
        x_queue_type="quorum",
        x_delivery_limit=2,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="dead",
    )
    post(channel, "q", b"poison")
    counts = []
    for _ in range(3):
        delivery = wait(channel.get("q"))
        assert delivery is not None
        counts.append(delivery.properties.headers.get("x-delivery-count"))
        channel.reject(delivery.tag, requeue=True)
    assert counts == [None, 1, 2]
    (letter,) = broker.messages("dead")
    assert letter.properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_a_single_active_consumer_is_followed_by_the_next(broker: MemoryBroker) -> None:
    """Only the first consumer gets messages; when it goes, the second one takes over."""
    connection = broker.connect()
    channel = connection.channel()
    declare(channel, "q", x_single_active_consumer=True)
    boxes: tuple[list[bytes], list[bytes]] = ([], [])
    channels = [connection.channel() for _ in boxes]
    tags = [wait(each.consume("q", lambda delivery, box=box: box.append(delivery.body), no_ack=True))  # type: ignore[misc]
            for each, box in zip(channels, boxes, strict=True)]  # fmt: skip
    post(channel, "q", b"1", b"2")
    wait(channels[0].cancel(tags[0]))
    post(channel, "q", b"3")
    wait(channel.purge_queue("q"))
    assert boxes == ([b"1", b"2"], [b"3"])


def test_reject_publish_dlx_keeps_what_it_refuses(broker: MemoryBroker) -> None:
    """The publisher gets a nack and the message is a dead letter."""
    channel = broker.connect().channel()
    declare(channel, "dead")
    declare(
        channel,
        "q",
        x_max_length=1,
        x_overflow="reject-publish-dlx",
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="dead",
    )
    assert post(channel, "q", b"1", b"2") == [Fate.CONFIRMED, Fate.NACKED]
    assert (bodies(broker, "q"), bodies(broker, "dead")) == ([b"1"], [b"2"])


def test_further_keys_reach_further_queues(broker: MemoryBroker) -> None:
    """CC and BCC are routing keys too, and nobody sees the BCC."""
    channel = broker.connect().channel()
    for name in ("a", "b", "c"):
        declare(channel, name)
    post(channel, "a", b"x", headers={"CC": ["b"], "BCC": ["c"]})
    assert [bodies(broker, name) for name in ("a", "b", "c")] == [[b"x"]] * 3
    assert broker.messages("c")[0].properties.headers == {"CC": ["b"]}


def test_an_internal_exchange_takes_nothing_from_clients(broker: MemoryBroker) -> None:
    """Only other exchanges may send to it."""
    channel = broker.connect().channel()
    wait(channel.declare_exchange(ExchangeSpec("inner", "fanout", internal=True)))
    wait(channel.declare_exchange(ExchangeSpec("outer", "fanout")))
    wait(channel.bind(BindingSpec("outer", "inner", to_exchange=True)))
    declare(channel, "q")
    wait(channel.bind(BindingSpec("inner", "q")))
    wait(channel.publish([Publication("outer", "", b"x", Properties())]))
    assert bodies(broker, "q") == [b"x"]
    channel.publish([Publication("inner", "", b"x", Properties())])
    assert isinstance(wait(channel.closed), AccessRefused)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-queue-type": "stream"},
        {"x-consumer-timeout": 1000},
        {"x-delayed-retry-type": "all"},
        {"x-anything": 1},
        {"x-queue-type": "quorum", "x-delivery-limit": -1},
        {"x-queue-type": "quorum", "x-overflow": "reject-publish-dlx"},
    ],
)
def test_what_is_not_modelled_is_refused(broker: MemoryBroker, arguments: dict[str, object]) -> None:
    """An argument that would be ignored is an error of ours, and the channel lives on."""
    channel = broker.connect().channel()
    assert "not built yet" in fails(channel.declare_queue(QueueSpec("q", arguments=arguments)), NotBuiltYet)
    assert "not built yet" in fails(channel.declare_exchange(ExchangeSpec("x", "x-delayed-message")), NotBuiltYet)
    declare(channel, "q")


@pytest.mark.parametrize(
    "spec,words",
    [
        (QueueSpec("q", arguments={"x-queue-type": "quorum", "x-max-priority": 5}), "rabbit_quorum_queue"),
        (QueueSpec("q", arguments={"x-delivery-limit": 5}), "rabbit_classic_queue"),
        (QueueSpec("q", durable=False, arguments={"x-queue-type": "quorum"}), "invalid property 'non-durable'"),
        (QueueSpec("q", arguments={"x-dead-letter-routing-key": "k"}), "routing_key_but_no_dlx_defined"),
    ],
)
def test_what_the_broker_refuses_is_refused(broker: MemoryBroker, spec: QueueSpec, words: str) -> None:
    """Arguments that do not fit the queue close the channel with 406."""
    assert words in fails(broker.connect().channel().declare_queue(spec), PreconditionFailed)


@pytest.mark.parametrize(
    "first,second,words",
    [
        ({}, {"x-max-length": 5}, "received the value '5' of type 'signedint' but current is none"),
        ({"x-expires": 9}, {}, "received none but current is the value '9' of type 'signedint'"),
        ({"x-overflow": "drop-head"}, {"x-overflow": "reject-publish"}, "received 'reject-publish' but current is"),
        ({}, {"x-queue-type": "quorum"}, "received the value 'quorum' of type 'longstr' but current is none"),
    ],
)
def test_a_difference_is_told_as_the_broker_tells_it(
    broker: MemoryBroker, first: dict[str, object], second: dict[str, object], words: str
) -> None:
    """Both values are named, with their type where one side has none."""
    channel = broker.connect().channel()
    wait(channel.declare_queue(QueueSpec("q", arguments=first)))
    assert words in fails(channel.declare_queue(QueueSpec("q", arguments=second)), PreconditionFailed)


def test_a_body_over_the_brokers_limit_closes_the_channel() -> None:
    """The only publication under way was refused."""
    broker = MemoryBroker(max_message_bytes=10)
    channel = broker.connect().channel()
    declare(channel, "q")
    assert post(channel, "q", bytes(11)) == [Fate.NACKED]
    assert "larger than configured max size 10" in str(wait(channel.closed))
    broker.kill_connections()


def test_what_no_wire_could_carry_is_refused(broker: MemoryBroker) -> None:
    """Headers and names go through the same codec as on a socket."""
    channel = broker.connect().channel()
    bad = Publication("", "q", b"", Properties(headers={"when": object()}))
    fails(channel.publish([bad]), NotSerializable)
    fails(channel.publish([Publication("", "k" * 256, b"", Properties())]), NotSerializable)
    fails(channel.declare_queue(QueueSpec("q" * 256)), NotSerializable)


def test_headers_are_copied(broker: MemoryBroker) -> None:
    """What a publisher changes afterwards does not change the message."""
    channel = broker.connect().channel()
    declare(channel, "q")
    headers = {"list": [1, 2]}
    post(channel, "q", b"x", headers=headers)
    headers["list"].append(3)
    assert broker.messages("q")[0].properties.headers == {"list": [1, 2]}


def test_looking_at_a_queue_that_is_not_there(broker: MemoryBroker) -> None:
    """A typo in a test is told, not answered with an empty list."""
    with pytest.raises(LocalError, match="'typo'"):
        broker.messages("typo")
