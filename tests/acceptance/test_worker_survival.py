"""Workers and brokers that die in the middle of it: nothing is missing afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import TransportError
from amqpq.node import Node

pytestmark = [pytest.mark.acceptance]

WAIT_SECONDS = 120.0


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def begun(folder: Path) -> list[str]:
    """Names of tasks that have begun, one per run."""
    return [path.name.partition(".")[0] for path in folder.glob("*.begun.*")]


def test_a_killed_worker_loses_no_result(shop: App, start_worker: Any, until: Callable[..., None]) -> None:
    """kill -9 of one of two workers in the middle of 500 tasks: every result arrives, and no orphan works on."""
    doomed = start_worker("-c", "2", "-n", "w1@%h")
    start_worker("-c", "2", "-n", "w2@%h")
    with shop.batch():
        results = [shop.send_task("shop.nap", (0.02, number)) for number in range(500)]
    doomed.says("succeeded", times=30)
    children = doomed.children()
    assert len(children) == 2
    doomed.kill()
    until(lambda: not any(alive(pid) for pid in children), "the end of the killed worker's children")
    start_worker("-c", "2", "-n", "w3@%h")
    assert shop.collect(results, timeout=WAIT_SECONDS) == list(range(500))


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restarted_broker_loses_no_confirmed_task(
    private_shop: App, start_private_worker: Any, private_node: Node, end: str
) -> None:
    """The broker ends in the middle of 2,000 tasks, in order or by SIGKILL, and comes back: all that was confirmed is done."""
    workers = [start_private_worker("-c", "1", "-n", f"w{number}@%h") for number in (1, 2)]
    confirmed: dict[int, Any] = {}
    half_way = threading.Event()

    def produce() -> None:
        for number in range(2000):
            try:
                confirmed[number] = private_shop.send_task("shop.add", (number, 1))
            except TransportError:
                continue  # not confirmed: nothing is promised
            finally:
                if number == 700:
                    half_way.set()

    producer = threading.Thread(target=produce)
    producer.start()
    assert half_way.wait(WAIT_SECONDS)
    getattr(private_node, end)()
    private_node.start()
    producer.join(WAIT_SECONDS)
    assert not producer.is_alive()
    assert len(confirmed) > 1500
    results = private_shop.collect(list(confirmed.values()), timeout=WAIT_SECONDS)
    assert results == [number + 1 for number in confirmed]
    assert [worker.stop() for worker in workers] == [0, 0]


def test_sigterm_finishes_what_runs_and_returns_the_rest(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None]
) -> None:
    """The unbegun go to another worker while the running one is still at it; exit code 0."""
    stopping = start_worker("-c", "1", "-Q", "default", "--prefetch", "8")
    results = [shop.send_task("shop.hold", (str(tmp_path), f"t{number}")) for number in range(6)]
    until(lambda: begun(tmp_path))
    stopping.signal(signal.SIGTERM)
    stopping.says("warm shutdown")
    start_worker("-c", "5", "-Q", "default")
    until(lambda: len(begun(tmp_path)) == 6, "the start of the returned tasks elsewhere")
    assert stopping.process.poll() is None
    (tmp_path / "open").touch()
    assert stopping.exit_code() == 0
    assert shop.collect(results, timeout=WAIT_SECONDS) == [f"t{number}" for number in range(6)]
    assert sorted(begun(tmp_path)) == [f"t{number}" for number in range(6)], "each ran once"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_second_sigterm_stops_at_once(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None], pool: str
) -> None:
    """What runs is cut off and given back; the exit code says so; another worker does it."""
    stopping = start_worker("-P", pool)
    result = shop.send_task("shop.hold", (str(tmp_path), "cut"))
    until(lambda: begun(tmp_path))
    children = stopping.children()
    stopping.signal(signal.SIGTERM)
    stopping.says("warm shutdown")
    stopping.signal(signal.SIGTERM)
    assert stopping.exit_code() == 3
    assert not any(alive(pid) for pid in children)
    start_worker("-c", "1")
    (tmp_path / "open").touch()
    assert result.get(timeout=WAIT_SECONDS) == "cut"


def test_the_shutdown_timeout_ends_a_warm_stop(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None]
) -> None:
    """A task that does not end in time is given back, and the exit code says so."""
    stopping = start_worker("-c", "1", "--shutdown-timeout", "0.2")
    shop.send_task("shop.hold", (str(tmp_path), "slow"))
    until(lambda: begun(tmp_path))
    assert stopping.stop() == 3


def test_an_interrupt_of_the_terminal_is_a_warm_stop(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None]
) -> None:
    """Ctrl-C reaches the worker, which finishes what runs; its children do not die of it."""
    stopping = start_worker("-c", "1")
    result = shop.send_task("shop.hold", (str(tmp_path), "interrupted"))
    until(lambda: begun(tmp_path))
    for pid in (*stopping.children(), stopping.process.pid):
        os.kill(pid, signal.SIGINT)
    stopping.says("warm shutdown")
    (tmp_path / "open").touch()
    assert stopping.exit_code() == 0
    assert result.get(timeout=WAIT_SECONDS) == "interrupted"


def test_a_short_task_does_not_wait_behind_a_long_one(shop: App, start_worker: Any, tmp_path: Path) -> None:
    """After many short tasks a child has several at once; if one turns out long, the others go elsewhere."""
    start_worker("-c", "2", "--prefetch", "100")
    with shop.batch():
        results = [shop.send_task("shop.add", (number, 0)) for number in range(200)]
        long = shop.send_task("shop.hold", (str(tmp_path), "long"))
        results += [shop.send_task("shop.add", (number, 0)) for number in range(200)]
    assert shop.collect(results, timeout=WAIT_SECONDS) == [*range(200), *range(200)]
    assert not long.ready()
    (tmp_path / "open").touch()
    assert long.get(timeout=WAIT_SECONDS) == "long"
