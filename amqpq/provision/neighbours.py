"""What other projects own in the same virtual host: each has its manifest in a journal of its own. Pure.

An object with two owners is told to both: what one of them changes or removes, the other loses. And nothing is removed that
another project owns as well; it is given up instead, so that in the end it has one owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from amqpq.provision.changes import Action, Change, Kind
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed, address_of_binding
from amqpq.provision.removals import GONE, addresses
from amqpq.provision.wanted import Wanted

REMEDY: Final = "write `manage: verify` into the file of one of the two, and apply a plan of that"


def owners(others: Mapping[str, Manifest]) -> dict[str, str]:
    """Return the project of each address that another one than this owns."""
    return {address: project for project, manifest in others.items() for address in manifest.owned}


def given_up(wanted: Wanted, owned: frozenset[str], theirs: Mapping[str, str]) -> frozenset[str]:
    """Return what was this project's, is not in its file any more, and is another one's as well."""
    return (owned & theirs.keys()) - addresses(wanted)


def shared(wanted: Wanted, observed: Observed, owned: frozenset[str], theirs: Mapping[str, str]) -> Iterator[Change]:
    """Return what has two owners.

    Args:
        wanted: What the file says.
        observed: What was seen.
        owned: Addresses of what this project made.
        theirs: The projects of what others made, by address.
    """
    there = _there(observed)
    ours = [
        *(f"exchange {name}" for name in wanted.exchanges),
        *(f"queue {name}" for name in wanted.queues),
        *(f"policy {name}" for name in wanted.policies),
    ]
    for address in ours:
        if address in theirs and address in there:
            because = f"the project {theirs[address]} owns it as well: what one of the two changes or removes, the other loses"
            yield _change(address, Action.FOREIGN, because=because, remedy=REMEDY)
    for address in sorted(given_up(wanted, owned, theirs) & there):
        yield _change(
            address, Action.INFO, because=f"{GONE}, and left to the project {theirs[address]}, which owns it as well"
        )


def kept(change: Change, theirs: Mapping[str, str]) -> Change:
    """Return a change; where it removes what another project owns as well, that it does not."""
    if change.action is not Action.DELETE or change.address not in theirs:
        return change
    because = f"{change.because}, and left to the project {theirs[change.address]}, which owns it as well"
    return replace(change, action=Action.INFO, because=because, remedy="")


def unread(others: Mapping[str, Manifest]) -> Iterator[Change]:
    """Return of which projects nobody knows what they own."""
    for project, manifest in others.items():
        if manifest.problem:
            because = f"what the project {project} owns cannot be read: {manifest.problem}"
            yield Change("broker", f"journal of {project}", Action.INFO, because=because)


def _change(address: str, action: Action, **facts: Any) -> Change:
    kind, _, name = address.partition(" ")
    return Change(cast("Kind", kind), name, action, **facts)


def _there(observed: Observed) -> frozenset[str]:
    return frozenset(
        [
            *(f"exchange {name}" for name in observed.exchanges),
            *(f"queue {name}" for name in observed.queues),
            *(f"policy {policy.name}" for policy in observed.policies or ()),
            *(f"binding {address_of_binding(binding)}" for binding in observed.bindings or ()),
        ]
    )
