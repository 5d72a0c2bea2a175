"""L7: what AMQP 1.0 tells of queues and bindings on the ordinary port, without the management plugin, and to whom."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from amqpq.errors import AccessRefused, AuthenticationRefused, TransportError
from amqpq.transport import url
from amqpq.transport.management_node import Answer, ManagementNode, bindings_path, queue_path
from amqpq.types import BindingSpec, QueueSpec
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


def management(lab: Lab, user: str = "", password: str = "") -> ManagementNode:
    """Log in; without a name as the tests' own user."""
    address = url.parse(lab.url)
    if user:
        address = replace(address, user=user, password=password or user)
    return ManagementNode(address, timeout_seconds=20)


def answered(node: ManagementNode, path: str) -> Answer:
    """Ask, and return the answer; fail where there is none."""
    (found,) = node.ask([path])
    assert isinstance(found, Answer), found
    return found


def refused(node: ManagementNode, path: str) -> str:
    """Ask, and return the words of the refusal; fail where there is an answer."""
    (found,) = node.ask([path])
    assert isinstance(found, AccessRefused), found
    return str(found)


def test_before_4_0_there_is_no_management_node(lab: Lab) -> None:
    """RabbitMQ 3.10 answers with its own protocol, or not in AMQP 1.0 at all."""
    if lab.version >= (4, 0, 0):
        pytest.skip("this one has it")
    with pytest.raises(TransportError, match="does not speak AMQP 1.0"):
        management(lab)


@pytest.mark.parametrize("base", [{}, QUORUM, STREAM], ids=["classic", "quorum", "stream"])
def test_it_tells_type_and_all_arguments_of_a_queue(lab4: Lab, base: dict[str, str]) -> None:
    """Those that the broker does not know, too."""
    arguments = {**base, "x-max-length-bytes": 7_000_000, "x-amqpq-owner": "shop"}
    lab4.declare("work queue/1", arguments)
    with management(lab4) as node:
        found = answered(node, queue_path("work queue/1"))
    queue = found.body
    assert found.status == 200
    assert queue["type"] == base.get("x-queue-type", "classic")
    assert queue["durable"] is True
    assert queue["exclusive"] is False
    assert {"x-queue-type": "classic"} | queue["arguments"] == {"x-queue-type": "classic"} | arguments


def test_it_says_404_for_a_queue_that_is_not_there(lab4: Lab) -> None:
    """And goes on answering: nothing is closed."""
    with management(lab4) as node:
        assert answered(node, queue_path("missing")).status == 404
        assert answered(node, queue_path("missing")).status == 404


def test_it_tells_the_bindings_of_a_source_a_destination_and_a_key(lab4: Lab) -> None:
    """With their arguments; another key has another list."""
    lab4.exchange("headers", "headers")
    lab4.declare("work")
    lab4.bind("headers", "work", "k", {"x-match": "any", "colour": "red"})
    lab4.bind("headers", "work", "k", {"x-match": "any", "colour": "blue"})
    with management(lab4) as node:
        found = answered(node, bindings_path(BindingSpec("headers", "work", "k")))
        none = answered(node, bindings_path(BindingSpec("headers", "work", "other")))
    assert found.status == 200
    assert sorted(binding["arguments"]["colour"] for binding in found.body) == ["blue", "red"]
    assert none == Answer(200, [])


def test_bindings_of_an_exchange_to_an_exchange_have_a_path_of_their_own(lab4: Lab) -> None:
    """A queue of the same name is something else; names and keys may hold anything."""
    lab4.exchange("from/ä", "topic")
    lab4.exchange("to?", "topic")
    lab4.declare("to?")
    lab4.bind("from/ä", "to?", "a&b=#.*+1", to_exchange=True)
    with management(lab4) as node:
        found = answered(node, bindings_path(BindingSpec("from/ä", "to?", "a&b=#.*+1", to_exchange=True)))
        none = answered(node, bindings_path(BindingSpec("from/ä", "to?", "a&b=#.*+1")))
    assert [each["binding_key"] for each in found.body] == ["a&b=#.*+1"]
    assert none == Answer(200, [])


def test_it_lists_nothing(lab4: Lab) -> None:
    """Neither bindings without their key, nor queues; of exchanges it tells nothing. Who asks has the session ended."""
    lab4.exchange("x")
    lab4.declare("work")
    lab4.bind("x", "work", "k")
    for path in ("/bindings?src=x", "/bindings?src=x&dstq=work", "/bindings", "/queues", "/exchanges/x"):
        with management(lab4) as node, pytest.raises(TransportError, match="gave up: function_clause"):
            node.ask([path])


def test_the_values_of_arguments_keep_their_types(lab4: Lab) -> None:
    """Numbers, booleans, text, tables and lists come back as AMQP 0-9-1 took them."""
    arguments = {"x-a": 2**40, "x-b": True, "x-c": "text", "x-d": [1, "two"], "x-e": {"deep": -3}, "x-f": 0.5}
    lab4.declare("work", arguments)
    with management(lab4) as node:
        found = answered(node, queue_path("work")).body["arguments"]
    assert {name: found[name] for name in arguments} == arguments
    assert isinstance(found["x-b"], bool)


def test_hundreds_of_questions_are_answered_in_their_order(lab4: Lab) -> None:
    """The node takes a few at a time; an answer larger than a frame comes in several."""
    lab4.exchange("headers", "headers")
    lab4.declare("work")
    for number in range(4):
        lab4.bind("headers", "work", "k", {"x-match": "any", "note": "n" * 50_000, "number": number})
    long = bindings_path(BindingSpec("headers", "work", "k"))
    with management(lab4) as node:
        answers = node.ask([long if number % 100 == 0 else queue_path(f"missing{number}") for number in range(1500)])
    assert [each.status for each in answers if isinstance(each, Answer)] == ([200] + [404] * 99) * 15
    for each in answers[::100]:
        assert isinstance(each, Answer)
        assert sorted(binding["arguments"]["number"] for binding in each.body) == [0, 1, 2, 3]


def test_a_wrong_password_is_said(lab4: Lab, stranger: str) -> None:
    """As over AMQP 0-9-1."""
    with pytest.raises(AuthenticationRefused):
        management(lab4, stranger, "wrong")


def test_who_may_not_enter_the_vhost_is_refused(lab4: Lab, stranger: str) -> None:
    """The broker hangs up without a word."""
    lab4.api("DELETE", f"permissions/{{v}}/{stranger}")
    with pytest.raises(TransportError, match="may not enter the virtual host"):
        management(lab4, stranger)


def test_after_a_refusal_the_other_questions_are_answered(lab4: Lab, stranger: str) -> None:
    """RabbitMQ 4.3 ends the session with all that was asked; what came before and behind has its answer."""
    permit(lab4, stranger, read="^mine")
    for name in ("mine.1", "mine.2", "theirs"):
        lab4.declare(name)
    with management(lab4, stranger) as node:
        found = node.ask([queue_path(name) for name in ("mine.1", "theirs", "mine.2", "mine.1", "theirs")])
    told = [each.status if isinstance(each, Answer) else "refused" for each in found]
    may = "refused" if lab4.version >= (4, 3, 0) else 200
    assert told == [200, may, 200, 200, may]


def test_a_connection_outlives_the_sessions_that_were_ended(lab4: Lab, stranger: str) -> None:
    """Each takes a channel; where there is none left, another connection goes on."""
    permit(lab4, stranger, read="^mine$")
    lab4.declare("mine")
    lab4.declare("theirs")
    with management(lab4, stranger) as node:
        found = node.ask([queue_path("theirs" if number % 2 else "mine") for number in range(150)])
    told = {isinstance(each, Answer) for each in found[1::2]}
    assert told == {lab4.version < (4, 3, 0)}
    assert all(isinstance(each, Answer) and each.status == 200 for each in found[::2])


@pytest.mark.parametrize("granted", ["nothing", "configure", "write", "read"])
def test_any_permission_lets_a_user_ask_for_a_queue(lab4: Lab, stranger: str, granted: str) -> None:
    """RabbitMQ 4.3 wants one of the three on the queue; 4.0 tells everybody who may enter the vhost."""
    lab4.declare("work", {"x-max-length": 5})
    if granted != "nothing":
        permit(lab4, stranger, **{granted: "^work$"})
    with management(lab4, stranger) as node:
        if granted == "nothing" and lab4.version >= (4, 3, 0):
            assert "access to queue 'work'" in refused(node, queue_path("work"))
        else:
            found = answered(node, queue_path("work"))
            assert (found.status, found.body["arguments"]["x-max-length"]) == (200, 5)


@pytest.mark.parametrize("missing", ["nothing", "read", "write"])
def test_who_may_ask_for_bindings(lab4: Lab, stranger: str, missing: str) -> None:
    """RabbitMQ 4.3 wants what binding takes, without `configure`: read the source and write to the queue; 4.0 nothing."""
    lab4.exchange("direct", "direct")
    lab4.declare("work")
    lab4.bind("direct", "work", "k")
    needed = {"read": "^direct$", "write": "^work$"}
    permit(lab4, stranger, **{name: pattern for name, pattern in needed.items() if name != missing})
    path = bindings_path(BindingSpec("direct", "work", "k"))
    with management(lab4, stranger) as node:
        if missing != "nothing" and lab4.version >= (4, 3, 0):
            assert refused(node, path).startswith(f"{missing} access to ")
        else:
            found = answered(node, path)
            assert (found.status, len(found.body)) == (200, 1)


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
