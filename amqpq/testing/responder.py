"""A worker of a few lines, for tests of the caller's side: it answers calls, or hands them to the test to be answered.

    responder = Responder(app)              # consumes the queue `default` on a connection of its own
    call = responder.next()                 # what arrived
    responder.say(call, "PROGRESS", 50)
    responder.say(call, "SUCCESS", 5)

With `functions` it runs those tasks by itself, on the transport's thread: they must not block.
"""

from __future__ import annotations

import queue
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from amqpq.app import Application
from amqpq.lifecycle import State
from amqpq.message import ResultEnvelope, TaskEnvelope, failure
from amqpq.transport import flow
from amqpq.transport.interface import Connection, Flow, Pending
from amqpq.types import Delivery, Outcome, Publication

DEADLINE_SECONDS = 20.0
"""Only spent where something is broken."""

_NONE: Mapping[str, Callable[..., Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Arrived:
    """A call that arrived: decoded and verified, and as it was delivered."""

    envelope: TaskEnvelope
    delivery: Delivery


class Responder:
    """Consumes one queue and answers.

    Args:
        app: Whose codec reads calls and signs answers.
        connection: To consume and answer on; it is the test's to close.
        queue_name: What it consumes.
        functions: Tasks that it runs by itself, by name.
    """

    def __init__(
        self,
        app: Application,
        connection: Connection,
        queue_name: str = "default",
        functions: Mapping[str, Callable[..., Any]] = _NONE,
    ) -> None:
        self._codec = app.codec
        self._functions = functions
        self._channel = connection.channel()
        self._arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        flow.run(_answer(self._channel.consume(queue_name, self._deliver, prefetch=100)), DEADLINE_SECONDS)

    def next(self) -> Arrived:
        """Wait for the next call that no function is given for."""
        return self._arrived.get(timeout=DEADLINE_SECONDS)

    def say(self, call: Arrived, status: str, result: object = None, remote_traceback: str | None = None) -> Outcome:
        """Publish a state of a call; a final one acknowledges it. Return what the broker said."""
        outcomes: list[Outcome] = flow.run(
            _answer(self._publish(call, status, result, remote_traceback)), DEADLINE_SECONDS
        )
        return outcomes[0]

    def close(self) -> None:
        """Stop consuming; what was not answered goes back to the queue."""
        flow.run(_answer(self._channel.close()), DEADLINE_SECONDS)

    def _publish(
        self, call: Arrived, status: str, result: object, remote_traceback: str | None
    ) -> Pending[list[Outcome]]:
        # The address of a direct reply is the broker's own, not the one the caller wrote.
        reply_to = call.delivery.properties.reply_to or ""
        envelope = ResultEnvelope(call.envelope.id, status, result, remote_traceback)
        body, properties = self._codec.encode_result(envelope, reply_to=reply_to)
        pending = self._channel.publish([Publication("", reply_to, body, properties)])
        if status in {State.SUCCESS, State.FAILURE, State.EXPIRED}:
            self._channel.ack(call.delivery.tag)
        return pending

    def _deliver(self, delivery: Delivery) -> None:
        call = Arrived(self._codec.decode_task(delivery.body, delivery.properties), delivery)
        function = self._functions.get(call.envelope.task)
        if function is None:
            self._arrived.put(call)
            return
        try:
            status, result, text = State.SUCCESS, function(*call.envelope.args, **call.envelope.kwargs), None
        except Exception as error:  # noqa: BLE001 - whatever a task raises is its failure
            status, result, text = State.FAILURE, failure.describe(error), traceback.format_exc()
        if call.envelope.reply_to is None:
            self._channel.ack(delivery.tag)
        else:
            self._publish(call, status, result, text)


def _answer(pending: Pending[Any]) -> Flow[Any]:
    return (yield pending)
