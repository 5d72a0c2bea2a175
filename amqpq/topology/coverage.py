"""Which part of the wiring the checks of a topology walk: routes, bindings, alternate exchanges and dead letters. Pure.

Only checks that pass count. What the file did not write out (the delay ladder), and what somebody else owns, is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from amqpq.topology.checks import CheckResult
from amqpq.topology.fates import binding_id
from amqpq.topology.model import Binding, Exchange, Queue, Topology

KINDS: Final = ("route", "binding", "unrouted", "dead letter")


@dataclass(frozen=True, slots=True)
class Path:
    """One way a message can take, and whether a check takes it."""

    kind: str
    name: str
    walked: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """All ways of a topology."""

    paths: tuple[Path, ...]

    @property
    def percent(self) -> float:
        """How many of a hundred ways are walked; all where there are none."""
        return 100 * sum(path.walked for path in self.paths) / len(self.paths) if self.paths else 100.0

    @property
    def missing(self) -> tuple[Path, ...]:
        """Those that no check walks."""
        return tuple(path for path in self.paths if not path.walked)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return how many are walked, and how many there are, by kind."""
        return {
            kind: (sum(path.walked for path in self.paths if path.kind == kind), total)
            for kind in KINDS
            if (total := sum(path.kind == kind for path in self.paths))
        }


def coverage(topology: Topology, results: Iterable[CheckResult]) -> Coverage:
    """Return which ways of a topology its checks walk.

    Args:
        topology: The topology.
        results: Of its checks.
    """
    passed = [result for result in results if result.passed]
    routes = {result.route for result in passed}
    walks = [result.walked for result in passed]
    bindings = frozenset[tuple[str, ...]]().union(*(walk.bindings for walk in walks))
    unrouted = frozenset[str]().union(*(walk.unrouted for walk in walks))
    dead = frozenset[str]().union(*(walk.dead_letters for walk in walks))
    paths = [Path("route", route.pattern, route.pattern in routes) for route in topology.routes]
    paths += [Path("binding", _binding(each), binding_id(each) in bindings) for each in _bindings(topology)]
    paths += [
        Path("unrouted", f"{exchange.name} -> {exchange.unrouted}", exchange.name in unrouted)
        for exchange in topology.exchanges.values()
        if exchange.unrouted is not None and exchange.manage != "external"
    ]
    paths += [
        Path("dead letter", f"{queue.name} -> {queue.dead_letter}", queue.name in dead)
        for queue in topology.queues.values()
        if queue.dead_letter is not None and queue.manage != "external"
    ]
    return Coverage(tuple(paths))


def _bindings(topology: Topology) -> Iterator[Binding]:
    """Walk the bindings that are declared: whoever owns an object owns its wiring."""
    for binding in topology.bindings:
        ends = (topology.exchanges.get(binding.source), _target(topology, binding))
        if all(end is None or end.manage != "external" for end in ends):
            yield binding


def _target(topology: Topology, binding: Binding) -> Exchange | Queue | None:
    return (topology.exchanges if binding.to_exchange else topology.queues).get(binding.target)


def _binding(binding: Binding) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in binding.arguments.items()) or binding.key
    return f"{binding.source}{f'[{shown}]' if shown else ''} -> {binding.target}"
