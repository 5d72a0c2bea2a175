"""The fault matrix tries itself: three quick cells, and what has no row. `make faults` runs all of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqpq import App
from amqpq.node import Node
from amqpq.testing.proxy import Proxy
from tests.faults import rows_network, rows_processes
from tests.faults.brokers import GivenNode, Vhost
from tests.faults.crew import Crew, environment
from tests.faults.scene import KEY, Column, Row, Scene, arguments, declare_all, play, write_topology
from tests.faults.tally import broken

pytestmark = [pytest.mark.acceptance]

ROWS = {row.name: row for row in (*rows_processes.ROWS, *rows_network.ROWS)}
DEADLINE_SECONDS = 60.0


@pytest.fixture
def vhost(private_node: Node) -> Iterator[Vhost]:
    """A vhost on the private node."""
    with Vhost(GivenNode(private_node), "faults-selftest") as made:
        yield made


def until(condition: object, what: str) -> None:
    """Wait for a condition; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while callable(condition) and not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in time"
        pause.wait(0.02)


def crew_for(tmp_path: Path, vhost: Vhost, urls: list[str]) -> tuple[App, Crew]:
    """A caller with a straight way to the broker, and workers with these addresses."""
    runs = tmp_path / "runs"
    runs.touch()
    secrets = {"FAULTS_KEY": KEY, "FAULTS_PASSWORD": vhost.password}
    app = App(write_topology(tmp_path / "caller.yaml", vhost.urls, "classic"), environ=secrets)
    declare_all(app)
    topology = write_topology(tmp_path / "workers.yaml", urls, "classic")
    return app, Crew(arguments("threads"), environment(topology, runs, secrets))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "pool"), [("worker-kill", "prefork"), ("template-child-kill", "prefork"), ("cut-inside-frames", "threads")]
)
def test_a_quick_cell_holds(private_node: Node, tmp_path: Path, row: str, pool: str) -> None:
    """Nothing is lost, nobody deaf, and no more run twice than was in flight."""
    tally = play(
        ROWS[row], Column(pool, "classic", "any"), GivenNode(private_node), count=300, folder=tmp_path / "cell"
    )
    assert broken(tally) == []
    assert tally.confirmed >= 300


@pytest.mark.slow
def test_a_cell_notices_a_loss_and_a_deaf_worker(private_node: Node, tmp_path: Path) -> None:
    """A fault that throws tasks away and stops a worker for good breaks the cell: the matrix can fail."""

    def sabotage(scene: Scene) -> None:
        with scene.traffic._changed:
            scene.traffic.confirmed["never-published"] = None
        hand = scene.crew.at_work[0]
        hand.process.terminate()
        hand.process.wait(DEADLINE_SECONDS)
        scene.struck()

    row = Row("sabotage", "tasks thrown away, a worker sent home", sabotage, patience_seconds=5.0)
    column = Column("threads", "classic", "any")
    tally = play(row, column, GivenNode(private_node), count=100, folder=tmp_path / "cell")
    assert [text.partition(" ")[0] for text in tally.lost] == ["never-published"]
    assert tally.exits == ("worker w1 ended by itself with 0",)
    assert len(broken(tally)) == 2


def test_a_worker_finds_the_one_address_that_answers(vhost: Vhost, tmp_path: Path) -> None:
    """Of three addresses one refuses and one takes connections and says nothing: the worker works by way of the third."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        port = vhost.server.nodes[0].ports.amqp
        ports = [gone.getsockname()[1], silent.getsockname()[1], port]
        gone.close()
        (good,) = vhost.urls
        app, crew = crew_for(tmp_path, vhost, [good.replace(f":{port}/", f":{other}/") for other in ports])
        with app:
            try:
                crew.hire()
                crew.ready()
                assert app.send_task("faults.whoami").get(timeout=DEADLINE_SECONDS) == "w1"
                assert crew.dismiss() == []
            finally:
                crew.kill()


def test_a_worker_whose_address_dies_goes_on_by_way_of_another(vhost: Vhost, tmp_path: Path) -> None:
    """Both of its connections move to the address that is left."""
    port = vhost.server.nodes[0].ports.amqp
    with Proxy("127.0.0.1", port) as first, Proxy("127.0.0.1", port) as second:
        (good,) = vhost.urls
        app, crew = crew_for(tmp_path, vhost, [good.replace(f":{port}/", f":{way.port}/") for way in (first, second)])
        with app:
            try:
                crew.hire()
                crew.ready()
                used = max(first, second, key=lambda way: way.connections)
                left = second if used is first else first
                used.close()
                until(lambda: left.connections == 2, "the move to the other address")
                assert app.send_task("faults.whoami").get(timeout=DEADLINE_SECONDS) == "w1"
                assert crew.dismiss() == []
            finally:
                crew.kill()


def test_a_worker_leaves_a_half_open_connection(vhost: Vhost, tmp_path: Path) -> None:
    """Its bytes are taken and nothing comes: missing heartbeats tell, and it works on new connections."""
    port = vhost.server.nodes[0].ports.amqp
    with Proxy("127.0.0.1", port) as way:
        (good,) = vhost.urls
        app, crew = crew_for(tmp_path, vhost, [good.replace(f":{port}/", f":{way.port}/")])
        with app:
            try:
                (hand,) = crew.hire()
                crew.ready()
                way.swallow()
                result = app.send_task("faults.whoami")
                hand.says("connection for consuming lost")
                assert result.get(timeout=DEADLINE_SECONDS) == "w1"
                assert crew.dismiss() == []
            finally:
                crew.kill()
