"""Field tables: AMQP 0-9-1's typed values as RabbitMQ reads and writes them.

The type letters are those of RabbitMQ's errata (https://www.rabbitmq.com/amqp-0-9-1-errata, section 3), which differ
from the specification's. A value goes out with the letter of its Python type and comes back as the same type: `bytes`
as `x`, text as `S`, so that neither turns into the other. Pure: no socket, no driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct, unpack_from
from typing import Any

from amqpq.errors import NotSerializable
from amqpq.types import Table

SHORT_STRING_LIMIT = 255
"""Bytes: names, keys and the text properties carry one octet of length."""

_NAMES_KEPT = 512

TEXT, _BYTES, _TABLE, _TIME, _DECIMAL, _VOID = b"SxFTDV"

_u32 = Struct(">I").pack
_length = Struct(">I").unpack_from
_u64 = Struct(">Q").pack
_tag_i32 = Struct(">ci").pack
_tag_i64 = Struct(">cq").pack
_tag_f64 = Struct(">cd").pack
_tag_u32 = Struct(">cI").pack
_octets = [bytes([number]) for number in range(256)]


def short_string(text: str, what: str) -> bytes:
    """Encode `text` with its length; `what` names it where it is too long.

    `surrogateescape` in both directions: a name that another client wrote in another encoding can be echoed unharmed.
    """
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > SHORT_STRING_LIMIT:
        message = f"{what} is {len(data)} bytes long; AMQP allows 255: {text[:60]!r}..."
        raise NotSerializable(message)
    return _octets[len(data)] + data


# ------------------------------------------------------------------------------------------------------- writing tables


def encode_table(table: Table) -> bytes:
    """Encode a field table with its length.

    Raises:
        NotSerializable: A value has no AMQP type, or a key is too long; the message names the key.
    """
    if not table:
        return b"\0\0\0\0"
    parts: list[bytes] = []
    add = parts.append
    for key, value in table.items():
        latest = _latest.get(key)
        if latest is None:
            latest = _first(key)
        elif latest[1] is value:
            add(latest[2])
            continue
        name = latest[0]
        if type(value) is str:  # by far the most frequent
            data = value.encode("utf-8", "surrogateescape")
            entry = name + _tag_u32(b"S", len(data)) + data
            add(entry)
            if len(data) <= SHORT_STRING_LIMIT:  # a traceback is not kept
                _latest[key] = name, value, entry
        elif value is True:  # of every task whose result nobody wants
            entry = name + b"t\1"
            add(entry)
            _latest[key] = name, value, entry
        else:
            add(name)
            try:
                _encode_value(value, add)
            except NotSerializable as error:
                message = f"header {key!r}: {error}"
                raise NotSerializable(message) from None
    data = b"".join(parts)
    return _u32(len(data)) + data


_NONE_YET = object()

_latest: dict[str, tuple[bytes, object, bytes]] = {}
"""By header name: the name as it is written, and the latest text (or True) under it, with both as they are written.

Most values of a message are those of the one before: the task, the route, the sender, the key. Only the very same object
counts, which costs one comparison of addresses."""


def _first(key: str) -> tuple[bytes, object, bytes]:
    """Encode a header name, and keep it; whoever makes up names does not fill the memory."""
    name = short_string(key, "the header name")
    if len(_latest) >= _NAMES_KEPT:
        _latest.clear()
    entry = (name, _NONE_YET, b"")
    _latest[key] = entry
    return entry


def _encode_value(value: Any, add: Callable[[bytes], None]) -> None:
    if type(value) is int:  # the time of the signature
        add(_encode_int(value))
    elif value is None:
        add(b"V")
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        add(_tag_u32(b"S", len(data)))
        add(data)
    elif isinstance(value, bool):
        add(b"t\1" if value else b"t\0")
    elif isinstance(value, int):
        add(_encode_int(value))
    elif isinstance(value, float):
        add(_tag_f64(b"d", value))
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        add(_tag_u32(b"x", len(data)))
        add(data)
    elif isinstance(value, datetime):
        add(b"T" + _u64(_epoch(value)))
    elif isinstance(value, Mapping):
        add(b"F" + encode_table(value))
    elif isinstance(value, (list, tuple)):
        parts: list[bytes] = []
        for item in value:
            _encode_value(item, parts.append)
        data = b"".join(parts)
        add(_tag_u32(b"A", len(data)))
        add(data)
    else:
        message = f"a {type(value).__name__} has no AMQP type; use text, numbers, bytes, lists or dicts"
        raise NotSerializable(message)


def _encode_int(value: int) -> bytes:
    if value.bit_length() < 32:  # noqa: PLR2004 - the sign takes one
        return _tag_i32(b"I", value)
    if value.bit_length() < 64:  # noqa: PLR2004
        return _tag_i64(b"l", value)
    message = f"the integer {str(value)[:30]} does not fit into 64 bits; send it as text"
    raise NotSerializable(message)


def _epoch(moment: datetime) -> int:
    """Whole seconds since the epoch; a datetime without a zone is taken as UTC."""
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds < 0:
        message = f"{moment.isoformat()} is before 1970, which an AMQP timestamp cannot say; send it as text"
        raise NotSerializable(message)
    return seconds


# ------------------------------------------------------------------------------------------------------- reading tables


def decode_table(data: bytes, position: int) -> tuple[dict[str, Any], int]:
    """Decode the table at `position`; answer it and the position behind it."""
    position += 4
    end = position + _length(data, position - 4)[0]
    table: dict[str, Any] = {}
    names = _names
    while position < end:
        start = position + 1
        position = start + data[position]
        raw = data[start:position]
        key = names.get(raw) or _name(raw)
        if data[position] == TEXT:  # by far the most frequent
            start = position + 5
            position = start + _length(data, position + 1)[0]
            table[key] = decode_text(data[start:position])
        else:
            table[key], position = decode_value(data, position)
    return table, end


_names: dict[bytes, str] = {}
"""Header names as they are written, and as text: the same few come with every message."""


def _name(raw: bytes) -> str:
    """Decode a header name, and keep it; whoever makes up names does not fill the memory."""
    name = str(raw, "utf-8", "surrogateescape")
    if len(_names) >= _NAMES_KEPT:
        _names.clear()
    _names[raw] = name
    return name


def decode_text(data: bytes) -> str | bytes:
    """Text where it is text: other clients write bytes under the same letter."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


_FIXED: Mapping[int, tuple[Callable[..., tuple[Any, ...]], int]] = {
    ord(letter): (Struct(">" + form).unpack_from, Struct(">" + form).size)
    for letter, form in (
        ("t", "?"), ("b", "b"), ("B", "B"), ("s", "h"), ("U", "h"), ("u", "H"), ("I", "i"), ("i", "I"),
        ("l", "q"), ("L", "q"), ("f", "f"), ("d", "d"),
    )
}  # fmt: skip


def decode_value(data: bytes, position: int) -> tuple[Any, int]:
    """Decode the value whose type letter is at `position`; answer it and the position behind it."""
    letter = data[position]
    position += 1
    fixed = _FIXED.get(letter)
    if fixed is not None:
        return fixed[0](data, position)[0], position + fixed[1]
    if letter == _VOID:
        return None, position
    if letter == _TABLE:
        return decode_table(data, position)
    if letter == _TIME:
        (seconds,) = unpack_from(">Q", data, position)
        return _moment(seconds), position + 8
    if letter == _DECIMAL:
        scale, number = unpack_from(">Bi", data, position)
        return Decimal(number).scaleb(-scale), position + 5
    if letter not in b"SxA":
        message = f"unknown field type {letter:#04x}"
        raise ValueError(message)
    (length,) = unpack_from(">I", data, position)
    position += 4
    end = position + length
    if letter == TEXT:
        return decode_text(data[position:end]), end
    if letter == _BYTES:
        return data[position:end], end
    items = []
    while position < end:
        item, position = decode_value(data, position)
        items.append(item)
    return items, end


def _moment(seconds: int) -> datetime | int:
    """A datetime, or the bare number where it is beyond what a datetime can hold (some clients write milliseconds)."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return seconds
