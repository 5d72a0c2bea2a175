"""Whether a queue can be migrated at all, and how its migration begins. Reads, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amqpq.errors import ConfigurationError, LocalError, ObjectNotFound, TransportError
from amqpq.provision.migrating import ANSWER_SECONDS, Facts, Migrator, Undecided
from amqpq.provision.migration import Migration, Step, Strategy
from amqpq.provision.noting import compared, type_before
from amqpq.topology import renames
from amqpq.topology.declarations import queue_spec
from amqpq.topology.delays import ladder
from amqpq.topology.generations import alternate_name, ingress_name, is_generation, next_name
from amqpq.topology.model import QueueType, Topology, did_you_mean
from amqpq.topology.partitions import exchange_name
from amqpq.transport import declare
from amqpq.transport.declare import Difference
from amqpq.transport.interface import Connection
from amqpq.types import BindingSpec, QueueSpec


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. `to` is a queue type that counts before the file's."""

    queue: str
    to: QueueType | None = None
    strategy: Strategy = "drain"
    adopt: bool = False
    """Take bindings along that the file does not have."""
    trust_file: bool = False
    """Believe that there are no bindings but the file's, where they cannot be read."""


@dataclass(frozen=True, slots=True)
class Findings:
    """How a migration begins, and why: the properties that differ. `migration` is None where nothing does."""

    migration: Migration | None
    differences: tuple[Difference, ...] = ()


def wanted(topology: Topology, wish: Wish) -> QueueSpec:
    """Return the queue as it should be, under its name in the file.

    Raises:
        ConfigurationError: It cannot be migrated, whatever is on the broker.
    """
    name = wish.queue
    if name not in topology.queues:
        raise ConfigurationError(f"the topology has no queue {name!r}{did_you_mean(name, topology.queues)}")
    queue = topology.queues[name]
    if wish.to is not None:
        queue = replace(queue, type=wish.to)
    problems = _problems(topology, name)
    if queue.type == "quorum":
        problems += [
            f"a quorum queue takes no {word}; remove it from the file"
            for word, given in (
                ("max_priority", queue.max_priority is not None),
                ("auto_delete", queue.auto_delete),
                ("durable: false", not queue.durable),
                ("overflow: reject-publish-dlx", queue.limits.overflow == "reject-publish-dlx"),
            )
            if given
        ]
    if queue.type == "classic" and queue.delivery_limit is not None:
        problems.append("a classic queue takes no delivery_limit; remove it from the file")
    if problems:
        raise ConfigurationError(f"queue {name!r} cannot be migrated:\n" + "\n".join(problems))
    return queue_spec(queue)


def _problems(topology: Topology, name: str) -> list[str]:
    queue = topology.queues[name]
    problems: list[str] = []
    if queue.manage != "full":
        problems.append(f"it is `manage: {queue.manage}`: whoever owns it migrates it")
    if queue.partitions:
        problems.append(
            f"it has partitions, and these do not move; empty it, delete the exchange '{exchange_name(name)}' and the "
            "partitions, and apply again"
        )
    if queue.type == "stream":
        problems.append("a stream is not drained by its readers; make another stream, and let the readers change over")
    sources = sorted(other.name for other in topology.queues.values() if other.dead_letter == name)
    if sources or (topology.delays is not None and topology.delays.lost == name):
        problems.append(
            f"it takes the dead letters of {', '.join(sources) or 'the delay ladder'}, which name it in an argument that cannot "
            "be changed; give those another dead-letter queue (`dead_letters:`), and migrate them instead"
        )
    taken = {ingress_name(name), alternate_name(name)} & topology.exchanges.keys()
    taken |= {other for other in topology.queues if other != name and is_generation(name, other)}
    problems += [f"{other!r} of the file has a name that its migration needs" for other in sorted(taken)]
    return problems


def examine(
    topology: Topology, wish: Wish, migrator: Migrator, connection: Connection, facts: Facts | None
) -> Findings:
    """Find out how the migration begins.

    Args:
        topology: The project's.
        wish: What was asked for.
        migrator: Which has the lock.
        connection: To ask through.
        facts: The management API.

    Raises:
        ConfigurationError: The file does not allow it.
        LocalError: Another migration is under way, or somebody else has bound the queue.
        ObjectNotFound: There is no such queue on the broker.
        Undecided: Nobody knows its bindings.
    """
    spec = wanted(topology, wish)
    under_way = migrator.find()
    if under_way is not None:
        raise LocalError(
            f"queue {under_way.queue!r} is being migrated (step {under_way.step}); `amqpq topology migrate resume` or `abort` "
            "comes first"
        )
    renames.check_current(topology, migrator.generations)
    generations = renames.placed(
        topology, migrator.generations, list(filter(migrator.exists, renames.unsure(topology, migrator.generations)))
    )
    if wish.queue in generations.to_note:
        raise LocalError(
            f"queue {wish.queue!r} was renamed from {topology.formers[wish.queue]!r}, and nobody has applied that yet; `amqpq "
            "topology apply` comes first"
        )
    current = generations.current(wish.queue)
    if not migrator.exists(current):
        raise ObjectNotFound(
            f"the broker has no queue {current!r}; `amqpq topology apply` creates what the file declares"
        )
    if connection.blocked:
        raise TransportError(f"the broker blocks publishers ({connection.blocked}); migrate when the alarm is over")
    differences = compared(connection, replace(spec, name=current), ANSWER_SECONDS)
    own = is_generation(wish.queue, current)  # else it lives in a queue of its former name
    swapped = wish.strategy == "swap" and own
    if not differences and own and not (swapped and current != wish.queue):
        return Findings(None)
    home = migrator.generations.homes.get(wish.queue)
    adopted = home is not None and home.ingress
    _check_consumers(migrator, wish, current)
    migration = Migration(
        queue=wish.queue,
        old=current,
        # A queue that lives under another name already only has the second half of a swap before it.
        spec=spec if swapped and current != wish.queue else replace(spec, name=next_name(wish.queue, current)),
        step=Step.CREATE if adopted else Step.ADOPT,
        old_type=type_before(spec, differences),
        bindings=() if adopted else _bindings(topology, wish, current, facts),
        strategy=wish.strategy if own or wish.strategy == "move" else "drain",  # the name it has in the end is its own
        ordered=topology.queues[wish.queue].single_active,
        adopted_at=home.adopted_at if home is not None else 0.0,
        former=topology.formers.get(wish.queue),
    )
    if adopted:
        _check_ingress(migration, facts)
    if migrator.exists(migration.new):
        raise LocalError(
            f"there is a queue {migration.new!r} already, and it is not ours: no record names it; delete it, or keep what it has"
        )
    return Findings(migration, differences)


def _check_consumers(migrator: Migrator, wish: Wish, current: str) -> None:
    state = migrator.state(current)
    if state is None:
        return
    if wish.strategy == "move" and state.consumers:
        raise LocalError(
            f"queue {current!r} has {state.consumers} consumers, which would take what is to be moved; `--strategy drain` lets "
            "them empty it"
        )
    if wish.strategy != "move" and not state.consumers and state.messages:
        raise LocalError(
            f"queue {current!r} holds {state.messages} messages and nobody consumes it, so it would never be drained; start its "
            "workers, or use `--strategy move`"
        )


def _bindings(topology: Topology, wish: Wish, current: str, facts: Facts | None) -> tuple[BindingSpec, ...]:
    """Return the bindings that go over to the ingress."""
    ours = [
        binding
        for binding in (*topology.bindings, *renames.forwarding(topology), *ladder(topology).bindings)
        if binding.target == wish.queue and not binding.to_exchange
    ]
    if facts is None:
        if not wish.trust_file:
            raise Undecided(
                f"whether somebody else has bound {current!r} cannot be read without the management API, and a binding that is "
                "not known would double messages; name the API (`broker.management`, $AMQPQ_MANAGEMENT_URL), or say --trust-file "
                "where there can be none"
            )
        return tuple(ours)
    there = [replace(binding, target=wish.queue) for binding in facts.bindings(current)]
    foreign = [binding for binding in there if binding not in ours]
    if foreign and not wish.adopt:
        shown = "; ".join(declare.describe_binding(binding) for binding in foreign)
        raise LocalError(
            f"queue {current!r} has bindings that the file does not have: {shown}. Write them into the file, remove them, or "
            "take them along with --adopt"
        )
    missing = [binding for binding in ours if binding not in there]
    if missing:
        shown = "; ".join(declare.describe_binding(binding) for binding in missing)
        raise LocalError(
            f"the broker does not have these bindings of the file: {shown}; `amqpq topology apply` comes first"
        )
    return tuple(there)


def _check_ingress(migration: Migration, facts: Facts | None) -> None:
    """See that nothing but the ingress leads to a queue that has one."""
    if facts is None:
        return
    foreign = [each for each in facts.bindings(migration.old) if each.source != ingress_name(migration.queue)]
    if foreign:
        shown = "; ".join(declare.describe_binding(binding) for binding in foreign)
        raise LocalError(
            f"queue {migration.old!r} is bound past its ingress: {shown}; bind {ingress_name(migration.queue)!r} instead"
        )
