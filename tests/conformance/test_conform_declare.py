"""Declaring, binding, deleting and purging."""

from __future__ import annotations

import pytest

from amqpq.errors import ObjectNotFound, PreconditionFailed
from amqpq.testing.rigs import Rig
from amqpq.types import BindingSpec, ExchangeSpec, Fate, Properties, Publication, QueueSpec


def test_declarations_may_be_pipelined(rig: Rig) -> None:
    """Thirty queues are declared before the first answer is looked at."""
    channel = rig.channel()
    names = [rig.name("pipelined") for _ in range(30)]
    pendings = [channel.declare_queue(QueueSpec(name)) for name in names]
    assert [rig.wait(pending).name for pending in pendings] == names


def test_a_declaration_is_idempotent(rig: Rig) -> None:
    """The same declaration again answers with what the queue holds."""
    channel = rig.channel()
    spec = QueueSpec(rig.name("again"), arguments={"x-max-length": 10, "x-message-ttl": 60_000})
    first = rig.wait(channel.declare_queue(spec))
    rig.deliver(channel, spec.name, b"1", b"2")
    second = rig.wait(channel.declare_queue(spec))
    assert (first.name, first.messages, first.consumers) == (spec.name, 0, 0)
    assert (second.messages, second.consumers) == (2, 0)


def test_a_passive_declaration_only_asks(rig: Rig) -> None:
    """Passively only the name counts, whatever else the values say."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length=5)
    other = QueueSpec(queue, durable=False, arguments={"x-max-length": 7})
    assert rig.wait(channel.declare_queue(other, passive=True)).name == queue
    rig.wait(channel.declare_exchange(ExchangeSpec("amq.topic", type="topic"), passive=True))


def test_the_broker_names_a_queue_without_a_name(rig: Rig) -> None:
    """An empty name asks the broker for one."""
    channel = rig.channel()
    state = rig.wait(channel.declare_queue(QueueSpec("", durable=False, exclusive=True)))
    assert state.name.startswith("amq.gen-")


def test_a_topic_binding_matches_by_words(rig: Rig) -> None:
    """`*` is one word and `#` any number of them."""
    channel = rig.channel()
    exchange = rig.name("topic")
    one, many = rig.queue(channel), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, "topic")))
    rig.wait(channel.bind(BindingSpec(exchange, one, "a.*")))
    rig.wait(channel.bind(BindingSpec(exchange, many, "a.#")))
    for key in ("a", "a.b", "a.b.c", "b"):
        rig.wait(channel.publish([Publication(exchange, key, key.encode(), Properties(), mandatory=False)]))
    assert rig.drain(channel, one) == [b"a.b"]
    assert rig.drain(channel, many) == [b"a", b"a.b", b"a.b.c"]


def test_a_headers_exchange_matches_by_type(rig: Rig) -> None:
    """The integer 1 is not the text "1"."""
    channel = rig.channel()
    exchange = rig.name("headers")
    queue = rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, "headers")))
    rig.wait(channel.bind(BindingSpec(exchange, queue, "", arguments={"x-match": "all", "n": 1})))
    publications = [Publication(exchange, "", repr(n).encode(), Properties(headers={"n": n})) for n in (1, "1", 2)]
    fates = [outcome.fate for outcome in rig.wait(channel.publish(publications))]
    assert fates == [Fate.CONFIRMED, Fate.RETURNED, Fate.RETURNED]
    assert rig.drain(channel, queue) == [b"1"]


def test_exchanges_are_bound_to_exchanges(rig: Rig) -> None:
    """A message travels through bound exchanges, until the binding is removed."""
    channel = rig.channel()
    source, target, queue = rig.name("source"), rig.name("target"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(source, "fanout")))
    rig.wait(channel.declare_exchange(ExchangeSpec(target, "topic")))
    link = BindingSpec(source, target, to_exchange=True)
    rig.wait(channel.bind(link))
    rig.wait(channel.bind(BindingSpec(target, queue, "k.#")))
    publication = Publication(source, "k.1", b"x", Properties())
    assert rig.wait(channel.publish([publication]))[0].fate is Fate.CONFIRMED
    rig.wait(channel.unbind(link))
    assert rig.wait(channel.publish([publication]))[0].fate is Fate.RETURNED
    assert rig.drain(channel, queue) == [b"x"]


def test_binding_and_unbinding_are_idempotent(rig: Rig) -> None:
    """Twice is the same as once, both ways."""
    channel = rig.channel()
    exchange, queue = rig.name("exchange"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange)))
    binding = BindingSpec(exchange, queue, "key")
    for _ in range(2):
        rig.wait(channel.bind(binding))
    rig.wait(channel.publish([Publication(exchange, "key", b"x", Properties())]))
    for _ in range(2):
        rig.wait(channel.unbind(binding))
    assert rig.wait(channel.publish([Publication(exchange, "key", b"y", Properties())]))[0].fate is Fate.RETURNED
    assert rig.drain(channel, queue) == [b"x"]


def test_an_alternate_exchange_gets_what_is_not_routed(rig: Rig) -> None:
    """A message that its exchange cannot route goes to the alternate exchange, and counts as routed."""
    channel = rig.channel()
    main, fallback, queue = rig.name("main"), rig.name("fallback"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(fallback, "fanout")))
    rig.wait(channel.declare_exchange(ExchangeSpec(main, arguments={"alternate-exchange": fallback})))
    rig.wait(channel.bind(BindingSpec(fallback, queue)))
    outcomes = rig.wait(channel.publish([Publication(main, "nobody", b"x", Properties())]))
    assert outcomes[0].fate is Fate.CONFIRMED
    delivery = rig.wait(channel.get(queue, no_ack=True))
    assert delivery is not None
    assert (delivery.exchange, delivery.routing_key) == (main, "nobody")


def test_deleting_a_queue_says_how_many_messages_went_with_it(rig: Rig) -> None:
    """Deleting answers with a count; a queue that does not exist is fine."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3")
    assert rig.wait(channel.delete_queue(queue)) == 3
    assert rig.wait(channel.delete_queue(queue)) == 0
    rig.fails(channel.declare_queue(QueueSpec(queue), passive=True), ObjectNotFound)


def test_a_queue_with_messages_is_kept_if_asked_to(rig: Rig) -> None:
    """`if_empty` refuses to delete what holds messages."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"x")
    error = rig.fails(connection.channel().delete_queue(queue, if_empty=True), PreconditionFailed)
    assert "not empty" in str(error)
    assert rig.drain(channel, queue) == [b"x"]
    assert rig.wait(channel.delete_queue(queue, if_empty=True)) == 0


def test_a_queue_with_consumers_is_kept_if_asked_to(rig: Rig) -> None:
    """`if_unused` refuses to delete what has consumers."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.wait(channel.consume(queue, lambda _: None))
    error = rig.fails(connection.channel().delete_queue(queue, if_unused=True), PreconditionFailed)
    assert "in use" in str(error)


def test_an_exchange_in_use_is_kept_if_asked_to(rig: Rig) -> None:
    """`if_unused` refuses to delete an exchange that something is bound to; without it the bindings go too."""
    connection = rig.connect()
    channel = connection.channel()
    exchange, queue = rig.name("exchange"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange)))
    rig.wait(channel.bind(BindingSpec(exchange, queue, "key")))
    error = rig.fails(connection.channel().delete_exchange(exchange, if_unused=True), PreconditionFailed)
    assert "in use" in str(error)
    rig.wait(channel.delete_exchange(exchange))
    rig.wait(channel.delete_exchange(exchange))
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange)))
    assert rig.wait(channel.publish([Publication(exchange, "key", b"x", Properties())]))[0].fate is Fate.RETURNED


@pytest.mark.parametrize(("key", "words"), [("a.#", "must be an integer"), ("0", "must be greater than 0")])
def test_a_binding_to_a_consistent_hash_exchange_has_a_weight(rig: Rig, key: str, words: str) -> None:
    """Its key says how many places it has in the ring."""
    channel = rig.channel()
    exchange, queue = rig.name("exchange"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, "x-consistent-hash")))
    assert words in str(rig.fails(rig.channel().bind(BindingSpec(exchange, queue, key)), PreconditionFailed))
    rig.wait(channel.bind(BindingSpec(exchange, queue, "1")))
    assert rig.wait(channel.publish([Publication(exchange, "any", b"x", Properties())]))[0].confirmed


def test_deleting_a_queue_removes_its_bindings(rig: Rig) -> None:
    """A queue that comes back under the same name starts without bindings."""
    channel = rig.channel()
    exchange, queue = rig.name("exchange"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange)))
    rig.wait(channel.bind(BindingSpec(exchange, queue, "key")))
    rig.wait(channel.delete_queue(queue))
    rig.wait(channel.declare_queue(QueueSpec(queue)))
    assert rig.wait(channel.publish([Publication(exchange, "key", b"x", Properties())]))[0].fate is Fate.RETURNED


def test_purging_drops_what_is_ready_and_counts_it(rig: Rig) -> None:
    """A purge leaves unacknowledged messages alone."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3")
    held = rig.wait(channel.get(queue))
    assert held is not None
    assert rig.wait(channel.purge_queue(queue)) == 2
    channel.reject(held.tag, requeue=True)
    assert rig.drain(channel, queue) == [b"1"]


def test_an_exclusive_queue_ends_with_its_connection(rig: Rig) -> None:
    """An exclusive queue is deleted when the connection that declared it closes."""
    connection = rig.connect()
    name = rig.name("exclusive")
    rig.wait(connection.channel().declare_queue(QueueSpec(name, durable=False, exclusive=True)))
    rig.wait(connection.close())
    rig.until(lambda: not rig.exists(name), "the exclusive queue is gone")


def test_an_auto_delete_queue_ends_with_its_last_consumer(rig: Rig) -> None:
    """An auto-delete queue goes when its last consumer does, and not before it had one."""
    channel = rig.channel()
    name = rig.name("auto")
    rig.wait(channel.declare_queue(QueueSpec(name, auto_delete=True)))
    first = rig.wait(channel.consume(name, lambda _: None))
    second = rig.wait(channel.consume(name, lambda _: None))
    rig.wait(channel.cancel(first))
    assert rig.exists(name)
    rig.wait(channel.cancel(second))
    rig.until(lambda: not rig.exists(name), "the auto-delete queue is gone")


def test_an_auto_delete_exchange_ends_with_its_last_binding(rig: Rig) -> None:
    """An auto-delete exchange goes when the last thing bound to it does."""
    connection = rig.connect()
    channel = connection.channel()
    exchange, queue = rig.name("auto"), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, auto_delete=True)))
    rig.wait(channel.bind(BindingSpec(exchange, queue, "key")))
    rig.wait(channel.unbind(BindingSpec(exchange, queue, "key")))
    rig.fails(connection.channel().declare_exchange(ExchangeSpec(exchange), passive=True), ObjectNotFound)
