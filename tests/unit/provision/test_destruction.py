"""What a destruction would do: only what is ours, in the order in which nothing is lost, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from amqpq.errors import LocalError
from amqpq.provision.destruction import Choice, Destruction, Ground, destruction, looked_for
from amqpq.provision.observed import SeenConsumer, SeenExchange, SeenQueue, address_of_binding
from amqpq.provision.wanted import wanted, wanted_there
from amqpq.topology import Topology
from amqpq.topology.generations import Generations, Home
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

STREAM = {"x-queue-type": "stream"}
STREAM_OF_THE_FILE = {"type": "stream", "retention": {"max_age": "1D"}}
SECTIONS: dict[str, Any] = {"delays": {"max": "1m", "unit": "1s"}, "limits": {"mail.*": {"concurrency": 2}}}


def owned(topology: Topology) -> frozenset[str]:
    """Return the manifest of a project that was applied."""
    target = wanted(topology)
    return frozenset(
        [
            *(f"exchange {name}" for name in target.exchanges),
            *(f"queue {name}" for name in target.queues),
            *(f"binding {address_of_binding(binding)}" for binding in target.declarations.bindings),
            *(f"policy {name}" for name in target.policies),
        ]
    )


def decide(topology: Topology, observed: Any, *only: str, **given: Any) -> Destruction:
    """Decide what goes of a topology that was applied."""
    others = given.pop("others", {})
    mine = given.pop("owned", owned(topology))
    return destruction(Ground(wanted(topology), observed, mine, others), Choice(only, **given))


def refused(found: Destruction) -> dict[str, str]:
    """Return the reasons by address."""
    return {refusal.address: refusal.because for refusal in found.refusals}


def changed(observed: Any, name: str, **facts: Any) -> Any:
    """Return what was seen with other facts of one queue."""
    return replace(observed, queues={**observed.queues, name: replace(observed.queues[name], **facts)})


def test_everything_goes_in_the_order_in_which_nothing_points_nowhere(make: Callable[..., Topology], see: Any) -> None:
    """Bindings, then queues before their dead letters, exchanges before their alternate, policies, and the journal last."""
    topology = make(**SECTIONS, policies={"short": {"pattern": "^mail$", "definition": {"max-length": 5}}})
    ours = {"amqpq.journal.shop": SeenQueue(QueueSpec("amqpq.journal.shop", arguments=STREAM), ready=9)}
    ours["shop.generations"] = SeenQueue(QueueSpec("shop.generations", arguments=STREAM), ready=9)
    seen = see(topology)
    found = decide(topology, replace(seen, queues={**seen.queues, **ours}))
    assert found.refusals == ()
    steps = [(step.operation, step.name) for step in found.steps]
    operations = [operation for operation, _ in steps]
    assert operations[: len(topology.bindings)] == ["unbind"] * len(topology.bindings)
    assert steps[-3:] == [
        ("delete policy", "short"),
        ("delete queue", "shop.generations"),
        ("delete queue", "amqpq.journal.shop"),
    ]
    place = {step: index for index, step in enumerate(steps)}
    assert place["delete queue", "orders"] < place["delete queue", "shop.dead"]
    assert place["delete exchange", "events"] < place["delete exchange", "lost"]
    assert place["delete queue", "shop.dead"] < place["delete exchange", "events"]
    assert {address for address in owned(topology) if not address.startswith("policy")} < {
        step.address for step in found.steps
    } | {"exchange events"}


def test_what_nobody_noted_stays(make: Callable[..., Topology], see: Any) -> None:
    """Neither what others made, nor what is in the file and was never applied."""
    topology = make()
    seen = see(topology)
    foreign = SeenQueue(QueueSpec("theirs"), ready=0, unacknowledged=0)
    mine = owned(topology) - {"queue mail", "binding events[mail.*] -> mail"}
    found = decide(topology, replace(seen, queues={**seen.queues, "theirs": foreign}), owned=mine)
    names = {step.name for step in found.steps if step.operation == "delete queue"}
    assert names == {"orders", "lost", "shop.dead"}
    assert refused(found) == {
        "exchange events": "it is still bound: events[mail.*] -> mail",
        "queue shop.dead": "it takes the dead letters of mail",
    }


@pytest.mark.parametrize(
    "name, facts, reason",
    [
        ("orders", {"ready": 3}, "it holds 3 messages"),
        ("orders", {"unacknowledged": 2, "ready": 1}, "it holds 3 messages"),
        ("mail", {"consumers": 2}, "it has 2 consumers"),
        ("amqpq.permits.shop.mail.*.2", {"unacknowledged": 1, "ready": 1}, "1 tasks run under its limit"),
    ],
)
def test_a_queue_in_use_refuses(
    make: Callable[..., Topology], see: Any, name: str, facts: dict[str, int], reason: str
) -> None:
    """With the count; messages of a queue that was not named are never dropped."""
    topology = make(**SECTIONS)
    known = [queue for queue in wanted(topology).queues if queue == name or queue.endswith(name.rpartition("shop.")[2])]
    (queue,) = known
    found = decide(topology, changed(see(topology), queue, **facts))
    assert refused(found) == {f"queue {queue}": reason}


def test_consumers_that_the_api_lists_refuse(make: Callable[..., Topology], see: Any) -> None:
    """Queues that are listed come without a count of their consumers."""
    topology = make()
    found = decide(topology, see(topology, consumers=(SeenConsumer("mail", "t", "guest", "c"),)))
    assert refused(found) == {"queue mail": "it has 1 consumers"}


def test_permits_that_nobody_holds_are_no_messages(make: Callable[..., Topology], see: Any) -> None:
    """A permit queue is full when nothing runs."""
    topology = make(**SECTIONS)
    (queue,) = [name for name in wanted(topology).queues if "mail.*" in name]
    found = decide(topology, changed(see(topology), queue, ready=2))
    assert found.refusals == ()
    assert queue in found.own


def test_messages_go_only_with_a_queue_that_was_named(make: Callable[..., Topology], see: Any) -> None:
    """By name, and with the word for it."""
    topology = make()
    seen = changed(see(topology), "mail", ready=3)
    assert refused(decide(topology, seen, "mail")) == {"queue mail": "it holds 3 messages"}
    found = decide(topology, seen, "mail", with_messages=True)
    assert (found.refusals, found.whole) == ((), False)
    assert found.dropped == {"mail"}
    assert [(step.operation, step.name) for step in found.steps] == [
        ("unbind", "events[mail.*] -> mail"),
        ("delete queue", "mail"),
    ]


def test_a_stream_of_the_file_goes_by_name_only(make: Callable[..., Topology], see: Any) -> None:
    """It keeps what was read; its count says nothing about what is still needed."""
    topology = make(queues={"orders": {}, "mail": {}, "lost": {}, "clicks": STREAM_OF_THE_FILE})
    assert refused(decide(topology, see(topology))) == {"queue clicks": "it is a stream, which keeps what was read"}
    assert decide(topology, see(topology), "clicks", with_messages=True).refusals == ()


def test_bindings_of_others_refuse(make: Callable[..., Topology], see: Any) -> None:
    """They would be dropped with the object, and what they bring would reach nobody."""
    topology = make()
    seen = see(topology)
    foreign = (BindingSpec("crm", "mail", "k"), BindingSpec("events", "crm", "#", to_exchange=True))
    exchanges = {**seen.exchanges, "crm": SeenExchange(ExchangeSpec("crm", "topic"))}
    found = decide(topology, replace(seen, exchanges=exchanges, bindings=(*seen.bindings, *foreign)))
    assert refused(found) == {
        "queue mail": "others have bound it: crm[k] -> mail",
        "exchange events": "it is still bound: events[#] -> crm (exchange)",
    }


def test_a_binding_between_two_that_go_goes(make: Callable[..., Topology], see: Any) -> None:
    """Whoever made it: an exchange that is bound could not be deleted."""
    topology = make()
    seen = see(topology)
    extra = BindingSpec("events", "lost", "x", to_exchange=True)
    found = decide(topology, replace(seen, bindings=(*seen.bindings, extra)))
    assert found.refusals == ()
    assert ("unbind", address_of_binding(extra)) in [(step.operation, step.name) for step in found.steps]


def test_what_another_project_has_too_stays(make: Callable[..., Topology], see: Any) -> None:
    """Two manifests with one object: it is the other one's to delete."""
    topology = make()
    others = {"crm": frozenset({"exchange lost", "queue lost", "binding lost -> lost"})}
    found = decide(topology, see(topology), others=others)
    assert found.kept == (
        "binding lost -> lost: also the project crm's",
        "exchange lost: also the project crm's",
        "queue lost: also the project crm's",
    )
    assert not {step.name for step in found.steps} & {"lost", "lost -> lost"}


@pytest.mark.parametrize(
    "only, reason",
    [
        (("exchange.lost",), {"exchange lost": "it is the alternate exchange of events"}),
        (("shop.dead",), {"queue shop.dead": "it takes the dead letters of orders"}),
    ],
)
def test_what_others_of_the_file_need_is_not_taken_from_them(
    make: Callable[..., Topology], see: Any, only: tuple[str, ...], reason: dict[str, str]
) -> None:
    """Messages that they send there would be lost."""
    topology = make(queues={"orders": {}, "lost": {"dead_letter": "none"}, "mail": {"dead_letter": "none"}})
    assert refused(decide(topology, see(topology), *only)) == reason


@pytest.mark.parametrize(
    "only, words",
    [
        ("order", r"--only order: project 'shop' owns nothing of this name \(did you mean 'orders'\?\)"),
        ("lost", "there are `queue.lost` and `exchange.lost`; say which"),
        ("queue.events", "owns nothing of this name"),
    ],
)
def test_a_name_that_is_not_ours_is_an_error(make: Callable[..., Topology], see: Any, only: str, words: str) -> None:
    """With what may have been meant."""
    topology = make()
    with pytest.raises(LocalError, match=words):
        decide(topology, see(topology), only)


def test_a_queue_that_has_moved_goes_with_its_ingress(make: Callable[..., Topology], see: Any) -> None:
    """By its name in the file, although the manifest is of before the migration."""
    topology = make()
    moved = Generations({"mail": Home("mail.g2", ("mail.g2",), {"mail.g2": "quorum"}, ingress=True)})
    target = wanted_there(topology, moved)
    seen = see(topology)
    seen = replace(
        seen,
        queues={name: SeenQueue(spec, ready=0, unacknowledged=0) for name, spec in target.queues.items()},
        exchanges={name: SeenExchange(spec) for name, spec in target.exchanges.items()},
        bindings=target.declarations.bindings,
    )
    ground = Ground(target, seen, owned(topology))
    found = destruction(ground, Choice(("mail",)))
    assert found.refusals == ()
    gone = {step.address for step in found.steps if step.operation != "unbind"}
    assert gone == {"queue mail.g2", "exchange mail.in", "exchange mail.alt"}
    assert destruction(ground, Choice()).refusals == ()


def test_a_queue_that_was_renamed_and_has_moved_goes_too(make: Callable[..., Topology], see: Any) -> None:
    """With the way in by its former name, although the manifest is of before the migration."""
    bound = ["events[order.#] -> orders", "events[mail.*] -> post", "lost -> lost"]
    queues = {"orders": {"type": "quorum"}, "post": {}, "lost": {"dead_letter": "none"}}
    topology = make(queues=queues, bindings=bound, moved=[{"from": "queue.mail", "to": "queue.post"}])
    renamed = Generations({"post": Home("mail", ("mail",), former="mail")})
    moved = Generations({"post": Home("post", ("post",), ingress=True, former="mail")})
    before, target = wanted_there(topology, renamed), wanted_there(topology, moved)
    manifest = {
        *(f"queue {name}" for name in before.queues),
        *(f"exchange {name}" for name in before.exchanges),
        *(f"binding {address_of_binding(binding)}" for binding in before.declarations.bindings),
    }
    seen = replace(
        see(topology),
        queues={name: SeenQueue(spec, ready=0, unacknowledged=0) for name, spec in target.queues.items()},
        exchanges={name: SeenExchange(spec) for name, spec in target.exchanges.items()},
        bindings=target.declarations.bindings,
    )
    found = destruction(Ground(target, seen, frozenset(manifest)), Choice())
    assert found.refusals == ()
    gone = {step.address for step in found.steps}
    assert gone >= {"queue post", "exchange post.in", "exchange post.alt", "exchange mail.in", "exchange mail.alt"}
    assert "binding mail.in -> post.in (exchange)" in gone


def test_without_the_api_a_quorum_queue_is_not_proven_empty(make: Callable[..., Topology], see: Any) -> None:
    """Neither is what is not in the file any more; and both are looked for."""
    topology = make()
    mine = owned(topology) | {"queue old", "exchange gone"}
    asked = looked_for(wanted(topology), mine)
    assert "old" in asked.expected_queues
    assert "gone" in asked.expected_exchanges
    seen = see(topology, level="amqp", bindings=None, policies=None, consumers=None)
    old = {"old": SeenQueue(QueueSpec("old"), ready=0, consumers=0)}
    seen = replace(seen, queues={**seen.queues, **old}, unreadable={"queue old": "only that it exists"})
    found = decide(topology, seen, owned=mine)
    assert {refusal.address: refusal.undecided for refusal in found.refusals} == {
        "queue orders": True,
        "queue old": True,
    }


def test_a_binding_has_one_address_whoever_tells_of_it(make: Callable[..., Topology], see: Any) -> None:
    """The management API gives headers in an order of its own; the binding is ours all the same, and goes."""
    headers = {"from": "h", "to": "mail", "headers": {"kind": "pdf", "age": 3}}
    topology = make(exchanges={"h": {"type": "headers"}}, bindings=[headers], routes={})
    seen = see(topology)
    told = tuple(
        replace(binding, arguments=dict(sorted(binding.arguments.items(), reverse=True))) for binding in seen.bindings
    )
    found = decide(topology, replace(seen, bindings=told), "mail")
    assert found.refusals == ()
    assert [step.name for step in found.steps] == ["h[x-match='all', age=3, kind='pdf'] -> mail", "mail"]
