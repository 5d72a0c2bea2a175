"""As much of AMQP 1.0 as it takes to ask RabbitMQ 4 for a queue or a binding, and no more.

    with Management("localhost", 5672, "guest", "guest", "/") as management:
        status, body = management.request("GET", "/queues/work")

The management node of RabbitMQ 4 speaks HTTP over AMQP 1.0 on a pair of links to `/management`
(https://www.rabbitmq.com/docs/amqp). Types and frames: OASIS AMQP 1.0, parts 1 and 2.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

SASL: Final = b"AMQP\x03\x01\x00\x00"
AMQP: Final = b"AMQP\x00\x01\x00\x00"
AMQP_FRAME, SASL_FRAME = 0, 1
SASL_INIT, SASL_OUTCOME = 0x41, 0x44
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, END, CLOSE = 0x10, 0x11, 0x12, 0x13, 0x14, 0x17, 0x18
SOURCE, TARGET = 0x28, 0x29
PROPERTIES, BODY = 0x73, 0x77
NODE: Final = "/management"
PAIR: Final = "management-link-pair"
TIMEOUT_SECONDS = 20.0
FRAME_MAX_BYTES: Final = 65536

Answer: TypeAlias = tuple[int, Any]


class Symbol(str):
    """A symbol; text otherwise."""

    __slots__ = ()


class UInt(int):
    """An unsigned number of 32 bits; an `int` otherwise has 64."""


class UByte(int):
    """An unsigned number of 8 bits."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with its type's number."""

    code: int
    value: Any


class Refused(Exception):
    """The broker ended the session or the connection, in its words."""


# ------------------------------------------------------------------------------------------------------------- encoding


def encode(value: Any) -> bytes:  # noqa: PLR0911 - one line per type
    """Encode a value."""
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case UByte():
            return struct.pack(">BB", 0x50, value)
        case UInt():
            return struct.pack(">BI", 0x70, value)
        case int():
            return struct.pack(">BQ", 0x80, value)
        case Symbol():
            return struct.pack(">BI", 0xB3, len(value.encode())) + value.encode()
        case str():
            return struct.pack(">BI", 0xB1, len(value.encode())) + value.encode()
        case bytes():
            return struct.pack(">BI", 0xB0, len(value)) + value
        case Described():
            return b"\x00" + struct.pack(">BB", 0x53, value.code) + encode(value.value)
        case Mapping():
            return _compound(0xD1, [part for pair in value.items() for part in pair])
        case Sequence():
            return _compound(0xD0, value)
    raise TypeError(value)


def _compound(code: int, parts: Sequence[Any]) -> bytes:
    body = struct.pack(">I", len(parts)) + b"".join(encode(part) for part in parts)
    return struct.pack(">BI", code, len(body)) + body


# ------------------------------------------------------------------------------------------------------------- decoding

_FIXED: Final[Mapping[int, str]] = {
    0x50: "B", 0x51: "b", 0x52: "B", 0x53: "B", 0x54: "b", 0x55: "b", 0x56: "?", 0x60: "H", 0x61: "h",
    0x70: "I", 0x71: "i", 0x72: "f", 0x80: "Q", 0x81: "q", 0x82: "d", 0x83: "q",
}  # fmt: skip
_CONSTANT: Final[Mapping[int, Any]] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}
_TEXT: Final[Mapping[int, Callable[[bytes], Any]]] = {
    0xA0: bytes, 0xB0: bytes, 0xA1: bytes.decode, 0xB1: bytes.decode, 0xA3: bytes.decode, 0xB3: bytes.decode,
}  # fmt: skip


class Reader:
    """Reads values one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __iter__(self) -> Iterator[Any]:
        while self._at < len(self._data):
            yield self.value()

    def value(self, code: int | None = None) -> Any:
        """Read the next value; `code` where its type is known already."""
        code = self._number("B") if code is None else code
        if code == 0:
            number = self.value()
            return Described(number, self.value())
        if code in _CONSTANT:
            return _CONSTANT[code]
        if code in _FIXED:
            return self._number(_FIXED[code])
        if code in _TEXT:
            return _TEXT[code](self._take(self._number("I" if code >= 0xB0 else "B")))
        if code == 0x98:
            return self._take(16)
        wide = "I" if code & 0xF0 in {0xD0, 0xF0} else "B"
        self._number(wide)  # the size in bytes
        count = self._number(wide)
        if code in {0xE0, 0xF0}:
            kind = self._number("B")
            return [self.value(kind) for _ in range(count)]
        parts = [self.value() for _ in range(count)]
        return parts if code in {0xC0, 0xD0} else dict(zip(parts[::2], parts[1::2], strict=True))

    def _number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self._take(struct.calcsize(f">{form}")))[0]

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


# ----------------------------------------------------------------------------------------------------------- connection


class Management:
    """A connection to the management node of a vhost."""

    def __init__(self, host: str, port: int, user: str, password: str, vhost: str) -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
        self._stream = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        try:
            self._log_in(user, password)
            self._open(vhost)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()

    def _open(self, vhost: str) -> None:
        self._greet(AMQP)
        self._send(OPEN, ["amqpq-tests", f"vhost:{vhost}", UInt(FRAME_MAX_BYTES)])
        self._wait_for(OPEN)
        self._send(BEGIN, [None, UInt(0), UInt(100), UInt(100)])
        begun, _ = self._wait_for(BEGIN)
        ends = ([f"{PAIR}-here"], [NODE])
        pair = [UByte(1), UByte(0)]
        rest = [None, None, UInt(0), None, None, None, {Symbol("paired"): True}]
        self._send(ATTACH, [PAIR, UInt(0), False, *pair, Described(SOURCE, ends[0]), Described(TARGET, ends[1]), *rest])
        self._send(ATTACH, [PAIR, UInt(1), True, *pair, Described(SOURCE, ends[1]), Described(TARGET, ends[0]), *rest])
        # 100 answers may come: next incoming id, windows, handle, delivery count, credit.
        self._send(FLOW, [UInt(begun[1]), UInt(100), UInt(0), UInt(100), UInt(1), UInt(0), UInt(100)])
        self._wait_for(FLOW)

    def request(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask, and return status and body.

        Raises:
            Refused: The broker ended the session, as it does where a permission is missing.
        """
        number = next(self._ids)
        message = b"".join(
            [
                encode(Described(PROPERTIES, [number, None, path, method, "$me"])),
                encode(Described(BODY, body)),
            ]
        )
        self._send(TRANSFER, [UInt(0), UInt(number), b"%d" % number, UInt(0), True], message)
        _, payload = self._wait_for(TRANSFER)
        sections = {section.code: section.value for section in payload}
        return int(sections[PROPERTIES][3]), sections[BODY]

    def _log_in(self, user: str, password: str) -> None:
        self._greet(SASL)
        self._frame()  # the mechanisms
        plain = b"\0" + user.encode() + b"\0" + password.encode()
        self._send(SASL_INIT, [Symbol("PLAIN"), plain], kind=SASL_FRAME)
        outcome = self._frame()[0]
        if outcome.code != SASL_OUTCOME or outcome.value[0] != 0:
            raise Refused(outcome)

    def _greet(self, protocol: bytes) -> None:
        self._socket.sendall(protocol)
        answer = self._stream.read(len(protocol))
        if answer != protocol:
            raise Refused(answer)

    def _send(self, code: int, fields: Sequence[Any], payload: bytes = b"", kind: int = AMQP_FRAME) -> None:
        body = encode(Described(code, fields)) + payload
        self._socket.sendall(struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body)

    def _frame(self) -> list[Any]:
        head = self._stream.read(8)
        if len(head) < 8:
            raise Refused("the connection ended")
        size, offset = struct.unpack(">IB", head[:5])
        return list(Reader(self._stream.read(size - 8)[offset * 4 - 8 :]))

    def _wait_for(self, code: int) -> tuple[list[Any], list[Any]]:
        while True:
            values = self._frame()
            if not values:
                continue
            performative, *payload = values
            if performative.code in {END, CLOSE}:
                error = performative.value[0] if performative.value else None
                raise Refused(" ".join(str(part) for part in error.value if part) if error else "no reason")
            if performative.code == code:
                return performative.value, payload
