"""A child of the prefork pool: reads works, runs them on its main thread, writes outcomes.

Two threads, two sockets. The main thread reads works and runs them, so user code has the main thread, as it would have in a
program of its own. The control thread sleeps on the second socket and acts while user code runs:

* its end (the parent is gone, even by `kill -9`): the child and its process group end at once, because the broker has
  given its tasks to others already. No orphan works on.
* a recall: what waits here behind the running task goes back to the parent, and what is done but not sent is sent. So a
  short task never waits behind a long one while other children are idle.

Outcomes are sent when nothing waits any more, when several have gathered, or when one is older than `HOLD_SECONDS` and a
task ends; if a task turns out long, the parent's recall flushes them. So a busy child writes once per batch, and an
outcome is never stuck behind a slow task.

The number of the running work stands on the notice board, shared memory that the parent reads when this process is dead.
So does the deadline of a task with a hard time limit, which the parent reads while the task runs, and enforces. So do the
last lines of its log (`tail`).
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from amqpq import signals
from amqpq.errors import AmqpqError, ConfigurationError
from amqpq.worker import logs
from amqpq.worker.execute import Executor
from amqpq.worker.host import Host, load_host
from amqpq.worker.limits import STATM, Limits, Timing
from amqpq.worker.pools import tail, wire
from amqpq.worker.pools.alarm import Alarm
from amqpq.worker.work import Finished, Reply, Report, Work

HOLD_SECONDS: Final = 0.002
"""How long an outcome may wait for company while short tasks follow one another."""
HOLD_COUNT: Final = 8
"""Far fewer than a child is given at a time, so that it has more to do while its parent hears of these (measured: a third more
tasks a second than with as many)."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class ChildTimekeeper(Alarm):
    """Keeps soft limits itself; leaves hard ones to the parent, by a note on the board."""

    def __init__(self, board: mmap.mmap) -> None:
        super().__init__()
        self._board = board

    def begin(self, limits: Limits) -> None:
        """Post the hard limit, set the alarm for the soft one."""
        if limits.hard is not None:
            wire.post_deadline(self._board, time.monotonic() + limits.hard, limits.hard)
        super().begin(limits)

    def end(self) -> None:
        """Take both back."""
        try:
            super().end()
        finally:
            wire.clear_deadline(self._board)


def start_thread(function: Callable[[], None]) -> None:
    """Run a function on a thread that does not keep the process alive."""
    threading.Thread(target=function, name="amqpq-control", daemon=True).start()


class System(NamedTuple):
    """The system's own threads, locks and sockets; `threading` and `socket` may have been patched for greenlets."""

    start_thread: Callable[[Callable[[], None]], object] = start_thread
    lock: Callable[[], threading.Lock] = threading.Lock
    socket: type[socket.socket] = socket.socket


SYSTEM: Final = System()


class Child:
    """The life of one child."""

    def __init__(
        self, works: socket.socket, control: socket.socket, board: mmap.mmap, board_fd: int, system: System = SYSTEM
    ) -> None:
        self._works = works
        self._control = control
        self._board = board
        self._board_fd = board_fd
        self._system = system
        self._unframer = wire.Unframer()
        # Both threads take from this deque, from either end, one atomic operation at a time: an entry goes to one of them.
        self._waiting: deque[tuple[int, Work]] = deque()
        self._received = 0
        self._recalled = 0
        self._memory_bytes: int | None = None
        self._executor: Executor
        self._reading = system.lock()
        self._done: list[tuple[Any, ...]] = []
        self._held_since = 0.0
        self._sending = system.lock()

    def live(self) -> None:
        """Load the application, say so, and work until the parent hangs up."""
        init = self._first_frame()
        if init is None:
            return
        logs.configure(init.logs)
        tail.keep(self._board, self._board_fd)
        try:
            host = load_host(init.reference, init.topology)
            signals.worker_process_init.send(init.worker)
            self._prepare(host, init)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises at import is the parent's to report
            self._send([wire.Unfit(_why(error))])
            return
        self._system.start_thread(self._obey)
        self._send([wire.Ready()])
        self._work()
        signals.worker_process_shutdown.send(init.worker, pid=os.getpid(), exitcode=0)

    def _prepare(self, host: Host, init: wire.Init) -> None:
        """Get ready to run tasks of the application."""
        timing = Timing("prefork", init.limits, ChildTimekeeper(self._board))
        self._memory_bytes = init.memory_bytes
        self._see_room()
        self._executor = Executor(host, init.worker, mark=self._mark, timing=timing)

    def _work(self) -> None:
        """Run what comes until the parent hangs up."""
        while True:
            try:
                index, work = self._waiting.popleft()
            except IndexError:
                self._flush()
                if not self._receive():
                    return
                continue
            if index <= self._recalled:
                self._send([wire.HandedBack((work.number,), recalled=False)])
                continue
            self._note(self._executor.run(work, partial(self._report, work.number)))
            if self._memory_bytes is not None and (resident := resident_bytes()) > self._memory_bytes:
                self._recalled = sys.maxsize  # whatever came or comes goes back
                self._send([wire.Full(resident)])

    def _see_room(self) -> None:
        """Refuse to live where every task would be the last one."""
        if self._memory_bytes is not None and (resident := resident_bytes()) > self._memory_bytes:
            raise ConfigurationError(
                f"--max-memory-per-child: the application alone takes {resident / 2**20:.1f} MiB of memory, and "
                f"{self._memory_bytes / 2**20:.1f} MiB are allowed; allow more"
            )

    # ------------------------------------------------------------------------------------------------------- reading

    def _first_frame(self) -> wire.Init | None:
        while True:
            data = self._works.recv(wire.READ_BYTES)
            if not data:
                return None
            messages = self._unframer.feed(data)
            if messages:
                init: wire.Init = messages[0]
                self._accept(messages[1:])
                return init

    def _receive(self) -> bool:
        """Wait for more works; False when the parent has hung up."""
        with self._reading:
            self._mark(0, 0)
            data = self._works.recv(wire.READ_BYTES)
            if not data:
                return False
            self._accept(self._unframer.feed(data))
        return True

    def _accept(self, messages: list[Any]) -> None:
        for values in messages:
            self._received += 1
            self._waiting.append((self._received, wire.unpack_work(values)))

    # ------------------------------------------------------------------------------------------------------- writing

    def _note(self, finished: Finished) -> None:
        now = time.perf_counter()
        packed = wire.pack_finished(finished)
        with self._sending:
            if not self._done:
                self._held_since = now
            self._done.append(packed)
        if len(self._done) >= HOLD_COUNT or now - self._held_since > HOLD_SECONDS:
            self._flush()

    def _report(self, number: int, reply: Reply) -> None:
        self._send([wire.pack_report(Report(number, reply))])

    def _flush(self) -> None:
        if self._done:
            self._send([])

    def _send(self, messages: list[Any]) -> None:
        """Send what is done, then `messages`; from either thread."""
        with self._sending:
            done, self._done = self._done, []
            batch = [*done, *messages]
            if batch:
                self._works.sendall(wire.frame(batch))

    def _mark(self, number: int, stage: int) -> None:
        wire.post_stage(self._board, number, stage)

    # ------------------------------------------------------------------------------------------------ the second thread

    def _obey(self) -> None:
        # The alarm of a soft limit has to interrupt what the main thread waits for, so it must not come here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        buffer = bytearray()
        while True:
            try:
                data = self._control.recv(wire.READ_BYTES)
            except OSError:
                data = b""
            if not data:
                _end_now()
            buffer += data
            while len(buffer) >= wire.CONTROL.size:
                (count,) = wire.CONTROL.unpack_from(buffer)
                del buffer[: wire.CONTROL.size]
                self._hand_back(count)

    def _hand_back(self, count: int) -> None:
        """Return what is not begun of the first `count` works. The main thread returns what it meets of them later.

        The parent sends no more works before it has the answer, so everything that waits here is among them.
        """
        self._recalled = max(self._recalled, count)
        if self._reading.acquire(blocking=False):
            # The main thread runs user code; what the parent sent meanwhile still lies in the socket.
            try:
                self._drain_socket()
            finally:
                self._reading.release()
        returned: list[int] = []
        while True:
            try:
                returned.append(self._waiting.pop()[1].number)
            except IndexError:
                break
        self._send([wire.HandedBack(tuple(reversed(returned)), recalled=True)])

    def _drain_socket(self) -> None:
        while True:
            try:
                data = self._works.recv(wire.READ_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                return
            self._accept(self._unframer.feed(data))


def resident_bytes() -> int:
    """Return how much memory this process holds now, as Linux tells it (proc(5), statm: the second number, in pages)."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def _end_now() -> None:
    """End this process and what its tasks started. The parent is gone; nobody would hear how a task ends."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _why(error: BaseException) -> str:
    if isinstance(error, AmqpqError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error))


def main(make: Callable[..., Child] = Child, system: System = SYSTEM) -> None:
    """Be a child; its descriptors are the last three arguments (see `childprocess`).

    Args:
        make: The kind of child, see `be`.
        system: The system's own threads and sockets.
    """
    works, control, board = (int(argument) for argument in sys.argv[-3:])
    del sys.argv[1:]
    be(works, control, board, make, system)


def be(
    works_fd: int, control_fd: int, board_fd: int, make: Callable[..., Child] = Child, system: System = SYSTEM
) -> None:
    """Be a child, until the parent hangs up.

    Args:
        works_fd: The socket of works and outcomes.
        control_fd: The socket of recalls.
        board_fd: The file behind the board.
        make: The kind of child, called with its two sockets, the board, the board's descriptor and `system`.
        system: The system's own threads and sockets.
    """
    # Signals of a terminal or a service manager go to the whole group; only the parent decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    board = mmap.mmap(board_fd, tail.SHARED_BYTES)
    make(system.socket(fileno=works_fd), system.socket(fileno=control_fd), board, board_fd, system).live()
    logging.shutdown()
