"""The template: a process that has loaded the application, does nothing, and forks whenever its parent wants a child.

What a fork shares with its origin costs memory once. But a process with threads and a TLS connection must not fork, and that
is what a worker becomes. So it makes the template before it has either. This process has one thread and one socket, and waits
for orders on that, so its forks are what they seem; and it never runs a task, so each child begins like the first one.

An order is one packet, and is answered by one:

* fork: three descriptors come with it, those of a child (see `childprocess`). The answer is the child's process id, with a
  descriptor for it (pidfd_open(2)), by which the parent sees its end and signals it, whoever its parent is.
* reap: a child that has ended. Its status and its peak memory are told only to the process that forked it. It is a zombie
  until then, as a child of the parent's own would be, and nobody else gets its process id.

The template ends when its socket does. Its children do not notice.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from amqpq.worker.pools import child

FORK: Final = 1
REAP: Final = 2
ORDER: Final = struct.Struct("=Bi")
"""What to do, and the process id of the child that has ended; 0 in an order to fork."""
ANSWER: Final = struct.Struct("=iiQ")
"""Process id, status as `wait4` tells it, peak memory as `getrusage` tells it. Instead of the process id minus the error's
number, where the order could not be carried out."""
DESCRIPTORS: Final = 3
"""A child gets: its two sockets and its board."""

NAME: Final = "amqpq template"
CHILD_NAME: Final = "amqpq child"
"""For `ps` and `top`; the kernel keeps fifteen characters."""

Begin = Callable[[int, int, int], None]
"""Lives a child's life, given its descriptors; returns at its end."""


def serve(orders: socket.socket, begin: Begin = child.be) -> NoReturn:
    """Be the template until the other end of `orders` is closed; or be a child that it forks, to that one's end."""
    try:
        _name(NAME)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # An application may have had its children reaped unseen.
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.close(nothing)
        inherited = obey(orders)
        if inherited is None:
            os._exit(0)
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        _live(begin, inherited)
    except BaseException:  # noqa: BLE001 - said, and not passed on
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)  # above are the frames of the worker, which must not go on here


def obey(orders: socket.socket) -> tuple[int, int, int] | None:
    """Carry out orders.

    Returns:
        In a child: its descriptors; `orders` is closed. In the template: None, when there are no more orders.
    """
    while True:
        data, descriptors = receive(orders, ORDER.size, DESCRIPTORS)
        if not data:
            return None
        order, pid = ORDER.unpack(data)
        if order == REAP:
            orders.send(reaped(pid))
            continue
        try:
            pid = os.fork()
        except OSError as error:
            orders.send(ANSWER.pack(-(error.errno or 1), 0, 0))
        else:
            if pid == 0:
                orders.close()
                works, control, board = descriptors
                return works, control, board
            _answer_birth(orders, pid)
        for descriptor in descriptors:
            os.close(descriptor)


def receive(source: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Return a packet and the descriptors that came with it, which no program that is started will inherit.

    `socket.recv_fds` does not pass on the flag for that.

    Args:
        source: The socket.
        size: Of the packet, bytes.
        most: Descriptors.
    """
    found = array.array("i")
    data, ancillary, _, _ = source.recvmsg(size, socket.CMSG_LEN(most * found.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, numbers in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(numbers[: len(numbers) - len(numbers) % found.itemsize])
    return data, list(found)


def reaped(pid: int) -> bytes:
    """Reap a child that has ended; return the answer."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError as error:
        return ANSWER.pack(-(error.errno or 1), 0, 0)
    return ANSWER.pack(found, status, usage.ru_maxrss)


def _answer_birth(orders: socket.socket, pid: int) -> None:
    with contextlib.suppress(OSError):  # ended already; its group is its own anyway
        os.setpgid(pid, pid)  # the child does so, too; whoever kills its group may not come before it
    descriptor = os.pidfd_open(pid)
    socket.send_fds(orders, [ANSWER.pack(pid, 0, 0)], [descriptor])
    os.close(descriptor)


def _live(begin: Begin, inherited: tuple[int, int, int]) -> NoReturn:
    """Be a child, from its beginning to an end as that of a program."""
    os.setpgid(0, 0)
    _name(CHILD_NAME)
    # What a child that is started anew finds there. Whoever starts processes in a task may look at it.
    sys.argv[:] = ["-c"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    _draw_anew()
    code = 0
    try:
        begin(*inherited)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as a program ends that does not catch it
        sys.excepthook(*sys.exc_info())
        code = 1
    # A program that ends waits for its threads, runs its exit handlers and writes what it has not written.
    shutdown: Callable[[], None] = vars(threading)["_shutdown"]
    shutdown()
    atexit._run_exitfuncs()  # noqa: SLF001 - as multiprocessing does
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _draw_anew() -> None:
    """Give the generator of numpy's module functions another seed in each child; Python does so for those of `random`."""
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


def _name(name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")
