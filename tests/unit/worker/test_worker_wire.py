"""Frames between the parent and a child of the prefork pool."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.types import Properties, Table
from amqpq.worker.pools import wire
from amqpq.worker.work import Finished, Reply, Report, Work

PROPERTIES = Properties(
    content_type="application/json", headers={"id": "1", "when": datetime(2026, 1, 1, tzinfo=UTC)}, priority=3
)


@given(st.lists(st.lists(st.binary(max_size=200), max_size=5), max_size=6), st.integers(1, 50))
def test_frames_survive_any_cut(batches: list[list[bytes]], size: int) -> None:
    """However the bytes arrive, every message comes out once and in order."""
    stream = b"".join(wire.frame(batch) for batch in batches)
    unframer = wire.Unframer()
    out: list[bytes] = []
    for start in range(0, len(stream), size):
        out += unframer.feed(stream[start : start + size])
    assert out == [message for batch in batches for message in batch]


@pytest.mark.parametrize(
    ("headers", "letter"),
    [({"id": "1", "many": [1, {"a": None}]}, b"m"), ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, b"p")],
)
def test_a_work_comes_out_as_it_went_in(headers: Table, letter: bytes) -> None:
    """Packing loses nothing of a work, also where a header holds what only the slower way knows."""
    work = Work(7, "default", b"body", PROPERTIES._replace(headers=headers), "tasks", "key", True, False)
    framed = wire.frame([wire.pack_work(work)])
    assert framed[wire.LENGTH.size :][:1] == letter
    (values,) = wire.Unframer().feed(framed)
    assert wire.unpack_work(values) == work


def test_an_outcome_comes_out_as_it_went_in() -> None:
    """Packing loses nothing of an outcome, with or without a reply."""
    for reply in (None, Reply("amqpq.reply.1", b"result", PROPERTIES)):
        finished = Finished(7, "failed", "shop.add", 0.5, reply, "failed", "ValueError", "Traceback")
        (values,) = wire.Unframer().feed(wire.frame([wire.pack_finished(finished)]))
        assert not wire.is_report(values)
        assert wire.unpack_finished(values) == finished


def test_a_report_is_told_from_an_outcome() -> None:
    """States on the way and outcomes share a stream and are not mixed up."""
    report = Report(7, Reply("amqpq.reply.1", b"state", PROPERTIES))
    (values,) = wire.Unframer().feed(wire.frame([wire.pack_report(report)]))
    assert wire.is_report(values)
    assert wire.unpack_report(values) == report
