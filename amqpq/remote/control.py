"""`app.control`: what one may ask of workers and tell them, with Celery's names and shapes. For blocking code.

A request goes to all workers of the virtual host at once, Celery's among them; nobody knows how many there are. So answers
are gathered until the time is up, or, where workers were named, until each has answered.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from amqpq import log
from amqpq.errors import LocalError, Nacked, ObjectNotFound, OutcomeUnknown, RemoteMessageError
from amqpq.message.codec import Codec
from amqpq.message.control import (
    REPLIES,
    REQUESTS,
    TICKET,
    ControlCodec,
    Request,
    reply_queue,
    write_revocation,
)
from amqpq.topology.model import Topology
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, Delivery, Fate, Publication

logger = log.logger(log.SECURITY)
control_log = log.logger(log.PRODUCER)

ANSWER_SECONDS: Final = 1.0
"""How long answers are gathered, as in Celery."""
BROKER_SECONDS: Final = 30.0
"""For the broker: connecting, declaring, confirming."""

Answers = list[dict[str, Any]]
"""One mapping of a single worker's name to its answer each, as Celery returns them."""


class Source(Protocol):
    """What hands out connections."""

    def connection(self, timeout_seconds: float | None) -> Connection:
        """Return the connection, or open one."""


class Control:
    """Asks and tells workers.

    ::

        app.control.ping()                                   # [{"w1@host": {"ok": "pong"}}]
        app.control.inspect(["w1@host"]).active()            # {"w1@host": [{"id": ...}]}
        app.control.revoke(result.id, terminate=True)
        app.control.broadcast("pool_grow", {"n": 2}, reply=True)

    Args:
        link: Called for the link.
        codec: Called for the codec, whose keys sign and check.
        topology: Called for the topology.
    """

    def __init__(
        self, link: Callable[[], Source], codec: Callable[[], Codec], topology: Callable[[], Topology]
    ) -> None:
        self._link = link
        self._keys = codec
        self._topology = topology
        self._warned = False

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        destination: Iterable[str] | None = None,
        pattern: str | None = None,
        reply: bool = False,
        timeout: float = ANSWER_SECONDS,
        limit: int | None = None,
    ) -> Answers:
        """Send a command to workers.

        Args:
            command: Its name, as `pool_grow`; see the how-to on control.
            arguments: By name.
            destination: Names of workers; None is all of them.
            pattern: Only workers whose name matches it, as `images@*`.
            reply: Whether to wait for answers.
            timeout: For the answers, seconds.
            limit: Answers to wait for at most; where workers are named, as many as they are.

        Returns:
            The answers; without `reply`, none.

        Raises:
            KeyProblem: It has to be signed and the key is not there.
            TransportError: The broker did not take it.
        """
        if isinstance(destination, str):
            message = f"destination={destination!r}: a list of names is wanted, as [{destination!r}]"
            raise LocalError(message)
        names = None if destination is None else tuple(destination)
        caller = uuid.uuid4().hex
        request = Request(
            command,
            arguments or {},
            names,
            pattern,
            None if pattern is None else "glob",
            uuid.uuid4().hex,
            caller if reply else None,
        )
        body, properties = self._codec().encode_request(request)
        publication = Publication(REQUESTS.name, "", body, properties)
        channel = self._link().connection(BROKER_SECONDS).channel()
        answers: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        try:
            flow.run(_prepare(channel, caller if reply else None, answers.put), BROKER_SECONDS)
            if not self._publish(channel, publication) or not reply:
                return []
            return self._gather(request, answers, timeout, limit or (len(names) if names else None))
        finally:
            channel.close()

    def inspect(self, destination: Iterable[str] | None = None, *, timeout: float = ANSWER_SECONDS) -> Inspect:
        """Return what asks workers how they are: `app.control.inspect().active()`.

        Args:
            destination: Names of workers; None is all of them.
            timeout: For the answers, seconds.
        """
        return Inspect(self, None if destination is None else tuple(destination), timeout)

    def ping(self, destination: Iterable[str] | None = None, *, timeout: float = ANSWER_SECONDS) -> Answers:
        """Ask who is there; every worker answers this, signed or not."""
        return self.broadcast("ping", destination=destination, reply=True, timeout=timeout)

    def revoke(
        self,
        task_id: str | Sequence[str],
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float = ANSWER_SECONDS,
    ) -> Answers:
        """Have tasks not run, wherever they wait: with a worker, in a queue, or for their time.

        Every worker that is there is told. Where the topology has `control: {revocations: ...}`, workers that start later
        know it too, for that long; else only those that run now do, until they end, and the log says so once.

        Args:
            task_id: One id or several.
            terminate: Also end those that run now; only the prefork pool can.
            signal: With which.
            destination: Only these workers are told at once.
            reply: Whether to wait for their answers.
            timeout: For the answers, seconds.

        Raises:
            KeyProblem: It has to be signed and the key is not there.
            ObjectNotFound: The stream of revocations is missing; `amqpq topology apply` creates it.
            TransportError: The broker did not take it.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        self._remember(ids)
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", arguments, destination=destination, reply=reply, timeout=timeout)

    @property
    def remembers(self) -> bool:
        """Whether workers that start later know what was revoked: the topology has `control: {revocations: ...}`."""
        return self._topology().revocations is not None

    def _remember(self, ids: Sequence[str]) -> None:
        topology = self._topology()
        stream, seconds = topology.revocations, topology.control.revocations_seconds
        if stream is None or seconds is None:
            if not self._warned:
                self._warned = True
                control_log.warning(
                    "a revoke reaches only the workers that run now: the topology has no `control: {revocations: 7d}`"
                )
            return
        body, properties = self._codec().encode_revocation(stream, write_revocation(ids, time.time() + seconds))
        channel = self._link().connection(BROKER_SECONDS).channel()
        try:
            if not self._publish(channel, Publication("", stream, body, properties)):
                raise ObjectNotFound(f"the stream {stream!r} is missing; `amqpq topology apply` creates it")
        finally:
            channel.close()

    def _codec(self) -> ControlCodec:
        return ControlCodec(self._keys(), required=self._topology().security.control == "signed")

    @staticmethod
    def _publish(channel: Channel, publication: Publication) -> bool:
        """Publish with confirm; False where no queue is bound, which is: no worker is there."""
        (outcome,) = flow.run(_wait(channel.publish((publication,))), BROKER_SECONDS)
        if outcome.fate is Fate.NACKED:
            raise Nacked(f"the broker refused the control message: {outcome.reason}")
        if outcome.fate is Fate.UNKNOWN:
            raise OutcomeUnknown(f"the connection went away while a control message was sent: {outcome.reason}")
        return outcome.fate is Fate.CONFIRMED

    def _gather(
        self, request: Request, answers: queue.SimpleQueue[Delivery], timeout_seconds: float, limit: int | None
    ) -> Answers:
        deadline = time.monotonic() + timeout_seconds
        codec = self._codec()
        found: Answers = []
        while limit is None or len(found) < limit:
            try:
                delivery = answers.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if delivery.properties.headers.get(TICKET) != request.ticket:
                continue
            try:
                found.append(codec.decode_reply(delivery.body, delivery.properties, request.reply_to or ""))
            except RemoteMessageError as error:
                logger.warning("an answer to %s is not believed: %s", request.method, error)
        return found


class Inspect:
    """Asks workers how they are; every method returns a mapping of a worker's name to what it said.

    Args:
        control: Sends.
        destination: Names of workers; None is all.
        timeout: For the answers, seconds.
    """

    def __init__(self, control: Control, destination: tuple[str, ...] | None, timeout: float) -> None:
        self._control = control
        self._destination = destination
        self._timeout = timeout

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send any command and return the answers by worker."""
        answers = self._control.broadcast(
            command, arguments, destination=self._destination, reply=True, timeout=self._timeout
        )
        return {worker: value for answer in answers for worker, value in answer.items()}

    def ping(self) -> dict[str, Any]:
        """Who is there."""
        return self.ask("ping")

    def active(self) -> dict[str, Any]:
        """The tasks that run."""
        return self.ask("active")

    def reserved(self) -> dict[str, Any]:
        """The tasks that workers hold and have not begun."""
        return self.ask("reserved")

    def scheduled(self) -> dict[str, Any]:
        """The tasks that workers hold until their time: none, since delays live in the broker."""
        return self.ask("scheduled")

    def registered(self, *items: str) -> dict[str, Any]:
        """The tasks that workers can run; `items` name options to show with them."""
        return self.ask("registered", taskinfoitems=list(items))

    def stats(self) -> dict[str, Any]:
        """Counts, pool, broker, resource usage."""
        return self.ask("stats")

    def conf(self) -> dict[str, Any]:
        """How workers were set up."""
        return self.ask("conf")

    def active_queues(self) -> dict[str, Any]:
        """The queues that workers consume."""
        return self.ask("active_queues")

    def revoked(self) -> dict[str, Any]:
        """The ids of revoked tasks that workers remember."""
        return self.ask("revoked")

    def report(self) -> dict[str, Any]:
        """Versions and platform."""
        return self.ask("report")

    def query_task(self, *ids: str) -> dict[str, Any]:
        """Where these tasks are, if a worker has them: `{id: [active or reserved, facts]}`."""
        return self.ask("query_task", ids=list(ids))


def _wait(pending: Pending[Any]) -> Flow[Any]:
    return (yield pending)


def _prepare(channel: Channel, caller: str | None, on_answer: Callable[[Delivery], object]) -> Flow[None]:
    """Declare what a request needs, pipelined; with a caller, listen for answers before anything is asked."""
    answers: list[Pending[Any]] = [channel.declare_exchange(REQUESTS)]
    if caller is not None:
        spec = reply_queue(caller)
        answers += [
            channel.declare_exchange(REPLIES),
            channel.declare_queue(spec),
            channel.bind(BindingSpec(REPLIES.name, spec.name, caller)),
            channel.consume(spec.name, on_answer, no_ack=True),
        ]
    for answer in answers:  # noqa: UP028 - a flow is sent results, which a list does not take
        yield answer
