"""A topology as rows for people and as plain data for machines; passwords masked in both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from amqpq.topology import partitions
from amqpq.topology.address import masked
from amqpq.topology.declarations import exchange_spec, queue_spec
from amqpq.topology.delays import Ladder, ladder
from amqpq.topology.model import Binding, Exchange, Queue, Route, TaskLimit, Topology
from amqpq.topology.permits import permits_of, queues_of
from amqpq.topology.units import duration_text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title; the first row names the columns."""

    title: str
    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """Return the rows as aligned text."""
        columns = max(len(row) for row in self.rows)
        widths = [max(len(row[column]) for row in self.rows) for column in range(columns)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in self.rows
        ]


def tables(topology: Topology, *, generated: bool = False) -> list[Table]:
    """Return exchanges, queues, bindings and routes as tables; `generated` adds what the file did not write out."""
    rungs, spread = (ladder(topology), partitions.spread(topology)) if generated else (Ladder(), partitions.Spread())
    exchanges = [*topology.exchanges.values(), *spread.exchanges, *rungs.exchanges]
    written = [queue for queue in topology.queues.values() if generated or not queue.generated]
    queues = [each for queue in written for each in (partitions.physical(queue) if generated else (queue,))]
    queues += rungs.queues
    bindings = [*topology.bindings, *rungs.bindings]
    if generated:
        bindings = [*spread.bindings, *partitions.wired(topology, bindings)]
    found = [
        Table("Exchanges", (("NAME", "TYPE", "PROPERTIES"), *(_exchange(x) for x in exchanges))),
        Table(
            "Queues",
            (("NAME", "TYPE", "DEAD LETTERS", "PROPERTIES"), *(_queue(queue, generated=generated) for queue in queues)),
        ),
        Table("Bindings", (("FROM", "KEY", "TO"), *(_binding_rows(bindings)))),
        Table("Routes", (("TASK", "EXCHANGE", "KEY", "MESSAGES"), *(_route(route) for route in topology.routes))),
        Table("Limits", (("TASK", "ALL WORKERS TOGETHER", "PERMITS IN"), *_limits(topology, generated=generated))),
    ]
    return [table for table in found if len(table.rows) > 1]


def facts(topology: Topology) -> dict[str, Any]:
    """Return the topology as plain data, generated objects included."""
    rungs, spread = ladder(topology), partitions.spread(topology)
    delays = topology.delays
    return {
        "project": topology.project,
        "file": None if topology.path is None else str(topology.path),
        "environment": topology.environment,
        "requires": {"rabbitmq": topology.requires.rabbitmq},
        "broker": {
            "urls": [masked(url) for url in topology.broker.urls],
            "tls": None if topology.broker.tls is None else topology.broker.tls.verify,
            "heartbeat_seconds": topology.broker.heartbeat_seconds,
        },
        "exchanges": [
            {
                **_spec_facts(exchange_spec(x)),
                "type": x.type,
                "internal": x.internal,
                "manage": x.manage,
                "generated": x.generated,
            }
            for x in (*topology.exchanges.values(), *spread.exchanges, *rungs.exchanges)
        ],
        "queues": [
            {
                **_spec_facts(queue_spec(queue)),
                "type": queue.type,
                "dead_letter": queue.dead_letter,
                "manage": queue.manage,
                "generated": queue.generated,
                "partition_of": queue.part_of,
            }
            for queue in (*partitions.physical_queues(topology), *rungs.queues)
        ],
        "bindings": [
            {
                "from": binding.source,
                "to": binding.target,
                "as": "exchange" if binding.to_exchange else "queue",
                "key": binding.key,
                "arguments": dict(binding.arguments),
            }
            for binding in (*spread.bindings, *partitions.wired(topology, (*topology.bindings, *rungs.bindings)))
        ],
        "routes": [_route_facts(route) for route in topology.routes],
        "limits": [_limit_facts(topology.project, limit) for limit in topology.limits],
        "delays": None
        if delays is None
        else {"unit_seconds": delays.unit_seconds, "max_seconds": delays.max_seconds, "lost": delays.lost},
        "security": {
            "signing": None if topology.security.signing is None else topology.security.signing.algorithm,
            "key_id": None if topology.security.signing is None else topology.security.signing.key_id,
            "require": topology.security.require,
            "trust": {key_id: trust.may for key_id, trust in topology.security.trust.items()},
        },
    }


def _route_facts(route: Route) -> dict[str, Any]:
    return {
        "pattern": route.pattern,
        "exchange": route.exchange,
        "key": route.key,
        "priority": route.priority,
        "expires_seconds": route.expires_seconds,
        "compression": route.compression,
        "serializer": route.serializer,
        "reply": route.reply,
    }


def _spec_facts(spec: Any) -> dict[str, Any]:
    return {
        "name": spec.name,
        "durable": spec.durable,
        "auto_delete": spec.auto_delete,
        "arguments": dict(spec.arguments),
    }


def _exchange(exchange: Exchange) -> tuple[str, ...]:
    words = _flags(exchange)
    if exchange.generated:
        words.append("generated")
    if exchange.internal:
        words.append("internal")
    if exchange.unrouted is not None:
        words.append(f"unrouted: {exchange.unrouted}")
    words += [f"{name}={value}" for name, value in exchange.extra_arguments.items()]
    return exchange.name, exchange.type, ", ".join(words)


def _queue(queue: Queue, *, generated: bool) -> tuple[str, ...]:
    words = _flags(queue)
    if queue.generated:
        words.append("generated")
    if generated:
        words += [f"{name}={value}" for name, value in queue_spec(queue).arguments.items()]
        return queue.name, queue.type, queue.dead_letter or "-", ", ".join(words)
    limits, retention = queue.limits, queue.retention
    named = {
        "partitions": queue.partitions,
        "partition_by": partitions.key_words(queue) if queue.partitions else None,
        "max_priority": queue.max_priority,
        "delivery_limit": queue.delivery_limit,
        "consumer_timeout": _duration(queue.consumer_timeout_seconds),
        "single_active": queue.single_active or None,
        "ttl": _duration(queue.ttl_seconds),
        "expires": _duration(queue.expires_seconds),
        "max_length": limits.max_length,
        "max_length_bytes": limits.max_length_bytes,
        "overflow": limits.overflow,
        "max_age": retention.max_age,
        "max_bytes": retention.max_bytes,
        **queue.extra_arguments,
    }
    words += [f"{name}: {value}" for name, value in named.items() if value is not None]
    return queue.name, queue.type, queue.dead_letter or "-", ", ".join(words)


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration_text(seconds)


def _flags(thing: Exchange | Queue) -> list[str]:
    words = []
    if thing.manage != "full":
        words.append(f"manage: {thing.manage}")
    if not thing.durable:
        words.append("transient")
    if thing.auto_delete:
        words.append("auto-delete")
    return words


def _binding_rows(bindings: Iterable[Binding]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for binding in bindings:
        match = binding.arguments.get("x-match")
        headers = ", ".join(f"{name}={value!r}" for name, value in binding.arguments.items() if name != "x-match")
        key = f"{match}: {headers or '-'}" if match is not None else binding.key or "-"
        target = f"{binding.target} (exchange)" if binding.to_exchange else binding.target
        rows.append((binding.source, key, target))
    return rows


def _route(route: Route) -> tuple[str, ...]:
    named = {
        "priority": route.priority,
        "expires": None if route.expires_seconds is None else duration_text(route.expires_seconds),
        "compression": None if route.compression == "default" else route.compression or "none",
        "serializer": route.serializer,
        "reply": route.reply,
    }
    words = ", ".join(f"{name}: {value}" for name, value in named.items() if value is not None)
    return route.pattern, route.exchange or "(default)", route.key or "-", words


def _limit_facts(project: str, limit: TaskLimit) -> dict[str, Any]:
    return {
        "pattern": limit.pattern,
        "rate": None if limit.rate is None else str(limit.rate),
        "concurrency": limit.concurrency or None,
        "key": limit.key,
        "slots": limit.slots if limit.key is not None else None,
        "permits": permits_of(limit),
        "queues": queues_of(project, limit),
    }


def _limits(topology: Topology, *, generated: bool) -> list[tuple[str, ...]]:
    """One row for a limit; a limit with slots is folded unless everything is to be shown."""
    rows: list[tuple[str, ...]] = []
    for limit in topology.limits:
        words = f"rate: {limit.rate}" if limit.rate is not None else f"concurrency: {limit.concurrency}"
        if limit.key is not None:
            words += f" for each {limit.key} ({limit.slots} slots)"
        queues = queues_of(topology.project, limit)
        if generated or len(queues) == 1:
            rows += [(limit.pattern, words, queue) for queue in queues]
        else:
            rows.append((limit.pattern, words, f"{queues[0]} ... {queues[-1].removeprefix(_stem(queues[0]))}"))
    return rows


def _stem(queue: str) -> str:
    return queue.rpartition(".")[0] + "."
