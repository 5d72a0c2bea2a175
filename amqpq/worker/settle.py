"""The one place that decides what becomes of a delivery. Pure: no I/O, no clock, nothing to mock.

Theory. A delivery is ours until it is acknowledged, and an acknowledgement is for ever. So everything that must outlive
the delivery is published first, and the broker must have *confirmed* it:

1. `settle` turns what happened to a delivery into the steps to publish, and what ends the delivery afterwards.
2. The worker publishes all steps at once. When the broker has spoken about one, `review` says whether it is done or must
   be published again. A step that is not done keeps the delivery: an acknowledgement never rests on hope.
3. Only when no step is left does `end` happen.

There are four steps. REPLY sends the result to the caller's reply queue. PARK copies the message to the dead letter of
its queue, with the evidence in headers. REPUBLISH copies it to the queue it came from, with what is known of
the processes that died of it in its headers, because a classic queue counts no deliveries and the headers of a message in a
queue cannot be changed. LATER copies it into the delay ladder (or, for another attempt at once, to its queue): what is not
due waits in the broker and not here.

The state RETRY is no step but news: it leaves just before LATER, on the same channel, and is not published again. Later it
could come after the result of the next attempt and take its place in the reply queue.

There are three ends: ACK; RELEASE for a delivery that nothing was done with; REQUEUE for one that was begun and cut off. The
last two differ on quorum queues alone: there REQUEUE counts towards the delivery limit, and RELEASE does not (from 4.3 on).

A vanished reply queue is done: nobody waits any more, and a worker that insisted would loop for ever. But RabbitMQ returns
(RETURNED) also what is for a queue whose cluster node is down, and that queue has a reader. So the broker is asked (ASK), and
`whether_gone` says what its answer means. A vanished dead-letter queue is never done: the message
would be lost. It is kept and tried again, and the log says why.

When the connection goes away the broker requeues every delivery, whatever its task is doing here. An acknowledgement is
then void, and of the steps only REPLY makes sense at once (`without_delivery`): the task has run and its caller waits.
The others wait for the redelivery: a dead letter published now, *and* by whoever gets the message next, would be two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from amqpq.errors import AccessRefused, AmqpqError, ObjectNotFound
from amqpq.types import Fate

CRASH_LIMIT: Final = 3
"""Children that a message may kill before it is parked. One is chance, two may be; with the third it is the message."""


class Happened(StrEnum):
    """What became of a delivery in the pool."""

    SUCCEEDED = "succeeded"
    """The function returned."""
    FAILED = "failed"
    """The function raised, or its result could not be encoded."""
    REFUSED = "refused"
    """The message was not accepted: undecodable, forged, unknown task and so on."""
    OVERRAN = "overran"
    """It ran longer than its hard time limit, and its child was killed for it."""
    EXPIRED = "expired"
    """Its expiry passed before it could run."""
    REVOKED = "revoked"
    """Somebody who may has said that it is not to run, or is to end."""
    CRASHED = "crashed"
    """The child that ran it died."""
    POISONOUS = "poisonous"
    """Worker after worker ended that had it, see `suspects`."""
    SUSPECTED = "suspected"
    """It came back from a worker that did not end it; nothing was done with it here."""
    EARLY = "early"
    """It is not due yet."""
    RETRIED = "retried"
    """The function raised, and it is to be tried again."""
    UNTOUCHED = "untouched"
    """It was not begun."""
    CUT_OFF = "cut-off"
    """It was begun, and cut off by a stop that was not its fault."""


HAPPENED: Final[Mapping[str, Happened]] = MappingProxyType({str(each): each for each in Happened})
"""By their words, as they come from another process."""


class Step(StrEnum):
    """What is published, and must be confirmed, before the delivery may end."""

    REPLY = "reply"
    PARK = "park"
    REPUBLISH = "republish"
    LATER = "later"


class End(StrEnum):
    """What ends a delivery."""

    ACK = "ack"
    REQUEUE = "requeue"
    RELEASE = "release"


class Case(NamedTuple):
    """What `settle` must know of a delivery beside what happened to it.

    `answerable`: there is a result to publish (a reply address, and a result made for it). `parkable`: its queue has a
    dead letter. `crashes`: children that it has killed, this time included. `in_place`: it has to keep its place in its queue,
    which counts its deliveries itself, so that no copy is needed to count.
    """

    answerable: bool = False
    parkable: bool = True
    crashes: int = 0
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """Steps to publish, then the end. `dropped` marks a message that ends without a trace, because the file says so."""

    steps: tuple[Step, ...]
    end: End
    dropped: bool = False


class Review(StrEnum):
    """What the fate of a published step means for it."""

    DONE = "done"
    DONE_UNHEARD = "done, but nobody listens"
    AGAIN = "publish it again"
    ASK = "ask whether its queue is gone"


_BAD: Final = (
    Happened.FAILED, Happened.REFUSED, Happened.OVERRAN, Happened.EXPIRED, Happened.CRASHED, Happened.POISONOUS
)  # fmt: skip

SETTLEMENTS: Mapping[tuple[Happened, bool, bool], Settlement] = MappingProxyType(
    {
        # happened, answerable, parkable: every good end is an answer, every bad one an answer and a dead letter
        (Happened.SUCCEEDED, True, True): Settlement((Step.REPLY,), End.ACK),
        (Happened.SUCCEEDED, True, False): Settlement((Step.REPLY,), End.ACK),
        (Happened.SUCCEEDED, False, True): Settlement((), End.ACK),
        (Happened.SUCCEEDED, False, False): Settlement((), End.ACK),
        # revoked on purpose: its caller is told, and nobody has to look into it
        **{(Happened.REVOKED, True, parkable): Settlement((Step.REPLY,), End.ACK) for parkable in (True, False)},
        **{(Happened.REVOKED, False, parkable): Settlement((), End.ACK) for parkable in (True, False)},
        **{(bad, True, True): Settlement((Step.REPLY, Step.PARK), End.ACK) for bad in _BAD},
        **{(bad, True, False): Settlement((Step.REPLY,), End.ACK, dropped=True) for bad in _BAD},
        **{(bad, False, True): Settlement((Step.PARK,), End.ACK) for bad in _BAD},
        **{(bad, False, False): Settlement((), End.ACK, dropped=True) for bad in _BAD},
    }
)
"""All ends but those below: a crash that is not the last allowed, what is suspected, comes later, was not begun or cut off."""

TRY_AGAIN: Final = Settlement((Step.REPUBLISH,), End.ACK)
PUT_OFF: Final = Settlement((Step.LATER,), End.ACK)
GIVE_BACK: Final = Settlement((), End.RELEASE)
CUT_OFF: Final = Settlement((), End.REQUEUE)

REVIEWS: Mapping[tuple[Step, Fate], Review] = MappingProxyType(
    {
        (Step.REPLY, Fate.CONFIRMED): Review.DONE,
        (Step.REPLY, Fate.RETURNED): Review.ASK,
        (Step.REPLY, Fate.NACKED): Review.AGAIN,
        (Step.REPLY, Fate.UNKNOWN): Review.AGAIN,  # twice is harmless: the reply queue keeps the latest message
        (Step.PARK, Fate.CONFIRMED): Review.DONE,
        (Step.PARK, Fate.RETURNED): Review.AGAIN,
        (Step.PARK, Fate.NACKED): Review.AGAIN,
        (Step.PARK, Fate.UNKNOWN): Review.AGAIN,  # a doubled dead letter is better than none
        (Step.REPUBLISH, Fate.CONFIRMED): Review.DONE,
        (Step.REPUBLISH, Fate.RETURNED): Review.AGAIN,
        (Step.REPUBLISH, Fate.NACKED): Review.AGAIN,
        (Step.REPUBLISH, Fate.UNKNOWN): Review.AGAIN,
        (Step.LATER, Fate.CONFIRMED): Review.DONE,
        (Step.LATER, Fate.RETURNED): Review.AGAIN,
        (Step.LATER, Fate.NACKED): Review.AGAIN,
        (Step.LATER, Fate.UNKNOWN): Review.AGAIN,
    }
)
"""What the broker's word about a step means. Complete: a fate without a line here would be a guess."""


def settle(happened: Happened, case: Case, *, crash_limit: int = CRASH_LIMIT) -> Settlement:
    """Decide what becomes of a delivery.

    Args:
        happened: What the pool says.
        case: What else counts.
        crash_limit: Children that a message may kill before it is parked.

    Returns:
        The steps to have confirmed, and the end that follows them.
    """
    if happened is Happened.SUCCEEDED:
        return SETTLEMENTS[happened, case.answerable, case.parkable]
    if happened is Happened.UNTOUCHED:
        return GIVE_BACK
    if happened in {Happened.EARLY, Happened.RETRIED}:
        return PUT_OFF
    if happened is Happened.CUT_OFF:
        return CUT_OFF
    if happened is Happened.SUSPECTED:
        return TRY_AGAIN
    if happened is Happened.CRASHED and case.crashes < crash_limit:
        return CUT_OFF if case.in_place else TRY_AGAIN
    return SETTLEMENTS[happened, case.answerable, case.parkable]


def review(step: Step, fate: Fate) -> Review:
    """Say whether a published step is done, given what the broker said of it."""
    return REVIEWS[step, fate]


def whether_gone(error: AmqpqError | None) -> Review:
    """Say what becomes of a result that was returned, given how the broker answered the question for its reply queue.

    Args:
        error: None where the queue is there (again).
    """
    # Some versions want the configure permission for the question (4.2.6, 4.3.0). Who lacks it gets the usual answer.
    return Review.DONE_UNHEARD if isinstance(error, ObjectNotFound | AccessRefused) else Review.AGAIN


def without_delivery(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps that are worth publishing although the delivery has gone back to the broker."""
    return tuple(step for step in steps if step is Step.REPLY)
