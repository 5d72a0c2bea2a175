from __future__ import annotations

from amqpq import lifecycle
from amqpq.lifecycle import State


def test_final_states_have_no_successor() -> None:
    """After a final state nothing follows, and every other state can still become final."""
    for state, followers in lifecycle.TRANSITIONS.items():
        if lifecycle.is_final(state):
            assert not followers
        else:
            assert followers >= lifecycle.FINAL


def test_every_state_has_its_transitions() -> None:
    """The table covers every state word."""
    assert set(lifecycle.TRANSITIONS) == set(State)


def test_pending_is_never_reached() -> None:
    """PENDING means that nothing was said yet, so nothing leads back to it."""
    assert not any(State.PENDING in followers for followers in lifecycle.TRANSITIONS.values())


def test_words_of_the_task_count_as_progress() -> None:
    """A task's own word may follow and be followed as PROGRESS may."""
    assert lifecycle.may_follow("STARTED", "UPLOADING")
    assert lifecycle.may_follow("UPLOADING", "SUCCESS")
    assert not lifecycle.may_follow("SUCCESS", "UPLOADING")


def test_a_task_may_start_twice() -> None:
    """Late acknowledgement means that a lost worker's task starts again elsewhere."""
    assert lifecycle.may_follow("STARTED", "STARTED")


def test_the_reply_queue_has_the_longest_life_the_broker_takes() -> None:
    """An expiry beyond the broker's range is cut to it, and one of nothing to a millisecond."""
    assert lifecycle.reply_queue("x", expires_ms=10**12).arguments["x-expires"] == 2**32 - 1
    assert lifecycle.reply_queue("x", expires_ms=0).arguments["x-expires"] == 1
