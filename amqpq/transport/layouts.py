"""Header tables that are read by comparison with those before. Pure.

Most tables of a queue differ from one another in a few values only: an id, a time, a signature. To take such a table apart field
by field costs seven microseconds, most of what it costs to read a message at all. So a table of a length that has been seen is
compared with what tables of that length have had in common, in one piece between each two values that change; only
those are decoded, and everything else is a copy.

What is compared includes every name, every type and the length of every text. So a table that matches has its values exactly
where they are looked for, and comes out as if it had been taken apart. One that does not match is, and teaches what else may
change.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, NamedTuple

from amqpq.transport.fields import TEXT, decode_table, decode_text, decode_value

TABLE_BYTES: Final = 1024
"""Larger ones are taken apart: a traceback changes as a whole."""
LAYOUTS_KEPT: Final = 64
"""Lengths of tables; whoever makes up lengths does not fill the memory."""
LESSONS: Final = 32
"""So often a length is learned anew; then tables of this length have too little in common."""

_length = Struct(">I").unpack_from
_PLAIN: Final = frozenset({str, int, bool, float, type(None)})
"""What may be shared by many tables, because nobody can change it."""


class _Field(NamedTuple):
    """One field of a table: places are counted from its first byte. What stands before `begins` says how long it is."""

    key: str
    letter: int
    at: int
    begins: int
    ends: int


class _Layout(NamedTuple):
    """What tables of one length have in common, by the latest that taught something."""

    fixed: tuple[tuple[int, bytes], ...]
    values: dict[str, Any]
    changing: tuple[_Field, ...]
    fields: tuple[_Field, ...]
    table: bytes
    lessons: int


class Layouts:
    """Reads tables, and learns from them."""

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout | None] = {}

    def read(self, data: bytes, position: int) -> tuple[dict[str, Any], int]:
        """Decode the table at `position`; answer it and the position behind it.

        Raises:
            ValueError, IndexError, struct.error: It is none.
        """
        (size,) = _length(data, position)
        layout = self._layouts.get(size)
        if layout is None:
            if size not in self._layouts and size <= TABLE_BYTES:
                self._learn(data[position + 4 : position + 4 + size], None)
            return decode_table(data, position)
        start = position + 4
        for place, expected in layout.fixed:
            if not data.startswith(expected, start + place):
                self._learn(data[start : start + size], layout)
                return decode_table(data, position)
        table = layout.values.copy()
        for key, letter, at, begins, ends in layout.changing:
            if letter == TEXT:
                table[key] = decode_text(data[start + begins : start + ends])
            else:
                table[key], _ = decode_value(data, start + at)
        return table, start + size

    def _learn(self, table: bytes, before: _Layout | None) -> None:
        """Note what a table has in common with those before."""
        if before is None and len(self._layouts) >= LAYOUTS_KEPT:
            self._layouts.clear()
        fields, values = _apart(table)
        lessons = 0 if before is None else before.lessons + 1
        shared = len(values) == len(fields) and all(type(value) in _PLAIN for value in values.values())
        shared = shared and (not fields or fields[-1].ends == len(table))  # else it is no table; the usual way says so
        if not shared or lessons >= LESSONS:
            self._layouts[len(table)] = None
            return
        changing: tuple[_Field, ...] = ()
        if before is not None and before.fields == fields:
            known = frozenset(before.changing)
            changing = tuple(
                field for field in fields
                if field in known or table[field.begins : field.ends] != before.table[field.begins : field.ends]
            )  # fmt: skip
        self._layouts[len(table)] = _Layout(_fixed(table, changing), values, changing, fields, table, lessons)


def _apart(table: bytes) -> tuple[tuple[_Field, ...], dict[str, Any]]:
    """Take a table apart, given without its length."""
    fields: list[_Field] = []
    values: dict[str, Any] = {}
    position = 0
    while position < len(table):
        at = position + 1 + table[position]
        key = str(table[position + 1 : at], "utf-8", "surrogateescape")
        values[key], position = decode_value(table, at)
        begins = at + 5 if table[at] == TEXT else at + 1
        fields.append(_Field(key, table[at], at, begins, position))
    return tuple(fields), values


def _fixed(table: bytes, changing: tuple[_Field, ...]) -> tuple[tuple[int, bytes], ...]:
    """Return what stands between the values that change, with its places."""
    places = [0, *(field.ends for field in changing)]
    stops = [*(field.begins for field in changing), len(table)]
    return tuple((place, table[place:stop]) for place, stop in zip(places, stops, strict=True))
