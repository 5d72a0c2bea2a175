"""What checks say of failing tasks is what workers do: the simulation against the functions that decide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.retry import decide, policy_of
from amqpq.task import task_options
from amqpq.topology import Topology, delays, load
from amqpq.topology.fates import CRASH_LIMIT, End, Failure, Follower, Message
from amqpq.topology.routing import router
from amqpq.worker import settle
from amqpq.worker.settle import Case, Happened, Step


def made(most: int, then: str, backoff: dict[str, object], *, dead: bool) -> Topology:
    """A topology with one queue."""
    source = {
        "amqpq": 1,
        "project": "p",
        "queues": {"work": {} if dead else {"dead_letter": "none"}},
        "security": {"signing": "off"},
        "delays": {"unit": "100ms", "max": "5m"},
    }
    return load({**source, "retries": {"max": most, "then": then, "backoff": backoff}}, environ={})


def worked(topology: Topology, times: int | None, chance: float) -> tuple[str, float]:
    """Let a message fail as the code of workers decides; return where it ends, and how long that took."""
    policy = policy_of(task_options({}), topology.retries)
    seconds, failures = 0.0, 0
    while times is None or failures < times:
        wait = decide(policy, ValueError(), failures, chance)
        failures += 1
        if wait is None:
            parkable = topology.dead_letter_of("work") is not None and not policy.drop
            settlement = settle.settle(Happened.FAILED, Case(parkable=parkable))
            return ("p.dead" if Step.PARK in settlement.steps else "nowhere"), seconds
        assert topology.delays is not None
        if wait > 0:
            wait = min(wait, topology.delays.max_seconds)
            seconds += delays.units(topology.delays, wait) * topology.delays.unit_seconds
    return "done", seconds


@given(
    st.integers(0, 12),
    st.sampled_from(["dead", "drop"]),
    st.fixed_dictionaries(
        {
            "min": st.sampled_from(["0s", "30ms", "1s", "7s"]),
            "max": st.sampled_from(["1s", "10s", "10m"]),
            "factor": st.sampled_from([1, 1.5, 2, 10]),
            "jitter": st.booleans(),
        }
    ),
    st.booleans(),
    st.sampled_from([None, 1, 2, 5, 12, 13]),
)
def test_a_task_that_raises_ends_where_its_worker_puts_it(
    most: int, then: str, backoff: dict[str, object], dead: bool, times: int | None
) -> None:
    """After the same waits, at the least and at the most, whatever the retries are."""
    topology = made(most, then, backoff, dead=dead)
    failure = Failure("raise", times, retries=topology.retries)
    (ending,) = Follower(router(topology), topology).fail(Message("work", "work"), failure)
    for seconds, chance in zip(ending.seconds, (0.0, 1.0), strict=True):
        where, waited = worked(topology, times, chance)
        assert ending.where == where
        assert seconds == pytest.approx(waited)


@pytest.mark.parametrize("times", [*range(1, CRASH_LIMIT + 3), None])
def test_a_task_that_kills_processes_ends_where_its_worker_puts_it(times: int | None) -> None:
    """With the same number of processes."""
    topology = made(0, "dead", {}, dead=True)
    (ending,) = Follower(router(topology), topology).fail(Message("work", "work"), Failure("crash", times))
    crashes, parked = 0, False
    while not parked and (times is None or crashes < times):
        crashes += 1
        parked = Step.PARK in settle.settle(Happened.CRASHED, Case(crashes=crashes)).steps
    assert ending.end is (End.RESTS if parked else End.DONE)
    assert CRASH_LIMIT == settle.CRASH_LIMIT
