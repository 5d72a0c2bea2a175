"""The settle tables: complete, and never an ack before what it rests on is safe."""

from __future__ import annotations

import itertools

import pytest

from amqpq.errors import AccessRefused, AmqpqError, ConnectionLost, ObjectNotFound, QueueUnavailable
from amqpq.types import Fate
from amqpq.worker.settle import (
    CRASH_LIMIT,
    CUT_OFF,
    GIVE_BACK,
    REVIEWS,
    SETTLEMENTS,
    TRY_AGAIN,
    Case,
    End,
    Happened,
    Review,
    Settlement,
    Step,
    review,
    settle,
    whether_gone,
    without_delivery,
)

BAD = (Happened.FAILED, Happened.REFUSED, Happened.OVERRAN, Happened.EXPIRED)


def test_every_case_has_a_settlement() -> None:
    """Whatever happens to a delivery, in whatever circumstances, there is a decision."""
    for happened, answerable, parkable, crashes in itertools.product(Happened, (True, False), (True, False), range(5)):
        assert settle(happened, Case(answerable, parkable, crashes)).end in End


def test_every_fate_of_every_step_has_a_review() -> None:
    """No word of the broker about a step is left to a guess."""
    assert set(REVIEWS) == set(itertools.product(Step, Fate))


def test_success_with_a_reply_address_waits_for_the_reply() -> None:
    """A result is confirmed before its delivery is acknowledged."""
    settlement = settle(Happened.SUCCEEDED, Case(answerable=True))
    assert (settlement.steps, settlement.end) == ((Step.REPLY,), End.ACK)


def test_success_without_a_reply_address_is_acknowledged_at_once() -> None:
    """Where nobody waits there is nothing to wait for."""
    assert settle(Happened.SUCCEEDED, Case(answerable=False)).steps == ()


@pytest.mark.parametrize("happened", BAD)
@pytest.mark.parametrize("answerable", [True, False])
def test_what_goes_wrong_is_parked(happened: Happened, answerable: bool) -> None:
    """A message that cannot succeed goes to the dead letter before it is acknowledged."""
    settlement = settle(happened, Case(answerable=answerable, parkable=True))
    assert Step.PARK in settlement.steps
    assert settlement.end is End.ACK
    assert not settlement.dropped


@pytest.mark.parametrize("happened", BAD)
def test_without_a_dead_letter_a_bad_message_is_dropped_and_says_so(happened: Happened) -> None:
    """Only the file can have a message dropped, and the settlement marks it for the log and the counter."""
    settlement = settle(happened, Case(parkable=False))
    assert settlement.dropped
    assert Step.PARK not in settlement.steps


def test_nothing_is_acknowledged_without_a_trace_unless_it_succeeded_or_is_dropped() -> None:
    """An ack with no step before it is for a success, for what the file says to drop, or for what was revoked on purpose."""
    for (happened, *_), settlement in SETTLEMENTS.items():
        if settlement.end is End.ACK and not settlement.steps:
            assert happened in {Happened.SUCCEEDED, Happened.REVOKED} or settlement.dropped


@pytest.mark.parametrize("parkable", [True, False])
def test_a_revoked_task_answers_its_caller_and_is_no_dead_letter(parkable: bool) -> None:
    """Somebody decided that it does not run: there is nothing to look into, and nobody may wait for ever."""
    assert settle(Happened.REVOKED, Case(answerable=True, parkable=parkable)) == Settlement((Step.REPLY,), End.ACK)
    assert settle(Happened.REVOKED, Case(parkable=parkable)) == Settlement((), End.ACK)


@pytest.mark.parametrize("crashes", range(1, CRASH_LIMIT))
def test_a_crash_below_the_limit_is_counted_and_tried_again(crashes: int) -> None:
    """The copy with the higher count is confirmed before the original goes."""
    assert settle(Happened.CRASHED, Case(crashes=crashes)) == TRY_AGAIN


def test_the_last_crash_parks_the_message() -> None:
    """A message that kills every child does not go round for ever."""
    settlement = settle(Happened.CRASHED, Case(answerable=True, crashes=CRASH_LIMIT))
    assert settlement.steps == (Step.REPLY, Step.PARK)


@pytest.mark.parametrize("crashes", range(CRASH_LIMIT))
def test_a_task_over_its_hard_limit_is_never_tried_again(crashes: int) -> None:
    """It would take as long the next time: its caller is answered and the message parked."""
    settlement = settle(Happened.OVERRAN, Case(answerable=True, crashes=crashes))
    assert (settlement.steps, settlement.end) == ((Step.REPLY, Step.PARK), End.ACK)


def test_what_was_not_begun_goes_back() -> None:
    """Nothing is published about it, and it is not acknowledged."""
    assert settle(Happened.UNTOUCHED, Case(answerable=True)) == GIVE_BACK
    assert GIVE_BACK.end is End.RELEASE


def test_what_was_begun_and_cut_off_goes_back_as_begun() -> None:
    """A quorum queue counts it, as it counts what a dead worker held."""
    assert settle(Happened.CUT_OFF, Case(answerable=True)) == CUT_OFF
    assert (CUT_OFF.steps, CUT_OFF.end) == ((), End.REQUEUE)


def test_only_a_reply_may_be_done_without_confirmation() -> None:
    """A vanished reply queue may end the matter; a dead letter or a copy that was not taken is tried again."""
    for (step, fate), verdict in REVIEWS.items():
        if fate is Fate.CONFIRMED:
            assert verdict is Review.DONE
        elif (step, fate) == (Step.REPLY, Fate.RETURNED):
            assert verdict is Review.ASK
        else:
            assert verdict is Review.AGAIN


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ObjectNotFound("no queue"), Review.DONE_UNHEARD),
        (AccessRefused("not yours to ask"), Review.DONE_UNHEARD),
        (QueueUnavailable("its node is down"), Review.AGAIN),
        (ConnectionLost("who knows"), Review.AGAIN),
        (None, Review.AGAIN),
    ],
)
def test_a_result_is_given_up_only_when_its_queue_is_gone(error: AmqpqError | None, verdict: Review) -> None:
    """A reply queue on a node that is down has a reader: the result is kept until the node is back."""
    assert whether_gone(error) is verdict


def test_an_unknown_outcome_is_never_done() -> None:
    """Whether it was accepted cannot be known, so it is published again."""
    assert all(review(step, Fate.UNKNOWN) is Review.AGAIN for step in Step)


def test_without_its_delivery_only_the_reply_is_published() -> None:
    """Dead letter and copy wait for the redelivery, or there would be two."""
    assert without_delivery((Step.REPLY, Step.PARK)) == (Step.REPLY,)
    assert without_delivery((Step.REPUBLISH,)) == ()
