"""`allow: {migrate: ...}` of the file: who may begin a migration, and with what in hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from amqpq.transport.interface import Connection
from amqpq.types import QueueSpec
from tests.support.lab import answer
from tests.support.project import Project

pytestmark = pytest.mark.integration


FILE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"orders": {"dead_letter": "none"}},
    "allow": {"migrate": "auto"},
}


@pytest.fixture
def amqpq(topology_folder: Path) -> Project:
    """The project of `FILE`, applied to a fresh virtual host."""
    project = Project(topology_folder, FILE)
    assert project("apply").exit_code == 0
    return project


def want(amqpq: Project, allow: str, **orders: Any) -> None:
    """Write the file, which wants the queue otherwise than it is."""
    amqpq.write(queues={"orders": {"dead_letter": "none", **orders}}, allow={"migrate": allow})


def migrate(amqpq: Project, *options: str) -> Result:
    """Run `amqpq topology migrate orders`, which nobody consumes."""
    return amqpq("migrate", "orders", "--without-workers", *options)


def exists(connection: Connection, queue: str) -> bool:
    """Whether the broker has a queue."""
    pending = connection.channel().declare_queue(QueueSpec(queue), passive=True)
    return pending.exception() is None


def test_never_is_never(amqpq: Project, connection: Connection) -> None:
    """Looking is allowed; nothing is made."""
    want(amqpq, "never", type="quorum")
    assert migrate(amqpq, "--dry").exit_code == 0
    result = migrate(amqpq)
    assert result.exit_code == 4
    assert "the file allows no migrations" in result.stderr
    assert not exists(connection, "orders.g2")


def test_what_was_reviewed_is_done_and_nothing_else(amqpq: Project, connection: Connection) -> None:
    """Without the code, and with the code of another migration, nothing is done."""
    want(amqpq, "reviewed", type="quorum")
    result = migrate(amqpq)
    assert result.exit_code == 4
    assert "the file asks for a review: look at `--dry`" in result.stderr
    code = migrate(amqpq, "--dry").stdout.split()[-1]
    assert migrate(amqpq, "--dry").stdout.split()[-1] == code
    want(amqpq, "reviewed", type="quorum", delivery_limit=3)
    other = migrate(amqpq, "--reviewed", code)
    assert other.exit_code == 4
    assert "what was reviewed is not what would be done now" in other.stderr
    assert not exists(connection, "orders.g2")
    want(amqpq, "reviewed", type="quorum")
    done = migrate(amqpq, "--reviewed", code)
    assert done.exit_code == 0, done.output
    assert exists(connection, "orders.g2")


def test_auto_asks_for_nothing(amqpq: Project, connection: Connection) -> None:
    """As without the key."""
    want(amqpq, "auto", type="quorum")
    assert migrate(amqpq).exit_code == 0
    assert exists(connection, "orders.g2")
    answer(connection.channel().declare_queue(QueueSpec("orders"), passive=True))
