"""Looks at queues and bindings over AMQP 1.0 management: RabbitMQ 4 answers that on its ordinary port, without a plugin.

It tells the type and all arguments of a queue, and the bindings that have a source, a target and a key. So the bindings of the
file are known, there or missing, and nothing has to be declared in order to compare a queue. It lists nothing, has no path
for exchanges, and cannot see policies, consumers, unacknowledged messages and what nobody names; exchanges are looked at
over AMQP 0-9-1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from amqpq.errors import AccessRefused, ConfigurationError, TransportError
from amqpq.provision.observed import Observed, SeenQueue, address_of_binding
from amqpq.provision.wanted import Wanted
from amqpq.transport.management_node import NOT_FOUND, OK, Answer, bindings_path, queue_path
from amqpq.types import BindingSpec, QueueSpec, ServerInfo

SINCE: Final = (4, 0, 0)
"""RabbitMQ's first version with a management node (https://www.rabbitmq.com/docs/amqp#management)."""


class Node(Protocol):
    """`amqpq.transport.management_node.ManagementNode`, or what a test puts in its place."""

    server: ServerInfo

    def ask(self, paths: Sequence[str]) -> list[Answer | AccessRefused]:
        """GET each path."""


def exchanges_alone(wanted: Wanted) -> Wanted:
    """Return the target without its queues: what is left to look at over AMQP 0-9-1."""
    return replace(wanted, queues={}, expected_queues={})


def observe(node: Node, wanted: Wanted, exchanges: Observed) -> Observed:
    """Look at every queue and binding that the target names.

    Args:
        node: The management node.
        wanted: The target.
        exchanges: What AMQP 0-9-1 told of the target's exchanges.

    Raises:
        ConfigurationError: The node belongs to another cluster.
        TransportError: What `ManagementNode.ask` raises, or an answer that says something else than it should.
    """
    _demand_same(node.server, exchanges)
    queues: dict[str, SeenQueue] = {}
    unreadable: dict[str, str] = {}
    specs = {**wanted.expected_queues, **wanted.queues}
    for spec, answer in zip(specs.values(), node.ask([queue_path(name) for name in specs]), strict=True):
        if isinstance(answer, Answer) and answer.status == NOT_FOUND:
            continue
        if isinstance(answer, Answer) and answer.status == OK:
            queues[spec.name] = _queue(spec.name, answer.body)
        else:
            queues[spec.name] = SeenQueue(spec)
            unreadable[f"queue {spec.name}"] = _why(answer)
    asked = frozenset(f"queue {name}" for name in specs) | (exchanges.asked or frozenset())
    seen = replace(exchanges, level="amqp1.0", queues=queues, asked=asked)
    bindings, unknown = _bindings(node, wanted.declarations.bindings, seen)
    return replace(seen, bindings=bindings, unreadable={**exchanges.unreadable, **unreadable, **unknown})


def _demand_same(server: ServerInfo, exchanges: Observed) -> None:
    if server.cluster_name and exchanges.cluster and server.cluster_name != exchanges.cluster:
        raise ConfigurationError(
            f"broker.url leads to two clusters: over AMQP 0-9-1 to '{exchanges.cluster}', over AMQP 1.0 to "
            f"'{server.cluster_name}'; name the nodes of one"
        )


def _queue(name: str, body: Any) -> SeenQueue:
    try:
        # A classic queue that was declared without the argument has none; the broker takes the two for the same.
        arguments = {"x-queue-type": str(body["type"]), **body["arguments"]}
        flags = {flag: bool(body[flag]) for flag in ("durable", "exclusive", "auto_delete")}
    except (KeyError, TypeError) as error:
        raise TransportError(f"what AMQP 1.0 management says of queue '{name}' cannot be read: {error!r}") from error
    spec = QueueSpec(name, arguments=arguments, **flags)
    return SeenQueue(spec, ready=body.get("message_count"), consumers=body.get("consumer_count"))


def _bindings(
    node: Node, wanted: Sequence[BindingSpec], seen: Observed
) -> tuple[tuple[BindingSpec, ...], dict[str, str]]:
    """Ask for the bindings of the file that can exist; return those that do, and which could not be asked for, and why."""
    by_path: dict[str, list[BindingSpec]] = {}
    for binding in wanted:
        if _may_exist(binding, seen):
            by_path.setdefault(bindings_path(binding), []).append(binding)
    found: list[BindingSpec] = []
    unreadable: dict[str, str] = {}
    for same, answer in zip(by_path.values(), node.ask(list(by_path)), strict=True):
        if isinstance(answer, Answer) and answer.status in {OK, NOT_FOUND}:
            found += _told(same[0], answer)
        else:
            unreadable |= {f"binding {address_of_binding(binding)}": _why(answer) for binding in same}
    return tuple(found), unreadable


def _may_exist(binding: BindingSpec, seen: Observed) -> bool:
    """Whether both ends are there, as far as anybody looked."""
    target = f"{'exchange' if binding.to_exchange else 'queue'} {binding.target}"
    asked = seen.asked or frozenset()
    there = {f"exchange {name}" for name in (binding.source, binding.target) if name in seen.exchanges}
    there |= {f"queue {binding.target}"} if binding.target in seen.queues else set()
    return all(end in there or end not in asked for end in (f"exchange {binding.source}", target))


def _told(asked: BindingSpec, answer: Answer) -> Iterator[BindingSpec]:
    """Read the bindings of one source, target and key; they differ in their arguments."""
    if answer.status == NOT_FOUND:
        return
    try:
        for each in answer.body:
            yield replace(asked, arguments=dict(each["arguments"]))
    except (KeyError, TypeError, ValueError) as error:
        address = address_of_binding(asked)
        raise TransportError(f"what AMQP 1.0 management says of {address} cannot be read: {error!r}") from error


def _why(answer: Answer | AccessRefused) -> str:
    if isinstance(answer, AccessRefused):
        return str(answer)
    return f"over AMQP 1.0 the broker answers {answer.status}: {answer.body}"
