"""The memory against replays."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from amqpq.security.replay import SeenIds, _Table


class Clock:
    """Stands still until told."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_a_message_is_admitted_once() -> None:
    """The same id, time and signature again is a replay."""
    seen = SeenIds(60, Clock())
    assert seen.admit("1", 5, "sig", redelivered=False)
    assert not seen.admit("1", 5, "sig", redelivered=False)


def test_a_redelivery_is_always_admitted() -> None:
    """Seen here or elsewhere before: the broker says it is the same delivery again."""
    seen = SeenIds(60, Clock())
    assert seen.admit("1", 5, "sig", redelivered=True)
    assert seen.admit("1", 5, "sig", redelivered=True)
    assert not seen.admit("1", 5, "sig", redelivered=False)


def test_a_retry_and_another_queue_are_other_messages() -> None:
    """A republished task is signed anew; a fan-out reaches two queues."""
    seen = SeenIds(60, Clock())
    assert seen.admit("1", 5, "sig", redelivered=False, queue="a")
    assert seen.admit("1", 6, "sig2", redelivered=False, queue="a")
    assert seen.admit("1", 5, "sig", redelivered=False, queue="b")


def test_the_window_ends_from_the_first_sight() -> None:
    """After it the message is forgotten."""
    clock = Clock()
    seen = SeenIds(60, clock)
    seen.admit("1", 5, "sig", redelivered=False)
    clock.now = 59.9
    assert not seen.admit("1", 5, "sig", redelivered=False)
    clock.now = 60.0
    assert seen.admit("1", 5, "sig", redelivered=False)


def test_what_the_worker_hands_back_is_forgotten() -> None:
    """A crashed task that is published again, or a requeued dead letter, is no replay."""
    seen = SeenIds(60, Clock())
    seen.admit("1", 5, "sig", redelivered=False, queue="a")
    seen.forget("1", 5, "sig", queue="a")
    seen.forget("never", 0, "seen")
    assert seen.admit("1", 5, "sig", redelivered=False, queue="a")


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    """A flood pushes out the oldest, never more than one each."""
    seen = SeenIds(60, Clock(), capacity=3)
    for number in range(5):
        seen.admit(str(number), 0, "s", redelivered=False)
    assert len(seen) == 3
    assert not seen.admit("2", 0, "s", redelivered=False)
    assert seen.admit("1", 0, "s", redelivered=False)
    assert repr(seen) == "SeenIds(3 of 3, 60 s)"


def test_what_comes_back_after_it_was_forgotten_is_remembered_again() -> None:
    """As long as any other: from its second coming, not from its first."""
    clock = Clock()
    seen = SeenIds(60, clock, capacity=3)
    seen.admit("1", 0, "s", redelivered=False)
    seen.forget("1", 0, "s")
    clock.now = 30.0
    assert seen.admit("1", 0, "s", redelivered=False)
    clock.now = 60.0
    assert not seen.admit("1", 0, "s", redelivered=False)
    clock.now = 90.0
    assert seen.admit("1", 0, "s", redelivered=False)


def test_forgetting_again_and_again_takes_no_memory() -> None:
    """A message that crashes and comes back for ever does not crowd out the others."""
    seen = SeenIds(60, Clock(), capacity=3)
    seen.admit("other", 0, "s", redelivered=False)
    for _ in range(4):
        assert seen.admit("1", 0, "s", redelivered=False)
        seen.forget("1", 0, "s")
    assert not seen.admit("other", 0, "s", redelivered=False)
    assert len(seen) == 1


def test_memory_does_not_grow() -> None:
    """The room for all that is remembered is taken with the first message, and a long life needs no more."""
    seen = SeenIds(60, Clock(), capacity=1_000)
    seen.admit("first", 0, "signature", redelivered=False)
    tracemalloc.start()
    try:
        for number in range(4_000):
            seen.admit(f"id-{number}", number, f"signature-{number}", redelivered=False)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(seen) == 1_000
    assert grown < 10_000


def test_who_has_seen_nothing_takes_no_room() -> None:
    """A worker that waits for its first message does not hold the room for a hundred thousand."""
    tracemalloc.start()
    try:
        seen = SeenIds(60, Clock())
        seen.forget("1", 5, "sig")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 10_000


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=200))
def test_its_table_agrees_with_a_set(steps: list[tuple[int, bool]]) -> None:
    """Numbers put in and taken out, many of them with the same place."""
    table, plain = _Table(20), set[int]()
    for number, out in steps:
        # Multiples of 64 all belong to the first place of a table of 64.
        wanted = number * 32
        if out and wanted in plain:
            table.remove(wanted)
            plain.discard(wanted)
        elif len(plain) < 20:
            assert table.add(wanted) is (wanted not in plain)
            plain.add(wanted)
        assert len(table) == len(plain)
        assert all((other * 32 in table) == (other * 32 in plain) for other in range(1, 41))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 30), st.booleans()), max_size=60))
def test_it_agrees_with_the_plain_statement(steps: list[tuple[str, float, bool]]) -> None:
    """Refused is exactly: admitted here less than a window ago, not forgotten for space, and not a redelivery."""
    clock = Clock()
    seen = SeenIds(60, clock, capacity=4)
    remembered: dict[str, float] = {}
    for name, passed, redelivered in steps:
        clock.now += passed
        remembered = {key: at for key, at in remembered.items() if clock.now - at < 60}
        assert seen.admit(name, 0, "s", redelivered=redelivered) == (name not in remembered or redelivered)
        if name not in remembered:
            if len(remembered) == 4:
                del remembered[min(remembered, key=lambda key: remembered[key])]
            remembered[name] = clock.now
        assert len(seen) == len(remembered)
