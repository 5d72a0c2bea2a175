"""Looking at a broker over AMQP 1.0: what a user may not see is `?`; where there is no AMQP 1.0 the look goes on without."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from amqpq.errors import BrokerUnreachable, ConfigurationError
from amqpq.provision import plan as plans
from amqpq.provision.changes import Change
from amqpq.provision.look import Choice, Eyes, Look, look
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection
from tests.conftest import BrokerServer

pytestmark = pytest.mark.integration

SECONDS = 30


@pytest.fixture
def topology(connection: Connection) -> Topology:
    """A topology that is on the broker as its file says."""
    made = load(
        {
            "amqpq": 1,
            "project": "shop",
            "exchanges": {"events": {"type": "topic"}, "other": {"type": "topic"}},
            "queues": {"orders": {"type": "quorum"}, "mail": {"dead_letter": "none"}},
            "bindings": ["events[order.#] -> orders", "events[mail.*] -> mail", "other[#] -> mail"],
            "routes": {"*": {"exchange": "events", "key": "order.{task}"}},
        },
        environ={},
    )
    declare.demand(flow.run(declare.apply(connection.channel, declarations(made)), SECONDS))
    return made


@pytest.fixture
def broker4(connection: Connection) -> None:
    """A RabbitMQ that has AMQP 1.0 in its core."""
    if connection.server.version_tuple < (4, 0, 0):
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")


@contextmanager
def looking_as(
    server: BrokerServer, address: url.Address, **permissions: str
) -> Iterator[tuple[Connection, url.Address]]:
    """Log in as a user with these permissions."""
    name = f"amqpq-test-{uuid4().hex[:12]}"
    server.request("PUT", f"users/{name}", {"password": name, "tags": ""})
    server.request(
        "PUT", f"permissions/{address.vhost}/{name}", {"configure": "^$", "write": "^$", "read": "^$", **permissions}
    )
    address = replace(address, user=name, password=name)
    opened = blocking.connect(address, heartbeat_seconds=0, timeout_seconds=SECONDS)
    try:
        yield opened, address
    finally:
        opened.close()
        server.request("DELETE", f"users/{name}")


def seen(topology: Topology, connection: Connection, address: url.Address, choice: Choice = "auto") -> Look:
    """Look without the HTTP API."""
    return look(Eyes(connection, address.vhost, None, choice, SECONDS, (address,)), wanted(topology))


def changes(topology: Topology, found: Look) -> dict[str, Change]:
    """Plan, and return each difference by its address."""
    made = plans.plan(topology, wanted(topology), found.observed)
    return {change.address: change for change in made.changes}


@pytest.mark.usefixtures("broker4")
def test_without_an_api_amqp_1_0_is_the_best_there_is(
    topology: Topology, connection: Connection, vhost_url: str
) -> None:
    """Type, flags, arguments and counts of queues, and the bindings of the file; no policies, no consumers."""
    found = seen(topology, connection, url.parse(vhost_url))
    observed = found.observed
    assert observed.level == "amqp1.0"
    assert observed.queues["orders"].spec == wanted(topology).queues["orders"]
    assert (observed.queues["orders"].ready, observed.queues["orders"].consumers) == (0, 0)
    assert observed.bindings == wanted(topology).declarations.bindings
    assert (observed.policies, observed.consumers, observed.may_write_policies) == (None, None, None)
    assert "no broker.management" in found.remark
    assert list(changes(topology, found)) == ["broker everything else"]


@pytest.mark.usefixtures("broker4")
def test_what_a_user_may_not_ask_for_is_unknown_and_the_rest_is_known(
    topology: Topology, connection: Connection, broker_server: BrokerServer, vhost_url: str
) -> None:
    """RabbitMQ 4.3 wants a permission on a queue; and `read` on the source, `write` on the queue for a binding; 4.0 nothing."""
    may = {"configure": "^(events|other)$", "write": "^(orders|mail)$", "read": "^events$"}
    with looking_as(broker_server, url.parse(vhost_url), **may) as (opened, address):
        found = seen(topology, opened, address)
    told = changes(topology, found)
    assert found.observed.level == "amqp1.0"
    assert ("binding other[#] -> mail" in told) == (connection.server.version_tuple >= (4, 3, 0))
    assert "binding events[mail.*] -> mail" not in told
    if "binding other[#] -> mail" in told:
        change = told["binding other[#] -> mail"]
        assert (change.action, "read access to exchange 'other'" in change.because) == ("unknown", True)
        assert "set_permissions" in change.because


@pytest.mark.usefixtures("broker4")
def test_a_user_without_any_permission_on_a_queue_does_not_hear_that_it_is_as_it_should_be(
    topology: Topology, connection: Connection, broker_server: BrokerServer, vhost_url: str
) -> None:
    """From 4.3 on it is `?`; the others are known."""
    if connection.server.version_tuple < (4, 3, 0):
        pytest.skip("before, RabbitMQ tells everybody who may enter the virtual host")
    may = {"configure": "^(events|other)$", "write": "^orders$", "read": "^(events|other)$"}
    with looking_as(broker_server, url.parse(vhost_url), **may) as (opened, address):
        told = changes(topology, seen(topology, opened, address))
    assert told["queue mail"].action == "unknown"
    assert "access to queue 'mail'" in told["queue mail"].because
    assert "queue orders" not in told


@pytest.mark.usefixtures("broker4")
def test_a_user_who_may_configure_nothing_compares_his_queues(
    topology: Topology, broker_server: BrokerServer, vhost_url: str
) -> None:
    """Over AMQP 0-9-1 that takes the permission to declare them."""
    may = {"write": "^(orders|mail|shop.dead)$", "read": "^(events|other)$"}
    with looking_as(broker_server, url.parse(vhost_url), **may) as (opened, address):
        ten = changes(topology, seen(topology, opened, address))
        nine = changes(topology, seen(topology, opened, address, "amqp"))
    assert [name for name in ten if name.startswith(("queue", "binding"))] == []
    assert sorted(name for name in nine if name.startswith("queue")) == [
        "queue mail",
        "queue orders",
        "queue shop.dead",
    ]


@pytest.mark.usefixtures("broker4")
def test_where_amqp_1_0_does_not_get_through_the_look_goes_on_without_it(
    topology: Topology, connection: Connection, vhost_url: str
) -> None:
    """With a remark; where it was asked for, that is the error."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    away = replace(url.parse(vhost_url), host="127.0.0.1", port=port)
    found = seen(topology, connection, away)
    assert (found.observed.level, found.observed.bindings) == ("amqp", None)
    assert "so the broker was looked at over AMQP 0-9-1" in found.remark
    with pytest.raises(BrokerUnreachable, match=f"nothing listens at 127.0.0.1:{port}"):
        seen(topology, connection, away, "amqp1.0")


@pytest.mark.usefixtures("broker4")
def test_another_node_is_asked_where_the_first_is_down(
    topology: Topology, connection: Connection, vhost_url: str
) -> None:
    """Addresses are nodes of one cluster."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    here = url.parse(vhost_url)
    eyes = Eyes(connection, here.vhost, None, "amqp1.0", SECONDS, (replace(here, port=port), here))
    assert look(eyes, wanted(topology)).observed.level == "amqp1.0"


def test_an_older_broker_is_looked_at_over_amqp_0_9_1(
    topology: Topology, connection: Connection, vhost_url: str
) -> None:
    """Nobody tries what it cannot know; who asks for it is told the version that can."""
    if connection.server.version_tuple >= (4, 0, 0):
        pytest.skip("this one has AMQP 1.0")
    found = seen(topology, connection, url.parse(vhost_url))
    assert (found.observed.level, "1.0" in found.remark) == ("amqp", False)
    with pytest.raises(ConfigurationError, match="needs RabbitMQ 4.0, and the broker is 3"):
        seen(topology, connection, url.parse(vhost_url), "amqp1.0")
