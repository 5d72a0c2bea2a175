"""Bare py-amqp, both sides: the floor of the blocking world. No framework, no codec, no task.

Options: `confirm` = "yes" waits for the broker's confirm after every publish, of requests and of replies.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

import amqp

from benchmarks import contender, counting

BODY = contender.PAYLOAD.encode()
PERSISTENT = 2


def connect(url: str, *, confirm: bool) -> amqp.Connection:
    """Open a connection to the address in `url`."""
    parts = urlsplit(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port or 5672}",
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        confirm_publish=confirm,
    )
    connection.connect()
    return connection


class Contender:
    """Requests to one durable queue, replies to one exclusive queue of this client, matched by correlation id."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._connection = connect(setting.url, confirm=setting.options.get("confirm") == "yes")
        self._channel = self._connection.channel()
        self._replies = ""
        self._missing: set[str] = set()
        self._sent = 0

    def prepare(self) -> None:
        """Declare the queue, and the reply queue with its consumer."""
        self._channel.queue_declare(self._setting.queue, durable=True, auto_delete=False)
        self._replies = self._channel.queue_declare(exclusive=True).queue
        self._channel.basic_consume(self._replies, no_ack=True, callback=self._on_reply)

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command that runs `main` below."""
        return contender.python(__spec__.name, self._setting.options.get("confirm", "no")), self._setting.environment()

    def publish(self, count: int) -> None:
        """Publish `count` persistent messages."""
        send, queue = self._channel.basic_publish, self._setting.queue
        for _ in range(count):
            send(amqp.Message(BODY, content_type="text/plain", delivery_mode=PERSISTENT), routing_key=queue)

    def collect(self, count: int) -> None:
        """Publish `count` requests, then take in replies until none is missing."""
        for _ in range(count):
            self._request()
        while self._missing:
            self._connection.drain_events(timeout=contender.RESULT_TIMEOUT_SECONDS)

    def round_trip(self) -> None:
        """Publish one request and wait for its reply."""
        self.collect(1)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _request(self) -> None:
        self._sent += 1
        request = str(self._sent)
        self._missing.add(request)
        self._channel.basic_publish(
            amqp.Message(
                BODY,
                content_type="text/plain",
                delivery_mode=PERSISTENT,
                correlation_id=request,
                reply_to=self._replies,
            ),
            routing_key=self._setting.queue,
        )

    def _on_reply(self, message: amqp.Message) -> None:
        self._missing.discard(message.properties["correlation_id"])


def main(confirm: str) -> None:
    """Consume for ever: count, answer where somebody wants an answer, acknowledge."""
    connection = connect(os.environ["BENCH_URL"], confirm=confirm == "yes")
    channel = connection.channel()
    channel.basic_qos(0, contender.PREFETCH, False)

    # Handled outside of the callback: a publish that waits for its confirm reads further deliveries meanwhile, and a
    # second one begun inside their callback may swallow the first one's confirm.
    arrived: deque[amqp.Message] = deque()
    channel.basic_consume(os.environ["BENCH_QUEUE"], callback=arrived.append)
    while True:
        connection.drain_events()
        while arrived:
            message = arrived.popleft()
            counting.note()
            reply_to = message.properties.get("reply_to")
            if reply_to:
                request = message.properties["correlation_id"]
                reply = amqp.Message(b"200", correlation_id=request, delivery_mode=PERSISTENT)
                channel.basic_publish(reply, routing_key=reply_to)
            channel.basic_ack(message.delivery_tag)


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
