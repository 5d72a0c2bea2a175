"""Values to bytes and back."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq import errors
from amqpq.message.serializers import BY_CONTENT_TYPE, SERIALIZERS, serializer_named

RICH = {
    "aware": datetime(2026, 11, 21, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=2))),
    "naive": datetime(2026, 11, 21, 12, 30),  # noqa: DTZ001 - a naive one must stay naive
    "date": date(2026, 11, 21),
    "time": time(12, 30, 1),
    "price": Decimal("19.90"),
    "id": UUID("5a1e0000-0000-4000-8000-000000000001"),
    "text bytes": b"abc",
    "raw bytes": b"\xff\x00",
}


@pytest.mark.parametrize("name", ["msgpack", "json", "pickle"])
def test_dates_decimals_uuids_and_bytes_survive(name: str) -> None:
    """What Celery users pass around keeps its type."""
    serializer = SERIALIZERS[name]
    back: Any = serializer.loads(serializer.dumps(RICH))
    assert back == RICH
    assert {key: type(value) for key, value in back.items()} == {key: type(value) for key, value in RICH.items()}


def test_yaml_knows_dates_and_bytes() -> None:
    """YAML has types of its own for these; it has none for decimals and ids."""
    serializer = SERIALIZERS["yaml"]
    value = {key: RICH[key] for key in ("naive", "date", "raw bytes")}
    assert serializer.loads(serializer.dumps(value)) == value
    with pytest.raises(Exception, match="Decimal"):
        serializer.dumps(Decimal(1))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
@pytest.mark.parametrize("name", ["msgpack", "json", "pickle"])
def test_plain_data_comes_back_as_it_was(name: str, value: Any) -> None:
    """Numbers, text, lists and mappings are the same in every format."""
    serializer = SERIALIZERS[name]
    if isinstance(value, dict) and value.keys() == {"__type__", "__value__"}:
        return
    assert serializer.loads(serializer.dumps(value)) == value


def test_json_is_written_as_text_that_is_plain_where_it_can_be() -> None:
    """No mark is added to what JSON can hold, and no blank."""
    assert SERIALIZERS["json"].dumps(((1, "a"), {"x": None}, {})) == b'[[1,"a"],{"x":null},{}]'


def test_keys_that_are_no_text_survive_msgpack() -> None:
    """MessagePack has integer keys."""
    serializer = SERIALIZERS["msgpack"]
    assert serializer.loads(serializer.dumps({1: "a"})) == {1: "a"}


def test_a_msgpack_timestamp_of_another_language_becomes_an_aware_datetime() -> None:
    """The format's own timestamp type is read too."""
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    assert SERIALIZERS["msgpack"].loads(msgpack.packb(moment, datetime=True)) == moment


@pytest.mark.parametrize(
    "name,body",
    [
        ("msgpack", msgpack.packb(msgpack.ExtType(99, b"?"))),
        ("msgpack", msgpack.packb(msgpack.ExtType(5, b"short"))),
        ("json", b'{"__type__": "eval", "__value__": "1"}'),
        ("json", b'{"__type__": ["datetime"], "__value__": "1"}'),
        ("json", b'{"__type__": "uuid", "__value__": {"fields": 1}}'),
        ("json", b'{"__type__": "base64", "__value__": "!"}'),
        ("yaml", b"!!python/object/apply:os.system [ls]"),
        ("yaml", b"!!python/name:os.system"),
        ("yaml", b"&a [*a]"),
        ("yaml", b"[" * 100_000),
        ("yaml", b"".join(b" " * depth + b"a:\n" for depth in range(2000))),
        ("yaml", b"1" + b":59" * 3000),
        ("yaml", b"a: 1\n---\nb: 2"),
        ("yaml", b"\xff\xfe\xff"),
    ],
)
def test_what_is_dangerous_or_unknown_is_an_error(name: str, body: bytes) -> None:
    """Nothing is built that the format does not have, and nothing takes the process down."""
    with pytest.raises(Exception, match="."):
        SERIALIZERS[name].loads(body)


def test_yaml_aliases_that_multiply_are_refused_before_they_do() -> None:
    """A kilobyte of nested aliases stands for billions of values."""
    lines = [b"a0: &a0 [1, 1]"]
    lines += [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 8)) for n in range(1, 15)]
    with pytest.raises(ValueError, match="stands for more than 1000000 values"):
        SERIALIZERS["yaml"].loads(b"\n".join(lines))


def test_modest_yaml_aliases_and_merges_are_read() -> None:
    """Celery writes an alias where the same list occurs twice."""
    assert SERIALIZERS["yaml"].loads(b"[&a {x: [1]}, *a, {<<: *a, y: 2}]") == [
        {"x": [1]},
        {"x": [1]},
        {"x": [1], "y": 2},
    ]


def test_content_types_are_celerys() -> None:
    """The names on the wire are those of kombu's registry."""
    from kombu.serialization import registry  # noqa: PLC0415 - only this test looks at it

    assert {s.name: (s.content_type, s.content_encoding) for s in BY_CONTENT_TYPE.values()} == {
        name: registry._encoders[name][:2] for name in SERIALIZERS
    }


def test_an_unknown_serializer_is_refused_with_what_there_is() -> None:
    """A typo is answered with the list."""
    with pytest.raises(errors.ConfigurationError, match="'msgpak'; there are msgpack, json, yaml, pickle"):
        serializer_named("msgpak")
