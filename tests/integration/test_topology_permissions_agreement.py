"""Permissions as checks read them, against a real broker: a user is let do exactly what `answers` says.

The user is made for the test, with rights in the test's own virtual host only, and deleted after it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from amqpq.errors import AccessRefused
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations, exchange_spec, queue_spec
from amqpq.topology.model import Permission
from amqpq.topology.permissions import answers
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection
from amqpq.types import Properties, Publication
from tests.conftest import BrokerServer
from tests.support.lab import answer

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 30.0

PERMISSIONS = {
    "all": Permission(".*", ".*", ".*"),
    "nothing": Permission("", "", ""),
    "anywhere": Permission("o", "e", "i"),
    "anchored": Permission("^(web|mail|lost)$", "^(web|inner)$", "^(web|mail)$"),
    "default exchange": Permission("^mail$", "^amq\\.default$", "^mail$"),
    "bytes": Permission("^.{4}$", "^\\w+$", "[^a-z]"),
}


SHOP: dict[str, Any] = {
    "amqpq": 1,
    "project": "p",
    "exchanges": {
        "web": {"type": "topic", "unrouted": "lost"},
        "lost": {"type": "fanout"},
        "inner": {"internal": True},
    },
    "queues": {"web": {"dead_letter": "none"}, "mail": {}, "lost": {"dead_letter": "none"}, "caf\u00e9": {}},
    "bindings": ["web[a] -> web", "lost -> lost", "web[b] -> inner", "inner[b] -> mail", "web[c] -> caf\u00e9"],
}
"""Exchanges and queues with and without an alternate or a dead letter, letters beyond ASCII."""


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A connection for a while."""
    opened = blocking.connect(url.parse(address), heartbeat_seconds=0, timeout_seconds=10)
    try:
        yield opened
    finally:
        answer(opened.close())


@pytest.fixture
def user(broker_server: BrokerServer) -> Iterator[str]:
    """A user of its own, without rights yet."""
    name = f"amqpq-test-{uuid.uuid4().hex[:12]}"
    broker_server.request("PUT", f"users/{name}", {"password": name, "tags": ""})
    try:
        yield name
    finally:
        broker_server.request("DELETE", f"users/{name}")


def does(connection: Connection, topology: Topology, operation: str, name: str) -> bool:
    """Try to do something; whether the broker lets it."""
    channel = connection.channel()
    try:
        if operation == "publish":
            (outcome,) = answer(channel.publish([Publication(name, "nobody", b"", Properties(), mandatory=False)]))
            return "ACCESS_REFUSED" not in outcome.reason
        if operation == "consume":
            answer(channel.consume(name, lambda _: None))
            return True
        if name in topology.queues:
            answer(channel.declare_queue(queue_spec(topology.queues[name])))
        if name in topology.exchanges:
            answer(channel.declare_exchange(exchange_spec(topology.exchanges[name])))
    except AccessRefused:
        return False
    else:
        return True


def tried(topology: Topology) -> list[tuple[str, str]]:
    """Each operation with each name for which there is something to try."""
    publish = [("publish", name) for name in ["", *topology.exchanges]]
    consume = [("consume", name) for name in topology.queues]
    declare_ = [("configure", name) for name in dict.fromkeys([*topology.exchanges, *topology.queues])]
    return [*publish, *consume, *declare_]


@pytest.mark.parametrize("rights", PERMISSIONS)
def test_the_broker_lets_a_user_do_what_a_check_says(
    broker_server: BrokerServer, vhost_url: str, user: str, rights: str
) -> None:
    """Publish, consume and declare, on every exchange and queue: allowed in both, or refused in both."""
    permission = PERMISSIONS[rights]
    patterns = {"configure": permission.configure, "write": permission.write, "read": permission.read}
    topology = load({**SHOP, "security": {"signing": "off", "permissions": {"user": patterns}}}, environ={})
    address = urlsplit(vhost_url)
    broker_server.request("PUT", f"permissions/{address.path[1:]}/{user}", patterns)
    theirs = address._replace(netloc=f"{user}:{user}@{address.hostname}:{address.port}").geturl()
    with connected(vhost_url) as ours, connected(theirs) as connection:
        wrong = []
        for operation, name in tried(topology):
            declare.demand(flow.run(declare.apply(ours.channel, declarations(topology)), DEADLINE_SECONDS))
            if operation == "configure":
                _delete(ours, topology, name)  # what is there already may be declared with fewer rights
            found = next(each for each in answers(topology, "user", name) if each.operation == operation)
            if does(connection, topology, operation, name) != found.granted:
                wrong.append(found)
        assert wrong == []


def _delete(connection: Connection, topology: Topology, name: str) -> None:
    channel = connection.channel()
    if name in topology.queues:
        answer(channel.delete_queue(name))
    if name in topology.exchanges:
        answer(channel.delete_exchange(name))
    answer(channel.close())
