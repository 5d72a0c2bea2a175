"""A child as its parent sees it: the process, its two sockets, the board, what it holds."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from amqpq.topology import Topology
from amqpq.worker.limits import NO_LIMITS, NO_RECYCLING, Limits, Recycling
from amqpq.worker.logs import PLAIN, LogPlan
from amqpq.worker.pools import tail, wire
from amqpq.worker.work import Remains, Work

_BOOT: Final = "import sys; sys.path[:] = {path!r}; "
_KEEP: Final = "import _thread, socket; system = _thread.start_new_thread, _thread.allocate_lock, socket.socket; "
_BEGINNINGS: Final[Mapping[str, str]] = {
    "prefork": "from amqpq.worker.pools.child import main; main()",
    "asyncio": "from amqpq.worker.pools.asyncio_hub import main; main()",
    # Patched before anything else is imported, so that nothing holds on to what is replaced. Our own thread is a real one.
    "gevent": _KEEP + "from gevent.monkey import patch_all; patch_all(); "
    "from amqpq.worker.pools.gevent_hub import main; main(*system)",
    # Its word of farewell to every child that starts would be no line of our log; the docs have it.
    "eventlet": _KEEP + r"import warnings; warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated'); "
    "from eventlet import monkey_patch; monkey_patch(); "
    "from amqpq.worker.pools.eventlet_hub import main; main(*system)",
}
"""The first words of a child, by pool."""


MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""getrusage(2): kilobytes, but bytes on macOS."""

UNSEEN: Final = 256
"""In place of an exit status, which is below that: the process has ended, and whoever could have told how is gone."""


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What every child is told: the application, its topology, the worker's name, how to log, limits, its end, its kind."""

    reference: str
    worker: str
    logs: LogPlan = PLAIN
    topology: Topology | None = None
    limits: Limits = NO_LIMITS
    recycling: Recycling = NO_RECYCLING
    pool: str = "prefork"


class Process(Protocol):
    """The process of a child, however it was started.

    `peak_bytes` is what it held at most at a time, known when it has ended; on Linux it begins with the size of the process that
    started or forked it, then. `loaded` says that it begins with the application.
    """

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal, or `UNSEEN`; None while its end is not known."""

    @property
    def peak_bytes(self) -> int | None:
        """See above; bytes."""

    @property
    def loaded(self) -> bool:
        """See above."""

    def poll(self) -> int | None:
        """Return the exit status, if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not, `timeout` seconds later.
        """

    def send_signal(self, number: int, /) -> None:
        """Signal it, unless it has ended."""

    def kill(self) -> None:
        """Kill it."""


class Executed(subprocess.Popen[bytes]):
    """A process that is started anew. Only the call that reaps it can tell its peak memory (`wait4`)."""

    loaded = False
    peak_bytes: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, if it has ended."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not, `timeout` seconds later.
        """
        if timeout is None:
            while (status := self._reap(0)) is None:
                continue
            return status
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while (status := self._reap(os.WNOHANG)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout)
            pause = min(pause * 2, left, 0.05)
            time.sleep(pause)
        return status

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status, usage = os.wait4(self.pid, options)
            except ChildProcessError:  # somebody else has reaped it; Popen takes that for an end in order, too
                self.returncode = 0
            else:
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
                    self.peak_bytes = usage.ru_maxrss * MAXRSS_UNIT
        return self.returncode


Start: TypeAlias = Callable[[ChildPlan, tuple[int, int, int]], Process]
"""Starts the process of a child, which is to have these descriptors: its two sockets and its board."""


def execute(plan: ChildPlan, inherited: tuple[int, int, int]) -> Process:
    """Start a child anew: an interpreter that has loaded nothing."""
    shared = () if plan.logs.lock is None else (plan.logs.lock,)
    return Executed(
        [sys.executable, "-c", _BOOT.format(path=sys.path) + _BEGINNINGS[plan.pool], *map(str, inherited)],
        stdin=subprocess.DEVNULL,
        pass_fds=inherited + shared,
        process_group=0,
    )


class Child:
    """One child, as the parent sees it. All sockets are non-blocking on this side."""

    def __init__(self, plan: ChildPlan, now: float, start: Start = execute) -> None:
        self.works, theirs = socket.socketpair()
        self.control, their_control = socket.socketpair()
        with theirs, their_control, tempfile.TemporaryFile() as board:
            board.truncate(tail.SHARED_BYTES)
            self.board = mmap.mmap(board.fileno(), tail.SHARED_BYTES)
            self.process = start(plan, (theirs.fileno(), their_control.fileno(), board.fileno()))
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
        self.surplus = False
        self.overran: tuple[int, float] | None = None
        self.terminated: tuple[int, str] | None = None
        memory_bytes = plan.recycling.memory_bytes
        topology = None if self.process.loaded else plan.topology
        init = wire.Init(plan.reference, topology, plan.worker, plan.logs, plan.limits, memory_bytes)
        self.queue_messages([init])

    def queue_messages(self, messages: list[Any]) -> None:
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

    def remains(self) -> Remains:
        """Return what is left of a process that has ended."""
        status = self.process.returncode
        return Remains(
            exit_code=None if status is None or status < 0 or status == UNSEEN else status,
            signal="" if status is None or status >= 0 else signal_name(-status),
            peak_bytes=self.process.peak_bytes,
            last_lines=tail.last_lines(self.board),
            fault=tail.fault(self.board),
        )

    def close(self) -> None:
        """Let go of the sockets and the board."""
        self.works.close()
        self.control.close()
        self.board.close()


def ignores(pid: int, signal_number: int) -> bool:
    """Whether a process ignores a signal, as Linux tells it (proc(5), status: SigIgn); elsewhere, what children ignore."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return signal_number in {signal.SIGTERM, signal.SIGINT}
    masks = [line.split()[1] for line in text.splitlines() if line.startswith("SigIgn:")]
    return bool(masks) and bool(int(masks[0], 16) >> (signal_number - 1) & 1)


def death(status: int | None) -> str:
    """Say in words how a process ended, given its exit status."""
    if status is None or status == UNSEEN:
        return "ended (nobody saw how)"
    if status >= 0:
        return f"ended with exit code {status}"
    return f"was killed by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """Return `SIGKILL`; `signal 40` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
