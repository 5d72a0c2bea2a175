"""Partitioned queues on a real broker: where messages go, who takes them, and in what order they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.transport.interface import Connection, Flow
from amqpq.types import QueueSpec
from tests.acceptance.conftest import APPS, KEY, WorkerProcess

pytestmark = pytest.mark.acceptance

WAIT_SECONDS = 60.0
PARTITIONS = 4
USERS = [f"user-{number}" for number in range(40)]

Until = Callable[..., None]


@pytest.fixture
def app(vhost_url: str) -> Iterator[App]:
    """The producer; its topology is on the broker."""
    with App(APPS / "partitioned.yaml", environ={"AMQPQ_BROKER_URL": vhost_url, "SHOP_KEY": KEY}) as opened:
        applied = flow.run(
            declare.apply(opened.link.connection(30.0).channel, declarations(opened.topology)), WAIT_SECONDS
        )
        declare.demand(applied)
        yield opened


@pytest.fixture
def worker(start_worker: Any) -> Callable[..., WorkerProcess]:
    """Starts a worker of these queues."""

    def start(name: str, queues: str, *arguments: str) -> WorkerProcess:
        started: WorkerProcess = start_worker(
            "-A", "partitioned", "-t", "partitioned.yaml", "-n", f"{name}@%h", "-Q", queues, *arguments
        )
        return started

    return start


def counts(app: App, queue: str) -> list[int]:
    """How many messages wait in each partition."""

    def ask(connection: Connection) -> Flow[list[int]]:
        found = []
        channel = connection.channel()
        for number in range(PARTITIONS):
            state = yield channel.declare_queue(QueueSpec(f"{queue}.{number}"), passive=True)
            found.append(int(state.messages))
        channel.close()
        return found

    return flow.run(ask(app.link.connection(30.0)), 30.0)


def partition_of(app: App, queue: str, publish: Callable[[], object]) -> int:
    """Return the partition that one message goes to."""
    before = counts(app, queue)
    publish()
    return [now - then for now, then in zip(counts(app, queue), before, strict=True)].index(1)


def runs(folder: Path) -> list[tuple[str, int]]:
    """Return user and number of each run, in the order of their beginnings."""
    file = folder / "runs"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(user, int(number)) for user, number, _ in lines]


def test_keys_spread_and_each_stays_in_its_partition(app: App, tmp_path: Path) -> None:
    """Forty users leave no partition empty, and all that is for one of them is in one."""
    for user in USERS:
        app.send_task("clicks.note", (str(tmp_path), 0), {"user": user}, reply="none")
    first = counts(app, "clicks")
    assert sum(first) == len(USERS)
    assert all(first)
    for number in range(20):
        app.send_task("clicks.note", (str(tmp_path), number), {"user": "ann"}, reply="none")
    assert sorted(now - then for now, then in zip(counts(app, "clicks"), first, strict=True)) == [0, 0, 0, 20]


def test_a_header_or_a_property_chooses_where_the_file_says_so(app: App, tmp_path: Path) -> None:
    """One site is in one partition; tasks of a queue by task id spread without anybody giving a key."""
    for number in range(40):
        app.send_task("sites.note", (str(tmp_path), number), {}, headers={"site": "a"}, reply="none")
        app.send_task("jobs.note", (str(tmp_path), number), {}, reply="none")
    assert sorted(counts(app, "sites")) == [0, 0, 0, 40]
    assert all(counts(app, "jobs"))


def test_a_binding_leads_to_the_partition_of_the_key(app: App, tmp_path: Path) -> None:
    """What comes over another exchange is spread by its routing key there."""
    for user in USERS:
        app.send_task("seen.note", (str(tmp_path), 0), {"user": user})
    found = counts(app, "clicks")
    assert sum(found) == len(USERS)
    assert all(found)


def test_a_worker_takes_all_partitions_or_some(app: App, worker: Any, until: Until, tmp_path: Path) -> None:
    """`-Q clicks.0-1` leaves the other two full; `-Q clicks` takes the rest."""
    for user in USERS:
        app.send_task("clicks.note", (str(tmp_path), 0), {"user": user}, reply="none")
    before = counts(app, "clicks")
    some = worker("some", "clicks.0-1", "-c", "1")
    until(lambda: len(runs(tmp_path)) == before[0] + before[1], "the runs of two partitions")
    assert some.stop() == 0
    assert counts(app, "clicks") == [0, 0, *before[2:]]
    rest = worker("rest", "clicks", "-c", "1")
    until(lambda: len(runs(tmp_path)) == len(USERS), "the runs of all partitions")
    assert rest.stop() == 0
    assert {user for user, _ in runs(tmp_path)} == set(USERS)


def test_delays_and_retries_come_to_the_same_partition(app: App, worker: Any, tmp_path: Path) -> None:
    """A worker of that partition alone runs what was delayed for the key, and the next attempt of what failed."""
    number = partition_of(
        app, "clicks", lambda: app.send_task("clicks.note", (str(tmp_path), 0), {"user": "ann"}, reply="none")
    )
    only = worker("only", f"clicks.{number}", "-c", "1")
    later = app.send_task("clicks.note", (str(tmp_path), 1), {"user": "ann"}, countdown=0.3)
    again = app.send_task("clicks.flaky", (str(tmp_path), 2), {"user": "ann"})
    assert later.get(timeout=WAIT_SECONDS) == "ann"
    assert again.get(timeout=WAIT_SECONDS) == "ann"
    assert only.stop() == 0
    assert [number for _, number in runs(tmp_path)].count(2) == 2


def test_the_order_of_each_key_survives_workers_that_die(app: App, worker: Any, until: Until, tmp_path: Path) -> None:
    """Of two workers with four processes each one is killed twice; what is run twice is run at once, and none overtakes."""
    users, each = USERS[:8], 40
    lost = worker("w1", "orders", "-c", "4")
    kept = worker("w2", "orders", "-c", "4")
    for number in range(each):
        for user in users:
            app.send_task("orders.note", (str(tmp_path), number), {"user": user})
        if number in {each // 3, 2 * each // 3}:
            begun = len(runs(tmp_path))
            until(lambda begun=begun: len(runs(tmp_path)) > begun, "another run")
            lost.kill()
            lost = worker("w1", "orders", "-c", "4")
    until(lambda: len(set(runs(tmp_path))) == len(users) * each, "a run of every task")
    for user in users:
        numbers = [number for name, number in runs(tmp_path) if name == user]
        assert numbers == sorted(numbers), user
    assert [lost.stop(), kept.stop()] == [0, 0]


def test_a_task_that_kills_its_process_keeps_its_place(app: App, worker: Any, until: Until, tmp_path: Path) -> None:
    """It is run again before what was sent after it for the same key."""
    app.send_task("orders.crash", (str(tmp_path), 0), {"user": "ann"})
    for number in range(1, 6):
        app.send_task("orders.note", (str(tmp_path), number), {"user": "ann"})
    started = worker("w1", "orders", "-c", "2")
    until(lambda: len(runs(tmp_path)) == 7, "seven runs")
    assert [number for _, number in runs(tmp_path)] == [0, 0, 1, 2, 3, 4, 5]
    assert started.stop() == 0
