"""Limits on a real broker, kept by two workers together: what the tasks themselves wrote down is what counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.transport.interface import Connection, Flow
from amqpq.types import Properties, Publication, QueueSpec
from tests.acceptance.conftest import APPS, KEY, WorkerProcess

pytestmark = pytest.mark.acceptance

WAIT_SECONDS = 60.0
PER_SECOND = 20
MARGIN_SECONDS = 0.1
"""Between the moment a worker lets a task begin and the moment the task looks at the clock, on a busy machine."""
TWO = "shop.permits.two.*.2"

Until = Callable[..., None]


@pytest.fixture
def limited(vhost_url: str) -> Iterator[App]:
    """The producer; its topology is on the broker."""
    with App(APPS / "limited.yaml", environ={"AMQPQ_BROKER_URL": vhost_url, "SHOP_KEY": KEY}) as app:
        flow.run(declare.apply(app.link.connection(30.0).channel, declarations(app.topology)), WAIT_SECONDS)
        yield app


@pytest.fixture
def worker(start_worker: Any) -> Callable[..., WorkerProcess]:
    """Starts a worker with three processes."""

    def start(name: str, *arguments: str) -> WorkerProcess:
        started: WorkerProcess = start_worker(
            "-A", "limited", "-t", "limited.yaml", "-n", f"{name}@%h", "-c", "3", *arguments
        )
        return started

    return start


def runs(folder: Path) -> list[tuple[str, float, float]]:
    """Return name, beginning and end of each run, in the order of their beginnings."""
    lines = [line.split() for file in folder.glob("runs.*") for line in file.read_text().splitlines()]
    return sorted(((name, float(began), float(ended)) for name, began, ended in lines), key=lambda run: run[1])


def most_at_once(found: list[tuple[str, float, float]]) -> int:
    """Count how many of these runs overlap at most."""
    moments = sorted([(began, 1) for _, began, _ in found] + [(ended, -1) for _, _, ended in found])
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def most_within(found: list[tuple[str, float, float]], seconds: float) -> int:
    """Count how many of these runs begin within so many seconds at most."""
    begun = [began for _, began, _ in found]
    return max(sum(1 for each in begun[first:] if each - start < seconds) for first, start in enumerate(begun))


def ready(app: App, queue: str) -> int:
    """How many messages of a queue nobody holds."""

    def ask(connection: Connection) -> Flow[int]:
        channel = connection.channel()
        state = yield channel.declare_queue(QueueSpec(queue), passive=True)
        yield channel.close()
        return int(state.messages)

    return flow.run(ask(app.link.connection(30.0)), 30.0)


def test_two_workers_keep_a_concurrency_together(limited: App, worker: Any, tmp_path: Path) -> None:
    """Six processes could; never more than two do, and two do."""
    workers = [worker("w1"), worker("w2")]
    results = [limited.send_task("two.work", (str(tmp_path), 0.03)) for _ in range(40)]
    for result in results:
        result.get(timeout=WAIT_SECONDS)
    found = runs(tmp_path)
    assert len(found) == 40
    assert most_at_once(found) == 2
    assert [each.stop() for each in workers] == [0, 0]
    assert ready(limited, TWO) == 2


@pytest.mark.parametrize("task", ["rate.fetch", "own.rated"])
def test_a_rate_is_never_exceeded(limited: App, worker: Any, tmp_path: Path, task: str) -> None:
    """Of all workers together, or of the one there is."""
    workers = [worker("w1"), worker("w2")] if task == "rate.fetch" else [worker("w1")]
    results = [limited.send_task(task, (str(tmp_path),)) for _ in range(60)]
    for result in results:
        result.get(timeout=WAIT_SECONDS)
    found = runs(tmp_path)
    assert len(found) == 60
    assert most_within(found, 1 - MARGIN_SECONDS) <= PER_SECOND
    assert [each.stop() for each in workers] == [0] * len(workers)


def test_one_at_a_time_for_each_customer(limited: App, worker: Any, tmp_path: Path) -> None:
    """By position and by keyword, over two workers; different customers do run at the same time."""
    for name in ("w1", "w2"):
        worker(name)
    results = []
    for number in range(24):
        customer = ("ann", "bob", "cem")[number % 3]
        if number % 2:
            results.append(limited.send_task("key.sync", (str(tmp_path), customer, 0.05)))
        else:
            results.append(limited.send_task("key.sync", (str(tmp_path),), {"customer": customer, "seconds": 0.05}))
    for result in results:
        result.get(timeout=WAIT_SECONDS)
    found = runs(tmp_path)
    assert len(found) == 24
    for customer in ("ann", "bob", "cem"):
        mine = [run for run in found if run[0] == customer]
        assert len(mine) == 8
        assert all(earlier[2] <= later[1] for earlier, later in pairwise(mine))
    assert most_at_once(found) > 1


def test_a_worker_that_is_killed_frees_its_permits(limited: App, worker: Any, tmp_path: Path, until: Until) -> None:
    """At once: the broker has them back, and the other worker begins."""
    first = worker("w1")
    for name in ("a", "b"):
        limited.send_task("two.hold", (str(tmp_path), name), reply="none")
    until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    worker("w2")
    third = limited.send_task("two.hold", (str(tmp_path), "c"))
    assert ready(limited, TWO) == 0
    first.kill()
    until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 4, "two more begin, on the other worker")
    (tmp_path / "open").touch()
    assert third.get(timeout=WAIT_SECONDS) == "c"


def test_other_tasks_of_the_queue_are_not_starved(limited: App, worker: Any, tmp_path: Path, until: Until) -> None:
    """Far more wait for a permit than the prefetch has places, in the same queue; they wait in the broker."""
    running = worker("w1", "--prefetch", "6")
    held = [limited.send_task("two.hold", (str(tmp_path), str(number))) for number in range(30)]
    until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    for number in range(20):
        assert limited.send_task("shop.add", (number, 1)).get(timeout=WAIT_SECONDS) == number + 1
    assert len(list(tmp_path.glob("*.begun.*"))) == 2
    (tmp_path / "open").touch()
    assert sorted(int(result.get(timeout=WAIT_SECONDS)) for result in held) == list(range(30))
    assert "waits for limits" not in running.text
    assert running.stop() == 0


def test_what_waits_for_a_permit_goes_back_at_once(limited: App, worker: Any, tmp_path: Path, until: Until) -> None:
    """On SIGTERM, while what runs is finished; another worker has it at once."""
    first = worker("w1", "--prefetch", "20")
    results = [limited.send_task("two.hold", (str(tmp_path), str(number))) for number in range(6)]
    until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    first.signal(15)
    first.says("warm shutdown: gave back 4 unbegun, finishing 2")
    until(lambda: ready(limited, "default") == 4)  # the broker has its own pace
    (tmp_path / "open").touch()
    assert first.exit_code() == 0
    worker("w2")
    assert sorted(result.get(timeout=WAIT_SECONDS) for result in results) == list("012345")


def test_a_worker_does_not_start_without_its_permit_queues(limited: App, start_worker: Any) -> None:
    """It says which is missing, and the remedy."""

    def delete(connection: Connection) -> Flow[None]:
        yield connection.channel().delete_queue(TWO)

    flow.run(delete(limited.link.connection(30.0)), 30.0)
    ended = start_worker("-A", "limited", "-t", "limited.yaml", wait=False)
    assert ended.exit_code() == 1
    assert f"missing on the broker: queue '{TWO}'" in ended.text
    assert "`amqpq topology apply` creates" in ended.text


def test_permits_too_many_do_not_stay_on_a_real_broker(limited: App) -> None:
    """Neither when they are put in, nor when they come back: the queue's length is its number of permits."""

    def surplus(connection: Connection) -> Flow[int]:
        holder, other = connection.channel(), connection.channel()
        first = yield holder.get(TWO)
        assert first is not None
        more = [Publication("", TWO, b"", Properties()) for _ in range(3)]
        yield other.publish(more)
        holder.reject(first.tag, requeue=True)
        yield holder.close()
        yield other.close()
        return 0

    flow.run(surplus(limited.link.connection(30.0)), 30.0)
    assert ready(limited, TWO) == 2


def test_control_changes_the_rate_of_a_running_worker(limited: App, worker: Any, tmp_path: Path) -> None:
    """What waits begins when the limit is taken away; what is wrong is refused with the remedy."""
    worker("w1")

    def tell(task: str, rate: object) -> dict[str, str]:
        arguments = {"task_name": task, "rate_limit": rate}
        (answer,) = limited.control.broadcast("rate_limit", arguments, reply=True, timeout=WAIT_SECONDS, limit=1)
        (said,) = answer.values()
        return dict(said)

    assert tell("own.rated", "1/h") == {"ok": "new rate limit set successfully"}
    results = [limited.send_task("own.rated", (str(tmp_path),)) for _ in range(3)]
    assert "did you mean 'own.rated'" in tell("own.rate", "1/h")["error"]
    assert "write a number and a unit: 10/s, 100/m, 5/h" in tell("own.rated", "often")["error"]
    assert tell("own.rated", 0) == {"ok": "rate limit disabled successfully"}
    for result in results:
        result.get(timeout=WAIT_SECONDS)
