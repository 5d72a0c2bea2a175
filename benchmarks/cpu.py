"""CPU time of this process and of a worker's whole process tree, in seconds.

Linux gives the CPU clock of any process under a clock id made from its number (`clock_getcpuclockid(3)`: the number
inverted, shifted by three, scheduler clock 2), in nanoseconds. `/proc/<pid>/stat` counts in ticks of 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.broker import PID_VARIABLE

_SCHEDULER_CLOCK = 2


def own_seconds() -> float:
    """Return the CPU time of this process, all threads."""
    return time.process_time()


def tree_seconds(root: int) -> float:
    """Return the CPU time of process `root` and of every living descendant."""
    return sum(_process_seconds(pid) for pid in tree(root))


def broker_seconds() -> float:
    """Return the CPU time of the broker that this run has started; 0 where it is somebody else's."""
    pid = os.environ.get(PID_VARIABLE)
    return tree_seconds(int(pid)) if pid else 0.0


def tree(root: int) -> list[int]:
    """Return `root` and its living descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                # After the command's closing parenthesis (the command may hold blanks): state, parent, ...
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                children[int(parent)].append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children[pid])
    return found


def _process_seconds(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | _SCHEDULER_CLOCK)
    except OSError:  # it ended while we looked
        return 0.0
