"""AMQP 1.0: any cut of the bytes gives the same frames, values come back as they went, and nonsense is a violation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.transport import amqp10
from amqpq.transport.amqp10 import Described, Frame, FrameParser, Symbol, UByte, UInt, decode, encode
from amqpq.transport.frames import ProtocolViolation

WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers(0, 2**64 - 1) | WORDS | st.binary(max_size=300)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=20)

READ: list[tuple[str, Any]] = [
    ("40", None),
    ("41", True),
    ("42", False),
    ("5601", True),
    ("50ff", 255),
    ("51ff", -1),
    ("60ffff", 65535),
    ("61fffe", -2),
    ("43", 0),
    ("5207", 7),
    ("70ffffffff", 2**32 - 1),
    ("54ff", -1),
    ("71fffffffe", -2),
    ("44", 0),
    ("5309", 9),
    ("80ffffffffffffffff", 2**64 - 1),
    ("55ff", -1),
    ("81fffffffffffffffe", -2),
    ("723f000000", 0.5),
    ("823fe0000000000000", 0.5),
    ("7300000041", "A"),
    ("830000018bcfe56800", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
    ("7400000001", b"\0\0\0\1"),
    ("98" + "11" * 16, b"\x11" * 16),
    ("a002cafe", b"\xca\xfe"),
    ("b000000001ca", b"\xca"),
    ("a102c3a4", "ä"),
    ("b100000001" + "61", "a"),
    ("a30161", "a"),
    ("b30000000161", "a"),
    ("45", []),
    ("c0030241" + "42", [True, False]),
    ("d0000000060000000241" + "40", [True, None]),
    ("c10602a1016150" + "05", {"a": 5}),
    ("d10000000900000002a1016150" + "05", {"a": 5}),
    ("e00402500102", [1, 2]),
    ("f0000000070000000250" + "0102", [1, 2]),
    ("e006020053105001" + "02", [1, 2]),
    ("005328" + "45", Described(0x28, [])),
    ("00a30161" + "40", Described("a", None)),
]
"""Each type of part 1, section 1.6, in each of its widths."""


@pytest.mark.parametrize(("data", "value"), READ, ids=[data for data, _ in READ])
def test_each_type_is_read(data: str, value: Any) -> None:
    """In all widths, with its Python type."""
    (found,) = decode(bytes.fromhex(data))
    assert (found, type(found)) == (value, type(value))


@given(st.lists(VALUES, max_size=5))
def test_values_come_back_as_they_went(values: list[Any]) -> None:
    """Whatever lies inside what."""
    assert decode(b"".join(encode(value) for value in values)) == values


def test_our_own_kinds_of_text_and_numbers_have_codes_of_their_own() -> None:
    """The peer tells a symbol from text, and numbers by their width."""
    assert [encode(value)[0] for value in (Symbol("a"), "a", UByte(1), UInt(1), 1)] == [0xB3, 0xB1, 0x50, 0x70, 0x80]
    with pytest.raises(TypeError, match="no AMQP 1.0 type for float"):
        encode(0.5)


@given(st.binary(max_size=80))
def test_any_bytes_are_values_or_a_violation(data: bytes) -> None:
    """And nothing else; with a code in front that promises more than there is, too."""
    for start in (b"", b"\xd0", b"\xd1", b"\xf0", b"\xb1", b"\x00"):
        try:
            decode(start + data)
        except ProtocolViolation:
            continue


@pytest.mark.parametrize(
    "data", ["f000000009ffffffff4000000000", "d0ffffffff00000001", "c0ff0141", "a1056161", "c103014141", "99", "a101ff"]
)
def test_what_promises_more_than_there_is_is_a_violation(data: str) -> None:
    """Billions of nulls in nine bytes, an odd map, text that is none."""
    with pytest.raises(ProtocolViolation):
        decode(bytes.fromhex(data))


def test_deep_nonsense_is_a_violation() -> None:
    """A value inside a value inside a value does not end the process."""
    with pytest.raises(ProtocolViolation):
        decode(b"\x00" * 100_000)


SPOKEN: list[tuple[int, list[Any], bytes]] = [
    (amqp10.OPEN, ["name", None, UInt(512)], b""),
    (amqp10.TRANSFER, [UInt(0), UInt(3), b"tag", UInt(0), True], b"payload" * 500),
    (amqp10.FLOW, [None, {Symbol("a"): [1, 2]}], b""),
    (amqp10.CLOSE, [], b""),
]


@given(st.lists(st.integers(1, 400), min_size=1))
def test_any_cut_gives_the_same_frames(cuts: list[int]) -> None:
    """Empty frames, which only show life, are left out; fields at the end that are not there are null."""
    empty = bytes([0, 0, 0, 8, 2, 0, 0, 0])
    data = amqp10.PROTOCOL + empty.join(
        amqp10.frame(code, fields, payload, channel=3) for code, fields, payload in SPOKEN
    )
    parser, found, header = FrameParser(), [], None
    while data:
        size = cuts.pop(0) if cuts else len(data)
        parser.feed(data[:size])
        data = data[size:]
        header = header or parser.header()
        found += list(parser.frames()) if header else []
    assert header == amqp10.PROTOCOL
    assert found == [Frame(amqp10.AMQP_FRAME, 3, code, fields, payload) for code, fields, payload in SPOKEN]
    assert found[0].field(2) == 512
    assert found[0].field(9) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_frames_or_a_violation(data: bytes) -> None:
    """And nothing else."""
    parser = FrameParser()
    parser.feed(len(data).to_bytes(4, "big") + b"\x02\x00" + data)
    try:
        list(parser.frames())
    except ProtocolViolation:
        return


@pytest.mark.parametrize(
    "head", [b"\x00\x02\x00\x01\x02\x00\x00\x00", b"\x00\x00\x00\x07\x02\x00\x00\x00", b"HTTP/1.1"]
)
def test_a_frame_that_cannot_be_is_a_violation(head: bytes) -> None:
    """Larger than was agreed, smaller than its head, or no frame at all."""
    parser = FrameParser()
    parser.feed(head)
    with pytest.raises(ProtocolViolation, match="no AMQP 1.0"):
        list(parser.frames())
