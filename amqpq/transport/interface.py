"""The seam between amqpq and an AMQP driver: bytes, properties, confirms. It knows no task.

Not stable: do not implement it outside amqpq before 1.0.

Every verb returns **at once**, with a `Pending`: a `concurrent.futures.Future` from the blocking transport and from the
in-memory one, an `asyncio.Future` from the asyncio one. So pipelining is the natural way to write (send twenty
declarations, then wait for twenty answers), and a protocol is written once, as a `Flow`: a generator that yields what it
waits for. `amqpq.transport.flow` runs a flow in either world, with a deadline.

Rules that every transport keeps, and the conformance suite checks:

1. Requests on one channel are answered in order; `consume` and `cancel` may be answered later than what was asked after
   them, as RabbitMQ does. A channel is safe to use from any thread (blocking, memory) or from its
   event loop (asyncio).
2. Callbacks (`on_delivery`, `on_cancel`, and those added to a `Pending`) run on the transport's own thread or loop. They
   must not block and must not wait for a `Pending` of the same transport.
3. A channel is in confirm mode from the start. `publish` answers with one `Outcome` per publication, in order; a returned
   message is RETURNED although the broker also confirms it. It fails only where nothing was sent.
4. A verb that the broker refuses (404, 403, 405, 406) fails with the mapped error of `amqpq.errors` and closes its channel;
   later verbs on it fail with `ChannelClosed`. The connection and its other channels live on. Publications under way on
   it are UNKNOWN, save that those to an exchange the broker reports missing are RETURNED with its words.
5. When the connection ends, every `Pending` of its channels fails with `ConnectionLost` (publications: UNKNOWN), then
   `closed` resolves with the reason. Nothing waits for ever; nothing reconnects by itself.
6. `ack`, `reject` and `release` answer nothing. On a closed channel they do nothing: the broker has requeued the delivery.
7. A consumer that the broker cancels gets `on_cancel`; one that we cancel does not.
8. A header value goes out and comes back with its type (bool, int, float, str, bytes, None, list, dict, datetime).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from amqpq.errors import AmqpqError
from amqpq.types import (
    BindingSpec,
    Delivery,
    ExchangeSpec,
    Outcome,
    Publication,
    QueueSpec,
    QueueState,
    ServerInfo,
    Table,
)

T = TypeVar("T")


class Pending(Protocol[T]):
    """An answer that will come: what `concurrent.futures.Future` and `asyncio.Future` have in common."""

    def done(self) -> bool:
        """Whether the answer, or an error, is there."""

    def result(self) -> T:
        """Return the answer of a pending that is done, or raise its error."""

    def exception(self) -> BaseException | None:
        """Return the error of a pending that is done, if it failed."""

    def set_result(self, result: T, /) -> None:
        """Answer it; only on the transport's own thread or loop."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Fail it; only on the transport's own thread or loop."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """Call `callback(pending)` on the transport's own thread or loop, once it is done."""


Flow: TypeAlias = Generator[Pending[Any], Any, T]
"""A protocol written once: yields the `Pending` it waits for, is sent its result or thrown its error."""


class Channel(Protocol):
    """One AMQP channel, in confirm mode. Usable at once: requests queue up behind its opening."""

    @property
    def closed(self) -> Pending[AmqpqError | None]:
        """Resolves when the channel ends: with the reason, or None where we closed it."""

    def publish(self, publications: Sequence[Publication]) -> Pending[list[Outcome]]:
        """Publish in order, in as few writes as possible; answer when the broker has spoken about all of them."""

    def declare_exchange(self, spec: ExchangeSpec, *, passive: bool = False) -> Pending[None]:
        """Create the exchange, or check that it exists (`passive`)."""

    def declare_queue(self, spec: QueueSpec, *, passive: bool = False) -> Pending[QueueState]:
        """Create the queue, or check that it exists (`passive`: only the name counts)."""

    def bind(self, spec: BindingSpec) -> Pending[None]:
        """Bind; idempotent."""

    def unbind(self, spec: BindingSpec) -> Pending[None]:
        """Remove a binding; idempotent."""

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> Pending[None]:
        """Delete an exchange."""

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> Pending[int]:
        """Delete a queue (one that does not exist is fine); answer how many messages went with it."""

    def purge_queue(self, name: str) -> Pending[int]:
        """Drop the ready messages of a queue; answer how many."""

    def get(self, queue: str, *, no_ack: bool = False) -> Pending[Delivery | None]:
        """Fetch one message, or None from an empty queue."""

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], object],
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        on_cancel: Callable[[str], object] | None = None,
        arguments: Table | None = None,
    ) -> Pending[str]:
        """Subscribe; answers with the consumer tag. `prefetch` bounds this consumer's unacknowledged messages (0: unbounded).

        `queue` may be `amq.rabbitmq.reply-to` with `no_ack`: then requests must be published on this same channel.
        `arguments` go to the broker as they are (`x-stream-offset`).
        """

    def cancel(self, consumer_tag: str) -> Pending[None]:
        """Unsubscribe. Deliveries that are unacknowledged stay so."""

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery (and, with `multiple`, every earlier one of this channel)."""

    def acknowledge(self, acks: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge several, each a tag and whether it is `multiple`; they leave at once, and together."""

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Give a delivery back (`requeue`), or let the queue dead-letter it. A quorum queue counts it as a failed delivery."""

    def release(self, tag: int) -> None:
        """Give a delivery back that nothing was done with. From RabbitMQ 4.3 on a quorum queue does not count that."""

    def close(self) -> Pending[None]:
        """End the channel; unacknowledged deliveries go back to their queues."""


class Alarm(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Make it never come."""


class Home(Protocol):
    """A loop that can drive connections: `amqpq.worker.reactor.Reactor`. Only `post` may be called from other threads."""

    def post(self, handler: Callable[[Any], object], argument: Any = None) -> None:
        """Call `handler(argument)` soon."""

    def watch(self, file: socket.socket, callback: Callable[[int], object], *, write: bool = False) -> None:
        """Call `callback` whenever `file` can be read (or with `write`, written); calling again changes it."""

    def unwatch(self, file: socket.socket) -> None:
        """Stop watching."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call `callback()` after `seconds`."""

    def before_sleep(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once, when everything of the present turn is done."""


class Connection(Protocol):
    """One open connection. It does not heal: `amqpq.transport.link` opens the next one."""

    @property
    def server(self) -> ServerInfo:
        """What the broker said of itself."""

    @property
    def closed(self) -> Pending[AmqpqError | None]:
        """Resolves when the connection ends: with the reason, or None where we closed it."""

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers right now (memory or disk alarm), or None."""

    def channel(self) -> Channel:
        """Open another channel."""

    def pending(self) -> Pending[Any]:
        """Make an unanswered `Pending` of this transport's kind, for a flow that waits for a callback."""

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the transport's own thread or loop; from any thread."""

    def move_to(self, home: Home | None) -> None:
        """Have a loop drive the connection from now on (None: a thread of its own); on that loop's thread.

        The callbacks of rule 2 then run there, in its turns, and who waits for a `Pending` there waits for ever. A transport
        that needs no driver, or has one already, stays as it is.
        """

    def close(self) -> Pending[None]:
        """Close the connection after what was sent before."""


def caught_up(channel: Channel) -> Pending[None]:
    """Return an answer that comes when the broker has read all that was sent on a channel so far.

    Nothing answers an acknowledgement. So something is asked after it that is always granted and needs no permission: to
    cancel a consumer that there is not (AMQP 0-9-1, basic.cancel).

    For rejections on a quorum queue that is not enough before a close: the channel may have read them and not yet sent them
    on. What `basic.get` on that queue answers is (tests/integration/broker_facts/test_fact_answers.py).
    """
    return channel.cancel("amqpq-nobody")
