"""How works are spread over children."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqpq.worker.pools.processes import shares


def test_idle_children_come_first() -> None:
    """Nobody gets a second work before all have one."""
    assert shares([1, 0, 0], 2, [16, 16, 16]) == [0, 1, 1]


def test_depth_one_never_queues_behind_a_running_task() -> None:
    """With long tasks a busy child gets nothing."""
    assert shares([1, 1], 10, [1, 1]) == [0, 0]


def test_many_waiting_short_tasks_are_spread_evenly() -> None:
    """A batch fills all children to the same level."""
    assert shares([0, 0, 0], 30, [8, 8, 8]) == [8, 8, 8]


def test_a_child_near_its_end_gets_only_what_it_lives_to_run() -> None:
    """Its depth is smaller than that of the others, and they get the rest."""
    assert shares([0, 0], 10, [2, 8]) == [2, 8]
    assert shares([2, 0], 10, [2, 4]) == [0, 4]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 16)), min_size=1, max_size=8), st.integers(0, 200))
def test_shares_respect_depth_and_what_is_there(children: list[tuple[int, int]], waiting: int) -> None:
    """No child exceeds the depth by what it is given, no work is invented, and none waits while there is room."""
    loads, depths = [load for load, _ in children], [depth for _, depth in children]
    given_out = shares(loads, waiting, depths)
    room = sum(max(0, depth - load) for load, depth in children)
    assert sum(given_out) == min(waiting, room)
    assert all(load + share <= depth for (load, depth), share in zip(children, given_out, strict=True) if share)
