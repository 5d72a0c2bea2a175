"""Looks at a virtual host over the HTTP API: all there is in it, with the tag `management` and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from amqpq.errors import AccessRefused, ConfigurationError
from amqpq.management import BindingInfo, ExchangeInfo, Management, Overview, PolicyInfo, QueueInfo
from amqpq.provision.observed import Observed, SeenConsumer, SeenExchange, SeenPolicy, SeenQueue
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, ServerInfo

_WRITERS: Final = frozenset({"policymaker", "administrator"})
"""Tags of users that may write policies."""


def observe(api: Management, vhost: str, *, server: ServerInfo | None = None) -> Observed:
    """Read everything in a virtual host.

    Args:
        api: The client.
        vhost: Its name.
        server: What the broker said of itself over AMQP; the API must speak of the same one.

    Raises:
        ConfigurationError: The API belongs to another cluster than the broker.
        TransportError: What `Management` raises.
    """
    overview = _overview(api, server)
    unreadable: dict[str, str] = {}
    tags = frozenset(api.whoami().tags)
    exchanges = {found.name: _exchange(found) for found in api.exchanges(vhost)}
    queues = {found.name: _queue(found) for found in api.queues(vhost)}
    bindings = tuple(_binding(found) for found in api.bindings(vhost))
    return Observed(
        level="http",
        vhost=vhost,
        version=_version(overview.version),
        cluster=overview.cluster_name,
        exchanges=exchanges,
        queues=queues,
        bindings=bindings,
        policies=_policies(api.policies(vhost)),
        operator_policies=_operators(api, vhost, unreadable),
        consumers=tuple(_consumers(api.consumers(vhost))),
        may_write_policies=not tags.isdisjoint(_WRITERS),
        unreadable=unreadable,
    )


def existing(api: Management, vhost: str, server: ServerInfo) -> Callable[[ExchangeSpec | QueueSpec], bool]:
    """Ask for all names at once; return what tells whether an object exists. Raises what `observe` does."""
    _overview(api, server)
    exchanges, queues = api.names("exchanges", vhost), api.names("queues", vhost)
    return lambda spec: spec.name in (exchanges if isinstance(spec, ExchangeSpec) else queues)


def _overview(api: Management, server: ServerInfo | None) -> Overview:
    overview = api.overview()
    if server is not None and server.cluster_name and server.cluster_name != overview.cluster_name:
        raise ConfigurationError(
            f"broker.management ({api.where}) belongs to the cluster '{overview.cluster_name}', and broker.url to "
            f"'{server.cluster_name}'; name the API of the same broker ($AMQPQ_MANAGEMENT_URL overrides the file)"
        )
    return overview


def _operators(api: Management, vhost: str, unreadable: dict[str, str]) -> tuple[SeenPolicy, ...] | None:
    try:
        return _policies(api.operator_policies(vhost))
    except AccessRefused as error:
        unreadable["operator policies"] = str(error)
        return None


def _exchange(found: ExchangeInfo) -> SeenExchange:
    spec = ExchangeSpec(
        name=found.name,
        type=found.type,
        durable=found.durable,
        auto_delete=found.auto_delete,
        internal=found.internal,
        arguments=found.arguments,
    )
    return SeenExchange(spec, found.policy)


def _queue(found: QueueInfo) -> SeenQueue:
    # A classic queue that was declared without the argument has none; the broker takes the two for the same.
    arguments: dict[str, Any] = {"x-queue-type": found.type, **found.arguments}
    spec = QueueSpec(
        name=found.name,
        durable=found.durable,
        exclusive=found.exclusive,
        auto_delete=found.auto_delete,
        arguments=arguments,
    )
    return SeenQueue(
        spec,
        policy=found.policy,
        operator_policy=found.operator_policy,
        state=found.state,
        ready=found.ready,
        unacknowledged=found.unacknowledged,
    )


def _binding(found: BindingInfo) -> BindingSpec:
    return BindingSpec(found.source, found.target, found.key, found.to_exchange, found.arguments)


def _policies(found: Iterable[PolicyInfo]) -> tuple[SeenPolicy, ...]:
    return tuple(SeenPolicy(p.name, p.pattern, p.apply_to, p.priority, p.definition) for p in found)


def _consumers(found: Iterable[Mapping[str, Any]]) -> Iterable[SeenConsumer]:
    for each in found:
        details = each.get("channel_details") or {}
        queue = (each.get("queue") or {}).get("name")
        if queue:
            yield SeenConsumer(
                queue=queue,
                tag=str(each.get("consumer_tag", "")),
                user=str(details.get("user", "")),
                connection=str(details.get("connection_name", "")),
            )


def _version(text: str) -> tuple[int, int, int]:
    return ServerInfo("RabbitMQ", text).version_tuple
