"""AMQP 0-9-1 frames: bytes to events, requests to bytes. Pure: no socket, no driver, no clock.

A frame is `type (1) channel (2) size (4) payload (size) 0xCE`; what arrives is cut anywhere, by TCP and by TLS, so the
parser keeps an incomplete frame until the rest is there. A message is a method frame, a header frame and body frames;
frames of different channels may lie between them, those of one channel may not.

Events are tuples `(channel, method, argument)`: `method` is class and method number in one integer, `argument` a
`Delivery`, a `Returned`, or a tuple of what the method carries. Nearly all that ever arrives is deliveries and
confirms, so these two are taken apart here and at once, where their frames lie in one piece; everything else goes by
the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, TypeAlias

from amqpq.transport.fields import encode_table, short_string
from amqpq.transport.properties import decode_header, encode_header
from amqpq.types import Delivery, Properties, Publication

METHOD, HEADER, BODY, HEARTBEAT_FRAME = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_OVERHEAD = 8
"""Bytes around a payload: seven before, one behind."""
FRAME_MIN_SIZE = 4096
"""The smallest frame_max a peer may ask for (AMQP 0-9-1, connection.tune)."""
HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"


def _method(class_number: int, method_number: int) -> int:
    return class_number << 16 | method_number


CONNECTION_CLOSE, CONNECTION_CLOSE_OK = _method(10, 50), _method(10, 51)
CONNECTION_BLOCKED, CONNECTION_UNBLOCKED = _method(10, 60), _method(10, 61)
CHANNEL_OPEN, CHANNEL_OPEN_OK = _method(20, 10), _method(20, 11)
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = _method(20, 40), _method(20, 41)
EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK = _method(40, 10), _method(40, 11)
EXCHANGE_DELETE, EXCHANGE_DELETE_OK = _method(40, 20), _method(40, 21)
EXCHANGE_BIND, EXCHANGE_BIND_OK = _method(40, 30), _method(40, 31)
EXCHANGE_UNBIND, EXCHANGE_UNBIND_OK = _method(40, 40), _method(40, 51)
QUEUE_DECLARE, QUEUE_DECLARE_OK = _method(50, 10), _method(50, 11)
QUEUE_BIND, QUEUE_BIND_OK = _method(50, 20), _method(50, 21)
QUEUE_PURGE, QUEUE_PURGE_OK = _method(50, 30), _method(50, 31)
QUEUE_DELETE, QUEUE_DELETE_OK = _method(50, 40), _method(50, 41)
QUEUE_UNBIND, QUEUE_UNBIND_OK = _method(50, 50), _method(50, 51)
BASIC_QOS, BASIC_QOS_OK = _method(60, 10), _method(60, 11)
BASIC_CONSUME, BASIC_CONSUME_OK = _method(60, 20), _method(60, 21)
BASIC_CANCEL, BASIC_CANCEL_OK = _method(60, 30), _method(60, 31)
BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER = _method(60, 40), _method(60, 50), _method(60, 60)
BASIC_GET, BASIC_GET_OK, BASIC_GET_EMPTY = _method(60, 70), _method(60, 71), _method(60, 72)
BASIC_ACK, BASIC_REJECT, BASIC_NACK = _method(60, 80), _method(60, 90), _method(60, 120)
CONFIRM_SELECT, CONFIRM_SELECT_OK = _method(85, 10), _method(85, 11)

HEARTBEAT_EVENT = 0
"""The `method` of a heartbeat's event."""

_FORMS: Mapping[int, str] = {
    CONNECTION_CLOSE: "HsHH",
    CONNECTION_CLOSE_OK: "",
    CONNECTION_BLOCKED: "s",
    CONNECTION_UNBLOCKED: "",
    CHANNEL_OPEN_OK: "",
    CHANNEL_CLOSE: "HsHH",
    CHANNEL_CLOSE_OK: "",
    EXCHANGE_DECLARE_OK: "",
    EXCHANGE_DELETE_OK: "",
    EXCHANGE_BIND_OK: "",
    EXCHANGE_UNBIND_OK: "",
    QUEUE_DECLARE_OK: "sII",
    QUEUE_BIND_OK: "",
    QUEUE_PURGE_OK: "I",
    QUEUE_DELETE_OK: "I",
    QUEUE_UNBIND_OK: "",
    BASIC_QOS_OK: "",
    BASIC_CONSUME_OK: "s",
    BASIC_CANCEL: "sb",
    BASIC_CANCEL_OK: "s",
    BASIC_RETURN: "Hsss",
    BASIC_DELIVER: "sQbss",
    BASIC_GET_OK: "QbssI",
    BASIC_GET_EMPTY: "",
    BASIC_ACK: "Qb",
    BASIC_NACK: "Qb",
    CONFIRM_SELECT_OK: "",
}
"""What each method that a broker sends carries: s short text, H I Q unsigned of 2, 4, 8 bytes, b one bit.

Trailing fields that we have no use for are left out, such as get-empty's reserved text."""

_CONTENT = frozenset({BASIC_DELIVER, BASIC_GET_OK, BASIC_RETURN})

_frame_head = Struct(">BHI").unpack_from
_pack_head = Struct(">BHI").pack
_method_number = Struct(">I").unpack_from
_tag_and_bits = Struct(">QB").unpack_from
_numbers = {form: (Struct(">" + form).unpack_from, Struct(">" + form).size) for form in "HIQ"}
_pack_number = {form: Struct(">" + form).pack for form in "BHIQ"}
_settle = Struct(">BHIIQBB").pack
_REQUEUE_BIT = 2

Event: TypeAlias = tuple[int, int, Any]


class ProtocolViolation(Exception):
    """The peer sent what AMQP does not allow; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A message that came back: the broker's code and words, the address it was published to, and its content."""

    code: int
    reason: str
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


@dataclass(slots=True)
class _Content:
    """A message of which some frames are still to come."""

    method: int
    arguments: tuple[Any, ...]
    properties: Properties | None = None
    missing_bytes: int = 0
    pieces: list[bytes] | None = None


class FrameParser:
    """Turns received bytes into events, whatever pieces they come in.

    Args:
        frame_max: The negotiated largest frame, bytes; 0 means no limit. A larger one is a violation, so that garbage
            cannot make us wait for four gigabytes.
        routes_kept: How many distinct (exchange, routing key) pairs stay decoded.
    """

    def __init__(self, frame_max: int, *, routes_kept: int = 512) -> None:
        self._payload_max = frame_max - FRAME_OVERHEAD if frame_max else 0xFFFFFFFF
        self._rest = b""
        self._partial: dict[int, _Content] = {}
        self._routes: dict[bytes, tuple[str, str]] = {}
        self._routes_kept = routes_kept

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and return the events that are complete.

        Raises:
            ProtocolViolation: The bytes are not what a broker may send; feed nothing more.
        """
        if self._rest:
            data = self._rest + data
        events: list[Event] = []
        position = 0
        end = len(data)
        try:
            while end - position >= FRAME_OVERHEAD:
                kind, channel, size = _frame_head(data, position)
                stop = position + 7 + size
                if stop >= end:
                    if size > self._payload_max:
                        raise ProtocolViolation(f"a frame of {size} bytes is larger than was agreed")  # noqa: TRY301
                    break
                if data[stop] != FRAME_END:
                    raise ProtocolViolation("a frame does not end where it says")  # noqa: TRY301
                start, position = position + 7, stop + 1
                if kind == METHOD:
                    (method,) = _method_number(data, start)
                    if method == BASIC_DELIVER:
                        position = self._deliver(data, channel, start, stop, events)
                    elif method in (BASIC_ACK, BASIC_NACK):
                        tag, bits = _tag_and_bits(data, start + 4)
                        events.append((channel, method, (tag, bits & 1 == 1)))
                    else:
                        self._method(data, channel, method, start, events)
                else:
                    self._other(kind, channel, data, start, stop, events)
        except ProtocolViolation:
            raise
        except (ValueError, IndexError, ArithmeticError, StructError) as error:
            message = f"a frame cannot be decoded: {error}"
            raise ProtocolViolation(message) from error
        self._rest = data[position:] if position else data
        return events

    def _deliver(self, data: bytes, channel: int, start: int, stop: int, events: list[Event]) -> int:
        """Take a `basic.deliver` apart; answer the position behind what was consumed.

        The direct way is taken where header and body, in one frame each, lie right behind in the same piece.
        """
        if channel in self._partial:
            raise ProtocolViolation("a method came where content was due")
        position = start + 5
        tag_end = position + data[start + 4]
        consumer_tag = str(data[position:tag_end], "utf-8", "surrogateescape")
        tag, redelivered = _tag_and_bits(data, tag_end)
        raw = data[tag_end + 9 : stop]
        route = self._routes.get(raw) or self._route(raw)
        exchange, routing_key = route
        position = stop + 1
        end = len(data)
        if end - position >= FRAME_OVERHEAD:
            kind, its_channel, size = _frame_head(data, position)
            head_stop: int = position + 7 + size
            if kind == HEADER and its_channel == channel and head_stop < end and data[head_stop] == FRAME_END:
                body_size, properties = decode_header(data, position + 7)
                body_start: int = head_stop + 8
                body_stop: int = body_start + body_size
                if body_size == 0:
                    body, position = b"", head_stop + 1
                elif (
                    body_stop < end
                    and _frame_head(data, head_stop + 1) == (BODY, channel, body_size)
                    and data[body_stop] == FRAME_END
                ):
                    body, position = data[body_start:body_stop], body_stop + 1
                else:
                    self._partial[channel] = _Content(
                        BASIC_DELIVER, (consumer_tag, tag, redelivered & 1 == 1, exchange, routing_key), properties,
                        body_size, [],
                    )  # fmt: skip
                    return head_stop + 1
                delivery = Delivery(body, properties, exchange, routing_key, redelivered & 1 == 1, tag, consumer_tag)
                events.append((channel, BASIC_DELIVER, delivery))
                return position
        self._partial[channel] = _Content(
            BASIC_DELIVER, (consumer_tag, tag, redelivered & 1 == 1, exchange, routing_key)
        )
        return position

    def _route(self, raw: bytes) -> tuple[str, str]:
        """Decode exchange and routing key, and remember them: most deliveries come by few routes."""
        middle = 1 + raw[0]
        route = (
            str(raw[1:middle], "utf-8", "surrogateescape"),
            str(raw[middle + 1 : middle + 1 + raw[middle]], "utf-8", "surrogateescape"),
        )
        if len(self._routes) >= self._routes_kept:
            self._routes.clear()
        self._routes[raw] = route
        return route

    def _method(self, data: bytes, channel: int, method: int, start: int, events: list[Event]) -> None:
        form = _FORMS.get(method)
        if form is None:
            message = f"the broker sent method {method >> 16}.{method & 0xFFFF}, which no client expects"
            raise ProtocolViolation(message)
        if channel in self._partial:
            raise ProtocolViolation("a method came where content was due")
        arguments = _decode(form, data, start + 4)
        if method in _CONTENT:
            self._partial[channel] = _Content(method, arguments)
        else:
            events.append((channel, method, arguments))

    def _other(self, kind: int, channel: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """A header, a body or a heartbeat."""
        if kind == HEARTBEAT_FRAME:
            events.append((0, HEARTBEAT_EVENT, ()))
            return
        content = self._partial.get(channel)
        if content is None or kind not in {HEADER, BODY} or (content.pieces is None) != (kind == HEADER):
            message = f"a frame of type {kind} came on channel {channel} where none was due"
            raise ProtocolViolation(message)
        if content.pieces is None:
            content.missing_bytes, content.properties = decode_header(data, start)
            content.pieces = []
        else:
            content.missing_bytes -= stop - start
            content.pieces.append(data[start:stop])
        if content.missing_bytes <= 0:
            if content.missing_bytes < 0:
                raise ProtocolViolation("a message's body is longer than its header says")
            del self._partial[channel]
            events.append((channel, content.method, _assemble(content)))


def _assemble(content: _Content) -> Delivery | Returned:
    body = b"".join(content.pieces or ())
    properties = content.properties or Properties()
    if content.method == BASIC_DELIVER:
        consumer_tag, tag, redelivered, exchange, routing_key = content.arguments
        return Delivery(body, properties, exchange, routing_key, redelivered, tag, consumer_tag)
    if content.method == BASIC_GET_OK:
        tag, redelivered, exchange, routing_key, left = content.arguments
        return Delivery(body, properties, exchange, routing_key, redelivered, tag, message_count=left)
    code, reason, exchange, routing_key = content.arguments
    return Returned(code, reason, exchange, routing_key, properties, body)


def _decode(form: str, data: bytes, position: int) -> tuple[Any, ...]:
    values: list[Any] = []
    for letter in form:
        if letter == "s":
            start = position + 1
            position = start + data[position]
            values.append(str(data[start:position], "utf-8", "surrogateescape"))
        elif letter == "b":  # no method that a broker sends has two bits in a row
            values.append(data[position] & 1 == 1)
            position += 1
        else:
            unpack, size = _numbers[letter]
            values.append(unpack(data, position)[0])
            position += size
    return tuple(values)


# --------------------------------------------------------------------------------------------------------- requests


def request(channel: int, method: int, form: str = "", *values: Any) -> bytes:
    """Encode a method frame.

    Args:
        channel: Channel number; 0 is the connection.
        method: Class and method number.
        form: One letter per value: s short text, t table, B H I Q unsigned of 1, 2, 4, 8 bytes, b a sequence of bits.
        values: What the method carries.

    Raises:
        NotSerializable: A text is longer than 255 bytes, or a table holds what has no AMQP type.
    """
    parts = [_pack_number["I"](method)]
    for letter, value in zip(form, values, strict=True):
        if letter == "s":
            parts.append(short_string(value, "a name or key"))
        elif letter == "t":
            parts.append(encode_table(value))
        elif letter == "b":
            parts.append(bytes([sum(1 << place for place, bit in enumerate(value) if bit)]))
        else:
            parts.append(_pack_number[letter](value))
    payload = b"".join(parts)
    return _pack_head(METHOD, channel, len(payload)) + payload + b"\xce"


def settle(channel: int, method: int, tag: int, flag: bool) -> bytes:  # noqa: FBT001 - its meaning is the method's
    """Encode `basic.ack` (`flag`: multiple) or `basic.reject` (`flag`: requeue)."""
    return _settle(METHOD, channel, 13, method, tag, flag, FRAME_END)


def release(channel: int, tag: int) -> bytes:
    """Encode `basic.nack` of one delivery, to be requeued; its bits are multiple, requeue."""
    return _settle(METHOD, channel, 13, BASIC_NACK, tag, _REQUEUE_BIT, FRAME_END)


class PublicationEncoder:
    """Encodes publications of one channel; the method frame of a route is encoded once.

    Args:
        channel: The channel's number.
        frame_max: The negotiated largest frame, bytes; 0 means no limit.
        routes_kept: How many distinct (exchange, routing key, mandatory) stay encoded.
    """

    def __init__(self, channel: int, frame_max: int, *, routes_kept: int = 512) -> None:
        self._channel = channel
        self._piece = (frame_max or 131072) - FRAME_OVERHEAD
        self._routes: dict[tuple[str, str, bool], bytes] = {}
        self._routes_kept = routes_kept

    def encode(self, publication: Publication) -> bytes:
        """Encode one publication: method, header and body frames.

        Raises:
            NotSerializable: A name is longer than 255 bytes, or a header has no AMQP type.
        """
        key = (publication.exchange, publication.routing_key, publication.mandatory)
        method = self._routes.get(key) or self._route(key)
        body = publication.body
        size = len(body)
        header = encode_header(publication.properties, size)
        channel = self._channel
        head = _pack_head(HEADER, channel, len(header))
        if size == 0:
            return b"%b%b%b\xce" % (method, head, header)
        if size <= self._piece:
            return b"%b%b%b\xce%b%b\xce" % (method, head, header, _pack_head(BODY, channel, size), body)
        parts = [method, head, header, b"\xce"]
        for start in range(0, size, self._piece):
            piece = body[start : start + self._piece]
            parts += (_pack_head(BODY, channel, len(piece)), piece, b"\xce")
        return b"".join(parts)

    def _route(self, key: tuple[str, str, bool]) -> bytes:
        exchange, routing_key, mandatory = key
        frame = request(self._channel, BASIC_PUBLISH, "Hssb", 0, exchange, routing_key, (mandatory,))
        if len(self._routes) >= self._routes_kept:
            self._routes.clear()
        self._routes[key] = frame
        return frame
