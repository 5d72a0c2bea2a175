"""Collected acks say exactly what the single ones said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqpq.transport.acks import Acks


@given(st.data())
def test_collected_acks_settle_what_was_acked_and_nothing_else(data: st.DataObject) -> None:
    """A model broker, fed with the collected acks, ends up with the same deliveries outstanding as one fed one by one."""
    acks = Acks()
    outstanding: list[int] = []  # at the broker
    unacked: list[int] = []  # by the application
    last = 0
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(
            st.sampled_from(["deliver", "deliver", "no-ack", "ack", "ack", "reject", "multiple", "collect"])
        )
        if step == "deliver":
            last += 1
            acks.delivered(last)
            outstanding.append(last)
            unacked.append(last)
        elif step == "no-ack":
            last += 1
        elif step == "collect":
            settle(acks, outstanding)
        elif unacked:
            tag = unacked.pop(data.draw(st.integers(0, len(unacked) - 1)))
            if step == "ack":
                acks.ack(tag)
            elif step == "reject":
                acks.rejected(tag)
                outstanding.remove(tag)
            else:
                settle(acks, outstanding)
                acks.settled(tag, multiple=True)
                outstanding = [each for each in outstanding if each > tag]
                unacked = [each for each in unacked if each > tag]
    settle(acks, outstanding)
    assert outstanding == unacked
    assert list(acks._outstanding) == unacked


def settle(acks: Acks, outstanding: list[int]) -> None:
    """Do as a broker does; a tag that is not outstanding would close the channel."""
    for tag, multiple in acks.collect() if acks.waiting else []:
        assert tag in outstanding
        outstanding[:] = [each for each in outstanding if (each > tag if multiple else each != tag)]


def test_a_run_of_acks_becomes_one() -> None:
    """In order, or out of order and without a gap, one frame says it all."""
    acks = Acks()
    for tag in range(1, 6):
        acks.delivered(tag)
    assert [acks.ack(tag) for tag in (3, 1, 2, 5)] == [True, False, False, False]
    assert acks.collect() == [(3, True), (5, False)]
    assert acks.ack(4)
    assert acks.collect() == [(4, False)]
    assert not acks.waiting


def test_an_ack_for_what_is_not_outstanding_is_passed_on() -> None:
    """A mistake of the caller is the broker's to report, not ours to hide."""
    acks = Acks()
    acks.delivered(1)
    acks.delivered(2)
    for tag in (1, 2, 9, 2):
        acks.ack(tag)
    assert acks.collect() == [(2, True), (9, False), (2, False)]


def test_multiple_zero_settles_everything() -> None:
    """AMQP's tag 0 with multiple."""
    acks = Acks()
    acks.delivered(1)
    acks.settled(0, multiple=True)
    assert list(acks._outstanding) == []
