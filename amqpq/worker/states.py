"""What a worker's connections, subscriptions and publications can be, and what takes them from one to the next. Tables.

No deaf worker: from every state but the last a way leads to consuming again, or to the end of the process; a unit test walks
the tables for that. Whoever owns such a thing (`lane.Lane`, `intake.Intake`, `loop.Loop`) keeps a `Position` on its table and
acts on the state it comes to. An event that the table does not have is a bug: it raises, and the worker ends with an error,
which a supervisor sees. Going on in an unknown state is how workers become deaf.

The diagrams in docs/reference/states.md are drawn from these tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


class ImpossibleEvent(RuntimeError):
    """Something happened that the table does not know in this state: a bug."""


@dataclass(frozen=True, slots=True)
class Table:
    """States, and the events that lead from one to the next.

    `moves` maps (state, event) to the next state; `from_anywhere` maps events that may come in any state but the last.
    `good` are the states that a healthy worker rests in, `last` those that nothing follows.
    """

    name: str
    first: str
    moves: Mapping[tuple[str, str], str]
    from_anywhere: Mapping[str, str]
    good: frozenset[str]
    last: frozenset[str]

    @property
    def states(self) -> tuple[str, ...]:
        """Every state, in the order of the table."""
        named = [state for (state, _), following in self.moves.items() for state in (state, following)]
        return tuple(dict.fromkeys([self.first, *named, *self.from_anywhere.values()]))

    def after(self, state: str, event: str) -> str:
        """Return the state that follows.

        Raises:
            ImpossibleEvent: The table has no such move.
        """
        following = self.moves.get((state, event))
        if following is None and state not in self.last:
            following = self.from_anywhere.get(event)
        if following is None:
            raise ImpossibleEvent(f"{self.name}: {event!r} happened in state {state!r}")
        return following

    def reachable(self, start: str, *, without: Iterable[str] = ()) -> frozenset[str]:
        """Return every state that some sequence of events leads to, `start` included; events in `without` do not count."""
        left_out = frozenset(without)
        found = {start}
        pending = [start]
        while pending:
            state = pending.pop()
            following = {to for (at, event), to in self.moves.items() if at == state and event not in left_out}
            if state not in self.last:
                following |= {to for event, to in self.from_anywhere.items() if event not in left_out}
            pending += following - found
            found |= following
        return frozenset(found)


class Position:
    """Where something is on its table."""

    __slots__ = ("state", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.state = table.first

    def __repr__(self) -> str:
        """Show the table's name and the state."""
        return f"<{self.table.name}: {self.state}>"

    def move(self, event: str) -> str:
        """Go where the event leads, and return that state.

        Raises:
            ImpossibleEvent: The table has no such move.
        """
        self.state = self.table.after(self.state, event)
        return self.state

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return self.state in self.table.last


CONNECTION: Final = Table(
    "connection",
    first="new",
    moves={
        ("new", "start"): "connecting",
        ("connecting", "found"): "up",
        ("connecting", "refused"): "pausing",
        ("pausing", "try again"): "connecting",
        # Lost covers all the ways a connection ends: closed by the broker, by an operator, a heartbeat that did not come,
        # a socket that broke. A half-open one is found by the heartbeat.
        ("up", "lost"): "connecting",
    },
    from_anywhere={"hopeless": "closed", "close": "closed"},
    good=frozenset({"up"}),
    last=frozenset({"closed"}),
)
"""One of the worker's two connections. `refused` is a broker that answers no (it does while it starts); silence is not an
event, the link looks on. `hopeless` (wrong password, or refused for too long) ends the worker."""

SUBSCRIPTION: Final = Table(
    "subscription",
    first="idle",
    moves={
        ("idle", "open"): "subscribing",
        ("subscribing", "subscribed"): "consuming",
        # One event for a cancel by the broker, a channel that it closed and a queue that is not there.
        ("subscribing", "ended"): "pausing",
        ("consuming", "ended"): "pausing",
        ("pausing", "open"): "subscribing",
        ("pausing", "disconnected"): "idle",
        ("subscribing", "disconnected"): "idle",
        ("consuming", "disconnected"): "idle",
        # The watchdog: what should consume does not, whatever we believe.
        ("subscribing", "deaf"): "renewing",
        ("consuming", "deaf"): "renewing",
        ("renewing", "ended"): "pausing",
        ("renewing", "disconnected"): "idle",
    },
    from_anywhere={"starved": "over", "stop": "over"},
    good=frozenset({"consuming"}),
    last=frozenset({"over"}),
)
"""The subscription to one queue. `starved` is a queue that stays missing; it ends the worker with an error."""

STAGE: Final = Table(
    "worker",
    first="starting",
    moves={
        ("starting", "ready"): "working",
        # Again after each reconnect: the subscriptions are opened anew.
        ("working", "ready"): "working",
        ("starting", "stop"): "draining",
        ("working", "stop"): "draining",
        ("draining", "drained"): "over",
    },
    from_anywhere={"stop now": "over"},
    good=frozenset({"working"}),
    last=frozenset({"over"}),
)
"""The worker as a whole. `stop now` is the second signal, the shutdown timeout, or an error."""

PUBLICATION: Final = Table(
    "publication",
    first="to publish",
    moves={
        ("to publish", "written"): "under way",
        ("to publish", "no connection"): "waiting",
        ("under way", "confirmed"): "done",
        # A reply that nobody waits for is done; a dead letter without a queue is not (settle.REVIEWS).
        ("under way", "returned reply"): "done",
        ("under way", "returned"): "waiting",
        ("under way", "nacked"): "waiting",
        ("under way", "unknown"): "waiting",
        ("waiting", "pause over"): "to publish",
        ("waiting", "connected again"): "to publish",
        # Its delivery went back to the broker, and with it what only its redelivery may publish.
        ("under way", "delivery gone"): "left to the redelivery",
        ("waiting", "delivery gone"): "left to the redelivery",
        ("left to the redelivery", "handed over"): "to publish",
    },
    from_anywhere={"given back": "dropped"},
    good=frozenset({"done"}),
    last=frozenset({"done", "dropped"}),
)
"""One step of a settlement in flight: a result, a dead letter, another try. It is the settler's bookkeeping in a picture; the
delivery is acknowledged when all of its steps are `done`, and `given back` when the worker stops before that."""

TABLES: Final = (STAGE, CONNECTION, SUBSCRIPTION, PUBLICATION)


def diagram(table: Table) -> str:
    """Return the table as a Mermaid state diagram."""

    def name(state: str) -> str:
        return state.replace(" ", "_")

    lines = ["stateDiagram-v2", f"    [*] --> {name(table.first)}"]
    lines += [f'    state "{state}" as {name(state)}' for state in table.states if " " in state]
    joined: dict[tuple[str, str], list[str]] = {}
    for (state, event), following in table.moves.items():
        joined.setdefault((state, following), []).append(event)
    for state in table.states:
        if state not in table.last:
            for event, following in table.from_anywhere.items():
                joined.setdefault((state, following), []).append(event)
    lines += [
        f"    {name(state)} --> {name(following)}: {', '.join(events)}" for (state, following), events in joined.items()
    ]
    lines += [f"    {name(state)} --> [*]" for state in table.states if state in table.last]
    return "\n".join(lines)
