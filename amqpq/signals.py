"""Moments in the life of workers, tasks and messages that a program may listen to, with Celery's names.

::

    from amqpq.signals import task_failure, worker_process_init

    @worker_process_init.connect
    def connect_database(**_):
        ...

    @task_failure.connect(sender="shop.pay")
    def page_somebody(sender, task_id, exception, **_):
        ...

A receiver is called with `sender=` and the arguments that the signal names, all by keyword; it takes `**kwargs`, so that a
signal may say more one day. It is kept until it is disconnected (there are no weak references). What it raises is logged,
and changes nothing.

Where a receiver runs is where the event is:

* signals of messages: in the thread that publishes (in an `AsyncApp`: on the event loop);
* `task_prerun`, `task_postrun`, `task_success`, `task_failure`, `task_retry`: where the task runs;
* `worker_process_init` and `worker_process_shutdown`: on the main thread of a process of the pool
  (all pools but threads and solo have one);
* `worker_init` and `worker_shutdown`: on the main thread of the worker, before it connects and after it has closed its
  connections;
* all others: in the worker's own process, on one thread that only receivers have. The thread that owns the deliveries
  never runs them, so a slow receiver delays no task. It can fall behind: of what waits, at most `amqpq.worker.herald.ROOM`
  events are kept, and what is dropped is counted in the log.

Nobody listens: then a signal costs one look at an empty tuple.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from amqpq import log
from amqpq.errors import ConfigurationError

Receiver: TypeAlias = Callable[..., object]
Connected = TypeVar("Connected", bound=Receiver)

logger = logging.getLogger(log.SIGNALS)


class Signal:
    """One kind of event.

    Args:
        name: As the module calls it.
        arguments: What receivers are given beside `sender`.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self.arguments = arguments
        self.receivers: tuple[tuple[Receiver, Any], ...] = ()
        """Pairs of receiver and the sender it wants to hear of (None: any)."""

    def __repr__(self) -> str:
        """Show the name and how many listen."""
        return f"<signal {self.name}: {len(self.receivers)} receivers>"

    def connect(self, receiver: Any = None, *, sender: Any = None) -> Any:
        """Have `receiver` called from now on; as a decorator, with brackets or without.

        Args:
            receiver: What to call. Connecting it twice for one sender is connecting it once.
            sender: Only events of this sender: a task or its name, a worker's name. None: of any.

        Raises:
            ConfigurationError: It could not be called with the arguments of this signal.
        """
        if receiver is None:

            def connecting(function: Connected) -> Connected:
                self._add(function, sender)
                return function

            return connecting
        self._add(receiver, sender)
        return receiver

    def disconnect(self, receiver: Receiver, *, sender: Any = None) -> bool:
        """Call it no more for this sender; say whether it was connected."""
        left = tuple(pair for pair in self.receivers if pair != (receiver, sender))
        found = len(left) < len(self.receivers)
        self.receivers = left
        return found

    def send(self, sender: Any, **arguments: Any) -> None:
        """Call every receiver of this sender, in the order in which they were connected; log what they raise."""
        for receiver, wanted in self.receivers:
            if wanted is None or wanted == sender or wanted == getattr(sender, "name", None):
                try:
                    receiver(sender=sender, **arguments)
                except Exception:
                    logger.exception("a receiver of the signal %s failed: %r", self.name, receiver)

    def _add(self, receiver: Receiver, sender: Any) -> None:
        if not callable(receiver):
            raise ConfigurationError(f"signal {self.name}: {receiver!r} is not a function")
        try:
            inspect.signature(receiver).bind(sender=None, **dict.fromkeys(self.arguments))
        except TypeError as error:
            known = ", ".join(("sender", *self.arguments))
            raise ConfigurationError(
                f"signal {self.name}: {receiver!r} cannot be called with {known} ({error}); let it take **kwargs"
            ) from error
        except ValueError:
            pass  # a function written in C says nothing of its arguments
        if (receiver, sender) not in self.receivers:
            self.receivers = (*self.receivers, (receiver, sender))


# ------------------------------------------------------------------------------------------------------------ messages

before_task_publish = Signal("before_task_publish", "body", "headers", "task_id", "exchange", "routing_key")
"""A call is about to be written. `sender` is the task's name, `body` its arguments `(args, kwargs)`; `headers` is a dict of
the call's own headers, and what a receiver adds to it is sent and signed with the rest. `exchange` and `routing_key` are
those of the call, None where the route says."""
after_task_publish = Signal("after_task_publish", "body", "headers", "task_id", "exchange", "routing_key")
"""The broker has confirmed it. `body` is what was sent, as bytes; `headers` are all headers of the message."""

# --------------------------------------------------------------------------------------------------------------- tasks

task_prerun = Signal("task_prerun", "task_id", "task", "args", "kwargs")
"""A task begins. `sender` is the task."""
task_postrun = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
"""A task has ended; `retval` is what it returned, or the error."""
task_success = Signal("task_success", "result")
task_failure = Signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
"""A task has failed for good. Where its process died or was killed for a time limit, the worker sends this itself: then
`sender` is the task's name, and `args` and `kwargs` are empty, since the worker does not decode messages."""
task_retry = Signal("task_retry", "request", "reason", "einfo")
"""An attempt has failed with `reason`, and another one is to come."""

# ---------------------------------------------------------------------------------- deliveries, in the worker's process

task_received = Signal("task_received", "request")
"""A message came; nobody has checked it yet. `sender` is the worker's name, `request` a `worker.herald.Arrival`."""
task_rejected = Signal("task_rejected", "message", "exc")
"""A message was refused, and goes to the dead letter. `message` is an `Arrival`, `exc` says why (a `RemoteMessageError`)."""
task_unknown = Signal("task_unknown", "message", "exc", "name", "id")
"""A message asks for a task that this worker does not have, and goes to the dead letter."""
task_revoked = Signal("task_revoked", "request", "terminated", "signum", "expired")
"""A task is not run: it has expired, or was revoked. `request` is an `Arrival`."""

# ------------------------------------------------------------------------------------------------------------- workers

worker_init = Signal("worker_init")
"""A worker begins; the application is loaded, nothing is connected. `sender` is the worker's name."""
worker_ready = Signal("worker_ready")
"""It consumes every queue, for the first time."""
worker_shutting_down = Signal("worker_shutting_down", "sig", "how", "exitcode")
"""It was told to stop: `how` is `warm` or `cold`."""
worker_shutdown = Signal("worker_shutdown")
"""Its connections are closed. Not sent where the process ends at once (`solo`, cold, with a task that does not end)."""
worker_process_init = Signal("worker_process_init")
"""A process of the pool has loaded the application, and takes no task yet. `sender` is the worker's name."""
worker_process_shutdown = Signal("worker_process_shutdown", "pid", "exitcode")
"""A process of the pool ends in order. One that is killed says nothing."""

SIGNALS: Final = {value.name: value for value in list(vars().values()) if isinstance(value, Signal)}
"""All of them, by name."""
