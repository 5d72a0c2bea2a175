"""The delay ladder as values: its levels, where it lets a message in, where it lets it out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.errors import LocalError
from amqpq.topology import Topology, delays, inspect, load
from amqpq.topology.declarations import declarations
from amqpq.topology.render import facts, tables
from amqpq.topology.routing import router
from amqpq.worker.plan import choose_queues

PLAIN: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}, "web.high": {"type": "quorum"}, "theirs": {"manage": "external"}},
    "security": {"signing": "off"},
}


def made(**parts: Any) -> Topology:
    """Load the plain topology with more parts."""
    return load({**PLAIN, **parts}, environ={})


@pytest.fixture(scope="module")
def topology() -> Topology:
    """A topology with a ladder of the default size."""
    return made(delays={})


@pytest.mark.parametrize(
    "parts,there",
    [({}, False), ({"delays": {}}, True), ({"retries": {"max": 0}}, False)],
)
def test_the_ladder_is_generated_only_where_it_is_used(parts: dict[str, Any], there: bool) -> None:
    """A file that says nothing of delays declares nothing for them."""
    names = {exchange.name for exchange in declarations(made(**parts)).exchanges}
    assert ("shop.delay.out" in names) is there


def test_the_levels_cover_the_longest_delay_and_no_more(topology: Topology) -> None:
    """125 ms to 30 days are nine levels of seven rungs, of which the highest needs one."""
    queues = [queue for queue in declarations(topology).queues if ".delay." in queue.name]
    waits = [125 * digit * 8**level for level in range(9) for digit in range(1, 8)][: 8 * 7 + 1]
    assert [queue.arguments["x-message-ttl"] for queue in queues] == waits
    assert 125 * (2 * 8**8 - 1) >= 30 * 86_400_000 >= 125 * 8**8


def test_a_level_loses_nothing_inside_the_broker(topology: Topology) -> None:
    """Each level dead-letters at least once to the level below, the lowest to the exit."""
    by_name = {queue.name: queue.arguments for queue in declarations(topology).queues}
    assert by_name["shop.delay.3.7"]["x-dead-letter-exchange"] == "shop.delay.2"
    assert by_name["shop.delay.0.1"]["x-dead-letter-exchange"] == "shop.delay.out"
    for arguments in (each for name, each in by_name.items() if ".delay." in name):
        assert arguments["x-queue-type"] == "quorum"
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        assert arguments["x-overflow"] == "reject-publish"


def test_nothing_is_declared_before_what_it_points_to(topology: Topology) -> None:
    """Every alternate exchange comes before the exchange that names it."""
    seen: set[str] = set()
    for exchange in declarations(topology).exchanges:
        assert exchange.arguments.get("alternate-exchange", "shop.delay.lost") in seen | {"shop.delay.lost"}
        seen.add(exchange.name)


@given(st.floats(min_value=0.001, max_value=30 * 86400.0))
def test_a_message_waits_as_long_as_it_should_and_less_than_a_unit_longer(seconds: float) -> None:
    """Going down the levels as the broker routes it, it waits for the delay, rounded up to the unit, and comes out."""
    topology = made(delays={})
    entry = delays.entry(topology, seconds, ["default"], 0.0)
    simulator = router(topology)
    waits = {queue.name: queue.arguments for queue in declarations(topology).queues}
    exchange, waited, places = entry.exchange, 0.0, []
    while True:
        reached = simulator.route(exchange, "any.key", entry.headers).queues
        assert len(reached) == 1
        (queue,) = reached
        if queue == "default":
            break
        places.append(queue)
        waited += waits[queue]["x-message-ttl"] / 1000
        exchange = waits[queue]["x-dead-letter-exchange"]
    assert -1e-6 <= waited - seconds <= 0.125
    assert len(places) == len(set(places)), "the broker would cut a message that comes to a queue twice"


def test_each_target_gets_a_copy_at_the_end(topology: Topology) -> None:
    """A message for two queues waits once and reaches both."""
    entry = delays.entry(topology, 1.0, ["default", "web.high"], 0.0)
    assert router(topology).route("shop.delay.out", "", entry.headers).queues == {"default", "web.high"}


def test_what_has_no_queue_any_more_becomes_a_dead_letter(topology: Topology) -> None:
    """A queue that was taken out of the file while messages were under way costs none of them."""
    entry = delays.entry(topology, 1.0, ["gone"], 0.0)
    assert router(topology).route("shop.delay.out", "", entry.headers).queues == {"shop.dead"}


URGENT: dict[str, Any] = {"delays": {"max": "1h"}, "queues": {"default": {"max_priority": 10}}}


@pytest.mark.parametrize("requires,there", [(">=3.10", True), (">=4.1,<4.3", True), (">=4.3", False), ("<4.0", False)])
def test_urgent_messages_have_levels_of_their_own_where_they_would_hold_up_others(requires: str, there: bool) -> None:
    """RabbitMQ 4.0 to 4.2 lets them overtake in a quorum queue although they are not due."""
    topology = made(**URGENT, requires={"rabbitmq": requires})
    names = {queue.name for queue in declarations(topology).queues}
    assert ("shop.delay.urgent.1.1" in names) is there
    urgent, other = (delays.entry(topology, 1.0, ["default"], 0.0, priority=priority) for priority in (9, 4))
    assert urgent.exchange == ("shop.delay.urgent.1" if there else "shop.delay.1")
    assert other.exchange == "shop.delay.1"


def test_urgent_messages_come_out_where_the_others_do() -> None:
    """Their lowest level leads to the same exit."""
    by_name = {queue.name: queue.arguments for queue in declarations(made(**URGENT)).queues}
    assert by_name["shop.delay.urgent.0.7"]["x-dead-letter-exchange"] == "shop.delay.out"
    assert by_name["shop.delay.urgent.2.1"]["x-dead-letter-exchange"] == "shop.delay.urgent.1"


def test_without_priorities_in_the_file_there_is_one_set_of_levels(topology: Topology) -> None:
    """Nobody pays for what nobody uses."""
    assert not any("urgent" in queue.name for queue in declarations(topology).queues)


@pytest.mark.parametrize("queue", ["q" * 250, "ä" * 127])
def test_a_long_name_is_digested_for_its_header(queue: str) -> None:
    """The name of a header has 255 bytes at most."""
    header = delays.target_header(queue)
    assert header.startswith("amqpq-to-")
    assert len(header.encode()) <= 255
    assert router(made(delays={}, queues={queue: {}})).route("shop.delay.out", "", {header: True}).queues == {queue}


def test_a_delay_beyond_the_ladder_is_refused(topology: Topology) -> None:
    """It says what to raise, and what to run then."""
    with pytest.raises(LocalError, match=r"longer than delays\.max .*30d.*topology apply"):
        delays.entry(topology, 30 * 86400.0 + 1, ["default"], 0.0)


def test_without_a_ladder_the_remedy_is_named() -> None:
    """Nothing can be delayed where the file does not ask for it."""
    with pytest.raises(LocalError, match=r"add `delays: \{\}` to it, and run `amqpq topology apply`"):
        delays.entry(made(), 1.0, ["default"], 0.0)


def test_what_somebody_else_owns_is_not_bound(topology: Topology) -> None:
    """The ladder has no binding to an external queue."""
    assert "theirs" not in {binding.target for binding in declarations(topology).bindings}


def test_a_worker_consumes_neither_the_ladder_nor_what_it_lost(topology: Topology) -> None:
    """By default it consumes what the file lists."""
    assert choose_queues(topology, ()) == ("default", "web.high", "theirs")


def test_the_lost_queue_is_there_where_no_queue_has_dead_letters() -> None:
    """Also a file that drops its dead letters does not lose what was delayed."""
    topology = made(delays={}, queues={"default": {"dead_letter": "none"}})
    assert "shop.dead" in topology.queues
    assert topology.is_dead_letter("shop.dead")


def test_show_hides_the_ladder_unless_asked(topology: Topology) -> None:
    """For people it is folded; for machines it is always there."""
    plain, generated = (str(tables(topology, generated=wanted)) for wanted in (False, True))
    assert "shop.delay.3" not in plain
    assert "shop.delay.3" in generated
    assert "shop.delay.3" in str(facts(topology)["queues"])


@pytest.mark.parametrize(
    "parts,words",
    [
        ({"unit": "0.5ms"}, "no whole number of milliseconds"),
        ({"unit": "2s", "max": "1s"}, "shorter than delays.unit"),
        ({"unit": "1ms", "max": "52w"}, "takes 12 levels"),
        ({"max": "600w"}, "ten years at most"),
    ],
)
def test_sizes_that_make_no_sense_are_errors(parts: dict[str, str], words: str) -> None:
    """Lint says what is wrong with unit and max."""
    problems = inspect({**PLAIN, "delays": parts}, environ={}).problems
    assert [problem.rule for problem in problems if words in problem.message] == ["TOP052"]


def test_a_reply_queue_cannot_wait_longer_than_seven_weeks() -> None:
    """Lint warns where the ladder is longer than that."""
    problems = inspect({**PLAIN, "delays": {"max": "20w"}}, environ={}).problems
    assert [(each.rule, each.severity) for each in problems if each.rule == "TOP052"] == [("TOP052", "warning")]


def test_names_of_the_ladder_cannot_be_taken() -> None:
    """A queue of the file with such a name would be declared twice."""
    queues = {**PLAIN["queues"], "shop.delay.3.1": {}}
    problems = inspect({**PLAIN, "delays": {}, "queues": queues}, environ={}).problems
    assert any(each.rule == "TOP011" and "shop.delay.3.1" in each.message for each in problems)
