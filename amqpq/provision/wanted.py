"""What a topology file wants of a broker, as a plan needs it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from amqpq.errors import LocalError
from amqpq.provision.observed import SeenPolicy, fingerprint
from amqpq.topology import renames
from amqpq.topology.declarations import Declarations, declarations
from amqpq.topology.generations import NOTHING_MOVED, Generations, resolve
from amqpq.topology.model import PolicyBand, Topology
from amqpq.types import ExchangeSpec, QueueSpec, in_order


@dataclass(frozen=True, slots=True)
class Wanted:
    """The target of a plan. `exchanges` and `queues` are ours to declare; `expected` ones must only exist."""

    project: str
    environment: str | None
    declarations: Declarations
    exchanges: Mapping[str, ExchangeSpec]
    queues: Mapping[str, QueueSpec]
    expected_exchanges: Mapping[str, ExchangeSpec]
    expected_queues: Mapping[str, QueueSpec]
    policies: Mapping[str, SeenPolicy] = field(default_factory=dict)
    may_delete: bool = False
    band: PolicyBand = field(default_factory=PolicyBand)
    decommissioned: frozenset[str] = frozenset()
    """Addresses of what is to go."""
    spared: frozenset[str] = frozenset()
    """Addresses of what somebody else manages: never deleted, whoever made it."""
    formers: Mapping[str, str] = field(default_factory=dict)
    """Queues that were renamed, and their former names."""
    generations: Generations = NOTHING_MOVED
    """Where queues live that have moved; `queues` and `declarations` have them by their physical names."""

    def fingerprint(self) -> str:
        """Return a hash that is the same for the same target; no address and no secret is part of it."""
        parts = (self.project, self.exchanges, self.queues, self.expected_exchanges, self.expected_queues)
        settings = (self.declarations.bindings, self.policies, self.band)
        return fingerprint(
            [*(repr(part) for part in (*parts, *settings)), self.may_delete, sorted(self.decommissioned)]
        )


def wanted_there(topology: Topology, generations: Generations) -> Wanted:
    """Return what a topology wants of a broker where queues have moved: those under the names that they have there.

    Raises:
        LocalError: A queue is being migrated: what is there now is neither as before nor as it will be.
        ConfigurationError: The file is of before a rename that was carried out.
    """
    renames.check_current(topology, generations)
    moving = [name for name, home in generations.homes.items() if home.moving]
    if moving:
        raise LocalError(
            f"queue {moving[0]!r} is being migrated; `amqpq topology migrate status` says how far it is, and `finish`, `resume` "
            "or `abort` comes first"
        )
    return replace(wanted(topology, resolve(declarations(topology), generations)), generations=generations)


def wanted(topology: Topology, found: Declarations | None = None) -> Wanted:
    """Return what a topology wants, generated objects included.

    Args:
        topology: The file's.
        found: Its declarations, where something has been put in their place; default: as the file says.
    """
    found = declarations(topology) if found is None else found
    # In the order of their addresses: what is told of a declared binding is found by its words.
    ordered = tuple(replace(binding, arguments=dict(in_order(binding.arguments))) for binding in found.bindings)
    found = replace(found, bindings=ordered)
    return Wanted(
        project=topology.project,
        environment=topology.environment,
        declarations=found,
        exchanges={spec.name: spec for spec in found.exchanges},
        queues={spec.name: spec for spec in found.queues},
        expected_exchanges={spec.name: spec for spec in found.expected_exchanges},
        expected_queues={spec.name: spec for spec in found.expected_queues},
        policies={
            policy.name: SeenPolicy(policy.name, policy.pattern, policy.apply_to, policy.priority, policy.definition)
            for policy in topology.policies.values()
        },
        may_delete=topology.allow.delete,
        band=topology.policy_band,
        decommissioned=topology.decommissioned,
        formers=topology.formers,
        spared=frozenset(
            [
                *(f"exchange {each.name}" for each in topology.exchanges.values() if each.manage != "full"),
                *(f"queue {each.name}" for each in topology.queues.values() if each.manage != "full"),
            ]
        ),
    )
