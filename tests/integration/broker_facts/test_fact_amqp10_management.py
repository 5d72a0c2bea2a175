"""L7: what AMQP 1.0 tells of queues and bindings on the ordinary port, without the management plugin, and to whom."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from urllib.parse import quote, unquote, urlsplit

import pytest

from amqpq.errors import AccessRefused
from amqpq.types import QueueSpec
from tests.support import amqp10
from tests.support.lab import QUORUM, STREAM, Lab, answer

NOTHING = "^$"


@pytest.fixture
def lab4(lab: Lab) -> Lab:
    """A RabbitMQ that has AMQP 1.0 in its core."""
    if lab.version < (4, 0, 0):
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    return lab


@pytest.fixture
def stranger(lab4: Lab) -> Iterator[str]:
    """A user without any permission in the vhost but to be there."""
    name = f"amqpq-test-{uuid.uuid4().hex[:12]}"
    lab4.api("PUT", f"users/{name}", {"password": name, "tags": ""})
    permit(lab4, name)
    yield name
    lab4.api("DELETE", f"users/{name}")


def permit(lab: Lab, user: str, *, configure: str = NOTHING, write: str = NOTHING, read: str = NOTHING) -> None:
    """Set the permissions of a user."""
    lab.api("PUT", f"permissions/{{v}}/{user}", {"configure": configure, "write": write, "read": read})


def management(lab: Lab, user: str = "", password: str = "") -> amqp10.Management:
    """Log in; without a name as the tests' own user."""
    parts = urlsplit(lab.url)
    user, password = user or unquote(parts.username or ""), password or unquote(parts.password or "")
    return amqp10.Management(parts.hostname or "localhost", parts.port or 5672, user, password, lab.vhost)


def test_before_4_0_there_is_no_management_node(lab: Lab) -> None:
    """RabbitMQ 3.10 answers with its own protocol, or not in AMQP 1.0 at all."""
    if lab.version >= (4, 0, 0):
        pytest.skip("this one has it")
    with pytest.raises(amqp10.Refused):
        management(lab)


@pytest.mark.parametrize("base", [{}, QUORUM, STREAM], ids=["classic", "quorum", "stream"])
def test_it_tells_type_and_all_arguments_of_a_queue(lab4: Lab, base: dict[str, str]) -> None:
    """Those that the broker does not know, too."""
    arguments = {**base, "x-max-length-bytes": 7_000_000, "x-amqpq-owner": "shop"}
    lab4.declare("work queue/1", arguments)
    with management(lab4) as asked:
        status, queue = asked.request("GET", f"/queues/{quote('work queue/1', safe='')}")
    assert status == 200
    assert queue["type"] == base.get("x-queue-type", "classic")
    assert queue["durable"] is True
    assert queue["exclusive"] is False
    assert {"x-queue-type": "classic"} | queue["arguments"] == {"x-queue-type": "classic"} | arguments


def test_it_says_404_for_a_queue_that_is_not_there(lab4: Lab) -> None:
    """And goes on answering: nothing is closed."""
    with management(lab4) as asked:
        assert asked.request("GET", "/queues/missing")[0] == 404
        assert asked.request("GET", "/queues/missing")[0] == 404


def test_it_tells_the_bindings_of_a_source_a_destination_and_a_key(lab4: Lab) -> None:
    """With their arguments; another key has another list."""
    lab4.exchange("headers", "headers")
    lab4.declare("work")
    lab4.bind("headers", "work", "k", {"x-match": "any", "colour": "red"})
    lab4.bind("headers", "work", "k", {"x-match": "any", "colour": "blue"})
    with management(lab4) as asked:
        status, found = asked.request("GET", "/bindings?src=headers&dstq=work&key=k")
        none = asked.request("GET", "/bindings?src=headers&dstq=work&key=other")
    assert status == 200
    assert sorted(binding["arguments"]["colour"] for binding in found) == ["blue", "red"]
    assert none == (200, [])


@pytest.mark.parametrize("granted", ["nothing", "configure", "write", "read"])
def test_any_permission_lets_a_user_ask_for_a_queue(lab4: Lab, stranger: str, granted: str) -> None:
    """RabbitMQ 4.3 wants one of the three on the queue; 4.0 tells everybody who may enter the vhost."""
    lab4.declare("work", {"x-max-length": 5})
    if granted != "nothing":
        permit(lab4, stranger, **{granted: "^work$"})
    with management(lab4, stranger, stranger) as asked:
        if granted == "nothing" and lab4.version >= (4, 3, 0):
            with pytest.raises(amqp10.Refused, match="amqp:unauthorized-access"):
                asked.request("GET", "/queues/work")
        else:
            status, queue = asked.request("GET", "/queues/work")
            assert (status, queue["arguments"]["x-max-length"]) == (200, 5)


@pytest.mark.parametrize("missing", ["nothing", "read", "write"])
def test_who_may_ask_for_bindings(lab4: Lab, stranger: str, missing: str) -> None:
    """RabbitMQ 4.3 wants what binding takes, without `configure`: read the source and write to the queue; 4.0 nothing."""
    lab4.exchange("direct", "direct")
    lab4.declare("work")
    lab4.bind("direct", "work", "k")
    needed = {"read": "^direct$", "write": "^work$"}
    permit(lab4, stranger, **{name: pattern for name, pattern in needed.items() if name != missing})
    with management(lab4, stranger, stranger) as asked:
        if missing != "nothing" and lab4.version >= (4, 3, 0):
            with pytest.raises(amqp10.Refused, match=f"amqp:unauthorized-access {missing} access"):
                asked.request("GET", "/bindings?src=direct&dstq=work&key=k")
        else:
            status, bindings = asked.request("GET", "/bindings?src=direct&dstq=work&key=k")
            assert (status, len(bindings)) == (200, 1)


@pytest.mark.parametrize("granted", ["nothing", "configure", "write", "read"])
def test_who_may_declare_passively(lab: Lab, granted: str) -> None:
    """AMQP 0-9-1: RabbitMQ 4.3 wants one of the three permissions on the queue; before, none."""
    lab.declare("work")
    name = f"amqpq-test-{uuid.uuid4().hex[:12]}"
    lab.api("PUT", f"users/{name}", {"password": name, "tags": ""})
    try:
        permit(lab, name, **({} if granted == "nothing" else {granted: "^work$"}))
        parts = urlsplit(lab.url)
        place = parts._replace(netloc=f"{name}:{name}@{parts.hostname}:{parts.port}").geturl()
        pending = lab.connect(place).channel().declare_queue(QueueSpec("work"), passive=True)
        if granted == "nothing" and lab.version >= (4, 3, 0):
            with pytest.raises(AccessRefused):
                answer(pending)
        else:
            assert answer(pending).messages == 0
    finally:
        lab.api("DELETE", f"users/{name}")
