"""The bytes that are signed.

They are a MessagePack array of fixed length: a length-prefixed encoding in which text, bytes, integers, floats,
booleans and nothing are told apart, each in its shortest form. So two different sequences of fields never have the same
bytes, wherever the boundaries between the fields lie: decoding gives the sequence back. The first two elements are the
version of this encoding and what kind of message it is, so that a task can never pass for a result.

Both sides call the same function on the same structure (the message as it goes out, the message as it came in), so what
is read is what is signed. Absent and None are the same. The list of fields with their meaning is in
`amqpq.message.wire`.

The user's own headers are under the signature too, sorted by name. They may hold text, numbers, booleans, bytes,
nothing, and lists and tables of these, and date-times to the second.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgpack

from amqpq.message.packing import reusing
from amqpq.message.wire import BROKER_PREFIX, OUR_PREFIX, RESERVED
from amqpq.types import Properties, Table

VERSION: Final = 1
"""Of this encoding. Another list of fields is another version."""

UNENCODABLE: Final = (TypeError, ValueError, OverflowError)
"""What the functions here raise where a field holds something that cannot be signed."""

_DATETIME_CODE: Final = 1
_DIRECT_REPLIES: Final = "amq.rabbitmq.reply-to."
"""How a direct reply address begins once the broker has routed it (https://www.rabbitmq.com/docs/direct-reply-to)."""
_pack = reusing()


def user_headers(headers: Table) -> dict[str, Any]:
    """Return the headers that are the user's own: neither the protocol's, nor ours, nor the broker's."""
    if headers.keys() <= RESERVED:  # mostly; and this makes no set
        return {}
    return {
        name: headers[name] for name in headers.keys() - RESERVED if not name.startswith((OUR_PREFIX, BROKER_PREFIX))
    }


def task_bytes(properties: Properties, user: Mapping[str, Any], body: bytes) -> bytes:
    """Return what is signed of a task.

    Args:
        properties: Of the message, with its headers; the signature among them is not looked at.
        user: `user_headers` of those headers.
        body: As sent: serialized, and packed where it is.

    Raises:
        TypeError, ValueError, OverflowError: A field holds something that cannot be signed.
    """
    get = properties.headers.get
    return _pack(
        (
            VERSION,
            "task",
            get("amqpq-kid"),
            get("amqpq-ts"),
            get("amqpq-route"),
            get("task"),
            get("id"),
            get("root_id"),
            get("parent_id"),
            get("group"),
            get("retries"),
            get("eta"),
            get("expires"),
            get("timelimit"),
            get("origin"),
            get("shadow"),
            get("ignore_result"),
            _reply_address(properties.reply_to),
            properties.correlation_id,
            properties.priority,
            properties.content_type,
            properties.content_encoding,
            get("compression"),
            _sorted(user) if user else None,
            body,
        )
    )


def result_bytes(properties: Properties, user: Mapping[str, Any], body: bytes) -> bytes:
    """Return what is signed of a result. Its task id and status are in the body.

    Args:
        properties: Of the message, with its headers; the signature among them is not looked at.
        user: `user_headers` of those headers.
        body: As sent.

    Raises:
        TypeError, ValueError, OverflowError: A field holds something that cannot be signed.
    """
    get = properties.headers.get
    return _pack(
        (
            VERSION,
            "result",
            get("amqpq-kid"),
            get("amqpq-ts"),
            get("amqpq-route"),
            properties.correlation_id,
            properties.content_type,
            properties.content_encoding,
            get("compression"),
            _sorted(user) if user else None,
            body,
        )
    )


def control_bytes(kind: str, properties: Properties, body: bytes) -> bytes:
    """Return what is signed of a remote-control message.

    Args:
        kind: `control` for a request or a revocation, `control-reply` for an answer: one never passes for the other.
        properties: Of the message; of its headers, those of the signature and `ticket` count.
        body: As sent.

    Raises:
        TypeError, ValueError, OverflowError: A field holds something that cannot be signed.
    """
    get = properties.headers.get
    return _pack(
        (
            VERSION,
            kind,
            get("amqpq-kid"),
            get("amqpq-ts"),
            get("amqpq-route"),
            get("ticket"),
            properties.content_type,
            properties.content_encoding,
            body,
        )
    )


def _reply_address(reply_to: str | None) -> str | None:
    """Return what is signed of the reply address: RabbitMQ appends a token of its own to the direct one on the way."""
    if reply_to is not None and reply_to.startswith(_DIRECT_REPLIES):
        return _DIRECT_REPLIES[:-1]
    return reply_to


def _sorted(table: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return a table as pairs in one order, all the way down: a broker need not keep the order."""
    return [(name, _stable(table[name])) for name in sorted(table)]


def _stable(value: object) -> object:
    if isinstance(value, Mapping):
        return {"table": _sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_stable(each) for each in value]
    if isinstance(value, datetime):
        # An AMQP timestamp has no fraction and no zone. py-amqp and pika write a naive datetime as UTC, and py-amqp
        # reads naive ones.
        return msgpack.ExtType(_DATETIME_CODE, str(timegm(value.utctimetuple())).encode())
    return value
