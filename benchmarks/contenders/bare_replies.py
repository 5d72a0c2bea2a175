"""Bare py-amqp with the broker operations of our two reply modes, and nothing else: what these modes cannot go below.

Options: `reply` = "direct" answers through `amq.rabbitmq.reply-to`; "task" through a durable queue per call, which is
declared, consumed and deleted.

One call at a time is the floor of a round trip. Many at once are the limit of a batch: with "task" the declares, consumes
and deletes go over `LANES` channels and nobody waits for an answer (`nowait`; a channel works off its methods in order, so
a publish cannot overtake the declare before it), and the confirms of requests and replies are gathered. A framework has to
read the answers too, since one may be a refusal.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Generic, TypeVar

import amqp

from benchmarks import contender, counting
from benchmarks.contenders.bare_amqp import BODY, PERSISTENT, connect

DIRECT = "amq.rabbitmq.reply-to"
LANES = 16
"""Channels; measured, more bring nothing."""

IN_FLIGHT = 500
"""Direct calls on their way at once."""

EXPIRES_MS = 600_000
"""Idle time after which the broker deletes a reply queue that nobody fetched."""

T = TypeVar("T")


class Confirms(Generic[T]):
    """What was published on a channel and is not confirmed yet, each with what is to happen then."""

    def __init__(self, channel: amqp.Channel, then: Callable[[T], None]) -> None:
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirmed)
        self._then = then
        self._numbers: deque[int] = deque()
        self._values: dict[int, T] = {}
        self._sent = 0

    def sent(self, value: T) -> None:
        """Note a publish."""
        self._sent += 1
        self._numbers.append(self._sent)
        self._values[self._sent] = value

    def _confirmed(self, number: int, multiple: bool) -> None:  # noqa: FBT001 - called by py-amqp
        if not multiple:
            self._then(self._values.pop(number))
            return
        while self._numbers and self._numbers[0] <= number:
            earlier = self._numbers.popleft()
            if earlier in self._values:
                self._then(self._values.pop(earlier))


class Contender:
    """Requests to one durable queue, replies as `reply` says."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._task_mode = setting.options["reply"] == "task"
        self._connection = connect(setting.url, confirm=False)
        self._unconfirmed: set[str] = set()
        self._missing: set[str] = set()
        self._sent = 0
        self._channel = self._connection.channel()
        self._confirms = Confirms[str](self._channel, self._unconfirmed.discard)
        self._lanes = [self._connection.channel() for _ in range(LANES if self._task_mode else 0)]
        self._lane_confirms = [Confirms[str](lane, self._unconfirmed.discard) for lane in self._lanes]
        self._deleting = [self._connection.channel() for _ in self._lanes]

    def prepare(self) -> None:
        """Declare the queue; for direct replies, consume them."""
        self._channel.queue_declare(self._setting.queue, durable=True, auto_delete=False)
        if not self._task_mode:
            self._channel.basic_consume(DIRECT, no_ack=True, callback=self._on_reply)

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command that runs `main` below."""
        return contender.python(__spec__.name, self._setting.options["reply"]), self._setting.environment()

    def publish(self, count: int) -> None:
        """Publish `count` persistent messages, until the last one is confirmed."""
        for _ in range(count):
            self._request(self._channel, self._confirms, None)
        self._until(lambda: not self._unconfirmed)

    def collect(self, count: int) -> None:
        """Call `count` times until the last reply is there; with "task", until its queue is deleted too."""
        if self._task_mode:
            self._collect_tasks(count)
        else:
            self._collect_direct(count)

    def round_trip(self) -> None:
        """Call once; the queue of a task comes and goes on the one channel."""
        if not self._task_mode:
            self._collect_direct(1)
            return
        name = f"{self._setting.queue}.reply.{self._sent + 1}"
        self._channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-expires": EXPIRES_MS})
        self._request(self._channel, self._confirms, name)
        tag = self._channel.basic_consume(name, no_ack=True, callback=self._on_reply)
        self._until(lambda: not self._missing)
        self._channel.basic_cancel(tag, nowait=True)
        self._channel.queue_delete(name)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _collect_direct(self, count: int) -> None:
        sent = 0
        while sent < count or self._missing:
            while sent < count and len(self._missing) < IN_FLIGHT:
                self._request(self._channel, self._confirms, DIRECT)
                sent += 1
            self._connection.drain_events(timeout=contender.RESULT_TIMEOUT_SECONDS)
        self._until(lambda: not self._unconfirmed)

    def _collect_tasks(self, count: int) -> None:
        names = [f"{self._setting.queue}.reply.{self._sent + number}" for number in range(1, count + 1)]
        for name, lane, confirms in zip(names, cycle(self._lanes), cycle(self._lane_confirms), strict=False):
            arguments = {"x-expires": EXPIRES_MS}
            lane.queue_declare(name, durable=True, auto_delete=False, arguments=arguments, nowait=True)
            self._request(lane, confirms, name)
        self._until(lambda: not self._unconfirmed)
        for name, lane, deleting in zip(names, cycle(self._lanes), cycle(self._deleting), strict=False):
            self._fetch(name, lane, deleting)
        self._until(lambda: not self._missing)
        for channel in (*self._deleting, *self._lanes):  # whoever answers has done all before it
            channel.queue_declare(self._setting.queue, passive=True)

    def _fetch(self, name: str, lane: amqp.Channel, deleting: amqp.Channel) -> None:
        def on_reply(message: amqp.Message) -> None:
            self._on_reply(message)
            deleting.queue_delete(name, nowait=True)

        lane.basic_consume(name, name, no_ack=True, nowait=True, callback=on_reply, on_cancel=lambda _tag: None)

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._connection.drain_events(timeout=contender.RESULT_TIMEOUT_SECONDS)

    def _request(self, channel: amqp.Channel, confirms: Confirms[str], reply_to: str | None) -> None:
        self._sent += 1
        request = str(self._sent)
        properties = {} if reply_to is None else {"correlation_id": request, "reply_to": reply_to}
        message = amqp.Message(BODY, content_type="text/plain", delivery_mode=PERSISTENT, **properties)
        channel.basic_publish(message, routing_key=self._setting.queue)
        confirms.sent(request)
        self._unconfirmed.add(request)
        if reply_to is not None:
            self._missing.add(request)

    def _on_reply(self, message: amqp.Message) -> None:
        self._missing.discard(message.properties["correlation_id"])


def main(reply: str) -> None:
    """Consume for ever: count, answer, acknowledge; a reply that goes to a queue is confirmed first."""
    connection = connect(os.environ["BENCH_URL"], confirm=False)
    channel = connection.channel()
    confirms = Confirms[int](channel, channel.basic_ack) if reply == "task" else None
    channel.basic_qos(0, contender.PREFETCH, False)

    def on_message(message: amqp.Message) -> None:
        counting.note()
        reply_to = message.properties.get("reply_to")
        if reply_to:
            request = message.properties["correlation_id"]
            durable = {"delivery_mode": PERSISTENT} if confirms else {}
            channel.basic_publish(amqp.Message(b"200", correlation_id=request, **durable), routing_key=reply_to)
        if reply_to and confirms:
            confirms.sent(message.delivery_tag)
        else:
            channel.basic_ack(message.delivery_tag)

    channel.basic_consume(os.environ["BENCH_QUEUE"], callback=on_message)
    while True:
        connection.drain_events()


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
