"""Header tables that are read by comparison: they come out as if they had been taken apart."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.transport import layouts
from amqpq.transport.fields import decode_table, decode_text, encode_table
from amqpq.transport.layouts import LAYOUTS_KEPT, LESSONS, TABLE_BYTES, Layouts

NAMES = st.sampled_from(["a", "b", "cc", "id"])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(2**40, 2**40 + 3)
    | st.floats(0, 1)
    | st.text("ab", max_size=3)
    | st.binary(max_size=2)
    | st.lists(st.booleans(), max_size=2)
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=4)


def plain(data: bytes, position: int = 0) -> Any:
    """What the usual way makes of it: a table with where it ends, or the kind of error."""
    try:
        return decode_table(data, position)
    except (ValueError, IndexError, struct.error) as error:
        return type(error)


def read(reader: Layouts, data: bytes, position: int = 0) -> Any:
    """The same of the way by comparison."""
    try:
        return reader.read(data, position)
    except (ValueError, IndexError, struct.error) as error:
        return type(error)


@given(st.lists(TABLES, max_size=30), st.binary(max_size=5))
def test_tables_come_out_as_from_the_usual_way(tables: list[dict[str, Any]], before: bytes) -> None:
    """Whatever was learned from those before, with every type, in the same order, and wherever they stand."""
    reader = Layouts()
    for table in tables:
        data = before + encode_table(table) + b"behind"
        assert repr(read(reader, data, len(before))) == repr(plain(data, len(before)))


@given(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=30),
)
def test_damaged_tables_are_read_or_refused_as_by_the_usual_way(
    table: dict[str, Any], damages: list[tuple[int, int]]
) -> None:
    """A byte of a length, a type or a name that is another one is seen, also where only values have changed until then."""
    reader = Layouts()
    whole = encode_table(table)
    for place, byte in [*damages, *damages]:
        data = bytearray(whole)
        if 4 + place < len(data):
            data[4 + place] = byte
        for each in (bytes(data), whole):
            assert repr(read(reader, each)) == repr(plain(each))


def test_a_text_of_another_length_is_not_cut() -> None:
    """Two texts that share their bytes otherwise make a table of the same length, whose names may stand where they stood."""
    reader = Layouts()
    for first, second in (("x\x01bS\0\0\0\x01y", "z"), ("x", "y\x01bS\0\0\0\x01z"), ("y", "x\x01bS\0\0\0\x01z")) * 2:
        data = encode_table({"a": first, "b": second})
        assert reader.read(data, 0)[0] == {"a": first, "b": second}


def test_what_has_not_changed_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third message on, only what changes is."""
    reader = Layouts()
    decoded: list[bytes] = []

    def decode(data: bytes) -> str | bytes:
        decoded.append(data)
        return decode_text(data)

    monkeypatch.setattr(layouts, "decode_text", decode)
    for number in range(10, 20):
        table = {"task": "shop.add", "id": f"id-{number}", "wanted": True, "at": number, "route": "/default"}
        assert reader.read(encode_table(table), 0)[0] == table
    assert decoded == [f"id-{number}".encode() for number in range(12, 20)]


def test_nobody_changes_what_others_read() -> None:
    """Each table is its own, and one with something in it that can be changed is not shared at all."""
    reader = Layouts()
    data = encode_table({"a": "x", "b": 1})
    for _ in range(3):
        table, _ = reader.read(data, 0)
        assert table == {"a": "x", "b": 1}
        table["a"] = "changed"
    data = encode_table({"a": [1], "at": datetime(2026, 1, 1, tzinfo=UTC)})
    for _ in range(3):
        table, _ = reader.read(data, 0)
        assert table["a"] == [1]
        table["a"].append(2)


def test_what_is_kept_is_bounded() -> None:
    """Neither many lengths, nor long tables, nor tables that have nothing in common fill the memory or are learned for ever."""
    reader = Layouts()
    for size in range(LAYOUTS_KEPT * 3):
        reader.read(encode_table({"a": "x" * size}), 0)
        assert len(reader._layouts) <= LAYOUTS_KEPT
    reader = Layouts()
    reader.read(encode_table({"a": "x" * TABLE_BYTES}), 0)
    assert not reader._layouts
    for number in range(LESSONS * 2):
        data = encode_table({f"name{number:04}": "x"})
        assert reader.read(data, 0)[0] == {f"name{number:04}": "x"}
    assert list(reader._layouts.values()) == [None]
