"""The numbered rules of `amqpq.transport.interface`, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from amqpq.errors import (
    AccessRefused,
    AmqpqError,
    ChannelClosed,
    ConnectionLost,
    ObjectNotFound,
    PreconditionFailed,
    ResourceLocked,
)
from amqpq.testing.rigs import DEADLINE_SECONDS, Inbox, Rig
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, ExchangeSpec, Fate, Properties, Publication, QueueSpec


def test_rule_1_answers_come_in_the_order_of_the_requests(rig: Rig) -> None:
    """Pipelined requests of different kinds are answered in order."""
    channel = rig.channel()
    name = rig.name("ordered")
    order: list[int] = []
    pendings: list[Pending[Any]] = [
        channel.declare_queue(QueueSpec(name)),
        channel.publish([Publication("", name, b"one", Properties())]),
        channel.declare_queue(QueueSpec(name), passive=True),
        channel.purge_queue(name),
        channel.get(name),
        channel.delete_queue(name),
    ]
    requests: list[Pending[Any]] = [pendings[0], *pendings[2:]]  # confirms have an order of their own
    for number, pending in enumerate(requests):
        pending.add_done_callback(partial(_note, order, number))
    for pending in pendings:
        rig.wait(pending)
    rig.wait(channel.close())
    assert order == list(range(len(requests)))


def test_rule_1_a_request_sees_what_was_asked_before_it(rig: Rig) -> None:
    """Declare, bind, publish and fetch work when sent in one breath."""
    channel = rig.channel()
    queue, exchange = rig.name("queue"), rig.name("exchange")
    pendings: list[Any] = [
        channel.declare_exchange(ExchangeSpec(exchange)),
        channel.declare_queue(QueueSpec(queue)),
        channel.bind(BindingSpec(exchange, queue, "key")),
        channel.publish([Publication(exchange, "key", b"there", Properties())]),
    ]
    assert rig.wait(pendings[3])[0].fate is Fate.CONFIRMED
    for pending in pendings:
        rig.wait(pending)
    assert rig.drain(channel, queue) == [b"there"]


def test_rule_1_threads_share_a_channel(rig: Rig) -> None:
    """Many threads publish on one channel at once and nothing is lost or mixed up."""
    channel = rig.channel()
    queue = rig.queue(channel)
    bodies = [str(number).encode() for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda body: rig.send(channel, queue, body), bodies))
    assert all(outcome.confirmed for (outcome,) in outcomes)
    assert sorted(rig.drain(channel, queue)) == sorted(bodies)


def test_rule_2_callbacks_run_on_the_thread_of_the_transport(rig: Rig) -> None:
    """Deliveries, answers and `call_soon` all arrive on one thread, which is not the caller's."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    seen: dict[str, int] = {}
    arrived = threading.Barrier(2)

    def note(what: str) -> None:
        seen[what] = threading.get_ident()

    def delivered(_: object) -> None:
        note("delivery")
        connection.call_soon(called)

    def called() -> None:
        note("call_soon")
        arrived.wait(DEADLINE_SECONDS)

    rig.wait(channel.consume(queue, delivered, no_ack=True))
    channel.publish([Publication("", queue, b"x", Properties())])
    arrived.wait(DEADLINE_SECONDS)
    assert seen["delivery"] == seen["call_soon"] != threading.get_ident()


def test_rule_2_a_flow_waits_for_a_pending_of_its_own(rig: Rig) -> None:
    """`pending` and `call_soon` let a flow wait for something that the broker does not answer."""

    def protocol(connection: Connection) -> Flow[str]:
        mine = connection.pending()
        connection.call_soon(lambda: mine.set_result("answered"))
        answer: str = yield mine
        return answer

    assert rig.run(protocol) == "answered"


def test_rule_2_a_flow_may_send_from_a_callback(rig: Rig) -> None:
    """Verbs may be called on the transport's own thread; only waiting there is forbidden."""
    channel = rig.channel()
    queue, echo = rig.queue(channel), rig.queue(channel)
    inbox = Inbox()
    rig.wait(channel.consume(echo, inbox.put, no_ack=True))
    native = getattr(channel, "native", channel)
    rig.wait(
        channel.consume(
            queue,
            lambda delivery: native.publish([Publication("", echo, delivery.body * 2, Properties())]),
            no_ack=True,
        )
    )
    rig.deliver(channel, queue, b"ab")
    assert inbox.take().body == b"abab"


def test_rule_3_one_outcome_for_each_publication_in_order(rig: Rig) -> None:
    """Confirmed and returned publications are told apart, in the order of the list."""
    channel = rig.channel()
    queue = rig.queue(channel)
    nowhere = rig.name("nowhere")
    publications = [Publication("", queue if number % 3 else nowhere, b"x", Properties()) for number in range(30)]
    outcomes = rig.wait(channel.publish(publications))
    expected = [Fate.CONFIRMED if number % 3 else Fate.RETURNED for number in range(30)]
    assert [outcome.fate for outcome in outcomes] == expected
    assert "NO_ROUTE" in outcomes[0].reason


def test_rule_3_publishing_nothing_is_answered(rig: Rig) -> None:
    """An empty list of publications has an empty list of outcomes."""
    assert rig.wait(rig.channel().publish([])) == []


VERBS: dict[str, Callable[[Channel, str], Pending[Any]]] = {
    "passive queue": lambda channel, name: channel.declare_queue(QueueSpec(name), passive=True),
    "passive exchange": lambda channel, name: channel.declare_exchange(ExchangeSpec(name), passive=True),
    "get": lambda channel, name: channel.get(name),
    "consume": lambda channel, name: channel.consume(name, lambda _: None),
    "bind": lambda channel, name: channel.bind(BindingSpec("amq.direct", name)),
    "purge": lambda channel, name: channel.purge_queue(name),
}


@pytest.mark.parametrize("verb", VERBS)
def test_rule_4_what_does_not_exist_is_not_found(rig: Rig, verb: str) -> None:
    """A verb on a missing queue or exchange fails with the broker's words and closes its channel."""
    channel = rig.channel()
    missing = rig.name("missing")
    error = rig.fails(VERBS[verb](channel, missing), ObjectNotFound)
    assert missing in str(error)
    assert isinstance(rig.wait(channel.closed), AmqpqError)


def test_rule_4_a_different_declaration_is_a_failed_precondition(rig: Rig) -> None:
    """The error names the argument, the value asked for and the current one."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length=10)
    error = rig.fails(channel.declare_queue(QueueSpec(queue, arguments={"x-max-length": 5})), PreconditionFailed)
    assert f"inequivalent arg 'x-max-length' for queue '{queue}'" in str(error)
    assert "received '5' but current is '10'" in str(error)


@pytest.mark.parametrize(
    "other,words",
    [
        (ExchangeSpec("", type="fanout"), "inequivalent arg 'type'"),
        (ExchangeSpec("", durable=False), "inequivalent arg 'durable'"),
        (ExchangeSpec("", internal=True), "inequivalent arg 'internal'"),
        (ExchangeSpec("", arguments={"alternate-exchange": "amq.fanout"}), "inequivalent arg 'alternate-exchange'"),
    ],
    ids=["type", "durable", "internal", "alternate-exchange"],
)
def test_rule_4_a_different_exchange_is_a_failed_precondition(rig: Rig, other: ExchangeSpec, words: str) -> None:
    """Type, durability, internal and the alternate exchange of an exchange cannot change."""
    channel = rig.channel()
    name = rig.name("exchange")
    rig.wait(channel.declare_exchange(ExchangeSpec(name)))
    changed = ExchangeSpec(name, other.type, other.durable, other.auto_delete, other.internal, other.arguments)
    assert words in str(rig.fails(channel.declare_exchange(changed), PreconditionFailed))


def test_rule_4_reserved_names_are_refused(rig: Rig) -> None:
    """Names that begin with `amq.` belong to the broker."""
    assert "reserved prefix" in str(rig.fails(rig.channel().declare_queue(QueueSpec("amq.mine")), AccessRefused))
    assert "reserved prefix" in str(rig.fails(rig.channel().declare_exchange(ExchangeSpec("amq.mine")), AccessRefused))


def test_rule_4_an_exclusive_queue_is_locked_for_others(rig: Rig) -> None:
    """A queue that another connection holds exclusively cannot be used."""
    name = rig.name("mine")
    rig.wait(rig.channel().declare_queue(QueueSpec(name, durable=False, exclusive=True)))
    error = rig.fails(rig.channel().get(name), ResourceLocked)
    assert name in str(error)


def test_rule_4_later_verbs_fail_with_channel_closed(rig: Rig) -> None:
    """A closed channel refuses every verb, those already on their way included."""
    channel = rig.channel()
    refused = channel.declare_queue(QueueSpec(rig.name("missing")), passive=True)
    under_way = channel.declare_queue(QueueSpec(rig.name("later")))
    rig.fails(refused, ObjectNotFound)
    rig.fails(under_way, ChannelClosed)
    rig.fails(channel.declare_queue(QueueSpec(rig.name("later still"))), ChannelClosed)
    rig.fails(channel.publish([Publication("", "x", b"", Properties())]), ChannelClosed)
    rig.fails(channel.get("x"), ChannelClosed)
    rig.fails(channel.consume("x", lambda _: None), ChannelClosed)
    rig.fails(channel.cancel("x"), ChannelClosed)


def test_rule_4_the_connection_and_its_other_channels_live_on(rig: Rig) -> None:
    """A channel error is the channel's alone."""
    connection = rig.connect()
    healthy, broken = connection.channel(), connection.channel()
    queue = rig.queue(healthy)
    inbox = Inbox()
    rig.wait(healthy.consume(queue, inbox.put, no_ack=True))
    rig.fails(broken.get(rig.name("missing")), ObjectNotFound)
    rig.deliver(healthy, queue, b"still here")
    assert inbox.take().body == b"still here"
    assert rig.wait(connection.channel().declare_queue(QueueSpec(queue), passive=True)).name == queue


def test_rule_4_a_missing_exchange_returns_its_publications(rig: Rig) -> None:
    """What was published to a missing exchange is RETURNED with the broker's words, and the channel is closed."""
    channel = rig.channel()
    missing = rig.name("missing")
    (outcome,) = rig.wait(channel.publish([Publication(missing, "key", b"x", Properties())]))
    assert outcome.fate is Fate.RETURNED
    assert missing in outcome.reason
    assert isinstance(rig.wait(channel.closed), AmqpqError)
    rig.fails(channel.publish([Publication(missing, "key", b"x", Properties())]), ChannelClosed)


def test_rule_4_publications_beside_a_missing_exchange_have_an_outcome(rig: Rig) -> None:
    """Of a batch with one missing exchange only those to it are RETURNED; no other is reported as such."""
    channel = rig.channel()
    queue, missing = rig.queue(channel), rig.name("missing")
    batch = [Publication(exchange, queue, b"x", Properties()) for exchange in ("", missing, "")]
    first, second, third = rig.wait(channel.publish(batch))
    assert first.fate in {Fate.CONFIRMED, Fate.UNKNOWN}
    assert second.fate is Fate.RETURNED
    assert third.fate is Fate.UNKNOWN


def test_rule_4_an_unknown_delivery_tag_closes_the_channel(rig: Rig) -> None:
    """Acknowledging twice is a programming error that the broker answers with 406."""
    channel = rig.channel()
    channel.ack(42)
    error = rig.wait(channel.closed)
    assert isinstance(error, PreconditionFailed)
    assert "unknown delivery tag 42" in str(error)
    rig.fails(channel.get("x"), ChannelClosed)


def test_rule_5_every_pending_fails_when_the_connection_is_lost(rig: Rig) -> None:
    """Requests fail with ConnectionLost, publications are UNKNOWN or were answered, then `closed` resolves."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    order: list[str] = []
    never = channel.consume(queue, lambda _: None)
    rig.wait(never)
    connection.closed.add_done_callback(lambda _: order.append("connection"))
    rig.abort()
    requests = [channel.declare_queue(QueueSpec(queue), passive=True) for _ in range(3)]
    published = channel.publish([Publication("", queue, b"x", Properties())])
    for pending in requests:
        pending.add_done_callback(lambda _: order.append("request"))
    for pending in requests:
        rig.fails(pending, ConnectionLost)
    try:
        fates = {outcome.fate for outcome in rig.wait(published)}
    except ConnectionLost:  # the loss was known already: nothing was sent
        fates = {Fate.UNKNOWN}
    assert fates == {Fate.UNKNOWN}
    assert isinstance(rig.wait(connection.closed), ConnectionLost)
    assert isinstance(rig.wait(channel.closed), ConnectionLost)


def test_rule_5_verbs_after_the_loss_fail_at_once(rig: Rig) -> None:
    """Nothing reconnects by itself: a lost connection stays lost."""
    connection = rig.connect()
    channel = connection.channel()
    rig.queue(channel)
    rig.abort()
    rig.wait(connection.closed)
    rig.fails(channel.declare_queue(QueueSpec("x")), ConnectionLost)
    rig.fails(channel.publish([Publication("", "x", b"", Properties())]), ConnectionLost)
    with pytest.raises(ConnectionLost):
        connection.channel()
    channel.ack(1)
    channel.reject(1, requeue=True)
    channel.release(1)


def test_rule_5_unacknowledged_deliveries_come_back_after_a_loss(rig: Rig) -> None:
    """What a lost connection had not acknowledged is delivered again, marked as redelivered."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"once", b"twice")
    inbox = Inbox()
    rig.wait(channel.consume(queue, inbox.put))
    channel.ack(inbox.take().tag)
    inbox.take()
    rig.wait(channel.declare_queue(QueueSpec(queue), passive=True))  # the ack has arrived
    rig.abort()
    fresh, again = rig.channel(), Inbox()
    rig.wait(fresh.consume(queue, again.put))
    delivery = again.take()
    assert (delivery.body, delivery.redelivered) == (b"twice", True)


def test_rule_6_acks_on_a_closed_channel_do_nothing(rig: Rig) -> None:
    """A worker that finishes after its channel went away may still acknowledge; nothing happens."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"x")
    delivery = rig.wait(channel.get(queue))
    assert delivery is not None
    rig.wait(channel.close())
    channel.ack(delivery.tag)
    channel.reject(delivery.tag, requeue=False)
    other = connection.channel()
    rig.until(lambda: rig.ready(other, queue) == 1, "the delivery is back")


def test_rule_7_a_consumer_whose_queue_is_deleted_is_told(rig: Rig) -> None:
    """The broker cancels the consumers of a deleted queue, and `on_cancel` gets the tag."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    told = threading.Event()
    tags: list[str] = []

    def tell(cancelled: str) -> None:
        tags.append(cancelled)
        told.set()

    tag = rig.wait(channel.consume(queue, lambda _: None, on_cancel=tell))
    rig.wait(connection.channel().delete_queue(queue))
    assert told.wait(DEADLINE_SECONDS)
    assert tags == [tag]
    assert rig.wait(channel.declare_queue(QueueSpec(queue))).consumers == 0


def test_rule_7_a_consumer_that_we_cancel_is_not_told(rig: Rig) -> None:
    """`on_cancel` is for what the broker does on its own."""
    channel = rig.channel()
    queue = rig.queue(channel)
    tags: list[str] = []
    tag = rig.wait(channel.consume(queue, lambda _: None, on_cancel=tags.append))
    rig.wait(channel.cancel(tag))
    rig.wait(channel.delete_queue(queue))
    rig.wait(channel.declare_queue(QueueSpec(queue)))
    assert tags == []


def _note(order: list[int], number: int, _: object) -> None:
    order.append(number)


HEADERS = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "small": -1,
    "int32": 2**31 - 1,
    "int64": 2**40,
    "negative64": -(2**40),
    "float": 2.5,
    "text": "grün",
    "empty": "",
    "bytes": b"\x00\xff\xfe",
    "list": [1, "two", None, [True, 2.5]],
    "dict": {"a": 1, "b": {"c": [1, 2, {"d": "deep"}]}},
    "when": datetime(2026, 11, 21, 12, 30, 15, tzinfo=UTC),
}


def test_rule_8_header_values_keep_their_types(rig: Rig) -> None:
    """Every type that a field table can carry comes back as it went out."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"x", headers=HEADERS)
    delivery = rig.wait(channel.get(queue))
    assert delivery is not None
    got = dict(delivery.properties.headers)
    assert got == HEADERS
    assert {key: type(value) for key, value in got.items()} == {key: type(value) for key, value in HEADERS.items()}


def test_rule_8_properties_come_back_as_they_went_out(rig: Rig) -> None:
    """Every basic property survives the round trip; absent ones stay None."""
    channel = rig.channel()
    queue = rig.queue(channel)
    full = Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"a": 1},
        delivery_mode=2,
        priority=3,
        correlation_id="correlation",
        reply_to="reply",
        expiration=60_000,
        message_id="message",
        timestamp=1_700_000_000,
        type="type",
        user_id=None,
        app_id="app",
    )
    outcomes = rig.wait(
        channel.publish([Publication("", queue, b"a", full), Publication("", queue, b"b", Properties())])
    )
    assert [outcome.fate for outcome in outcomes] == [Fate.CONFIRMED] * 2
    first, second = rig.wait(channel.get(queue, no_ack=True)), rig.wait(channel.get(queue, no_ack=True))
    assert first is not None
    assert first.properties == full
    assert second is not None
    assert second.properties == Properties()
