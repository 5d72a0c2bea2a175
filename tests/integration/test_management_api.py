"""The client of the HTTP API, against the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from amqpq import errors
from amqpq.management import Management, PolicyInfo, endpoint
from amqpq.transport import flow
from amqpq.transport.interface import Connection, Flow
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec
from tests.conftest import BrokerServer

pytestmark = pytest.mark.integration

SECONDS = 20


@pytest.fixture
def login(broker_server: BrokerServer, vhost: str) -> Iterator[Callable[..., Management]]:
    """Makes a client that is logged in as a user of its own, with these tags."""
    names: list[str] = []
    clients: list[Management] = []

    def make(*tags: str, password: str | None = None) -> Management:
        name = f"amqpq-test-{uuid4().hex[:12]}"
        names.append(name)
        broker_server.request("PUT", f"users/{name}", {"password": "p/w", "tags": ",".join(tags)})
        allowed = {"configure": "", "write": "", "read": ""}
        broker_server.request("PUT", f"permissions/{vhost}/{name}", allowed)
        clients.append(Management(endpoint(broker_server.management_url, login=(name, password or "p/w"))))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    for name in names:
        broker_server.request("DELETE", f"users/{name}")


def test_a_user_with_the_management_tag_reads_what_a_plan_needs(
    connection: Connection, vhost: str, login: Callable[..., Management]
) -> None:
    """Exchanges, queues, bindings and policies, with no permission on any object."""

    def declared() -> Flow[None]:
        channel = connection.channel()
        yield channel.declare_exchange(ExchangeSpec("x", "topic", arguments={"alternate-exchange": "y"}))
        yield channel.declare_exchange(ExchangeSpec("z", "headers", internal=True))
        arguments = {"x-queue-type": "quorum", "x-message-ttl": 5000}
        yield channel.declare_queue(QueueSpec("a/b", arguments=arguments))
        yield channel.bind(BindingSpec("x", "a/b", "k.#"))
        yield channel.bind(BindingSpec("x", "z", "to.z", to_exchange=True))

    flow.run(declared(), SECONDS)
    with login("policymaker") as writer:
        writer.put_policy(vhost, PolicyInfo("p", "^a/", "queues", 3, {"max-length": 5}))
    with login("management") as api:
        exchanges = {exchange.name: exchange for exchange in api.exchanges(vhost)}
        assert exchanges["x"].arguments == {"alternate-exchange": "y"}
        assert (exchanges["z"].type, exchanges["z"].internal, exchanges["x"].internal) == ("headers", True, False)
        (queue,) = api.queues(vhost)
        assert (queue.name, queue.type, queue.policy, queue.ready) == ("a/b", "quorum", "p", 0)
        assert queue.arguments["x-message-ttl"] == 5000
        found = {(b.source, b.target, b.key, b.to_exchange) for b in api.bindings(vhost)}
        assert found == {("x", "a/b", "k.#", False), ("x", "z", "to.z", True)}
        assert [(p.name, p.pattern, p.priority, p.definition) for p in api.policies(vhost)] == [
            ("p", "^a/", 3, {"max-length": 5})
        ]
        assert api.operator_policies(vhost) == ()
        assert api.whoami().tags == ("management",)
        assert api.overview().version


def test_refusals_of_the_real_api(vhost: str, login: Callable[..., Management]) -> None:
    """A wrong password, no tag, too little a tag and a missing object are told apart, as far as the broker does."""
    with pytest.raises((errors.AuthenticationRefused, errors.AccessRefused), match="password"):
        login("management", password="wrong").overview()
    with pytest.raises(errors.AccessRefused, match="set_user_tags USER management"):
        login().overview()
    reader = login("management")
    with pytest.raises(errors.AccessRefused):
        reader.put_policy(vhost, PolicyInfo("p", "^a/", "queues", 3, {"max-length": 5}))
    with pytest.raises(errors.ObjectNotFound):
        reader.queue(vhost, "nowhere")
    with pytest.raises(errors.PreconditionFailed, match="nonsense"):
        login("policymaker").put_policy(vhost, PolicyInfo("p", "^a/", "queues", 3, {"nonsense": 5}))


def test_a_global_parameter_is_kept_as_json(login: Callable[..., Management]) -> None:
    """What was put is what is read; deleted, it is None."""
    name = f"amqpq-test-{uuid4().hex[:12]}"
    with login("policymaker") as api:
        assert api.global_parameter(name) is None
        api.put_global_parameter(name, {"serial": 1, "queues": ["a"]})
        assert api.global_parameter(name) == {"serial": 1, "queues": ["a"]}
        api.delete_global_parameter(name)
        assert api.global_parameter(name) is None
