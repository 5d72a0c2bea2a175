"""The table of headers and properties is the whole truth."""

from __future__ import annotations

from typing import Any

from amqpq.message import Codec, ResultEnvelope, TaskEnvelope
from amqpq.message.wire import HEADERS, PROPERTIES, RESERVED


def test_every_header_and_property_that_is_written_is_in_the_table(make_codec: Any) -> None:
    """Nothing goes out that the table does not explain."""
    codec: Codec = make_codec()
    envelope = TaskEnvelope(
        "1",
        "t",
        root_id="r",
        parent_id="p",
        group="g",
        retries=1,
        eta="2026-11-21T10:00:00Z",
        expires="2026-11-21T10:00:00Z",
        timelimit=(1, None),
        origin="o",
        shadow="s",
        ignore_result=True,
        reply_to="q",
        priority=1,
    )
    _, task = codec.encode_task(envelope, exchange="", key="q")
    _, result = codec.encode_result(ResultEnvelope("1", "SUCCESS"), reply_to="q")
    assert task.headers.keys() | result.headers.keys() <= RESERVED
    described = {each.name for each in PROPERTIES} | {"headers"}
    for properties in (task, result):
        for name, value in properties._asdict().items():
            if value is not None:
                assert name in described, name


def test_no_name_is_in_the_table_twice() -> None:
    """One row each."""
    names = [each.name for each in (*PROPERTIES, *HEADERS)]
    assert len(names) == len(set(names))
