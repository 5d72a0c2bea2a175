"""Closing: what is answered, what resolves, what can be asked twice."""

from __future__ import annotations

import pytest

from amqpq.errors import ChannelClosed, ConnectionLost
from amqpq.testing.rigs import Inbox, Rig
from amqpq.types import Fate, Properties, Publication, QueueSpec


def test_a_channel_closed_by_us_resolves_with_none(rig: Rig) -> None:
    """`closed` of a channel that we closed has no error, and closing again is fine."""
    connection = rig.connect()
    channel = connection.channel()
    rig.wait(channel.close())
    assert rig.wait(channel.closed) is None
    rig.wait(channel.close())
    rig.fails(channel.declare_queue(QueueSpec("x")), ChannelClosed)
    rig.queue(connection.channel())


def test_closing_a_channel_waits_for_what_was_asked_before(rig: Rig) -> None:
    """Requests and publications that went out before `close` are answered."""
    connection = rig.connect()
    channel = connection.channel()
    name = rig.name("before")
    declared = channel.declare_queue(QueueSpec(name))
    published = channel.publish([Publication("", name, b"x", Properties())] * 5)
    closed = channel.close()
    assert rig.wait(declared).name == name
    rig.wait(closed)
    assert {outcome.fate for outcome in rig.wait(published)} <= {Fate.CONFIRMED, Fate.UNKNOWN}
    other = connection.channel()
    assert len(rig.drain(other, name)) == 5


def test_a_channel_may_be_closed_before_it_is_open(rig: Rig) -> None:
    """Opening and closing in one breath leaves nothing behind."""
    connection = rig.connect()
    for _ in range(20):
        rig.wait(connection.channel().close())
    rig.queue(connection.channel())


def test_a_connection_closed_by_us_resolves_with_none(rig: Rig) -> None:
    """`closed` of a connection that we closed has no error; its channels end too; closing again is fine."""
    connection = rig.connect()
    channel = connection.channel()
    rig.queue(channel)
    rig.wait(connection.close())
    assert rig.wait(connection.closed) is None
    assert rig.wait(channel.closed) is None
    rig.wait(connection.close())
    rig.fails(channel.declare_queue(QueueSpec("x")), ConnectionLost)
    with pytest.raises(ConnectionLost):
        connection.channel()


def test_closing_a_connection_gives_back_what_it_held(rig: Rig) -> None:
    """Unacknowledged deliveries of a closed connection are delivered again."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"x")
    inbox = Inbox()
    rig.wait(channel.consume(queue, inbox.put))
    inbox.take()
    rig.wait(connection.close())
    other = rig.channel()
    rig.until(lambda: rig.ready(other, queue) == 1, "the delivery is back")


def test_acks_sent_before_a_close_count(rig: Rig) -> None:
    """What was acknowledged before `close` does not come back."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, *[b"x"] * 20)
    inbox = Inbox()
    rig.wait(channel.consume(queue, inbox.put))
    for _ in range(20):
        channel.ack(inbox.take().tag)
    rig.wait(connection.close())
    assert rig.drain(rig.channel(), queue) == []


def test_a_callback_added_late_is_called(rig: Rig) -> None:
    """A pending that is done already calls its callbacks all the same."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    asked = channel.declare_queue(QueueSpec(queue), passive=True)
    rig.wait(asked)
    called: list[bool] = []
    asked.add_done_callback(lambda _: called.append(True))
    rig.until(lambda: bool(called), "the callback was called")


def test_the_server_introduces_itself(rig: Rig) -> None:
    """A connection knows the broker's product, version and the negotiated frame size."""
    server = rig.connect().server
    assert server.product
    assert server.version_tuple >= (3, 10, 0)
    assert server.frame_max >= 4096


def test_an_open_connection_is_not_blocked(rig: Rig) -> None:
    """Without an alarm nothing blocks publishers."""
    assert rig.connect().blocked is None


def test_many_channels_share_a_connection(rig: Rig) -> None:
    """Requests on many channels at once are all answered."""
    connection = rig.connect()
    names = [rig.name("many") for _ in range(40)]
    pendings = [connection.channel().declare_queue(QueueSpec(name)) for name in names]
    assert [rig.wait(pending).name for pending in pendings] == names


def test_two_connections_do_not_mix(rig: Rig) -> None:
    """Closing one connection leaves the other alone."""
    first, second = rig.connect(), rig.connect()
    queue = rig.queue(second.channel())
    rig.wait(first.close())
    assert rig.wait(second.channel().declare_queue(QueueSpec(queue), passive=True)).name == queue


def test_the_numbers_of_closed_channels_are_used_again(rig: Rig) -> None:
    """A connection has 2,047 channel numbers by default, and more channels than that in its life."""
    connection = rig.connect()
    for _ in range(21):
        for closing in [connection.channel().close() for _ in range(100)]:
            rig.wait(closing)
    rig.queue(connection.channel())
