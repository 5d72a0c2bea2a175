"""Objects that leave a real broker: unbound, emptied, deleted; and an exchange that gets another name under load."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from click.testing import CliRunner, Result

from amqpq.cli import applying
from amqpq.cli.main import main
from amqpq.management import Management, endpoint
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, Properties, Publication, QueueSpec
from tests.conftest import BrokerServer

pytestmark = pytest.mark.integration

SECONDS = 60
Amqpq: TypeAlias = Callable[..., Result]

FILE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "allow": {"delete": True},
    "exchanges": {"events": {"type": "topic"}},
    "queues": {"orders": {"dead_letter": "none"}},
    "bindings": ["events[order.#] -> orders"],
}


@pytest.fixture
def vhost(vhost_url: str) -> str:
    """The name of a fresh virtual host."""
    return unquote(urlsplit(vhost_url).path[1:])


@pytest.fixture
def api(broker_server: BrokerServer) -> Iterator[Management]:
    """A client with all rights."""
    user = urlsplit(broker_server.url)
    login = (unquote(user.username or "guest"), unquote(user.password or "guest"))
    with Management(endpoint(broker_server.management_url, login=login)) as client:
        yield client


@pytest.fixture
def amqpq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vhost_url: str, broker_server: BrokerServer) -> Amqpq:
    """Run `amqpq topology ...` in a folder with the file, on the fresh virtual host where it is applied."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    write()
    runner = CliRunner()

    def run(*arguments: str) -> Result:
        return runner.invoke(main, ["topology", *arguments])

    assert run("apply").exit_code == 0
    return run


def write(**sections: Any) -> None:
    """Write the file with some sections replaced."""
    Path("topology.yaml").write_text(yaml.safe_dump({**FILE, **sections}), encoding="utf-8")


def do(connection: Connection, *calls: Callable[[Channel], Pending[Any]]) -> list[Any]:
    """Make calls over AMQP."""

    def protocol() -> Flow[list[Any]]:
        answers = []
        for call in calls:
            channel = connection.channel()
            answers.append((yield call(channel)))
            channel.close()
        return answers

    return flow.run(protocol(), SECONDS)


def carried_out(amqpq: Amqpq) -> list[tuple[str, str]]:
    """Plan, keep, apply; return what was done."""
    planned = amqpq("plan", "--out", "kept.plan")
    assert planned.exit_code == 0, planned.output
    result = amqpq("apply", "kept.plan", "--json")
    assert result.exit_code == 0, result.output
    return [(step["operation"], step["name"]) for step in json.loads(result.stdout)["done"]]


def publish(connection: Connection, exchange: str, key: str) -> Any:
    """Publish one message, mandatory; return what became of it."""
    ((outcome,),) = do(
        connection, lambda channel: channel.publish((Publication(exchange, key, b"x", Properties(), mandatory=True),))
    )
    return outcome


def until_counted(api: Management, vhost: str, queue: str, ready: int) -> None:
    """Wait until the API's statistics know how many messages a queue holds."""
    deadline = time.monotonic() + SECONDS
    while not any(found.name == queue and found.ready == ready for found in api.queues(vhost)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_what_is_to_go_is_unbound_emptied_and_deleted(
    amqpq: Amqpq, connection: Connection, api: Management, vhost: str
) -> None:
    """A queue that was made by hand: no message is lost on the way, and drift is quiet while it waits."""
    do(
        connection,
        lambda channel: channel.declare_queue(QueueSpec("old")),
        lambda channel: channel.bind(BindingSpec("events", "old", "old.#")),
    )
    assert publish(connection, "events", "old.1").confirmed
    until_counted(api, vhost, "old", 1)
    write(decommission={"queues": ["old"]})
    assert carried_out(amqpq) == [("unbind", "events[old.#] -> old")]
    waiting = amqpq("plan")
    assert (
        "in `decommission`, and it holds 1 messages: kept until it is empty and unused"
        in amqpq("plan", "--info").stdout
    )
    assert "Plan: no changes." in waiting.stdout
    assert amqpq("drift").exit_code == 0
    assert do(connection, lambda channel: channel.get("old", no_ack=True))[0].body == b"x"
    until_counted(api, vhost, "old", 0)
    assert carried_out(amqpq) == [("delete queue", "old")]
    assert "in `decommission`, and gone; take it out of the file" in amqpq("plan", "--info").stdout
    assert amqpq("drift").exit_code == 0


def test_an_exchange_gets_another_name_without_a_message_lost_or_doubled(
    amqpq: Amqpq, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published to the old name before, after each step, and when all is done; then the line goes, and the exchange with it."""
    new = {
        "exchanges": {"happened": {"type": "topic"}},
        "bindings": ["happened[order.#] -> orders"],
    }
    write(**new, moved=[{"from": "exchange.events", "to": "exchange.happened"}])
    fates = [publish(connection, "events", "order.1")]
    monkeypatch.setattr(applying, "_print_step", lambda _: fates.append(publish(connection, "events", "order.1")))
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    assert amqpq("apply", "kept.plan").exit_code == 0
    fates += [publish(connection, "events", "order.1"), publish(connection, "happened", "order.1")]
    assert len(fates) == 7  # four steps: exchange, binding to it, its binding, the old one's
    assert all(fate.confirmed for fate in fates)
    (state,) = do(connection, lambda channel: channel.declare_queue(QueueSpec("orders"), passive=True))
    assert state.messages == len(fates)
    assert amqpq("drift").exit_code == 0
    write(**new)
    assert carried_out(amqpq) == [("unbind", "events[#] -> happened (exchange)"), ("delete exchange", "events")]
    assert amqpq("drift").exit_code == 0


def test_a_plain_apply_makes_both_names(amqpq: Amqpq, connection: Connection) -> None:
    """It removes nothing; a queue that is bound to both gets one copy."""
    write(
        exchanges={"happened": {"type": "topic"}},
        bindings=["happened[order.#] -> orders"],
        moved=[{"from": "exchange.events", "to": "exchange.happened"}],
    )
    assert amqpq("apply").exit_code == 0
    assert publish(connection, "events", "order.1").confirmed
    (state,) = do(connection, lambda channel: channel.declare_queue(QueueSpec("orders"), passive=True))
    assert state.messages == 1
