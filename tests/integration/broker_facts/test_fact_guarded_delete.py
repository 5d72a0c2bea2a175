"""L6: what `if-unused` and `if-empty` of queue.delete guard, and what they do not."""

from __future__ import annotations

import queue as threads
import threading

import pytest

from amqpq.errors import ConnectionLost, PreconditionFailed
from amqpq.types import Delivery, Fate, Properties, Publication, QueueSpec
from tests.support.lab import QUORUM, STREAM, Lab, answer, taken_from


def test_a_guarded_delete_takes_messages_that_are_being_worked_on(lab: Lab) -> None:
    """An unacknowledged message whose consumer was cancelled counts neither as content nor as use: it is deleted."""
    lab.declare("work")
    lab.send("work", b"only copy")
    channel = lab.connection.channel()
    deliveries: threads.Queue[Delivery] = threads.Queue()
    tag = answer(channel.consume("work", deliveries.put, prefetch=1))
    assert deliveries.get(timeout=20).body == b"only copy"
    answer(channel.cancel(tag))
    assert lab.delete("work", if_unused=True, if_empty=True) == 0
    answer(channel.close())
    assert not lab.exists("work")


@pytest.mark.parametrize("guard", ["if_empty", "if_unused"])
def test_a_guard_of_a_classic_queue_holds_for_what_is_ready_and_who_consumes(lab: Lab, guard: str) -> None:
    """A ready message holds off `if-empty`, a consumer holds off `if-unused`; each with 406."""
    lab.declare("work")
    lab.send("work", b"one")
    if guard == "if_unused":
        answer(lab.connection.channel().consume("work", lambda _: None, prefetch=1))
    with pytest.raises(PreconditionFailed):
        lab.delete("work", if_empty=guard == "if_empty", if_unused=guard == "if_unused")
    assert lab.exists("work")


@pytest.mark.parametrize("guard", ["if_empty", "if_unused"])
def test_quorum_queues_know_no_guards(lab: Lab, guard: str) -> None:
    """The broker ends the whole connection (540), and deletes nothing."""
    lab.declare("work", QUORUM)
    connection = lab.connect()
    pending = connection.channel().delete_queue("work", if_empty=guard == "if_empty", if_unused=guard == "if_unused")
    with pytest.raises(ConnectionLost, match="NOT_IMPLEMENTED"):
        answer(pending)
    assert lab.exists("work")


@pytest.mark.parametrize("guard", ["if_empty", "if_unused"])
def test_a_stream_is_deleted_whatever_the_guard_says(lab: Lab, guard: str) -> None:
    """The broker does not look at the guard: a stream that holds messages and has a reader goes."""
    lab.declare("log", STREAM)
    lab.send("log", b"one")
    deliveries: threads.Queue[Delivery] = threads.Queue()
    gone: threads.Queue[str] = threads.Queue()
    first = {"x-stream-offset": "first"}
    reader = lab.connection.channel()
    answer(reader.consume("log", deliveries.put, prefetch=1, arguments=first, on_cancel=gone.put))
    assert deliveries.get(timeout=20).body == b"one"
    lab.delete("log", if_empty=guard == "if_empty", if_unused=guard == "if_unused")
    assert not lab.exists("log")
    assert gone.get(timeout=20)


def test_deleting_tells_how_many_ready_messages_went(lab: Lab) -> None:
    """The answer counts what was ready, not what was being worked on."""
    for name, base in (("classic", {}), ("quorum", QUORUM)):
        lab.declare(name, base)
        lab.send(name, b"one", b"two", b"three")
        channel = lab.connection.channel()
        assert answer(channel.get(name)) is not None
        assert answer(lab.connection.channel().declare_queue(QueueSpec(name), passive=True)).messages == 2
        assert lab.delete(name) == 2


DELETIONS = 20
PAUSE_SECONDS = 0.001


class Busy(threading.Thread):
    """Publishes one message after the other, with confirms and `mandatory`, and again what is returned."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.confirmed: list[int] = []
        self._channel = lab.connect().channel()

    def run(self) -> None:
        """Publish."""
        number = 0
        while not self.over.wait(PAUSE_SECONDS):
            publication = Publication("", "work", b"%d" % number, Properties(delivery_mode=2), mandatory=True)
            (outcome,) = answer(self._channel.publish([publication]))
            if outcome.fate is Fate.CONFIRMED:
                self.confirmed.append(number)
                number += 1


def test_a_guarded_delete_takes_messages_that_are_confirmed(lab: Lab) -> None:
    """What is on its way while a classic queue is deleted is confirmed and kept by nobody: the guard has not seen it."""
    lab.declare("work")
    busy, found, gone = Busy(lab), list[int](), 0
    busy.start()
    while gone < DELETIONS:
        found += _taken(lab)
        try:
            assert lab.delete("work", if_empty=True, if_unused=True) == 0
        except PreconditionFailed:
            continue
        gone += 1
        lab.declare("work")
    busy.over.set()
    busy.join(20)
    found += _taken(lab)
    assert len(found) == len(set(found))
    assert set(busy.confirmed) - set(found)


def _taken(lab: Lab) -> list[int]:
    channel = lab.connection.channel()
    found = [int(delivery.body) for delivery in taken_from(channel, "work")]
    channel.close()
    return found
