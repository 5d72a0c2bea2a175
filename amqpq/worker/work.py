"""What travels between the worker's loop and its pools. Values only; what may be said of a delivery, and nothing that acts.

They are named tuples because millions of them are made: a frozen dataclass costs six times as much to create.
"""

from __future__ import annotations

from typing import NamedTuple

from amqpq.types import Properties

DECODING = 1
"""A child is checking and decoding the message: nothing in it can be believed yet."""
RUNNING = 2
"""The signature was checked where one is required; the function runs."""


class Work(NamedTuple):
    """One delivery for a pool. `number` is the loop's name for it, never used twice."""

    number: int
    queue: str
    body: bytes
    properties: Properties
    exchange: str
    routing_key: str
    redelivered: bool
    alone: bool
    """It has killed a child before, or came back from a worker that died: nothing else is given to the child that runs it."""
    limits: tuple[float | None, float | None] | None = None
    """Hard and soft, seconds: what remote control has said of its task. None: what the task itself says."""


class Reply(NamedTuple):
    """A result or a state, encoded and signed: to the default exchange with the reply queue's name."""

    routing_key: str
    body: bytes
    properties: Properties


class Finished(NamedTuple):
    """What became of one `Work`. `happened` is a word of `settle.Happened`."""

    number: int
    happened: str
    task: str = ""
    """The verified name; empty where the message was refused before that."""
    seconds: float = 0.0
    """How long the function ran."""
    reply: Reply | None = None
    cause: str = ""
    """The stable word for the dead letter."""
    reason: str = ""
    """The same as a sentence."""
    traceback: str = ""
    due: float = 0.0
    """When it is to come again, seconds since the epoch; 0 is at once, or never."""
    changed: Reply | None = None
    """The message that is to come instead of it, for its own queue."""
    drop: bool = False
    """It is to leave no dead letter, because the file says so."""


class Remains(NamedTuple):
    """What is left of a child that died. None and empty: not known, or not so."""

    exit_code: int | None
    signal: str
    """The name of the signal that killed it."""
    peak_bytes: int | None
    """The most memory that it held at a time."""
    last_lines: str
    """Of its log."""
    fault: str = ""
    """The stack that the interpreter left when it broke."""


class Report(NamedTuple):
    """A state on the way: STARTED, PROGRESS, or a word of the task's own."""

    number: int
    reply: Reply
