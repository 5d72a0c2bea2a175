"""AMQP 1.0 values and frames, as far as it takes to ask a management node: bytes to values, values to bytes. Pure.

A frame is `size (4) data offset (1) type (1) channel (2)`, then a described list, the performative, and what it carries (OASIS
AMQP 1.0, part 2, section 2.3). What arrives is cut anywhere, by TCP and by TLS, so the parser keeps an incomplete frame until the
rest is there. Values carry their type with them (part 1, section 1.6); all of them are read, and written are those that our
side of the conversation consists of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, Final

from amqpq.transport.frames import ProtocolViolation

SASL_PROTOCOL: Final = b"AMQP\x03\x01\x00\x00"
PROTOCOL: Final = b"AMQP\x00\x01\x00\x00"
"""What each side sends before its first frame, for the login and then for the rest (part 2, section 2.2)."""

AMQP_FRAME, SASL_FRAME = 0, 1
HEAD_BYTES: Final = 8
FRAME_LIMIT_BYTES: Final = 131072
"""The largest frame that we take; the largest that RabbitMQ sends, too, unless `frame_max` says otherwise."""

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DETACH, END, CLOSE = 0x10, 0x11, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18
ERROR, SOURCE, TARGET = 0x1D, 0x28, 0x29
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
PROPERTIES, VALUE = 0x73, 0x77
"""Sections of a message: its properties, and a body that is one value."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Symbol(str):
    """A name from a fixed set; text otherwise."""

    __slots__ = ()


class UInt(int):
    """An unsigned number of 32 bits; an `int` otherwise has 64."""


class UByte(int):
    """An unsigned number of 8 bits."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with what says how to read it: a number, or a symbol."""

    code: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that carries something: its channel, the performative's number, its fields, and the bytes behind it."""

    kind: int
    channel: int
    code: int
    fields: Sequence[Any]
    payload: bytes

    def field(self, number: int) -> Any:
        """Return one field; those that the peer left out at the end are null."""
        return self.fields[number] if number < len(self.fields) else None


# -------------------------------------------------------------------------------------------------------------- writing

_u8, _u32, _u64 = Struct(">BB").pack, Struct(">BI").pack, Struct(">BQ").pack
_head = Struct(">IBBH")


def encode(value: Any) -> bytes:  # noqa: PLR0911 - one line per type
    """Encode a value.

    Raises:
        TypeError: Nothing of ours is of this type.
    """
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case UByte():
            return _u8(0x50, value)
        case UInt():
            return _u32(0x70, value)
        case int():
            return _u64(0x80, value)
        case Symbol():
            return _counted(0xB3, value.encode())
        case str():
            return _counted(0xB1, value.encode())
        case bytes():
            return _counted(0xB0, value)
        case Described():
            return b"\x00" + _u8(0x53, value.code) + encode(value.value)
        case Mapping():
            return _compound(0xD1, [part for pair in value.items() for part in pair])
        case Sequence():
            return _compound(0xD0, value)
    raise TypeError(f"no AMQP 1.0 type for {type(value).__name__}")


def _counted(code: int, data: bytes) -> bytes:
    return _u32(code, len(data)) + data


def _compound(code: int, parts: Sequence[Any]) -> bytes:
    body = b"".join(encode(part) for part in parts)
    return _u32(code, len(body) + 4) + len(parts).to_bytes(4, "big") + body


def frame(code: int, fields: Sequence[Any], payload: bytes = b"", *, kind: int = AMQP_FRAME, channel: int = 0) -> bytes:
    """Encode a frame."""
    body = encode(Described(code, fields)) + payload
    return _head.pack(len(body) + HEAD_BYTES, HEAD_BYTES // 4, kind, channel) + body


# -------------------------------------------------------------------------------------------------------------- reading

_FIXED: Final[Mapping[int, Struct]] = {
    code: Struct(f">{form}")
    for code, form in {
        0x50: "B", 0x51: "b", 0x52: "B", 0x53: "B", 0x54: "b", 0x55: "b", 0x56: "?", 0x60: "H", 0x61: "h",
        0x70: "I", 0x71: "i", 0x72: "f", 0x80: "Q", 0x81: "q", 0x82: "d",
    }.items()
}  # fmt: skip
_CONSTANT: Final[Mapping[int, Any]] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_OPAQUE: Final[Mapping[int, int]] = {0x74: 4, 0x84: 8, 0x94: 16, 0x98: 16}
"""Bytes of what is kept as it is: decimal numbers and UUIDs."""
_WIDE: Final = frozenset({0xB0, 0xB1, 0xB3, 0xD0, 0xD1, 0xF0})
"""Types whose length takes four bytes, not one."""
_TEXT: Final[Mapping[int, Callable[[bytes], Any]]] = {
    0xA0: bytes, 0xB0: bytes, 0xA1: bytes.decode, 0xB1: bytes.decode, 0xA3: bytes.decode, 0xB3: bytes.decode,
}  # fmt: skip
_LISTS, _MAPS, _ARRAYS = frozenset({0xC0, 0xD0}), frozenset({0xC1, 0xD1}), frozenset({0xE0, 0xF0})
_TIMESTAMP, _CHARACTER, _EMPTY_LIST = 0x83, 0x73, 0x45


def decode(data: bytes) -> list[Any]:
    """Decode values that lie behind one another: the sections of a message.

    Raises:
        ProtocolViolation: They are nonsense.
    """
    reader, found = _Reader(data), []
    while reader.at < len(data):
        found.append(reader.checked())
    return found


class _Reader:
    """Reads one value after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def checked(self) -> Any:
        """Read a value.

        Raises:
            ProtocolViolation: It is none.
        """
        try:
            return self._value()
        except (StructError, ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise ProtocolViolation(f"a value of AMQP 1.0 cannot be read: {error}") from error

    def _value(self) -> Any:
        code = self._byte()
        if code == 0:
            descriptor = self._value()
            return Described(descriptor, self._value())
        return self._of(code)

    def _of(self, code: int) -> Any:
        if code in _CONSTANT:
            return _CONSTANT[code]
        if code in _FIXED:
            return self._number(_FIXED[code])
        if code in _TEXT:
            return _TEXT[code](self._take(self._length(code)))
        if code in _OPAQUE:
            return self._take(_OPAQUE[code])
        if code == _EMPTY_LIST:
            return []
        if code == _TIMESTAMP:
            return _EPOCH + timedelta(milliseconds=self._number(_FIXED[0x81]))
        if code == _CHARACTER:
            return chr(self._number(_FIXED[0x70]))
        return self._compound(code)

    def _compound(self, code: int) -> Any:
        if code not in _LISTS | _MAPS | _ARRAYS:
            raise ValueError(f"there is no type {code:#x}")
        size = self._length(code)
        count = self._length(code)
        if count > size or size > len(self._data) - self.at + (4 if code in _WIDE else 1):
            raise ValueError(f"{count} values in {size} bytes")
        if code in _ARRAYS:
            kind = self._byte()
            if kind == 0:
                self._value()  # what describes them all; then the type that they share
                kind = self._byte()
            return [self._of(kind) for _ in range(count)]
        parts = [self._value() for _ in range(count)]
        return parts if code in _LISTS else dict(zip(parts[::2], parts[1::2], strict=True))

    def _byte(self) -> int:
        return self._take(1)[0]

    def _length(self, code: int) -> int:
        return int.from_bytes(self._take(4 if code in _WIDE else 1), "big")

    def _number(self, form: Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise ValueError("it ends in the middle of a value")
        self.at += count
        return self._data[self.at - count : self.at]


class FrameParser:
    """Cuts what arrives into protocol headers and frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._held += data

    def header(self) -> bytes | None:
        """Return the protocol header that stands first, None while it is not all there."""
        return self._cut(HEAD_BYTES) if len(self._held) >= HEAD_BYTES else None

    def frames(self) -> Iterator[Frame]:
        """Return the frames that are all there. Empty ones, which only show life, are left out.

        Raises:
            ProtocolViolation: These are no frames.
        """
        while len(self._held) >= HEAD_BYTES:
            size, offset, kind, channel = _head.unpack_from(self._held)
            start = offset * 4
            if not HEAD_BYTES <= start <= size <= FRAME_LIMIT_BYTES:
                raise ProtocolViolation(f"a frame of {size} bytes that begins at {start}: no AMQP 1.0")
            if len(self._held) < size:
                return
            body = self._cut(size)[start:]
            if body:
                yield _frame(kind, channel, body)

    def _cut(self, count: int) -> bytes:
        data = bytes(self._held[:count])
        del self._held[:count]
        return data


def _frame(kind: int, channel: int, body: bytes) -> Frame:
    reader = _Reader(body)
    first = reader.checked()
    if not isinstance(first, Described) or not isinstance(first.code, int) or not isinstance(first.value, list):
        raise ProtocolViolation(f"a frame without a performative: {first!r}")
    return Frame(kind, channel, first.code, first.value, body[reader.at :])
