"""What a worker's loop has of remote control: the mailbox, the stream of revocations, and events, put together.

A message arrives, is checked (`message.control`), is for this worker or not, may be carried out or not (`panel`), and is
answered through the sideline. Nothing here waits, and nothing here can end the worker but the command that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from amqpq.errors import AmqpqError, LocalError, RemoteMessageError
from amqpq.log import SECURITY, WORKER
from amqpq.message.control import CLOCK, REPLIES, ControlCodec, Request, read_request
from amqpq.security.replay import SeenIds
from amqpq.transport.interface import Connection
from amqpq.types import Delivery, Publication
from amqpq.worker.control.events import Events
from amqpq.worker.control.lamport import LamportClock
from amqpq.worker.control.mailbox import Mailbox
from amqpq.worker.control.panel import answer, is_for
from amqpq.worker.control.revocations import Revocations
from amqpq.worker.control.revoked import Revoked
from amqpq.worker.control.sideline import Sideline
from amqpq.worker.control.surface import Refused
from amqpq.worker.control.view import Inside, View

__all__ = ["ControlPlan", "Inside", "Office"]

worker_log = logging.getLogger(WORKER)
security_log = logging.getLogger(SECURITY)

QUIET_SECONDS: Final = 60.0
"""How long the same refusal is not said again; a tool that asks every second must not fill the log."""
SEEN_REQUESTS: Final = 10_000
REASONS_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """What was asked for: whether events are sent from the start (`-E`)."""

    events: bool = False


class Office:
    """Remote control of one worker.

    Args:
        inside: The worker.
        plan: What was asked for.
    """

    def __init__(self, inside: Inside, plan: ControlPlan) -> None:
        self.revoked = Revoked(inside.clock.time)
        self.events: Events | None = None
        """Tells of tasks; None while nobody asked."""
        self._inside = inside
        self._plan = plan
        self._reactor = inside.reactor
        self._worker = inside.place.worker
        self._rule = inside.host.topology.security.control
        self._clock = LamportClock()
        self._view = View(inside, self)
        window = inside.host.topology.security.replay_window_seconds
        self._codec = ControlCodec(
            inside.host.codec,
            required=self._rule == "signed",
            clock=inside.clock.time,
            seen=SeenIds(window, inside.reactor.monotonic, SEEN_REQUESTS),
        )
        self._sideline = Sideline(inside.publishing, inside.reactor)
        self._mailbox = Mailbox(self._worker, inside.reactor, self._received)
        queue = inside.host.topology.revocations
        self._revocations = (
            Revocations(queue, self._codec, inside.reactor, self._remember, inside.begin) if queue is not None else None
        )
        self._said: dict[str, float] = {}
        self.refused = 0
        """Control messages that were not believed or not allowed."""

    # ------------------------------------------------------------------------------------------------------------ life

    @property
    def ready(self) -> bool:
        """Whether work may begin: every revocation that was there is known."""
        return self._revocations is None or self._revocations.complete

    @property
    def clock(self) -> LamportClock:
        """Celery's logical clock, as this worker counts it."""
        return self._clock

    @property
    def lost(self) -> int:
        """Answers and events that were dropped here."""
        return self._sideline.lost

    def start(self) -> None:
        """Begin."""
        if self._revocations is not None:
            self._revocations.start()

    def consuming_on(self, connection: Connection) -> None:
        """Use this connection to receive from now on."""
        self._mailbox.open(connection)
        if self._revocations is not None:
            self._revocations.open(connection)

    def publishing_on(self) -> None:
        """Use the publishing connection, which is there."""
        if self._revocations is not None:
            self._revocations.set_mark(self._inside.outlet)
        if self._plan.events and self.events is None:
            self.send_events(on=True)

    def flush(self) -> None:
        """Send the events of this turn of the loop."""
        if self.events is not None:
            self.events.flush()

    def close(self) -> None:
        """Say that the worker goes, and receive nothing more."""
        if self.events is not None:
            self.events.stop()
            self.events = self._inside.settler.observer = None
        self._mailbox.close()
        if self._revocations is not None:
            self._revocations.close()

    # ---------------------------------------------------------------------------------------------------------- events

    def send_events(self, *, on: bool) -> bool:
        """Switch task events on or off; False where they were so already. Heartbeats go on once they have begun."""
        events = self.events
        if events is None:
            if not on:
                return False
            events = self.events = Events(
                self._worker, self._view, self._clock, self._sideline.send, self._reactor, self._inside.clock.time
            )
            self._inside.settler.observer = events
            events.start()
            worker_log.info("sending events")
            return True
        if events.tasks_on is on:
            return False
        events.tasks_on = on
        worker_log.info("task events %s", "on" if on else "off")
        return True

    # -------------------------------------------------------------------------------------------------------- messages

    def _remember(self, ids: Sequence[str], until: float) -> None:
        if self.revoked.add(ids, until):
            self._inside.revoke_here()

    def _received(self, delivery: Delivery) -> None:
        self._clock.adjust(delivery.properties.headers.get(CLOCK))
        try:
            incoming = self._codec.decode_request(delivery.body, delivery.properties)
            request = read_request(incoming.value)
            if not is_for(request, self._worker):
                return
        except RemoteMessageError as error:
            self._refuse(f"a control message is not believed: {error}")
            return
        except Refused as why:
            self._refuse(f"a control message cannot be read: {why}")
            return
        answered = answer(request, self._view, signed=incoming.key_id is not None, rule=self._rule)
        if answered.refused:
            self._refuse(f"a control message was refused: {answered.refused}")
        else:
            by = f"key {incoming.key_id}" if incoming.key_id else "somebody who did not sign"
            level = logging.INFO if answered.acts else logging.DEBUG
            worker_log.log(level, "control command %.60s of %s: %.200s", request.method, by, answered.value)
        if request.reply_to is not None:
            self._answer(request, answered.value)

    def _answer(self, request: Request, value: Any) -> None:
        try:
            body, properties = self._codec.encode_reply(self._worker, value, request, clock=self._clock.forward())
        except LocalError as error:
            too_much = {"error": f"the answer cannot be sent: {error}"}
            body, properties = self._codec.encode_reply(self._worker, too_much, request, clock=self._clock.forward())
        except AmqpqError:
            worker_log.exception("a control message cannot be answered")
            return
        self._sideline.send((Publication(REPLIES.name, request.reply_to or "", body, properties, mandatory=False),))

    def _refuse(self, reason: str) -> None:
        """Log a refusal, but not the same one all the time."""
        self.refused += 1
        now = self._reactor.monotonic()
        if now - self._said.get(reason, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        if len(self._said) >= REASONS_KEPT:
            self._said.clear()
        self._said[reason] = now
        security_log.warning("%s", reason)
