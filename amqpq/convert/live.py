"""The objects of a virtual host, from the broker's management API.

Per-object endpoints rather than `/api/definitions`: those ask for the tag `management` only, not for `administrator`, and say
`internal` of an exchange, which definitions of some versions do not (https://www.rabbitmq.com/docs/management#permissions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from amqpq.convert import definitions
from amqpq.convert.objects import Objects, Remark, left_out
from amqpq.errors import AmqpqError, LocalError
from amqpq.types import ServerInfo

QUEUE_COLUMNS: Final = "name,type,durable,exclusive,auto_delete,arguments"
"""Without them the broker gathers statistics of every queue."""


def read(get: Callable[[str], Any], vhost: str) -> Objects:
    """Read a virtual host.

    Args:
        get: Fetches a path below `/api/` and returns the decoded answer.
        vhost: Its name.

    Raises:
        AmqpqError: Exchanges, queues or bindings cannot be read.
    """
    name = quote(vhost, safe="")
    exchanges = tuple(definitions.exchange_of(row) for row in _rows(get, f"exchanges/{name}"))
    queues = tuple(definitions.queue_of(row) for row in _rows(get, f"queues/{name}?columns={QUEUE_COLUMNS}"))
    bindings = tuple(definitions.binding_of(row) for row in _rows(get, f"bindings/{name}"))
    remarks: list[Remark] = []
    policies = tuple(definitions.policy_of(row) for row in _allowed(get, f"policies/{name}", "policies", remarks))
    operators = _allowed(get, f"operator-policies/{name}", "operator policies", remarks)
    remarks += [left_out("operator policy", str(row["name"]), "it belongs to who runs the broker") for row in operators]
    overview = get("overview")
    version = overview.get("rabbitmq_version") if isinstance(overview, dict) else None
    return Objects(
        vhost=vhost,
        exchanges=tuple(exchange for exchange in exchanges if exchange.name),  # the default one is not declared
        queues=queues,
        bindings=tuple(binding for binding in bindings if binding.source),
        policies=policies,
        version=None if version is None else ServerInfo("RabbitMQ", str(version)).version_tuple,
        remarks=tuple(remarks),
    )


def _rows(get: Callable[[str], Any], path: str) -> list[Mapping[str, Any]]:
    rows = get(path)
    if not isinstance(rows, list):
        raise LocalError(f"the management API answered {path.partition('?')[0]} with something that is no list")
    return rows


def _allowed(get: Callable[[str], Any], path: str, what: str, remarks: list[Remark]) -> list[Mapping[str, Any]]:
    """Read what a user of little permission may not; what cannot be read is said, never taken for empty."""
    try:
        return _rows(get, path)
    except AmqpqError as error:
        remarks.append(Remark("note", what, "", f"could not be read: {error}"))
        return []
