"""`amqpq topology graph --live` against a broker: what it says stands beside the queues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from amqpq.cli.main import main
from amqpq.transport import blocking, flow, url
from amqpq.transport.interface import Connection, Flow
from amqpq.types import PERSISTENT, Properties, Publication, QueueSpec
from tests.conftest import BrokerServer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("messages")]

SECONDS = 20

TOPOLOGY = """\
amqpq: 1
project: shop
queues: {full: {dead_letter: none}, empty: {dead_letter: none}, absent: {dead_letter: none}}
routes: {"*": {queue: full}}
security: {signing: off}
"""


@pytest.fixture
def messages(vhost_url: str) -> Iterator[None]:
    """Two of the three queues, and three messages in one of them."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)

    def declared() -> Flow[None]:
        channel = opened.channel()
        for name in ("full", "empty"):
            yield channel.declare_queue(QueueSpec(name, arguments={"x-queue-type": "classic"}))
        message = Publication("", "full", b"x", Properties(delivery_mode=PERSISTENT))
        yield channel.publish([message] * 3)

    flow.run(declared(), SECONDS)
    yield
    flow.run(_close(opened), SECONDS)


def _close(connection: Connection) -> Flow[None]:
    yield connection.close()


@pytest.fixture
def drawn(vhost_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw the topology, as data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    Path("topology.yaml").write_text(TOPOLOGY, encoding="utf-8")

    def draw() -> dict[str, Any]:
        result = CliRunner().invoke(main, ["topology", "graph", "--live", "--json"])
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        live = {node["title"]: node["live"] for node in found["nodes"] if node["kind"] == "queue"}
        return {**live, "note": found["notes"][-1]}

    return draw


def test_depths_come_over_amqp(drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the HTTP API: ready messages and consumers, what is missing, and how to see more."""
    monkeypatch.delenv("AMQPQ_MANAGEMENT_URL", raising=False)
    assert drawn() == {
        "full": ["3 ready · 0 consumers"],
        "empty": ["0 ready · 0 consumers"],
        "absent": ["not on the broker"],
        "note": "Depths over AMQP; `broker.management` in the file, or $AMQPQ_MANAGEMENT_URL, adds rates",
    }


def test_depths_come_over_the_http_api(
    drawn: Any, broker_server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the HTTP API the queues that exist are known as such, and the one that does not."""
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    found = drawn()
    assert found["note"] == "Depths and rates over the HTTP API"
    assert found["absent"] == ["not on the broker"]
    # Its numbers lag by a sampling interval; that there are some is all that can be said at once.
    assert found["full"] != ["not on the broker"]
    assert found["empty"] != ["not on the broker"]
