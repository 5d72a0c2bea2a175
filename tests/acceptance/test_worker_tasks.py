"""Workers as processes: tasks run, results come back, and what cannot run is kept with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import TaskExpired, WorkerLost
from amqpq.message import TaskEnvelope
from amqpq.types import Delivery, Properties, Publication
from tests.support.lab import answer

pytestmark = pytest.mark.acceptance

WAIT_SECONDS = 30.0


def take(app: App, queue: str) -> Delivery | None:
    """Take one message out of a queue."""
    delivery: Delivery | None = answer(app.link.connection(WAIT_SECONDS).channel().get(queue, no_ack=True))
    return delivery


def publish(app: App, body: bytes, properties: Properties) -> None:
    """Publish a message as it is."""
    channel = app.link.connection(WAIT_SECONDS).channel()
    assert answer(channel.publish([Publication("", "default", body, properties)]))[0].confirmed


@pytest.fixture
def dead_letter(shop: App, until: Callable[..., None]) -> Callable[[], dict[str, Any]]:
    """Wait for the next dead letter and return its headers."""

    def wait() -> dict[str, Any]:
        letters: list[Delivery] = []

        def arrived() -> bool:
            letter = take(shop, "shop.dead")
            if letter is not None:
                letters.append(letter)
            return bool(letters)

        until(arrived, "a dead letter")
        return dict(letters[0].properties.headers)

    return wait


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_tasks_run_in_every_pool(shop: App, start_worker: Any, pool: str) -> None:
    """Plain functions and coroutines return their results; a warm stop ends with exit code 0."""
    worker = start_worker("-P", pool)
    assert shop.send_task("shop.add", (2, 3)).get(timeout=WAIT_SECONDS) == 5
    assert shop.send_task("shop.add_later", (2, 3)).get(timeout=WAIT_SECONDS) == 5
    assert shop.send_task("web.resize", (640,)).get(timeout=WAIT_SECONDS) == 320
    assert worker.stop() == 0


def test_the_banner_says_what_runs_where(start_worker: Any) -> None:
    """Application, masked transport, topology, queues with bindings, pool, signing, tasks."""
    text = start_worker("--apply", "-c", "1", "-n", "w7@%h").text
    for part in (
        " w7@",
        "shop:app",
        "topology.yaml (project shop)",
        "guest:***@",
        "prefork, 1 process, prefetch 4 per queue",
        "hmac-sha256, key shop; messages must be signed",
        "exchange=web(topic) key=web.#",
        "dead letters: shop.dead",
        ". shop.add",
        ". web.resize",
    ):
        assert part in text, part


def test_only_the_named_queues_are_consumed(shop: App, start_worker: Any) -> None:
    """-Q limits the worker; the rest waits."""
    start_worker("-Q", "web.high", "-c", "1")
    waiting = shop.send_task("shop.add", (1, 1))
    assert shop.send_task("web.resize", (8,)).get(timeout=WAIT_SECONDS) == 4
    assert waiting.state == "PENDING"
    start_worker("-Q", "default", "-c", "1")
    assert waiting.get(timeout=WAIT_SECONDS) == 2


def test_a_failing_task_answers_and_is_parked(shop: App, start_worker: Any, dead_letter: Any) -> None:
    """The caller gets exception and traceback; the dead letter says what happened where."""
    start_worker("-c", "1", "-n", "w1@%h")
    result = shop.send_task("shop.fail", ("no such thing",))
    with pytest.raises(ValueError, match="no such thing"):
        result.get(timeout=WAIT_SECONDS)
    headers = dead_letter()
    assert headers["amqpq-cause"] == "failed"
    assert "raise ValueError(text)" in headers["amqpq-traceback"]
    assert headers["amqpq-worker"].startswith("w1@")
    assert (headers["amqpq-queue"], headers["amqpq-attempts"]) == ("default", 1)


def test_what_cannot_be_run_is_kept_with_its_cause(shop: App, start_worker: Any, dead_letter: Any) -> None:
    """Unknown, expired, forged, unsigned, unaccepted: each is parked under its own word."""
    worker = start_worker("-c", "1")
    with pytest.raises(Exception, match=r"did you mean 'shop\.add'"):
        shop.send_task("shop.ad", (1, 2)).get(timeout=WAIT_SECONDS)
    assert dead_letter()["amqpq-cause"] == "unknown-task"

    body, properties = shop.codec.encode_task(TaskEnvelope("1f0c", "shop.add", (1, 2)), exchange="", key="default")
    publish(shop, body[:-1] + b"\0", properties)
    assert dead_letter()["amqpq-cause"] == "forged"

    publish(shop, body, Properties(content_type="application/json", headers={"id": "2", "task": "shop.add"}))
    assert dead_letter()["amqpq-cause"] == "unsigned"

    body, properties = shop.codec.encode_task(
        TaskEnvelope("3f0c", "shop.add", (1, 2), expires="2020-01-01T00:00:00+00:00"), exchange="", key="default"
    )
    publish(shop, body, properties)
    assert dead_letter()["amqpq-cause"] == "expired"
    assert worker.stop() == 0


def test_an_expired_task_answers(shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None]) -> None:
    """A task that waited too long behind another one ends with EXPIRED, and its caller hears of it."""
    start_worker("-c", "1", "-Q", "default")
    shop.send_task("shop.hold", (str(tmp_path), "first"))
    until(lambda: list(tmp_path.glob("first.begun.*")))
    late = shop.send_task("shop.add", (1, 2), expires=0.2)
    over = time.monotonic() + 0.3
    until(lambda: time.monotonic() > over)
    (tmp_path / "open").touch()
    with pytest.raises(TaskExpired):
        late.get(timeout=WAIT_SECONDS)


def test_a_task_that_kills_its_process_is_tried_again_and_parked(
    shop: App, start_worker: Any, tmp_path: Path, dead_letter: Any
) -> None:
    """Three children die of it, then it is parked as crashed, its caller hears, and other tasks go on."""
    worker = start_worker("-c", "2")
    doomed = shop.send_task("shop.die", (str(tmp_path),))
    others = [shop.send_task("shop.add", (number, 1)) for number in range(50)]
    with pytest.raises(WorkerLost, match="killed by SIGKILL"):
        doomed.get(timeout=WAIT_SECONDS)
    headers = dead_letter()
    assert (headers["amqpq-cause"], headers["amqpq-attempts"]) == ("crashed", 3)
    assert headers["amqpq-signal"] == "SIGKILL"
    assert "amqpq-exit-code" not in headers
    assert headers["amqpq-peak-memory"] > 10 * 2**20
    assert f"about to die in {tmp_path}" in headers["amqpq-last-logs"]
    assert len(list(tmp_path.glob("died.*"))) == 3
    assert shop.collect(others, timeout=WAIT_SECONDS) == list(range(1, 51))
    assert worker.stop() == 0


def test_a_long_task_does_not_cost_the_connection(shop: App, start_worker: Any) -> None:
    """A task that holds the interpreter for several heartbeats (2 s here) keeps its connection and its result."""
    worker = start_worker("-c", "1", "-l", "info")
    assert shop.send_task("shop.spin", (7.0,)).get(timeout=WAIT_SECONDS) == 7.0
    assert worker.stop() == 0
    assert "lost" not in worker.text


def test_a_forgotten_result_is_no_error_loop(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None]
) -> None:
    """The reply queue is gone when the task ends: the worker says so once and goes on."""
    worker = start_worker("-c", "1")
    result = shop.send_task("shop.hold", (str(tmp_path), "unheard"))
    until(lambda: list(tmp_path.glob("unheard.begun.*")))
    result.forget()
    (tmp_path / "open").touch()
    worker.says("found no reply queue")
    assert shop.send_task("shop.add", (1, 1)).get(timeout=WAIT_SECONDS) == 2
    assert worker.stop() == 0
    assert worker.text.count("found no reply queue") == 1
    assert len(list(tmp_path.glob("unheard.begun.*"))) == 1
