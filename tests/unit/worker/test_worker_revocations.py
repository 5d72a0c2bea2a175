"""Reading the stream of revocations: no work before what is in it is known, neither at the start nor after a reconnect."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from amqpq.types import Delivery, Fate, Outcome, Properties
from amqpq.worker.control import revocations
from amqpq.worker.control.revocations import WAIT_SECONDS, Revocations


class Reader:
    """The revocations with everything around them in the test's hands: the taps, the marks, the timers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.known: list[str] = []
        self.marks: list[bytes] = []
        self.offsets: list[Any] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        monkeypatch.setattr(revocations, "Tap", self._tap)
        codec: Any = SimpleNamespace(
            encode_revocation=lambda _queue, entry: (json.dumps(entry).encode(), Properties()),
            decode_revocation=lambda body, _properties, _queue: json.loads(body),
        )
        reactor: Any = SimpleNamespace(call_later=lambda *timer: self.timers.append(timer), post=None)
        self.outlet: Any = SimpleNamespace(publish=self._publish)
        self.read = Revocations("shop.revocations", codec, reactor, lambda ids, _: self.known.extend(ids), self._begin)
        self.read.start()

    def _tap(self, *arguments: Any) -> Any:
        self.offsets.append(arguments[-1]["x-stream-offset"])
        return SimpleNamespace(open=lambda _: None, ack=lambda _: None, flush=lambda: None, close=lambda: None)

    def _publish(self, _: Any, publications: Any, then: Callable[[None, Outcome], object]) -> None:
        self.marks.append(publications[0].body)
        then(None, Outcome(Fate.CONFIRMED))

    def _begin(self) -> None:
        self.begun += 1

    def connect(self) -> None:
        """A connection is there."""
        connection: Any = SimpleNamespace(closed=Future())
        self.read.open(connection)

    def hear(self, offset: int, body: bytes) -> None:
        """The next entry comes."""
        tap: Any = SimpleNamespace(ack=lambda _: None, flush=lambda: None)
        properties = Properties(headers={"x-stream-offset": offset})
        self.read.delivered(tap, Delivery(body, properties, "", "shop.revocations", False, 1))


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """One that is connected and has set its mark."""
    made = Reader(monkeypatch)
    made.connect()
    made.read.set_mark(made.outlet)
    return made


def test_work_begins_when_the_mark_has_come_by(reader: Reader) -> None:
    """Not before, whatever else is read."""
    reader.hear(0, json.dumps({"method": "mark", "mark": "somebody else's"}).encode())
    assert (reader.begun, reader.read.complete) == (0, False)
    reader.hear(1, reader.marks[0])
    assert (reader.begun, reader.read.complete) == (1, True)


def test_after_a_reconnect_it_waits_for_a_mark_of_its_own(reader: Reader) -> None:
    """It reads on behind the last entry, and the mark from before does not count: it was there before the connection was lost."""
    reader.hear(4, reader.marks[0])
    reader.connect()
    assert not reader.read.complete
    assert reader.offsets == ["first", 5]
    reader.hear(5, reader.marks[0])
    assert (reader.begun, reader.read.complete) == (1, False)
    reader.hear(6, reader.marks[1])
    assert (reader.begun, reader.read.complete) == (2, True)


def test_it_does_not_wait_for_ever(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """After the time for it work begins without, with an error; a timer from before a reconnect ends no later wait."""
    (before,) = reader.timers
    assert before[0] == WAIT_SECONDS
    reader.connect()
    before[1]()
    assert not reader.read.complete
    reader.timers[-1][1]()
    assert (reader.begun, reader.read.complete) == (1, True)
    assert "a revoked task may run" in caplog.text
