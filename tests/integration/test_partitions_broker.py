"""Partitioned queues and the broker itself: restarts, another number of partitions, a plugin that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.node import Node, options
from amqpq.topology import load
from amqpq.topology.declarations import declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection, Flow
from amqpq.types import Properties, Publication, QueueSpec
from tests.support.lab import answer

pytestmark = pytest.mark.integration

SECONDS = 30
REMEMBERED = (4, 3, 0)
KEYS = [f"key-{number}" for number in range(60)]
FILE = """\
amqpq: 1
project: shop
security: {signing: off}
queues:
  clicks: {type: quorum, partitions: COUNT}
routes:
  "*": {queue: clicks, key: "{user}"}
checks:
  - {publish: {task: click, with: {user: ann}}, reaches: [clicks], exactly: true}
"""
PLUGIN = "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in a folder, on a file with so many partitions."""

    def command(broker: str, count: int, *arguments: str) -> Result:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("AMQPQ_BROKER_URL", broker)
        (tmp_path / "topology.yaml").write_text(FILE.replace("COUNT", str(count)))
        return CliRunner().invoke(main, [*arguments])

    return command


def opened(broker: str) -> Connection:
    """Connect."""
    return blocking.connect(url.parse(broker), heartbeat_seconds=0, timeout_seconds=SECONDS)


def applied(connection: Connection, count: int) -> None:
    """Declare so many partitions."""
    topology = load(
        {"amqpq": 1, "project": "shop", "queues": {"clicks": {"type": "quorum", "partitions": count}}}, environ={}
    )
    declare.demand(flow.run(declare.apply(connection.channel, declarations(topology)), SECONDS))


def sent(connection: Connection, keys: list[str]) -> None:
    """Publish one message for each key, which is its body too."""

    def publish() -> Flow[Any]:
        channel = connection.channel()
        messages = [Publication("clicks.hash", key, key.encode(), Properties(delivery_mode=2)) for key in keys]
        outcomes = yield channel.publish(messages)
        channel.close()
        return outcomes

    assert all(outcome.confirmed for outcome in flow.run(publish(), SECONDS))


def homes(connection: Connection, count: int) -> dict[str, int]:
    """Take everything out, and return the partition that each key was in."""

    def take() -> Flow[dict[str, int]]:
        found: dict[str, int] = {}
        channel = connection.channel()
        for number in range(count):
            while (message := (yield channel.get(f"clicks.{number}"))) is not None:
                found[message.body.decode()] = number
                channel.ack(message.tag)
        channel.close()
        return found

    return flow.run(take(), SECONDS)


def waiting(connection: Connection, count: int) -> int:
    """How many messages wait in all partitions."""

    def ask() -> Flow[int]:
        channel = connection.channel()
        states = []
        for number in range(count):
            states.append((yield channel.declare_queue(QueueSpec(f"clicks.{number}"), passive=True)))  # noqa: PERF401
        channel.close()
        return sum(int(state.messages) for state in states)

    return flow.run(ask(), SECONDS)


def test_a_restart_leaves_keys_in_their_partitions_where_the_broker_remembers(
    private_node: Node, private_vhost_url: str
) -> None:
    """RabbitMQ 4.3 does. Before, some keys may have moved; still each has one partition, and nothing is lost."""
    connection = opened(private_vhost_url)
    applied(connection, 12)
    sent(connection, KEYS)
    before = homes(connection, 12)
    assert set(before) == set(KEYS)
    assert len(set(before.values())) > 6
    answer(connection.close())
    private_node.restart()
    connection = opened(private_vhost_url)
    sent(connection, KEYS)
    after = homes(connection, 12)
    assert set(after) == set(KEYS)
    if connection.server.version_tuple >= REMEMBERED:
        assert after == before
    sent(connection, KEYS)
    assert homes(connection, 12) == after
    answer(connection.close())


@pytest.mark.parametrize(("first", "then"), [(4, 6), (6, 4)])
def test_apply_refuses_another_number_of_partitions_in_use(vhost_url: str, run: Run, first: int, then: int) -> None:
    """What there is stays as it is, nothing is bound, and the sentence says the way."""
    connection = opened(vhost_url)
    applied(connection, first)
    sent(connection, KEYS)
    refused = run(vhost_url, then, "topology", "apply")
    assert refused.exit_code == 3, refused.output
    assert "delete the exchange 'clicks.hash'" in refused.output
    assert set(homes(connection, first)) == set(KEYS)
    sent(connection, KEYS)
    assert waiting(connection, first) == len(KEYS)
    answer(connection.close())


@pytest.mark.parametrize(("first", "then"), [(4, 6), (6, 4)])
def test_plan_forbids_another_number_until_the_exchange_is_gone(
    vhost_url: str, run: Run, broker_server: Any, monkeypatch: pytest.MonkeyPatch, first: int, then: int
) -> None:
    """It plans nothing of it, and says the way; when that was gone, the plan makes what the file says."""
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    connection = opened(vhost_url)
    applied(connection, first)
    forbidden = run(vhost_url, then, "topology", "plan", "--detailed-exitcode")
    assert forbidden.exit_code == 4, forbidden.output
    assert "delete the exchange 'clicks.hash'" in forbidden.output
    assert not any(line.strip().startswith("+") for line in forbidden.output.splitlines())
    answer(connection.channel().delete_exchange("clicks.hash"))
    planned = run(vhost_url, then, "topology", "plan", "--detailed-exitcode")
    assert planned.exit_code == 2, planned.output
    assert f"clicks.{then - 1}" in planned.output
    answer(connection.close())


def test_plan_finds_nothing_after_an_apply(
    vhost_url: str, run: Run, broker_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchange, partitions and bindings are as the file says."""
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    assert run(vhost_url, 4, "topology", "apply").exit_code == 0
    found = run(vhost_url, 4, "topology", "plan", "--detailed-exitcode")
    assert found.exit_code == 0, found.output


@pytest.fixture
def without_plugin(private_node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Restarts the private node without the plugin; at the end it has it again."""

    def restart() -> None:
        monkeypatch.setattr(options, "render_plugins", lambda _: "[rabbitmq_management].\n")
        private_node.restart()

    yield restart
    monkeypatch.undo()
    private_node.restart()


def test_without_the_plugin_apply_and_worker_say_how_to_enable_it(
    private_vhost_url: str, run: Run, without_plugin: Callable[[], None], tmp_path: Path
) -> None:
    """Neither a new exchange can be made, nor is one that is there of any use."""
    (tmp_path / "clicks.py").write_text(
        "from amqpq import App\napp = App('topology.yaml')\napp.task(name='click')(print)\n"
    )
    assert run(private_vhost_url, 4, "topology", "apply").exit_code == 0
    without_plugin()
    worker = run(private_vhost_url, 4, "worker", "-A", "clicks", "-P", "solo")
    assert worker.exit_code == 1, worker.output
    assert PLUGIN in worker.output
    (tmp_path / "topology.yaml").unlink()
    other = run(private_vhost_url, 4, "topology", "apply")
    assert other.exit_code == 1, other.output
    assert PLUGIN in other.output
