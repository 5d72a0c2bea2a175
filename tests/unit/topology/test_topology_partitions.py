"""Partitioned queues as values: what is declared, what a name selects, and what the simulator says of them."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.topology import Topology, checks, load, partitions
from amqpq.topology.declarations import declarations
from amqpq.topology.delays import ladder, target_header
from amqpq.topology.permissions import answers
from amqpq.topology.render import facts, tables
from amqpq.topology.routing import Router, reach
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"web": {"type": "topic"}},
    "queues": {
        "clicks": {"partitions": 4, "max_priority": 3},
        "orders": {"type": "quorum", "partitions": 2, "single_active": True, "partition_by": {"header": "customer"}},
        "jobs": {"partitions": 2, "partition_by": {"property": "correlation_id"}},
        "plain": {},
    },
    "bindings": ["web[click.*] -> clicks", "web[plain] -> plain"],
    "routes": {
        "clicks.*": {"queue": "clicks", "key": "{user}"},
        "orders.*": {"queue": "orders"},
        "jobs.*": {"queue": "jobs"},
        "web.*": {"exchange": "web", "key": "click.{task}"},
    },
    "delays": {},
}


def make(**sections: Any) -> Topology:
    """Load the topology with some sections replaced."""
    return load({**SOURCE, **sections}, environ={})


TOPOLOGY = make()


def queues_named(stem: str) -> dict[str, QueueSpec]:
    """What is declared of a queue, by name."""
    return {spec.name: spec for spec in declarations(TOPOLOGY).queues if spec.name.startswith(stem)}


def test_each_partition_is_a_queue_with_the_properties_of_the_whole() -> None:
    """There is no queue of the logical name, and the dead letters of all partitions go where its own would."""
    found = queues_named("clicks")
    assert list(found) == ["clicks.0", "clicks.1", "clicks.2", "clicks.3"]
    for spec in found.values():
        assert spec.arguments["x-max-priority"] == 3
        assert spec.arguments["x-dead-letter-routing-key"] == "shop.dead"
    assert "plain" in queues_named("plain")


def test_the_exchange_before_them_hashes_what_the_file_says() -> None:
    """The routing key where it says nothing."""
    found = {spec.name: spec for spec in declarations(TOPOLOGY).exchanges if spec.type == partitions.EXCHANGE_TYPE}
    assert {name: dict(spec.arguments) for name, spec in found.items()} == {
        "clicks.hash": {},
        "orders.hash": {"hash-header": "customer"},
        "jobs.hash": {"hash-property": "correlation_id"},
    }


def test_partitions_are_bound_with_equal_weight_and_bindings_lead_to_their_exchange() -> None:
    """A binding of the file names the queue, and is one from exchange to exchange."""
    bindings = declarations(TOPOLOGY).bindings
    assert [b for b in bindings if b.source == "clicks.hash"] == [
        BindingSpec("clicks.hash", f"clicks.{number}", "1") for number in range(4)
    ]
    assert BindingSpec("web", "clicks.hash", "click.*", to_exchange=True) in bindings
    assert BindingSpec("web", "plain", "plain") in bindings
    assert not [b for b in bindings if b.target == "clicks"]


def test_a_route_to_a_partitioned_queue_goes_through_its_exchange() -> None:
    """With the key of the route; one to another queue stays as it was."""
    route = TOPOLOGY.route_for("clicks.note")
    assert (route.exchange, route.routing_key("clicks.note", {"user": "ann"})) == ("clicks.hash", "ann")


def test_the_simulator_says_the_logical_name() -> None:
    """Nobody but the broker knows which partition it will be."""
    assert reach(TOPOLOGY, "clicks.hash", "ann").queues == {"clicks"}
    assert reach(TOPOLOGY, "web", "click.buy").queues == {"clicks"}


def test_checks_name_the_queue_of_the_file() -> None:
    """`exactly` holds, and failures end in its dead letters."""
    found = checks.run(
        make(
            checks=[
                {"publish": {"task": "web.buy"}, "reaches": ["clicks"], "exactly": True},
                {"fail": {"task": "clicks.note", "with": {"user": "ann"}}, "ends_in": ["shop.dead"]},
            ]
        )
    )
    assert [result.faults for result in found] == [(), ()]


def test_delays_lead_to_the_exchange_and_to_each_partition() -> None:
    """What is delayed finds its partition when it is due; what is tried again has one already."""
    exits = {
        next(name for name in binding.arguments if name != "x-match"): binding
        for binding in declarations(TOPOLOGY).bindings
        if binding.source == "shop.delay.out"
    }
    whole, part = exits[target_header("clicks")], exits[target_header("clicks.3")]
    assert (whole.target, whole.to_exchange) == ("clicks.hash", True)
    assert (part.target, part.to_exchange) == ("clicks.3", False)
    assert len(ladder(TOPOLOGY).bindings) == len(set(map(repr, ladder(TOPOLOGY).bindings)))


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("clicks", ("clicks.0", "clicks.1", "clicks.2", "clicks.3")),
        ("clicks.2", ("clicks.2",)),
        ("clicks.1-2", ("clicks.1", "clicks.2")),
        ("plain", ("plain",)),
        ("clicks.4", ()),
        ("clicks.03", ()),
        ("clicks.2-1", ()),
        ("clicks.2-4", ()),
        ("plain.0", ()),
        ("plain.0-1", ()),
        ("nothing", ()),
    ],
)
def test_a_word_selects_queues_of_the_broker(word: str, names: tuple[str, ...]) -> None:
    """All partitions, one, several, or a queue that has none; what does not exist selects nothing."""
    assert partitions.selected(TOPOLOGY, word) == names


def test_a_partition_is_found_by_its_name_and_knows_the_whole() -> None:
    """So dead letters and limits of one are asked like those of any queue."""
    found = TOPOLOGY.queue("clicks.1")
    assert found is not None
    assert (found.part_of, found.max_priority, found.partitions) == ("clicks", 3, None)
    assert TOPOLOGY.dead_letter_of("clicks.1") == "shop.dead"
    assert partitions.logical(TOPOLOGY, "clicks.1") == "clicks"
    assert partitions.logical(TOPOLOGY, "plain") == "plain"


def test_partitions_in_order_get_a_delivery_limit() -> None:
    """RabbitMQ 3.x puts what is given back to the end of a quorum queue that has none."""
    assert queues_named("orders")["orders.1"].arguments["x-delivery-limit"] == partitions.DELIVERY_LIMIT
    assert partitions.kept_in_place(TOPOLOGY) == {"orders.0", "orders.1"}
    unlimited = {"type": "quorum", "partitions": 2, "single_active": True, "delivery_limit": -1}
    by_header = {**unlimited, "partition_by": {"header": "customer"}}
    other = make(requires={"rabbitmq": ">=4.0"}, queues={**SOURCE["queues"], "orders": by_header})
    assert partitions.kept_in_place(other) == frozenset()


def test_a_file_with_one_partitioned_queue_needs_a_route_unless_the_id_chooses() -> None:
    """Without routes every task goes to the only queue, but nobody can guess its key."""
    one = {"amqpq": 1, "project": "p", "queues": {"clicks": {"partitions": 2}}}
    by_id = {"clicks": {"partitions": 2, "partition_by": {"property": "message_id"}}}
    assert load(one, environ={}).routes == ()
    assert load({**one, "queues": by_id}, environ={}).routes[0].exchange == "clicks.hash"


def test_names_of_partitions_compare_as_bytes_in_the_ring() -> None:
    """As Erlang sorts them: ten before two."""
    bindings = [BindingSpec("q.hash", f"q.{number}", "1") for number in range(12)]
    ordered = [binding.target for binding in sorted(bindings, key=partitions.binding_order)]
    assert ordered[:5] == ["q.0", "q.1", "q.10", "q.11", "q.2"]


def test_an_exchange_that_hashes_chooses_one_binding_and_always_the_same() -> None:
    """By key, header or property; which one is not the broker's choice, but as stable."""
    names = [f"q.{number}" for number in range(4)]

    def router(**arguments: str) -> Router:
        exchange = ExchangeSpec("q.hash", partitions.EXCHANGE_TYPE, arguments=arguments)
        return Router([exchange], map(QueueSpec, names), [BindingSpec("q.hash", name, "1") for name in names])

    by_key = [router().route("q.hash", f"key-{number}").queues for number in range(50)]
    assert {len(found) for found in by_key} == {1}
    assert {name for found in by_key for name in found} == set(names)
    by_header = router(**{"hash-header": "h"})
    assert len({by_header.route("q.hash", str(n), {"h": "one"}).queues for n in range(20)}) == 1
    by_property = router(**{"hash-property": "message_id"})
    assert len({by_property.route("q.hash", "k", properties={"message_id": str(n)}).queues for n in range(20)}) > 1


def test_what_is_shown_is_one_queue_and_what_is_told_is_all() -> None:
    """`show` has one row; the facts for machines have every partition, exchange and binding."""
    rows = next(table for table in tables(TOPOLOGY) if table.title == "Queues").rows
    assert [row for row in rows if row[0].startswith("clicks")] == [
        ("clicks", "classic", "shop.dead", "partitions: 4, partition_by: the routing key, max_priority: 3")
    ]
    told = facts(TOPOLOGY)
    assert {queue["name"] for queue in told["queues"] if queue["partition_of"] == "clicks"} == set(
        queues_named("clicks")
    )
    assert any(exchange["name"] == "clicks.hash" for exchange in told["exchanges"])


def test_rights_on_a_partitioned_queue_are_rights_on_its_partitions() -> None:
    """Who may read `clicks.0` alone may not consume `clicks`."""
    permissions = {"some": {"read": "^clicks\\.0$", "write": "^clicks\\.hash$"}, "all": {"read": "^clicks\\.[0-9]+$"}}
    topology = make(security={"signing": "off", "permissions": permissions})
    granted = {
        user: {answer.operation for answer in answers(topology, user, "clicks") if answer.granted}
        for user in permissions
    }
    assert granted == {"some": set(), "all": {"consume"}}
    assert next(each for each in answers(topology, "some", "clicks.hash") if each.operation == "publish").granted
