"""What AMQP 1.0 management tells becomes what was seen; what it does not tell is never taken for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from amqpq.errors import AccessRefused, ConfigurationError, TransportError
from amqpq.provision.changes import Action
from amqpq.provision.destruction import Choice, Ground, destruction
from amqpq.provision.differences import differences
from amqpq.provision.journal import Manifest
from amqpq.provision.observe_amqp10 import exchanges_alone, observe
from amqpq.provision.observed import Observed, SeenExchange
from amqpq.provision.plan import Plan, plan
from amqpq.provision.wanted import Wanted, wanted
from amqpq.topology import Topology
from amqpq.transport.management_node import Answer
from amqpq.types import ExchangeSpec, ServerInfo

QUEUE: dict[str, Any] = {
    "type": "classic",
    "durable": True,
    "exclusive": False,
    "auto_delete": False,
    "arguments": {},
    "message_count": 3,
    "consumer_count": 1,
}
Make = Callable[..., Topology]


class Node:
    """Answers by a table, and notes what it was asked."""

    def __init__(self, told: Mapping[str, Answer | AccessRefused], cluster: str = "c1") -> None:
        self.server = ServerInfo("RabbitMQ", "4.3.6", cluster)
        self.told = told
        self.asked: list[str] = []

    def ask(self, paths: Sequence[str]) -> list[Answer | AccessRefused]:
        """Answer."""
        self.asked += paths
        return [self.told.get(path, Answer(404, None)) for path in paths]


def of_exchanges(target: Wanted, *missing: str) -> Observed:
    """What AMQP 0-9-1 tells of the exchanges."""
    names = {**target.exchanges, **target.expected_exchanges}
    return Observed(
        level="amqp",
        vhost="v",
        version=(4, 3, 6),
        cluster="c1",
        exchanges={name: SeenExchange(spec) for name, spec in names.items() if name not in missing},
        asked=frozenset(f"exchange {name}" for name in names),
    )


def all_there(target: Wanted) -> dict[str, Answer | AccessRefused]:
    """The answers of a broker that is as the target says."""
    told: dict[str, Answer | AccessRefused] = {}
    for name, spec in {**target.expected_queues, **target.queues}.items():
        body = {**QUEUE, "type": spec.arguments.get("x-queue-type", "classic"), "arguments": spec.arguments}
        told[f"/queues/{name}"] = Answer(200, body)
    for binding in target.declarations.bindings:
        key = binding.key.replace("#", "%23").replace("*", "%2A")
        path = f"/bindings?src={binding.source}&dstq={binding.target}&key={key}"
        told[path] = Answer(200, [{"arguments": binding.arguments}])
    return told


def planned(topology: Topology, node: Node, *missing: str) -> Plan:
    """Look, and plan."""
    target = wanted(topology)
    return plan(topology, target, observe(node, target, of_exchanges(target, *missing)))


def test_a_broker_that_is_as_the_file_says_leaves_only_what_cannot_be_seen(make: Make) -> None:
    """No queue differs, no binding is made again; counts are told."""
    target = wanted(make())
    node = Node(all_there(target))
    seen = observe(node, target, of_exchanges(target))
    assert [change.address for change in plan(make(), target, seen).changes] == ["broker everything else"]
    assert (seen.queues["mail"].ready, seen.queues["mail"].consumers) == (3, 1)
    assert seen.queues["mail"].spec == target.queues["mail"]
    assert seen.bindings == target.declarations.bindings
    assert {"queue mail", "exchange events"} <= (seen.asked or frozenset())
    assert plan(make(), target, seen).steps == ()


def test_a_binding_that_is_gone_is_made_and_the_others_are_not(make: Make) -> None:
    """That is what AMQP 0-9-1 cannot tell."""
    told = all_there(wanted(make()))
    told["/bindings?src=events&dstq=mail&key=mail.%2A"] = Answer(200, [])
    found = planned(make(), Node(told))
    assert [step.address for step in found.steps] == ["binding events[mail.*] -> mail"]
    assert found.hashes == {"binding events[mail.*] -> mail": "absent"}


def test_a_binding_is_not_asked_for_where_an_end_is_missing(make: Make) -> None:
    """It cannot exist; from RabbitMQ 4.3 on the question would end the session."""
    told = all_there(wanted(make()))
    del told["/queues/mail"]
    node = Node(told)
    found = planned(make(), node, "lost")
    asked = [path for path in node.asked if path.startswith("/bindings")]
    assert asked == ["/bindings?src=events&dstq=orders&key=order.%23"]
    assert {change.address for change in found.of(Action.CREATE)} == {
        "queue mail",
        "exchange lost",
        "binding events[mail.*] -> mail",
        "binding lost -> lost",
    }


def test_bindings_that_differ_in_headers_alone_are_one_question(make: Make) -> None:
    """The answer has those of others, too."""
    headers = [{"from": "h", "to": "mail", "headers": {"level": level}} for level in (1, 2)]
    topology = make(exchanges={"h": {"type": "headers"}}, bindings=headers, routes={})
    told = all_there(wanted(topology))
    path = "/bindings?src=h&dstq=mail&key="
    told[path] = Answer(200, [{"arguments": {"x-match": "all", "level": level}} for level in (2, 9)])
    node = Node(told)
    found = planned(topology, node)
    assert node.asked.count(path) == 1
    assert [change.name for change in found.of(Action.CREATE)] == ["h[x-match='all', level=1] -> mail"]
    assert [change.name for change in found.of(Action.FOREIGN)] == ["h[x-match='all', level=9] -> mail"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (AccessRefused("read access to exchange 'events' refused"), "read access to exchange 'events' refused"),
        (Answer(400, "no such thing"), "over AMQP 1.0 the broker answers 400: no such thing"),
    ],
)
def test_what_cannot_be_read_is_unknown(make: Make, answer: Answer | AccessRefused, words: str) -> None:
    """A queue and a binding are `?`; an apply binds, which changes nothing where the binding is."""
    told = all_there(wanted(make()))
    told["/queues/orders"] = told["/bindings?src=events&dstq=mail&key=mail.%2A"] = answer
    found = planned(make(), Node(told))
    unknown = {change.address: change.because for change in found.of(Action.UNKNOWN)}
    assert list(unknown) == ["queue orders", "binding events[mail.*] -> mail", "broker everything else"]
    assert unknown["queue orders"] == words
    assert unknown["binding events[mail.*] -> mail"].startswith(words)
    assert [step.address for step in found.steps] == ["binding events[mail.*] -> mail"]
    assert found.hashes == {"binding events[mail.*] -> mail": "unseen"}


def test_queues_of_others_are_read_too(make: Make) -> None:
    """Their type is compared, and one that cannot be read is not taken for the same."""
    topology = make(
        queues={"wanted": {"manage": "verify", "type": "quorum"}, "kept": {"manage": "verify"}}, bindings=[], routes={}
    )
    told = all_there(wanted(topology))
    told["/queues/wanted"] = Answer(200, QUEUE)
    told["/queues/kept"] = AccessRefused("no")
    found = planned(topology, Node(told))
    assert [change.address for change in found.of(Action.MISSING)] == ["queue wanted"]
    assert "queue kept" in [change.address for change in found.of(Action.UNKNOWN)]


@pytest.mark.parametrize("body", [None, "text", {**QUEUE, "arguments": 5}, {"type": "classic"}])
def test_an_answer_that_is_no_queue_ends_the_look(make: Make, body: Any) -> None:
    """Then the broker is looked at over AMQP 0-9-1."""
    target = wanted(make())
    told = all_there(target) | {"/queues/mail": Answer(200, body)}
    with pytest.raises(TransportError, match="says of queue 'mail' cannot be read"):
        observe(Node(told), target, of_exchanges(target))


@pytest.mark.parametrize("body", [None, [5], [{}], [{"arguments": 5}]])
def test_an_answer_that_is_no_bindings_ends_the_look(make: Make, body: Any) -> None:
    """The same."""
    target = wanted(make())
    told = all_there(target) | {"/bindings?src=lost&dstq=lost&key=": Answer(200, body)}
    with pytest.raises(TransportError, match="says of lost -> lost cannot be read"):
        observe(Node(told), target, of_exchanges(target))


def test_another_cluster_is_found_out(make: Make) -> None:
    """A plan must not read one broker and write to another."""
    target = wanted(make())
    with pytest.raises(ConfigurationError, match="over AMQP 0-9-1 to 'c1', over AMQP 1.0 to 'c2'"):
        observe(Node(all_there(target), "c2"), target, of_exchanges(target))


def test_over_amqp_0_9_1_only_exchanges_are_looked_at(make: Make) -> None:
    """Queues are not declared in order to compare them."""
    target = wanted(make(queues={"q": {}, "theirs": {"manage": "verify"}}, bindings=[], routes={}))
    left = exchanges_alone(target)
    assert (left.exchanges, left.queues, left.expected_queues) == (target.exchanges, {}, {})


def test_arguments_of_exchanges_that_the_broker_does_not_compare_stay_unknown(make: Make) -> None:
    """There is no path for exchanges: what was not seen is not said to be absent."""
    target = wanted(make())
    seen = observe(Node(all_there(target)), target, of_exchanges(target))
    odd = SeenExchange(ExchangeSpec("lost", "fanout"))
    file = replace(target.exchanges["lost"], arguments={"x-note": "ours"})
    changed = replace(target, exchanges={**target.exchanges, "lost": file})
    seen = replace(seen, exchanges={**seen.exchanges, "lost": odd})
    assert [change.address for change in differences(changed, seen)] == ["broker everything else"]


def test_what_is_not_in_the_file_any_more_is_unknown(make: Make) -> None:
    """Nobody asked for it, and bindings of others that hold it cannot be seen."""
    topology = make()
    target = wanted(topology)
    seen = observe(Node(all_there(target)), target, of_exchanges(target))
    owned = frozenset({"queue old", "binding events[old] -> mail"})
    found = plan(topology, target, seen, Manifest(owned=owned))
    assert {"queue old", "binding events[old] -> mail"} <= {each.address for each in found.of(Action.UNKNOWN)}


def test_what_is_to_go_is_unknown_and_stays(make: Make) -> None:
    """Whether others have bound it cannot be seen."""
    topology = make(decommission={"queues": ["old"]}, allow={"delete": True})
    target = wanted(topology)
    seen = observe(Node(all_there(target)), target, of_exchanges(target))
    found = plan(topology, target, seen)
    assert "queue old" in [change.address for change in found.of(Action.UNKNOWN)]
    assert found.steps == ()


def test_a_quorum_queue_is_not_proven_empty(make: Make) -> None:
    """Its count is a statistic, and what is unacknowledged is not told; bindings of the file go before it."""
    target = wanted(make())
    seen = observe(Node(all_there(target)), target, of_exchanges(target))
    seen = replace(
        seen, queues={name: replace(queue, ready=0, consumers=0) for name, queue in seen.queues.items()}, bindings=()
    )
    owned = frozenset({"queue orders", "binding events[order.#] -> orders"})
    found = destruction(Ground(target, seen, owned, {}), Choice())
    assert [(refusal.address, refusal.undecided) for refusal in found.refusals] == [("queue orders", True)]
    assert "events[order.#] -> orders" in [step.name for step in found.steps if step.operation == "unbind"]


def test_a_rehearsal_says_what_it_did_without(make: Make) -> None:
    """The checks are walked with the bindings that were seen."""
    topology = make(checks=[{"publish": {"task": "t"}, "reaches": ["orders"]}])
    told = all_there(wanted(topology))
    told["/bindings?src=events&dstq=orders&key=order.%23"] = Answer(200, [])
    found = planned(topology, Node(told))
    assert found.warnings == (
        "the steps were rehearsed without policies and the bindings of others, which AMQP 1.0 does not tell",
    )
    assert found.problems == ()
