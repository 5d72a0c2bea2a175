"""What a dead letter says of itself, and the copy that is sent back. No broker."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from amqpq.deadletters.letter import EVIDENCE, Letter, plain_body, read, sent_back
from amqpq.message.canonical import task_bytes, user_headers
from amqpq.types import Delivery, Properties

MakeLetter = Callable[..., Letter]

DEATH: dict[str, Any] = {
    "reason": "expired",
    "queue": "default",
    "time": datetime(2026, 11, 18, 12, 0, tzinfo=UTC),
    "count": 1,
    "exchange": "",
    "routing-keys": ["default"],
}


def broken(headers: dict[str, Any]) -> Letter:
    """Read a message with these headers and nothing else."""
    return read(Delivery(b"", Properties(headers=headers), "", "dead", redelivered=True, tag=1), "dead")


def test_a_letter_of_a_worker_is_read_from_its_headers(letter: MakeLetter) -> None:
    """Cause, origin, attempts and times are the worker's."""
    found = letter()
    assert (found.id, found.task, found.by, found.cause, found.origin) == (
        "a1",
        "shop.charge",
        "worker",
        "failed",
        "default",
    )
    assert (found.attempts, found.reason) == (3, "ValueError: no card")
    assert found.failed_at == datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("when", [DEATH["time"], DEATH["time"].replace(tzinfo=None)])
def test_a_letter_of_the_broker_is_read_from_x_death(when: datetime) -> None:
    """The newest entry counts, and its time is UTC, whether the driver says so or not."""
    newest = {**DEATH, "time": when}
    found = broken(
        {"task": "shop.add", "id": "b", "x-death": [newest, {**DEATH, "queue": "older", "reason": "maxlen"}]}
    )
    assert (found.by, found.cause, found.origin, found.attempts) == ("broker", "expired", "default", 0)
    assert found.failed_at == DEATH["time"].timestamp()
    assert "time to live" in found.reason


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": "no table"},
        {"x-death": []},
        {"x-death": [7]},
        {"amqpq-cause": 7, "amqpq-attempts": "many", "amqpq-last-failed": "yesterday", "id": 5, "expires": "soon"},
        {"amqpq-cause": "failed", "amqpq-last-failed": 12, "x-delivery-count": True, "amqpq-requeues": -3},
    ],
)
def test_nonsense_in_headers_is_nothing(headers: dict[str, Any]) -> None:
    """A header of the wrong type is an absent one; reading never fails."""
    found = broken(headers)
    assert (found.origin, found.attempts, found.failed_at, found.requeues, found.deliveries) == ("", 0, None, 0, 0)


def test_the_copy_is_what_the_sender_signed(letter: MakeLetter) -> None:
    """Body, signed properties and signed headers are the same bytes, so that the signature still verifies."""
    original = letter({"x-death": [DEATH]}, priority=4, correlation_id="a1", reply_to="amqpq.reply.a1")
    copy = sent_back(original, "default")
    before, after = original.delivery.properties, copy.properties
    assert task_bytes(after, user_headers(after.headers), copy.body) == task_bytes(
        before, user_headers(before.headers), original.delivery.body
    )
    assert after.headers["amqpq-sig"] == "c2ln"
    assert (copy.exchange, copy.routing_key, copy.mandatory) == ("", "default", True)


def test_the_copy_leaves_out_evidence_and_what_the_broker_acts_upon(letter: MakeLetter) -> None:
    """No cause, no x-death, no CC, no expiration, no user: else it would be sent elsewhere, expire or be refused."""
    acted_upon = {
        "x-death": [DEATH],
        "x-first-death-queue": "default",
        "x-last-death-reason": "expired",
        "x-delivery-count": 3,
        "CC": ["other"],
        "BCC": ["other"],
        "amqpq-crashes": 3,
    }
    copy = sent_back(letter(acted_upon, expiration=5, user_id="guest"), "default")
    left = copy.properties.headers.keys()
    assert not left & (EVIDENCE | acted_upon.keys())
    assert (copy.properties.expiration, copy.properties.user_id) == (None, None)
    assert copy.properties.headers["amqpq-user-id"] == "guest"
    assert copy.properties.headers["amqpq-first-failed"] == "2026-11-18T11:06:40.000+00:00"


def test_each_return_is_counted(letter: MakeLetter) -> None:
    """The count tells the copy from the message that was parked."""
    assert sent_back(letter(), "default").properties.headers["amqpq-requeues"] == 1
    assert sent_back(letter({"amqpq-requeues": 4}), "default").properties.headers["amqpq-requeues"] == 5


def test_a_packed_body_is_unpacked_up_to_a_size(letter: MakeLetter) -> None:
    """A bomb stays packed, and so does what is not in the format that its header names."""
    packed = zlib.compress(b"x" * 1000)
    bomb = letter({"compression": "application/x-gzip"}, body=packed)
    assert plain_body(bomb, 1000) == b"x" * 1000
    assert plain_body(bomb, 999) == packed
    assert plain_body(letter({"compression": "application/x-gzip"}, body=b"?"), 1000) == b"?"
    assert plain_body(letter({"compression": 7}, body=b"?"), 1000) == b"?"
