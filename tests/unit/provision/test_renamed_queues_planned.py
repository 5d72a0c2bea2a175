"""What plans and migrations make of queues that have another name now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import pytest

from amqpq.errors import ConfigurationError, LocalError
from amqpq.provision import emptying, text
from amqpq.provision.as_if import as_if
from amqpq.provision.journal import Manifest
from amqpq.provision.migrating import Migrator, NotYet, Patience
from amqpq.provision.migration import Migration, Step, abort, actions, following, home, journal, restored
from amqpq.provision.observed import Observed
from amqpq.provision.plan import Plan, plan
from amqpq.provision.wanted import wanted, wanted_there
from amqpq.topology import Topology
from amqpq.topology.generations import NOTHING_MOVED, Generations, Home, ingress_specs
from amqpq.topology.renames import placed
from amqpq.topology.routing import Router
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

Make: TypeAlias = Callable[..., Topology]
See: TypeAlias = Callable[..., Observed]

MOVED = {"moved": [{"from": "queue.mail", "to": "queue.post"}]}
QUEUES = {"orders": {"type": "quorum", "limits": {"max_length": 1000}}, "lost": {"dead_letter": "none"}}
POST = {**QUEUES, "post": {"max_priority": 5, "ttl": "1h"}}
BOUND = ["events[order.#] -> orders", "events[mail.*] -> post", "lost -> lost"]


@pytest.fixture
def new(make: Make) -> Topology:
    """The file after the rename."""
    checks = [
        {"publish": {"exchange": "events", "key": "mail.x"}, "reaches": ["post"], "exactly": True},
        {"publish": {"task": "post.write"}, "reaches": ["post"], "exactly": True},
    ]
    return make(queues=POST, bindings=BOUND, checks=checks, routes={"*": {"queue": "post"}}, **MOVED)


def owned_by(topology: Topology) -> frozenset[str]:
    """Return what a project owns that has applied this file."""
    target = wanted(topology)
    return frozenset([*(f"queue {name}" for name in target.queues), "binding events[mail.*] -> mail"])


def planned(topology: Topology, where: Generations, seen: Observed, owned: frozenset[str]) -> Plan:
    """Plan from what was seen."""
    return plan(topology, wanted_there(topology, where), seen, Manifest(7, owned))


def test_a_rename_is_one_change_and_not_two_queues(make: Make, see: See, new: Topology) -> None:
    """The queue stays with its bindings; what is new is the way in by the former name."""
    before = make()
    made = planned(new, placed(new, NOTHING_MOVED, ["mail"]), see(before), owned_by(before))
    assert [(step.operation, step.name) for step in made.steps] == [
        ("rename", "post"),
        ("exchange", "mail.alt"),
        ("exchange", "mail.in"),
        ("bind", "mail.in -> mail"),
    ]
    assert (made.outcome, made.problems, made.warnings) == ("changes", (), ())
    queues = [line for line in text.lines(made) if " queue " in line]
    assert queues == [
        "  ~ queue      post  renamed from mail: it lives in the queue mail until `amqpq topology migrate post`"
    ]


def test_a_rename_that_was_applied_is_no_change(new: Topology) -> None:
    """Only whoever asks for what makes no difference is told where it lives."""
    where = NOTHING_MOVED.with_home("post", Home("mail", ("mail",), former="mail"))
    made = planned(new, where, as_it_is(new, where), frozenset())
    assert (made.outcome, made.steps) == ("clean", ())
    assert [line for line in text.lines(made, infos=True) if "queue" in line] == [
        "    queue      post  it lives in the queue mail",
        "      -> `amqpq topology migrate post` gives it a queue of its own name",
    ]


def test_other_properties_wait_for_the_migration(make: Make, see: See) -> None:
    """What cannot be changed on the queue of the former name comes with the one of its own."""
    topology = make(queues={**POST, "post": {"ttl": "1h"}}, bindings=BOUND, **MOVED)
    made = planned(topology, placed(topology, NOTHING_MOVED, ["mail"]), see(make()), frozenset())
    assert ("migrate", "queue mail") in [(str(change.action), change.address) for change in made.changes]


def as_it_is(topology: Topology, where: Generations) -> Observed:
    """Look at a broker that is as a topology and a record say."""
    return replace(as_if(wanted_there(topology, where), (4, 3, 0))[0], level="http", vhost="v")


def test_a_file_of_before_plans_nothing(make: Make, new: Topology) -> None:
    """Nor does the new one while the queue is being migrated."""
    record = NOTHING_MOVED.with_home("post", Home("mail", ("mail",), former="mail"))
    with pytest.raises(ConfigurationError, match="this file has it under its former name"):
        wanted_there(make(), record)
    moving = record.with_home("post", Home("mail", ("mail",), former="mail", moving=True))
    with pytest.raises(LocalError, match="queue 'post' is being migrated"):
        wanted_there(new, moving)


# ----------------------------------------------------------------------------------------------------------- migration


class Broker:
    """What a broker holds of a queue that was renamed, as far as routing goes."""

    def __init__(self, *, generation: bool) -> None:
        self.old = "mail.g2" if generation else "mail"
        self.exchanges = {spec.name: spec for spec in (ExchangeSpec("web", "topic"), *ingress_specs("mail"))}
        self.queues = {self.old, "audit"}
        self.bindings = [
            BindingSpec("web", self.old, "mail.#"),
            BindingSpec("web", "audit", "#"),
            BindingSpec("mail.in", self.old),
        ]
        if generation:  # the way on which its sources came before the rename
            self.bindings.append(BindingSpec("web", "mail.in", "mail.#", to_exchange=True))

    def migration(self) -> Migration:
        """Return a migration to the queue of the new name that has not begun."""
        moved = tuple(
            replace(each, target="post") for each in self.bindings if each.target == self.old and not each.to_exchange
        )
        return Migration("post", self.old, QueueSpec("post"), Step.ADOPT, bindings=moved, former="mail")

    def perform(self, migration: Migration, stop: int | None = None) -> None:
        """Do a step, or its first writes, and see after each that every message reaches exactly one of the two queues."""
        for action in actions(migration)[:stop]:
            binding: Any = getattr(action, "binding", None)
            if binding is None:
                spec: Any = getattr(action, "spec", None)
                if isinstance(spec, ExchangeSpec):
                    self.exchanges[spec.name] = spec
                else:
                    self.queues.add(spec.name)
            elif type(action).__name__ == "Bind":
                self.bindings += [] if binding in self.bindings else [binding]
            elif binding in self.bindings:
                self.bindings.remove(binding)
            self.check(home(migration))
        if stop is None and migration.step is Step.DELETE:
            self.queues.discard(migration.old)
            self.bindings = [each for each in self.bindings if each.to_exchange or each.target != migration.old]
            self.check(home(migration))

    def check(self, where: Home) -> None:
        """Publish as everybody does: over the exchange, by the former name, and as a worker does."""
        router = Router(self.exchanges.values(), [QueueSpec(name) for name in self.queues], self.bindings)
        by_worker = NOTHING_MOVED.with_home("post", where).way("post")
        unaware = ("", "mail") if "mail" in self.queues else ("mail.in", "mail")
        for exchange, key in (("web", "mail.x"), ("mail.in", "mail"), unaware, by_worker):
            reached = router.route(exchange, key).queues
            assert len(reached - {"audit"}) == 1, (exchange, key)
            assert ("audit" in reached) == (exchange == "web")


def course(*, generation: bool) -> list[tuple[Migration, int]]:
    """Return every moment of a migration: each step, after each of its writes."""
    moments: list[tuple[Migration, int]] = []
    step: Migration | None = Broker(generation=generation).migration()
    while step is not None:
        moments += [(step, done) for done in range(len(actions(step)) + 1)]
        step = following(step)
    return moments


def brought(moment: Migration, done: int, *, generation: bool) -> Broker:
    """Return a broker at a moment."""
    broker = Broker(generation=generation)
    step = broker.migration()
    while step.step is not moment.step:
        broker.perform(step)
        nxt = following(step)
        assert nxt is not None
        step = nxt
    broker.perform(step, done)
    return broker


def finish(broker: Broker, migration: Migration | None) -> Migration:
    """Go on to the end, through the journal as one that was cut off would."""
    last = migration
    while migration is not None:
        broker.perform(migration)
        last, migration = migration, following(migration)
        migration = None if migration is None else restored(journal(migration))
    assert last is not None
    return last


@pytest.mark.parametrize("generation", [False, True])
def test_nothing_is_lost_or_doubled_on_the_way_to_the_new_name(generation: bool) -> None:
    """After each single write, and whoever is cut off anywhere and goes on."""
    for moment, done in course(generation=generation):
        assert home(moment).former == "mail"
        broker = brought(moment, done, generation=generation)
        last = finish(broker, moment)
        assert (last.step, broker.queues, home(last).former) == (Step.DONE, {"post", "audit"}, "mail")
        assert home(last).current == "post"


@pytest.mark.parametrize("generation", [False, True])
def test_the_way_to_the_new_name_can_be_given_up(generation: bool) -> None:
    """Then the queue lives in the one of its former name again, behind its ingress."""
    for moment, done in course(generation=generation):
        if moment.step in {Step.DELETE, Step.DONE}:
            continue
        broker = brought(moment, done, generation=generation)
        last = finish(broker, abort(moment))
        assert (last.step, broker.queues, home(last).current) == (Step.DONE, {broker.old, "audit"}, broker.old)
        assert home(last).lead == "mail"


def test_who_waits_for_workers_is_told_which_do_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer of the queue of the former name may be one with the file of before."""
    there = Broker(generation=False).migration()
    nobody: Any = None
    migrator = Migrator(nobody, "shop", None, Patience(workers=0.0, look=0.0))
    monkeypatch.setattr(migrator, "_consumers", {"mail": 2, "post": 1}.__getitem__)
    for step, wait in ((Step.FOLLOW, migrator._until_followed), (Step.LEAVE, migrator._until_left)):
        with pytest.raises(
            NotYet, match="they have the file in which it is 'mail', and have to be started anew with the new"
        ):
            wait(replace(there, step=step))
        with pytest.raises(NotYet) as told:
            wait(replace(there, step=step, former=None))
        assert "started anew" not in str(told.value)


class Emptied:
    """Stands for what empties a queue; notes how."""

    told: ClassVar[list[tuple[str, str, float]]] = []
    moved = 0

    def __init__(self, _connection: object, into: str, old: str) -> None:
        self._names = into, old

    def empty(self, quiet: float, _timeout: float) -> None:
        """Note it."""
        self.told.append((*self._names, quiet))


@pytest.mark.parametrize(("old", "quiet"), [("mail", 75.0), ("mail.g2", 10.0)])
def test_producers_that_know_the_former_name_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, old: str, quiet: float
) -> None:
    """They may publish to the queue of that name for as long as they believe that it has no ingress."""
    monkeypatch.setattr(emptying, "Mover", Emptied)
    monkeypatch.setattr(Emptied, "told", [])
    nothing: Any = None
    migrator = Migrator(nothing, "shop", None, now=lambda: 1000.0)
    migration = Migration("post", old, QueueSpec("post"), Step.PROVE, adopted_at=1000.0, former="mail")
    migrator._move(migration, proof=True)
    assert Emptied.told == [("post", old, quiet)]


def test_who_knows_only_the_former_name_is_thought_of() -> None:
    """The proof waits for producers, the deletion may take the queue, and messages are moved so that all workers know them."""
    there = Broker(generation=False).migration()
    back = restored(journal(abort(replace(there, step=Step.DRAIN))))
    assert (there.names, there.renames, there.into) == (("post", "mail"), True, "post")
    assert (back.new, back.renames, back.into) == ("mail", True, "mail")
    later = replace(there, old="post", spec=QueueSpec("post.g2"))
    assert (later.renames, later.into) == (False, "post")
