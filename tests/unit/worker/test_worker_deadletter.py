"""Dead letters and second tries, as messages."""

from __future__ import annotations

from typing import Any

from amqpq.types import PERSISTENT, Delivery, Properties
from amqpq.worker.deadletter import CRASHES, HEADERS_BYTES, Evidence, Place, another_try, crashes_of, dead_letter
from amqpq.worker.work import Remains

PLACE = Place("host-1", "w1@host-1")


def delivery(**properties: Any) -> Delivery:
    """A message as it came."""
    headers = {"id": "1f0c", "task": "shop.add", **properties.pop("headers", {})}
    return Delivery(b"body", Properties(headers=headers, **properties), "tasks", "default", False, 7)


def park(message: Delivery, traceback: str = "Traceback ...", failed_at: float = 1_700_000_000.0) -> dict[str, Any]:
    """The headers of its dead letter."""
    publication = dead_letter(
        message,
        queue="default",
        target="shop.dead",
        place=PLACE,
        evidence=Evidence("failed", "ValueError: no", traceback, 2, failed_at),
    )
    return dict(publication.properties.headers)


def test_a_dead_letter_says_what_where_when_and_why() -> None:
    """The evidence is complete, and the message itself is unchanged."""
    headers = park(delivery())
    assert headers["amqpq-cause"] == "failed"
    assert headers["amqpq-reason"] == "ValueError: no"
    assert headers["amqpq-traceback"] == "Traceback ..."
    assert (headers["amqpq-host"], headers["amqpq-worker"]) == ("host-1", "w1@host-1")
    assert (headers["amqpq-queue"], headers["amqpq-exchange"], headers["amqpq-key"]) == ("default", "tasks", "default")
    assert headers["amqpq-attempts"] == 2
    assert headers["amqpq-first-failed"] == headers["amqpq-last-failed"] == "2023-11-14T22:13:20.000+00:00"
    assert (headers["id"], headers["task"]) == ("1f0c", "shop.add")


def test_a_dead_letter_goes_to_its_queue_and_stays_there() -> None:
    """It is published to the dead-letter queue itself, mandatory, persistent, and does not expire."""
    publication = dead_letter(
        delivery(expiration=1000, delivery_mode=1),
        queue="default",
        target="shop.dead",
        place=PLACE,
        evidence=Evidence("expired", "", "", 1, 0.0),
    )
    assert (publication.exchange, publication.routing_key, publication.mandatory) == ("", "shop.dead", True)
    assert publication.properties.expiration is None
    assert publication.properties.delivery_mode == PERSISTENT


def test_what_the_broker_acts_on_is_not_copied() -> None:
    """CC and BCC would send the copy elsewhere too; a foreign user id would close the channel."""
    publication = dead_letter(
        delivery(user_id="alice", headers={"CC": ["other"], "BCC": ["third"]}),
        queue="default",
        target="shop.dead",
        place=PLACE,
        evidence=Evidence("failed", "", "", 1, 0.0),
    )
    assert publication.properties.user_id is None
    assert publication.properties.headers["amqpq-user-id"] == "alice"
    assert not {"CC", "BCC"} & set(publication.properties.headers)


def test_the_first_failure_is_remembered() -> None:
    """A dead letter that was requeued and fails again keeps the time of its first failure."""
    headers = park(delivery(headers={"amqpq-first-failed": "2020-01-01T00:00:00.000+00:00"}))
    assert headers["amqpq-first-failed"] == "2020-01-01T00:00:00.000+00:00"
    assert headers["amqpq-last-failed"] != headers["amqpq-first-failed"]


def test_a_long_traceback_keeps_its_end() -> None:
    """The error stands in the last line, so the first ones go."""
    text = "line\n" * 10_000 + "ValueError: the end"
    kept = park(delivery(), text)["amqpq-traceback"]
    assert kept.endswith("ValueError: the end")
    assert len(kept) < len(text)


def test_large_headers_leave_no_room_for_a_traceback() -> None:
    """The headers of the copy fit into one frame whatever the original brought along."""
    headers = park(delivery(headers={"blob": b"x" * HEADERS_BYTES}))
    assert "amqpq-traceback" not in headers
    assert headers["amqpq-cause"] == "failed"


def test_a_dead_letter_says_how_its_process_died() -> None:
    """Signal or exit code, peak memory, last lines; what an earlier death left is gone."""
    first = dead_letter(
        delivery(headers={"x-delivery-count": 4}),
        queue="default",
        target="shop.dead",
        place=PLACE,
        evidence=Evidence("crashed", "", "", 3, 0.0, Remains(None, "SIGSEGV", 5_000_000_000, "a\nb", "stack")),
    )
    headers = first.properties.headers
    assert (headers["amqpq-signal"], headers["amqpq-peak-memory"]) == ("SIGSEGV", 5_000_000_000)
    assert headers["amqpq-last-logs"] == "a\nb"
    assert headers["amqpq-delivery-count"] == 4
    assert not {"amqpq-exit-code", "x-delivery-count"} & headers.keys()
    later = park(Delivery(b"", first.properties, "", "default", False, 1))
    assert not {"amqpq-signal", "amqpq-peak-memory", "amqpq-last-logs", "amqpq-delivery-count"} & later.keys()


def test_another_try_counts_the_crash_and_keeps_the_rest() -> None:
    """Body, headers and expiry stay; the count goes up; it goes to the queue it came from."""
    publication = another_try(delivery(expiration=1000), queue="default", crashes=2)
    assert (publication.exchange, publication.routing_key, publication.body) == ("", "default", b"body")
    assert publication.properties.headers[CRASHES] == 2
    assert publication.properties.headers["id"] == "1f0c"
    assert publication.properties.expiration == 1000


def test_an_odd_crash_count_is_none() -> None:
    """The header is unsigned: anything but a positive whole number counts as nothing."""
    for odd in ("3", True, -1, None, 2.5):
        assert crashes_of(Properties(headers={CRASHES: odd})) == 0
    assert crashes_of(Properties(headers={CRASHES: 2})) == 2
