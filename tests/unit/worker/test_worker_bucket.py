"""Rates, and the token bucket that keeps one on a worker; the clock is a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.rates import Rate, rate_of
from amqpq.worker.bucket import BURST_SECONDS, Bucket


@pytest.mark.parametrize(
    "written, per_second",
    [("100/m", 100 / 60), ("10/s", 10.0), ("36/h", 0.01), ("7", 7.0), (3, 3.0), (0.5, 0.5), (" 10 / s ", 10.0)],
)
def test_a_rate_is_read_as_celery_reads_it(written: object, per_second: float) -> None:
    """A number and a unit; a number alone is per second."""
    rate = rate_of(written)
    assert rate is not None
    assert rate.per_second == pytest.approx(per_second)
    assert rate.interval == pytest.approx(1 / per_second)


@pytest.mark.parametrize("written", [None, 0, "0", "0/m"])
def test_nothing_and_zero_are_no_rate(written: object) -> None:
    """Celery's remote control takes a limit away with 0."""
    assert rate_of(written) is None


@pytest.mark.parametrize("written", ["", "ten", "10/d", "-1/s", "1e3/s", True, [], float("nan"), "/s"])
def test_what_is_no_rate_is_refused(written: object) -> None:
    """With how to write one."""
    with pytest.raises(ValueError, match="is not a rate; write a number and a unit"):
        rate_of(written)


def test_a_rate_is_shown_as_it_is_written() -> None:
    """For logs and for `inspect`."""
    assert [str(rate_of(each)) for each in ("100/m", 10, "0.5/h")] == ["100/m", "10/s", "0.5/h"]


def test_a_slow_rate_is_even() -> None:
    """One at once, then one in each interval, however long nothing was taken before."""
    bucket = Bucket.full(Rate(6, "m"), 0.0)
    assert bucket.wait(100.0) == 0
    bucket = bucket.taken(100.0)
    assert bucket.wait(100.0) == pytest.approx(10.0)
    assert bucket.wait(107.0) == pytest.approx(3.0)
    assert bucket.wait(110.0) == 0
    assert bucket.taken(110.0).wait(110.0) == pytest.approx(10.0)


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    """It should not, and it does no harm."""
    assert Bucket.full(Rate(1), 50.0).taken(50.0).wait(10.0) == pytest.approx(1.0)


@given(
    rate=st.sampled_from([Rate(1), Rate(10), Rate(1000), Rate(100, "m"), Rate(7, "h")]),
    steps=st.lists(st.floats(min_value=0, max_value=30), min_size=1, max_size=200),
)
def test_a_bucket_never_gives_more_than_its_rate(rate: Rate, steps: list[float]) -> None:
    """In any time: the rate times that time, and what the bucket holds."""
    bucket, now, taken = Bucket.full(rate, 0.0), 0.0, []
    for step in steps:
        now += step
        if bucket.wait(now) <= 0:
            bucket = bucket.taken(now)
            taken.append(now)
    burst = max(1.0, rate.per_second * BURST_SECONDS)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = (taken[last] - taken[first]) * rate.per_second + burst
            assert last - first + 1 <= allowed + 1e-6
