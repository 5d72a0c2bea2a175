"""What generated policies make hold, for those that only speak AMQP, which tells of no policies. Blocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from amqpq.provision import journal
from amqpq.topology.declarations import Declarations
from amqpq.transport import declare, flow
from amqpq.transport.declare import Applied, Difference
from amqpq.transport.interface import Connection
from amqpq.types import QueueSpec


def settled(
    applied: Sequence[Applied], wanted: Declarations, connection: Connection, project: str
) -> tuple[Applied, ...]:
    """Return what became of each object; a queue that differs only in what a policy makes hold is as it should be.

    Args:
        applied: What a declaration made of them.
        wanted: What was declared.
        connection: To read the project's manifest with, where something differs.
        project: Whose.
    """
    if not any(step.kind == "queue" and step.differences for step in applied):
        return tuple(applied)
    carried = journal.read(connection, project).carried
    specs = {spec.name: spec for spec in wanted.queues}
    return tuple(
        replace(step, result="present", error=None, differences=())
        if step.kind == "queue" and step.name in specs and _made_to_hold(specs[step.name], step.differences, carried)
        else step
        for step in applied
    )


def compare(wanted: Declarations, connection: Connection, project: str, timeout_seconds: float) -> None:
    """Compare queues with the file, without changing one.

    Raises:
        PreconditionFailed: Some differ in what no policy makes hold, as far as the project's last apply has noted it.
    """
    answers = flow.run(declare.compare(connection.channel, wanted), timeout_seconds)
    declare.demand(settled(answers, wanted, connection, project))


def _made_to_hold(spec: QueueSpec, differences: Sequence[Difference], carried: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether policies make the file's value hold of all in which a queue differs."""
    says = carried.get(spec.name, {})
    same = (each.key in says and says[each.key] == spec.arguments.get(each.key) for each in differences)
    return bool(differences) and all(same)
