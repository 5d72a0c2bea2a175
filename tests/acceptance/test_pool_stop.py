"""How each pool ends, and what it survives: stopping under load, tasks that yield to nobody, processes that die."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from amqpq import App
from amqpq.errors import WorkerLost
from amqpq.transport.flow import run
from amqpq.transport.interface import Flow, Pending
from amqpq.types import QueueSpec, QueueState
from tests.acceptance.conftest import Starter, until
from tests.acceptance.test_pool_conformance import POOLS, SIZE, options
from tests.conftest import BrokerServer

pytestmark = pytest.mark.acceptance

measured = logging.getLogger("measured")

WAIT_SECONDS = 60.0
HUBS = ("asyncio", "gevent", "eventlet")
HELD_UP_SECONDS = 7
"""More than three heartbeats of the topology, which are two seconds apart."""


@pytest.fixture
def ready(shop: App) -> Callable[[], int]:
    """Asks the broker how many messages of the queue nobody holds."""
    channel = shop.link.connection(WAIT_SECONDS).channel()

    def ask() -> int:
        pending: Pending[QueueState] = channel.declare_queue(QueueSpec("default"), passive=True)

        def waiting() -> Flow[QueueState]:
            return (yield pending)

        return run(waiting(), WAIT_SECONDS).messages

    return ask


@pytest.mark.parametrize("pool", POOLS)
def test_a_stop_under_load_loses_nothing(shop: App, start_worker: Starter, pool: str) -> None:
    """A worker that stops in the middle ends with 0, and with another one there every result arrives."""
    first = start_worker(*options(pool, "-n", "first@%h"))
    second = start_worker(*options("prefork", "-n", "second@%h"))
    results = [shop.send_task("crowd.nap", (0.02, number)) for number in range(300)]
    results[20].get(timeout=WAIT_SECONDS)
    assert first.stop() == 0, first.text
    assert [result.get(timeout=WAIT_SECONDS) for result in results if result is not results[20]] == [
        number for number in range(300) if number != 20
    ]
    assert second.stop() == 0


@pytest.mark.parametrize("pool", POOLS)
def test_a_stop_gives_back_at_once_what_was_not_begun(
    shop: App,
    start_worker: Starter,
    tmp_path: Path,
    ready: Callable[[], int],
    pool: str,
) -> None:
    """While running tasks finish, the others are at the broker again, for other workers."""
    size = 1 if pool == "solo" else SIZE
    worker = start_worker(*options(pool, "--prefetch", "64"))
    results = [shop.send_task("crowd.hold", (str(tmp_path), str(number))) for number in range(size + 20)]
    until(lambda: len(list(tmp_path.glob("*.begun"))) == size and ready() == 0)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    until(lambda: ready() == 20)
    # Measured, not asserted; `pytest -o log_cli_level=INFO` shows it.
    measured.info("%s: %.0f ms from the signal until the broker had them again", pool, 1e3 * (time.monotonic() - began))
    (tmp_path / "open").touch()
    assert worker.exit_code() == 0, worker.text
    start_worker(*options("threads"))
    assert sorted(int(result.get(timeout=WAIT_SECONDS)) for result in results) == list(range(size + 20))


@pytest.mark.parametrize("pool", POOLS)
def test_a_second_signal_gives_back_what_runs(
    shop: App, start_worker: Starter, tmp_path: Path, ready: Callable[[], int], pool: str
) -> None:
    """The worker ends with 3, whatever its tasks do, and nothing of theirs goes on."""
    size = 1 if pool == "solo" else SIZE
    worker = start_worker(*options(pool))
    results = [shop.send_task("crowd.hold", (str(tmp_path), str(number))) for number in range(size)]
    until(lambda: len(list(tmp_path.glob("*.begun"))) == size)
    worker.signal(signal.SIGTERM)
    worker.says("warm shutdown")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 3, worker.text
    until(lambda: ready() == size)
    (tmp_path / "open").touch()
    start_worker(*options("threads"))
    assert sorted(int(result.get(timeout=WAIT_SECONDS)) for result in results) == list(range(size))


@pytest.mark.parametrize("pool", HUBS)
def test_what_waits_behind_a_task_that_yields_to_nobody_goes_back(
    shop: App, start_worker: Starter, tmp_path: Path, ready: Callable[[], int], pool: str
) -> None:
    """It lies in the same process already; a thread that user code cannot hold up returns it."""
    worker = start_worker(*options(pool))
    spin = "crowd.spin_later" if pool == "asyncio" else "crowd.spin"
    spinning = shop.send_task(spin, (str(tmp_path), "a"))
    until(lambda: list(tmp_path.glob("*.begun")))
    waiting = [shop.send_task("crowd.add", (number, 1)) for number in range(3)]
    until(lambda: ready() == 0)
    worker.signal(signal.SIGTERM)
    until(lambda: ready() == 3)
    (tmp_path / "open").touch()
    assert spinning.get(timeout=WAIT_SECONDS) == "a"
    assert worker.exit_code() == 0, worker.text
    start_worker(*options("threads"))
    assert [result.get(timeout=WAIT_SECONDS) for result in waiting] == [1, 2, 3]


@pytest.fixture
def connections(broker_server: BrokerServer, vhost_url: str) -> Callable[[], set[str]]:
    """Asks the broker which connections the worker has."""
    vhost = quote(urlsplit(vhost_url).path[1:], safe="")

    def ask() -> set[str]:
        listed: Any = broker_server.request("GET", f"vhosts/{vhost}/connections")
        return {
            each["name"]
            for each in listed
            if any(
                purpose in str(each.get("client_properties", {}).get("connection_name", ""))
                for purpose in ("consuming", "publishing")
            )
        }

    return ask


@pytest.mark.slow
@pytest.mark.parametrize(
    "pool, task",
    [
        ("prefork", "grip"),
        *((pool, "grip") for pool in HUBS),
        ("asyncio", "spin_for_later"),
        ("gevent", "spin_for"),
        ("eventlet", "spin_for"),
    ],
)
def test_a_task_that_yields_to_nobody_does_not_cost_the_connection(
    shop: App, start_worker: Starter, connections: Callable[[], set[str]], pool: str, task: str
) -> None:
    """For more than three heartbeats, even with the interpreter's lock in its hand: the broker sees the same connections."""
    worker = start_worker(*options(pool))
    until(lambda: len(connections()) == 2)
    before = connections()
    shop.send_task(f"crowd.{task}", (HELD_UP_SECONDS,)).get(timeout=WAIT_SECONDS)
    assert connections() == before
    assert shop.send_task("crowd.add", (1, 2)).get(timeout=WAIT_SECONDS) == 3
    assert worker.stop() == 0
    assert "reconnecting" not in worker.text


@pytest.mark.slow
def test_a_log_that_nobody_reads_does_not_cost_the_connection(
    shop: App, start_worker: Starter, connections: Callable[[], set[str]]
) -> None:
    """A terminal that was stopped, a collector that hangs: the worker stands still, the broker sees the same connections."""
    worker = start_worker(*options("prefork"))
    until(lambda: len(connections()) == 2)
    before = connections()
    worker.listening.clear()
    with shop.batch():
        for number in range(1000):
            shop.send_task("crowd.add", (number, 1), ignore_result=True)
    last = shop.send_task("crowd.add", (1, 1))
    threading.Event().wait(HELD_UP_SECONDS)
    with pytest.raises(TimeoutError):
        last.get(timeout=0.5)
    assert connections() == before
    worker.listening.set()
    assert last.get(timeout=WAIT_SECONDS) == 2
    assert worker.stop() == 0
    assert "reconnecting" not in worker.text


@pytest.mark.parametrize("pool", HUBS)
def test_only_the_guilty_task_is_parked_when_many_share_a_process(
    shop: App, start_worker: Starter, tmp_path: Path, pool: str
) -> None:
    """All that ran are suspects and run alone; those that did nothing are done, the other one dies three times."""
    worker = start_worker(*options(pool))
    innocent = [shop.send_task("crowd.hold", (str(tmp_path), str(number))) for number in range(2)]
    until(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
    guilty = shop.send_task("crowd.die", (str(tmp_path), "guilty"))
    worker.says("with 3 tasks in it")
    (tmp_path / "open").touch()
    assert [result.get(timeout=WAIT_SECONDS) for result in innocent] == ["0", "1"]
    with pytest.raises(WorkerLost, match="was killed by SIGABRT while it ran this task"):
        guilty.get(timeout=WAIT_SECONDS)
    assert len(list(tmp_path.glob("guilty.died.*"))) == 3
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_autoscaled_worker_grows_with_its_work(shop: App, start_worker: Starter, tmp_path: Path, pool: str) -> None:
    """It starts small; tasks that wait are begun without any other having ended."""
    worker = start_worker("-A", "crowd", "-P", pool, "--autoscale", "3,1")
    assert f"{pool}, 1 to 3 " in worker.text
    results = [shop.send_task("crowd.hold", (str(tmp_path), str(number))) for number in range(4)]
    worker.says("grows from 1 to 2").says("grows from 2 to 3")
    until(lambda: len(list(tmp_path.glob("*.begun"))) == 3)
    (tmp_path / "open").touch()
    assert [result.get(timeout=WAIT_SECONDS) for result in results] == ["0", "1", "2", "3"]
    assert worker.stop() == 0
