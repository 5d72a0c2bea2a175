"""`allow: {migrate: ...}` of the file: who may begin a migration, and with what in hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.transport.interface import Connection
from amqpq.types import QueueSpec
from tests.conftest import BrokerServer
from tests.support.lab import answer

pytestmark = pytest.mark.integration

Migrate: TypeAlias = Callable[..., Result]


@pytest.fixture
def migrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vhost_url: str, broker_server: BrokerServer) -> Migrate:
    """Run `amqpq topology migrate orders` in a folder with a file that wants it otherwise than it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    write()
    assert CliRunner().invoke(main, ["topology", "apply"]).exit_code == 0
    return lambda *arguments: CliRunner().invoke(
        main, ["topology", "migrate", "orders", "--without-workers", *arguments]
    )


def write(allow: str = "auto", **orders: Any) -> None:
    """Write the file."""
    queues = {"orders": {"dead_letter": "none", **orders}}
    document = {"amqpq": 1, "project": "shop", "queues": queues, "allow": {"migrate": allow}}
    Path("topology.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def exists(connection: Connection, queue: str) -> bool:
    """Whether the broker has a queue."""
    pending = connection.channel().declare_queue(QueueSpec(queue), passive=True)
    return pending.exception() is None


def test_never_is_never(migrate: Migrate, connection: Connection) -> None:
    """Looking is allowed; nothing is made."""
    write("never", type="quorum")
    assert migrate("--dry").exit_code == 0
    result = migrate()
    assert result.exit_code == 4
    assert "the file allows no migrations" in result.stderr
    assert not exists(connection, "orders.g2")


def test_what_was_reviewed_is_done_and_nothing_else(migrate: Migrate, connection: Connection) -> None:
    """Without the code, and with the code of another migration, nothing is done."""
    write("reviewed", type="quorum")
    result = migrate()
    assert result.exit_code == 4
    assert "the file asks for a review: look at `--dry`" in result.stderr
    code = migrate("--dry").stdout.split()[-1]
    assert migrate("--dry").stdout.split()[-1] == code
    write("reviewed", type="quorum", delivery_limit=3)
    other = migrate("--reviewed", code)
    assert other.exit_code == 4
    assert "what was reviewed is not what would be done now" in other.stderr
    assert not exists(connection, "orders.g2")
    write("reviewed", type="quorum")
    done = migrate("--reviewed", code)
    assert done.exit_code == 0, done.output
    assert exists(connection, "orders.g2")


def test_auto_asks_for_nothing(migrate: Migrate, connection: Connection) -> None:
    """As without the key."""
    write("auto", type="quorum")
    assert migrate().exit_code == 0
    assert exists(connection, "orders.g2")
    answer(connection.channel().declare_queue(QueueSpec("orders"), passive=True))
