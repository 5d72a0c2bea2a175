"""The taskiq application of the benchmark. taskiq-aio-pika has no result backend on RabbitMQ, so no results are measured."""

from __future__ import annotations

import os

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

from benchmarks import contender, counting

QUEUE = os.environ["BENCH_QUEUE"]

broker = AioPikaBroker(
    os.environ["BENCH_URL"],
    qos=contender.PREFETCH // contender.PROCESSES,
    exchange=Exchange(name=QUEUE),
    task_queues=[Queue(name=QUEUE, type=QueueType.CLASSIC)],
    dead_letter_queue=Queue(name=f"{QUEUE}.dead", type=QueueType.CLASSIC),
)


@broker.task
async def noop(payload: str) -> None:  # noqa: ARG001 - carried, not used
    """Do nothing, and be counted."""
    counting.note()
