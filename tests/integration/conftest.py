"""A connection for tests that speak to the broker past the application."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from amqpq.transport import blocking, url
from amqpq.transport.interface import Connection
from tests.support.lab import answer

CONNECT_SECONDS = 10


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection into a virtual host of this test's own, without heartbeats. A module that needs more makes its own."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=CONNECT_SECONDS)
    yield opened
    answer(opened.close())
