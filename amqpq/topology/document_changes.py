"""The shape of what a file says of objects that it has no more, or has under another name: `moved` and `decommission`."""

from __future__ import annotations

from pydantic import Field

from amqpq.topology.document_part import Part


class MovedPart(Part):
    """A rename."""

    from_: str = Field(alias="from", description="The old address, e.g. exchange.order, queue.mail.")
    to: str = Field(description="The new address.")


class DecommissionPart(Part):
    """What is to go: unbound by the next plan, deleted by a later one, with proof."""

    queues: list[str] = Field(default_factory=list, description="Queues that are to go; none of them under `queues`.")
    exchanges: list[str] = Field(
        default_factory=list, description="Exchanges that are to go; none of them under `exchanges`."
    )
