"""The application: one topology, its tasks, a producer and the results. Wires things together and does nothing itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeAlias, TypeVar, Unpack, overload

from amqpq import bases, config, signals
from amqpq.config import TopologySource
from amqpq.errors import LocalError
from amqpq.message.codec import Codec
from amqpq.producer.batch import Batch
from amqpq.producer.blocking import Passage, Producer
from amqpq.producer.options import DEFAULT_TIMEOUT_SECONDS, SendOptions, read_options
from amqpq.producer.planning import NO_OPTIONS, Call, Planner
from amqpq.producer.publishing import Sending
from amqpq.producer.telling import announced, published
from amqpq.registry import Registry
from amqpq.remote.control import Control
from amqpq.replies.direct import Slot
from amqpq.replies.outcome import Known
from amqpq.replies.result import AsyncResult, Replies
from amqpq.replies.runner import Runner, Source
from amqpq.task import Task, TaskOptions, current_request, default_name, task_options
from amqpq.topology.model import Topology

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


Handle: TypeAlias = AsyncResult[Any]
"""A handle of a task whose type is not known here."""


class Application:
    """What every application has, whether it blocks or awaits: topology, tasks, codec, and a link for a worker.

    Args:
        topology: A path, a mapping or a loaded topology; None for `$AMQPQ_TOPOLOGY`, else `./topology.yaml`. It is
            loaded when it is first needed.
        environment: The entry of `environments:` to merge over the file.
        name: Shown by the broker beside the connection; the project's name where it is empty.
        environ: Where variables and key references are looked up.
        link: A link to use instead of one to the topology's broker (tests).
        task_cls: The base class of tasks whose decorator names none (see `amqpq.bases`).
    """

    world: type[Task[..., Any]] = Task
    """What its tasks are: `AppTask` or `AsyncAppTask`."""

    def __init__(
        self,
        topology: TopologySource = None,
        *,
        environment: str | None = None,
        name: str = "",
        environ: Mapping[str, str] = os.environ,
        link: Source | None = None,
        task_cls: type[Task[..., Any]] | None = None,
    ) -> None:
        self._task_cls = task_cls
        self.registry = Registry()
        self.main_reference = ""
        """Where a child process finds this application again, `module:attribute`; the command line sets it."""
        self._source = topology
        self._environment = environment
        self._name = name
        self._environ = environ
        self._link = link
        self._link_given = link is not None
        self._topology: Topology | None = None
        self._codec: Codec | None = None
        self._planner: Planner | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        """Show the name and where the topology comes from; loads nothing."""
        source = self._source if isinstance(self._source, str | os.PathLike) else type(self._source).__name__
        project = self._topology.project if self._topology is not None else self._name
        return f"<{type(self).__name__} {project or source}: {len(self.registry)} tasks>"

    @property
    def topology(self) -> Topology:
        """The topology, loaded at first use.

        Raises:
            ConfigurationError: There is no such file.
            TopologyError: It has errors; all are listed.
        """
        if self._topology is None:
            with self._lock:
                if self._topology is None:
                    self._topology = config.load_topology(
                        self._source, environment=self._environment, environ=self._environ
                    )
        return self._topology

    @topology.setter
    def topology(self, topology: Topology) -> None:
        """Take another topology than the application was made with (`-t` on the command line), before it is first used."""
        with self._lock:
            if self._topology is not None and self._topology is not topology:
                message = "the application's topology is in use already; it cannot be replaced"
                raise LocalError(message)
            self._topology = topology

    @property
    def has_topology(self) -> bool:
        """Whether the topology is loaded, or given."""
        return self._topology is not None

    @property
    def codec(self) -> Codec:
        """The codec, with the keys, loaded at first use.

        Raises:
            KeyProblem: A key is missing; the message names its path and the command that makes one.
        """
        if self._codec is None:
            with self._lock:
                if self._codec is None:
                    self._codec = config.codec(self.topology, environ=self._environ)
        return self._codec

    @property
    def link(self) -> Source:
        """The blocking link to the broker; it connects when it is used."""
        if self._link is None:
            with self._lock:
                if self._link is None:
                    self._link = config.link(self.topology, name=self._name)
        return self._link

    @property
    def planner(self) -> Planner:
        """Makes plans of calls."""
        if self._planner is None:
            with self._lock:
                if self._planner is None:
                    self._planner = Planner(self.topology, self.codec)
        return self._planner

    def prepare(self, call: Call) -> tuple[Sending, Known[Any]]:
        """Plan a call and make what its handle knows; sends nothing."""
        if signals.before_task_publish.receivers:
            call = announced(call)
        plan = self.planner.plan(call, current_request.get())
        slot = Slot(plan.task_id) if plan.mode == "direct" else None
        return Sending(plan, slot), Known(plan.task_id, mode=plan.mode, slot=slot, task=plan.task)

    def call_by_name(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Call:
        """Return the call of a task whose code need not be here; where it is, its options count."""
        known = self.registry.get(name)
        return Call(name, args or (), kwargs or {}, read_options(options), known.options if known else NO_OPTIONS)

    def register(self, functions: Sequence[Callable[..., Any]], options: dict[str, Any]) -> Any:
        """Do what the `task` decorators of both worlds do."""
        name = options.pop("name", None)
        kind = bases.take_class(options, self._task_cls, self.world)
        checked = task_options({**bases.options_of(kind), **options})

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            task: Task[..., Any] = bases.make(kind, self, name or default_name(function), function, checked)
            self.registry.add(task)
            return task

        return decorate(*functions) if functions else decorate


class AppTask(Task[P, R]):
    """A task that can be sent: `delay` and `apply_async` return an `AsyncResult`."""

    def __init__(self, app: App, name: str, function: Callable[..., R], options: TaskOptions) -> None:
        super().__init__(name, function, options)
        self.app = app

    @overload
    def delay(self: AppTask[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]: ...
    @overload
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]: ...
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[Any]:
        """Send the task with these arguments; return when the broker has confirmed it.

        Raises:
            TypeError: The function does not take these arguments.
            LocalError: It cannot be sent: no route, arguments that cannot be serialised, too large.
            PublishError: It was not published, or nobody knows; see `amqpq.errors`.
        """
        return self.apply_async(args, kwargs)

    @overload
    def apply_async(
        self: AppTask[P, Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]: ...
    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """Send the task with options; return when the broker has confirmed it.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            options: queue, exchange, routing_key, priority, expires, compression, serializer, headers, task_id, shadow,
                reply, ignore_result, retry, retry_policy, timeout (of the publish, seconds), time_limit,
                soft_time_limit (of the run, seconds).

        Raises:
            TypeError: The function does not take these arguments.
            LocalError: An unknown option, or it cannot be sent as asked.
            PublishError: It was not published, or nobody knows; see `amqpq.errors`.
        """
        args, kwargs = args or (), kwargs or {}
        self.check_arguments(args, kwargs)
        return self.app.send(Call(self.name, args, kwargs, read_options(options), self.options))


class App(Application):
    """An application for blocking code: scripts, web servers with threads, workers.

    ::

        app = App("topology.yaml")

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        add.delay(2, 3).get(timeout=10)

    It may be used by any number of threads, and after a fork.
    """

    world = AppTask

    def __init__(
        self,
        topology: TopologySource = None,
        *,
        environment: str | None = None,
        name: str = "",
        environ: Mapping[str, str] = os.environ,
        link: Source | None = None,
        task_cls: type[Task[..., Any]] | None = None,
    ) -> None:
        super().__init__(topology, environment=environment, name=name, environ=environ, link=link, task_cls=task_cls)
        self._engine: tuple[Runner, Producer, Replies] | None = None
        self._control: Control | None = None
        self._batch: ContextVar[tuple[int, Passage[Handle]] | None] = ContextVar("amqpq.batch", default=None)

    # --------------------------------------------------------------------------------------------------------- tasks

    @overload
    def task(self, function: Callable[P, R], /) -> AppTask[P, R]: ...
    @overload
    def task(
        self, *, bind: Literal[True], name: str | None = None, **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], R]], AppTask[P, R]]: ...
    @overload
    def task(self, *, name: str | None = None, **options: Any) -> Callable[[Callable[P, R]], AppTask[P, R]]: ...
    def task(self, *functions: Callable[..., Any], **options: Any) -> Any:
        """Make a task of a function.

        Args:
            functions: The function, where the decorator is used without brackets.
            options: name (`module.function` where none is given), bind, serializer, compression, priority, expires
                (seconds), reply, ignore_result, track_started, time_limit, soft_time_limit (seconds); base, a class
                derived from `Task` (see `amqpq.bases`), and the hooks of `amqpq.hooks`, one function each.

        Raises:
            ConfigurationError: An unknown option (with what was probably meant).
            NotBuiltYet: An option of a later stage.
            DuplicateTask: Another function has this name.
        """
        return self.register(functions, options)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> Handle:
        """Send a task by its name; needs no task code on this host.

        Args:
            name: The task's name.
            args: Positional arguments.
            kwargs: Keyword arguments.
            options: As for `apply_async`.

        Raises:
            LocalError: No route has this name, an unknown option, or it cannot be sent as asked.
            PublishError: It was not published, or nobody knows; see `amqpq.errors`.
        """
        return self.send(self.call_by_name(name, args, kwargs, options))

    def send(self, call: Call) -> Handle:
        """Send a prepared call, or add it to the batch of this thread."""
        sending, known = self.prepare(call)
        _, producer, replies = self._parts()
        result: Handle = AsyncResult(known, replies)
        passage = self._current_batch()
        if passage is not None:
            if passage.batch.add(sending, known, result):
                passage.feed()
        else:
            producer.send(sending, timeout_seconds=call.options.timeout, retry=call.options.retry)
            published((sending,))
        return result

    @contextmanager
    def batch(
        self, *, timeout: float = DEFAULT_TIMEOUT_SECONDS, retry: bool = True, stream: bool = False
    ) -> Iterator[Batch[Handle]]:
        """Collect what this thread sends inside the block, and publish it together at its end, or as a stream.

        An exception that leaves the block drops the batch: nothing of it is sent. Options `timeout` and `retry` of the
        calls inside do not count; those of the batch do.

        A stream leaves while the block runs, in chunks of 1,000 messages, 4 MiB or 160 reply queues: it is faster, and its
        messages are not held in memory once they are confirmed. A call that completes a chunk waits while two chunks are under
        way.
        An exception cannot call back what has left: it is finished, only what was collected since is dropped, and the
        handles and `batch.failures` know which is which. An interruption (`KeyboardInterrupt`) waits for nothing.

        Args:
            timeout: For publishing all of it, seconds; in a stream, for each chunk that is handed over, and for the end.
            retry: Whether to publish again what a lost connection left open.
            stream: Whether to publish while the block runs.

        Raises:
            BatchFailed: At the end of the block: some were not published; each is listed with its reason. From a call
                inside a stream: nothing more can be published, because the broker was away, or blocked, for `timeout`.
        """
        if self._current_batch() is not None:
            message = "a batch inside a batch: leave the outer `with app.batch()` first"
            raise LocalError(message)
        batch: Batch[Handle] = Batch(stream=stream, timeout_seconds=timeout, retry=retry)
        passage = self._parts()[1].passage(batch)
        token = self._batch.set((threading.get_ident(), passage))
        try:
            yield batch
            batch.open = False
            passage.finish()
        except BaseException as error:
            batch.open = False
            passage.leave(error)
            raise
        finally:
            self._batch.reset(token)

    def _current_batch(self) -> Passage[Handle] | None:
        found = self._batch.get()
        # A thread may inherit the context of the one that started it (Python 3.14); its calls are not of this batch.
        return found[1] if found is not None and found[0] == threading.get_ident() and found[1].batch.open else None

    # ------------------------------------------------------------------------------------------------------- results

    def AsyncResult(self, task_id: str) -> Handle:  # noqa: N802 - the name people know it by
        """Return the handle of a task that was sent with reply mode `task`, by anybody; asks nobody."""
        return AsyncResult(Known(task_id), self._parts()[2])

    def collect(
        self,
        results: Iterable[Handle],
        *,
        timeout: float | None = None,
        propagate: bool = True,
        on_result: Callable[[Handle], object] | None = None,
    ) -> list[Any]:
        """Fetch many results at once, over pipelined channels.

        Args:
            results: Handles of this application's tasks.
            timeout: Seconds for all of them; None waits for as long as it takes.
            propagate: Whether the first failure, in the order of `results`, is raised when all are fetched; otherwise
                exceptions stand in the list in place of values.
            on_result: Called in this thread with each handle when its result is there, or cannot be had.

        Returns:
            The values, in the order of `results`.

        Raises:
            ResultTimeout: Some did not finish in time. Those that did are fetched; collect again for the rest.
            Exception: The first failure.
        """
        handles = list(results)
        by_id = {handle.id: handle for handle in handles}
        errors = self._parts()[2].collect(
            [handle.known for handle in by_id.values()],
            timeout,
            None if on_result is None else lambda known: on_result(by_id[known.id]),
        )
        return [gathered(by_id[handle.id].known, errors, propagate=propagate) for handle in handles]

    # ------------------------------------------------------------------------------------------------------- control

    @property
    def control(self) -> Control:
        """Asks and tells the workers: `app.control.ping()`, `.inspect()`, `.revoke(id)`, `.broadcast(command)`."""
        if self._control is None:
            self._control = Control(lambda: self.link, lambda: self.codec, lambda: self.topology)
        return self._control

    def _revoke(self, task_id: str, terminate: bool, signal: str) -> None:  # noqa: FBT001 - called in one place
        self.control.revoke(task_id, terminate=terminate, signal=signal)

    # --------------------------------------------------------------------------------------------------------- ending

    def close(self, timeout: float | None = 5.0) -> None:
        """Close the connection to the broker, if there is one; the next use opens another.

        Args:
            timeout: For the broker's goodbye, seconds.
        """
        with self._lock:
            link = self._link
            if not self._link_given:
                self._link = None
        if link is not None:
            link.close(timeout)

    def __enter__(self) -> Self:
        """Return the application."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def _parts(self) -> tuple[Runner, Producer, Replies]:
        engine = self._engine
        if engine is None:
            with self._lock:
                engine = self._engine
                if engine is None:
                    runner = Runner(lambda: self.link)
                    engine = self._engine = (
                        runner,
                        Producer(runner),
                        Replies(runner, lambda: self.codec, self._revoke),
                    )
        return engine


def gathered(known: Known[Any], errors: Mapping[str, Exception], *, propagate: bool) -> Any:
    """Return what stands in a collection's list for one result, or raise it."""
    error = errors.get(known.id)
    if error is not None:
        if propagate:
            raise error
        return error
    final = known.final
    if final is None:
        message = f"task {known.id} was not collected"
        raise LocalError(message)
    return known.value(final, propagate=propagate)
