"""The parent's side of the template (see `template`): making it, having it fork, and the forks as the pool sees them.

It answers at once, since it does nothing else. One that does not is given up: its children go on, and new ones are started
anew, as they are where there is no template. How a child of a lost template ends is seen, but not with which status.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from amqpq.log import WORKER
from amqpq.worker.pools import template
from amqpq.worker.pools.childprocess import MAXRSS_UNIT, UNSEEN, ChildPlan, Process, execute
from amqpq.worker.pools.template import ANSWER, FORK, ORDER, REAP

logger = logging.getLogger(WORKER)

ANSWER_SECONDS: Final = 5.0
"""For the template to carry out an order, which takes milliseconds."""
END_SECONDS: Final = 3.0
"""For it to end when there are no more orders."""
_HARMLESS_MAJOR: Final = 1
"""/dev/null, /dev/urandom and their like, which have no state."""


def descriptors() -> frozenset[int]:
    """Return the numbers of the files and sockets that this process has open; none where the system cannot tell."""
    try:
        listed = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return frozenset()
    return frozenset(number for number in listed if _is_open(number))


def obstacle(opened: Collection[int]) -> str:
    """Say why this process must not be forked into children; empty where it may.

    Children that are started anew share nothing. So a fork is refused where they would share more than memory: threads do not
    come along, and what one of several processes reads from a socket or a file is gone for the others.

    Args:
        opened: The descriptors that the application's modules have opened.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return "that is done on Linux only"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"this kernel has no descriptors of processes ({error.strerror})"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        return f"the application has started a thread ({', '.join(others)})"
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return "a library of the application has started a thread"
    return unshareable(opened)


def unshareable(opened: Collection[int]) -> str:
    """Say what several processes must not have in common, if this one has such; empty where it has not.

    Args:
        opened: The descriptors in question.
    """
    held = [what for number in sorted(opened) if (what := _unshareable_descriptor(number))]
    if held:
        return f"the application has opened {', '.join(held)}"
    finalizers = vars(weakref.finalize).get("_registry", {})
    if any(finalizer.atexit for finalizer in finalizers):
        return "the application has made what is removed when a process ends, such as a TemporaryDirectory"
    return ""


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False  # the descriptor of the listing itself
    return True


def _unshareable_descriptor(number: int) -> str:
    """Say what a descriptor is, if processes that share it could disturb one another."""
    try:
        status = os.fstat(number)
        target = str(Path(f"/proc/self/fd/{number}").readlink())
        text = Path(f"/proc/self/fdinfo/{number}").read_text(encoding="ascii")
    except OSError:  # closed again
        return ""
    if stat.S_ISDIR(status.st_mode):
        return ""
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _HARMLESS_MAJOR:
        return ""
    flags = next((int(line.split()[1], 8) for line in text.splitlines() if line.startswith("flags:")), 0)
    # Whoever appends has no place of its own in the file: a log.
    return "" if stat.S_ISREG(status.st_mode) and flags & os.O_APPEND else target


class TemplateLost(Exception):
    """The template is gone, or does not answer."""


class Forked:
    """A process that the template has forked; see `childprocess.Process`.

    Args:
        pid: Its process id.
        descriptor: The one for it; closed at its end.
        origin: The template, which reaps it.
    """

    loaded = True

    def __init__(self, pid: int, descriptor: int, origin: Template) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.peak_bytes: int | None = None
        self._descriptor = descriptor
        self._origin = origin

    def poll(self) -> int | None:
        """Return the exit status, if it has ended."""
        if self.returncode is None and ended(self._descriptor, 0.0):
            self._reap()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not, `timeout` seconds later.
        """
        if self.returncode is None and not ended(self._descriptor, timeout):
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
        return self._reap() if self.returncode is None else self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._descriptor, number)
            except ProcessLookupError:
                return  # just now

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _reap(self) -> int:
        found = self._origin.reap(self.pid) or _inherited(self.pid)
        if found is None:
            self.returncode = UNSEEN
        else:
            status, peak = found
            self.returncode = os.waitstatus_to_exitcode(status)
            self.peak_bytes = peak * MAXRSS_UNIT
        os.close(self._descriptor)
        return self.returncode


def _inherited(pid: int) -> tuple[int, int] | None:
    """Reap a child of a lost template; where this is a container's first process, such children become its own."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return (status, usage.ru_maxrss) if found == pid else None


def ended(descriptor: int, seconds: float | None) -> bool:
    """Wait so long for the end of a process, given its descriptor; whether it has ended."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else seconds * 1000))


class Template:
    """The template, as its parent sees it.

    Args:
        pid: Its process id. It is a child of this process.
        orders: The socket to it.
    """

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._orders: socket.socket | None = orders
        orders.settimeout(ANSWER_SECONDS)

    def start(self, plan: ChildPlan, inherited: tuple[int, int, int]) -> Process:
        """Start a child: a fork, or, where there is no template any more, one that is started anew."""
        try:
            pid, _, _, received = self._ask(FORK, 0, inherited)
        except TemplateLost:
            return execute(plan, inherited)
        if pid < 0:
            logger.warning("a child could not be forked (%s); starting it anew", os.strerror(-pid))
            return execute(plan, inherited)
        # Without room for one more descriptor here it does not arrive, and opening it says so.
        return Forked(pid, received[0] if received else os.pidfd_open(pid), self)

    def reap(self, pid: int) -> tuple[int, int] | None:
        """Return status and peak memory (see `wait4`) of a child that has ended; None where nobody knows them."""
        try:
            found, status, peak, _ = self._ask(REAP, pid)
        except TemplateLost:
            return None
        return (status, peak) if found == pid else None

    def close(self) -> None:
        """Have it end."""
        if self._orders is None:
            return
        self._orders.close()
        self._orders = None
        if not ended(self._descriptor, END_SECONDS):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        os.close(self._descriptor)
        with contextlib.suppress(ChildProcessError):  # the application has children of this process reaped unseen
            os.waitpid(self.pid, 0)

    def _ask(self, order: int, pid: int, inherited: Sequence[int] = ()) -> tuple[int, int, int, list[int]]:
        """Give an order, return the answer's numbers and descriptors.

        Raises:
            TemplateLost: There is none; the log says so once.
        """
        if self._orders is None:
            raise TemplateLost
        received: list[int] = []
        try:
            socket.send_fds(self._orders, [ORDER.pack(order, pid)], inherited)
            answer, received = template.receive(self._orders, ANSWER.size, 1)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            if answer:
                found, status, peak = ANSWER.unpack(answer)
                return found, status, peak, received
            why = "it has ended"
        self._give_up(why)
        raise TemplateLost

    def _give_up(self, why: str) -> None:
        logger.warning(
            "process %d, from which children were forked, does not answer (%s); starting new ones anew", self.pid, why
        )
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        self.close()


def fork() -> int:
    """Fork this process; what waits to be written is written once."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a program may be started without
            stream.flush()
    return os.fork()


def make_template() -> Template:
    """Fork the template off this process, which has loaded the application and has one thread (see `obstacle`)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The collector writes into each object that it looks at, and what is written to is shared no more.
    gc.collect()
    gc.freeze()
    pid = fork()
    if pid == 0:
        ours.close()
        template.serve(theirs)
    theirs.close()
    return Template(pid, ours)
