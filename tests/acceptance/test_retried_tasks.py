"""Retries with real workers on a real broker."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from amqpq import App
from tests.acceptance.conftest import Starter
from tests.acceptance.test_delayed_tasks import later_at

DEADLINE_SECONDS = 60.0


@pytest.fixture
def later(vhost_url: str) -> App:
    """The application on a vhost of its own."""
    return later_at(vhost_url)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_is_tried_again_until_it_succeeds(later: App, start_worker: Starter, tmp_path: Path, pool: str) -> None:
    """Under one id, counted, and its caller gets the result of the last attempt."""
    worker = start_worker("-A", "later", "-P", pool, "-c", "1")
    result = later.send_task("later.flaky", [str(tmp_path), "a", 2])
    assert result.get(timeout=DEADLINE_SECONDS) == [result.id, 2]
    assert (tmp_path / "a.ran").read_text(encoding="utf-8").split() == ["0", "1", "2"]
    assert "failed: LookupError: attempt 1; retry 1 in 1.0 s" in worker.text
    assert worker.stop() == 0


def test_other_arguments_are_signed_by_the_worker(later: App, start_worker: Starter) -> None:
    """Its key may sign this task, so the next attempt has them."""
    start_worker("-A", "later", "-P", "prefork", "-c", "1")
    assert later.send_task("later.count_down", [3]).get(timeout=DEADLINE_SECONDS) == 3


def test_a_retry_survives_the_worker(later: App, start_worker: Starter, tmp_path: Path) -> None:
    """Killed while the next attempt waits: another worker makes it, once."""
    first = start_worker("-A", "later", "-P", "prefork", "-c", "1")
    result = later.send_task("later.flaky", [str(tmp_path), "b", 1])
    first.says("retry 1 in")
    deadline, pause = time.monotonic() + DEADLINE_SECONDS, threading.Event()
    while result.state != "RETRY":  # then its next attempt is published, too
        assert time.monotonic() < deadline
        pause.wait(0.01)
    first.kill()
    start_worker("-A", "later", "-P", "threads", "-c", "1")
    assert result.get(timeout=DEADLINE_SECONDS) == [result.id, 1]
    assert (tmp_path / "b.ran").read_text(encoding="utf-8").split()[-1] == "1"
