"""Acknowledgements of one channel: which tags, how many frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqpq.consumer import runs


def settled(unsettled: list[int], acks: list[tuple[int, bool]]) -> set[int]:
    """What the broker takes off its list, as AMQP 0-9-1 defines `multiple`."""
    gone: set[int] = set()
    for tag, multiple in acks:
        gone |= {other for other in unsettled if other <= tag} if multiple else {tag}
    return gone


def test_a_run_from_the_oldest_is_one_ack() -> None:
    """What is settled in order costs one frame."""
    assert runs([4, 5, 6, 7], {4, 5, 6}) == [(6, True)]


def test_a_single_one_is_not_multiple() -> None:
    """One delivery is acknowledged by its tag."""
    assert runs([4, 5], {4}) == [(4, False)]


def test_behind_a_gap_each_is_acknowledged_alone() -> None:
    """An unsettled delivery is never covered by a later one's ack."""
    assert runs([1, 2, 3, 4], {1, 3, 4}) == [(1, False), (3, False), (4, False)]


@given(st.sets(st.integers(1, 60)), st.data())
def test_exactly_the_given_tags_are_settled(unsettled: set[int], data: st.DataObject) -> None:
    """The broker settles what was acknowledged: no delivery more, none less."""
    ordered = sorted(unsettled)
    acknowledged = data.draw(st.sets(st.sampled_from(ordered))) if ordered else set()
    assert settled(ordered, runs(ordered, acknowledged)) == acknowledged
