"""The objects of RabbitMQ's HTTP API, as a client asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from amqpq.errors import ObjectNotFound, PreconditionFailed, TransportError
from amqpq.management import values
from amqpq.management.calls import Calls
from amqpq.management.values import BindingInfo, ExchangeInfo, Overview, PolicyInfo, QueueInfo, User
from amqpq.types import Json, Table

PAGE: Final = 500
"""Queues asked for at a time; the API allows no more."""
_FRESH: Final = {"disable_stats": "true", "enable_queue_totals": "true"}
"""Without statistics an answer comes from the metadata, at once and complete; with them it lags."""


class Management(Calls):
    """The HTTP API of one broker. Use it as a context manager, or call `close`.

    Every method raises:
        BrokerUnreachable: Nobody answers there, or the connection broke.
        AuthenticationRefused: User or password are wrong.
        AccessRefused: The user lacks a tag, or a permission in the virtual host.
        ObjectNotFound: There is no such object, or what answers there is no RabbitMQ.
        PreconditionFailed: The broker does not take what was sent; with its reason.
        OperationTimeout: No answer in time.
        TransportError: Anything else that is no proper answer.
    """

    # ------------------------------------------------------------------------------------------------------- reading

    def overview(self) -> Overview:
        """Read the version and the name of the cluster."""
        found = self._object("overview")
        kinds = found.get("exchange_types") or []
        return Overview(
            version=str(found.get("rabbitmq_version", "")),
            cluster_name=str(found.get("cluster_name", "")),
            node=str(found.get("node", "")),
            exchange_types=tuple(str(kind.get("name")) for kind in kinds),
        )

    def whoami(self) -> User:
        """Read our own name and tags."""
        found = self._object("whoami")
        tags = found.get("tags") or []
        # 3.10 and later answer with a list; what some proxies and older plugins cache is text.
        return User(str(found.get("name")), tuple(tags.split(",")) if isinstance(tags, str) else tuple(tags))

    def exchanges(self, vhost: str) -> tuple[ExchangeInfo, ...]:
        """Read all exchanges, the broker's own included."""
        return tuple(values.exchange(found) for found in self._list("exchanges", vhost))

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        """Read all queues: page by page, without statistics but with the totals of messages."""
        return tuple(values.queue(found) for found in self._pages("queues", vhost))

    def names(self, kind: Literal["exchanges", "queues"], vhost: str) -> frozenset[str]:
        """Read the names of all exchanges or queues, and nothing else of them."""
        return frozenset(found["name"] for found in self._list(kind, vhost, query={**_FRESH, "columns": "name"}))

    def queue(self, vhost: str, name: str) -> QueueInfo:
        """Read one queue, with its consumers and what its policies amount to."""
        return values.queue(self._object("queues", vhost, name))

    def bindings(self, vhost: str) -> tuple[BindingInfo, ...]:
        """Read all bindings but those of the default exchange, which every queue has."""
        return tuple(values.binding(found) for found in self._list("bindings", vhost) if found.get("source"))

    def consumers(self, vhost: str) -> tuple[Table, ...]:
        """Read all consumers, as the API gives them (`queue.name`, `consumer_tag`, `channel_details`)."""
        return tuple(self._list("consumers", vhost))

    def connection_label(self, name: str) -> str:
        """Read what a connection calls itself, by the name that the broker gave it; empty where it does not."""
        properties = self._object("connections", name).get("client_properties") or {}
        return str(properties.get("connection_name") or "")

    def policies(self, vhost: str) -> tuple[PolicyInfo, ...]:
        """Read all policies of users."""
        return tuple(values.policy(found) for found in self._list("policies", vhost))

    def operator_policies(self, vhost: str) -> tuple[PolicyInfo, ...]:
        """Read all operator policies."""
        return tuple(values.policy(found) for found in self._list("operator-policies", vhost))

    def parameters(self, component: str, vhost: str) -> tuple[Table, ...]:
        """Read the parameters of a component (`shovel`, `federation-upstream`); needs the tag policymaker."""
        return tuple(self._list("parameters", component, vhost))

    def global_parameter(self, name: str) -> Json | None:
        """Read a global parameter, None where there is none; needs the tag policymaker."""
        try:
            found = self._object("global-parameters", name)
        except ObjectNotFound:
            return None
        value: Json = found.get("value")
        return value

    def definitions(self, vhost: str | None = None) -> Table:
        """Read all definitions, of the cluster or of one virtual host; needs the tag administrator."""
        return self._object("definitions", *(() if vhost is None else (vhost,)))

    # ------------------------------------------------------------------------------------------------------- writing

    def put_policy(self, vhost: str, policy: PolicyInfo) -> None:
        """Create a policy, or replace it; needs the tag policymaker."""
        body: dict[str, Json] = {
            "pattern": policy.pattern,
            "apply-to": policy.apply_to,
            "priority": policy.priority,
            "definition": dict(policy.definition),
        }
        self.request("PUT", "policies", vhost, policy.name, body=body)

    def delete_policy(self, vhost: str, name: str) -> None:
        """Delete a policy; needs the tag policymaker."""
        self.request("DELETE", "policies", vhost, name)

    def put_global_parameter(self, name: str, value: Json) -> None:
        """Set a global parameter; needs the tag policymaker."""
        self.request("PUT", "global-parameters", name, body={"name": name, "value": value})

    def delete_global_parameter(self, name: str) -> None:
        """Delete a global parameter; needs the tag policymaker."""
        self.request("DELETE", "global-parameters", name)

    # ------------------------------------------------------------------------------------------------------- answers

    def _object(self, *path: str) -> dict[str, Any]:
        found = self.request("GET", *path)
        if not isinstance(found, dict):
            raise TransportError(f"{self.where} answers GET /api/{'/'.join(path)} with no object")
        return found

    def _list(self, *path: str, query: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        found = self.request("GET", *path, query=query)
        if not isinstance(found, list):
            raise TransportError(f"{self.where} answers GET /api/{'/'.join(path)} with no list")
        return found

    def _pages(self, *path: str) -> Iterator[dict[str, Any]]:
        page = pages = 1
        while page <= pages:
            query = {**_FRESH, "pagination": "true", "page": str(page), "page_size": str(PAGE)}
            try:
                found = self.request("GET", *path, query=query)
            except PreconditionFailed as error:
                if page > 1 and "page_out_of_range" in str(error):
                    return  # objects went away while we were reading
                raise
            yield from found.get("items", [])
            pages = int(found.get("page_count", 1))
            page += 1
