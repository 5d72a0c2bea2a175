"""The laboratory of the live tests: a fresh vhost of the session's broker for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import BrokerServer
from tests.support.lab import Lab


@pytest.fixture
def lab(vhost_url: str, broker_server: BrokerServer) -> Iterator[Lab]:
    """A connection into a vhost of its own."""
    opened = Lab(vhost_url, broker_server)
    yield opened
    opened.close()
