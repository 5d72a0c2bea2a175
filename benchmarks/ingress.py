"""What an ingress costs: messages published straight to queues, and through a private exchange before each of them.

    python -m benchmarks.ingress --messages 10000 --rounds 5

An ingress is the fanout exchange, with an alternate exchange, that `amqpq topology migrate` puts before a queue, so that one
binding change moves it. Each case is measured both ways in turn within one run, and only their ratio is worth anything. A private
node is started, or `$AMQPQ_BROKER_URL` names a broker; what is declared there is deleted again.
"""

from __future__ import annotations

import argparse
import os
import queue as threads
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from amqpq.transport import blocking, flow, url
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Properties, Publication, QueueSpec
from benchmarks.broker import broker
from benchmarks.contender import PAYLOAD

DEADLINE_SECONDS = 120.0
BATCH = 200
PROPERTIES = Properties(content_type="application/json", delivery_mode=2, correlation_id="x" * 36)


@dataclass(frozen=True, slots=True)
class Case:
    """A number of queues of one type behind one direct exchange."""

    kind: str
    queues: int

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.queues} queue{'s' if self.queues > 1 else ''}"

    def queue(self, number: int, *, ingress: bool) -> str:
        return f"ingressbench.{self.kind}.{self.queues}.{'ingress' if ingress else 'straight'}.{number}"


CASES = tuple(Case(kind, queues) for kind in ("classic", "quorum") for queues in (1, 50))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingress", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--messages", type=int, default=10_000, help="published per case, way and round (default: %(default)s)"
    )
    parser.add_argument(
        "--trips", type=int, default=300, help="single messages timed to their consumer (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with broker() as place:
        connection = blocking.connect(url.parse(place), heartbeat_seconds=0, timeout_seconds=DEADLINE_SECONDS)
        print(f"RabbitMQ {connection.server.version}, {len(os.sched_getaffinity(0))} cores; {len(PAYLOAD)} bytes, persistent, "
              f"confirmed in batches of {BATCH}")  # fmt: skip
        print(
            f"{'':20} {'straight 1/s':>14} {'ingress 1/s':>14} {'ratio':>7}   {'p50, p99 ms':>14} {'with ingress':>14}"
        )
        for case in CASES:
            print(measured(connection, case, given), flush=True)
        answer(connection.close())


def measured(connection: Connection, case: Case, given: argparse.Namespace) -> str:
    """Measure one case both ways, in turn, and return its line."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    trips: dict[bool, list[float]] = {False: [], True: []}
    for number in range(given.rounds):
        for ingress in (False, True) if number % 2 else (True, False):
            channel = connection.channel()
            declare(channel, case, ingress=ingress)
            rates[ingress].append(publish_rate(channel, case, given.messages, ingress=ingress))
            remove(channel, case, ingress=ingress)
            declare(channel, case, ingress=ingress)
            trips[ingress] += trip_seconds(connection, case, given.trips, ingress=ingress)
            remove(channel, case, ingress=ingress)
            answer(channel.close())
    straight, through = median(rates[False]), median(rates[True])
    ratios = [with_it / without for with_it, without in zip(rates[True], rates[False], strict=True)]
    return (
        f"{case.name:20} {straight:14,.0f} {through:14,.0f} {median(ratios):7.3f}   {percentiles(trips[False]):>14} "
        f"{percentiles(trips[True]):>14}"
    )


def percentiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return ", ".join(f"{1000 * ordered[int(len(ordered) * share)]:.2f}" for share in (0.5, 0.99))


def exchange(case: Case, *, ingress: bool) -> str:
    return case.queue(0, ingress=ingress) + ".from"


def declare(channel: Channel, case: Case, *, ingress: bool) -> None:
    source = exchange(case, ingress=ingress)
    answer(channel.declare_exchange(ExchangeSpec(source, "direct")))
    for number in range(case.queues):
        queue = case.queue(number, ingress=ingress)
        answer(channel.declare_queue(QueueSpec(queue, arguments={"x-queue-type": case.kind})))
        if ingress:
            answer(channel.declare_exchange(ExchangeSpec(f"{queue}.alt", "fanout")))
            private = ExchangeSpec(f"{queue}.in", "fanout", arguments={"alternate-exchange": f"{queue}.alt"})
            answer(channel.declare_exchange(private))
            answer(channel.bind(BindingSpec(private.name, queue)))
            answer(channel.bind(BindingSpec(source, private.name, str(number), to_exchange=True)))
        else:
            answer(channel.bind(BindingSpec(source, queue, str(number))))


def remove(channel: Channel, case: Case, *, ingress: bool) -> None:
    for number in range(case.queues):
        queue = case.queue(number, ingress=ingress)
        answer(channel.delete_queue(queue))
        if ingress:
            answer(channel.delete_exchange(f"{queue}.in"))
            answer(channel.delete_exchange(f"{queue}.alt"))
    answer(channel.delete_exchange(exchange(case, ingress=ingress)))


def publish_rate(channel: Channel, case: Case, messages: int, *, ingress: bool) -> float:
    """Publish with confirms; return messages per second."""
    source, body = exchange(case, ingress=ingress), PAYLOAD.encode()
    publications = [Publication(source, str(number % case.queues), body, PROPERTIES) for number in range(messages)]
    began = time.perf_counter()
    for start in range(0, messages, BATCH):
        outcomes = answer(channel.publish(publications[start : start + BATCH]))
        if not all(outcome.confirmed for outcome in outcomes):
            message = f"not every message was confirmed: {outcomes}"
            raise RuntimeError(message)
    return messages / (time.perf_counter() - began)


def trip_seconds(connection: Connection, case: Case, trips: int, *, ingress: bool) -> list[float]:
    """Publish one message at a time and wait for its delivery; return the seconds of each."""
    source, body = exchange(case, ingress=ingress), PAYLOAD.encode()
    channel = connection.channel()
    arrived: threads.SimpleQueue[Delivery] = threads.SimpleQueue()
    for number in range(case.queues):
        answer(channel.consume(case.queue(number, ingress=ingress), arrived.put, no_ack=True))
    found: list[float] = []
    for number in range(trips):
        began = time.perf_counter()
        channel.publish([Publication(source, str(number % case.queues), body, PROPERTIES)])
        arrived.get(timeout=DEADLINE_SECONDS)
        found.append(time.perf_counter() - began)
    answer(channel.close())
    return found


def answer(pending: Pending[Any]) -> Any:
    def waiting() -> Flow[Any]:
        return (yield pending)

    return flow.run(waiting(), DEADLINE_SECONDS)


if __name__ == "__main__":
    main()
