"""Field tables and basic properties: what goes out comes back, with its type."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.errors import NotSerializable
from amqpq.transport import fields
from amqpq.transport.fields import SHORT_STRING_LIMIT, decode_table, encode_table
from amqpq.transport.properties import decode_header, encode_header
from amqpq.types import Properties

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SHORT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0, fold=0)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=40)
    | MOMENTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
TABLES = st.dictionaries(TEXT, VALUES, max_size=6)


@given(TABLES)
def test_a_table_comes_back_with_every_type(table: dict[str, Any]) -> None:
    """A table decodes to itself: 1 stays 1 and not "1" or True, bytes stay bytes, text stays text."""
    data = encode_table(table)
    decoded, position = decode_table(data, 0)
    assert position == len(data)
    assert repr(decoded) == repr(table)


@given(
    st.builds(
        Properties,
        content_type=SHORT,
        content_encoding=SHORT,
        headers=TABLES,
        delivery_mode=st.none() | st.integers(0, 255),
        priority=st.none() | st.integers(0, 255),
        correlation_id=SHORT,
        reply_to=SHORT,
        expiration=st.none() | st.integers(0, 2**32 - 1),
        message_id=SHORT,
        timestamp=st.none() | st.integers(0, 2**64 - 1),
        type=SHORT,
        user_id=SHORT,
        app_id=SHORT,
    ),
    st.integers(0, 2**40),
)
def test_properties_come_back_as_they_went(properties: Properties, size: int) -> None:
    """Every property, present or absent, decodes to what was encoded."""
    assert decode_header(encode_header(properties, size), 0) == (size, properties)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"t\x01", True),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xfe", -2),
        (b"i\xff\xff\xff\xfe", 4294967294),
        (b"l\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        (b"f" + struct.pack(">f", 0.5), 0.5),
        (b"d" + struct.pack(">d", 0.1), 0.1),
        (b"D\x02\x00\x00\x01\x3b", Decimal("3.15")),
        (b"S\x00\x00\x00\x02\xc3\xa4", "ä"),
        (b"S\x00\x00\x00\x01\xff", b"\xff"),
        (b"x\x00\x00\x00\x01a", b"a"),
        (b"T\x00\x00\x00\x00\x00\x00\x00\x01", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (b"T\xff\xff\xff\xff\xff\xff\xff\xff", 2**64 - 1),
        (b"V", None),
        (b"A\x00\x00\x00\x03t\x00V", [False, None]),
        (b"F\x00\x00\x00\x03\x01aV", {"a": None}),
    ],
)
def test_every_type_letter_of_rabbitmq_is_read(written: bytes, value: object) -> None:
    """What other clients write, we read, also where we would choose another letter."""
    table, _ = decode_table(struct.pack(">I", len(written) + 2) + b"\x01k" + written, 0)
    assert table == {"k": value}
    assert type(table["k"]) is type(value)


def test_a_datetime_is_written_in_utc() -> None:
    """A moment in another zone is the same moment; one without a zone is taken as UTC."""
    east = timezone(timedelta(hours=2))
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    for moment in (noon, datetime(2026, 11, 21, 14, tzinfo=east), noon.replace(tzinfo=None)):
        assert decode_table(encode_table({"at": moment}), 0)[0] == {"at": noon}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"when": object()}, "header 'when': a object has no AMQP type"),
        ({"big": 2**70}, "header 'big': the integer 1180591620717411303424 does not fit into 64 bits"),
        ({"deep": {"er": [1, {2j}]}}, "header 'deep': header 'er': a set has no AMQP type"),
        ({"k" * 256: 1}, "is 256 bytes long; AMQP allows 255"),
        ({"old": datetime(1969, 1, 1, tzinfo=UTC)}, "header 'old': 1969-01-01T00:00:00+00:00 is before 1970"),
    ],
)
def test_what_has_no_type_is_refused_by_name(table: dict[str, Any], words: str) -> None:
    """A header that cannot travel is refused before anything is sent, and the message names it."""
    with pytest.raises(NotSerializable) as caught:
        encode_table(table)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        (Properties(reply_to="r" * 256), "the reply-to address is 256 bytes long; AMQP allows 255"),
        (Properties(priority=256), "the priority must be from 0 to 255, not 256"),
        (Properties(delivery_mode=-1), "the delivery mode must be from 0 to 255, not -1"),
        (Properties(timestamp=-1), "the timestamp must be from 0 to 18446744073709551615, not -1"),
    ],
)
def test_a_property_out_of_range_is_refused_by_name(properties: Properties, words: str) -> None:
    """A property that does not fit its field is refused before anything is sent."""
    with pytest.raises(NotSerializable) as caught:
        encode_header(properties, 0)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, "text", 1, True, b"bytes", {"a": None}])
def test_what_was_written_before_does_not_show(value: Any) -> None:
    """A name's latest text is kept as it was written: for that text, and no other value."""
    for each in (value, "other", value, None, value):
        assert decode_table(encode_table({"kept": each}), 0)[0] == {"kept": each}


def test_long_texts_are_not_kept() -> None:
    """What is kept of the latest message does not grow with its tracebacks."""
    long = "x" * (SHORT_STRING_LIMIT + 1)
    encode_table({"kept-long": long, "kept-short": "x"})
    assert (fields._latest["kept-long"][1] is long, fields._latest["kept-short"][1]) == (False, "x")
