"""How a parent and a child of the prefork pool talk: frames of several messages over one socket.

A frame is a length (four bytes, big endian), a letter and a list: as `marshal` writes it, or, where it holds what that does
not know (a date in a header, the first frame), as `pickle` does. A work takes `marshal` half the time (0.6 and 0.8 us against
1.4 and 1.7). Neither is for strangers, and `marshal` not even for another version of Python; but both ends are one program
on one machine, started by one another, and the child runs the user's code anyway. Values travel as bare tuples: `marshal`
knows no others, and pickle calls the class of a named tuple again, which costs more than the rest.
"""

from __future__ import annotations

import marshal
import mmap
import pickle
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from amqpq.topology import Topology
from amqpq.types import Properties
from amqpq.worker.limits import NO_LIMITS, Limits
from amqpq.worker.logs import LogPlan
from amqpq.worker.work import RUNNING, Finished, Reply, Report, Work

LENGTH: Final = struct.Struct("!I")
BOARD: Final = struct.Struct("=QB")
"""The notice board, a few shared bytes that outlive the child: the number it works on (0: none) and how far it is."""
DEADLINE: Final = struct.Struct("@d")
"""Two more on the board, each written in one piece: when the task must have ended, and its hard limit, seconds.

The time is the system's monotonic clock, which parent and child share; 0 means that there is no limit now. On the board
they cost a task nothing but a write to memory; a message would be two system calls."""
DEADLINE_AT: Final = 16
LIMIT_AT: Final = 24
BEGAN_AT: Final = 32
"""When the function of the running task began, on the same clock; for who looks at the worker."""
BOARD_BYTES: Final = 40
CONTROL: Final = struct.Struct("=Q")
"""The only control message: hand back what you have not begun of the first N works I sent you."""

READ_BYTES: Final = 120 * 1024
"""Of one read. From 128 KiB on the C library takes the memory for it from the system, and gives it back, each time: a read costs
five times as much then, however little there is to read (29 us instead of 5 on two virtual cores)."""

_REPORT = -1
"""In place of a number of deliveries, so that one tuple shape serves both kinds of message from a child."""


@dataclass(frozen=True, slots=True)
class Init:
    """The first frame to a child: what it needs to become one."""

    reference: str
    topology: Topology | None
    worker: str
    logs: LogPlan
    limits: Limits = NO_LIMITS
    memory_bytes: int | None = None


class Ready(NamedTuple):
    """From a child: the application is loaded."""


class Unfit(NamedTuple):
    """From a child: the application cannot be loaded, and this is why. It ends after that."""

    reason: str


class Full(NamedTuple):
    """From a child: after its last task it holds more memory than it may. It begins nothing more and hands back the rest."""

    resident_bytes: int


class HandedBack(NamedTuple):
    """From a child: these were not begun and will not be. `recalled`: this answers a recall, empty or not."""

    numbers: tuple[int, ...]
    recalled: bool


_PLAIN: Final = ord("m")
_HEAD: Final = struct.Struct("!Ic")


def frame(messages: list[Any]) -> bytes:
    """Return one frame that holds the messages."""
    try:
        letter, payload = b"m", marshal.dumps(messages)
    except ValueError:
        letter, payload = b"p", pickle.dumps(messages, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEAD.pack(len(payload) + 1, letter) + payload


def _messages(payload: memoryview) -> list[Any]:
    load: Callable[[memoryview], list[Any]] = marshal.loads if payload[0] == _PLAIN else pickle.loads
    return load(payload[1:])


class Unframer:
    """Takes bytes as they come, gives messages back."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Return every message that is complete now."""
        complete: list[Any] = []
        buffer = self._buffer
        if not buffer and len(data) >= LENGTH.size and LENGTH.unpack_from(data)[0] == len(data) - LENGTH.size:
            with memoryview(data) as view:  # one whole frame, as nearly always
                complete += _messages(view[LENGTH.size :])
            return complete
        buffer += data
        offset = 0
        while len(buffer) - offset >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, offset)
            end = offset + LENGTH.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view, view[offset + LENGTH.size : end] as payload:
                complete += _messages(payload)
            offset = end
        del buffer[:offset]
        return complete


def post_deadline(board: mmap.mmap, due: float, limit: float) -> None:
    """Write on the board when the running task must have ended."""
    DEADLINE.pack_into(board, LIMIT_AT, limit)
    DEADLINE.pack_into(board, DEADLINE_AT, due)


def clear_deadline(board: mmap.mmap) -> None:
    """Take it off; before another number is written."""
    DEADLINE.pack_into(board, DEADLINE_AT, 0.0)


def read_deadline(board: mmap.mmap) -> tuple[int, float, float] | None:
    """Return the number that is worked on, when that must have ended and its limit; None where there is no limit.

    The other process may write meanwhile. No two tasks have the same deadline, and it is off the board while the number
    changes: so what was read between two equal readings of it belongs together.
    """
    (due,) = DEADLINE.unpack_from(board, DEADLINE_AT)
    if not due:
        return None
    number, _ = BOARD.unpack_from(board, 0)
    (limit,) = DEADLINE.unpack_from(board, LIMIT_AT)
    return (number, due, limit) if DEADLINE.unpack_from(board, DEADLINE_AT) == (due,) else None


def post_stage(board: mmap.mmap, number: int, stage: int) -> None:
    """Write on the board which work the child is at, and how far."""
    if stage == RUNNING:
        DEADLINE.pack_into(board, BEGAN_AT, time.monotonic())
    BOARD.pack_into(board, 0, number, stage)


def read_running(board: mmap.mmap) -> tuple[int | None, float | None]:
    """Return the number of the work whose function runs and since when; None, None where none does."""
    number, stage = BOARD.unpack_from(board, 0)
    if stage != RUNNING:
        return None, None
    (began,) = DEADLINE.unpack_from(board, BEGAN_AT)
    return number, began


def pack_work(work: Work) -> tuple[Any, ...]:
    """Return the work as plain values."""
    number, queue, body, properties, *rest = work
    return (number, queue, body, tuple(properties), *rest)


def unpack_work(values: tuple[Any, ...]) -> Work:
    """Return the work of plain values."""
    number, queue, body, properties, *rest = values
    return Work(number, queue, body, Properties(*properties), *rest)


_REPLY_AT = Finished._fields.index("reply")
_CHANGED_AT = Finished._fields.index("changed")


def pack_finished(finished: Finished) -> tuple[Any, ...]:
    """Return an outcome as plain values."""
    values: list[Any] = list(finished)
    values[1] = str(finished.happened)
    if finished.reply is finished.changed is None:  # mostly
        return tuple(values)
    values[_REPLY_AT] = _pack_reply(finished.reply)
    values[_CHANGED_AT] = _pack_reply(finished.changed)
    return tuple(values)


def unpack_finished(values: tuple[Any, ...]) -> Finished:
    """Return the outcome of plain values."""
    if values[_REPLY_AT] is values[_CHANGED_AT] is None:  # mostly
        return Finished(*values)
    fields = list(values)
    fields[_REPLY_AT] = _unpack_reply(fields[_REPLY_AT])
    fields[_CHANGED_AT] = _unpack_reply(fields[_CHANGED_AT])
    return Finished(*fields)


def pack_report(report: Report) -> tuple[Any, ...]:
    """Return a state on the way as plain values."""
    return (_REPORT, report.number, _pack_reply(report.reply))


def unpack_report(values: tuple[Any, ...]) -> Report:
    """Return the state of plain values."""
    reply = _unpack_reply(values[2])
    if reply is None:
        raise TypeError("a report without a reply")
    return Report(values[1], reply)


def is_report(values: tuple[Any, ...]) -> bool:
    """Whether plain values from a child are a state on the way; else they are an outcome."""
    return bool(values[0] == _REPORT)


def _pack_reply(reply: Reply | None) -> tuple[Any, ...] | None:
    return None if reply is None else (reply.routing_key, reply.body, tuple(reply.properties))


def _unpack_reply(values: tuple[Any, ...] | None) -> Reply | None:
    return None if values is None else Reply(values[0], values[1], Properties(*values[2]))
