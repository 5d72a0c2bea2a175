"""A queue of the in-memory broker: order, priority, limits, life. It holds messages and does not send them anywhere.

Order is by priority, then by place; a message that comes back goes to its old place, as on a classic queue. Messages
expire at the head of their priority only (https://www.rabbitmq.com/docs/ttl), and a length limit counts ready messages
and pushes out from the head (https://www.rabbitmq.com/docs/maxlength).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from amqpq.testing.memory.values import Limits, Message, Waiting
from amqpq.types import QueueSpec, QueueState


class Consumer(Protocol):
    """Who takes messages from a queue."""

    tag: str

    @property
    def has_room(self) -> bool:
        """Whether one more delivery is within its prefetch."""

    def deliver(self, queue: MemoryQueue, waiting: Waiting) -> None:
        """Take a message."""

    def cancelled(self) -> None:
        """The broker cancels the subscription."""


class MemoryQueue:
    """One queue."""

    def __init__(self, spec: QueueSpec, limits: Limits, owner: object | None, now_seconds: float) -> None:
        self.spec = spec
        self.limits = limits
        self.owner = owner
        """The connection that holds it exclusively."""
        self.consumers: deque[Consumer] = deque()
        self.had_consumers = False
        self.deleted = False
        self.used_at = now_seconds
        self._lanes: dict[int, deque[Waiting]] = {}
        self._places = 0
        self._length = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiting]:
        for priority in sorted(self._lanes, reverse=True):
            yield from self._lanes[priority]

    @property
    def state(self) -> QueueState:
        """What a declaration answers."""
        return QueueState(self.spec.name, self._length, len(self.consumers))

    def would_overflow(self, size: int) -> bool:
        """Whether one more message of `size` bytes is over a limit."""
        limits = self.limits
        return (limits.max_length is not None and self._length + 1 > limits.max_length) or (
            limits.max_bytes is not None and self._bytes + size > limits.max_bytes
        )

    def put(self, message: Message, now_seconds: float) -> None:
        """Append a message."""
        lives = [self.limits.ttl_seconds] if self.limits.ttl_seconds is not None else []
        if message.properties.expiration is not None:
            lives.append(message.properties.expiration / 1000)
        priority = min(message.properties.priority or 0, self.limits.max_priority)
        self._places += 1
        waiting = Waiting(message, self._places, priority, now_seconds + min(lives) if lives else None)
        self._lanes.setdefault(priority, deque()).append(waiting)
        self._count(waiting, 1)

    def put_back(self, waiting: Waiting) -> None:
        """Put a message back to its old place."""
        lane = self._lanes.setdefault(waiting.priority, deque())
        index = 0
        while index < len(lane) and lane[index].place < waiting.place:
            index += 1
        lane.insert(index, waiting)
        self._count(waiting, 1)

    def take(self) -> Waiting | None:
        """Take the head out."""
        for priority in sorted(self._lanes, reverse=True):
            if self._lanes[priority]:
                return self._pop(self._lanes[priority])
        return None

    def take_all(self) -> list[Waiting]:
        """Take everything out."""
        everything = list(self)
        self._lanes.clear()
        self._length = self._bytes = 0
        return everything

    def take_expired(self, now_seconds: float, *, due: bool) -> list[Waiting]:
        """Take out the heads whose time is over; with `due` also those whose time is over just now."""
        gone = []
        for lane in self._lanes.values():
            while lane and (at := lane[0].expires_at) is not None and (at <= now_seconds if due else at < now_seconds):
                gone.append(self._pop(lane))
        return gone

    def take_overflowing(self) -> list[Waiting]:
        """Take out from the head what is over a limit."""
        limits = self.limits
        gone: list[Waiting] = []
        while self._length and (
            (limits.max_length is not None and self._length > limits.max_length)
            or (limits.max_bytes is not None and self._bytes > limits.max_bytes)
        ):
            head = self.take()
            if head is not None:
                gone.append(head)
        return gone

    def next_event(self) -> float | None:
        """When the next head expires, or the queue itself."""
        moments = [lane[0].expires_at for lane in self._lanes.values() if lane and lane[0].expires_at is not None]
        ends = self.ends_at
        return min([*moments, ends] if ends is not None else moments, default=None)

    @property
    def ends_at(self) -> float | None:
        """When the queue expires, if nobody uses it until then."""
        if self.limits.expires_seconds is None or self.consumers:
            return None
        return self.used_at + self.limits.expires_seconds

    def next_consumer(self) -> Consumer | None:
        """The consumer whose turn it is among those with room; a single active one is always the first."""
        if self.limits.single_active:
            return self.consumers[0] if self.consumers and self.consumers[0].has_room else None
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.has_room:
                return consumer
        return None

    def _pop(self, lane: deque[Waiting]) -> Waiting:
        waiting = lane.popleft()
        self._count(waiting, -1)
        return waiting

    def _count(self, waiting: Waiting, sign: int) -> None:
        self._length += sign
        self._bytes += sign * waiting.message.size
