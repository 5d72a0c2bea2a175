"""The demo's look at the broker without amqpq: raw messages, counted queues, a forgery. Plain py-amqp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from amqp.exceptions import NotFound

from examples.inventory.stage import Broker

REPLY_PREFIX = "amqpq.reply."


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as the broker hands it over."""

    exchange: str
    key: str
    properties: dict[str, Any]
    headers: dict[str, Any]
    body: bytes


@contextmanager
def connection(url: str) -> Iterator[amqp.Connection]:
    """Open a connection for the length of a block."""
    parts = urlsplit(url)
    opened = amqp.Connection(
        f"{parts.hostname}:{parts.port or 5672}",
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
    )
    opened.connect()
    try:
        yield opened
    finally:
        opened.close()


def look(url: str, queue: str) -> RawMessage:
    """Show the first message of a queue, and leave it there.

    Raises:
        LookupError: The queue is empty.
    """
    with connection(url) as opened:
        channel = opened.channel()
        message = channel.basic_get(queue)
        if message is None:
            raise LookupError(f"{queue} is empty")
        channel.basic_reject(message.delivery_tag, requeue=True)
        return _raw(message)


def forge(url: str, original: RawMessage) -> None:
    """Publish the message again with one bit of its body turned over, and everything else as it was signed."""
    body = bytearray(original.body)
    body[len(body) // 2] ^= 1
    with connection(url) as opened:
        message = amqp.Message(bytes(body), application_headers=original.headers, **original.properties)
        opened.channel().basic_publish(message, exchange=original.exchange, routing_key=original.key)


def await_dead_letter(url: str, queue: str, timeout_seconds: float) -> RawMessage:
    """Wait for a message in the dead-letter queue and take it out.

    Raises:
        TimeoutError: None came.
    """
    arrived: list[RawMessage] = []
    with connection(url) as opened:
        channel = opened.channel()

        def on_message(message: amqp.Message) -> None:
            arrived.append(_raw(message))
            channel.basic_ack(message.delivery_tag)

        channel.basic_qos(0, 1, False)
        tag = channel.basic_consume(queue, callback=on_message)
        while not arrived:
            opened.drain_events(timeout=timeout_seconds)
        channel.basic_cancel(tag)
    return arrived[0]


def count_reply_queues(broker: Broker, ids: Iterable[str]) -> tuple[int, str]:
    """Count the reply queues of these tasks; also return how they were counted.

    A node of ours is asked with `rabbitmqctl list_queues`. Any other broker is asked queue by queue, with a passive
    declaration, which needs no permission beyond AMQP's own.
    """
    if broker.node is not None:
        listed = broker.node.ctl("list_queues", "name").split()
        return sum(name.startswith(REPLY_PREFIX) for name in listed), "rabbitmqctl list_queues"
    with connection(broker.url) as opened:
        return sum(_exists(opened, REPLY_PREFIX + task_id) for task_id in ids), "passive declarations"


def clear(url: str, queues: Iterable[str], exchanges: Iterable[str]) -> None:
    """Delete what the topology declared, for a broker that was there before the demo and stays."""
    with connection(url) as opened:
        channel = opened.channel()
        for queue in queues:
            channel.queue_delete(queue)
        for exchange in exchanges:
            channel.exchange_delete(exchange)


def _exists(opened: amqp.Connection, queue: str) -> bool:
    channel = opened.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except NotFound:  # which also closed the channel
        return False
    channel.close()
    return True


def _raw(message: amqp.Message) -> RawMessage:
    properties = dict(message.properties)
    headers = properties.pop("application_headers", None) or {}
    address = message.delivery_info
    return RawMessage(address["exchange"], address["routing_key"], properties, dict(headers), bytes(message.body))
