"""Walks the steps of a plan through the simulator: the checks of the file must hold after each of them. Pure.

A check that holds before the first step must hold after each one: where a message would reach fewer queues, the plan is refused;
where it would reach more of them than it may, that is said, and so is a check that fails before and after all steps. What cannot
be seen (bindings over AMQP 0-9-1, those of others over AMQP 1.0) cannot be rehearsed, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amqpq.errors import LocalError
from amqpq.provision.observed import Observed, SeenPolicy, identity
from amqpq.provision.steps import Step
from amqpq.topology.effective import ALTERNATE, applied, effective
from amqpq.topology.expected import PublishCheck
from amqpq.topology.generations import NOTHING_MOVED, Generations
from amqpq.topology.model import Topology
from amqpq.topology.partitions import physical_queues
from amqpq.topology.routing import Router
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, Table


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the checks said of the plan."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """One check as a message with its address."""

    words: str
    exchange: str
    key: str
    headers: Table
    reaches: frozenset[str]
    exactly: bool
    partitions: Mapping[str, str]
    """The name in the file of each partition."""


@dataclass(frozen=True, slots=True)
class _Result:
    """How a probe fared: what it missed, what it reached beyond that, which exchanges saw it."""

    missing: frozenset[str]
    extra: frozenset[str]
    exchanges: frozenset[str]


class _State:
    """The broker as it is after some steps."""

    def __init__(self, observed: Observed) -> None:
        self.exchanges = {name: seen.spec for name, seen in observed.exchanges.items()}
        self.queues = {name: seen.spec for name, seen in observed.queues.items()}
        self.bindings = {identity(binding): binding for binding in observed.bindings or ()}
        self.policies = {policy.name: policy for policy in observed.policies or ()}

    def take(self, step: Step) -> None:
        """Do a step."""
        spec = step.spec
        if isinstance(spec, ExchangeSpec):
            self.exchanges[spec.name] = spec
        elif isinstance(spec, QueueSpec):
            self.queues[spec.name] = spec
        elif isinstance(spec, SeenPolicy):
            self.policies[spec.name] = spec
        elif isinstance(spec, BindingSpec):
            if step.operation == "bind":
                self.bindings[identity(spec)] = spec
            else:
                self.bindings.pop(identity(spec), None)
        elif step.operation == "rename":
            pass
        elif step.operation == "delete policy":
            self.policies.pop(step.name, None)
        elif step.operation == "delete queue":
            self.queues.pop(step.name, None)
        else:
            self.exchanges.pop(step.name, None)

    def router(self, version: tuple[int, int, int], names: frozenset[str] | None = None) -> Router:
        """Return the simulator of this state, or of these exchanges in it."""
        bindings = [each for each in self.bindings.values() if names is None or each.source in names]
        return Router(self.real(names), self.queues.values(), bindings, version=version)

    def real(self, names: frozenset[str] | None = None) -> list[ExchangeSpec]:
        """Return the exchanges with the alternate one that holds: it may come from a policy."""
        policies = tuple(self.policies.values())
        return [
            _with_alternate(spec, policies) for name, spec in self.exchanges.items() if names is None or name in names
        ]


def _with_alternate(spec: ExchangeSpec, policies: Sequence[SeenPolicy]) -> ExchangeSpec:
    holds = effective("exchange", spec.arguments, applied(policies, "exchange", spec.name).policy, None).get(ALTERNATE)
    if holds is None or holds.value == spec.arguments.get(ALTERNATE):
        return spec
    return replace(spec, arguments={**spec.arguments, ALTERNATE: holds.value})


def rehearse(
    topology: Topology, observed: Observed, steps: Sequence[Step], generations: Generations = NOTHING_MOVED
) -> Rehearsal:
    """Walk the steps.

    Args:
        topology: Whose checks must hold.
        observed: Where the walk begins.
        steps: What is done, in order.
        generations: Where queues live that have moved; checks go on naming them as the file does.
    """
    probes = _probes(topology, generations)
    if not probes or not steps:
        return Rehearsal()
    if observed.bindings is None:
        return Rehearsal(
            warnings=("the steps were not rehearsed against the checks: bindings cannot be seen over AMQP",)
        )
    state, end = _State(observed), _State(observed)
    for step in steps:
        end.take(step)
    first, last = (_results(probes, each.router(observed.version)) for each in (state, end))
    problems: list[str] = []
    warnings: list[str] = []
    if not observed.complete:
        warnings.append(
            "the steps were rehearsed without policies and the bindings of others, which AMQP 1.0 does not tell"
        )
    for probe in probes:
        if last[probe].missing:
            told = warnings if first[probe].missing else problems
            told.append(f"after the last step, {probe.words} misses {_listed(last[probe].missing)}")
    watched = [probe for probe in probes if not first[probe].missing and not last[probe].missing]
    ways = _ways(watched, (state, end))
    for number, step in enumerate(steps, 1):
        state.take(step)
        touched = [probe for probe in watched if _touches(step, ways[probe])]
        if not touched:
            continue
        near = frozenset(name for probe in touched for name in ways[probe])
        now = _results(touched, state.router(observed.version, near))
        for probe in touched:
            where = f"after step {number} ({step.operation} {step.name}), {probe.words}"
            if now[probe].missing:
                problems.append(f"{where} misses {_listed(now[probe].missing)}")
            elif probe.exactly and now[probe].extra - first[probe].extra - last[probe].extra:
                warnings.append(f"{where} also reaches {_listed(now[probe].extra)}")
    return Rehearsal(tuple(problems), tuple(warnings))


def _ways(probes: Sequence[Probe], states: Sequence[_State]) -> dict[Probe, frozenset[str]]:
    """Return the exchanges that each probe may come to, whatever its key, before, after or in between."""
    edges: dict[str, set[str]] = {}
    for state in states:
        for binding in state.bindings.values():
            if binding.to_exchange:
                edges.setdefault(binding.source, set()).add(binding.target)
        for exchange in state.real():
            if ALTERNATE in exchange.arguments:
                edges.setdefault(exchange.name, set()).add(exchange.arguments[ALTERNATE])
    found: dict[Probe, frozenset[str]] = {}
    for probe in probes:
        way = [probe.exchange]
        for name in way:  # grows while it is walked
            way += sorted(edges.get(name, set()) - set(way))
        found[probe] = frozenset(way)
    return found


def _touches(step: Step, exchanges: frozenset[str]) -> bool:
    spec = step.spec
    if isinstance(spec, BindingSpec):
        return spec.source in exchanges
    if isinstance(spec, SeenPolicy) and spec.apply_to not in {"all", "exchanges"}:
        return False
    return step.operation not in {"exchange", "queue"}


def _probes(topology: Topology, generations: Generations) -> list[Probe]:
    found = []
    names = _Table({each.name: each.part_of for each in physical_queues(topology) if each.part_of is not None})
    for check in topology.checks:
        if not isinstance(check, PublishCheck):
            continue  # what becomes of failures does not change with bindings that come and go
        exchange, key = check.exchange, check.key
        words = f"exchange '{exchange}' with key '{key}'"
        if check.task is not None:
            route = topology.route_for(check.task)
            exchange, key = route.exchange, route.routing_key(check.task, check.arguments)
            words = f"task {check.task}"
        if not exchange:
            exchange, key = generations.way(key)  # as workers do, and producers
        exactly = check.exactly or not check.reaches
        reaches = frozenset(generations.current(name) for name in check.reaches)
        found.append(Probe(words, exchange, key, _Table(check.headers), reaches, exactly, names))
    return found


class _Table(dict[str, Any]):
    """A table that can be part of a key: compared by identity, never changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def _results(probes: Iterable[Probe], router: Router) -> dict[Probe, _Result]:
    return {probe: _result(probe, router) for probe in probes}


def _result(probe: Probe, router: Router) -> _Result:
    try:
        reached = router.route(probe.exchange, probe.key, probe.headers)
    except LocalError:  # the exchange is not there (yet), or of a type that cannot be simulated
        return _Result(probe.reaches, frozenset(), frozenset([probe.exchange]))
    queues = {probe.partitions.get(name, name) for name in reached.queues}
    return _Result(probe.reaches - queues, frozenset(queues - probe.reaches), frozenset(reached.exchanges))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
