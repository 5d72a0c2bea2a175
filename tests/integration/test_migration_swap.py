"""A queue that gets other properties and keeps its name, on a real broker: workers, producers that follow, one that cannot."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from amqpq import App, config, topology
from amqpq.errors import PreconditionFailed
from amqpq.management import Management, endpoint
from amqpq.message import TaskEnvelope
from amqpq.provision import preflight
from amqpq.provision.broker_facts import ManagementFacts
from amqpq.provision.migrating import Migrator, Patience
from amqpq.provision.migration import Migration, Step, abort, following
from amqpq.provision.preflight import Wish
from amqpq.topology import Topology
from amqpq.topology.declarations import declarations
from amqpq.topology.generations import NOTHING_MOVED
from amqpq.transport import declare, flow, register
from amqpq.transport.interface import Connection
from amqpq.types import Fate, Properties, Publication, QueueSpec
from tests.conftest import BrokerServer
from tests.support.commands import Said, amqpq, worker
from tests.support.lab import answer, taken_from, until

QUICK: Final = Patience(workers=30, drain=30, quiet=0.2, heard=0.2, look=0.05, sample=0.2)
FILE: Final = """\
amqpq: 1
project: shop
exchanges:
  web: {type: topic}
queues:
  orders: %s
bindings:
  - web[order.#] -> orders
routes:
  order.note: {exchange: web, key: order.note}
replies: {mode: none}
security: {signing: off}
"""
CLASSIC, QUORUM = FILE % "{dead_letter: none}", FILE % "{type: quorum, dead_letter: none}"
TASKS: Final = """\
from amqpq import App

app = App("topology.yaml")


@app.task(name="order.note")
def note(number: int) -> None:
    with open("noted", "a", encoding="utf-8") as file:
        file.write(f"{number}\\n")
"""


class CutOff(Exception):
    """The migrating process is gone."""


class Mortal(Migrator):
    """Ends behind a step, before the journal says that it is done."""

    ends_in = (Step.DONE, False)
    """The step, and whether it is that of the second half."""

    def perform(self, migration: Migration) -> None:
        """Do a step, and end with it."""
        super().perform(migration)
        if (migration.step, migration.returning) == self.ends_in:
            raise CutOff


class Scene:
    """A folder with a topology, its virtual host with the classic queue `orders`, and what a migration of it needs."""

    def __init__(self, folder: Path, url: str, server: BrokerServer) -> None:
        self.folder, self.url = folder, url
        self.extra = {"AMQPQ_MANAGEMENT_URL": server.management_url}
        (folder / "tasks.py").write_text(TASKS, encoding="utf-8")
        self.classic, self.quorum = self.write("topology.yaml", CLASSIC), self.write("quorum.yaml", QUORUM)
        self.link = config.link(self.classic)
        self.connection = self.link.connection(30)
        self.management = Management(endpoint(server.management_url))
        self.facts = ManagementFacts(self.management, config.addresses(self.classic)[0].vhost)
        declare.demand(flow.run(declare.apply(self.connection.channel, declarations(self.classic)), 60))
        # Workers look for a record every 30 seconds, and follow at once where there is one.
        channel = self.connection.channel()
        flow.run(register.create(channel, "shop"), 20)
        flow.run(register.put(channel, "shop", NOTHING_MOVED), 20)

    def write(self, name: str, text: str) -> Topology:
        """Write a topology file, and return it."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return topology.load(self.folder / name, environ={"AMQPQ_BROKER_URL": self.url})

    @property
    def tools(self) -> tuple[Connection, str, ManagementFacts, Patience]:
        """What a migrator works with."""
        return self.connection, "shop", self.facts, QUICK

    def migrator(self, report: Callable[[Migration], object] = lambda _: None) -> Migrator:
        """Return one that has the lock."""
        found = Migrator(*self.tools, report)
        found.lock()
        return found

    def begin(self, migrator: Migrator) -> Migration:
        """Examine a swap to a quorum queue, and write the first entry of the journal."""
        wish = Wish("orders", strategy="swap")
        found = preflight.examine(self.quorum, wish, migrator, self.connection, self.facts)
        assert found.migration is not None
        migrator.begin(found.migration)
        return found.migration

    def type_of(self, queue: str) -> str:
        """Return the type of a queue, as the broker says it."""
        return self.management.queue(config.addresses(self.classic)[0].vhost, queue).type

    def bodies(self, queue: str) -> list[bytes]:
        """Take everything out of a queue."""
        return [delivery.body for delivery in taken_from(self.connection.channel(), queue)]

    def close(self) -> None:
        """Let go of the broker."""
        self.management.close()
        self.link.close()


@pytest.fixture
def scene(tmp_path: Path, vhost_url: str, broker_server: BrokerServer) -> Iterator[Scene]:
    """The classic queue `orders`."""
    made = Scene(tmp_path, vhost_url, broker_server)
    yield made
    made.close()


class Stranger:
    """Publishes to `orders` by its name, as programs do that do not know of migrations; keeps what is returned."""

    def __init__(self, scene: Scene) -> None:
        self._link = config.link(scene.classic)
        self._channel = self._link.connection(30).channel()
        self._codec = App(scene.classic).codec
        self.returned: list[int] = []
        self.came_back = 0

    def send(self, *numbers: int) -> None:
        """Publish these, and what was returned before."""
        wanted, self.returned = [*self.returned, *numbers], []
        for number in wanted:
            body, properties = self._codec.encode_task(
                TaskEnvelope(f"stranger-{number}", "order.note", (number,)), exchange="", key="orders"
            )
            (outcome,) = answer(self._channel.publish([Publication("", "orders", body, properties, mandatory=True)]))
            if outcome.fate is Fate.RETURNED:
                self.returned.append(number)
            else:
                assert outcome.confirmed, outcome
        self.came_back += len(self.returned)

    def close(self) -> None:
        """Go."""
        self._link.close()


class Steady(threading.Thread):
    """Publishes over the exchange until it is told to stop."""

    def __init__(self, app: App, numbers: Iterator[int]) -> None:
        super().__init__(daemon=True)
        self.sent: list[int] = []
        self._app, self._numbers = app, numbers
        self._over = threading.Event()

    def run(self) -> None:
        """Publish."""
        while not self._over.wait(0.01):
            number = next(self._numbers)
            self._app.send_task("order.note", [number])
            self.sent.append(number)

    def stop(self) -> list[int]:
        """Stop, and return what was sent."""
        self._over.set()
        self.join(30)
        return self.sent


def noted(scene: Scene) -> Counter[int]:
    """How often each number was processed."""
    text = (scene.folder / "noted").read_text(encoding="utf-8")
    return Counter(int(line) for line in text.split())


def swapped_under_way(scene: Scene, migrator: Callable[[Callable[[Migration], object]], Migrator]) -> tuple[Any, ...]:
    """Swap `orders` while three producers publish and a worker consumes; return what happened.

    The stranger publishes before every step, but those in which the queue is proven empty and deleted: then it must not.
    """
    numbers = itertools.count()
    stranger, app = Stranger(scene), App(scene.classic)
    sent: list[int] = []
    quiet = {(Step.PROVE, False), (Step.DELETE, False)}

    def report(migration: Migration) -> None:
        by_name = [next(numbers) for _ in range(5)]
        with app.batch():
            for number in by_name:
                app.send_task("order.note", [number], queue="orders")
        sent.extend(by_name)
        if (migration.step, migration.returning) not in quiet:
            ours = [next(numbers) for _ in range(5)]
            stranger.send(*ours)
            sent.extend(ours)

    steady = Steady(app, itertools.count(1_000_000))
    with worker(scene.folder, "-A", "tasks", "-P", "threads", "-c", "2", "-l", "info", broker=scene.url) as running:
        running.says("ready")
        app.send_task("order.note", [next(numbers)], queue="orders")
        sent.append(0)
        steady.start()
        last = migrator(report).go(scene.begin(migrator(report)))
        stranger.send()
        sent += steady.stop()
        until(lambda: len(noted(scene)) >= len(sent) or None, "everything is processed", 60)
    app.close()
    stranger.close()
    return last, sent, stranger.came_back


def test_every_message_comes_once_while_a_queue_is_swapped(scene: Scene) -> None:
    """From classic to quorum and still `orders`: over the exchange, by name through the ingress, and by name alone."""
    last, sent, came_back = swapped_under_way(scene, scene.migrator)
    assert (last.step, last.new, scene.type_of("orders")) == (Step.DONE, "orders", "quorum")
    assert not scene.migrator().exists("orders.g2")
    assert noted(scene) == Counter(sent)
    assert came_back == 5  # those of the moment without the name


def test_the_drain_does_not_wait_for_those_who_publish_by_name(scene: Scene) -> None:
    """They may go on until the queue is proven empty; what is left then is moved."""
    migrator = scene.migrator()
    switched = migrator.go(scene.begin(migrator), until=Step.DISARM)
    by_name = [Publication("", "orders", b"%d" % number, Properties(delivery_mode=2)) for number in range(50)]
    assert all(outcome.confirmed for outcome in answer(scene.connection.channel().publish(by_name)))
    last = migrator.go(switched, until=Step.PROVE)
    assert (last.step, migrator.moved, len(scene.bodies("orders.g2"))) == (Step.PROVE, 50, 50)


CUTS: Final = ((Step.SWITCH, False), (Step.DELETE, False), (Step.CREATE, True), (Step.PROVE, True))


def cut_off_in(scene: Scene, step: Step, *, returning: bool) -> Migrator:
    """Begin a swap and end it behind the writes of a step, before the journal says so; return who comes next."""
    first = Mortal(*scene.tools)
    first.lock()
    first.ends_in = (step, returning)
    with pytest.raises(CutOff):
        first.go(scene.begin(first))
    return scene.migrator()


@pytest.mark.parametrize(("step", "returning"), CUTS)
def test_a_swap_that_was_cut_off_is_resumed(scene: Scene, step: Step, returning: bool) -> None:
    """In both halves, before and behind the deletions; what is published until then is not gone."""
    second = cut_off_in(scene, step, returning=returning)
    message = Publication("web", "order.note", b"between", Properties(delivery_mode=2), mandatory=True)
    assert answer(scene.connection.channel().publish([message]))[0].confirmed
    held = [body for queue in second.read().consumed("orders") for body in scene.bodies(queue)]
    under_way = second.find("orders")
    assert under_way is not None
    assert (held, second.go(under_way).new) == ([b"between"], "orders")
    assert scene.type_of("orders") == "quorum"
    assert not second.exists("orders.g2")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_came_after_a_deletion_was_cut_off_is_not_deleted(scene: Scene, kind: str) -> None:
    """The proof may be of yesterday: whoever goes on with the deletion proves the queue empty once more."""
    migrator = scene.migrator()
    before_delete = migrator.go(scene.begin(migrator), until=Step.PROVE)
    old = QueueSpec("orders", arguments={"x-queue-type": kind})
    if kind == "quorum":  # a type without a conditional delete
        answer(scene.connection.channel().delete_queue("orders"))
        answer(scene.connection.channel().declare_queue(old))
    migrator._record(at_delete := following_of(before_delete, kind))
    stray = Publication("", "orders", b"stray", Properties(delivery_mode=2), mandatory=True)
    assert answer(scene.connection.channel().publish([stray]))[0].confirmed
    second = scene.migrator()
    last = second.go(at_delete, until=Step.DELETE)
    assert (last.step, second.moved, scene.bodies("orders.g2")) == (Step.DELETE, 1, [b"stray"])


def following_of(migration: Migration, kind: str) -> Migration:
    """Return the migration at its next step, of a queue of this type."""
    found = following(migration)
    assert found is not None
    return replace(found, old_type=kind)


@pytest.mark.parametrize("step", [Step.CREATE, Step.SETTLE])
def test_a_swap_that_is_given_up_in_its_second_half_keeps_the_queue_between(scene: Scene, step: Step) -> None:
    """What the name got meanwhile is taken along; the same command goes on from there later."""
    second = cut_off_in(scene, step, returning=True)
    by_name = Publication("", "orders", b"by name", Properties(delivery_mode=2), mandatory=True)
    assert answer(scene.connection.channel().publish([by_name]))[0].confirmed
    under_way = second.find("orders")
    assert under_way is not None
    # There is no worker to empty a queue on the way back.
    last = second.go(replace(abort(under_way), strategy="move"))
    assert (last.step, last.new, second.exists("orders")) == (Step.DONE, "orders.g2", False)
    assert scene.bodies("orders.g2") == [b"by name"]
    again = scene.begin(second)
    assert (again.old, again.new, again.returning) == ("orders.g2", "orders", True)
    assert second.go(again).step is Step.DONE
    assert scene.type_of("orders") == "quorum"


def test_a_queue_that_others_declare_while_its_name_is_free_is_not_taken(scene: Scene) -> None:
    """Programs that declare what they publish to are told of; what their queue holds is kept."""

    def declare_theirs(migration: Migration) -> None:
        if migration.returning:
            answer(scene.connection.channel().declare_queue(QueueSpec("orders", arguments={"x-max-priority": 5})))

    migrator = scene.migrator(declare_theirs)
    with pytest.raises(
        PreconditionFailed, match=r"declared a queue of that name. `abort` takes along what that one holds"
    ):
        migrator.go(scene.begin(migrator))
    migrator = scene.migrator()
    by_name = Publication("", "orders", b"by name", Properties(delivery_mode=2), mandatory=True)
    assert answer(scene.connection.channel().publish([by_name]))[0].confirmed
    stuck = migrator.find("orders")
    assert stuck is not None
    assert migrator.go(abort(stuck)).new == "orders.g2"
    assert (scene.bodies("orders.g2"), migrator.exists("orders")) == ([b"by name"], False)


def test_the_command_line_says_what_a_swap_asks_for(scene: Scene) -> None:
    """What happens to the name is said before anything is done; status and abort know of the way back."""

    def migrate(*arguments: str) -> Said:
        more = ("-t", "quorum.yaml")
        return amqpq(scene.folder, "topology", "migrate", *arguments, *more, broker=scene.url, extra=scene.extra)

    dry = migrate("orders", "--strategy", "swap", "--dry").done()
    assert "orders: orders -> orders.g2 -> orders" in dry
    assert "orders is deleted and declared anew. In between the broker returns what is published to it by name" in dry
    assert json.loads(migrate("orders", "--strategy", "swap", "--dry", "--json").done())["name_absent"] is True
    said = migrate("orders", "--strategy", "swap").done()
    assert "`amqpq topology migrate finish orders` deletes it, and brings orders back under its name" in said
    assert (
        "step drain (wait until the old queue is drained), and then back to the name orders" in migrate("status").done()
    )
    assert "orders lives in orders" in migrate("abort", "--quiet", "1s").done()
    assert scene.type_of("orders") == "classic"
