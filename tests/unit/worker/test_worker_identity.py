"""What makes two deliveries the same signed message, before anybody has checked the signature."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.consumer import Tap
from amqpq.types import Delivery, Properties
from amqpq.worker import jobs as jobs_module
from amqpq.worker.jobs import Jobs, signed_identity
from amqpq.worker.settle import End, Happened
from amqpq.worker.work import Finished

HEADERS = {"task": "shop.add", "id": "1", "amqpq-ts": 1_795_000_000_250, "amqpq-sig": "genuine", "amqpq-kid": "a"}
PROPERTIES = Properties(content_type="application/json", headers=HEADERS, priority=2, correlation_id="1")
GENUINE = Delivery(b"[[2, 3], {}, {}]", PROPERTIES, "", "default", redelivered=False, tag=1)


def _headers(**changed: Any) -> Properties:
    return PROPERTIES._replace(headers={**HEADERS, **changed})


@pytest.mark.parametrize(
    "copy",
    [
        GENUINE._replace(body=b"[[2, 4], {}, {}]"),
        GENUINE._replace(properties=PROPERTIES._replace(priority=9)),
        GENUINE._replace(properties=_headers(task="shop.drop")),
        GENUINE._replace(properties=_headers(**{"amqpq-sig": "other"})),
        GENUINE._replace(properties=_headers(mine="x")),
    ],
)
def test_an_altered_copy_has_an_identity_of_its_own(copy: Delivery) -> None:
    """A forged copy that arrives first cannot pass for the genuine message, which would then look like a replay."""
    assert signed_identity(copy) != signed_identity(GENUINE)


def test_the_same_message_has_the_same_identity_however_it_comes() -> None:
    """A redelivery, and a message published again, are what the memory against replays has to recognise."""
    again = GENUINE._replace(tag=7, redelivered=True, properties=PROPERTIES._replace(message_id="x"))
    assert signed_identity(again) == signed_identity(GENUINE)


@pytest.mark.parametrize("changed", [{"amqpq-sig": None}, {"amqpq-ts": "soon"}, {"mine": object()}])
def test_a_message_that_no_signature_can_cover_has_none(changed: dict[str, Any]) -> None:
    """Such a message is not remembered; the pool refuses it."""
    assert signed_identity(GENUINE._replace(properties=_headers(**changed))) is None


@pytest.mark.parametrize("requeues", [1, 2, {"a": "table"}])
def test_a_copy_from_the_dead_letters_is_not_the_message_that_ended_here(requeues: object) -> None:
    """A redelivery of the parked message is only acknowledged; one of the copy that was sent back must run."""
    nobody: Any = None
    tap = Tap("default", 1, nobody, nobody)  # never opened: nobody is told anything
    jobs = Jobs(lambda: 0.0)
    job = jobs.open(tap, GENUINE)
    job.end = End.ACK
    jobs.close(job)
    jobs.orphan(tap)
    copy = GENUINE._replace(redelivered=True, properties=_headers(**{"amqpq-requeues": requeues}))
    assert jobs.ended_before(tap, copy) is isinstance(requeues, dict)
    assert jobs.ended_before(tap, GENUINE._replace(redelivered=True)) is not isinstance(requeues, dict)


def test_a_job_that_goes_back_as_a_copy_does_not_swallow_the_copy() -> None:
    """The copy must run; only the original itself is given to the job that replaces it."""
    nobody: Any = None
    tap = Tap("default", 1, nobody, nobody)
    jobs = Jobs(lambda: 0.0)
    job = jobs.open(tap, GENUINE)
    job.copied = True
    jobs.orphan(tap)
    marked = GENUINE._replace(properties=_headers(**{"amqpq-suspicions": 1, "amqpq-suspect": True}))
    assert jobs.adopt(tap, marked) is None
    assert jobs.adopt(tap, GENUINE._replace(redelivered=True)) is job
    job.end = End.ACK
    jobs.close(job)
    jobs.orphan(tap)
    assert not jobs.ended_before(tap, marked)


def test_an_orphan_whose_redelivery_went_elsewhere_is_given_up() -> None:
    """What ended and waits for its redelivery alone is dropped by a later loss of the connection; what runs is not."""
    nobody: Any = None
    now = 0.0
    jobs = Jobs(lambda: now)
    tap, later = Tap("default", 1, nobody, nobody), Tap("default", 1, nobody, nobody)
    ended = jobs.open(tap, GENUINE)
    ended.finished = Finished(ended.number, Happened.SUSPECTED, ended.task)
    running = jobs.open(tap, GENUINE._replace(body=b"other"))
    jobs.orphan(tap)
    now = jobs_module.DOUBTFUL_SECONDS
    jobs.orphan(later)
    assert jobs.all() == [ended, running]
    now += 1
    jobs.orphan(later)
    assert jobs.all() == [running]


def test_ends_in_doubt_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks again and again fills no memory; the latest ends are those that may come again."""
    monkeypatch.setattr(jobs_module, "DOUBTFUL_COUNT", 3)
    nobody: Any = None
    jobs = Jobs(lambda: 0.0)
    tap = Tap("default", 1, nobody, nobody)
    ended = [GENUINE._replace(tag=number, properties=_headers(id=str(number))) for number in range(5)]
    for delivery in ended:
        job = jobs.open(tap, delivery)
        job.end = End.ACK
        jobs.close(job)
        jobs.orphan(tap)
    again = [jobs.ended_before(tap, delivery._replace(redelivered=True)) for delivery in ended]
    assert again == [False, False, True, True, True]
