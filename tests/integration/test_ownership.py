"""A plain apply takes the project's lock and notes what the project owns, as far as its user may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amqpq.provision import journal
from amqpq.topology import load
from amqpq.transport import blocking, flow, url
from amqpq.transport.blocking import BlockingConnection
from amqpq.transport.interface import Channel, Connection
from amqpq.types import QueueSpec
from amqpq.worker import declaring
from tests.conftest import BrokerServer
from tests.support.lab import allow, answer, until
from tests.support.project import Project

pytestmark = pytest.mark.integration

SECONDS = 20

FILE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"web": {"type": "topic"}},
    "queues": {"high": {"max_priority": 10, "dead_letter": "none"}},
    "bindings": ["web[web.#] -> high"],
}
OWNED = {"exchange web", "queue high", "binding web[web.#] -> high"}


@pytest.fixture
def amqpq(topology_folder: Path) -> Project:
    """The project of `FILE`, of which nothing is on its fresh virtual host."""
    return Project(topology_folder, FILE)


@pytest.fixture
def other(vhost_url: str) -> Iterator[Connection]:
    """A connection with a name."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=SECONDS, name="the other one")
    yield opened
    answer(opened.close())


def test_a_plain_apply_notes_what_the_project_owns_once(amqpq: Project, connection: Connection) -> None:
    """The first one writes the manifest; the second one finds it as it should be, and writes nothing."""
    assert amqpq("apply").exit_code == 0
    assert journal.read(connection, "shop") == journal.Manifest(1, frozenset(OWNED))
    assert amqpq("apply").exit_code == 0
    assert journal.read(connection, "shop").serial == 1
    amqpq.write(queues={**FILE["queues"], "more": {"dead_letter": "none"}})
    assert amqpq("apply").exit_code == 0
    assert journal.read(connection, "shop") == journal.Manifest(2, frozenset({*OWNED, "queue more"}))


def test_what_a_plain_apply_made_goes_with_the_next_plan(amqpq: Project) -> None:
    """It is known to be the project's when it has left the file."""
    assert amqpq("apply").exit_code == 0
    amqpq.write(queues={"other": {"dead_letter": "none"}}, bindings=[], allow={"delete": True})
    planned = json.loads(amqpq("plan", "--json").stdout)
    gone = {change["address"] for change in planned["changes"] if change["action"] == "delete"}
    assert gone == {"queue high", "binding web[web.#] -> high"}


def test_what_exists_otherwise_is_not_ours(amqpq: Project, connection: Connection) -> None:
    """An object that could not be declared is not noted."""
    answer(connection.channel().declare_queue(QueueSpec("high")))
    assert amqpq("apply").exit_code == 3
    assert journal.read(connection, "shop").owned == OWNED - {"queue high"}


def test_of_two_plain_applies_the_second_is_told_who_holds_the_lock(amqpq: Project, other: Connection) -> None:
    """Nothing is declared meanwhile; when the other connection is gone, so is the lock."""
    flow.run(journal.lock(other.channel(), "shop"), SECONDS)
    result = amqpq("apply")
    assert result.exit_code == 1
    assert "another apply of project 'shop' runs" in result.stderr
    assert "; held by 'the other one' (" in result.stderr
    assert result.stdout == ""
    answer(other.close())
    assert amqpq("apply").exit_code == 0


def test_a_user_who_may_neither_lock_nor_note_applies_all_the_same(
    amqpq: Project, broker_server: BrokerServer, vhost_url: str
) -> None:
    """A line says what was not done; the objects are there."""
    allow(broker_server, vhost_url, configure="^(web|high)$", write="^(web|high)$")
    result = amqpq("apply")
    assert result.exit_code == 0, result.output
    said = result.stderr.splitlines()
    assert len(said) == 3
    assert said[0].startswith("without the project's lock, as the user may not declare it (ACCESS_REFUSED")
    assert said[1].startswith("what this project owns was not noted: ACCESS_REFUSED")
    assert said[2] == "3 objects: 2 created, 0 failed"
    assert amqpq("apply").stdout.splitlines()[1] == "= queue    high  already there"


def test_a_worker_that_declares_gives_the_lock_up(
    connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection lives on, and the next one who applies finds the lock free."""
    monkeypatch.setattr(declaring, "LOCK_SECONDS", 0.0)
    topology = load(FILE, environ={})
    assert declaring.declare_topology(topology, connection, SECONDS)
    assert journal.read(connection, "shop").owned == OWNED
    assert declaring.declare_topology(topology, other, SECONDS)


def test_a_worker_that_has_declared_keeps_no_channel_for_it(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection goes on for as long as it works."""
    opened: list[Channel] = []
    channel = BlockingConnection.channel

    def noted(connection: BlockingConnection) -> Channel:
        opened.append(channel(connection))
        return opened[-1]

    monkeypatch.setattr(BlockingConnection, "channel", noted)
    assert declaring.declare_topology(load(FILE, environ={}), connection, SECONDS)
    until(lambda: all(each.closed.done() for each in opened), "every channel closed")


def test_a_worker_that_may_neither_lock_nor_note_declares_all_the_same(
    broker_server: BrokerServer, connection: Connection, vhost_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was not done is in its log."""
    allow(broker_server, vhost_url, configure="^(web|high)$", write="^(web|high)$")
    caplog.set_level("INFO", "amqpq.worker")
    assert declaring.declare_topology(load(FILE, environ={}), connection, SECONDS)
    assert "without the project's lock" in caplog.text
    assert "what this project owns was not noted" in caplog.text


def test_a_worker_declares_nothing_while_somebody_else_changes_the_topology(
    connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for a while, says so, and goes on with what is there."""
    monkeypatch.setattr(declaring, "LOCK_SECONDS", 0.0)
    flow.run(journal.lock(other.channel(), "shop"), SECONDS)
    assert not declaring.declare_topology(load(FILE, environ={}), connection, SECONDS)
    assert "declares nothing, and takes what is there" in caplog.text
