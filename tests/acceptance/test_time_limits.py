"""Limits through the command line: what a caller gets, and what is kept."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from amqpq.types import Delivery

pytestmark = pytest.mark.acceptance

WAIT_SECONDS = 60.0


@pytest.fixture
def dead_letter(shop: App) -> Callable[[], Any]:
    """Waits for the next dead letter and returns its headers."""
    letters: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    channel = shop.link.connection(WAIT_SECONDS).channel()
    subscription: Any = channel.consume("shop.dead", letters.put, no_ack=True)
    subscription.result(WAIT_SECONDS)
    return lambda: letters.get(timeout=WAIT_SECONDS).properties.headers


def test_a_task_over_its_hard_limit_fails_once_and_is_parked(
    shop: App, start_worker: Any, tmp_path: Path, dead_letter: Callable[[], Any]
) -> None:
    """The caller gets the error, the message its cause, and the worker works on; it is not run a second time."""
    worker = start_worker("-A", "timed", "-c", "1")
    with pytest.raises(TimeLimitExceeded, match="longer than its time limit of 1 s"):
        shop.send_task("shop.stubborn", (str(tmp_path),)).get(timeout=WAIT_SECONDS)
    headers = dead_letter()
    assert (headers["amqpq-cause"], headers["amqpq-attempts"]) == ("time-limit", 1)
    assert "amqpq-crashes" not in headers
    assert shop.send_task("shop.tidy").get(timeout=WAIT_SECONDS) == "tidy"
    assert len(list(tmp_path.glob("stubborn.begun.*"))) == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("task", ["nap", "nap_later"])
def test_the_soft_limit_of_a_call_reaches_the_caller(shop: App, start_worker: Any, pool: str, task: str) -> None:
    """A task that lets the error go has failed with it."""
    worker = start_worker("-P", pool)
    result = shop.send_task(f"shop.{task}", (600.0, 1), soft_time_limit=0.1)
    with pytest.raises(SoftTimeLimitExceeded, match="soft time limit of 0.1 s"):
        result.get(timeout=WAIT_SECONDS)
    assert shop.send_task("shop.add", (1, 2)).get(timeout=WAIT_SECONDS) == 3
    assert worker.stop() == 0


def test_the_worker_s_limits_are_for_tasks_that_have_none(shop: App, start_worker: Any) -> None:
    """--time-limit and --soft-time-limit stand in the banner and are kept."""
    worker = start_worker("-c", "1", "--time-limit", "0.5")
    assert "hard time limit 0.5 s" in worker.text
    with pytest.raises(TimeLimitExceeded):
        shop.send_task("shop.nap", (600.0, 1)).get(timeout=WAIT_SECONDS)
    assert shop.send_task("shop.nap", (0.8, 1), time_limit=60).get(timeout=WAIT_SECONDS) == 1
    assert worker.stop() == 0


def test_remote_control_sets_and_takes_away_the_limit_of_a_task(shop: App, start_worker: Any) -> None:
    """It counts for what comes from then on; what the pool or the broker cannot bear is refused with the reason."""
    worker = start_worker("-c", "1")

    def tell(task: str, **limits: float) -> dict[str, str]:
        arguments = {"task_name": task, **limits}
        (answer,) = shop.control.broadcast("time_limit", arguments, reply=True, timeout=WAIT_SECONDS, limit=1)
        (said,) = answer.values()
        return dict(said)

    assert tell("shop.nap", soft=0.2, hard=30) == {"ok": "time limits set successfully"}
    with pytest.raises(SoftTimeLimitExceeded, match="soft time limit of 0.2 s"):
        shop.send_task("shop.nap", (600.0, 1)).get(timeout=WAIT_SECONDS)
    assert tell("shop.nap", soft=0, hard=0.5) == {"ok": "time limits set successfully"}
    with pytest.raises(TimeLimitExceeded, match="longer than its time limit of 0.5 s"):
        shop.send_task("shop.nap", (600.0, 1)).get(timeout=WAIT_SECONDS)
    assert tell("shop.nap", soft=0) == {"ok": "time limits taken away"}
    assert shop.send_task("shop.nap", (0.8, 1)).get(timeout=WAIT_SECONDS) == 1
    assert "did you mean 'shop.nap'" in tell("shop.nip", soft=1)["error"]
    assert "would be killed before it is told" in tell("shop.nap", soft=2, hard=1)["error"]
    assert worker.stop() == 0


def test_a_pool_that_cannot_keep_a_limit_refuses_it_from_remote_control(shop: App, start_worker: Any) -> None:
    """The worker says why, and works on without."""
    worker = start_worker("-P", "threads", "-c", "1")
    arguments = {"task_name": "shop.nap", "soft": 1}
    (answer,) = shop.control.broadcast("time_limit", arguments, reply=True, timeout=WAIT_SECONDS, limit=1)
    (said,) = answer.values()
    assert "the threads pool cannot keep soft_time_limit" in said["error"]
    assert shop.send_task("shop.nap", (0.01, 1)).get(timeout=WAIT_SECONDS) == 1
    assert worker.stop() == 0


def test_a_limit_in_a_call_is_refused_by_a_pool_that_cannot_keep_it(
    shop: App, start_worker: Any, dead_letter: Callable[[], Any]
) -> None:
    """The task does not run without its limit."""
    start_worker("-P", "threads", "-c", "1")
    shop.send_task("shop.add", (1, 2), time_limit=5, reply="none")
    headers = dead_letter()
    assert headers["amqpq-cause"] == "unsupported"
    assert "the threads pool cannot keep time_limit" in headers["amqpq-reason"]


def test_children_are_replaced_after_their_number_of_tasks(shop: App, start_worker: Any) -> None:
    """Each process runs as many tasks as it may, every result arrives, and the worker ends well."""
    worker = start_worker("-c", "2", "--prefetch", "50", "--max-tasks-per-child", "5")
    assert "5 tasks per child" in worker.text
    with shop.batch():
        results = [shop.send_task("shop.whoami") for _ in range(40)]
    counts = Counter(shop.collect(results, timeout=WAIT_SECONDS))
    assert max(counts.values()) == 5
    assert len(counts) >= 8
    worker.says("has done its 5 tasks")
    assert worker.stop() == 0
    assert "was killed" not in worker.text


def test_children_that_have_grown_are_replaced(shop: App, start_worker: Any) -> None:
    """A task that leaves too much behind is the last one of its process."""
    worker = start_worker("-A", "timed", "-c", "1", "--max-memory-per-child", "200MiB")
    first = shop.send_task("shop.grow", (250,)).get(timeout=WAIT_SECONDS)
    assert shop.send_task("shop.grow", (1,)).get(timeout=WAIT_SECONDS) != first
    worker.says("has grown to")
    assert worker.stop() == 0
