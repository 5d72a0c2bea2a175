"""Bare pika (BlockingConnection), both sides. No framework, no codec, no task.

Options: `confirm` = "yes" waits for the broker's confirm after every publish, of requests and of replies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pika

from benchmarks import contender, counting

BODY = contender.PAYLOAD.encode()
PERSISTENT = 2


class Contender:
    """Requests to one durable queue, replies to one exclusive queue of this client, matched by correlation id."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._connection = pika.BlockingConnection(pika.URLParameters(setting.url))
        self._channel = self._connection.channel()
        if setting.options.get("confirm") == "yes":
            self._channel.confirm_delivery()
        self._replies = ""
        self._missing: set[str] = set()
        self._sent = 0

    def prepare(self) -> None:
        """Declare the queue, and the reply queue with its consumer."""
        self._channel.queue_declare(self._setting.queue, durable=True)
        self._replies = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.basic_consume(self._replies, self._on_reply, auto_ack=True)

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command that runs `main` below."""
        return contender.python(__spec__.name, self._setting.options.get("confirm", "no")), self._setting.environment()

    def publish(self, count: int) -> None:
        """Publish `count` persistent messages."""
        send, queue = self._channel.basic_publish, self._setting.queue
        for _ in range(count):
            send("", queue, BODY, pika.BasicProperties(content_type="text/plain", delivery_mode=PERSISTENT))

    def collect(self, count: int) -> None:
        """Publish `count` requests, then take in replies until none is missing."""
        for _ in range(count):
            self._request()
        while self._missing:
            self._connection.process_data_events(time_limit=contender.RESULT_TIMEOUT_SECONDS)

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
        properties = pika.BasicProperties(
            content_type="text/plain",
            delivery_mode=PERSISTENT,
            correlation_id=request,
            reply_to=self._replies,
        )
        self._channel.basic_publish("", self._setting.queue, BODY, properties)

    def _on_reply(self, _channel: Any, _method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        self._missing.discard(properties.correlation_id or "")


def main(confirm: str) -> None:
    """Consume for ever: count, answer where somebody wants an answer, acknowledge."""
    channel = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_URL"])).channel()
    if confirm == "yes":
        channel.confirm_delivery()
    channel.basic_qos(prefetch_count=contender.PREFETCH)

    def on_message(_channel: Any, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        counting.note()
        if properties.reply_to:
            reply = pika.BasicProperties(correlation_id=properties.correlation_id, delivery_mode=PERSISTENT)
            channel.basic_publish("", properties.reply_to, b"200", reply)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(os.environ["BENCH_QUEUE"], on_message)
    channel.start_consuming()


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
