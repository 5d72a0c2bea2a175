from __future__ import annotations

import pytest

from amqpq.measuring.figures import Mark, latency, rate


def test_a_latency_is_the_median_and_the_99th_percentile_in_milliseconds() -> None:
    """Of a hundred times, the fiftieth and the ninety-ninth, whatever their order."""
    found = latency([number / 1000 for number in range(100, 0, -1)])
    assert (found.p50_ms, found.p99_ms, found.samples) == pytest.approx((50.0, 99.0, 100))


def test_one_time_is_its_own_median_and_percentile() -> None:
    """The shortest measure has one sample."""
    assert latency([0.002]).p50_ms == latency([0.002]).p99_ms == pytest.approx(2.0)


def test_a_rate_is_what_passed_between_the_first_mark_and_the_last() -> None:
    """Messages per second, CPU in microseconds per message, and the share of a core."""
    found = rate([Mark(100, 10.0, 1.0), Mark(1100, 12.0, 1.5)])
    assert found.per_second == pytest.approx(500.0)
    assert found.cpu_us == pytest.approx(500.0)
    assert found.busy == pytest.approx(0.25)
    assert (found.messages, found.seconds) == (1000, 2.0)


def test_a_short_measure_is_not_parted() -> None:
    """Where marks are few, slowest and fastest are the rate itself: they would be noise."""
    found = rate([Mark(0, 0.0, 0.0), Mark(10, 1.0, 0.0), Mark(100, 2.0, 0.0)])
    assert found.slowest_per_second == found.fastest_per_second == found.per_second == pytest.approx(50.0)


def test_a_rate_that_changes_shows_in_its_slowest_and_fastest_fifth() -> None:
    """Half the time at 100/s, half at 300/s: 200/s in all."""
    marks, messages = [Mark(0, 0.0, 0.0)], 0
    for step in range(1, 101):
        messages += 1 if step <= 50 else 3
        marks.append(Mark(messages, step / 100, 0.0))
    found = rate(marks)
    assert found.per_second == pytest.approx(200.0)
    assert found.slowest_per_second == pytest.approx(100.0)
    assert found.fastest_per_second == pytest.approx(300.0)
