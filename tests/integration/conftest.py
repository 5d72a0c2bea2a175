"""What tests need that speak to the broker past the application, and a folder for those that type its commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from amqpq.management import Management
from amqpq.transport import blocking, url
from amqpq.transport.interface import Connection
from tests.conftest import BrokerServer
from tests.support.lab import administrator, answer

CONNECT_SECONDS = 10


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection into a virtual host of this test's own, without heartbeats. A module that needs more makes its own."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=CONNECT_SECONDS)
    yield opened
    answer(opened.close())


@pytest.fixture
def vhost(vhost_url: str) -> str:
    """The name of this test's virtual host."""
    return unquote(urlsplit(vhost_url).path[1:])


@pytest.fixture
def api(broker_server: BrokerServer) -> Iterator[Management]:
    """A client of the management API with all rights."""
    with administrator(broker_server) as client:
        yield client


@pytest.fixture
def topology_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vhost_url: str, broker_server: BrokerServer
) -> Path:
    """The current folder, an empty one, for commands that find this test's virtual host and the management API."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    return tmp_path
