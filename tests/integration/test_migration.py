"""Migrations on a real broker: what happens to messages, who is refused, and what is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amqpq import config, topology
from amqpq.errors import ConfigurationError, LocalError, ResourceLocked
from amqpq.management import Management, endpoint
from amqpq.provision import plan as plans
from amqpq.provision import preflight
from amqpq.provision.broker_facts import ManagementFacts
from amqpq.provision.look import Eyes, look
from amqpq.provision.migrating import Migrator, Patience, Undecided
from amqpq.provision.migration import Step, abort
from amqpq.provision.preflight import Wish
from amqpq.provision.wanted import wanted_there
from amqpq.topology import Topology
from amqpq.topology.declarations import declarations
from amqpq.topology.generations import resolve
from amqpq.transport import declare, flow
from amqpq.transport.interface import Connection, Flow, Pending
from amqpq.types import BindingSpec, Properties, Publication
from tests.conftest import BrokerServer
from tests.support.commands import amqpq
from tests.support.lab import taken_from

FILE = """\
amqpq: 1
project: shop
exchanges:
  web: {type: topic}
queues:
  orders: %s
  parked: {dead_letter: none}
  audit: {dead_letter: none}
bindings:
  - web[web.#] -> orders
  - web[#] -> orders
  - web[#] -> audit
"""
QUICK = Patience(workers=20, drain=20, quiet=0.2, heard=0.2, look=0.05, sample=0.2)


def loaded(url: str, orders: str) -> Topology:
    """Return the topology with this said of `orders`."""
    return topology.load(
        {
            "amqpq": 1,
            "project": "shop",
            "broker": {"url": url},
            "exchanges": {"web": {"type": "topic"}},
            "queues": {"orders": {"type": orders, "dead_letter": None}, "audit": {"dead_letter": None}},
            "bindings": ["web[web.#] -> orders", "web[#] -> orders", "web[#] -> audit"],
            "routes": {"*": {"queue": "orders"}},
            "security": {"signing": "off"},
        },
        environ={},
    )


class Place:
    """A virtual host with the classic queue `orders`, and what a migration of it needs."""

    def __init__(self, url: str, server: BrokerServer) -> None:
        self.url = url
        self.classic, self.quorum = loaded(url, "classic"), loaded(url, "quorum")
        self.link = config.link(self.classic)
        self.connection: Connection = self.link.connection(30)
        vhost = config.addresses(self.classic)[0].vhost
        self.management = Management(endpoint(server.management_url))
        self.facts = ManagementFacts(self.management, vhost)
        declare.demand(flow.run(declare.apply(self.connection.channel, declarations(self.classic)), 60))

    def migrator(self, *, facts: bool = True) -> Migrator:
        """Return one that has the lock."""
        found = Migrator(self.connection, "shop", self.facts if facts else None, QUICK)
        found.lock()
        return found

    def publish(self, first: int, count: int) -> None:
        """Publish numbered messages over the exchange."""
        publications = [
            Publication("web", "web.page", b"%d" % number, Properties(headers={"n": number}, delivery_mode=2))
            for number in range(first, first + count)
        ]
        outcomes = self.ask(self.connection.channel().publish(publications))
        assert all(outcome.confirmed for outcome in outcomes)

    def bodies(self, queue: str) -> list[bytes]:
        """Take everything out of a queue."""
        return [delivery.body for delivery in taken_from(self.connection.channel(), queue)]

    def ask(self, pending: Pending[Any]) -> Any:
        """Wait for an answer."""

        def waiting() -> Flow[Any]:
            return (yield pending)

        return flow.run(waiting(), 20)


@pytest.fixture
def place(vhost_url: str, broker_server: BrokerServer) -> Iterator[Place]:
    """A virtual host with the classic queue `orders`."""
    made = Place(vhost_url, broker_server)
    yield made
    made.management.close()
    made.link.close()


def begin(place: Place, migrator: Migrator, **wish: Any) -> Any:
    """Examine, and write the first entry of the journal."""
    facts = place.facts if not wish.pop("blind", False) else None
    found = preflight.examine(place.quorum, Wish("orders", **wish), migrator, place.connection, facts)
    assert found.migration is not None
    migrator.begin(found.migration)
    return found.migration


def test_a_queue_moves_with_all_that_it_holds(place: Place) -> None:
    """A classic queue without consumers becomes a quorum queue; what it held and what comes meanwhile is there once."""
    place.publish(0, 250)
    migrator = place.migrator()
    migration = begin(place, migrator, strategy="move")
    last = migrator.go(migration, until=Step.DISARM)
    place.publish(250, 50)
    last = migrator.go(last)
    assert (last.step, last.new, migrator.moved) == (Step.DONE, "orders.g2", 250)
    assert not migrator.exists("orders")
    assert sorted(place.bodies("orders.g2"), key=int) == [b"%d" % number for number in range(300)]
    assert len(place.bodies("audit")) == 300


def test_an_apply_afterwards_changes_nothing(place: Place) -> None:
    """The file with the new type, applied after the migration, finds everything there."""
    migrator = place.migrator()
    migrator.go(begin(place, migrator))
    resolved = resolve(declarations(place.quorum), migrator.read())
    applied = flow.run(declare.apply(place.connection.channel, resolved), 60)
    declare.demand(applied)
    assert not [step for step in applied if step.result == "created"]
    place.publish(0, 3)
    assert len(place.bodies("orders.g2")) == 3
    assert preflight.examine(place.quorum, Wish("orders"), migrator, place.connection, place.facts).migration is None


def test_a_plan_afterwards_finds_nothing_to_do(place: Place) -> None:
    """Queues, exchanges and bindings are as the file and the record say together."""
    migrator = place.migrator()
    migrator.go(begin(place, migrator))
    eyes = Eyes(place.connection, config.addresses(place.quorum)[0].vhost, place.management)
    target = wanted_there(place.quorum, migrator.read())
    seen = look(eyes, target)
    made = plans.plan(place.quorum, target, seen.observed, seen.manifest)
    assert [(change.action, change.address) for change in made.changes] == []


@pytest.mark.parametrize("step", [Step.FEED, Step.ARM, Step.SETTLE, Step.DRAIN])
def test_a_migration_that_is_given_up_leaves_the_old_queue(place: Place, step: Step) -> None:
    """After an abort, before the switch or after it, messages are where they were, each once."""
    place.publish(0, 20)
    migrator = place.migrator()
    migration = begin(place, migrator, strategy="move")
    if step is Step.DRAIN:
        migration = migrator.go(migration, until=Step.DISARM)
        place.publish(20, 10)
    else:
        migration = migrator.go(migration, until=step)
        place.publish(20, 10)
    last = migrator.go(abort(migration))
    assert (last.step, last.new) == (Step.DONE, "orders")
    assert not migrator.exists("orders.g2")
    place.publish(30, 5)
    assert sorted(place.bodies("orders"), key=int) == [b"%d" % number for number in range(35)]


def test_two_at_once_are_one_too_many(place: Place) -> None:
    """The second one is told to wait, and nothing of it is written."""
    place.migrator()
    other = config.link(place.classic)
    second = Migrator(other.connection(30), "shop", None, QUICK)
    with pytest.raises(ResourceLocked, match="somebody else is changing"):
        second.lock()
    other.close()


def test_a_binding_that_the_file_does_not_have_stops_it(place: Place) -> None:
    """Somebody else's binding would double messages after the switch; --adopt takes it along."""
    place.ask(place.connection.channel().bind(BindingSpec("amq.topic", "orders", "theirs.#")))
    migrator = place.migrator()
    with pytest.raises(LocalError, match=r"amq\.topic\[theirs\.#\] -> orders.*--adopt"):
        begin(place, migrator)
    migrator.go(begin(place, migrator, adopt=True))
    message = Publication("amq.topic", "theirs.1", b"x", Properties())
    assert place.ask(place.connection.channel().publish([message]))[0].confirmed
    assert place.bodies("orders.g2") == [b"x"]


def test_what_cannot_be_read_is_not_guessed(place: Place) -> None:
    """Without the management API neither the bindings nor the unacknowledged messages are known; the queue is kept."""
    migrator = place.migrator(facts=False)
    with pytest.raises(Undecided, match="cannot be read without the management API"):
        begin(place, migrator, blind=True)
    migration = begin(place, migrator, blind=True, trust_file=True)
    with pytest.raises(Undecided, match="--unproven"):
        migrator.go(migration)
    assert migrator.exists("orders")
    under_way = migrator.find("orders")
    assert under_way is not None
    migrator.unproven = True
    assert migrator.go(under_way).step is Step.DONE


def test_who_publishes_to_the_physical_name_loses_nothing(place: Place) -> None:
    """What a foreign producer sends to a queue that is given up is moved to the one that takes its place."""
    migrator = place.migrator()
    migration = migrator.go(begin(place, migrator), until=Step.LEAVE)
    stray = Publication("", "orders", b"stray", Properties(headers={"CC": ["audit"], "mine": 1}, delivery_mode=2))
    assert place.ask(place.connection.channel().publish([stray]))[0].confirmed
    place.bodies("audit")
    migrator.go(migration)
    assert migrator.moved == 1
    channel = place.connection.channel()
    delivery = place.ask(channel.get("orders.g2", no_ack=True))
    assert (delivery.body, delivery.routing_key, delivery.properties.headers["mine"]) == (b"stray", "orders", 1)
    assert "CC" not in delivery.properties.headers
    assert not place.bodies("audit")


def test_a_queue_that_others_name_is_not_moved() -> None:
    """The dead letters of another queue would go nowhere."""
    file = topology.load(
        {"amqpq": 1, "project": "shop", "queues": {"orders": {}}, "security": {"signing": "off"}}, environ={}
    )
    with pytest.raises(ConfigurationError, match="takes the dead letters of orders"):
        preflight.wanted(file, Wish("shop.dead", to="quorum"))


def test_the_command_line_tells_what_it_does(vhost_url: str, broker_server: BrokerServer, tmp_path: Path) -> None:
    """Dry run, start, status and abort, as a person types them."""
    extra = {"AMQPQ_MANAGEMENT_URL": broker_server.management_url}
    file = tmp_path / "topology.yaml"
    text = FILE + "routes: {'*': {queue: orders}}\nsecurity: {signing: off}\n"
    file.write_text(text % "{dead_letter: none}", encoding="utf-8")
    amqpq(tmp_path, "topology", "apply", broker=vhost_url, extra=extra).done()
    file.write_text(text % "{type: quorum, dead_letter: none}", encoding="utf-8")

    def migrate(*arguments: str) -> Any:
        return amqpq(tmp_path, "topology", "migrate", *arguments, broker=vhost_url, extra=extra)

    assert "no queue has ever moved" in migrate("status").done()
    dry = migrate("orders", "--dry").done()
    assert "x-queue-type: classic -> quorum" in dry
    assert "no queue has ever moved" in migrate("status").done()
    said = migrate("orders").done()
    assert "every message reaches orders.g2, and orders is drained" in said
    assert "step drain" in migrate("status").done()
    assert "is being migrated" in migrate("orders").refused()
    planned = amqpq(tmp_path, "topology", "plan", broker=vhost_url, extra=extra)
    assert "queue 'orders' is being migrated" in planned.refused()
    left = amqpq(tmp_path, "topology", "apply", broker=vhost_url, extra=extra)
    assert "is being migrated, and left as it is" in left.err
    assert "orders lives in orders" in migrate("abort", "--quiet", "1s").done()
    assert "no migration is under way" in migrate("finish").refused()
    assert "did you mean 'orders'" in migrate("order").refused()
