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
from typing import Final

from amqpq.provision.observed import SeenPolicy
from amqpq.topology.effective import APPLY_TO, TYPED_SINCE, generated_prefix
from amqpq.topology.versions import Version
from amqpq.types import Table

PATTERN_LIMIT: Final = 1024
"""Characters of a pattern (rabbit_policy, from 4.3 on)."""

NO_TAG: Final = "our user may not write policies"
TAG: Final = "have `rabbitmqctl set_user_tags USER policymaker` done for our user"

_SPECIAL = re.compile(r"[\\.^$*+?()\[\]{}|]")


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
    """A policy in the making. `old` is the one of the broker that it goes on from."""

    needs: list[Need]
    old: SeenPolicy | None = None
    loses: bool = False


def pattern_of(names: Iterable[str]) -> str:
    """Return the pattern that matches these names and nothing else."""
    escaped = [_SPECIAL.sub(r"\\\g<0>", name) for name in names]
    return f"^{escaped[0]}$" if len(escaped) == 1 else f"^({'|'.join(escaped)})$"


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
    free = {policy.name: policy for policy in sorted(there, key=lambda policy: _number(project, policy.name))}
    drafts: list[_Draft] = []
    for group in _groups(needs).values():
        drafts += _drafts(group, free, needs, version)
    _continue(drafts, free, needs)
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


def _groups(needs: Iterable[Need]) -> Mapping[tuple[str, int, str], list[Need]]:
    found: dict[tuple[str, int, str], list[Need]] = {}
    for need in sorted(needs, key=lambda need: need.name):
        key = (need.kind, need.priority, json.dumps(dict(need.definition), sort_keys=True))
        found.setdefault(key, []).append(need)
    return found


def _drafts(
    group: Sequence[Need], free: dict[str, SeenPolicy], needs: Sequence[Need], version: Version
) -> list[_Draft]:
    """Spread a group over policies: first over those that say the same already; what is used of `free` is taken out."""
    left = list(group)
    drafts: list[_Draft] = []
    for policy in [policy for policy in free.values() if _says_the_same(policy, group[0], version)]:
        members = [need for need in left if _matches(policy, need)]
        if members:
            loses = any(_matches(policy, need) and need not in members for need in needs)
            drafts.append(_Draft(members, free.pop(policy.name), loses))
            left = [need for need in left if need not in members]
    for need in left:
        roomy = (draft for draft in drafts if not draft.loses and _fits([*draft.needs, need]))
        draft = next(roomy, None)
        if draft is None:
            drafts.append(_Draft([need]))
        else:
            draft.needs.append(need)
    return drafts


def _continue(drafts: Iterable[_Draft], free: dict[str, SeenPolicy], needs: Sequence[Need]) -> None:
    """Let new policies go on from those that nobody uses any more, where no object is left without one for a moment."""
    for draft in drafts:
        if draft.old is not None:
            continue
        before = {name: [need for need in needs if _matches(policy, need)] for name, policy in free.items()}
        fitting = [name for name, theirs in before.items() if all(need in draft.needs for need in theirs)]
        if fitting:
            draft.old = free.pop(max(fitting, key=lambda name: len(before[name])))


def _says_the_same(policy: SeenPolicy, need: Need, version: Version) -> bool:
    return (policy.apply_to, policy.priority, dict(policy.definition)) == (
        apply_to(need.kind, version),
        need.priority,
        dict(need.definition),
    )


def _matches(policy: SeenPolicy, need: Need) -> bool:
    exchange = need.kind == "exchange"
    if exchange is not (policy.apply_to == "exchanges") and policy.apply_to != "all":
        return False
    try:
        return re.search(policy.pattern, need.name) is not None
    except re.error:  # somebody has changed it by hand
        return False


def _fits(needs: Sequence[Need]) -> bool:
    return len(pattern_of(sorted(need.name for need in needs))) <= PATTERN_LIMIT


def _finished(draft: _Draft, names: Iterable[str], version: Version) -> Generated:
    first = draft.needs[0]
    name = draft.old.name if draft.old is not None else next(iter(names))
    needs = tuple(sorted(draft.needs, key=lambda need: need.name))
    pattern = pattern_of(need.name for need in needs)
    policy = SeenPolicy(name, pattern, apply_to(first.kind, version), first.priority, first.definition)
    return Generated(policy, needs)
