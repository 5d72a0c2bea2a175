"""Delayed messages: read them in the ladder without loss, take one back, or let one go now.

Theory. A queue can be read only by taking from it. So looking is taking without acknowledging, from the highest level down, and
closing the channels at the end: the broker then puts everything back where it was, and what fell due meanwhile falls on at
once. What is held cannot fall, so a message is seen once, and those that fall due while somebody looks are late by as long as
that takes. A quorum queue counts each look as a delivery; the rungs have a limit that nobody reaches.

Letting one go is publish, wait for the confirm, acknowledge: whoever is killed in between leaves it in both places, and never in
none. Taking one back answers its caller first; killed in between, the caller has read REVOKED and the task runs nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from amqpq.deadletters import flows
from amqpq.deadletters.letter import Letter
from amqpq.errors import ChannelClosed, LocalError, OutcomeUnknown, TransportError
from amqpq.lifecycle import DIRECT_REPLY_QUEUE, State
from amqpq.message import Codec, Encoding, ResultEnvelope
from amqpq.message.canonical import task_bytes, user_headers
from amqpq.security.signing import signature_text
from amqpq.topology import Topology, delays
from amqpq.topology.partitions import partition_names
from amqpq.transport import flow, register
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import Fate, Outcome, Properties, Publication

TIMEOUT_SECONDS: Final = 30.0
WINDOW: Final = 100
"""Messages that are asked for at once."""
DEFAULT_SCAN: Final = 10_000

REVOKED: Final = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
"""What a Celery worker answers for a task that was revoked."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in the ladder. `due_at` is seconds since the epoch, None where nobody noted it; nothing is verified."""

    letter: Letter
    queue: str
    """The rung it waits on."""
    due_at: float | None
    targets: tuple[str, ...]

    @property
    def id(self) -> str:
        """The task's id."""
        return self.letter.id


@dataclass(slots=True)
class Held:
    """What is held of the ladder: how much was looked at, how much there was."""

    waiting: list[Waiting] = field(default_factory=list)
    seen: int = 0
    ready: int = 0
    _channels: dict[str, Channel] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the whole ladder was looked at."""
        return self.seen >= self.ready

    def keep(self, queue: str, channel: Channel) -> None:
        """Note where the messages of a rung were taken."""
        self._channels[queue] = channel

    def drop(self, waiting: Waiting) -> None:
        """Acknowledge one."""
        channel = self._channels[waiting.queue]
        if channel.closed.done():
            raise ChannelClosed(
                "the broker took the delayed messages back; nothing is lost, and the command can be given again"
            )
        channel.ack(waiting.letter.delivery.tag)


class Shelf:
    """Works on the ladder of one project.

    Args:
        connection: To the broker; channels are opened on it and closed.
        topology: With a ladder.

    Raises:
        LocalError: The topology has none.
    """

    def __init__(self, connection: Connection, topology: Topology) -> None:
        if topology.delays is None:
            raise LocalError(delays.no_ladder(topology))
        self._connection = connection
        self._topology = topology
        self._rungs = [
            delays.rung_name(topology.project, rung, urgent=urgent)
            for rung in reversed(delays.rungs(topology.delays))
            for urgent in delays.lanes(topology.delays)
        ]
        names = [name for whole in topology.queues.values() for name in (whole.name, *partition_names(whole))]
        self._by_header = {delays.target_header(name): name for name in names}

    @contextmanager
    def holding(self, ids: frozenset[str] = frozenset(), *, scan: int = DEFAULT_SCAN) -> Iterator[Held]:
        """Hold what the ladder has; all that is not dropped goes back at the end.

        Args:
            ids: Stop when these are found, and return no others; empty: return all.
            scan: Messages looked at, at most.

        Raises:
            ObjectNotFound: The ladder is not on the broker.
        """
        held = Held()
        with ExitStack() as stack:
            for queue in self._rungs:
                channel = stack.enter_context(self._channel())
                held.keep(queue, channel)
                self._take(channel, queue, held, ids, scan)
                if ids and ids <= {each.id for each in held.waiting}:
                    break
            yield held

    def let_go(self, held: Held, waiting: Waiting, codec: Codec) -> None:
        """Publish a message to its queues now, and take it out of the ladder.

        A worker holds the signed due time to be true. So where the message is signed with one, it is signed again, with the
        key of this host and without it; its signature was checked before, and whether this key may sign the task, too.

        Raises:
            RemoteMessageError: Its signature is not good, or the key here may not sign this task.
            LocalError: Nobody knows its queue.
            TransportError: It was not taken; it is still in the ladder.
        """
        if not waiting.targets:
            raise LocalError(
                f"task {waiting.id} waits for a queue that the topology does not have; it cannot be sent there"
            )
        properties = _due_now(waiting.letter, codec)
        body = waiting.letter.delivery.body
        homes = register.look_now(self._connection, self._topology.project)
        copies = [homes.address(Publication("", queue, body, properties, mandatory=True)) for queue in waiting.targets]
        for copy, outcome in zip(copies, self._publish(copies), strict=True):
            if not outcome.confirmed:
                raise OutcomeUnknown(
                    f"queue {copy.routing_key!r} did not take task {waiting.id} ({outcome.fate} {outcome.reason}); it is still "
                    "in the ladder",
                    message_id=waiting.id,
                )
        held.drop(waiting)

    def take_back(self, held: Held, waiting: Waiting, codec: Codec) -> None:
        """Answer REVOKED to whoever waits for the task, and drop it.

        The answer goes only to an address that a good signature covers, as a worker's would.

        Raises:
            RemoteMessageError: Its signature is not good; `held.drop` drops it without an answer.
            TransportError: The answer was not taken; the message is still in the ladder.
        """
        properties = waiting.letter.delivery.properties
        codec.verify_task(waiting.letter.delivery.body, properties)
        reply_to = properties.reply_to
        if reply_to and not properties.headers.get("ignore_result"):
            serializer = codec.task_facts(properties).serializer
            body, answer = codec.encode_result(
                ResultEnvelope(waiting.id, State.REVOKED, REVOKED),
                reply_to=reply_to,
                encoding=Encoding(serializer=None if serializer == "pickle" else serializer),
                correlation_id=properties.correlation_id or waiting.id,
            )
            mandatory = not reply_to.startswith(DIRECT_REPLY_QUEUE)
            (outcome,) = self._publish([Publication("", reply_to, body, answer, mandatory=mandatory)])
            if outcome.fate not in {Fate.CONFIRMED, Fate.RETURNED}:  # a reply queue that is gone: nobody waits
                raise OutcomeUnknown(
                    f"the answer for task {waiting.id} was not taken ({outcome.fate} {outcome.reason}); it still waits",
                    message_id=waiting.id,
                )
        held.drop(waiting)

    # ---------------------------------------------------------------------------------------------------------- steps

    def _take(self, channel: Channel, queue: str, held: Held, ids: frozenset[str], scan: int) -> None:
        ready = self._run(flows.count(channel, queue))
        held.ready += ready
        while ready > 0 and held.seen < scan:
            letters = self._run(flows.take(channel, queue, min(WINDOW, ready, scan - held.seen)))
            if not letters:
                return  # they fell meanwhile
            ready -= len(letters)
            held.seen += len(letters)
            held.waiting += [self._read(each, queue) for each in letters if not ids or each.id in ids]

    def _read(self, letter: Letter, queue: str) -> Waiting:
        headers = letter.headers
        due = headers.get(delays.DUE)
        return Waiting(
            letter,
            queue,
            due / 1000 if isinstance(due, int) and not isinstance(due, bool) else None,
            tuple(sorted(name for header, name in self._by_header.items() if header in headers)),
        )

    def _publish(self, publications: list[Publication]) -> list[Outcome]:
        with self._channel() as channel:
            pending = channel.publish(publications)

            def answer() -> Flow[list[Outcome]]:
                outcomes: list[Outcome] = yield pending
                return outcomes

            return flow.run(answer(), TIMEOUT_SECONDS)

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        channel = self._connection.channel()
        try:
            yield channel
        except BaseException:
            with suppress(TransportError):
                self._run(flows.close(channel))
            raise
        self._run(flows.close(channel))

    def _run(self, steps: Flow[Any]) -> Any:
        return flow.run(steps, TIMEOUT_SECONDS)


def _due_now(letter: Letter, codec: Codec) -> Properties:
    """Return the properties of a message for its queue: without what the ladder needed, and due at once."""
    delivery = letter.delivery
    stamp = codec.verify_task(delivery.body, delivery.properties)
    headers = {name: value for name, value in delivery.properties.headers.items() if not delays.is_passing(name)}
    had_eta = headers.pop("eta", None) is not None
    properties = delivery.properties._replace(headers=headers, user_id=None)
    if stamp is None or not had_eta:
        return properties
    signer = codec.signer
    if signer is None:
        raise LocalError(f"task {letter.id} is signed with its due time, and this host has no key to sign it again")
    headers["amqpq-kid"] = signer.key_id
    headers["amqpq-ts"] = codec.now_ms()
    headers["amqpq-sig"] = signature_text(signer.sign(task_bytes(properties, user_headers(headers), delivery.body)))
    codec.verify_task(delivery.body, properties)  # whether trust lets this key sign the task
    return properties
