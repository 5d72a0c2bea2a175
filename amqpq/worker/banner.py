"""What a worker says of itself when it starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from amqpq.topology import Topology, partitions
from amqpq.topology.address import masked
from amqpq.worker.plan import WorkerPlan


def banner(plan: WorkerPlan, topology: Topology, tasks: Sequence[str], pool: str, version: str) -> str:
    """Return the banner.

    Args:
        plan: Of the worker.
        topology: Its topology.
        tasks: Names of the tasks it runs.
        pool: The pool in words.
        version: Of amqpq.
    """
    security = topology.security
    signing = "off" if security.signing is None else f"{security.signing.algorithm}, key {security.signing.key_id}"
    facts = {
        "app": plan.reference,
        "transport": ", ".join(masked(url) for url in topology.broker.urls),
        "topology": f"{topology.path or 'given in code'} (project {topology.project}"
        + (f", environment {topology.environment})" if topology.environment else ")"),
        "pool": f"{pool}, prefetch {plan.prefetch} per queue",
        **_limits(plan),
        "signing": f"{signing}; messages must be signed" if security.require == "signed" else f"{signing}; optional",
    }
    lines = ["", f" {plan.name}  amqpq {version}  Python {sys.version.split()[0]}", "", " [config]"]
    lines += [f" .> {name + ':':<12}{value}" for name, value in facts.items()]
    lines += ["", " [queues]"]
    for queue in plan.queues:
        lines += [f" .> {queue:<16} {line}" for line in _bindings(topology, queue)]
        target = topology.dead_letter_of(queue)
        lines.append(f"    {'':<16} dead letters: {target or 'dropped'}")
    lines += ["", " [tasks]", *(f"  . {name}" for name in tasks), ""]
    return "\n".join(lines)


def _limits(plan: WorkerPlan) -> dict[str, str]:
    limits = {"hard": plan.limits.hard, "soft": plan.limits.soft}
    words = [f"{name} time limit {value:g} s" for name, value in limits.items() if value is not None]
    if plan.recycling.tasks is not None:
        words.append(f"{plan.recycling.tasks} tasks per child")
    if plan.recycling.memory_bytes is not None:
        words.append(f"{plan.recycling.memory_bytes / 2**20:.4g} MiB per child")
    return {"limits": ", ".join(words)} if words else {}


def _bindings(topology: Topology, name: str) -> list[str]:
    queue = partitions.logical(topology, name)
    bound = [
        f"exchange={binding.source}({topology.exchanges[binding.source].type}) key={binding.key}"
        for binding in topology.bindings
        if binding.target == queue and not binding.to_exchange and binding.source in topology.exchanges
    ]
    if queue != name:
        bound = [f"exchange={partitions.exchange_name(queue)}({partitions.EXCHANGE_TYPE})"]
    return bound or [f"exchange=(default) key={queue}"]
