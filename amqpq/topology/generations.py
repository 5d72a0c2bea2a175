"""Where a queue of the file lives on the broker: its generations, its ingress, and the record that tells of both. Pure.

A queue whose immutable properties have to change moves to another queue, `orders` to `orders.g2`. Code goes on saying `orders`:
that is the *logical* name, and it keeps its bindings, its dead letters and the route that messages are signed for. What the
broker has is the *physical* queue.

A queue that has once been moved has an *ingress*, a fanout exchange `orders.in` that everything for it goes through, with an
alternate exchange `orders.alt`. To have one costs a hop (measured: 0.955 of the rate without), so a queue gets it with its
first migration and keeps it.

Who needs to know this, and learns it how:

* A producer that publishes to a queue by name asks whether the exchange `<queue>.in` exists (`amqpq.transport.ways`). That needs
  no permission and no state.
* A worker has to know which physical queues to consume. That is the *record*: a JSON text, in a stream named
  `<project>.generations`, of which the last entry counts. A stream is read by any number of readers without being emptied,
  tells those who listen at once, and is replicated. It is also the journal of the migration (`amqpq.provision.migration`).
  Nobody signs it: all that it can name are generations of queues of the file, and what comes out of those is verified as ever.
* `amqpq topology apply` declares a moved queue under its physical name and binds its ingress (`resolve`).

A project that never migrated has no stream, and everything is as the file says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from amqpq.errors import LocalError
from amqpq.topology.declarations import Declarations
from amqpq.types import BindingSpec, ExchangeSpec, Publication, QueueSpec

FORMAT: Final = 1
"""Of the record; a higher one is refused, because it may mean something that this version would get wrong."""

_GENERATION = re.compile(r"\.g(?P<number>[2-9]|[1-9][0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Home:
    """Where one queue of the file lives.

    `current` is the physical queue that new messages reach. `consumed` are those that workers consume: also the one it
    is being moved to, or from. `types` is the queue type of each. `moving`: a migration is under way, and who applies leaves
    the queue alone. `journal` is that migration's own, for `amqpq.provision.migration` to read.
    """

    current: str
    consumed: tuple[str, ...]
    types: Mapping[str, str] = field(default_factory=dict)
    ingress: bool = False
    adopted_at: float = 0.0
    """Since when producers can know of the ingress, seconds since the epoch."""
    moving: bool = False
    journal: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Generations:
    """The homes of a project's queues by their logical names; a queue that is not there lives under its own name."""

    homes: Mapping[str, Home] = field(default_factory=lambda: MappingProxyType({}))
    serial: int = 0

    def current(self, queue: str) -> str:
        """Return the physical queue that new messages for `queue` reach."""
        home = self.homes.get(queue)
        return queue if home is None else home.current

    def consumed(self, queue: str) -> tuple[str, ...]:
        """Return the physical queues that a worker of `queue` consumes."""
        home = self.homes.get(queue)
        return (queue,) if home is None else home.consumed

    def type_of(self, queue: str, physical: str, default: str) -> str:
        """Return the type of a physical queue; `default` where the record says nothing."""
        home = self.homes.get(queue)
        return default if home is None else home.types.get(physical, default)

    def has_ingress(self, queue: str) -> bool:
        """Whether what is for this queue goes through its ingress."""
        home = self.homes.get(queue)
        return home is not None and home.ingress

    def with_home(self, queue: str, home: Home) -> Generations:
        """Return the next record, in which `queue` lives there."""
        return Generations(MappingProxyType({**self.homes, queue: home}), self.serial + 1)

    def address(self, publication: Publication) -> Publication:
        """Return a publication for a queue by its name as it has to be published: through the ingress where there is one."""
        if publication.exchange or not self.has_ingress(publication.routing_key):
            return publication
        return publication._replace(exchange=ingress_name(publication.routing_key))


NOTHING_MOVED: Final = Generations()


def stream_name(project: str) -> str:
    """Return the name of the stream that holds the record."""
    return f"{project}.generations"


def stream_spec(project: str) -> QueueSpec:
    """Return the stream that holds the record. It has no retention: an entry per step is little, and the last must stay."""
    return QueueSpec(stream_name(project), arguments={"x-queue-type": "stream"})


def ingress_name(queue: str) -> str:
    """Return the name of a queue's ingress."""
    return f"{queue}.in"


def alternate_name(queue: str) -> str:
    """Return the name of the alternate exchange of a queue's ingress."""
    return f"{queue}.alt"


def ingress_specs(queue: str) -> tuple[ExchangeSpec, ExchangeSpec]:
    """Return the alternate exchange and the ingress of a queue, in the order in which they are declared."""
    alternate = ExchangeSpec(alternate_name(queue), "fanout")
    return alternate, ExchangeSpec(ingress_name(queue), "fanout", arguments={"alternate-exchange": alternate.name})


def next_name(queue: str, current: str) -> str:
    """Return the physical name of the generation after `current`."""
    match = _GENERATION.fullmatch(current.removeprefix(queue))
    return f"{queue}.g{int(match['number']) + 1 if match is not None else 2}"


def is_generation(queue: str, physical: str) -> bool:
    """Whether `physical` can be a generation of `queue`."""
    return physical == queue or (
        physical.startswith(queue) and _GENERATION.fullmatch(physical.removeprefix(queue)) is not None
    )


# ---------------------------------------------------------------------------------------------------------- the record


def write(generations: Generations) -> bytes:
    """Write the record."""
    queues = {
        queue: {
            "current": home.current,
            "consumed": list(home.consumed),
            "types": dict(home.types),
            "ingress": home.ingress,
            "adopted_at": home.adopted_at,
            "moving": home.moving,
            "journal": home.journal,
        }
        for queue, home in generations.homes.items()
    }
    return json.dumps({"format": FORMAT, "serial": generations.serial, "queues": queues}, sort_keys=True).encode()


def read(body: bytes) -> Generations:
    """Read a record.

    Raises:
        LocalError: It is none, it is of a later format, or it names a queue that is no generation of another.
    """
    try:
        found = json.loads(body)
        if found["format"] > FORMAT:
            message = (
                f"the record of generations has format {found['format']}, and this amqpq reads {FORMAT}; upgrade it"
            )
            raise LocalError(message)
        homes = {queue: _home(queue, part) for queue, part in found["queues"].items()}
        return Generations(MappingProxyType(homes), int(found["serial"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LocalError(f"the record of generations cannot be read: {type(error).__name__} {error}") from error


def _home(queue: str, part: Mapping[str, Any]) -> Home:
    home = Home(
        current=str(part["current"]),
        consumed=tuple(str(name) for name in part["consumed"]),
        types={str(name): str(kind) for name, kind in part["types"].items()},
        ingress=part["ingress"] is True,
        adopted_at=float(part["adopted_at"]),
        moving=part["moving"] is True,
        journal=part["journal"],
    )
    # Whoever can write to the stream must not be able to point workers at any queue.
    odd = [name for name in (home.current, *home.consumed) if not is_generation(queue, name)]
    if odd:
        raise LocalError(f"the record of generations says that {queue!r} lives in {odd[0]!r}, which is none of its own")
    return home


# -------------------------------------------------------------------------------------------------------- what is declared


def resolve(wanted: Declarations, generations: Generations) -> Declarations:
    """Return what an apply declares where queues have moved.

    A moved queue is declared under its physical name, and its bindings lead to its ingress, and from there to it. A queue
    that is being moved is left out with its bindings: they are the migration's.
    """
    homes = generations.homes
    moving = {queue for queue, home in homes.items() if home.moving}
    moved = {queue: home for queue, home in homes.items() if home.ingress and not home.moving}
    kept = [spec for spec in wanted.queues if spec.name not in moving]
    ours = [spec.name for spec in kept if spec.name in moved]
    return replace(
        wanted,
        exchanges=(*wanted.exchanges, *(spec for queue in ours for spec in ingress_specs(queue))),
        queues=tuple(replace(spec, name=generations.current(spec.name)) for spec in kept),
        bindings=(
            *(BindingSpec(ingress_name(queue), moved[queue].current) for queue in ours),
            *(
                redirected(binding) if not binding.to_exchange and binding.target in moved else binding
                for binding in wanted.bindings
                if binding.to_exchange or binding.target not in moving
            ),
        ),
        expected_queues=tuple(
            replace(spec, name=generations.current(spec.name))
            for spec in wanted.expected_queues
            if spec.name not in moving
        ),
    )


def located(wanted: Declarations, generations: Generations) -> Declarations:
    """Return what has to be there where queues have moved: those by their physical names, as something that exists."""
    homes = generations.homes
    moved = [spec for spec in (*wanted.queues, *wanted.expected_queues) if spec.name in homes]
    return replace(
        wanted,
        queues=tuple(spec for spec in wanted.queues if spec.name not in homes),
        expected_queues=(
            *(spec for spec in wanted.expected_queues if spec.name not in homes),
            *(QueueSpec(name) for spec in moved for name in generations.consumed(spec.name)),
        ),
    )


def redirected(binding: BindingSpec) -> BindingSpec:
    """Return a binding of a queue as one of its ingress, with the same key and arguments."""
    return replace(binding, target=ingress_name(binding.target), to_exchange=True)
