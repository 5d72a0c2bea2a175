"""Every ready-made topology: sound without a warning, tested by its own checks, and applied to a real broker."""

from __future__ import annotations

import pytest

from amqpq.topology import Topology, checks, inspect, library, load, sources
from amqpq.topology.declarations import declarations
from amqpq.topology.expected import PublishCheck
from amqpq.topology.partitions import physical_queues
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import Fate, Properties, Publication

NAMES = library.names()


def environments(name: str) -> list[str | None]:
    """Return the environments of a file, the one without a name first."""
    findings, _ = sources.gather(library.find(name))
    return [None, *sources.environments(findings.root)]


CASES = [(name, environment) for name in NAMES for environment in environments(name)]


def loaded(name: str, environment: str | None) -> Topology:
    """Load a ready-made topology as on a machine with an empty environment."""
    return load(library.find(name), environment=environment, environ={})


def test_there_are_ready_made_topologies() -> None:
    """The ways people use RabbitMQ each have a file."""
    assert set(NAMES) >= {
        "minimal",
        "work-queues",
        "priorities",
        "topic-routing",
        "fan-out",
        "rpc",
        "high-availability",
        "dead-letters",
        "multi-environment",
    }


def test_the_readme_lists_every_file() -> None:
    """The table in the folder's README names each ready-made topology."""
    text = (library.folder() / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"[{name}.yaml]({name}.yaml)" not in text] == []


@pytest.mark.parametrize("name,environment", CASES)
def test_it_has_neither_errors_nor_warnings(name: str, environment: str | None) -> None:
    """Lint finds nothing, in any environment of the file."""
    problems = inspect(library.find(name), environment=environment, environ={}).problems
    assert [str(problem) for problem in problems if problem.severity != "info"] == []


@pytest.mark.parametrize("name,environment", CASES)
def test_its_own_checks_pass(name: str, environment: str | None) -> None:
    """It has checks, and they pass."""
    results = checks.run(loaded(name, environment))
    assert results
    assert [f"{result.message}: {result.outcome}" for result in results if not result.passed] == []


@pytest.mark.integration
@pytest.mark.parametrize("name,environment", CASES)
def test_it_is_applied_and_routes_as_it_says(name: str, environment: str | None, vhost_url: str) -> None:
    """Applying creates every object, doing it again changes nothing, and its checks hold on the broker."""
    topology = loaded(name, environment)
    connection = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)
    try:
        wanted = declarations(topology)
        first = flow.run(declare.apply(connection.channel, wanted), 60)
        assert {step.result for step in first} <= {"created", "bound"}, first
        second = flow.run(declare.apply(connection.channel, wanted), 60)
        assert {step.result for step in second} <= {"present", "bound"}, second
        flow.run(declare.verify(connection.channel, wanted), 60)
        for result in [result for result in checks.run(topology) if result.kind == "publish"]:
            assert flow.run(_reached(connection.channel(), result, topology), 60) == result.reach.queues
    finally:
        flow.run(_close(connection), 10)


def _reached(channel: Channel, result: checks.CheckResult, topology: Topology) -> Flow[frozenset[str]]:
    """Publish the message of a check, and say which queues hold it; streams cannot be asked, so the simulator is believed."""
    streams = frozenset(queue.name for queue in topology.queues.values() if queue.type == "stream")
    assert isinstance(result.check, PublishCheck)
    properties = Properties(headers=result.check.headers, message_id="check", delivery_mode=2)
    (outcome,) = yield channel.publish([Publication(*result.address, b"", properties)])
    assert outcome.fate is (Fate.CONFIRMED if result.reach.queues else Fate.RETURNED)
    holding = set(result.reach.queues & streams)
    for queue in physical_queues(topology):
        # Purged, and not fetched: nobody may `get` from a quorum queue with single_active.
        if queue.name not in streams and (yield channel.purge_queue(queue.name)):
            holding.add(queue.part_of or queue.name)
    return frozenset(holding)


def _close(connection: Connection) -> Flow[None]:
    yield connection.close()
