"""The last words of a child, in memory that outlives it: its newest log lines, and the interpreter's own when it breaks.

A child that is killed cannot say what it was doing, and its standard error may be anywhere. So its log is also written to a
ring in the memory that it shares with its parent: a copy per line, no system call, nothing to read before a child is dead.
Who dies in the middle of a line loses that line only, since the count of bytes is written after them.

What breaks the interpreter itself (a segmentation fault, an abort in a C extension) logs nothing. For that there is
`faulthandler`, which writes the stack to a descriptor: here the file behind the same memory, after the ring.
"""

from __future__ import annotations

import faulthandler
import logging
import mmap
import os
import struct
from typing import Final

from amqpq.log import ROOT

COUNT: Final = struct.Struct("=Q")
"""How many bytes were written to the ring, ever."""
TAIL_AT: Final = 256
"""Before it lies the notice board, see `wire`."""
RING_AT: Final = TAIL_AT + COUNT.size
RING_BYTES: Final = 8192
FAULT_AT: Final = RING_AT + RING_BYTES
FAULT_BYTES: Final = 4096
SHARED_BYTES: Final = FAULT_AT + FAULT_BYTES
LINES: Final = 20
"""That are kept of a dead child."""


class Tail(logging.Handler):
    """Writes every line to the ring.

    Args:
        board: The shared memory.
    """

    def __init__(self, board: mmap.mmap) -> None:
        super().__init__()
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; `Handler` holds its lock meanwhile."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - an argument that cannot be shown; the usual handler complains about it
            return
        # Of a line longer than the ring only the end would stay anyway.
        data = line.encode(errors="replace")[-RING_BYTES // 2 :] + b"\n"
        (count,) = COUNT.unpack_from(self._board, TAIL_AT)
        start = count % RING_BYTES
        first = data[: RING_BYTES - start]
        self._board[RING_AT + start : RING_AT + start + len(first)] = first
        rest = data[len(first) :]
        self._board[RING_AT : RING_AT + len(rest)] = rest
        COUNT.pack_into(self._board, TAIL_AT, count + len(data))


def keep(board: mmap.mmap, board_fd: int) -> None:
    """Begin to keep the last words of this process.

    Args:
        board: The shared memory.
        board_fd: The descriptor of the file behind it; must stay open.
    """
    handler = Tail(board)
    root = logging.getLogger()
    usual = root.handlers[0].formatter if root.handlers else None
    handler.setFormatter(usual or logging.Formatter("[%(asctime)s %(levelname)s] %(name)s: %(message)s"))
    root.addHandler(handler)
    ours = logging.getLogger(ROOT)
    if not ours.propagate:
        ours.addHandler(handler)
    if not faulthandler.is_enabled():  # whoever enabled it wants to read it elsewhere
        os.lseek(board_fd, FAULT_AT, os.SEEK_SET)
        faulthandler.enable(board_fd)


def last_lines(board: mmap.mmap) -> str:
    """Return the newest log lines of a dead process, at most `LINES`."""
    (count,) = COUNT.unpack_from(board, TAIL_AT)
    ring = board[RING_AT : RING_AT + RING_BYTES]
    start = count % RING_BYTES
    data = ring[:count] if count <= RING_BYTES else ring[start:] + ring[:start]
    lines = data.decode(errors="replace").split("\n")
    if count > RING_BYTES:
        lines = lines[1:]  # its beginning is written over
    return "\n".join(lines[:-1][-LINES:])


def fault(board: mmap.mmap) -> str:
    """Return what the interpreter wrote when it broke; empty where it did not."""
    return board[FAULT_AT:SHARED_BYTES].partition(b"\0")[0].decode(errors="replace")
