"""How works are spread over children."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqpq.worker.pools.processes import shares


def test_idle_children_come_first() -> None:
    """Nobody gets a second work before all have one."""
    assert shares([1, 0, 0], 2, 16) == [0, 1, 1]


def test_depth_one_never_queues_behind_a_running_task() -> None:
    """With long tasks a busy child gets nothing."""
    assert shares([1, 1], 10, 1) == [0, 0]


def test_many_waiting_short_tasks_are_spread_evenly() -> None:
    """A batch fills all children to the same level."""
    assert shares([0, 0, 0], 30, 8) == [8, 8, 8]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 200), st.integers(1, 16))
def test_shares_respect_depth_and_what_is_there(loads: list[int], waiting: int, depth: int) -> None:
    """No child exceeds the depth by what it is given, no work is invented, and none waits while there is room."""
    given_out = shares(loads, waiting, depth)
    room = sum(max(0, depth - load) for load in loads)
    assert sum(given_out) == min(waiting, room)
    assert all(load + share <= depth for load, share in zip(loads, given_out, strict=True) if share)
