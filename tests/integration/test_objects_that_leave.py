"""Objects that leave a real broker: unbound, emptied, deleted; and an exchange that gets another name under load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amqpq.cli import applying
from amqpq.management import Management
from amqpq.transport.interface import Connection
from amqpq.types import BindingSpec, Properties, Publication, QueueSpec
from tests.support.lab import do, until_counted
from tests.support.project import Project

pytestmark = pytest.mark.integration

SECONDS = 60

FILE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "allow": {"delete": True},
    "exchanges": {"events": {"type": "topic"}},
    "queues": {"orders": {"dead_letter": "none"}},
    "bindings": ["events[order.#] -> orders"],
}


@pytest.fixture
def amqpq(topology_folder: Path) -> Project:
    """The project of `FILE`, applied to a fresh virtual host."""
    project = Project(topology_folder, FILE)
    assert project("apply").exit_code == 0
    return project


def publish(connection: Connection, exchange: str, key: str) -> Any:
    """Publish one message, mandatory; return what became of it."""
    ((outcome,),) = do(
        connection, lambda channel: channel.publish((Publication(exchange, key, b"x", Properties(), mandatory=True),))
    )
    return outcome


def test_what_is_to_go_is_unbound_emptied_and_deleted(
    amqpq: Project, connection: Connection, api: Management, vhost: str
) -> None:
    """A queue that was made by hand: no message is lost on the way, and drift is quiet while it waits."""
    do(
        connection,
        lambda channel: channel.declare_queue(QueueSpec("old")),
        lambda channel: channel.bind(BindingSpec("events", "old", "old.#")),
    )
    assert publish(connection, "events", "old.1").confirmed
    until_counted(api, vhost, "old", 1)
    amqpq.write(decommission={"queues": ["old"]})
    assert amqpq.done() == [("unbind", "events[old.#] -> old")]
    waiting = amqpq("plan")
    assert (
        "in `decommission`, and it holds 1 messages: kept until it is empty and unused"
        in amqpq("plan", "--info").stdout
    )
    assert "Plan: no changes." in waiting.stdout
    assert amqpq("drift").exit_code == 0
    assert do(connection, lambda channel: channel.get("old", no_ack=True))[0].body == b"x"
    until_counted(api, vhost, "old", 0)
    assert amqpq.done() == [("delete queue", "old")]
    assert "in `decommission`, and gone; take it out of the file" in amqpq("plan", "--info").stdout
    assert amqpq("drift").exit_code == 0


def test_an_exchange_gets_another_name_without_a_message_lost_or_doubled(
    amqpq: Project, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published to the old name before, after each step, and when all is done; then the line goes, and the exchange with it."""
    new = {
        "exchanges": {"happened": {"type": "topic"}},
        "bindings": ["happened[order.#] -> orders"],
    }
    amqpq.write(**new, moved=[{"from": "exchange.events", "to": "exchange.happened"}])
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
    amqpq.write(**new)
    assert amqpq.done() == [("unbind", "events[#] -> happened (exchange)"), ("delete exchange", "events")]
    assert amqpq("drift").exit_code == 0


def test_a_plain_apply_makes_both_names(amqpq: Project, connection: Connection) -> None:
    """It removes nothing; a queue that is bound to both gets one copy."""
    amqpq.write(
        exchanges={"happened": {"type": "topic"}},
        bindings=["happened[order.#] -> orders"],
        moved=[{"from": "exchange.events", "to": "exchange.happened"}],
    )
    assert amqpq("apply").exit_code == 0
    assert publish(connection, "events", "order.1").confirmed
    (state,) = do(connection, lambda channel: channel.declare_queue(QueueSpec("orders"), passive=True))
    assert state.messages == 1
