"""The dramatiq application of the benchmark. It has no result backend on RabbitMQ, so no results are measured."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks import counting

QUEUE = os.environ["BENCH_QUEUE"]

broker = RabbitmqBroker(url=os.environ["BENCH_URL"], confirm_delivery=os.environ.get("BENCH_CONFIRM") == "yes")
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop(payload: str) -> None:  # noqa: ARG001 - carried, not used
    """Do nothing, and be counted."""
    counting.note()
