"""RabbitMQ's definitions: the JSON that `rabbitmqctl export_definitions` and the management API write and read.

There are two forms (https://www.rabbitmq.com/docs/definitions): that of a cluster, where each object names its virtual host, and
that of one virtual host, where none does. Both are read; the second is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from amqpq.convert.objects import Objects, Policy, Remark, binding_name, counted, left_out, with_voids
from amqpq.errors import LocalError
from amqpq.topology.declarations import declarations
from amqpq.topology.model import Topology
from amqpq.topology.permits import permit_queues
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, ServerInfo

SECTIONS: Final = ("exchanges", "queues", "bindings", "policies", "parameters")
_NOT_TOPOLOGY: Final = {
    "users": "user",
    "permissions": "permission",
    "topic_permissions": "topic permission",
    "global_parameters": "global parameter",
}


# ------------------------------------------------------------------------------------------------------------- reading


def parse(text: str, vhost: str | None = None) -> Objects:
    """Read definitions.

    Args:
        text: The JSON.
        vhost: Which virtual host is wanted; needed where the definitions are of several.

    Raises:
        LocalError: This is not JSON, no definitions, or it does not say which virtual host is meant.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise LocalError(f"this is not JSON: {error}; export with `rabbitmqctl export_definitions FILE`") from error
    if not isinstance(data, dict) or not any(name in data for name in SECTIONS):
        raise LocalError("these are no definitions: no exchanges, queues or bindings in them")
    return objects_of(data, _chosen(data, vhost))


def _chosen(data: Mapping[str, Any], wanted: str | None) -> str | None:
    """Return the virtual host to read, None for the form that names none."""
    rows = [row for name in SECTIONS for row in _rows(data, name)]
    named = {str(row["vhost"]) for row in rows if "vhost" in row}
    listed = {str(row.get("name")) for row in _rows(data, "vhosts")}
    known = sorted(named | listed)
    if not known:
        return None
    if wanted is not None:
        if wanted not in known:
            raise LocalError(f"the definitions have no virtual host '{wanted}'; they have: {', '.join(known)}")
        return wanted
    if len(known) == 1 or len(named) == 1:
        return known[0] if len(known) == 1 else next(iter(named))
    raise LocalError(f"the definitions are of {len(known)} virtual hosts; name one with --vhost: {', '.join(known)}")


def _rows(data: Mapping[str, Any], section: str) -> list[Mapping[str, Any]]:
    rows = data.get(section)
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LocalError(f"these are no definitions: `{section}` is not a list of objects")
    return rows


def objects_of(data: Mapping[str, Any], vhost: str | None) -> Objects:
    """Return what definitions hold of a virtual host; None where they name none.

    Raises:
        LocalError: An object lacks what every object has.
    """
    rows = {name: [row for row in _rows(data, name) if vhost is None or row.get("vhost") == vhost] for name in SECTIONS}
    try:
        exchanges = tuple(exchange_of(row) for row in rows["exchanges"])
        queues = tuple(queue_of(row) for row in rows["queues"])
        bindings, remarks = with_voids(binding_of(row) for row in rows["bindings"])
        policies = tuple(policy_of(row) for row in rows["policies"])
    except (KeyError, TypeError, ValueError) as error:
        raise LocalError(f"these are no definitions: an object has no proper {error}") from error
    remarks += [_parameter(row) for row in rows["parameters"]]
    remarks += [
        left_out(noun, "", f"{counted(len(found), noun)}: not part of a topology")
        for section, noun in _NOT_TOPOLOGY.items()
        if (found := [row for row in _rows(data, section) if vhost is None or row.get("vhost", vhost) == vhost])
    ]
    version = data.get("rabbitmq_version", data.get("rabbit_version"))
    return Objects(
        vhost=vhost or str(data.get("original_vhost_name", "/")),
        exchanges=exchanges,
        queues=queues,
        bindings=bindings,
        policies=policies,
        version=None if version is None else ServerInfo("RabbitMQ", str(version)).version_tuple,
        remarks=tuple(remarks),
    )


def exchange_of(row: Mapping[str, Any]) -> ExchangeSpec:
    """Read one exchange, of definitions or of the management API."""
    return ExchangeSpec(
        name=str(row["name"]),
        type=str(row["type"]),
        durable=bool(row.get("durable", True)),
        auto_delete=bool(row.get("auto_delete", False)),
        internal=bool(row.get("internal", False)),
        arguments=_arguments(row),
    )


def queue_of(row: Mapping[str, Any]) -> QueueSpec:
    """Read one queue, of definitions or of the management API."""
    arguments = _arguments(row)
    # Later versions state the type beside the arguments as well; an older one may have it there alone.
    kind = row.get("type")
    if "x-queue-type" not in arguments and isinstance(kind, str) and kind != "classic":
        arguments = {"x-queue-type": kind, **arguments}
    return QueueSpec(
        name=str(row["name"]),
        durable=bool(row.get("durable", True)),
        exclusive=bool(row.get("exclusive", False)),
        auto_delete=bool(row.get("auto_delete", False)),
        arguments=arguments,
    )


def binding_of(row: Mapping[str, Any]) -> BindingSpec:
    """Read one binding, of definitions or of the management API."""
    return BindingSpec(
        source=str(row["source"]),
        target=str(row["destination"]),
        key=str(row.get("routing_key", "")),
        to_exchange=row["destination_type"] == "exchange",
        arguments=_arguments(row),
    )


def policy_of(row: Mapping[str, Any]) -> Policy:
    """Read one policy, of definitions or of the management API."""
    return Policy(
        name=str(row["name"]),
        pattern=str(row["pattern"]),
        apply_to=str(row.get("apply-to", "all")),
        priority=int(row.get("priority", 0)),
        definition=dict(row["definition"]),
    )


def _arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    # The management plugin of some versions writes an empty table as an empty list.
    return dict(row.get("arguments") or {})


def _parameter(row: Mapping[str, Any]) -> Remark:
    component, name = str(row.get("component", "parameter")), str(row.get("name", ""))
    if component == "operator_policy":
        return left_out(
            "operator policy", name, "it belongs to who runs the broker; amqpq reads it and never writes it"
        )
    return left_out(f"{component} parameter", name, "the topology file has no place for it")


# ------------------------------------------------------------------------------------------------------------- writing


def build(topology: Topology) -> tuple[dict[str, Any], list[Remark]]:
    """Return what an apply would declare as the definitions of one virtual host, and what they cannot hold."""
    wanted = declarations(topology)
    permits = dict(permit_queues(topology))
    named: list[tuple[str, str, ExchangeSpec | QueueSpec | BindingSpec]] = [
        *(("exchange", spec.name, spec) for spec in wanted.exchanges),
        *(("queue", spec.name, spec) for spec in wanted.queues),
        *(("binding", binding_name(spec), spec) for spec in wanted.bindings),
    ]
    voids = [(what, name) for what, name, spec in named if _has_void(spec.arguments)]
    definitions = {
        "exchanges": [
            {
                "name": exchange.name,
                "type": exchange.type,
                "durable": exchange.durable,
                "auto_delete": exchange.auto_delete,
                "internal": exchange.internal,
                "arguments": dict(exchange.arguments),
            }
            for exchange in wanted.exchanges
            if not _has_void(exchange.arguments)
        ],
        "queues": [
            {
                "name": queue.name,
                "durable": queue.durable,
                "auto_delete": queue.auto_delete,
                "arguments": dict(queue.arguments),
            }
            for queue in wanted.queues
            if queue.name not in permits and not _has_void(queue.arguments)
        ],
        "bindings": [
            {
                "source": binding.source,
                "destination": binding.target,
                "destination_type": "exchange" if binding.to_exchange else "queue",
                "routing_key": binding.key,
                "arguments": dict(binding.arguments),
            }
            for binding in wanted.bindings
            if not _has_void(binding.arguments)
        ],
        "policies": [],
    }
    why = "an argument is null, which RabbitMQ refuses over HTTP, with all the rest; `amqpq topology apply` declares it"
    return definitions, [*unheld(topology), *_permit_remarks(permits), *(left_out(*each, why) for each in voids)]


def _has_void(value: object) -> bool:
    """Whether there is a null in it: the broker answers 400 `null_not_allowed` to all definitions then (measured on 3.10.8)."""
    if isinstance(value, Mapping):
        return any(_has_void(item) for item in value.values())
    return value is None or (isinstance(value, list) and any(_has_void(item) for item in value))


def unheld(topology: Topology) -> list[Remark]:
    """Return remarks on what no format for the broker's objects takes along: what belongs to others, and what tasks need."""
    remarks = [
        left_out(kind, thing.name, f"`manage: {thing.manage}`: somebody else declares it")
        for kind, things in (("exchange", topology.exchanges), ("queue", topology.queues))
        for thing in things.values()
        if thing.manage != "full"
    ]
    words = (
        "what tasks need beyond the broker's objects (routes, messages, retries, security) stays in the topology file"
    )
    return [*remarks, Remark("note", "project", topology.project, words)]


def _permit_remarks(permits: Mapping[str, int]) -> list[Remark]:
    """A limit's queue holds messages, which definitions do not; created without them it would never let a task begin."""
    if not permits:
        return []
    words = (
        f"{counted(len(permits), 'permit queue')}: they hold messages; `amqpq topology apply` creates and fills them"
    )
    return [left_out("limits", "", words)]
