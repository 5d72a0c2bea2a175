"""Ten thousand dead letters of five causes: found, edited, sent back with the tool killed in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from amqpq import App
from amqpq.message import TaskEnvelope
from amqpq.transport import flow
from amqpq.transport.interface import Flow
from amqpq.types import Delivery, Publication
from amqpq.worker.deadletter import Evidence, Place, dead_letter
from tests.acceptance.conftest import APPS, worker_environment
from tests.acceptance.test_dead_letter_desk import DEAD, DEADLINE_SECONDS, dlq, go_on, publish, ready, rows

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]

EACH = 2000
CAUSES = ("failed", "unknown-task", "undecodable", "forged", "crashed")
NEEDLE = "failed-1234"
Until = Callable[..., None]


def parked(shop: App, cause: str, number: int) -> Publication:
    """What a worker parks for this cause."""
    task = "shop.gone" if cause == "unknown-task" else "shop.add"
    body, properties = shop.codec.encode_task(
        TaskEnvelope(f"{cause}-{number}", task, (number, 0)), exchange="", key="default"
    )
    if cause == "undecodable":
        body = b"\xc1" + body
    if cause == "forged":
        properties = properties._replace(headers={**properties.headers, "task": "shop.fail"})
    return dead_letter(
        Delivery(body, properties, "", "default", False, 1),
        queue="default",
        target=DEAD,
        place=Place("host-1", "w1@host-1"),
        evidence=Evidence(cause, f"because of {cause}", f"Traceback: {cause}-{number}.", 1, 1_790_000_000.0),
    )


def every_id(shop: App, queue: str) -> Counter[str]:
    """How often each id is in a queue; nothing is left of it."""
    channel = shop.link.connection(DEADLINE_SECONDS).channel()

    def take() -> Flow[Counter[str]]:
        found: Counter[str] = Counter()
        while True:
            taken = []
            for answer in [channel.get(queue, no_ack=True) for _ in range(500)]:
                taken.append((yield answer))  # noqa: PERF401 - a comprehension cannot yield
            found.update(delivery.properties.headers["id"] for delivery in taken if delivery is not None)
            if None in taken:
                return found

    return flow.run(take(), DEADLINE_SECONDS)


def test_ten_thousand_go_back_once_each_although_the_tool_is_killed(shop: App, vhost_url: str, until: Until) -> None:
    """Search finds the one, edit mends it, and of those sent back none is lost and none is doubled."""
    for cause in CAUSES:
        publish(shop, [parked(shop, cause, number) for number in range(EACH)])
    assert ready(shop, DEAD) == EACH * len(CAUSES)

    found = json.loads(dlq(vhost_url, "search", f"{NEEDLE}.", "--json").stdout)
    assert [row["id"] for row in found] == [NEEDLE]
    assert len(rows(vhost_url, "--cause", "forged", "--limit", "10000")) == EACH
    dlq(vhost_url, "edit", NEEDLE, "--args", "[4711, 1]", "--yes")
    until(lambda: ready(shop, "default") == 1)
    (row,) = rows(vhost_url, "--queue", "default")
    assert row["id"] == NEEDLE
    shown = dlq(vhost_url, "show", NEEDLE, "--queue", "default").stdout
    assert "arguments:  4711, 1" in shown
    assert "amqpq-edited-by: shop@" in shown
    assert "verified" in shown

    for moment in (500, 3000):
        process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "dlq", "requeue", "--all", "--rate", "5000/s"],
            cwd=APPS,
            env=worker_environment(vhost_url),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda moment=moment: ready(shop, "default") > moment)
        process.kill()
        process.wait(DEADLINE_SECONDS)
    go_on(shop, vhost_url, EACH * len(CAUSES), until)
    assert ready(shop, DEAD) == ready(shop, "shop.returning") == 0
    back = every_id(shop, "default")
    assert set(back) == {f"{cause}-{number}" for cause in CAUSES for number in range(EACH)}
    assert set(back.values()) == {1}
