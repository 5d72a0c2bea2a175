"""Looks at a broker over AMQP 0-9-1 alone: what exists of what we can name, and the arguments that the broker compares.

It cannot see bindings, policies, consumers, unacknowledged messages, arguments that no kind of queue knows (the broker stores and
never compares them), and objects that nobody names. Those are None in what it returns.
"""

from __future__ import annotations

from amqpq.errors import TransportError
from amqpq.provision.observed import Observed, SeenExchange, SeenQueue
from amqpq.provision.wanted import Wanted
from amqpq.transport import declare
from amqpq.transport.interface import Flow
from amqpq.types import ExchangeSpec, QueueSpec, ServerInfo


def observe(opener: declare.Opener, wanted: Wanted, vhost: str, server: ServerInfo) -> Flow[Observed]:
    """Look at every object that the target names.

    Args:
        opener: Opens a channel.
        wanted: The target.
        vhost: The name of the virtual host, for the plan.
        server: What the broker said of itself.
    """
    specs: list[ExchangeSpec | QueueSpec] = [*wanted.exchanges.values(), *wanted.queues.values()]
    ours = yield from declare.look(opener, specs)
    # What is under `manage: verify` is never declared, not even to compare it.
    others: list[ExchangeSpec | QueueSpec] = [*wanted.expected_exchanges.values(), *wanted.expected_queues.values()]
    theirs = yield from declare.look(opener, others, comparing=False)
    exchanges: dict[str, SeenExchange] = {}
    queues: dict[str, SeenQueue] = {}
    unreadable: dict[str, str] = {}
    asked: list[str] = []
    for spec, each in zip([*specs, *others], (*ours, *theirs), strict=True):
        address = f"exchange {spec.name}" if isinstance(spec, ExchangeSpec) else f"queue {spec.name}"
        asked.append(address)
        if not each.exists:
            continue
        if each.found is None:
            unreadable[address] = _why(each.error)
        if isinstance(spec, ExchangeSpec):
            exchanges[spec.name] = SeenExchange(each.found if isinstance(each.found, ExchangeSpec) else spec)
        else:
            found = each.found if isinstance(each.found, QueueSpec) else spec
            state = each.state
            queues[spec.name] = SeenQueue(
                found, ready=state.messages if state else None, consumers=state.consumers if state else None
            )
    return Observed(
        level="amqp",
        vhost=vhost,
        version=server.version_tuple,
        cluster=server.cluster_name,
        exchanges=exchanges,
        queues=queues,
        asked=frozenset(asked),
        unreadable=unreadable,
    )


def _why(error: TransportError | None) -> str:
    return "only that it exists is asked over AMQP" if error is None else str(error).split("; ", 1)[0]
