"""A topology as an AsyncAPI 3.0 document: who publishes what where, and who takes it, for catalogues and generators.

A route is a channel to which its tasks are sent; a queue is a channel from which they are received (AMQP bindings 0.3.0,
https://github.com/asyncapi/bindings/tree/master/amqp). The format knows no bindings between exchanges and queues, no arguments,
no dead letters: that is what the topology file is for.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from amqpq.convert.objects import Remark, counted, left_out
from amqpq.topology.model import MessageDefaults, Queue, Route, Topology
from amqpq.topology.partitions import hash_exchange, physical_queues, queue_behind
from amqpq.types import PERSISTENT

BINDING: Final = "0.3.0"
CONTENT_TYPES: Final = {
    "json": "application/json",
    "msgpack": "application/x-msgpack",
    "yaml": "application/x-yaml",
    "pickle": "application/x-python-serialize",
}
_TRANSIENT: Final = 1
_FIELD: Final = re.compile(r"\{([^{}]*)\}")


def build(topology: Topology) -> tuple[dict[str, Any], list[Remark]]:
    """Return the document, and what it cannot hold."""
    vhost = _vhost(topology)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for route in topology.routes:
        name = _unique(f"route-{route.pattern}", channels)
        messages[name] = _message(topology.messages, route)
        channels[name] = _route_channel(topology, route, name, vhost)
        operations[f"send-{name}"] = _send(topology.messages, route, name)
    queues = [queue for queue in physical_queues(topology) if queue.manage != "external"]
    for queue in queues:
        name = _unique(f"queue-{queue.name}", channels)
        channels[name] = _queue_channel(queue, vhost)
        operations[f"receive-{name}"] = {
            "action": "receive",
            "channel": _reference("channels", name),
            "bindings": {"amqp": {"ack": True, "bindingVersion": BINDING}},
        }
    document = {
        "asyncapi": "3.0.0",
        "info": {"title": topology.project, "version": "1", "description": "Made of the topology file by amqpq."},
        "defaultContentType": CONTENT_TYPES[topology.messages.serializer],
        "servers": _servers(topology),
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }
    return document, _remarks(topology)


def _servers(topology: Topology) -> dict[str, Any]:
    """Return the nodes of the broker, without user and password."""
    servers = {}
    for number, url in enumerate(topology.broker.urls):
        parts = urlsplit(url)
        host = f"{parts.hostname or 'localhost'}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"
        vhost = parts.path.removeprefix("/")
        servers[f"node{number}"] = {
            "host": host,
            "protocol": parts.scheme,
            "protocolVersion": "0.9.1",
            **({"pathname": f"/{vhost}"} if vhost else {}),
        }
    return servers


def _vhost(topology: Topology) -> str:
    return unquote(urlsplit(topology.broker.urls[0]).path.removeprefix("/")) or "/"


def _message(defaults: MessageDefaults, route: Route) -> dict[str, Any]:
    return {
        "name": route.pattern,
        "title": f"A call of {route.pattern}",
        "contentType": CONTENT_TYPES[route.serializer or defaults.serializer],
        "payload": {
            "description": "Celery protocol 2: positional arguments, keyword arguments, and what follows.",
            "type": "array",
            "items": [{"type": "array"}, {"type": "object"}, {"type": "object"}],
            "minItems": 3,
            "maxItems": 3,
        },
    }


def _route_channel(topology: Topology, route: Route, name: str, vhost: str) -> dict[str, Any]:
    exchange, behind = topology.exchanges.get(route.exchange), queue_behind(topology, route.exchange)
    if exchange is None and behind is not None:
        exchange = hash_exchange(topology.queues[behind])
    spec: dict[str, Any] = {"name": "", "type": "default", "vhost": vhost}
    if exchange is not None:
        spec = {
            "name": exchange.name,
            "type": exchange.type,
            "durable": exchange.durable,
            "autoDelete": exchange.auto_delete,
            "vhost": vhost,
        }
    if behind is not None:
        del spec["type"]  # the binding's schema has no word for it
    fields = _FIELD.findall(route.key)
    channel: dict[str, Any] = {
        "address": route.key or None,
        "messages": {"call": _reference("components", "messages", name)},
        "bindings": {"amqp": {"is": "routingKey", "exchange": spec, "bindingVersion": BINDING}},
    }
    if fields:
        what = "what the * of the pattern matched in the task's name"
        channel["parameters"] = {
            field: {"description": what if field == "task" else f"the keyword argument {field}"} for field in fields
        }
    return channel


def _queue_channel(queue: Queue, vhost: str) -> dict[str, Any]:
    spec = {
        "name": queue.name,
        "durable": queue.durable,
        "exclusive": False,
        "autoDelete": queue.auto_delete,
        "vhost": vhost,
    }
    return {"address": queue.name, "bindings": {"amqp": {"is": "queue", "queue": spec, "bindingVersion": BINDING}}}


def _send(defaults: MessageDefaults, route: Route, name: str) -> dict[str, Any]:
    amqp: dict[str, Any] = {
        "deliveryMode": PERSISTENT if defaults.persistent else _TRANSIENT,
        "mandatory": defaults.mandatory,
        "timestamp": True,
        "bindingVersion": BINDING,
    }
    if route.priority is not None:
        amqp["priority"] = route.priority
    if route.expires_seconds is not None:
        amqp["expiration"] = round(route.expires_seconds * 1000)
    return {"action": "send", "channel": _reference("channels", name), "bindings": {"amqp": amqp}}


def _reference(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}


def _unique(text: str, taken: dict[str, Any]) -> str:
    """Return a name of the letters that AsyncAPI allows, other than those taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def _remarks(topology: Topology) -> list[Remark]:
    remarks = []
    if topology.bindings:
        remarks.append(left_out("bindings", "", f"{counted(len(topology.bindings), 'binding')}: AsyncAPI has none"))
    remarks.append(
        left_out(
            "queues and exchanges", "", "arguments (type, ttl, limits, dead letters, `unrouted`): AsyncAPI has none"
        )
    )
    signed = topology.security.require == "signed"
    if signed:
        remarks.append(left_out("security", "", "messages must be signed, which the document does not say"))
    if topology.delays is not None:
        remarks.append(left_out("delays", "", "the delay ladder"))
    return remarks
