r"""Policies made of what queues and exchanges need: one for each group of objects that need the same. Pure.

The broker applies one user policy to an object, whole or not at all. So a generated policy names its objects (`^(a|b\.c)$`,
nothing else can match), is for their one type, and holds all that they need.

What there is already is kept where that is possible. An object that needs a policy must have one at every moment, or its limit
or its dead letters would be gone for that moment. So a policy that loses an object to another one is not changed otherwise in
the same run, and written after that other one; that is also the order in which they are returned.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeAlias

from amqpq.provision.observed import SeenPolicy
from amqpq.topology.effective import APPLY_TO, TYPED_SINCE, generated_prefix
from amqpq.topology.versions import Version
from amqpq.types import Table

PATTERN_LIMIT: Final = 1024
"""Characters of a pattern (rabbit_policy, from 4.3 on)."""

NO_TAG: Final = "our user may not write policies"
TAG: Final = "have `rabbitmqctl set_user_tags USER policymaker` done for our user"

_SPECIAL = re.compile(r"[\\.^$*+?()\[\]{}|]")
_ESCAPED = re.compile(r"\\(.)")
_BETWEEN = re.compile(r"(?<!\\)\|")


_Key: TypeAlias = tuple[str, int, str]
"""What a group has in common: for which objects, priority and definition."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one object needs of a policy. `kind` is `exchange`, or the type of a queue."""

    kind: str
    name: str
    priority: int
    definition: Table

    @property
    def address(self) -> str:
        """The object in words: `queue orders`."""
        return f"{'exchange' if self.kind == 'exchange' else 'queue'} {self.name}"


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated policy, and the objects it is for."""

    policy: SeenPolicy
    needs: tuple[Need, ...]


@dataclass(slots=True)
class _Draft:
    """A policy in the making. `old` is the one of the broker that it goes on from; `size` is the length of its pattern."""

    needs: list[Need]
    old: SeenPolicy | None = None
    loses: bool = False
    size: int = len("^()$") - 1

    def __post_init__(self) -> None:
        self.size += sum(_size(need) for need in self.needs)

    def has_room(self, need: Need) -> bool:
        """Whether its pattern can take one more name."""
        return not self.loses and self.size + _size(need) <= PATTERN_LIMIT

    def add(self, need: Need) -> None:
        """Take one more in."""
        self.needs.append(need)
        self.size += _size(need)


def pattern_of(names: Iterable[str]) -> str:
    """Return the pattern that matches these names and nothing else."""
    escaped = [_escaped(name) for name in names]
    return f"^{escaped[0]}$" if len(escaped) == 1 else f"^({'|'.join(escaped)})$"


def _escaped(name: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", name)


def _size(need: Need) -> int:
    return len(_escaped(need.name)) + len("|")


def _names_of(pattern: str) -> list[str] | None:
    """Return the names that a generated pattern is made of; None where it is not one."""
    if not pattern.startswith("^") or not pattern.endswith("$"):
        return None
    inside = pattern[1:-1]
    if inside.startswith("(") and inside.endswith(")"):
        inside = inside[1:-1]
    names = [_ESCAPED.sub(r"\1", name) for name in _BETWEEN.split(inside)]
    return names if pattern_of(names) == pattern else None


def apply_to(kind: str, version: Version) -> str:
    """Return for which objects a policy is; a broker before 3.12 tells types of queues not apart."""
    if kind == "exchange":
        return "exchanges"
    return APPLY_TO[kind] if version >= TYPED_SINCE else "queues"


def compiled(
    project: str,
    needs: Sequence[Need],
    there: Sequence[SeenPolicy],
    version: Version,
    *,
    taken: frozenset[str] = frozenset(),
) -> tuple[Generated, ...]:
    """Return the policies that give each object what it needs, in the order in which they are to be written.

    Args:
        project: Whose.
        needs: One for each object.
        there: The project's generated policies that are on the broker.
        version: The broker's.
        taken: Names that are not to be used, where `there` may not be all.
    """
    ordered = sorted(there, key=lambda policy: _number(project, policy.name))
    before = {policy.name: (policy, _members(policy, needs)) for policy in ordered}
    same: dict[_Key, list[str]] = {}
    for policy in ordered:
        same.setdefault((policy.apply_to, policy.priority, _text(policy.definition)), []).append(policy.name)
    drafts: list[_Draft] = []
    for (kind, priority, definition), group in _groups(needs).items():
        known = same.get((apply_to(kind, version), priority, definition), ())
        drafts += _drafts(
            group,
            [
                before.pop(name)
                for name in known
                if name in before and not before[name][1].isdisjoint(_addresses(group))
            ],
        )
    _continue(drafts, before)
    used = {*taken, *(policy.name for policy in there)}
    numbers = (f"{generated_prefix(project)}{number}" for number in count(1))
    names = iter(name for name in numbers if name not in used)
    found = [(draft.loses, _finished(draft, names, version)) for draft in drafts]
    return tuple(generated for _, generated in sorted(found, key=lambda pair: pair[0]))


def command(vhost: str, policy: SeenPolicy) -> str:
    """Return what an administrator types to set a policy."""
    definition = json.dumps(dict(policy.definition))
    options = f"{_where(vhost)}--priority {policy.priority} --apply-to {policy.apply_to}"
    words = " ".join(shlex.quote(word) for word in (policy.name, policy.pattern, definition))
    return f"rabbitmqctl set_policy {options} {words}"


def clearing(vhost: str, name: str) -> str:
    """Return what an administrator types to remove a policy."""
    return f"rabbitmqctl clear_policy {_where(vhost)}{shlex.quote(name)}"


def _where(vhost: str) -> str:
    return "" if vhost in {"", "/"} else f"-p {shlex.quote(vhost)} "


def _number(project: str, name: str) -> int:
    return int(name.removeprefix(generated_prefix(project)))


def _text(definition: Table) -> str:
    return json.dumps(dict(definition), sort_keys=True)


def _addresses(needs: Iterable[Need]) -> frozenset[str]:
    return frozenset(need.address for need in needs)


def _groups(needs: Iterable[Need]) -> Mapping[_Key, list[Need]]:
    found: dict[_Key, list[Need]] = {}
    for need in sorted(needs, key=lambda need: need.name):
        found.setdefault((need.kind, need.priority, _text(need.definition)), []).append(need)
    return found


def _drafts(group: Sequence[Need], before: Iterable[tuple[SeenPolicy, frozenset[str]]]) -> list[_Draft]:
    """Spread a group over policies, first over those that say the same already: each with the objects that it matches."""
    left = {need.address: need for need in group}
    drafts: list[_Draft] = []
    for policy, members in before:
        mine = [need for need in group if need.address in members and left.pop(need.address, None) is not None]
        if mine:
            drafts.append(_Draft(mine, policy, loses=not members <= _addresses(mine)))
    for need in left.values():
        draft = next((draft for draft in drafts if draft.has_room(need)), None)
        if draft is None:
            drafts.append(_Draft([need]))
        else:
            draft.add(need)
    return drafts


def _continue(drafts: Iterable[_Draft], free: dict[str, tuple[SeenPolicy, frozenset[str]]]) -> None:
    """Let new policies go on from those that nobody uses any more, where no object is left without one for a moment."""
    for draft in drafts:
        if draft.old is not None:
            continue
        mine = _addresses(draft.needs)
        fitting = [name for name, (_, members) in free.items() if members <= mine]
        if fitting:
            draft.old, _ = free.pop(max(fitting, key=lambda name: len(free[name][1])))


def _members(policy: SeenPolicy, needs: Sequence[Need]) -> frozenset[str]:
    """Return the addresses of the objects with needs that a policy matches."""
    names = _names_of(policy.pattern)
    known = None if names is None else frozenset(names)
    return frozenset(
        need.address
        for need in needs
        if (policy.apply_to == "all" or (need.kind == "exchange") is (policy.apply_to == "exchanges"))
        and (need.name in known if known is not None else _found(policy.pattern, need.name))
    )


def _found(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # somebody has changed it by hand
        return False


def _finished(draft: _Draft, names: Iterable[str], version: Version) -> Generated:
    first = draft.needs[0]
    name = draft.old.name if draft.old is not None else next(iter(names))
    needs = tuple(sorted(draft.needs, key=lambda need: need.name))
    pattern = pattern_of(need.name for need in needs)
    policy = SeenPolicy(name, pattern, apply_to(first.kind, version), first.priority, first.definition)
    return Generated(policy, needs)
