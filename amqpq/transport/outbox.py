"""The publishing half of a channel: publications leave in few writes, and one answer comes for all of a call.

A call of `publish` may be megabytes, so it leaves in pieces; between two pieces other threads of the channel get their
turn, and the caller waits for room. Each piece is a range of the ledger, and the call is answered when its last piece
is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from amqpq.errors import AmqpqError, Blocked
from amqpq.transport import frames
from amqpq.transport.confirms import Batch, Ledger
from amqpq.types import Fate, Outcome, Publication

PIECE_BYTES = 64 * 1024
"""Publications leave in writes of about this size: large enough to be few, small enough that others get their turn, and that the
memory for it is not the system's (see `reactor.READ_MAX_BYTES`)."""


class Wire(Protocol):
    """What a channel needs of its connection."""

    frame_max: int

    def send(self, data: bytes, *, lazy: bool = False) -> None:
        """Send whole frames, after everything sent before."""

    def wait_for_room(self) -> bool:
        """Wait until there is room to send; False where nothing moves."""

    def pending(self) -> Future[Any]:
        """Make an unanswered pending."""

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run on the I/O thread."""

    def release(self, number: int) -> None:
        """The channel number may be used again."""

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers, or None."""

    @property
    def lost(self) -> AmqpqError | None:
        """Why nothing can be sent any more, or None."""


class _Call:
    """One call of `publish`: the pieces it left in, and its one answer."""

    __slots__ = ("batches", "open", "pending", "unsent")

    def __init__(self, pending: Future[list[Outcome]]) -> None:
        self.pending = pending
        self.batches: list[Batch] = []
        self.unsent: list[Outcome] = []
        self.open = 1  # pieces without an answer, and one for the sending itself

    def answer(self) -> None:
        outcomes: list[Outcome] = []
        for batch in self.batches:
            outcomes += batch.outcomes
        self.pending.set_result(outcomes + self.unsent)


class Outbox:
    """What one channel publishes.

    Args:
        wire: The connection.
        number: The channel's number.
        lock: The channel's: what is written under it goes to the wire in the order in which it was noted.
        refusal: Why nothing can be published any more, or None; called with the lock held.
    """

    def __init__(self, wire: Wire, number: int, lock: threading.Lock, refusal: Callable[[], AmqpqError | None]) -> None:
        self._wire = wire
        self.lock = lock
        self._refusal = refusal
        self._encoder = frames.PublicationEncoder(number, wire.frame_max)
        self._ledger = Ledger()
        self._calls: dict[Batch, _Call] = {}

    def publish(self, publications: Sequence[Publication]) -> Future[list[Outcome]]:
        """Publish in order; one outcome each. Blocks only while the connection's output buffer is full."""
        call = _Call(self._wire.pending())
        everything = tuple(publications)
        encode = self._encoder.encode
        encoded: list[bytes] = []
        size = sent = 0
        problem: AmqpqError | None = None
        try:
            for position, publication in enumerate(everything, 1):
                data = encode(publication)
                encoded.append(data)
                size += len(data)
                if size >= PIECE_BYTES or position == len(everything):
                    problem = self._send(call, everything[sent:position], b"".join(encoded))
                    if problem is not None:
                        break
                    sent = position
                    encoded.clear()
                    size = 0
        except AmqpqError as error:  # a name too long, a header without a type
            problem = error
        if problem is not None and sent == 0:
            call.pending.set_exception(problem)
            return call.pending
        call.unsent = [Outcome(Fate.UNKNOWN, f"not sent: {problem}")] * (len(everything) - sent)
        with self.lock:
            call.open -= 1
            complete = call.open == 0
        if complete:
            call.answer()
        return call.pending

    def _send(self, call: _Call, publications: Sequence[Publication], data: bytes) -> AmqpqError | None:
        """Send one piece; answer why it could not be sent."""
        if not self._wire.wait_for_room():
            blocked = self._wire.blocked
            return Blocked(f"the broker blocks publishers: {blocked}" if blocked else _FULL)
        with self.lock:
            refusal = self._refusal()
            if refusal is None:
                batch = self._ledger.add(publications)
                call.batches.append(batch)
                call.open += 1
                self._calls[batch] = call
                self._wire.send(data)
            return refusal

    # ---------------------------------------------------------------------------------------- on the I/O thread

    def acked(self, tag: int, *, multiple: bool) -> None:
        """The broker took responsibility."""
        with self.lock:
            complete = self._complete(self._ledger.ack(tag, multiple=multiple))
        for call in complete:
            call.answer()

    def nacked(self, tag: int, *, multiple: bool) -> None:
        """The broker refused."""
        with self.lock:
            complete = self._complete(self._ledger.nack(tag, multiple=multiple))
        for call in complete:
            call.answer()

    def returned(self, returned: frames.Returned) -> bool:
        """A message came back; answer whether it is one of those under way."""
        reason = f"{returned.code} {returned.reason}"
        message_id = returned.properties.message_id
        with self.lock:
            return self._ledger.returned(returned.exchange, returned.routing_key, message_id, returned.body, reason)

    def abandon(self, reason: str, *, refused_publish: bool) -> Callable[[], None]:
        """The channel is gone, the lock is held; answers with what is to be called once it is free."""
        complete = self._complete(self._ledger.abandon(reason, refused_publish=refused_publish))

        def answer() -> None:
            for call in complete:
                call.answer()

        return answer

    def _complete(self, batches: list[Batch]) -> list[_Call]:
        """Note that pieces are done, the lock is held; answer the calls that are complete by it."""
        complete = []
        for batch in batches:
            call = self._calls.pop(batch)
            call.open -= 1
            if call.open == 0:
                complete.append(call)
        return complete


_FULL = "the broker takes nothing more at the moment; nothing was sent"
