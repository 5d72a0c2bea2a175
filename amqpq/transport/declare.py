"""Declares a topology on a broker, and checks that one is there; every problem reported, none of them the last.

The broker names only the first difference it finds. So an object that exists with other properties is asked again with the value
the broker named, until it agrees: what had to be changed on the way is the whole list of differences. Asking cannot create
anything, because the object exists.

Idempotent: declaring what is already there the same way changes nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, cast

from amqpq.errors import (
    AccessRefused,
    ObjectNotFound,
    PreconditionFailed,
    ResourceLocked,
    TransportError,
)
from amqpq.topology.declarations import Declarations
from amqpq.transport import inequivalent, partitions, questions
from amqpq.transport.interface import Flow
from amqpq.transport.questions import Call, passive, spread
from amqpq.types import BindingSpec, ExchangeSpec, Publication, QueueSpec, QueueState

Opener: TypeAlias = questions.Opener
Kind: TypeAlias = Literal["exchange", "queue", "binding", "policy"]
Spec: TypeAlias = "ExchangeSpec | QueueSpec | BindingSpec"
Thing: TypeAlias = "ExchangeSpec | QueueSpec"
Result: TypeAlias = Literal["created", "present", "bound", "failed"]
S = TypeVar("S", bound="Spec")

SLICE: Final = 256
"""Objects that are looked for, declared and reported together, about four times a second."""

DIFFERENCES: Final = 24
"""Questions asked at most about one object; no kind of queue has more properties that the broker compares."""

_INVALID = re.compile(r"invalid arg '(?P<key>[^']+)' for (?:exchange|queue) '.*' in vhost '.*?'(?P<why>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Difference:
    """One property that the broker has otherwise than the file says; both as text, `none` where it is absent."""

    key: str
    broker: str
    file: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one object. `error` is set where it failed, with a sentence that holds the remedy."""

    kind: Kind
    name: str
    result: Result
    error: TransportError | None = None
    differences: tuple[Difference, ...] = ()


def apply(
    opener: Opener,
    declarations: Declarations,
    *,
    there: Callable[[Thing], bool] | None = None,
    on_step: Callable[[Applied], object] = lambda _: None,
) -> Flow[tuple[Applied, ...]]:
    """Declare everything: exchanges, queues, then bindings; look for what is expected to exist.

    Args:
        opener: Opens a channel.
        declarations: What to declare, in this order.
        there: Whether an object exists, where somebody has just looked. Else each is looked for: the answer to a declaration
            does not say whether it created anything. Over AMQP each one that is missing costs a channel, and a line in the
            broker's log; a thousand of them take three times as long (measured). What starts with contents is always looked
            for: it must not get them twice.
        on_step: Called with each object once it is settled.

    Returns:
        What became of every object, also of those that failed; `demand` raises where one did.

    Raises:
        ConnectionLost: The connection went away; what was declared stays declared.
        OperationTimeout: The deadline passed; likewise.
        PreconditionFailed: The broker lacks the plugin that partitions need.
    """
    applied: list[Applied] = []

    def known(spec: Thing) -> bool | None:
        return None if there is None or spec.name in declarations.contents else there(spec)

    def settled(step: Applied) -> None:
        applied.append(partitions.passed(step))
        on_step(step)

    declarations, held = yield from partitions.held_back(opener, declarations)
    for name, why in held.items():
        settled(Applied("queue", name, "failed", PreconditionFailed(why)))
    stages: tuple[tuple[Sequence[Thing], Sequence[Thing]], ...] = (
        (declarations.expected_exchanges, declarations.exchanges),
        (declarations.expected_queues, declarations.queues),
    )
    for looked_for, declared in stages:
        for some in _slices(looked_for):
            answers = yield from spread(opener, [passive(spec) for spec in some])
            for spec, answer in zip(some, answers, strict=True):
                settled(_simple(spec, answer, "present"))
        for some in _slices(declared):
            found = yield from _looked_for(opener, some, known)
            answers = yield from _declared(opener, some, found)
            for spec, seen, answer in zip(some, found, answers, strict=True):
                step = yield from _settle(opener, spec, seen, answer)
                if step.result == "created" and step.kind == "queue" and step.name in declarations.contents:
                    step = yield from _filled(opener, step, spec, declarations.contents[step.name])
                settled(step)
    ring, others = partitions.parted(declarations.bindings)
    for bindings in (*ring, *_slices(others)):
        answers = yield from spread(opener, [_bind(binding) for binding in bindings])
        for binding, answer in zip(bindings, answers, strict=True):
            settled(_simple(binding, answer, "bound"))
    return tuple(applied)


def verify(opener: Opener, declarations: Declarations) -> Flow[tuple[Applied, ...]]:
    """Check that every exchange and queue exists, without creating one (bindings cannot be asked for over AMQP 0-9-1).

    Raises:
        ObjectNotFound: Some do not; all of them are listed, with the remedy.
        AccessRefused: The user may not look.
    """
    specs: list[Thing] = [
        *declarations.exchanges,
        *declarations.expected_exchanges,
        *declarations.queues,
        *declarations.expected_queues,
    ]
    answers = yield from spread(opener, [passive(spec) for spec in specs])
    applied = tuple(_simple(spec, answer, "present") for spec, answer in zip(specs, answers, strict=True))
    missing = [step for step in applied if isinstance(step.error, ObjectNotFound)]
    if missing:
        names = ", ".join(f"{step.kind} '{step.name}'" for step in missing)
        ours = {spec.name for spec in declarations.exchanges} | {spec.name for spec in declarations.queues}
        remedies = []
        if any(step.name in ours for step in missing):
            remedies.append("`amqpq topology apply` creates what the topology file declares")
        if any(step.name not in ours for step in missing):
            remedies.append("what is under `manage: verify` its owner must create")
        remedy = ", and ".join(remedies)
        raise ObjectNotFound(f"missing on the broker: {names}; {remedy}")
    demand(applied)
    return applied


def compare(opener: Opener, declarations: Declarations) -> Flow[tuple[Applied, ...]]:
    """Look whether queues which exist (`verify` first) are as the file says, without changing one.

    Over AMQP 0-9-1 only an active declaration is compared with what exists, so each queue is declared as it should be: that
    creates nothing where one exists. It needs the configure permission; what may not be declared is not compared.

    Returns:
        Those that differ, each with every difference, both values and the remedy; `demand` raises where there are some.
    """
    specs = partitions.compared(declarations)
    answers = yield from spread(opener, [_active(spec) for spec in specs])
    different: list[Applied] = []
    for spec, answer in zip(specs, answers, strict=True):
        if isinstance(answer, PreconditionFailed):
            differences, _ = yield from _compared(opener, spec, answer)
            different.append(_failed(spec, answer, differences))
    return tuple(different)


def demand(applied: Sequence[Applied]) -> None:
    """Raise where an object failed: one error of the first one's kind, with the sentences of all.

    Raises:
        TransportError: `PreconditionFailed`, `AccessRefused`, `ObjectNotFound` or `ResourceLocked`.
    """
    errors = [step.error for step in applied if step.error is not None]
    if errors:
        raise type(errors[0])("\n".join(str(error) for error in errors))


@dataclass(frozen=True, slots=True)
class Seen:
    """What AMQP 0-9-1 tells of one object. `found` is as the broker has it, as far as the broker compares declarations.

    It is None where the object does not exist, and where `error` says why it could not be compared.
    """

    name: str
    exists: bool
    found: ExchangeSpec | QueueSpec | None = None
    state: QueueState | None = None
    error: TransportError | None = None


def look(
    opener: Opener, specs: Sequence[ExchangeSpec | QueueSpec], *, comparing: bool = True
) -> Flow[tuple[Seen, ...]]:
    """Look at objects without changing one; only those that exist are declared, which creates nothing.

    (One that is deleted between the two questions is created again, as the file wants it.) Comparing needs the configure
    permission; without `comparing` existence is all that is asked.

    Raises:
        ConnectionLost: The connection went away.
    """
    answers = yield from spread(opener, [passive(spec) for spec in specs])
    there = [
        (spec, answer)
        for spec, answer in zip(specs, answers, strict=True)
        if comparing and not isinstance(answer, TransportError)
    ]
    compared = yield from spread(opener, [_active(spec) for spec, _ in there])
    seen = {_key(spec): Seen(spec.name, exists=False) for spec in specs}
    for spec, answer in zip(specs, answers, strict=True):
        if isinstance(answer, TransportError) and not isinstance(answer, ObjectNotFound):
            seen[_key(spec)] = Seen(spec.name, exists=True, error=answer)
        elif not isinstance(answer, TransportError):
            seen[_key(spec)] = Seen(spec.name, exists=True, state=answer if isinstance(answer, QueueState) else None)
    for (spec, found), answer in zip(there, compared, strict=True):
        state = found if isinstance(found, QueueState) else None
        if isinstance(answer, PreconditionFailed) and inequivalent.read(answer):
            _, as_it_is = yield from _compared(opener, spec, answer)
            seen[_key(spec)] = Seen(spec.name, exists=True, found=as_it_is, state=state)
        elif isinstance(answer, TransportError):
            seen[_key(spec)] = Seen(spec.name, exists=True, state=state, error=answer)
        else:
            seen[_key(spec)] = Seen(spec.name, exists=True, found=spec, state=state)
    return tuple(seen[_key(spec)] for spec in specs)


def _key(spec: ExchangeSpec | QueueSpec) -> tuple[Kind, str]:
    return _kind(spec), spec.name


def _compared(
    opener: Opener, spec: Thing, refusal: PreconditionFailed
) -> Flow[tuple[tuple[Difference, ...], ExchangeSpec | QueueSpec | None]]:
    """Give in on every difference that the broker names, until it agrees.

    Returns:
        The differences, and the object as the broker has it; None where the broker never agreed.
    """
    differences: dict[str, Difference] = {}
    as_it_is, answer = spec, cast("object", refusal)
    for _ in range(DIFFERENCES):
        named = inequivalent.read(answer)
        if named is None or named.key in differences:
            break
        differences[named.key] = Difference(
            named.key, inequivalent.shown(named.broker), inequivalent.shown(named.asked)
        )
        as_it_is = inequivalent.give_in(as_it_is, named)
        (answer,) = yield from spread(opener, [_active(as_it_is)])
    return tuple(differences.values()), None if isinstance(answer, TransportError) else as_it_is


# ------------------------------------------------------------------------------------------------------------ declaring


def _slices(specs: Sequence[S]) -> Iterator[Sequence[S]]:
    return (specs[start : start + SLICE] for start in range(0, len(specs), SLICE))


def _looked_for(opener: Opener, specs: Sequence[Thing], known: Callable[[Thing], bool | None]) -> Flow[list[object]]:
    """Answer for each object as a passive declaration does: asked for, or known."""
    there = [known(spec) for spec in specs]
    unknown = [spec for spec, found in zip(specs, there, strict=True) if found is None]
    asked = iter((yield from spread(opener, [passive(spec) for spec in unknown])))
    absent = ObjectNotFound("it was not there")
    return [next(asked) if found is None else None if found else absent for found in there]


def _declared(opener: Opener, specs: Sequence[Spec], found: Sequence[object]) -> Flow[list[object]]:
    """Declare objects but those that could not even be looked for; an answer for each, of these the one known already."""
    undeclarable = [
        isinstance(there, TransportError) and not isinstance(there, ObjectNotFound | AccessRefused) for there in found
    ]
    wanted = [spec for spec, bad in zip(specs, undeclarable, strict=True) if not bad]
    answers = iter((yield from spread(opener, [_active(spec) for spec in wanted])))
    return [there if bad else next(answers) for there, bad in zip(found, undeclarable, strict=True)]


def _settle(opener: Opener, spec: Spec, found: object, answer: object) -> Flow[Applied]:
    """Say what became of one object: `found` answers a passive declaration, `answer` the one that creates."""
    if isinstance(answer, PreconditionFailed) and inequivalent.read(answer) and not isinstance(spec, BindingSpec):
        differences, _ = yield from _compared(opener, spec, answer)
        return _failed(spec, answer, differences)
    if isinstance(answer, TransportError):
        return _failed(spec, answer)
    return Applied(_kind(spec), _name(spec), "created" if isinstance(found, ObjectNotFound) else "present")


def _filled(opener: Opener, step: Applied, spec: Spec, contents: Sequence[Publication]) -> Flow[Applied]:
    """Fill a queue that was just created."""
    channel = opener()
    outcomes = yield channel.publish(contents)
    bad = next((outcome for outcome in outcomes if not outcome.confirmed), None)
    if bad is None:
        channel.close()
        return step
    # As if it had not been created: the next apply must find it missing, or it would never be filled.
    yield from spread(opener, [lambda channel: channel.delete_queue(step.name)])
    return _failed(spec, TransportError(f"what it starts with was not taken ({bad.fate} {bad.reason}); apply again"))


# --------------------------------------------------------------------------------------------------- what an answer means


def _simple(spec: Spec, answer: object, result: Result) -> Applied:
    if isinstance(answer, TransportError):
        return _failed(spec, answer)
    return Applied(_kind(spec), _name(spec), result)


def _failed(spec: Spec, error: TransportError, differences: tuple[Difference, ...] = ()) -> Applied:
    explained = _explained(spec, error, differences)
    return Applied(_kind(spec), _name(spec), "failed", explained, differences)


def _explained(spec: Spec, error: TransportError, differences: tuple[Difference, ...]) -> TransportError:
    """Say what is wrong with this object, and what to do."""
    kind, name = _kind(spec), _name(spec)
    what = f"{kind} '{name}'"
    if isinstance(error, PreconditionFailed) and differences:
        values = ", ".join(f"{d.key} = {d.broker} (the file says {d.file})" for d in differences)
        plural = "these cannot be changed" if len(differences) > 1 else "that cannot be changed"
        return PreconditionFailed(
            f"{what} exists with {values}; {plural} on an existing {kind}: write the broker's "
            f"value{'s' if len(differences) > 1 else ''} into the file, see what `amqpq topology plan` "
            f"can do, or, if its {'messages' if kind == 'queue' else 'bindings'} may go, "
            f"delete it ({_deletion(kind, name, error)}) and apply again"
        )
    invalid = _INVALID.search(str(error)) if isinstance(error, PreconditionFailed) else None
    if invalid is not None:
        why = invalid["why"].lstrip(": ").strip()
        return PreconditionFailed(
            f"{what}: this broker does not take {invalid['key']} {why}; remove it from the file".strip()
        )
    if isinstance(error, AccessRefused):
        return AccessRefused(f"{what}: {_bare(error)}; the user needs {_permission(kind)} permission for it")
    if isinstance(error, ObjectNotFound):
        remedy = "see what failed above" if kind == "binding" else "whoever owns it must create it (`manage: verify`)"
        return ObjectNotFound(f"{what}: {_bare(error)}; {remedy}")
    if isinstance(error, ResourceLocked):
        return ResourceLocked(f"{what}: {_bare(error)}; another connection holds it exclusively, close that one first")
    return type(error)(f"{what}: {_bare(error)}")


def _bare(error: TransportError) -> str:
    """Return the broker's own words, without a remedy that was put behind them for other occasions."""
    return str(error) if "rabbitmq-plugins" in str(error) else str(error).split("; ", 1)[0]


def _deletion(kind: Kind, name: str, error: TransportError) -> str:
    named = inequivalent.read(error)
    vhost = "/" if named is None else named.vhost
    if kind == "queue":
        return f"`rabbitmqctl delete_queue {'' if vhost == '/' else f'-p {shlex.quote(vhost)} '}{shlex.quote(name)}`"
    where = "" if vhost == "/" else f"--vhost={shlex.quote(vhost)} "
    return f"`rabbitmqadmin {where}delete exchange name={shlex.quote(name)}`"


def _permission(kind: Kind) -> str:
    return "configure" if kind != "binding" else "write on the target and read on the source as"


def _active(spec: Spec) -> Call:
    if isinstance(spec, ExchangeSpec):
        return lambda channel: channel.declare_exchange(spec)
    return lambda channel: channel.declare_queue(cast("QueueSpec", spec))


def _bind(spec: BindingSpec) -> Call:
    return lambda channel: channel.bind(spec)


def _kind(spec: Spec) -> Kind:
    if isinstance(spec, BindingSpec):
        return "binding"
    return "exchange" if isinstance(spec, ExchangeSpec) else "queue"


def _name(spec: Spec) -> str:
    if isinstance(spec, BindingSpec):
        return describe_binding(spec)
    return spec.name


def describe_binding(spec: BindingSpec) -> str:
    """Write a binding in the file's short form."""
    inside = ", ".join(_inside(spec))
    return f"{spec.source}{f'[{inside}]' if inside else ''} -> {spec.target}"


def _inside(spec: BindingSpec) -> Iterator[str]:
    if spec.key:
        yield spec.key
    for name, value in spec.arguments.items():
        yield f"{name}={value!r}"
