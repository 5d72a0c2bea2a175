"""Tasks that take whole workers down: nobody is left to count, and they are found out all the same."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import WorkerLost
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.types import Delivery
from tests.acceptance.conftest import APPS, KEY, Starter

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

WAIT_SECONDS = 60.0
DEATHS = 4
"""The first return proves nothing, three marked ones do."""
INNOCENT = 20


@pytest.fixture
def app(vhost_url: str) -> Iterator[App]:
    """The application as a producer sees it."""
    with App(APPS / "poisonous.yaml", environ={"AMQPQ_BROKER_URL": vhost_url, "SHOP_KEY": KEY}) as made:
        flow.run(declare.apply(made.link.connection(30.0).channel, declarations(made.topology)), 60.0)
        yield made


@pytest.mark.parametrize("kind", ["classic", "strong"])
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_takes_workers_down_is_parked_and_takes_nobody_with_it(
    app: App, start_worker: Starter, until: Callable[..., None], tmp_path: Path, pool: str, kind: str
) -> None:
    """Four workers die of it; what they held beside it runs, and the next worker lives."""
    letters: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    subscription: Any = app.link.connection(WAIT_SECONDS).channel().consume("shop.dead", letters.put, no_ack=True)
    subscription.result(WAIT_SECONDS)
    poison = app.send_task(f"{kind}.take_down", (str(tmp_path),))
    innocent = [app.send_task(f"{kind}.add", (number, 1)) for number in range(INNOCENT)]
    size = () if pool == "solo" else ("-c", "2")
    worker = None
    for _ in range(DEATHS + 1):
        worker = start_worker("-A", "poisonous", "-P", pool, *size, wait=False)
        (tmp_path / "pid").write_text(str(worker.process.pid), encoding="utf-8")
        until(lambda process=worker.process: process.poll() is not None or not letters.empty())
    headers = letters.get(timeout=WAIT_SECONDS).properties.headers
    assert (headers["amqpq-cause"], headers["task"]) == ("crashed", f"{kind}.take_down")
    assert "3 times in a row" in headers["amqpq-reason"]
    assert len((tmp_path / "taken-down").read_text()) == DEATHS
    with pytest.raises(WorkerLost):
        poison.get(timeout=WAIT_SECONDS)
    assert app.collect(innocent, timeout=WAIT_SECONDS) == list(range(1, INNOCENT + 1))
    assert worker is not None
    assert worker.stop() == 0
    assert letters.empty()
