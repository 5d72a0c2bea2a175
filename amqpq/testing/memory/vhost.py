"""A virtual host of the in-memory broker: exchanges, queues, bindings, and the way of a message through them.

Everything here runs under the broker's lock and at once; what callers and consumers get to hear is handed to their
connections. Routing is `amqpq.topology.routing.Router`, the simulator behind `amqpq topology route`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from amqpq.errors import LocalError, NotBuiltYet
from amqpq.testing.memory import arguments
from amqpq.testing.memory.queues import Consumer, MemoryQueue
from amqpq.testing.memory.values import (
    ACCESS_REFUSED,
    MAXLEN,
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    Message,
    Refused,
    Waiting,
    check_names,
)
from amqpq.topology.partitions import EXCHANGE_TYPE
from amqpq.topology.routing import DELIVERY_LIMIT, EXPIRED, REJECTED, Router
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, QueueState

DIRECT_REPLY = "amq.rabbitmq.reply-to"

_OWN_EXCHANGES = (
    ExchangeSpec("amq.direct", "direct"),
    ExchangeSpec("amq.topic", "topic"),
    ExchangeSpec("amq.fanout", "fanout"),
    ExchangeSpec("amq.headers", "headers"),
    ExchangeSpec("amq.match", "headers"),
)


class Replier(Protocol):
    """Who listens for direct replies."""

    def deliver_reply(self, message: Message) -> None:
        """Take a direct reply."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What became of a message: whether any queue got it, and whether any queue refused it."""

    found: bool
    refused: bool = False


class VirtualHost:
    """Exchanges, queues and bindings under one name.

    Args:
        name: As it stands in error texts.
        now: The broker's clock, seconds.
        epoch_seconds: What the wall clock said when that clock stood at 0.
        on_size: Told how many bytes more (or, negative, fewer) are held.
    """

    def __init__(
        self, name: str, now: Callable[[], float], epoch_seconds: float, on_size: Callable[[int], None]
    ) -> None:
        self.name = name
        self._now = now
        self._epoch_seconds = epoch_seconds
        self._on_size = on_size
        self.exchanges: dict[str, ExchangeSpec] = {spec.name: spec for spec in _OWN_EXCHANGES}
        self.queues: dict[str, MemoryQueue] = {}
        self.away: set[str] = set()
        """Queues whose cluster node is down."""
        self.repliers: dict[str, Replier] = {}
        self._bindings: list[BindingSpec] = []
        self._router: Router | None = None
        self._kept: list[tuple[MemoryQueue, Waiting, str]] = []
        """Of queues that dead-letter at least once, with nowhere to go: out of sight, tried again now and then."""

    # ------------------------------------------------------------------------------------------------- exchanges

    def declare_exchange(self, spec: ExchangeSpec, *, passive: bool) -> None:
        """Create an exchange, or compare, or only look."""
        check_names(spec.name, spec.type)
        self._not_default(spec.name)
        if passive:
            self._exchange(spec.name)
            return
        arguments.check_exchange(spec)
        current = self.exchanges.get(spec.name)
        if current is not None:
            arguments.same_exchange(spec, current, self.name)
            return
        self._not_reserved("exchange", spec.name)
        self.exchanges[spec.name] = replace(spec, arguments=dict(spec.arguments))
        self._router = None

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Delete an exchange and its bindings."""
        self._not_default(name)
        if name not in self.exchanges:
            return
        if name.startswith("amq."):
            raise Refused(ACCESS_REFUSED, f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        if if_unused and any(binding.source == name for binding in self._bindings):
            raise Refused(PRECONDITION_FAILED, f"exchange '{name}' in vhost '{self.name}' in use")
        del self.exchanges[name]
        self._remove_bindings(
            lambda binding: binding.source == name or (binding.to_exchange and binding.target == name)
        )

    def _exchange(self, name: str) -> ExchangeSpec:
        found = self.exchanges.get(name)
        if found is None:
            raise Refused(NOT_FOUND, f"no exchange '{name}' in vhost '{self.name}'")
        return found

    def _not_default(self, name: str) -> None:
        if not name:
            raise Refused(ACCESS_REFUSED, "operation not permitted on the default exchange")

    def _not_reserved(self, kind: str, name: str) -> None:
        if name.startswith("amq."):
            raise Refused(ACCESS_REFUSED, f"{kind} name '{name}' contains reserved prefix 'amq.*'")

    # ----------------------------------------------------------------------------------------------------- queues

    def declare_queue(self, spec: QueueSpec, owner: object, *, passive: bool) -> QueueState:
        """Create a queue, or compare, or only look; either way it counts as used."""
        check_names(spec.name)
        if spec.name == DIRECT_REPLY or (passive and spec.name in self.repliers):
            return QueueState(spec.name, 0, 1)
        if passive or spec.name in self.queues:
            queue = self.queue(spec.name, owner)
            if not passive:
                if spec.exclusive != (queue.owner is not None):
                    raise self._locked(spec.name)
                arguments.same_queue(spec, queue.spec, self.name)
            queue.used_at = self._now()
            self.settle(queue)
            return queue.state
        name = spec.name or f"amq.gen-{uuid.uuid4().hex[:22]}"
        if spec.name:
            self._not_reserved("queue", spec.name)
        limits = arguments.read_queue(spec, self.name)
        kept = replace(spec, name=name, arguments=dict(spec.arguments))
        queue = self.queues[name] = MemoryQueue(kept, limits, owner if spec.exclusive else None, self._now())
        self._router = None
        return queue.state

    def delete_queue(self, name: str, owner: object, *, if_unused: bool, if_empty: bool) -> int:
        """Delete a queue with what it holds."""
        if name not in self.queues:
            return 0
        queue = self.queue(name, owner)
        if if_unused and queue.consumers:
            raise Refused(PRECONDITION_FAILED, f"queue '{name}' in vhost '{self.name}' in use")
        if if_empty and len(queue):
            raise Refused(PRECONDITION_FAILED, f"queue '{name}' in vhost '{self.name}' not empty")
        return self.remove(queue)

    def remove(self, queue: MemoryQueue) -> int:
        """Take a queue away; its consumers are cancelled by the broker."""
        del self.queues[queue.spec.name]
        queue.deleted = True
        self._router = None
        gone = queue.take_all()
        for waiting in gone:
            self._on_size(-waiting.message.size)
        for consumer in queue.consumers:
            consumer.cancelled()
        queue.consumers.clear()
        name = queue.spec.name
        self._remove_bindings(lambda binding: not binding.to_exchange and binding.target == name)
        return len(gone)

    def lose_node(self, names: Iterable[str]) -> None:
        """Make queues unavailable with what they hold, as when the one node that they are on goes down."""
        for name in names:
            queue = self.queues[name]
            self.away.add(name)
            for consumer in queue.consumers:
                consumer.cancelled()
            queue.consumers.clear()

    def purge_queue(self, name: str, owner: object) -> int:
        """Drop what is ready."""
        gone = self.queue(name, owner).take_all()
        for waiting in gone:
            self._on_size(-waiting.message.size)
        return len(gone)

    def queue(self, name: str, owner: object) -> MemoryQueue:
        """Find a queue that `owner` may use."""
        if not name:  # RabbitMQ would take the queue that the channel declared last; nobody should rely on it
            raise Refused(NOT_FOUND, "no previously declared queue")
        found = self.queues.get(name)
        if found is None:
            raise Refused(NOT_FOUND, f"no queue '{name}' in vhost '{self.name}'")
        if name in self.away:
            away = f"home node 'rabbit@away' of durable queue '{name}' in vhost '{self.name}' is down or inaccessible"
            raise Refused(NOT_FOUND, away)
        if found.owner is not None and found.owner is not owner:
            raise self._locked(name)
        return found

    def _locked(self, name: str) -> Refused:
        text = (
            f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'. It could be originally "
            "declared on another connection or the exclusive property value does not match that of the original "
            "declaration."
        )
        return Refused(RESOURCE_LOCKED, text)

    def release_owner(self, owner: object) -> None:
        """A connection ended: its exclusive queues go with it."""
        for queue in [queue for queue in self.queues.values() if queue.owner is owner]:
            self.remove(queue)

    # --------------------------------------------------------------------------------------------------- bindings

    def bind(self, spec: BindingSpec, owner: object) -> None:
        """Bind; idempotent."""
        check_names(spec.source, spec.target, spec.key)
        self._check_ends(spec, owner)
        if self._exchange(spec.source).type == EXCHANGE_TYPE:
            arguments.check_weight(spec.key)
        if spec not in self._bindings:
            self._bindings.append(replace(spec, arguments=dict(spec.arguments)))
            self._router = None

    def unbind(self, spec: BindingSpec, owner: object) -> None:
        """Remove a binding; idempotent, also where an end of it does not exist."""
        self._not_default(spec.source)
        if not spec.to_exchange and spec.target in self.queues:
            self.queue(spec.target, owner)
        self._remove_bindings(lambda binding: binding == spec)

    def _check_ends(self, spec: BindingSpec, owner: object) -> None:
        self._not_default(spec.source)
        if spec.to_exchange:
            self._not_default(spec.target)
        self._exchange(spec.source)
        if spec.to_exchange:
            self._exchange(spec.target)
        else:
            self.queue(spec.target, owner)

    def _remove_bindings(self, unwanted: Callable[[BindingSpec], bool]) -> None:
        """Remove bindings, and the auto-delete exchanges that lose their last one by it."""
        gone = [binding for binding in self._bindings if unwanted(binding)]
        if gone:
            self._bindings = [binding for binding in self._bindings if not unwanted(binding)]
        self._router = None
        for source in {binding.source for binding in gone}:
            spec = self.exchanges.get(source)
            if spec is not None and spec.auto_delete and all(binding.source != source for binding in self._bindings):
                self.delete_exchange(source, if_unused=False)

    # ------------------------------------------------------------------------------------------ the way of a message

    def publish(self, message: Message) -> Routed:
        """Route a message from a client into its queues."""
        if message.exchange and self._exchange(message.exchange).internal:
            text = f"cannot publish to internal exchange '{message.exchange}' in vhost '{self.name}'"
            raise Refused(ACCESS_REFUSED, text)
        targets = [name for name in self._targets(message) if name not in self.away]
        refused = [name for name in targets if not self._enqueue(self.queues[name], message)]
        return Routed(bool(targets), bool(refused))

    def _targets(self, message: Message) -> list[str]:
        """The names of the queues that a message reaches; direct replies are delivered on the way."""
        if not message.exchange:
            keys = (message.key, *message.cc)
            for key in keys:
                replier = self.repliers.get(key)
                if replier is not None:
                    # Not a queue: with `mandatory` the broker returns it although it arrived
                    # (https://www.rabbitmq.com/docs/direct-reply-to, "caveats").
                    replier.deliver_reply(message)
            return [key for key in dict.fromkeys(keys) if key in self.queues]
        if self._router is None:
            specs = [queue.spec for queue in self.queues.values()]
            self._router = Router(self.exchanges.values(), specs, self._bindings)
        headers: dict[str, Any] = {
            name: value for name, value in message.properties.headers.items() if name not in {"CC", "BCC"}
        }
        try:
            hashable = {name: getattr(message.properties, name) for name in ("correlation_id", "message_id")}
            reach = self._router.route(message.exchange, message.key, headers, message.cc, properties=hashable)
        except LocalError as error:  # the exchange was looked up before: nothing else can be wrong
            raise Refused(NOT_FOUND, str(error)) from error
        return sorted(reach.queues)

    def _enqueue(self, queue: MemoryQueue, message: Message) -> bool:
        """Append a message; False where the queue refuses it."""
        overflow = queue.limits.overflow
        if overflow != "drop-head" and queue.would_overflow(message.size):
            if overflow == "reject-publish-dlx":
                self._dead_letter(queue, message, MAXLEN)
            return False
        queue.put(message, self._now())
        self._on_size(message.size)
        self.settle(queue)
        return True

    def settle(self, queue: MemoryQueue) -> None:
        """Let a queue do what is due: expire, deliver, drop.

        A message whose time is over *just now* may still be delivered: that is what a TTL of 0 means
        (https://www.rabbitmq.com/docs/ttl).
        """
        self._drop(queue, queue.take_expired(self._now(), due=False), EXPIRED)
        while len(queue) and not queue.deleted:
            consumer = queue.next_consumer()
            if consumer is None:
                break
            head = queue.take()
            if head is not None:
                consumer.deliver(queue, head)
        self._drop(queue, queue.take_expired(self._now(), due=True), EXPIRED)
        self._drop(queue, queue.take_overflowing(), MAXLEN)

    def get(self, queue: MemoryQueue) -> Waiting | None:
        """Take the head for a client; the queue counts as used."""
        queue.used_at = self._now()
        self._drop(queue, queue.take_expired(self._now(), due=True), EXPIRED)
        return queue.take()

    def done(self, waiting: Waiting) -> None:
        """A message left its queue for good: acknowledged, or sent without the need of it."""
        self._on_size(-waiting.message.size)

    def reject(self, queue: MemoryQueue, waiting: Waiting) -> None:
        """A consumer refused a message for good."""
        self._drop(queue, [waiting], REJECTED)

    def requeue(self, queue: MemoryQueue, waiting: Waiting) -> None:
        """A message came back unacknowledged."""
        if queue.deleted:
            self.done(waiting)
            return
        waiting.redelivered = True
        if queue.limits.quorum:
            waiting.returns += 1
            if queue.limits.delivery_limit is not None and waiting.returns > queue.limits.delivery_limit:
                self._drop(queue, [waiting], DELIVERY_LIMIT)
                return
        queue.put_back(waiting)

    def _drop(self, queue: MemoryQueue, gone: list[Waiting], reason: str) -> None:
        for waiting in gone:
            if self._keeps(queue, waiting.message):
                self._kept.append((queue, waiting, reason))
                continue
            self.done(waiting)
            if not queue.deleted:
                self._dead_letter(queue, waiting.message, reason)

    def _keeps(self, queue: MemoryQueue, message: Message) -> bool:
        """Whether a queue that dead-letters at least once has nowhere to put a message."""
        limits = queue.limits
        if limits.arguments.get("x-dead-letter-strategy") != "at-least-once" or limits.dead_exchange is None:
            return False
        if limits.dead_exchange and limits.dead_exchange not in self.exchanges:
            return True
        key = limits.dead_key
        target = replace(message, exchange=limits.dead_exchange)
        return not self._targets(target if key is None else replace(target, key=key, cc=()))

    def _dead_letter(self, queue: MemoryQueue, message: Message, reason: str) -> None:
        """Send a message to its queue's dead-letter exchange; where that is missing it is gone, without a word."""
        exchange = queue.limits.dead_exchange
        if exchange is None or (exchange and exchange not in self.exchanges):
            return
        dead = message.died(queue.spec.name, reason, self._epoch_seconds + self._now())
        key = queue.limits.dead_key
        dead = replace(dead, exchange=exchange) if key is None else replace(dead, exchange=exchange, key=key, cc=())
        targets = [name for name in self._targets(dead) if not dead.cycles_into(name)]
        if not targets and queue.limits.dead_at_least_once:
            raise NotBuiltYet(f"not built yet: a dead letter of {queue.spec.name!r} that waits until it has a target")
        for name in targets:
            self._enqueue(self.queues[name], dead)

    # ------------------------------------------------------------------------------------------------------- consumers

    def subscribe(self, queue: MemoryQueue, consumer: Consumer) -> None:
        """Add a consumer; `settle` then lets it have what is there."""
        queue.consumers.append(consumer)
        queue.had_consumers = True

    def unsubscribe(self, queue: MemoryQueue, consumer: Consumer) -> None:
        """Take a consumer away; an auto-delete queue goes with its last one."""
        if queue.deleted or consumer not in queue.consumers:
            return
        queue.consumers.remove(consumer)
        queue.used_at = self._now()
        if queue.spec.auto_delete and not queue.consumers:
            self.remove(queue)

    # ------------------------------------------------------------------------------------------------------------ time

    def next_event(self) -> float | None:
        """When something happens by itself."""
        return min((at for queue in self.queues.values() if (at := queue.next_event()) is not None), default=None)

    def let_happen(self) -> None:
        """Do what the clock asks for: expire messages and queues."""
        for queue in list(self.queues.values()):
            ends = queue.ends_at
            if ends is not None and ends <= self._now():
                self.remove(queue)  # an expired queue dead-letters nothing (https://www.rabbitmq.com/docs/ttl)
            elif not queue.deleted:
                self.settle(queue)

    def try_again(self) -> None:
        """Dead-letter what had nowhere to go."""
        kept, self._kept = self._kept, []
        for queue, waiting, reason in kept:
            self._drop(queue, [waiting], reason)

    def forget_transient(self) -> None:
        """A restart: what is not durable, and messages that are not persistent, are gone."""
        for queue in [queue for queue in self.queues.values() if not queue.spec.durable or queue.owner is not None]:
            self.remove(queue)
        for name in [spec.name for spec in self.exchanges.values() if not spec.durable]:
            self.delete_exchange(name, if_unused=False)
        for queue in self.queues.values():
            for waiting in queue.take_all():
                if queue.limits.quorum or waiting.message.properties.delivery_mode == 2:  # noqa: PLR2004 - persistent
                    queue.put_back(waiting)
                else:
                    self.done(waiting)
