"""The asyncio transport seen from blocking code: an event loop in a thread, and a door to it.

The conformance suite is written once, in blocking words. Through the portal it asks the asyncio transport the same
questions as the others: each verb is called on the loop, in the order of the calls, and its answer is copied to a
`concurrent.futures.Future`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from amqpq.errors import AmqpqError
from amqpq.transport.interface import Channel, Connection, Home, Pending
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


class Portal:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="asyncio-portal", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_seconds: float) -> T:
        """Run a coroutine on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_seconds)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the loop, after everything asked before."""
        self.loop.call_soon_threadsafe(callback)

    def call(self, function: Callable[[], T], timeout_seconds: float = 10.0) -> T:
        """Call a function on the loop and wait for what it returns."""

        async def called() -> T:
            return function()

        return self.run(called(), timeout_seconds)

    def ask(self, verb: Callable[[], Pending[T]]) -> Future[T]:
        """Call a verb on the loop; the future gets what its pending gets."""
        answer: Future[T] = Future()

        def start() -> None:
            try:
                pending = verb()
            except Exception as error:  # noqa: BLE001 - a verb that raises instead of answering is shown to the test
                answer.set_exception(error)
            else:
                pending.add_done_callback(lambda done: _copy(done, answer))

        self.soon(start)
        return answer

    def close(self) -> None:
        """Stop the loop and wait for its thread."""
        self.soon(self.loop.stop)
        self._thread.join(10)


def _copy(source: Pending[T], answer: Future[T]) -> None:
    error = source.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(source.result())


class PortalConnection:
    """A connection of the asyncio transport whose pendings are concurrent futures."""

    def __init__(self, portal: Portal, native: Connection) -> None:
        self._portal = portal
        self.native = native

    @property
    def server(self) -> ServerInfo:
        """What the broker said of itself."""
        return self.native.server

    @property
    def closed(self) -> Pending[AmqpqError | None]:
        """Resolves when the connection ends."""
        return self._portal.ask(lambda: self.native.closed)

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers right now, or None."""
        return self.native.blocked

    def channel(self) -> PortalChannel:
        """Open another channel."""
        return PortalChannel(self._portal, self._portal.call(self.native.channel))

    def pending(self) -> Pending[Any]:
        """Make an unanswered pending."""
        raise NotImplementedError("a flow needs the native connection's pendings")

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the loop."""
        self.native.call_soon(callback)

    def move_to(self, home: Home | None) -> None:
        """Stay: the loop drives it."""

    def close(self) -> Pending[None]:
        """Close the connection."""
        return self._portal.ask(self.native.close)


class PortalChannel:
    """A channel of the asyncio transport whose pendings are concurrent futures."""

    def __init__(self, portal: Portal, native: Channel) -> None:
        self._portal = portal
        self.native = native

    @property
    def closed(self) -> Pending[AmqpqError | None]:
        """Resolves when the channel ends."""
        return self._portal.ask(lambda: self.native.closed)

    def publish(self, publications: Sequence[Publication]) -> Pending[list[Outcome]]:
        """Publish in order."""
        return self._portal.ask(lambda: self.native.publish(publications))

    def declare_exchange(self, spec: ExchangeSpec, *, passive: bool = False) -> Pending[None]:
        """Declare an exchange."""
        return self._portal.ask(lambda: self.native.declare_exchange(spec, passive=passive))

    def declare_queue(self, spec: QueueSpec, *, passive: bool = False) -> Pending[QueueState]:
        """Declare a queue."""
        return self._portal.ask(lambda: self.native.declare_queue(spec, passive=passive))

    def bind(self, spec: BindingSpec) -> Pending[None]:
        """Bind."""
        return self._portal.ask(lambda: self.native.bind(spec))

    def unbind(self, spec: BindingSpec) -> Pending[None]:
        """Unbind."""
        return self._portal.ask(lambda: self.native.unbind(spec))

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> Pending[None]:
        """Delete an exchange."""
        return self._portal.ask(lambda: self.native.delete_exchange(name, if_unused=if_unused))

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> Pending[int]:
        """Delete a queue."""
        return self._portal.ask(lambda: self.native.delete_queue(name, if_unused=if_unused, if_empty=if_empty))

    def purge_queue(self, name: str) -> Pending[int]:
        """Purge a queue."""
        return self._portal.ask(lambda: self.native.purge_queue(name))

    def get(self, queue: str, *, no_ack: bool = False) -> Pending[Delivery | None]:
        """Fetch one message."""
        return self._portal.ask(lambda: self.native.get(queue, no_ack=no_ack))

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
        """Subscribe."""
        return self._portal.ask(
            lambda: self.native.consume(
                queue, on_delivery, prefetch=prefetch, no_ack=no_ack, on_cancel=on_cancel, arguments=arguments
            )
        )

    def cancel(self, consumer_tag: str) -> Pending[None]:
        """Unsubscribe."""
        return self._portal.ask(lambda: self.native.cancel(consumer_tag))

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge."""
        self._portal.soon(lambda: self.native.ack(tag, multiple=multiple))

    def acknowledge(self, acks: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge several."""
        self._portal.soon(lambda: self.native.acknowledge(acks))

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject."""
        self._portal.soon(lambda: self.native.reject(tag, requeue=requeue))

    def release(self, tag: int) -> None:
        """Give back."""
        self._portal.soon(lambda: self.native.release(tag))

    def close(self) -> Pending[None]:
        """End the channel."""
        return self._portal.ask(self.native.close)
