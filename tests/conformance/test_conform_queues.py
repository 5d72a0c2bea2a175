"""What queues do on their own: priority, limits, expiry, dead letters, direct replies."""

from __future__ import annotations

from typing import Any

from amqpq.errors import PreconditionFailed
from amqpq.testing.rigs import Inbox, Rig
from amqpq.transport.interface import Channel
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Fate, Properties, Publication, QueueSpec

DIRECT_REPLY = "amq.rabbitmq.reply-to"


def dead_lettering(rig: Rig, channel: Channel, **arguments: object) -> tuple[str, str]:
    """Declare a queue whose dead letters go to a second one; return both names."""
    dead = rig.queue(channel, "dead")
    queue = rig.queue(channel, "alive", x_dead_letter_exchange="", x_dead_letter_routing_key=dead, **arguments)
    return queue, dead


def fetch(rig: Rig, channel: Channel, queue: str) -> Delivery:
    """Fetch the next message of a queue, waiting for it."""
    got: list[Delivery] = []

    def asked() -> bool:
        delivery = rig.wait(channel.get(queue, no_ack=True))
        got.extend([delivery] if delivery else [])
        return bool(got)

    rig.until(asked, f"a message in {queue}")
    return got[0]


def last_death(delivery: Delivery) -> dict[str, Any]:
    """Return the newest entry of the `x-death` header."""
    deaths: list[dict[str, Any]] = delivery.properties.headers["x-death"]
    return deaths[0]


def test_higher_priorities_come_first(rig: Rig) -> None:
    """Within a priority the order stays; above the maximum counts as the maximum; none counts as 0."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_priority=5)
    for body, priority in ((b"a0", None), (b"b3", 3), (b"c0", 0), (b"d9", 9), (b"e3", 3), (b"f5", 5)):
        rig.deliver(channel, queue, body, priority=priority)
    assert rig.drain(channel, queue) == [b"d9", b"f5", b"b3", b"e3", b"a0", b"c0"]


def test_a_requeued_message_keeps_its_priority(rig: Rig) -> None:
    """What is given back is first among its equals again."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_priority=5)
    rig.deliver(channel, queue, b"low-1", b"low-2", priority=1)
    rig.deliver(channel, queue, b"high-1", b"high-2", priority=2)
    first = rig.wait(channel.get(queue))
    assert first is not None
    channel.reject(first.tag, requeue=True)
    assert rig.drain(channel, queue) == [b"high-1", b"high-2", b"low-1", b"low-2"]


def test_a_length_limit_drops_the_oldest(rig: Rig) -> None:
    """A full queue drops from its head by default, and confirms the new message."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length=3)
    rig.deliver(channel, queue, b"1", b"2", b"3", b"4", b"5")
    assert rig.drain(channel, queue) == [b"3", b"4", b"5"]


def test_a_length_limit_of_one_holds_the_latest(rig: Rig) -> None:
    """A reply queue holds the latest state; a peeked older state does not come back over it."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length=1, x_overflow="drop-head", x_expires=60_000)
    rig.deliver(channel, queue, b"STARTED")
    peeked = rig.wait(channel.get(queue))
    assert peeked is not None
    rig.deliver(channel, queue, b"SUCCESS")
    channel.reject(peeked.tag, requeue=True)
    assert rig.drain(channel, queue) == [b"SUCCESS"]


def test_a_byte_limit_drops_the_oldest(rig: Rig) -> None:
    """Bodies over the limit in bytes push out the oldest ones."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length_bytes=10)
    rig.deliver(channel, queue, b"1234", b"5678", b"90ab")
    assert rig.drain(channel, queue) == [b"5678", b"90ab"]


def test_an_unacknowledged_message_does_not_count_for_the_limit(rig: Rig) -> None:
    """The limit is on ready messages."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length=1)
    rig.deliver(channel, queue, b"1")
    held = rig.wait(channel.get(queue))
    assert held is not None
    rig.deliver(channel, queue, b"2")
    channel.ack(held.tag)
    assert rig.drain(channel, queue) == [b"2"]


def test_a_message_expires_by_its_own_ttl(rig: Rig) -> None:
    """A message with an expiration vanishes; one without stays."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"short", expiration=50)
    rig.deliver(channel, queue, b"stays")
    rig.until(lambda: rig.ready(channel, queue) == 1, "the first message has expired")
    assert rig.drain(channel, queue) == [b"stays"]


def test_a_message_expires_by_the_ttl_of_its_queue(rig: Rig) -> None:
    """The smaller of the two lives counts."""
    channel = rig.channel()
    queue = rig.queue(channel, x_message_ttl=50)
    rig.deliver(channel, queue, b"short", expiration=60_000)
    rig.until(lambda: rig.ready(channel, queue) == 0, "the message has expired")


def test_an_expired_message_is_dead_lettered(rig: Rig) -> None:
    """The dead letter carries reason, queue, count and the original expiration, which it loses itself."""
    channel = rig.channel()
    queue, dead = dead_lettering(rig, channel)
    rig.deliver(channel, queue, b"x", expiration=50, message_id="kept", headers={"mine": 1})
    letter = fetch(rig, channel, dead)
    death = last_death(letter)
    assert letter.body == b"x"
    assert (letter.exchange, letter.routing_key) == ("", dead)
    assert (death["reason"], death["queue"], death["count"]) == ("expired", queue, 1)
    assert (death["exchange"], death["routing-keys"], death["original-expiration"]) == ("", [queue], "50")
    assert letter.properties.expiration is None
    assert letter.properties.message_id == "kept"
    assert letter.properties.headers["mine"] == 1
    assert letter.properties.headers["x-first-death-reason"] == "expired"
    assert letter.properties.headers["x-first-death-queue"] == queue


def test_a_rejected_message_is_dead_lettered(rig: Rig) -> None:
    """Rejecting without requeueing sends the message to the dead-letter exchange."""
    channel = rig.channel()
    queue, dead = dead_lettering(rig, channel)
    rig.deliver(channel, queue, b"x")
    held = rig.wait(channel.get(queue))
    assert held is not None
    channel.reject(held.tag, requeue=False)
    death = last_death(fetch(rig, channel, dead))
    assert (death["reason"], death["queue"]) == ("rejected", queue)


def test_a_dropped_message_is_dead_lettered(rig: Rig) -> None:
    """What a length limit pushes out goes to the dead-letter exchange."""
    channel = rig.channel()
    queue, dead = dead_lettering(rig, channel, x_max_length=1)
    rig.deliver(channel, queue, b"1", b"2")
    letter = fetch(rig, channel, dead)
    assert (letter.body, last_death(letter)["reason"]) == (b"1", "maxlen")
    assert rig.drain(channel, queue) == [b"2"]


def test_a_dead_letter_keeps_its_key_where_none_is_given(rig: Rig) -> None:
    """Without a dead-letter routing key the message keeps the one it was published with."""
    channel = rig.channel()
    exchange, dead = rig.name("dlx"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, "topic")))
    rig.wait(channel.bind(BindingSpec(exchange, dead, "#")))
    queue = rig.queue(channel, x_dead_letter_exchange=exchange)
    rig.deliver(channel, queue, b"x", expiration=20)
    letter = fetch(rig, channel, dead)
    assert (letter.exchange, letter.routing_key) == (exchange, queue)


def test_deaths_of_the_same_kind_are_counted(rig: Rig) -> None:
    """A message that dies twice in one queue for one reason has one entry with the count 2."""
    channel = rig.channel()
    first, second = rig.name("first"), rig.name("second")
    for name, target in ((first, second), (second, first)):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
        rig.wait(channel.declare_queue(QueueSpec(name, arguments=arguments)))
    rig.deliver(channel, first, b"x")
    for name in (first, second, first):
        held: list[Delivery] = []

        def fetched(name: str = name, held: list[Delivery] = held) -> bool:
            delivery = rig.wait(channel.get(name))
            held.extend([delivery] if delivery else [])
            return bool(held)

        rig.until(fetched, f"the message is in {name}")
        channel.reject(held[0].tag, requeue=False)
    letter = fetch(rig, channel, second)
    deaths = letter.properties.headers["x-death"]
    assert [(death["queue"], death["count"]) for death in deaths] == [(first, 2), (second, 1)]


def test_a_cycle_of_expiries_is_cut(rig: Rig) -> None:
    """A message that would return to a queue by expiry alone is dropped (the broker's cycle rule)."""
    channel = rig.channel()
    first, second = rig.name("first"), rig.name("second")
    for name, target, ttl in ((first, second, 20), (second, first, 20)):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target, "x-message-ttl": ttl}
        rig.wait(channel.declare_queue(QueueSpec(name, arguments=arguments)))
    stray = rig.queue(channel)
    rig.deliver(channel, first, b"x")
    rig.until(lambda: rig.ready(channel, first) == rig.ready(channel, second) == 0, "both queues are empty")
    rig.deliver(channel, stray, b"barrier")
    assert rig.drain(channel, stray) == [b"barrier"]


def test_an_unused_queue_expires(rig: Rig) -> None:
    """A queue with `x-expires` that nobody uses is deleted."""
    channel = rig.channel()
    queue = rig.queue(channel, x_expires=100)
    rig.deliver(channel, queue, b"x")
    rig.until(lambda: rig.send(channel, queue, b"probe")[0].fate is Fate.RETURNED, "the queue is gone")
    assert not rig.exists(queue)


def test_a_queue_with_a_consumer_does_not_expire(rig: Rig) -> None:
    """A consumer keeps its queue in use."""
    channel = rig.channel()
    used, unused = rig.queue(channel, x_expires=100), rig.queue(channel, x_expires=200)
    rig.wait(channel.consume(used, lambda _: None))
    rig.until(lambda: rig.send(channel, unused, b"probe")[0].fate is Fate.RETURNED, "the unused queue is gone")
    assert rig.exists(used)


def test_a_direct_reply_reaches_the_one_who_asked(rig: Rig) -> None:
    """`amq.rabbitmq.reply-to` needs no queue: the address travels with the request."""
    connection = rig.connect()
    caller, server = connection.channel(), rig.channel()
    queue = rig.queue(server)
    requests, replies = Inbox(), Inbox()
    rig.wait(server.consume(queue, requests.put, no_ack=True))
    rig.wait(caller.consume(DIRECT_REPLY, replies.put, no_ack=True))
    request = Publication("", queue, b"question", Properties(reply_to=DIRECT_REPLY, correlation_id="7"))
    assert rig.wait(caller.publish([request]))[0].fate is Fate.CONFIRMED
    asked = requests.take()
    assert asked.properties.reply_to is not None
    assert asked.properties.reply_to.startswith(DIRECT_REPLY + ".")
    reply = Publication("", asked.properties.reply_to, b"answer", Properties(correlation_id="7"), mandatory=False)
    assert rig.wait(server.publish([reply]))[0].fate is Fate.CONFIRMED
    got = replies.take()
    assert (got.body, got.properties.correlation_id) == (b"answer", "7")


def test_a_direct_request_needs_its_consumer(rig: Rig) -> None:
    """Asking for a direct reply without listening for it on the same channel is refused."""
    channel = rig.channel()
    queue = rig.queue(channel)
    channel.publish([Publication("", queue, b"question", Properties(reply_to=DIRECT_REPLY))])
    assert isinstance(rig.wait(channel.closed), PreconditionFailed)


def test_listening_for_direct_replies_with_acks_is_refused(rig: Rig) -> None:
    """Direct replies are at most once, so there is nothing to acknowledge."""
    error = rig.fails(rig.channel().consume(DIRECT_REPLY, lambda _: None), PreconditionFailed)
    assert "reply consumer cannot acknowledge" in str(error)


def test_bad_arguments_are_refused(rig: Rig) -> None:
    """A value that makes no sense closes the channel with the name of the argument."""
    for key, value in (("x-message-ttl", -1), ("x-max-length", "ten"), ("x-expires", 0), ("x-overflow", "explode")):
        error = rig.fails(
            rig.channel().declare_queue(QueueSpec(rig.name("bad"), arguments={key: value})), PreconditionFailed
        )
        assert f"invalid arg '{key}'" in str(error)
