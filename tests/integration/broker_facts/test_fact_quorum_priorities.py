"""L4: priorities and quorum queues: the argument, the order, and what is not due yet."""

from __future__ import annotations

import pytest

from amqpq.types import Properties, Publication
from tests.support.lab import QUORUM, STREAM, Lab, answer, until

HOUR_MS = 3_600_000
SOON_MS = 200


@pytest.mark.parametrize("base", [QUORUM, STREAM], ids=["quorum", "stream"])
def test_x_max_priority_is_refused(lab: Lab, base: dict[str, str]) -> None:
    """RabbitMQ does not ignore `x-max-priority` on quorum queues and streams: it refuses the declaration."""
    assert "invalid arg 'x-max-priority' for queue 'urgent'" in lab.refusal("urgent", {**base, "x-max-priority": 5})
    assert not lab.exists("urgent")


def test_quorum_queues_look_at_priorities_from_4_0_on(lab: Lab) -> None:
    """A message of priority 9 comes first, though it was sent last; on RabbitMQ 3.10 it comes last."""
    lab.declare("work", QUORUM)
    lab.send("work", b"plain")
    lab.send("work", b"urgent", priority=9)
    order = lab.bodies("work")
    assert order == ([b"urgent", b"plain"] if lab.version >= (4, 0, 0) else [b"plain", b"urgent"])


def test_quorum_queues_tell_priorities_apart_from_4_3_on(lab: Lab) -> None:
    """Before, there are two groups at most: what is above 4, and the rest."""
    lab.declare("work", QUORUM)
    for priority in (5, 9, 7):
        lab.send("work", b"%d" % priority, priority=priority)
    order = lab.bodies("work")
    assert order == ([b"9", b"7", b"5"] if lab.version >= (4, 3, 0) else [b"5", b"9", b"7"])


def test_no_priority_is_4_on_quorum_queues_of_4_3(lab: Lab) -> None:
    """A message of priority 3 comes after one that has none. On classic queues none is 0."""
    lab.declare("work", QUORUM)
    lab.declare("classic", {"x-max-priority": 9})
    lab.send("work", b"three", priority=3)
    lab.send("work", b"none")
    lab.send("classic", b"none")
    lab.send("classic", b"three", priority=3)
    assert lab.bodies("work") == ([b"none", b"three"] if lab.version >= (4, 3, 0) else [b"three", b"none"])
    assert lab.bodies("classic") == [b"three", b"none"]


def test_an_urgent_message_that_is_not_due_holds_up_others_on_4_0(lab: Lab) -> None:
    """A quorum queue lets only the message in front expire, and on RabbitMQ 4.0 one that was sent later goes to the front."""
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    lab.declare("dead")
    lab.declare("waiting", {**QUORUM, **dead})
    soon = Publication("", "waiting", b"soon", Properties(expiration=2 * SOON_MS))
    urgent = Publication("", "waiting", b"urgent", Properties(priority=9, expiration=HOUR_MS))
    outcomes = answer(lab.channel.publish([soon, urgent]))
    assert all(outcome.confirmed for outcome in outcomes)
    lab.declare("clock", {**QUORUM, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "struck"})
    lab.declare("struck")
    lab.send("clock", b"struck", expiration=5 * SOON_MS)
    lab.arrival("struck")
    if (4, 0, 0) <= lab.version < (4, 3, 0):
        assert lab.state("waiting") == (2, 0)
    else:
        assert lab.arrival("dead").body == b"soon"


def test_a_message_in_front_that_is_not_due_holds_up_those_behind_it(lab: Lab) -> None:
    """On classic queues as on quorum queues of one priority: a time to live per message works from the front."""
    lab.declare("dead")
    for name, base in (("classic", {}), ("quorum", QUORUM)):
        lab.declare(name, {**base, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
        lab.send(name, b"late", expiration=HOUR_MS)
        lab.send(name, b"soon", expiration=SOON_MS)
    lab.declare("clock", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "struck"})
    lab.declare("struck")
    lab.send("clock", b"struck", expiration=5 * SOON_MS)
    lab.arrival("struck")
    assert lab.state("dead") == (0, 0)
    assert until(lambda: lab.state("classic"), "the classic queue") == (2, 0)
    assert until(lambda: lab.state("quorum"), "the quorum queue") == (2, 0)
