"""A topology as resources of RabbitMQ's messaging topology operator for Kubernetes, one document for each object.

Resources of `rabbitmq.com/v1beta1` (https://www.rabbitmq.com/kubernetes/operator/using-topology-operator). Queues and exchanges
are immutable there; deleting a resource would delete its queue with all messages, so queues have `deletionPolicy: retain`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from amqpq.convert import definitions, text
from amqpq.convert.objects import Remark, left_out
from amqpq.topology.model import Topology

API: Final = "rabbitmq.com/v1beta1"
NAME_LENGTH: Final = 63
"""Of a resource; more is allowed to some kinds, but not in labels."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the resources belong: the RabbitmqCluster, its namespace if it is another one, and the virtual host."""

    cluster: str = "rabbitmq"
    namespace: str | None = None
    vhost: str = "/"


def build(topology: Topology, place: Place) -> tuple[list[dict[str, Any]], list[Remark]]:
    """Return the resources, and what they cannot hold."""
    objects, remarks = definitions.build(topology)
    resources = [
        _resource("Exchange", f"{topology.project}-exchange-{row['name']}", _exchange(row), place)
        for row in objects["exchanges"]
    ]
    resources += [
        _resource("Queue", f"{topology.project}-queue-{row['name']}", _queue(row), place) for row in objects["queues"]
    ]
    resources += [
        _resource("Binding", f"{topology.project}-binding-{row['source']}-{row['destination']}", _binding(row), place)
        for row in objects["bindings"]
    ]
    remarks += [
        left_out(
            "exchange", row["name"], "`internal: true`: the operator's Exchange has no such field, it would be public"
        )
        for row in objects["exchanges"]
        if row["internal"]
    ]
    return resources, remarks


def write(resources: list[dict[str, Any]]) -> str:
    """Write the resources as one YAML stream."""
    return "".join(f"---\n{text.block(resource)}" for resource in resources)


def _resource(kind: str, name: str, spec: dict[str, Any], place: Place) -> dict[str, Any]:
    reference = {"name": place.cluster} | ({} if place.namespace is None else {"namespace": place.namespace})
    spec = {"vhost": place.vhost, **spec, "rabbitmqClusterReference": reference}
    return {"apiVersion": API, "kind": kind, "metadata": {"name": resource_name(name, spec)}, "spec": spec}


def resource_name(words: str, spec: Mapping[str, Any]) -> str:
    """Return a name as Kubernetes takes it; a digest keeps apart what would be the same in its few letters."""
    digest = hashlib.blake2b(repr(sorted(spec.items(), key=str)).encode(), digest_size=4).hexdigest()
    plain = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return f"{plain[: NAME_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"


def _exchange(row: Mapping[str, Any]) -> dict[str, Any]:
    spec = {"name": row["name"], "type": row["type"], "durable": row["durable"], "autoDelete": row["auto_delete"]}
    return spec | _arguments(row["arguments"])


def _queue(row: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(row["arguments"])
    kind = arguments.pop("x-queue-type")
    spec = {"name": row["name"], "type": kind, "durable": row["durable"], "autoDelete": row["auto_delete"]}
    return spec | _arguments(arguments) | {"deletionPolicy": "retain"}


def _binding(row: Mapping[str, Any]) -> dict[str, Any]:
    spec = {"source": row["source"], "destination": row["destination"], "destinationType": row["destination_type"]}
    return spec | {"routingKey": row["routing_key"]} | _arguments(row["arguments"])


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"arguments": dict(arguments)} if arguments else {}
