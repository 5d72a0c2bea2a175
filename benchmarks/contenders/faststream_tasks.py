"""The FastStream application of the benchmark: one handler, which answers where somebody asked (direct reply-to)."""

from __future__ import annotations

import logging
import os

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks import contender, counting

QUEUE = RabbitQueue(os.environ["BENCH_QUEUE"], durable=True)

broker = RabbitBroker(
    os.environ["BENCH_URL"],
    default_channel=Channel(prefetch_count=contender.PREFETCH // contender.PROCESSES),
    log_level=logging.DEBUG,  # what it says of each message; below what the worker prints
)
app = FastStream(broker)


@broker.subscriber(QUEUE)
async def echo(payload: str) -> int:
    """Return the payload's length, and be counted."""
    counting.note()
    return len(payload)
