from __future__ import annotations

from typing import Any

import pytest

from amqpq import topology as topologies
from amqpq.topology import versions
from amqpq.topology.versions import Version
from amqpq.worker.timeouts import check, consumer_arguments, remote_refusal

HOUR = 3600.0


def made(queue: dict[str, Any] | None = None, broker: dict[str, Any] | None = None, requires: str = ">=3.12") -> Any:
    """A topology with the queues `work` (as said) and `log`, a stream."""
    file = {
        "amqpq": 1,
        "project": "shop",
        "requires": {"rabbitmq": requires},
        "security": {"signing": "off"},
        "broker": broker or {},
        "queues": {"work": queue or {}, "log": {"type": "stream", "retention": {"max_age": "1D"}}},
    }
    return topologies.load(file, environ={})


@pytest.mark.parametrize("version", [(3, 10, 8), (3, 13, 7), (4, 2, 0)])
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_limit_beyond_the_default_is_refused_before_4_3(kind: str, version: Version) -> None:
    """The task and the remedy that this version has are named; a shorter task is not."""
    found = check(made({"type": kind}), ["work"], {"slow": HOUR, "quick": 5.0, "endless": None}, 1, version)
    (refusal,) = found.refusals
    assert "queue 'work': the broker takes back what is not acknowledged within 1800 s" in refusal
    assert "may run longer: slow;" in refusal
    assert "set consumer_timeout in rabbitmq.conf" in refusal
    assert ("give the queue a `consumer_timeout`" in refusal) is (version >= (3, 12, 0))


@pytest.mark.parametrize(
    "topology",
    [made({"consumer_timeout": "2h"}), made(broker={"consumer_timeout": "2h"})],
    ids=["of the queue", "of the broker"],
)
def test_a_longer_timeout_allows_it(topology: Any) -> None:
    """The file says that the broker is more patient: nothing is refused."""
    assert not check(topology, ["work"], {"slow": HOUR}, 1, (3, 13, 7)).refusals
    assert check(topology, ["work"], {"slow": 3 * HOUR}, 1, (3, 13, 7)).refusals


def test_streams_and_4_3_are_patient() -> None:
    """A stream has no timeout, nor has a classic queue of 4.3; a quorum queue of 4.3 is asked for one."""
    assert not check(made(), ["log"], {"slow": HOUR}, 1, (3, 10, 8)).refusals
    for kind in ("classic", "quorum"):
        assert not check(made({"type": kind}), ["work"], {"slow": HOUR}, 1, (4, 3, 6)).refusals


def test_a_wait_that_may_become_too_long_is_warned_about() -> None:
    """Four tasks of ten minutes after one another are over half an hour: the worker starts and says so."""
    found = check(made(), ["work"], {"slow": 600.0}, 4, (3, 13, 7))
    assert not found.refusals
    (warning,) = found.warnings
    assert "behind 3 tasks of up to 600 s" in warning
    assert "lower --prefetch to 3 times the concurrency" in warning


def test_a_queue_with_partitions_is_spoken_of_once() -> None:
    """By its name in the file; and where one message of each is held at a time, none waits behind another."""
    names = ["work.0", "work.1"]
    (warning,) = check(made({"partitions": 2}), names, {"slow": 600.0}, 4, (3, 13, 7)).warnings
    (refusal,) = check(made({"partitions": 2}), names, {"slow": HOUR}, 4, (3, 13, 7)).refusals
    assert (warning.partition(":")[0], refusal.partition(":")[0]) == ("queue 'work'", "queue 'work'")
    ordered = made({"type": "quorum", "partitions": 2, "single_active": True})
    assert check(ordered, names, {"slow": 600.0}, 4, (3, 13, 7)).warnings == ()
    assert check(ordered, names, {"slow": HOUR}, 4, (3, 13, 7)).refusals != ()


def test_on_4_3_the_consumer_asks_for_what_its_tasks_need() -> None:
    """Longest limit times waves, and a minute; a day where a task has no limit; never less than the broker's default."""
    queue = made({"type": "quorum"}).queues["work"]
    assert consumer_arguments(queue, [HOUR, 5.0], 4, (4, 3, 6)) == {"x-consumer-timeout": (4 * 3600 + 60) * 1000}
    assert consumer_arguments(queue, [HOUR, None], 4, (4, 3, 6)) == {"x-consumer-timeout": 24 * 3600 * 1000}
    assert consumer_arguments(queue, [5.0], 4, (4, 3, 6)) == {"x-consumer-timeout": 1800 * 1000}
    assert consumer_arguments(queue, [HOUR], 4, (4, 2, 9)) == {}
    assert consumer_arguments(made().queues["work"], [HOUR], 4, (4, 3, 6)) == {}


@pytest.mark.parametrize(
    ("requirement", "version", "allowed"),
    [
        (">=3.10", (3, 10, 8), True),
        (">=3.12", (3, 10, 8), False),
        (">=3.10,<4", (4, 0, 5), False),
        (">=3.10, <5", (4, 3, 6), True),
        (">4.0", (4, 0, 0), False),
        ("<=4.3.6", (4, 3, 6), True),
        ("==4.3.6", (4, 3, 5), False),
    ],
)
def test_a_requirement_allows_versions(requirement: str, version: Version, *, allowed: bool) -> None:
    """Every clause must hold."""
    assert versions.allows(requirement, version) is allowed


def test_a_limit_from_remote_control_leaves_time_for_the_acknowledgement() -> None:
    """Refused where the broker would take the delivery back before; the answer says how long a task may be given."""
    assert remote_refusal(1740, {"a": 1800.0, "b": None}) == ""
    assert "queue 'a'" in remote_refusal(1741, {"b": None, "a": 1800.0})
    assert "may be given 1740 s here" in remote_refusal(1741, {"a": 1800.0})
