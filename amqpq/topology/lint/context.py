"""What every rule looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amqpq.topology.build import bindings_of
from amqpq.topology.document import BindingPart, File
from amqpq.topology.lockfile import Locked
from amqpq.topology.model import Binding, Topology
from amqpq.topology.problems import Findings, Path


@dataclass(frozen=True, slots=True)
class Context:
    """A file, the topology made of it, and where to note what is wrong with it."""

    file: File
    topology: Topology
    findings: Findings
    locked: Locked | None = None
    """What `amqpq.lock` says of it, where there is one."""

    @property
    def lowest(self) -> tuple[int, int, int]:
        """The lowest broker version the file is for."""
        return self.topology.requires.lowest

    def bindings(self) -> Iterator[tuple[Path, BindingPart, Binding]]:
        """Walk the bindings, one for each key, with the place of their entry."""
        for index, part in enumerate(self.file.bindings):
            if ("bindings", index) not in self.findings.unknown:
                for binding in bindings_of(part, self.file, self.topology.queues):
                    yield ("bindings", index), part, binding

    def foreign(self, exchange: str) -> bool:
        """Whether somebody else owns the exchange, so that the file does not know all its bindings."""
        return exchange in self.topology.exchanges and self.topology.exchanges[exchange].manage != "full"
