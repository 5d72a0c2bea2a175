"""Notes in the record where queues live that were renamed, and of what type they are there. Blocking."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from amqpq.topology.declarations import Declarations
from amqpq.topology.generations import Generations
from amqpq.transport import declare, flow, register
from amqpq.transport.declare import Difference
from amqpq.transport.interface import Connection
from amqpq.types import QueueSpec

TYPE: Final = "x-queue-type"


def note(
    connection: Connection, project: str, generations: Generations, specs: Iterable[QueueSpec], timeout_seconds: float
) -> Generations:
    """Write the renames down that nobody has noted yet; return the record as it is then. The caller has the project's lock.

    Args:
        connection: Which has the lock.
        project: Whose record.
        generations: Where the queues live.
        specs: The queues as the file wants them, by the names that they have on the broker.
        timeout_seconds: For each answer.
    """
    if not generations.to_note:
        return generations
    noting = typed(connection, generations, specs, timeout_seconds).noting()
    flow.run(register.create(connection.channel(), project), timeout_seconds)
    flow.run(register.put(connection.channel(), project, noting), timeout_seconds)
    return noting


def typed(
    connection: Connection, generations: Generations, specs: Iterable[QueueSpec], timeout_seconds: float
) -> Generations:
    """Return where queues live, with the types of those that nobody has noted: the file may say another one.

    Raises:
        AccessRefused: The user may not declare, which is the only way to ask over AMQP.
    """
    wanted = {spec.name: spec for spec in specs}
    homes = dict(generations.homes)
    for queue in generations.to_note:
        home = homes[queue]
        if home.current in wanted and home.current not in home.types:
            spec = wanted[home.current]
            kind = type_before(spec, compared(connection, spec, timeout_seconds))
            homes[queue] = replace(home, types={**home.types, home.current: kind})
    return replace(generations, homes=MappingProxyType(homes))


def compared(connection: Connection, spec: QueueSpec, timeout_seconds: float) -> tuple[Difference, ...]:
    """Ask the broker how a queue that exists differs from `spec`.

    Raises:
        AmqpqError: It refused for another reason.
    """
    (step,) = flow.run(declare.apply(connection.channel, Declarations((), (spec,), ())), timeout_seconds)
    if step.error is not None and not step.differences:
        raise step.error
    return step.differences


def type_before(spec: QueueSpec, differences: Iterable[Difference]) -> str:
    """Return the type of a queue that differs in this from `spec`."""
    for difference in differences:
        if difference.key == TYPE:
            return "classic" if difference.broker == "none" else difference.broker
    return str(spec.arguments[TYPE])
