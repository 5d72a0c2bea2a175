"""The objects of a virtual host, from the broker's management API.

Object by object rather than `/api/definitions`: that asks for the tag `administrator`, where these ask for `management`, and does
not say `internal` of an exchange in every version (https://www.rabbitmq.com/docs/management#permissions).
"""

from __future__ import annotations

from collections.abc import Callable

from amqpq.convert.objects import Objects, Policy, Remark, left_out, with_voids
from amqpq.errors import AccessRefused
from amqpq.management import Management, PolicyInfo
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, ServerInfo


def read(management: Management, vhost: str) -> Objects:
    """Read a virtual host.

    Args:
        management: A client of the management API; its user needs the tag `management`.
        vhost: Its name.

    Raises:
        TransportError: Exchanges, queues or bindings cannot be read.
    """
    bindings, remarks = with_voids(
        BindingSpec(found.source, found.target, found.key, found.to_exchange, found.arguments)
        for found in management.bindings(vhost)
    )
    return Objects(
        vhost=vhost,
        # The default exchange has an empty name, and is not declared by anybody.
        exchanges=tuple(
            ExchangeSpec(found.name, found.type, found.durable, found.auto_delete, found.internal, found.arguments)
            for found in management.exchanges(vhost)
            if found.name
        ),
        queues=tuple(
            QueueSpec(
                name=found.name,
                durable=found.durable,
                exclusive=found.exclusive,
                auto_delete=found.auto_delete,
                arguments=found.arguments
                if found.type == "classic"
                else {"x-queue-type": found.type, **found.arguments},
            )
            for found in management.queues(vhost)
        ),
        bindings=bindings,
        policies=tuple(
            Policy(found.name, found.pattern, found.apply_to, found.priority, found.definition)
            for found in _allowed(management.policies, vhost, "policies", remarks)
        ),
        version=ServerInfo("RabbitMQ", management.overview().version).version_tuple,
        remarks=(
            *(
                left_out("operator policy", found.name, "it belongs to who runs the broker")
                for found in _allowed(management.operator_policies, vhost, "operator policies", remarks)
            ),
            *remarks,
        ),
    )


def _allowed(
    read_them: Callable[[str], tuple[PolicyInfo, ...]], vhost: str, what: str, remarks: list[Remark]
) -> tuple[PolicyInfo, ...]:
    """Read what a user of little permission may not; what cannot be read is said, never taken for none."""
    try:
        return read_them(vhost)
    except AccessRefused as error:
        remarks.append(Remark("note", what, "", f"could not be read: {error}"))
        return ()
