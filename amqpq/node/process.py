"""Processes by identity: an id alone may belong to somebody else by now, an id with a start time cannot."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05
"""For systems without pidfd; the kernel offers no other way to wait for a process that is not a child."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that we started, perhaps from another program run.

    Args:
        pid: process id.
        started: when it started, in the words of the system; tells it from a later process with the same id.
    """

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it is still running."""
        _reap(self.pid)
        return bool(self.started) and start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the process is gone."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until it is gone; return whether it is."""
        if not self.alive:
            return True
        try:
            descriptor = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        except OSError:
            descriptor = None  # gone between the two lines, or a kernel without pidfd
        if descriptor is None:
            return self._wait_by_polling(timeout_seconds)
        try:
            poll = select.poll()  # select() fails on descriptors from 1,024 on
            poll.register(descriptor, select.POLLIN)
            ended = poll.poll(timeout_seconds * 1000)
        finally:
            os.close(descriptor)
        _reap(self.pid)
        return bool(ended)

    def _wait_by_polling(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def end(self, timeout_seconds: float) -> bool:
        """Ask it to end (SIGTERM), insist after the timeout (SIGKILL); return whether asking was enough."""
        self.signal(signal.SIGTERM)
        if self.wait(timeout_seconds):
            return True
        self.signal(signal.SIGKILL)
        self.wait(timeout_seconds)
        return False


def start_detached(command: Sequence[str], *, environ: Mapping[str, str], output: Path, folder: Path) -> Process:
    """Start a process that outlives this one: own session, no input, output appended to a file.

    Args:
        command: argument list.
        environ: its whole environment.
        output: file that receives what it prints.
        folder: its working directory.

    Raises:
        OSError: the program cannot be started.
    """
    with output.open("ab") as sink:
        child = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # The process outlives this object by intention; without this, Popen warns that nobody waited for it.
    child.returncode = 0
    return Process(child.pid, start_time(child.pid))


def start_time(pid: int) -> str:
    """Return when a running process started, or an empty text where there is none (a zombie counts as none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _start_time_by_ps(pid)
    # proc(5): the second field is the program's name in parentheses and may hold spaces; after it come the state (field
    # 3), the number of threads (20) and the start time (22). The first thread of a killed process is a zombie while
    # others still run and hold its sockets: that one is not gone yet.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" and int(fields[17]) <= 1 else fields[19]


def _start_time_by_ps(pid: int) -> str:
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # started by another program run; init reaps it
