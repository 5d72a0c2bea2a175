"""A child of the prefork pool as its parent sees it: the process, its two sockets, the board, what it holds."""

from __future__ import annotations

import mmap
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amqpq.topology import Topology
from amqpq.worker.limits import NO_LIMITS, NO_RECYCLING, Limits, Recycling
from amqpq.worker.logs import PLAIN, LogPlan
from amqpq.worker.pools import wire
from amqpq.worker.work import Work

_BOOT = "import sys; sys.path[:] = {path!r}; from amqpq.worker.pools.child import main; main()"


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What every child is told: the application, its topology, the worker's name, how to log, time limits, its end."""

    reference: str
    worker: str
    logs: LogPlan = PLAIN
    topology: Topology | None = None
    limits: Limits = NO_LIMITS
    recycling: Recycling = NO_RECYCLING


class Child:
    """One child, as the parent sees it. All sockets are non-blocking on this side."""

    def __init__(self, plan: ChildPlan, now: float) -> None:
        self.works, theirs = socket.socketpair()
        self.control, their_control = socket.socketpair()
        with theirs, their_control, tempfile.TemporaryFile() as board:
            board.truncate(wire.BOARD_BYTES)
            self.board = mmap.mmap(board.fileno(), wire.BOARD_BYTES)
            inherited = (theirs.fileno(), their_control.fileno(), board.fileno())
            shared = () if plan.logs.lock is None else (plan.logs.lock,)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=sys.path), *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited + shared,
                process_group=0,
            )
        self.works.setblocking(False)
        self.control.setblocking(False)
        self.unframer = wire.Unframer()
        self.unsent = bytearray()
        self.watched_for_room: bool | None = None
        self.held: dict[int, Work] = {}
        self.sent = 0
        self.born = self.heard = now
        self.ready = False
        self.alone = False
        self.recalling = False
        self.why_unfit = ""
        self.done = 0
        self.retiring = False
        self.overran: tuple[int, float] | None = None
        memory_bytes = plan.recycling.memory_bytes
        init = wire.Init(plan.reference, plan.topology, plan.worker, plan.logs, plan.limits, memory_bytes)
        self.queue_messages([init])

    def queue_messages(self, messages: Sequence[Any]) -> None:
        """Line up one frame."""
        self.unsent += wire.frame(messages)

    def give(self, works: Sequence[Work], now: float) -> None:
        """Line up works as one frame."""
        if not self.held:
            self.heard = now
        for work in works:
            self.held[work.number] = work
        self.sent += len(works)
        self.alone = works[0].alone
        self.queue_messages([wire.pack_work(work) for work in works])

    def recall(self) -> None:
        """Ask for what it has not begun."""
        if not self.recalling:
            try:
                self.control.send(wire.CONTROL.pack(self.sent))
            except OSError:
                return  # it is dying: what it holds comes back another way
            self.recalling = True

    def close(self) -> None:
        """Let go of the sockets and the board."""
        self.works.close()
        self.control.close()
        self.board.close()


def death(status: int) -> str:
    """Say in words how a process ended, given its exit status."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"
