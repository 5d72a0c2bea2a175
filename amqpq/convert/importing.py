"""From the objects of a virtual host to a topology file, with a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amqpq.convert import folding, text
from amqpq.convert.fitting import fit
from amqpq.convert.objects import Objects, Remark, by_kind, counted
from amqpq.convert.values import escaped
from amqpq.topology.declarations import declarations
from amqpq.topology.model import Topology


@dataclass(frozen=True, slots=True)
class Imported:
    """A topology file that lint passes: as text, as plain data, as values; and what it does not hold."""

    text: str
    tree: dict[str, Any]
    topology: Topology
    remarks: tuple[Remark, ...]


def from_objects(found: Objects, *, source: str, project: str | None = None) -> Imported:
    """Return the topology file for the objects of a virtual host.

    Args:
        found: The objects.
        source: Where they come from, for the file's first line.
        project: The name of the project; without it that of the delay ladder which is there, else the virtual host's.

    Raises:
        LocalError: The name is none for a project.
    """
    folded = folding.fold(found, project or folding.default_project(found))
    return finished(folded, source=source, found=found)


def finished(folded: folding.Folded, *, source: str, found: Objects | None = None) -> Imported:
    """Fit a folded file to what lint accepts, and write it."""
    topology = fit(folded)
    if found is not None:
        folded.remarks += _generated(found, topology)
    remarks = tuple(by_kind(folded.remarks))
    head = [f"Made by `amqpq topology import` from {source}."]
    if "routes" not in folded.tree:
        head.append("The broker knows no tasks: add `routes:` to say which task is published where.")
    if remarks:
        head.append(f"{counted(len(remarks), 'remark')} at the end of the file.")
    tree: dict[str, Any] = escaped(folded.tree)
    return Imported(text.write(tree, remarks, head=head), tree, topology, remarks)


def _generated(found: Objects, topology: Topology) -> list[Remark]:
    """Compare what the file generates with what is there: a ladder may be incomplete."""
    wanted = declarations(topology)
    there = {*(exchange.name for exchange in found.exchanges), *(queue.name for queue in found.queues)}
    names = [*(exchange.name for exchange in wanted.exchanges), *(queue.name for queue in wanted.queues)]
    new = [name for name in names if name not in there]
    if not new:
        return []
    why = f"an apply of this file would create {counted(len(new), 'object')} that the broker does not have: {', '.join(new[:5])}"
    return [Remark("note", "generated objects", "", why + (", ..." if len(new) > len(new[:5]) else ""))]
