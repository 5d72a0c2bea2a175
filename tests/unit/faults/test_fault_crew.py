"""What is left of a worker."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.faults.crew import Family


def test_what_does_not_end_with_its_worker_is_named() -> None:
    """A process that has ended is not, and each is waited for once."""
    family = Family()
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as ending:
        family.add([ending.pid, os.getpid()])
    assert family.left(0.0) == [os.getpid()]
    assert family.left(0.0) == []
