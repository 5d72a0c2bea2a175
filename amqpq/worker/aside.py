"""Has something computed by a process that ends, so that this one does not keep what that needs.

Reading a topology file takes ten times the memory that the topology does, for pydantic, YAML and the models; and a worker reads
one file, once.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Collection
from typing import NoReturn, TypeVar

from amqpq.worker.pools.forked import fork, obstacle

T = TypeVar("T")


def aside(compute: Callable[[], T], opened: Collection[int] | None) -> T:
    """Return what `compute` returns.

    A fork computes it, where this process may be forked. Where that fails, for whatever reason, it is computed here, and raises
    what it raises.

    Args:
        compute: What to call; the value must be one that can be pickled.
        opened: The descriptors that the application's modules have opened; None: this process is not to be forked.
    """
    if opened is None or obstacle(opened):
        return compute()
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        _compute(compute, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # the application has children of this process reaped unseen
        status = 0 if data else 1
    if status != 0:
        return compute()
    value: T = pickle.loads(data)  # noqa: S301 - from our own process
    return value


def _compute(compute: Callable[[], object], writing: int) -> NoReturn:
    """Be the fork."""
    try:
        data = pickle.dumps(compute(), protocol=pickle.HIGHEST_PROTOCOL)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        os._exit(0)
    finally:
        os._exit(1)  # what went wrong, this process's parent finds and says itself
