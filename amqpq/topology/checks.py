"""Runs the `checks:` of a topology: unit tests of the wiring, without a broker."""

from __future__ import annotations

from dataclasses import dataclass

from amqpq.topology.model import Check, Topology
from amqpq.topology.routing import Reach, Router, router


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check: which queues it missed and which it should not have reached."""

    check: Check
    exchange: str
    key: str
    reach: Reach
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the message went where it should."""
        return not self.missing and not self.extra

    @property
    def message(self) -> str:
        """The message in words."""
        if self.check.task is not None:
            return f"task {self.check.task}"
        headers = ", ".join(f"{name}={value!r}" for name, value in self.check.headers.items())
        where = f"exchange {self.exchange}" if self.exchange else "default exchange"
        return f"{where}, key '{self.key}'{f', headers {headers}' if headers else ''}"

    @property
    def outcome(self) -> str:
        """Where it went, and what is wrong with that."""
        reached = ", ".join(sorted(self.reach.queues)) or "no queue"
        faults = []
        if self.missing:
            faults.append(f"misses {', '.join(self.missing)}")
        if self.extra:
            faults.append(f"should not reach {', '.join(self.extra)}")
        return f"{reached}{': ' if faults else ''}{' and '.join(faults)}"


def run(topology: Topology) -> tuple[CheckResult, ...]:
    """Run every check.

    Raises:
        LocalError: A check publishes a task that has no route, or to an exchange that does not exist.
    """
    simulator = router(topology)
    return tuple(_run(topology, simulator, check) for check in topology.checks)


def _run(topology: Topology, simulator: Router, check: Check) -> CheckResult:
    exchange, key = check.exchange, check.key
    if check.task is not None:
        route = topology.route_for(check.task)
        exchange, key = route.exchange, route.routing_key(check.task, check.arguments)
    reached = simulator.route(exchange, key, check.headers, trace=True)
    wanted = frozenset(check.reaches)
    # Reaching nothing at all can only be meant exactly.
    exactly = check.exactly or not wanted
    return CheckResult(
        check=check,
        exchange=exchange,
        key=key,
        reach=reached,
        missing=tuple(sorted(wanted - reached.queues)),
        extra=tuple(sorted(reached.queues - wanted)) if exactly else (),
    )
