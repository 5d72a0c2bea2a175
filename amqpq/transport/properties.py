"""Basic properties: the content header of a message, to bytes and back. Pure."""

from __future__ import annotations

from struct import Struct
from typing import Any

from amqpq.errors import NotSerializable
from amqpq.transport.fields import SHORT_STRING_LIMIT, encode_table, short_string
from amqpq.transport.layouts import Layouts
from amqpq.types import Properties

_octets = [bytes([number]) for number in range(256)]
_header = Struct(">HHQH").pack
_header_of = Struct(">HHQH").unpack_from
_u64 = Struct(">Q").pack
_u64_of = Struct(">Q").unpack_from

_read_table = Layouts().read


def encode_header(properties: Properties, body_size: int) -> bytes:  # noqa: C901, PLR0912 - one branch per property, on the publish path
    """Encode the payload of a content header frame (class 60): the body's size, then what properties are present."""
    flags = 0
    parts: list[bytes] = []
    add = parts.append
    (
        content_type, content_encoding, headers, delivery_mode, priority, correlation_id, reply_to, expiration,
        message_id, timestamp, kind, user_id, app_id,
    ) = properties  # fmt: skip
    if content_type is not None:
        flags |= 0x8000
        add(_common(content_type, "the content type"))
    if content_encoding is not None:
        flags |= 0x4000
        add(_common(content_encoding, "the content encoding"))
    if headers:
        flags |= 0x2000
        add(encode_table(headers))
    if delivery_mode is not None:
        flags |= 0x1000
        add(_octet(delivery_mode, "the delivery mode"))
    if priority is not None:
        flags |= 0x0800
        add(_octet(priority, "the priority"))
    identity = b""
    if correlation_id is not None:
        flags |= 0x0400
        identity = short_string(correlation_id, "the correlation id")
        add(identity)
    if reply_to is not None:
        flags |= 0x0200
        add(short_string(reply_to, "the reply-to address"))
    if expiration is not None:
        flags |= 0x0100
        add(short_string(str(expiration), "the expiration"))
    if message_id is not None:
        flags |= 0x0080
        add(identity if message_id is correlation_id else short_string(message_id, "the message id"))
    if timestamp is not None:
        flags |= 0x0040
        add(_long(timestamp, "the timestamp"))
    if kind is not None:
        flags |= 0x0020
        add(short_string(kind, "the type"))
    if user_id is not None:
        flags |= 0x0010
        add(_common(user_id, "the user id"))
    if app_id is not None:
        flags |= 0x0008
        add(_common(app_id, "the application id"))
    return _header(60, 0, body_size, flags) + b"".join(parts)


_commons: dict[str, bytes] = {}
_COMMONS_KEPT = 64


def _common(text: str, what: str) -> bytes:
    """Encode one of the few texts that stand in every message; each is encoded once."""
    data = _commons.get(text)
    if data is None:
        data = short_string(text, what)
        if len(_commons) < _COMMONS_KEPT:
            _commons[text] = data
    return data


_texts: dict[bytes, str] = {}


def _known(raw: bytes) -> str:
    """Decode one of the few texts that stand in every message; each is decoded once."""
    text = _texts.get(raw)
    if text is None:
        text = str(raw, "utf-8", "surrogateescape")
        if len(_texts) < _COMMONS_KEPT:
            _texts[raw] = text
    return text


def _octet(number: int, what: str) -> bytes:
    if not 0 <= number <= SHORT_STRING_LIMIT:
        raise NotSerializable(f"{what} must be from 0 to 255, not {number}")
    return _octets[number]


def _long(number: int, what: str) -> bytes:
    if number < 0 or number.bit_length() > 64:  # noqa: PLR2004 - the field's width
        raise NotSerializable(f"{what} must be from 0 to {2**64 - 1}, not {number}")
    return _u64(number)


def decode_header(data: bytes, position: int) -> tuple[int, Properties]:  # noqa: C901, PLR0912, PLR0915 - one branch per property, on the consume path
    """Decode the payload of a content header frame; answer the body's size and the properties."""
    _, _, size, flags = _header_of(data, position)
    position += 14
    content_type = content_encoding = correlation_id = reply_to = expiration = message_id = None
    delivery_mode = priority = timestamp = kind = user_id = app_id = identity = None
    headers: dict[str, Any] = {}
    if flags & 0x8000:
        start = position + 1
        position = start + data[position]
        content_type = _known(data[start:position])
    if flags & 0x4000:
        start = position + 1
        position = start + data[position]
        content_encoding = _known(data[start:position])
    if flags & 0x2000:
        headers, position = _read_table(data, position)
    if flags & 0x1000:
        delivery_mode = data[position]
        position += 1
    if flags & 0x0800:
        priority = data[position]
        position += 1
    if flags & 0x0400:
        start = position + 1
        position = start + data[position]
        identity = data[start:position]
        correlation_id = str(identity, "utf-8", "surrogateescape")
    if flags & 0x0200:
        start = position + 1
        position = start + data[position]
        reply_to = str(data[start:position], "utf-8", "surrogateescape")
    if flags & 0x0100:
        start = position + 1
        position = start + data[position]
        text = data[start:position]
        expiration = int(text) if text.isdigit() else None
    if flags & 0x0080:
        start = position + 1
        position = start + data[position]
        raw = data[start:position]
        message_id = correlation_id if raw == identity else str(raw, "utf-8", "surrogateescape")
    if flags & 0x0040:
        (timestamp,) = _u64_of(data, position)
        position += 8
    if flags & 0x0020:
        start = position + 1
        position = start + data[position]
        kind = str(data[start:position], "utf-8", "surrogateescape")
    if flags & 0x0010:
        start = position + 1
        position = start + data[position]
        user_id = str(data[start:position], "utf-8", "surrogateescape")
    if flags & 0x0008:
        start = position + 1
        position = start + data[position]
        app_id = _known(data[start:position])
    return size, Properties(
        content_type, content_encoding, headers, delivery_mode, priority, correlation_id, reply_to, expiration,
        message_id, timestamp, kind, user_id, app_id,
    )  # fmt: skip
