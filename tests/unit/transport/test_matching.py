"""Which request an answer is for, and which number a channel gets."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from amqpq.transport import frames
from amqpq.transport.matching import RESTING_CHANNELS, ChannelNumbers, new_consumer_tag, take


class Asked(NamedTuple):
    """A request under way."""

    answers: tuple[int, ...]
    consumer_tag: str | None = None


CONSUME_ONE = Asked((frames.BASIC_CONSUME_OK,), "one")
CONSUME_TWO = Asked((frames.BASIC_CONSUME_OK,), "two")
DECLARE = Asked((frames.QUEUE_DECLARE_OK,))
GET = Asked((frames.BASIC_GET_OK, frames.BASIC_GET_EMPTY))


def test_an_answer_is_for_the_oldest_request() -> None:
    """Requests that the channel itself answers are answered in order."""
    awaited = deque([DECLARE, GET])
    assert take(awaited, frames.QUEUE_DECLARE_OK, ("q", 0, 0)) is DECLARE
    assert take(awaited, frames.BASIC_GET_EMPTY, ()) is GET
    assert not awaited


def test_what_was_asked_after_a_consume_may_be_answered_before_it() -> None:
    """A consume-ok comes by way of the queue, and may be overtaken."""
    awaited = deque([CONSUME_ONE, DECLARE])
    assert take(awaited, frames.QUEUE_DECLARE_OK, ("q", 0, 0)) is DECLARE
    assert take(awaited, frames.BASIC_CONSUME_OK, ("one",)) is CONSUME_ONE


def test_consumers_are_told_apart_by_their_tag() -> None:
    """Two queues may answer in the other order."""
    awaited = deque([CONSUME_ONE, CONSUME_TWO])
    assert take(awaited, frames.BASIC_CONSUME_OK, ("two",)) is CONSUME_TWO
    assert take(awaited, frames.BASIC_CONSUME_OK, ("one",)) is CONSUME_ONE


def test_an_answer_that_is_not_due_has_no_request() -> None:
    """An ordered request is not skipped for a later one, and a stranger's tag fits nobody."""
    awaited = deque([CONSUME_ONE, DECLARE, GET])
    assert take(awaited, frames.BASIC_GET_EMPTY, ()) is None
    assert take(awaited, frames.BASIC_CONSUME_OK, ("three",)) is None
    assert take(deque[Asked](), frames.QUEUE_DECLARE_OK, ()) is None
    assert list(awaited) == [CONSUME_ONE, DECLARE, GET]


def test_consumer_tags_do_not_repeat() -> None:
    """A late delivery for one channel must not find the consumer of another."""
    assert len({new_consumer_tag() for _ in range(100)}) == 100


def test_a_channel_number_rests_before_it_is_used_again() -> None:
    """What the broker still sends on a closed channel does not reach the next one."""
    numbers = ChannelNumbers(limit=1000)
    taken = []
    for _ in range(RESTING_CHANNELS + 1):
        number = numbers.take()
        assert number is not None
        numbers.give_back(number)
        taken.append(number)
    assert taken == list(range(1, RESTING_CHANNELS + 2))
    assert numbers.take() == 1


def test_resting_numbers_are_used_where_no_other_is_left() -> None:
    """A small channel_max is used up before anything is refused."""
    numbers = ChannelNumbers(limit=2)
    assert [numbers.take(), numbers.take(), numbers.take()] == [1, 2, None]
    numbers.give_back(2)
    assert numbers.take() == 2
    assert numbers.was_used(2)
    assert not numbers.was_used(3)
