"""Frames: any cut of the bytes gives the same events, and nonsense is a violation, not a wrong event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.errors import NotSerializable
from amqpq.transport import frames
from amqpq.transport.frames import Event, FrameParser, ProtocolViolation, PublicationEncoder, Returned, request, settle
from amqpq.transport.properties import encode_header
from amqpq.types import Delivery, Properties, Publication

FRAME_MAX = 4096
PROPERTIES = Properties(
    content_type="application/json", headers={"task": "a.b", "retries": 0, "x": b"\xce\xce"}, priority=5
)


def content(channel: int, method: bytes, properties: Properties, body: bytes, piece: int = FRAME_MAX - 8) -> bytes:
    """A message as a broker sends it: method frame, header frame, body frames."""
    header = encode_header(properties, len(body))
    data = method + frames._pack_head(2, channel, len(header)) + header + b"\xce"
    for start in range(0, len(body), piece):
        part = body[start : start + piece]
        data += frames._pack_head(3, channel, len(part)) + part + b"\xce"
    return data


def deliver(
    channel: int, tag: int, body: bytes, *, properties: Properties = PROPERTIES, piece: int = FRAME_MAX - 8
) -> bytes:
    """A delivery to consumer `c`, by exchange `ex` and key `a.key`."""
    method = request(channel, frames.BASIC_DELIVER, "sQbss", "c", tag, (tag % 2 == 1,), "ex", "a.key")
    return content(channel, method, properties, body, piece)


def expected_delivery(channel: int, tag: int, body: bytes, properties: Properties = PROPERTIES) -> Event:
    """The event for `deliver`."""
    return channel, frames.BASIC_DELIVER, Delivery(body, properties, "ex", "a.key", tag % 2 == 1, tag, "c")


CONVERSATION: list[tuple[bytes, list[Event]]] = [
    (request(1, frames.CHANNEL_OPEN_OK, "I", 0), [(1, frames.CHANNEL_OPEN_OK, ())]),
    (frames.HEARTBEAT, [(0, frames.HEARTBEAT_EVENT, ())]),
    (deliver(1, 1, b"hello"), [expected_delivery(1, 1, b"hello")]),
    (deliver(2, 2, b""), [expected_delivery(2, 2, b"")]),
    (deliver(1, 3, b"\xce" * 9000), [expected_delivery(1, 3, b"\xce" * 9000)]),
    (deliver(3, 4, b"abcdef", piece=2), [expected_delivery(3, 4, b"abcdef")]),
    (deliver(3, 5, b"x", properties=Properties()), [expected_delivery(3, 5, b"x", Properties())]),
    (settle(1, frames.BASIC_ACK, 7, flag=True), [(1, frames.BASIC_ACK, (7, True))]),
    (settle(1, frames.BASIC_NACK, 2**40, flag=False), [(1, frames.BASIC_NACK, (2**40, False))]),
    (
        content(4, request(4, frames.BASIC_RETURN, "Hsss", 312, "NO_ROUTE", "ex", "key"), PROPERTIES, b"back"),
        [(4, frames.BASIC_RETURN, Returned(312, "NO_ROUTE", "ex", "key", PROPERTIES, b"back"))],
    ),
    (
        content(4, request(4, frames.BASIC_GET_OK, "QbssI", 9, (True,), "", "q", 17), PROPERTIES, b"got"),
        [(4, frames.BASIC_GET_OK, Delivery(b"got", PROPERTIES, "", "q", True, 9, message_count=17))],
    ),
    (request(4, frames.BASIC_GET_EMPTY, "s", ""), [(4, frames.BASIC_GET_EMPTY, ())]),
    (request(5, frames.QUEUE_DECLARE_OK, "sII", "q", 3, 4), [(5, frames.QUEUE_DECLARE_OK, ("q", 3, 4))]),
    (request(5, frames.BASIC_CANCEL, "sb", "c", (True,)), [(5, frames.BASIC_CANCEL, ("c", True))]),
    (
        request(6, frames.CHANNEL_CLOSE, "HsHH", 404, "NOT_FOUND - no queue", 50, 10),
        [(6, frames.CHANNEL_CLOSE, (404, "NOT_FOUND - no queue", 50, 10))],
    ),
    (request(0, frames.CONNECTION_BLOCKED, "s", "low on memory"), [(0, frames.CONNECTION_BLOCKED, ("low on memory",))]),
]
"""What brokers say, and what it means."""


@given(st.lists(st.sampled_from(CONVERSATION), max_size=12), st.data())
def test_any_cut_gives_the_same_events(talk: list[tuple[bytes, list[Event]]], data: st.DataObject) -> None:
    """However the bytes are cut into pieces, the events are the same and in the same order."""
    stream = b"".join(sent for sent, _ in talk)
    expected = [event for _, events in talk for event in events]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    parser = FrameParser(FRAME_MAX)
    events = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += parser.feed(stream[start:stop])
    assert events == expected


def test_every_single_cut_gives_the_same_events() -> None:
    """Cut in two at every byte of a conversation, and byte by byte, the parser says the same."""
    talk = [part for part in CONVERSATION if len(part[0]) < 1000]
    stream = b"".join(sent for sent, _ in talk)
    expected = [event for _, events in talk for event in events]
    for cut in range(len(stream) + 1):
        parser = FrameParser(FRAME_MAX)
        assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == expected
    parser = FrameParser(FRAME_MAX)
    assert [event for byte in stream for event in parser.feed(bytes([byte]))] == expected


def test_frames_of_other_channels_may_lie_between_those_of_a_message() -> None:
    """A message of one channel is put together although another channel speaks in the middle of it."""
    one = content(1, request(1, frames.BASIC_DELIVER, "sQbss", "c", 1, (True,), "ex", "a.key"), PROPERTIES, b"x" * 6000)
    first_two = len(one) - (6000 - (FRAME_MAX - 8)) - 8
    parser = FrameParser(FRAME_MAX)
    events = parser.feed(one[:first_two] + deliver(2, 2, b"in between") + one[first_two:])
    assert events == [expected_delivery(2, 2, b"in between"), expected_delivery(1, 1, b"x" * 6000)]


@given(st.binary(max_size=200), st.sampled_from([sent for sent, _ in CONVERSATION if len(sent) < 300]), st.data())
def test_any_bytes_give_events_or_a_violation(noise: bytes, sent: bytes, data: st.DataObject) -> None:
    """Whatever arrives, the parser answers with events or raises ProtocolViolation, and nothing else."""
    at = data.draw(st.integers(0, len(sent)))
    damaged = sent[:at] + noise + sent[at + len(noise) :]
    parser = FrameParser(FRAME_MAX)
    try:
        parser.feed(damaged)
        parser.feed(damaged)
    except ProtocolViolation:
        pass


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x01\x00\x01\xff\xff\xff\xff" + bytes(20), "larger than was agreed"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00", "does not end where it says"),
        (request(1, frames._method(60, 99)), "method 60.99, which no client expects"),
        (frames._pack_head(3, 1, 1) + b"x\xce", "frame of type 3 came on channel 1 where none was due"),
        (deliver(1, 1, b"abc")[:40] + deliver(1, 2, b"abc"), "a frame does not end"),
        (request(1, frames.BASIC_RETURN, "Hsss", 312, "", "", "") + settle(2, frames.BASIC_ACK, 1, flag=False)
         + request(1, frames.CHANNEL_CLOSE_OK), "a method came where content was due"),
    ],
)  # fmt: skip
def test_what_no_broker_may_send_is_a_violation(data: bytes, words: str) -> None:
    """Oversized, unterminated, unknown and misplaced frames end the conversation with words for it."""
    with pytest.raises(ProtocolViolation, match=words):
        FrameParser(FRAME_MAX).feed(data)


def test_a_body_longer_than_announced_is_a_violation() -> None:
    """More body than the header announces is noticed also where it comes in one piece with it."""
    header = encode_header(Properties(), 2)
    data = (
        request(1, frames.BASIC_DELIVER, "sQbss", "c", 1, (False,), "", "q")
        + frames._pack_head(2, 1, len(header)) + header + b"\xce"
        + frames._pack_head(3, 1, 3) + b"abc\xce"
    )  # fmt: skip
    with pytest.raises(ProtocolViolation, match="longer than its header says"):
        FrameParser(FRAME_MAX).feed(data)


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
def test_a_publication_is_cut_into_frames_by_frame_max(size: int) -> None:
    """No frame is longer than frame_max, and together the body frames hold the body."""
    body = bytes(range(256)) * (size // 256 + 1)
    publication = Publication("ex", "key", body[:size], PROPERTIES)
    data = PublicationEncoder(7, FRAME_MAX).encode(publication)
    collected, position, kinds = b"", 0, []
    while position < len(data):
        kind, channel, length = frames._frame_head(data, position)
        assert channel == 7
        assert length + 8 <= FRAME_MAX
        assert data[position + 7 + length] == 0xCE
        kinds.append(kind)
        if kind == 3:
            collected += data[position + 7 : position + 7 + length]
        position += length + 8
    assert collected == body[:size]
    assert kinds[:2] == [1, 2]


def test_the_routes_kept_are_bounded() -> None:
    """A million different routing keys do not stay in memory, on either side."""
    encoder = PublicationEncoder(1, FRAME_MAX, routes_kept=4)
    parser = FrameParser(FRAME_MAX, routes_kept=4)
    for number in range(20):
        key = f"reply.{number}"
        assert key.encode() in encoder.encode(Publication("", key, b"", Properties()))
        method = request(1, frames.BASIC_DELIVER, "sQbss", "c", 1, (False,), "", key)
        ((_, _, delivery),) = parser.feed(content(1, method, Properties(), b""))
        assert delivery.routing_key == key
    assert len(encoder._routes) <= 4
    assert len(parser._routes) <= 4


def test_a_name_too_long_is_refused_before_sending() -> None:
    """A routing key of 256 bytes has no place in a frame."""
    with pytest.raises(NotSerializable, match="256 bytes long; AMQP allows 255"):
        PublicationEncoder(1, FRAME_MAX).encode(Publication("", "k" * 256, b"", Properties()))
