"""Moving a queue to its next generation: the steps, what each does, and how to go on or back from any of them. Pure.

A queue cannot change its type, its priorities or an argument; another queue has to take its place while producers publish and
workers consume. Binding the new queue before unbinding the old one doubles messages, the other order loses some. What does
neither is a switch that is one single write: the queue gets a private fanout exchange, its *ingress*, whose alternate exchange
leads to the new queue. While the ingress has a binding to the old queue, its alternate exchange never takes anything; the
moment that binding is gone, it takes everything (https://www.rabbitmq.com/docs/ae).

========  =============================================================================================================
step      what is done
========  =============================================================================================================
ADOPT     declare the alternate exchange with a binding to the old queue, then the ingress, then bind that to the old queue and
          take the first binding away: at no moment is there an ingress that leads nowhere
FEED      bind every source to the ingress as it is bound to the old queue (a queue gets one copy, however many ways lead there)
CUT       unbind the sources from the old queue
CREATE    declare the new queue; nothing leads to it
FOLLOW    tell the workers to consume both, and wait until they do
ARM       bind the alternate exchange to the new queue (no effect: the ingress still has its binding)
SWITCH    unbind the ingress from the old queue: from here on every message reaches the new one
SETTLE    bind the ingress to the new queue
DISARM    unbind the alternate exchange from it
DRAIN     wait until the workers have emptied the old queue
LEAVE     tell the workers to consume the new queue only, and wait until they do
PROVE     see that the old queue is empty, and that nobody publishes to it
DELETE    delete the old queue
DONE      write down that the queue lives in the new one
UNDO      (only on the way back) unbind the alternate exchange from a queue that nothing has reached
========  =============================================================================================================

The journal holds the step that may have begun; all before it are complete. Every step may be done twice. So whoever is cut off
does that step again, and goes on.

*Back*: before the switch the new queue is let go of, and adopted ingresses stay. From the switch on there is only the same
machine in the other direction: the steps to DISARM are finished, then the two queues change their parts. Once a queue is to be
deleted, there is only forward.

*Swap* keeps the queue's own name for those who publish to it by that name and cannot follow: the way is gone twice, from
`orders` to `orders.g2`, and from there to a new `orders`. The second half begins with CREATE, right behind the first one's
DELETE, and in between the broker has no queue of that name: it returns what is published to it. Given up in the second half,
the queue stays in `orders.g2`, as without swap: what it was before does not exist any more.

*A queue that was renamed* (`amqpq.topology.renames`) lives in the one of its former name until it is migrated: then the new queue
is the first of its own name. The exchange `<former>.in` is one of the sources, and so leads to the ingress from FEED on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from amqpq.errors import LocalError
from amqpq.topology.generations import Home, alternate_name, ingress_name, ingress_specs, is_generation, redirected
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

Strategy: TypeAlias = Literal["drain", "move", "swap"]
"""drain: workers empty the old queue. move: it has no consumers, and what it holds is moved. swap: drain, and then once more,
to a queue of the first name."""


class Step(StrEnum):
    """A step of a migration; see the table above."""

    ADOPT = "adopt"
    FEED = "feed"
    CUT = "cut"
    CREATE = "create"
    FOLLOW = "follow"
    ARM = "arm"
    SWITCH = "switch"
    SETTLE = "settle"
    DISARM = "disarm"
    DRAIN = "drain"
    LEAVE = "leave"
    PROVE = "prove"
    DELETE = "delete"
    DONE = "done"
    UNDO = "undo"


FOLLOWING: Final[Mapping[Step, Step]] = MappingProxyType(
    {
        Step.ADOPT: Step.FEED,
        Step.FEED: Step.CUT,
        Step.CUT: Step.CREATE,
        Step.CREATE: Step.FOLLOW,
        Step.FOLLOW: Step.ARM,
        Step.ARM: Step.SWITCH,
        Step.SWITCH: Step.SETTLE,
        Step.SETTLE: Step.DISARM,
        Step.DISARM: Step.DRAIN,
        Step.DRAIN: Step.LEAVE,
        Step.LEAVE: Step.PROVE,
        Step.PROVE: Step.DELETE,
        Step.DELETE: Step.DONE,
    }
)
"""The way forward."""

ADOPTING: Final = frozenset({Step.ADOPT, Step.FEED, Step.CUT})
UNSWITCHED: Final = frozenset({*ADOPTING, Step.CREATE, Step.FOLLOW, Step.ARM, Step.UNDO})
"""At these the old queue gets everything."""
SWITCHING: Final = frozenset({Step.SWITCH, Step.SETTLE, Step.DISARM})
_BOTH: Final = frozenset({Step.FOLLOW, Step.ARM, Step.SWITCH, Step.SETTLE, Step.DISARM, Step.DRAIN})
"""At these workers consume both queues."""
_LEFT: Final = frozenset({Step.LEAVE, Step.PROVE, Step.DELETE, Step.DONE})


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration at one of its steps.

    `queue` is the logical name; `old` is given up, and `new`, declared as `spec`, takes its place. `bindings` are those of the
    old queue that go over to the ingress. `ordered`: workers begin with the new queue when they have finished the old one.
    `aborting`: the step is finished only to go back from there. `back`: this is the way back.
    """

    queue: str
    old: str
    spec: QueueSpec
    step: Step
    old_type: str = "classic"
    bindings: tuple[BindingSpec, ...] = ()
    strategy: Strategy = "drain"
    ordered: bool = False
    aborting: bool = False
    back: bool = False
    adopted_at: float = 0.0
    """When the adoption was complete, seconds since the epoch; 0 before that."""
    former: str | None = None
    """The name that the queue had before it was renamed; `old` may be of that."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which others publish to the queue."""
        return (self.queue,) if self.former is None else (self.queue, self.former)

    @property
    def renames(self) -> bool:
        """Whether it goes from a queue of the former name to one of its own, or back: some workers know only that name."""
        return self.former is not None and any(is_generation(self.former, name) for name in (self.old, self.new))

    @property
    def into(self) -> str:
        """The name by which messages are moved: the former one where workers take them that know no other."""
        return self.former if self.former is not None and is_generation(self.former, self.new) else self.queue

    @property
    def new(self) -> str:
        """The physical name of the queue that takes over."""
        return self.spec.name

    @property
    def new_type(self) -> str:
        """Its type."""
        return str(self.spec.arguments.get("x-queue-type", "classic"))

    @property
    def returning(self) -> bool:
        """Whether this is the second half of a swap: to a queue of the logical name."""
        return self.strategy == "swap" and self.new == self.queue and not self.back

    @property
    def returns(self) -> bool:
        """Whether the second half of a swap is still to come."""
        return self.strategy == "swap" and not (self.returning or self.back or self.aborting)

    @property
    def adopted(self) -> bool:
        """Whether everything for the queue goes through its ingress."""
        return self.step not in ADOPTING


@dataclass(frozen=True, slots=True)
class Declare:
    """Declare an exchange or a queue."""

    spec: ExchangeSpec | QueueSpec


@dataclass(frozen=True, slots=True)
class Bind:
    """Add a binding."""

    binding: BindingSpec


@dataclass(frozen=True, slots=True)
class Unbind:
    """Remove a binding."""

    binding: BindingSpec


Action: TypeAlias = Declare | Bind | Unbind
"""One write to the broker. Each may be repeated."""


def actions(migration: Migration) -> tuple[Action, ...]:
    """Return what the step writes to the broker, in this order; waiting, proving and deleting are no such writes."""
    queue, old, new = migration.queue, migration.old, migration.new
    ingress, alternate = ingress_name(queue), alternate_name(queue)
    written: tuple[Action, ...] = ()
    match migration.step:
        case Step.ADOPT:
            alternate_spec, ingress_spec = ingress_specs(queue)
            written = (
                Declare(alternate_spec),
                Bind(BindingSpec(alternate, old)),
                Declare(ingress_spec),
                Bind(BindingSpec(ingress, old)),
                Unbind(BindingSpec(alternate, old)),
            )
        case Step.FEED:
            written = tuple(Bind(redirected(replace(binding, target=queue))) for binding in migration.bindings)
        case Step.CUT:
            written = tuple(Unbind(replace(binding, target=old)) for binding in migration.bindings)
        case Step.CREATE:
            written = (Declare(migration.spec),)
        case Step.ARM:
            written = (Bind(BindingSpec(alternate, new)),)
        case Step.SWITCH:
            written = (Unbind(BindingSpec(ingress, old)),)
        case Step.SETTLE:
            written = (Bind(BindingSpec(ingress, new)),)
        case Step.DISARM | Step.UNDO:
            written = (Unbind(BindingSpec(alternate, new)),)
    return written


def following(migration: Migration) -> Migration | None:
    """Return the migration at its next step; None behind the last."""
    step = migration.step
    if migration.aborting:
        if step is Step.CUT:
            return replace(migration, step=Step.UNDO)
        if step is Step.UNDO:
            return _turned(migration, Step.LEAVE)
        if step is Step.DISARM:
            return _turned(migration, Step.FOLLOW)
    if step is Step.DELETE and migration.returns:
        return _returning(migration)
    following_step = FOLLOWING.get(step)
    if following_step is Step.FOLLOW and migration.ordered:
        following_step = Step.ARM
    return None if following_step is None else replace(migration, step=following_step)


def _returning(migration: Migration) -> Migration:
    """Begin the second half of a swap: the same properties under the logical name."""
    return replace(
        migration,
        old=migration.new,
        old_type=migration.new_type,
        spec=replace(migration.spec, name=migration.queue),
        step=Step.CREATE,
        bindings=(),
    )


def abort(migration: Migration) -> Migration:
    """Return the migration on its way back; from the second half of a swap, that is to the queue between the halves.

    Raises:
        LocalError: It is on that way already, or the old queue may be gone.
    """
    step = migration.step
    if migration.aborting or migration.back:
        raise LocalError(f"the migration of {migration.queue!r} is being undone already; `resume` goes on with that")
    if step in {Step.DELETE, Step.DONE}:
        raise LocalError(
            f"queue {migration.old!r} was proven empty and may be deleted already: there is only forward; `finish` it, and "
            "migrate once more if it has to be as before"
        )
    if step in ADOPTING or step in SWITCHING:
        return replace(migration, aborting=True)
    if step in UNSWITCHED:
        return replace(migration, step=Step.UNDO, aborting=True)
    return _turned(migration, Step.FOLLOW)


def _turned(migration: Migration, step: Step) -> Migration:
    """Let the two queues change their parts."""
    return replace(
        migration,
        old=migration.new,
        old_type=migration.new_type,
        spec=QueueSpec(migration.old, arguments={"x-queue-type": migration.old_type}),
        step=step,
        aborting=False,
        back=True,
    )


def home(migration: Migration) -> Home:
    """Return where the queue lives while this step is done."""
    old, new, step = migration.old, migration.new, migration.step
    if step is Step.DONE:
        return Home(
            new,
            (new,),
            {new: migration.new_type},
            ingress=True,
            adopted_at=migration.adopted_at,
            former=migration.former,
        )
    consumed: tuple[str, ...] = (old,)
    if step in _LEFT:
        consumed = (new,)
    elif step in _BOTH and not migration.ordered:
        consumed = (old, new)
    return Home(
        current=old if step in UNSWITCHED or step is Step.SWITCH else new,
        consumed=consumed,
        types={old: migration.old_type, new: migration.new_type},
        ingress=migration.adopted,
        adopted_at=migration.adopted_at,
        moving=True,
        journal=journal(migration),
        former=migration.former,
    )


# --------------------------------------------------------------------------------------------------------- the journal


def journal(migration: Migration) -> dict[str, Any]:
    """Return the migration as JSON can hold it."""
    return {
        "queue": migration.queue,
        "old": migration.old,
        "old_type": migration.old_type,
        "new": migration.new,
        "durable": migration.spec.durable,
        "arguments": dict(migration.spec.arguments),
        "step": str(migration.step),
        "bindings": [
            {"source": binding.source, "key": binding.key, "arguments": dict(binding.arguments)}
            for binding in migration.bindings
        ],
        "strategy": migration.strategy,
        "ordered": migration.ordered,
        "aborting": migration.aborting,
        "back": migration.back,
        "adopted_at": migration.adopted_at,
        "former": migration.former,
    }


def restored(found: Mapping[str, Any]) -> Migration:
    """Return the migration of a journal.

    Raises:
        LocalError: It is none that this version can go on with.
    """
    try:
        if found["strategy"] not in get_args(Strategy):
            raise ValueError(f"strategy {found['strategy']!r} is of a later version")  # noqa: TRY301 - one error for all
        return Migration(
            queue=found["queue"],
            old=found["old"],
            spec=QueueSpec(found["new"], durable=found["durable"], arguments=found["arguments"]),
            step=Step(found["step"]),
            old_type=found["old_type"],
            bindings=tuple(
                BindingSpec(part["source"], found["queue"], part["key"], arguments=part["arguments"])
                for part in found["bindings"]
            ),
            strategy=found["strategy"],
            ordered=found["ordered"],
            aborting=found["aborting"],
            back=found["back"],
            adopted_at=found["adopted_at"],
            former=found.get("former"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LocalError(f"the journal of a migration cannot be read: {type(error).__name__} {error}") from error
