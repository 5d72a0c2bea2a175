"""The files of a worker: names that depend on its name, and the file that says that it runs.

A pid file outlives a worker that is killed, and its number may be another process's by then. So the worker keeps the file
locked for as long as it lives: a file that nobody has locked is stale, whatever it says. The lock is of the kind that
children do not inherit (fcntl(2), record locks), and that the kernel takes off when the process ends in any way.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from amqpq.errors import ConfigurationError

TRY_SECONDS: Final = 1.0
"""Somebody who only looks may hold the lock for a moment."""
PAUSE_SECONDS: Final = 0.02
MODE: Final = 0o644


def expand(pattern: str, worker: str) -> str:
    """Return a file's name: `%n` is the worker's name before the @, `%h` its host, `%d` the host's domain, `%p` all of it.

    `%i` and `%I` stand for the number of a child in Celery, whose children may have log files of their own. Here all
    processes of a worker share one file, line by line, so `%i` is `0` and `%I` is empty, as for Celery's main process.
    """
    name, _, host = worker.partition("@")
    domain = host.partition(".")[2]
    values = {"n": name, "h": host, "d": domain, "p": worker, "i": "0", "I": "", "%": "%"}
    parts: list[str] = []
    rest = pattern
    while rest:
        before, mark, after = rest.partition("%")
        parts.append(before)
        if not mark:
            break
        letter = after[:1]
        if letter not in values or not letter:
            raise ConfigurationError(f"{pattern}: %{letter} means nothing here; use %n, %h, %d, %p, %i, %I or %%")
        parts.append(values[letter])
        rest = after[1:]
    return "".join(parts)


class PidFile:
    """The pid file of this process, from `take` to `release`.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def take(self) -> None:
        """Lock the file and write the process id.

        Raises:
            ConfigurationError: A worker that runs has it, or it cannot be written.
        """
        deadline = time.monotonic() + TRY_SECONDS
        while not self._taken():
            if time.monotonic() > deadline:
                holder = running(self.path)
                raise ConfigurationError(
                    f"--pidfile {self.path}: the worker of this file runs, with process id {holder}"
                )
            time.sleep(PAUSE_SECONDS)

    def release(self) -> None:
        """Remove the file and let go of it."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)  # before the lock goes: afterwards it may be another worker's
            os.close(self._descriptor)
            self._descriptor = None

    def _taken(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, MODE)
        except OSError as error:
            raise ConfigurationError(f"--pidfile {self.path}: {error.strerror}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is(descriptor):
                os.close(descriptor)  # who had it removed it between our opening and our locking
                return False
        except OSError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return True

    def _is(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False


def running(path: str | Path) -> int | None:
    """Return the process id of the worker that has this pid file; None where no worker has it."""
    try:
        with Path(path).open(encoding="ascii") as file:
            try:
                os.lockf(file.fileno(), os.F_TEST, 0)
            except OSError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        return None
    return None
