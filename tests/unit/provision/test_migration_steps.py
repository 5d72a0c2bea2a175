"""The steps of a migration against the simulated routing: nothing is lost or doubled, whoever is cut off and wherever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from amqpq.errors import LocalError
from amqpq.provision.migration import (
    Action,
    Bind,
    Declare,
    Migration,
    Step,
    Unbind,
    abort,
    actions,
    following,
    home,
    journal,
    restored,
)
from amqpq.topology.generations import NOTHING_MOVED, read, write
from amqpq.topology.routing import Router
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

KINDS: dict[str, tuple[dict[str, object], tuple[str, dict[str, object]]]] = {
    "direct": ({"key": "k"}, ("k", {})),
    "topic": ({"key": "a.#"}, ("a.b.c", {})),
    "fanout": ({}, ("whatever", {})),
    "headers": ({"arguments": {"x-match": "all", "kind": "pdf"}}, ("", {"kind": "pdf"})),
}
EVERY: tuple[str, dict[str, object]] = ("a.b.c", {"kind": "pdf"})
SOURCES = (*KINDS, "every")
"""`every`: a fanout exchange bound to all the others, so that a message comes to the queue over several ways."""


@dataclass
class Broker:
    """What a broker holds, as far as routing goes."""

    exchanges: dict[str, ExchangeSpec] = field(default_factory=dict)
    queues: dict[str, QueueSpec] = field(default_factory=dict)
    bindings: list[BindingSpec] = field(default_factory=list)

    def write(self, action: Action) -> None:
        """Do what one action asks for."""
        if isinstance(action, Declare):
            spec = action.spec
            if isinstance(spec, ExchangeSpec):
                self.exchanges[spec.name] = spec
            else:
                self.queues[spec.name] = spec
        elif isinstance(action, Bind):
            if action.binding not in self.bindings:
                self.bindings.append(action.binding)
        elif action.binding in self.bindings:
            self.bindings.remove(action.binding)

    def delete(self, queue: str) -> None:
        """Delete a queue with its bindings."""
        self.queues.pop(queue, None)
        self.bindings = [each for each in self.bindings if each.to_exchange or each.target != queue]

    def copies(self, source: str) -> tuple[int, set[str]]:
        """Publish where `source` leads; return how many copies the migrating queue gets, and who else gets one."""
        headers: dict[str, object] = {}
        router = Router(self.exchanges.values(), self.queues.values(), self.bindings)
        if (
            source == "name"
        ):  # a producer that publishes to the queue by its name: through the ingress where there is one
            exchange, key = ("orders.in" if "orders.in" in self.exchanges else ""), "orders"
        elif source == "old name":  # one that has not heard of the ingress; it publishes again where it is returned
            exchange, key = ("" if "orders" in self.queues else "orders.in"), "orders"
        else:
            key, headers = EVERY if source == "every" else KINDS[source][1]
            exchange = source
        reached = router.route(exchange, key, headers).queues
        mine = {name for name in reached if name.startswith("orders")}
        return len(mine), set(reached) - mine

    def check(self) -> None:
        """See that a message from anywhere reaches exactly one queue of this migration, and the others as before."""
        for source in (*SOURCES, "name", "old name"):
            mine, others = self.copies(source)
            assert mine == 1, source
            assert others == ({"audit"} if source in SOURCES else set()), source


def start(step: Step = Step.ADOPT, *, ordered: bool = False) -> tuple[Broker, Migration]:
    """Return a broker with a bound queue, and a migration of it that has not begun."""
    broker = Broker()
    bindings = []
    broker.exchanges["every"] = ExchangeSpec("every", "fanout")
    broker.queues = {name: QueueSpec(name) for name in ("orders", "audit")}
    for kind, (how, _) in KINDS.items():
        broker.exchanges[kind] = ExchangeSpec(kind, kind)
        bindings.append(BindingSpec(kind, "orders", **how))  # type: ignore[arg-type]
        broker.bindings.append(BindingSpec(kind, "audit", **how))  # type: ignore[arg-type]
        broker.bindings.append(BindingSpec("every", kind, to_exchange=True))
    bindings.append(BindingSpec("every", "orders"))
    broker.bindings += bindings
    spec = QueueSpec("orders.g2", arguments={"x-queue-type": "quorum"})
    return broker, Migration("orders", "orders", spec, step, bindings=tuple(bindings), ordered=ordered)


def perform(broker: Broker, migration: Migration, stop: int | None = None) -> None:
    """Do a step, or its first `stop` writes, and check the routing after every write."""
    for action in actions(migration)[:stop]:
        broker.write(action)
        broker.check()
    if stop is None and migration.step is Step.DELETE:
        broker.delete(migration.old)
        broker.check()


def finish(broker: Broker, migration: Migration | None) -> Migration:
    """Go on to the end, through the journal as one that was cut off would."""
    last = migration
    while migration is not None:
        perform(broker, migration)
        last, migration = migration, following(migration)
        migration = None if migration is None else restored(journal(migration))
    assert last is not None
    return last


def course(*, ordered: bool = False) -> Iterator[tuple[Broker, Migration, int]]:
    """Yield a broker at every moment of a migration: each step, after each of its writes."""
    _, first = start(ordered=ordered)
    step: Migration | None = first
    while step is not None:
        for done in range(len(actions(step)) + 1):
            broker, migration = start(ordered=ordered)
            while migration.step is not step.step:
                perform(broker, migration)
                nxt = following(migration)
                assert nxt is not None
                migration = nxt
            perform(broker, migration, done)
            yield broker, migration, done
        step = following(step)


@pytest.mark.parametrize("ordered", [False, True])
def test_nothing_is_lost_or_doubled_between_any_two_writes(ordered: bool) -> None:
    """From every kind of source a message reaches exactly one of the two queues, after each single write."""
    broker, migration = start(ordered=ordered)
    broker.check()
    last = finish(broker, migration)
    assert last.step is Step.DONE
    assert "orders" not in broker.queues
    assert home(last).consumed == ("orders.g2",)
    assert not home(last).moving


def test_a_migration_that_was_cut_off_anywhere_goes_on() -> None:
    """Each step may be begun again after any of its writes, and the end is the same."""
    moments = 0
    for broker, migration, _ in course():
        last = finish(broker, migration)
        assert (last.step, last.new, set(broker.queues)) == (Step.DONE, "orders.g2", {"orders.g2", "audit"})
        moments += 1
    assert moments > 25


@pytest.mark.parametrize("ordered", [False, True])
def test_a_migration_can_be_undone_from_anywhere(ordered: bool) -> None:
    """Aborted after any write of any step before the deletion, the queue lives in the old one again, loss or copy nowhere."""
    for broker, migration, _ in course(ordered=ordered):
        if migration.step in {Step.DELETE, Step.DONE}:
            with pytest.raises(LocalError, match="only forward"):
                abort(migration)
            continue
        last = finish(broker, abort(migration))
        assert (last.step, last.new, set(broker.queues)) == (Step.DONE, "orders", {"orders", "audit"})
        assert home(last).current == "orders"


def test_undoing_can_be_cut_off_too() -> None:
    """Every step of the way back may be begun again."""
    for broker, migration, _ in course():
        if migration.step in {Step.DELETE, Step.DONE}:
            continue
        back: Migration | None = abort(migration)
        while back is not None:
            for count in range(len(actions(back)) + 1):
                perform(broker, back, count)
            perform(broker, back)
            back = following(restored(journal(back)))
        assert set(broker.queues) == {"orders", "audit"}


def test_the_next_generation_starts_from_the_ingress() -> None:
    """A queue that was moved once is moved again, and back to where it was, by the same steps from CREATE on."""
    broker, migration = start()
    finish(broker, migration)
    again = replace(
        migration, old="orders.g2", old_type="quorum", spec=QueueSpec("orders.g3"), step=Step.CREATE, bindings=()
    )
    last = finish(broker, again)
    assert set(broker.queues) == {"orders.g3", "audit"}
    assert home(last).current == "orders.g3"


def test_arming_after_the_switch_would_lose() -> None:
    """The check is able to fail: in the wrong order of steps a message reaches nothing."""
    broker, migration = start()
    while migration.step is not Step.ARM:
        perform(broker, migration)
        nxt = following(migration)
        assert nxt is not None
        migration = nxt
    with pytest.raises(AssertionError):
        perform(broker, replace(migration, step=Step.SWITCH))


def test_workers_consume_both_queues_while_either_may_get_messages() -> None:
    """What the record says of consumers, step by step."""
    told = {migration.step: home(migration).consumed for _, migration, _ in course()}
    both = ("orders", "orders.g2")
    assert told[Step.CREATE] == ("orders",)
    assert {told[step] for step in (Step.FOLLOW, Step.ARM, Step.SWITCH, Step.SETTLE, Step.DISARM, Step.DRAIN)} == {both}
    assert told[Step.LEAVE] == told[Step.DONE] == ("orders.g2",)


def test_an_ordered_queue_is_finished_before_the_next_one_is_begun() -> None:
    """With single active consumers no worker has the new queue before the old one is drained."""
    told = {migration.step: home(migration).consumed for _, migration, _ in course(ordered=True)}
    assert Step.FOLLOW not in told
    assert {
        consumed for step, consumed in told.items() if step not in {Step.LEAVE, Step.PROVE, Step.DELETE, Step.DONE}
    } == {("orders",)}


def test_the_record_comes_back_as_it_was_written() -> None:
    """A migration survives the way through the stream at every step, on the way there and back."""
    for _, migration, _ in course():
        record = NOTHING_MOVED.with_home("orders", home(migration))
        found = read(write(record))
        assert found == record
        if migration.step is not Step.DONE:
            kept = found.homes["orders"].journal
            assert kept is not None
            assert restored(kept) == migration


# --------------------------------------------------------------------------------------------------------------- swap


def swap(*, ordered: bool = False) -> tuple[Broker, Migration]:
    """Return a broker with a bound queue, and a swap of it that has not begun."""
    broker, migration = start(ordered=ordered)
    return broker, replace(migration, strategy="swap")


def swap_course(*, ordered: bool = False) -> Iterator[tuple[Broker, Migration]]:
    """Yield a broker at every moment of a swap: each step of both halves, after each of its writes."""
    _, following_one = swap(ordered=ordered)
    steps: list[Migration] = []
    while True:
        steps.append(following_one)
        nxt = following(following_one)
        if nxt is None:
            break
        following_one = nxt
    for number, step in enumerate(steps):
        for done in range(len(actions(step)) + 1):
            broker, _ = swap(ordered=ordered)
            for before in steps[:number]:
                perform(broker, before)
            perform(broker, step, done)
            yield broker, step


@pytest.mark.parametrize("ordered", [False, True])
def test_a_swap_ends_under_the_name_it_began_with(ordered: bool) -> None:
    """Two halves; after each single write a message reaches exactly one queue, and in the end that is called as before."""
    broker, migration = swap(ordered=ordered)
    last = finish(broker, migration)
    assert (last.step, last.new, set(broker.queues)) == (Step.DONE, "orders", {"orders", "audit"})
    assert broker.queues["orders"].arguments == {"x-queue-type": "quorum"}
    assert home(last).consumed == ("orders",)
    assert not home(last).moving


def test_the_name_of_a_swapped_queue_is_absent_once() -> None:
    """Only right behind the deletion, before the next queue of that name is declared, does the name lead nowhere."""
    absent = [(step.step, step.returning) for broker, step in swap_course() if "orders" not in broker.queues]
    assert absent == [(Step.CREATE, True)]


def test_workers_consume_whatever_a_swap_lets_messages_reach() -> None:
    """First both, then the one between the halves, then both again, then the one with the name."""
    told: list[tuple[str, ...]] = []
    for _, step in swap_course():
        if not told or told[-1] != home(step).consumed:
            told.append(home(step).consumed)
    both = ("orders", "orders.g2"), ("orders.g2", "orders")
    assert told == [("orders",), both[0], ("orders.g2",), both[1], ("orders",)]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_swap_that_was_cut_off_anywhere_goes_on(ordered: bool) -> None:
    """In each half, after each write."""
    halves = set()
    for broker, migration in swap_course(ordered=ordered):
        halves.add(migration.returning)
        last = finish(broker, restored(journal(migration)))
        assert (last.step, last.new, set(broker.queues)) == (Step.DONE, "orders", {"orders", "audit"})
    assert halves == {False, True}


@pytest.mark.parametrize("ordered", [False, True])
def test_a_swap_can_be_given_up_in_both_halves(ordered: bool) -> None:
    """In the first half that leads back to the old queue, in the second to the one between the halves."""
    for broker, migration in swap_course(ordered=ordered):
        if migration.step in {Step.DELETE, Step.DONE}:
            with pytest.raises(LocalError, match="only forward"):
                abort(migration)
            continue
        kept = "orders.g2" if migration.returning else "orders"
        last = finish(broker, abort(migration))
        assert (last.step, last.new, set(broker.queues)) == (Step.DONE, kept, {kept, "audit"})
        assert (home(last).consumed, last.returns, last.returning) == ((kept,), False, False)


def test_a_strategy_of_a_later_version_is_not_gone_on_with() -> None:
    """An older version does not guess what it would have to do."""
    _, migration = swap()
    with pytest.raises(LocalError, match="strategy 'mirror' is of a later version"):
        restored({**journal(migration), "strategy": "mirror"})


def test_undoing_is_undone_by_nobody() -> None:
    """Somebody who aborts twice is told to go on."""
    _, migration = start(Step.DRAIN)
    with pytest.raises(LocalError, match="resume"):
        abort(abort(migration))


def test_unbinding_is_what_the_actions_say() -> None:
    """The switch is one single write."""
    _, migration = start(Step.SWITCH)
    assert actions(migration) == (Unbind(BindingSpec("orders.in", "orders")),)
