"""What a worker says when it cannot start: the sentence a person sees, and exit code 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("-P", "asyncio", "--time-limit", "30"), "the asyncio pool cannot keep time_limit: "),
        (
            ("-P", "asyncio", "--soft-time-limit", "30"),
            "cannot keep soft_time_limit: a plain function runs in a thread",
        ),
        (
            ("-P", "gevent", "--time-limit", "30"),
            "the gevent pool cannot keep time_limit: a greenlet that does not yield",
        ),
        (("-P", "thread"), "there is no such pool (did you mean 'threads'?)"),
        (("-P", "solo", "-c", "3"), "the solo pool runs one task at a time"),
        (("-Q", "defualt"), "the topology has no such queue (did you mean 'default'?)"),
        (("--prefetch", "0"), "0 would mean unlimited"),
        (("-P", "threads", "--time-limit", "30"), "the threads pool cannot keep time_limit"),
        (
            ("-P", "solo", "--time-limit", "30"),
            "the solo pool cannot keep time_limit: the task runs in the worker's own",
        ),
        (("--time-limit", "3", "--soft-time-limit", "3"), "tasks would be killed before they are told"),
        (("-A", "timed", "-P", "threads"), "cannot keep time_limit and soft_time_limit"),
        (("-A", "timed", "-P", "threads"), "tasks: shop.stubborn)"),
        (("-P", "threads", "--max-tasks-per-child", "5"), "-P threads: --max-tasks-per-child and"),
        (("--max-memory-per-child", "200000"), "Celery counts kilobytes"),
        (("-P", "asyncio", "--autoscale", "10,2"), "asyncio has none to give"),
        (("--autoscale", "10,2", "-c", "3"), "--autoscale 10,2 and -c 3 contradict each other"),
        (("-B",), "-B: not built yet: beat"),
        (("-l", "loud"), "-l loud: use debug, info"),
    ],
)
def test_what_cannot_be_honoured_is_refused(start_worker: Any, arguments: tuple[str, ...], sentence: str) -> None:
    """No option is accepted and ignored."""
    worker = start_worker(*arguments, wait=False)
    assert worker.exit_code() == 1
    assert sentence in " ".join(worker.text.split())


def test_missing_queues_are_named_with_the_remedy(start_worker: Any) -> None:
    """A worker declares nothing by itself; it says which command does."""
    worker = start_worker(wait=False)
    assert worker.exit_code() == 1
    assert "missing on the broker: queue 'default', queue 'web.high', queue 'shop.dead'" in worker.text
    assert "`amqpq topology apply`" in worker.text


def test_apply_declares_first(start_worker: Any) -> None:
    """--apply is the convenience for one machine."""
    assert start_worker("--apply", "-c", "1").stop() == 0


def test_a_refused_password_ends_the_worker(start_worker: Any, vhost_url: str) -> None:
    """A wrong password is said at once, without trying for ever, and without showing it."""
    worker = start_worker(wait=False, url=vhost_url.replace("guest@", "wrong-secret@"))
    assert worker.exit_code() == 1
    assert "refused" in worker.text
    assert "wrong-secret" not in worker.text


def test_a_limit_beyond_the_patience_of_the_broker_is_refused(start_worker: Any, broker_server: Any) -> None:
    """Before RabbitMQ 4.3 a delivery is taken back after half an hour; from then on no classic queue does that."""
    version = [int(part) for part in broker_server.request("GET", "overview")["rabbitmq_version"].split(".")[:2]]
    worker = start_worker("--apply", "-c", "1", "-Q", "default", "--time-limit", "3600", wait=False)
    if version >= [4, 3]:
        worker.says("ready.")
        assert worker.stop() == 0
        return
    assert worker.exit_code() == 1
    said = " ".join(worker.text.split())
    assert "queue 'default': the broker takes back what is not acknowledged within 1800 s, and these tasks may" in said
    assert "set consumer_timeout in rabbitmq.conf and say so in the file" in said


def test_a_worker_asks_for_the_time_that_its_tasks_need(
    start_worker: Any, broker_server: Any, vhost_url: str, until: Any, tmp_path: Path
) -> None:
    """From RabbitMQ 4.3 on the subscription to a quorum queue says how long a delivery may be held."""
    version = [int(part) for part in broker_server.request("GET", "overview")["rabbitmq_version"].split(".")[:2]]
    file = tmp_path / "topology.yaml"
    file.write_text("amqpq: 1\nproject: shop\nsecurity: {signing: off}\nqueues: {slow: {type: quorum}}\n")
    worker = start_worker(
        "-t", str(file), "--apply", "-c", "1", "--prefetch", "2", "-Q", "slow", "--time-limit", "1200"
    )

    def consumers() -> list[Any]:
        found = broker_server.request("GET", f"consumers/{urlsplit(vhost_url).path[1:]}")
        return [each for each in found if each["queue"]["name"] == "slow"]

    until(consumers, "the management API knows the consumer")
    (consumer,) = consumers()
    asked = {"x-consumer-timeout": (2 * 1200 + 60) * 1000} if version >= [4, 3] else {}
    assert (consumer["arguments"] or {}) == asked
    assert worker.stop() == 0
