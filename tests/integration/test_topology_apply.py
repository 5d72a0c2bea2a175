"""Applying a topology to a real broker: idempotent, and every refusal explained with its remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.errors import AccessRefused, ObjectNotFound, PreconditionFailed, ResourceLocked
from amqpq.topology import load
from amqpq.topology.declarations import Declarations, declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.declare import Difference
from amqpq.transport.interface import Connection, Flow
from amqpq.transport.questions import CHANNELS
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec
from tests.support.lab import answer, lose_connection_at

pytestmark = pytest.mark.integration

SECONDS = 20


def wanted(**sections: Any) -> Declarations:
    """Return the declarations of a topology."""
    return declarations(load({"amqpq": 1, "project": "shop", **sections}, environ={}))


def applied(connection: Connection, what: Declarations) -> dict[str, declare.Applied]:
    """Apply, and return what became of each object by its name."""
    return {step.name: step for step in flow.run(declare.apply(connection.channel, what), SECONDS)}


def declared(connection: Connection, *specs: ExchangeSpec | QueueSpec) -> None:
    """Declare objects as somebody else would."""

    def protocol() -> Flow[None]:
        channel = connection.channel()
        for spec in specs:
            if isinstance(spec, QueueSpec):
                yield channel.declare_queue(spec)
            else:
                yield channel.declare_exchange(spec)

    flow.run(protocol(), SECONDS)


def test_applying_twice_creates_once(connection: Connection) -> None:
    """The first apply creates, the second finds everything as it is."""
    what = wanted(
        exchanges={"web": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}},
        queues={"high": {"max_priority": 5}, "audit": {"type": "quorum", "delivery_limit": 3}, "lost": {}},
        bindings=["web[web.#] -> high", "web[web.#] -> audit", "lost -> lost"],
    )
    first, second = applied(connection, what), applied(connection, what)
    assert {name: step.result for name, step in first.items()} == {
        "lost": "created",  # the queue; the exchange of the name came before
        "web": "created",
        "shop.dead": "created",
        "high": "created",
        "audit": "created",
        "web[web.#] -> high": "bound",
        "web[web.#] -> audit": "bound",
        "lost -> lost": "bound",
    }
    assert {step.result for step in second.values()} == {"present", "bound"}


def test_a_queue_with_other_arguments_is_explained_with_every_difference(connection: Connection) -> None:
    """The broker names only the first difference; apply finds all of them, with both values and the remedy."""
    declared(connection, QueueSpec("high", durable=False, arguments={"x-max-priority": 3, "x-max-length": 7}))
    step = applied(connection, wanted(queues={"high": {"max_priority": 10, "ttl": "1m", "dead_letter": "none"}}))[
        "high"
    ]
    assert step.result == "failed"
    assert isinstance(step.error, PreconditionFailed)
    assert set(step.differences) == {
        Difference("durable", broker="false", file="true"),
        Difference("x-max-priority", broker="3", file="10"),
        Difference("x-message-ttl", broker="none", file="60000"),
        Difference("x-max-length", broker="7", file="none"),
    }
    text = str(step.error)
    assert text.startswith("queue 'high' exists with durable = false (the file says true), ")
    assert "x-max-priority = 3 (the file says 10)" in text
    assert "these cannot be changed on an existing queue: write the broker's values into the file" in text
    assert f"`rabbitmqctl delete_queue -p {vhost(connection)} high`" in text


def vhost(connection: Connection) -> str:
    """Return the name of the vhost of a connection, as its repr shows it."""
    return urlsplit(repr(connection).split()[1]).path.removeprefix("/")


def test_asking_for_differences_leaves_the_queue_as_it_was(connection: Connection) -> None:
    """Explaining a difference neither changes nor creates anything."""
    theirs = QueueSpec("high", arguments={"x-max-priority": 3})
    declared(connection, theirs)
    what = wanted(queues={"high": {"max_priority": 10, "dead_letter": "none"}})
    applied(connection, what)
    declared(connection, theirs)
    assert applied(connection, what)["high"].differences == (Difference("x-max-priority", broker="3", file="10"),)


@pytest.mark.parametrize(
    "theirs,ours,difference",
    [
        (ExchangeSpec("x", "direct"), {"type": "topic"}, Difference("type", broker="direct", file="topic")),
        (
            ExchangeSpec("x", "topic", arguments={"alternate-exchange": "y"}),
            {"type": "topic"},
            Difference("alternate-exchange", broker="y", file="none"),
        ),
        (
            ExchangeSpec("x", "topic", durable=False),
            {"type": "topic"},
            Difference("durable", broker="false", file="true"),
        ),
    ],
)
def test_an_exchange_with_other_properties_is_explained(
    connection: Connection, theirs: ExchangeSpec, ours: dict[str, Any], difference: Difference
) -> None:
    """Exchanges are explained like queues."""
    declared(connection, theirs)
    step = applied(connection, wanted(exchanges={"x": ours}, queues={"q": {}}))["x"]
    assert step.differences == (difference,)
    assert f"exchange 'x' exists with {difference.key} = {difference.broker} (the file says {difference.file})" in str(
        step.error
    )


def test_one_failure_does_not_hide_the_others(connection: Connection) -> None:
    """Every object is tried; two that differ are two problems, and the rest is there."""
    declared(connection, QueueSpec("a", arguments={"x-max-length": 1}), QueueSpec("b", arguments={"x-max-length": 1}))
    steps = applied(connection, wanted(queues={"a": {}, "b": {}, "c": {}}))
    assert [name for name, step in steps.items() if step.result == "failed"] == ["a", "b"]
    assert steps["c"].result == "created"
    with pytest.raises(PreconditionFailed, match="queue 'a' exists.*\nqueue 'b' exists"):
        declare.demand(tuple(steps.values()))


def test_what_the_broker_does_not_know_is_named(connection: Connection) -> None:
    """An argument this broker refuses is named with the object; the broker's words follow."""
    what = Declarations((), (QueueSpec("q", arguments={"x-overflow": "sideways"}),), ())
    step = applied(connection, what)["q"]
    assert "queue 'q': this broker does not take x-overflow invalid_overflow; remove it from the file" in str(
        step.error
    )


def test_a_queue_of_another_connection_is_explained(connection: Connection, vhost_url: str) -> None:
    """An exclusive queue of somebody else is a locked resource, not a difference."""
    other = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)
    try:
        declared(other, QueueSpec("mine", durable=False, exclusive=True))
        step = applied(connection, wanted(queues={"mine": {}}))["mine"]
        assert isinstance(step.error, ResourceLocked)
        assert "another connection holds it exclusively" in str(step.error)
    finally:
        answer(other.close())


def test_a_binding_to_nowhere_names_itself(connection: Connection) -> None:
    """A binding whose end does not exist fails alone, with the broker's words."""
    what = Declarations((ExchangeSpec("x"),), (), (BindingSpec("x", "nowhere", "k"),))
    step = applied(connection, what)["x[k] -> nowhere"]
    assert isinstance(step.error, ObjectNotFound)
    assert "binding 'x[k] -> nowhere'" in str(step.error)
    assert "no queue 'nowhere'" in str(step.error)


def test_what_must_exist_is_looked_for_and_never_created(connection: Connection) -> None:
    """`manage: verify` fails while the object is missing, and is present once its owner made it."""
    what = wanted(queues={"mine": {}, "legacy": {"manage": "verify"}})
    step = applied(connection, what)["legacy"]
    assert step.result == "failed"
    assert "whoever owns it must create it (`manage: verify`)" in str(step.error)
    declared(connection, QueueSpec("legacy", durable=False))
    assert applied(connection, what)["legacy"].result == "present"


def test_verify_lists_all_that_is_missing(connection: Connection) -> None:
    """A worker that starts before the apply says what is missing and what to type."""
    what = wanted(exchanges={"x": {}}, queues={"a": {}, "legacy": {"manage": "verify"}}, bindings=["x[a] -> a"])
    with pytest.raises(ObjectNotFound) as caught:
        flow.run(declare.verify(connection.channel, what), SECONDS)
    assert str(caught.value) == (
        "missing on the broker: exchange 'x', queue 'shop.dead', queue 'a', queue 'legacy'; "
        "`amqpq topology apply` creates what the topology file declares, and what is under `manage: verify` its owner must create"
    )
    applied(connection, what)
    declared(connection, QueueSpec("legacy"))
    steps = flow.run(declare.verify(connection.channel, what), SECONDS)
    assert {step.result for step in steps} == {"present"}


def test_many_objects_are_applied_in_one_go(connection: Connection) -> None:
    """More objects than channels are used at a time all get their answer."""
    names = [f"q{number}" for number in range(50)]
    what = wanted(
        exchanges={"x": {"type": "topic"}},
        queues={name: {} for name in names},
        bindings=[f"x[{name}] -> {name}" for name in names],
    )
    steps = applied(connection, what)
    assert len(steps) == 1 + 51 + 50
    assert {step.result for step in steps.values()} == {"created", "bound"}


# -------------------------------------------------------------------------------------------------- the command line

Amqpq = Callable[..., Result]

FILE = """\
amqpq: 1
project: shop
exchanges: {web: {type: topic}}
queues: {high: {max_priority: 10, dead_letter: none}}
bindings: ["web[web.#] -> high"]
"""


@pytest.fixture
def amqpq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vhost_url: str) -> Amqpq:
    """Run `amqpq topology apply ...` in a folder with a topology, against a fresh vhost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    Path("topology.yaml").write_text(FILE, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(main, ["topology", "apply", *arguments])


def test_the_command_prints_each_object(amqpq: Amqpq) -> None:
    """Created the first time, already there the second; exit code 0 both times."""
    first, second = amqpq(), amqpq()
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.splitlines() == [
        "+ exchange web  created",
        "+ queue    high  created",
        "= binding  web[web.#] -> high  bound",
    ]
    assert first.stderr == "3 objects: 2 created, 0 failed\n"
    assert second.stdout.splitlines()[:2] == ["= exchange web  already there", "= queue    high  already there"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_connection_that_is_lost_leaves_some_of_it_done(
    amqpq: Amqpq, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code says so, and what is done is told; where nothing was done, that."""
    with monkeypatch.context() as patch:
        lose_connection_at("high", patch)
        result, again = amqpq(*options), amqpq(*options)
    assert (result.exit_code, again.exit_code) == (3, 1), result.output
    told = result.stdout.splitlines()
    if options:
        (web,) = json.loads(result.stdout)["applied"]
        assert (web["name"], web["result"], json.loads(result.stdout)["error"]) == ("web", "created", "cut")
    else:
        assert told == ["+ exchange web  created"]
    assert "error: cut" in result.stderr
    assert amqpq().exit_code == 0


def test_the_command_explains_a_queue_that_differs(amqpq: Amqpq, connection: Connection) -> None:
    """The difference is on standard error, the rest is applied, and the exit code says partly."""
    declared(connection, QueueSpec("high"))
    result = amqpq()
    assert result.exit_code == 3
    assert (
        "! queue 'high' exists with x-max-priority = none (the file says 10); that cannot be changed" in result.stderr
    )
    assert "+ exchange web  created" in result.stdout
    facts = json.loads(amqpq("--json").stdout)["applied"]
    assert [fact["result"] for fact in facts] == ["present", "failed", "bound"]
    assert facts[1]["differences"] == [{"key": "x-max-priority", "broker": "none", "file": "10"}]


def test_the_command_explains_a_missing_permission(amqpq: Amqpq, broker_server: Any, vhost_url: str) -> None:
    """A user who may not configure is told which object and which permission; nothing done is exit code 1."""
    name, user = urlsplit(vhost_url).path[1:], urlsplit(vhost_url).username
    broker_server.request("PUT", f"permissions/{name}/{user}", {"configure": "^$", "write": ".*", "read": ".*"})
    result = amqpq()
    assert result.exit_code == 1
    assert "! exchange 'web': ACCESS_REFUSED" in result.stderr
    assert "the user needs configure permission for it" in result.stderr
    connection = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)
    try:
        steps = flow.run(declare.apply(connection.channel, wanted(queues={"q": {}})), SECONDS)
        with pytest.raises(AccessRefused):
            declare.demand(steps)
    finally:
        answer(connection.close())


def test_many_objects_with_refusals_between_them(connection: Connection) -> None:
    """More than one slice, and more than the channels used at a time: every queue is answered for, in the file's order."""
    names = [f"many.{number:03}" for number in range(declare.SLICE + CHANNELS)]
    different = names[5::40]
    declared(connection, *(QueueSpec(name, durable=True, arguments={"x-max-length": 7}) for name in different))
    what = Declarations((), tuple(QueueSpec(name) for name in names), ())
    told: list[str] = []
    steps = flow.run(declare.apply(connection.channel, what, on_step=lambda step: told.append(step.name)), SECONDS)
    assert [step.name for step in steps] == told == names
    assert [step.name for step in steps if step.result == "failed"] == different
    assert {step.result for step in steps if step.name not in different} == {"created"}
    assert all(step.differences == (Difference("x-max-length", "7", "none"),) for step in steps if step.error)


def test_what_somebody_has_looked_for_is_not_looked_for_again(connection: Connection) -> None:
    """Who knows what exists is believed: no passive declaration, and the words are right."""
    looked: list[str] = []

    class Watched:
        """A channel that notes what is looked for."""

        def __init__(self) -> None:
            self._channel = connection.channel()

        def declare_queue(self, spec: QueueSpec, *, passive: bool = False) -> Any:
            if passive:
                looked.append(spec.name)
            return self._channel.declare_queue(spec, passive=passive)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._channel, name)

    declared(connection, QueueSpec("old"))
    what = Declarations((), (QueueSpec("old"), QueueSpec("new")), ())
    opener: Any = Watched
    steps = flow.run(declare.apply(opener, what, there=lambda spec: spec.name == "old"), SECONDS)
    assert {step.name: step.result for step in steps} == {"old": "present", "new": "created"}
    assert not looked
    flow.run(declare.apply(opener, what), SECONDS)
    assert looked == ["old", "new"]
