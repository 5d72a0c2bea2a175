"""What lint knows of the broker's settings: which values are taken, what cron means."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.topology.lint.schedule import cron_fault
from amqpq.topology.lint.settings import faults
from amqpq.topology.lint.times import waits
from amqpq.topology.model import Backoff, Retries


@pytest.mark.parametrize(
    "values,key",
    [
        ({"overflow": "drop-heads"}, "overflow"),
        ({"message-ttl": -1}, "message-ttl"),
        ({"message-ttl": True}, "message-ttl"),
        ({"message-ttl": "5"}, "message-ttl"),
        ({"expires": 0}, "expires"),
        ({"dead-letter-strategy": "once"}, "dead-letter-strategy"),
        ({"max-age": "30 days"}, "max-age"),
        ({"alternate-exchange": 1}, "alternate-exchange"),
        ({"delayed-retry-type": "all"}, "delayed-retry-type"),
        ({"delayed-retry-type": "all", "delayed-retry-min": 9, "delayed-retry-max": 5}, "delayed-retry-max"),
    ],
)
def test_values_that_the_broker_does_not_take(values: dict[str, Any], key: str) -> None:
    """Wrong words, types and numbers, and numbers that contradict one another."""
    assert list(faults(values)) == [key]


def test_values_that_it_takes() -> None:
    """Among them keys that lint has no opinion on."""
    fine = {"overflow": "reject-publish", "message-ttl": 0, "max-age": "30D", "delivery-limit": -1, "unheard-of": []}
    assert faults({**fine, "delayed-retry-type": "failed", "delayed-retry-min": 5, "delayed-retry-max": 5}) == {}


@pytest.mark.parametrize(
    "text,words",
    [
        ("15 2 * * *", ""),
        ("*/5 8-18 1,15 jan-mar mon-fri", ""),
        ("0 0 * * 7", ""),
        ("15 2 * *", "has 4 fields"),
        ("60 2 * * *", "has '60' for the minute"),
        ("0 24 * * *", "has '24' for the hour"),
        ("0 0 0 * *", "has '0' for the day of month"),
        ("0 0 * 13 *", "has '13' for the month"),
        ("0 0 * * 8", "has '8' for the day of week"),
        ("0 0 * * fri-mon", "has 'fri-mon'"),
        ("*/0 0 * * *", "has '*/0'"),
        ("*-5 0 * * *", "has '*-5'"),
        ("0 0 * x *", "has 'x'"),
    ],
)
def test_five_cron_fields(text: str, words: str) -> None:
    """Numbers, names, lists, ranges and steps; the message names the field."""
    fault = cron_fault(text)
    assert fault.startswith(words)
    assert bool(fault) is bool(words)


@pytest.mark.parametrize(
    "retries,expected",
    [
        (Retries(max=0), 0),
        (Retries(max=3, backoff=Backoff(1, 600, 2)), 7),
        (Retries(max=3, backoff=Backoff(10, 15, 2)), 40),
    ],
)
def test_the_waits_between_all_attempts(retries: Retries, expected: float) -> None:
    """They grow by the factor, up to the longest one."""
    assert waits(retries) == expected
