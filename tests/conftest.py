"""Brokers for the tests: which one, a namespace in it per run or per test, and a node that may be broken.

`$AMQPQ_BROKER_URL` names an existing broker. Without it a private node is started, from the installed RabbitMQ or from
the folder in `$AMQPQ_RABBITMQ_ROOT`, and stopped at the end. Without either the tests that need a broker are skipped on
a laptop and fail where `CI=true`: a green run without them would say nothing.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

from amqpq.errors import BrokerSetupError
from amqpq.node import Node, NodeOptions, find_installation

TESTS = Path(__file__).parent
MANAGEABLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BrokerServer:
    """A running broker: its AMQP URL and the root of its management API, both with the user to act as."""

    url: str
    management_url: str

    def request(self, method: str, path: str, body: object = None) -> object:
        """Call the management API (`path` without `/api/`) and return the decoded answer, or None where it is empty."""
        user = urlsplit(self.url)
        credentials = f"{unquote(user.username or 'guest')}:{unquote(user.password or 'guest')}"
        request = urllib.request.Request(  # noqa: S310 - the address of the broker under test
            f"{self.management_url.rstrip('/')}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": "Basic " + base64.b64encode(credentials.encode()).decode(),
                "content-type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            text = answer.read()
        return json.loads(text) if text else None

    def manageable(self) -> BrokerServer:
        """Return the server when its management API answers: a node takes AMQP connections a little earlier."""
        deadline, pause = time.monotonic() + MANAGEABLE_SECONDS, threading.Event()
        while True:
            try:
                self.request("GET", "overview")
            except (urllib.error.HTTPError, OSError):
                if time.monotonic() > deadline:
                    raise
                pause.wait(0.1)
            else:
                return self

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """Create a vhost of its own, yield the AMQP URL that leads into it, and delete it with all it holds."""
        name = f"amqpq-test-{uuid.uuid4().hex[:12]}"
        parts = urlsplit(self.url)
        user = quote(unquote(parts.username or "guest"), safe="")
        self.request("PUT", f"vhosts/{name}", {})
        try:
            self.request("PUT", f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
            yield parts._replace(path=f"/{name}").geturl()
        finally:
            self.request("DELETE", f"vhosts/{name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a ring by the folder they are in, so that nobody has to remember it."""
    for ring in ("integration", "acceptance"):
        folder = f"{TESTS / ring}{os.sep}"
        for item in items:
            if str(item.path).startswith(folder):
                item.add_marker(ring)


def pytest_collection_finish() -> None:
    """Take what was collected out of the garbage collector's sight: it stays, and looking at it again slows every test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


def _no_broker(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"no broker for the tests: {reason}", pytrace=False)
    pytest.skip(f"no broker for the tests: {reason}")


def _management_of(url: str) -> str:
    """Find the management API of an existing broker: `$AMQPQ_MANAGEMENT_URL`, else port 15672 for 5672 and so on."""
    given = os.environ.get("AMQPQ_MANAGEMENT_URL")
    if given:
        return given
    parts = urlsplit(url)
    return f"http://{parts.hostname}:1{parts.port or 5672}"


@contextmanager
def _started_node(folder: Path) -> Iterator[Node]:
    # A run that is killed leaves no broker behind.
    node = Node(folder, NodeOptions(dies_with_caller=sys.platform == "linux"))
    try:
        node.start()
    except BrokerSetupError as error:
        _no_broker(str(error))
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    """The broker of this run, shared by all tests; never stopped or broken by one of them."""
    url = os.environ.get("AMQPQ_BROKER_URL")
    if not url:
        with _started_node(tmp_path_factory.mktemp("broker")) as node:
            yield BrokerServer(node.url, node.management_url).manageable()
        return
    server = BrokerServer(url, _management_of(url))
    try:
        server.request("GET", "overview")
    except (urllib.error.URLError, OSError) as error:
        _no_broker(f"the management API of $AMQPQ_BROKER_URL at {server.management_url} does not answer: {error}")
    yield server


@pytest.fixture(scope="session")
def broker_url(broker_server: BrokerServer) -> Iterator[str]:
    """An AMQP URL into a vhost that is fresh for this run."""
    with broker_server.vhost() as url:
        yield url


@pytest.fixture
def vhost_url(broker_server: BrokerServer) -> Iterator[str]:
    """An AMQP URL into a vhost that is fresh for this one test."""
    with broker_server.vhost() as url:
        yield url


@pytest.fixture(scope="session")
def _private_node_of_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with _started_node(tmp_path_factory.mktemp("private-node")) as node:
        yield node


@pytest.fixture(scope="session")
def private_broker_possible() -> None:
    """Skips (or, with `CI=true`, fails) where no private node can be run."""
    try:
        find_installation()
    except BrokerSetupError as error:
        _no_broker(str(error))


@pytest.fixture
def private_node(_private_node_of_run: Node) -> Node:
    """A node to stop, kill, restart or fill up; it runs when the test begins, whatever the one before did to it."""
    if not _private_node_of_run.running:
        _private_node_of_run.start()
    return _private_node_of_run


@pytest.fixture
def private_server(private_node: Node) -> BrokerServer:
    """The private node as a server with a management API."""
    return BrokerServer(private_node.url, private_node.management_url).manageable()


@pytest.fixture
def private_vhost_url(private_node: Node, private_server: BrokerServer) -> Iterator[str]:
    """An AMQP URL into a fresh vhost of the private node."""
    with private_server.vhost() as url:
        yield url
        if not private_node.running:
            private_node.start()


@pytest.fixture
def rabbitmqctl(private_node: Node) -> Callable[..., str]:
    """Run `rabbitmqctl` against the private node: `rabbitmqctl("list_queues", "name")` returns what it prints."""
    return private_node.ctl
