"""The application for asyncio: the names of `amqpq.app`, awaitable."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeAlias, TypeVar, Unpack, overload

from amqpq import config
from amqpq.app import Application, gathered
from amqpq.config import TopologySource
from amqpq.errors import LocalError
from amqpq.producer.aio import AsyncPassage, AsyncProducer
from amqpq.producer.batch import Batch
from amqpq.producer.options import DEFAULT_TIMEOUT_SECONDS, SendOptions, read_options
from amqpq.producer.planning import Call
from amqpq.producer.telling import published
from amqpq.replies.aioresult import AsyncReplies, AsyncTaskResult
from amqpq.replies.aiorunner import AsyncRunner, AsyncSource
from amqpq.replies.outcome import Known
from amqpq.replies.runner import Source
from amqpq.task import Task, TaskOptions

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Handle: TypeAlias = AsyncTaskResult[Any]
"""A handle of a task whose type is not known here."""


class AsyncAppTask(Task[P, R]):
    """A task that can be sent with `await`: `delay` and `apply_async` return an `AsyncTaskResult`."""

    def __init__(self, app: AsyncApp, name: str, function: Callable[..., R], options: TaskOptions) -> None:
        super().__init__(name, function, options)
        self.app = app

    @overload
    async def delay(
        self: AsyncAppTask[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTaskResult[T]: ...
    @overload
    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskResult[R]: ...
    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskResult[Any]:
        """Send the task with these arguments; see `AppTask.delay`."""
        return await self.apply_async(args, kwargs)

    @overload
    async def apply_async(
        self: AsyncAppTask[P, Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncTaskResult[T]: ...
    @overload
    async def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncTaskResult[R]: ...
    async def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncTaskResult[Any]:
        """Send the task with options; see `AppTask.apply_async`. Cancelling it deletes its reply queue again."""
        args, kwargs = args or (), kwargs or {}
        self.check_arguments(args, kwargs)
        return await self.app.send(Call(self.name, args, kwargs, read_options(options), self.options))


class AsyncApp(Application):
    """An application for one event loop: FastAPI and other asyncio programs.

    ::

        async with AsyncApp("topology.yaml") as app:
            result = await app.send_task("tasks.add", [2, 3])
            await result.get(timeout=10)

    Its tasks are run by a worker like those of an `App`; `link` is the blocking link that the worker uses.
    """

    world = AsyncAppTask

    def __init__(
        self,
        topology: TopologySource = None,
        *,
        environment: str | None = None,
        name: str = "",
        environ: Mapping[str, str] = os.environ,
        link: Source | None = None,
        async_link: AsyncSource | None = None,
        task_cls: type[Task[..., Any]] | None = None,
    ) -> None:
        super().__init__(topology, environment=environment, name=name, environ=environ, link=link, task_cls=task_cls)
        self._async_link = async_link
        self._async_link_given = async_link is not None
        self._engine: tuple[AsyncRunner, AsyncProducer, AsyncReplies] | None = None
        self._batch: ContextVar[AsyncPassage[Handle] | None] = ContextVar("amqpq.async_batch", default=None)

    @property
    def async_link(self) -> AsyncSource:
        """The asyncio link to the broker; it connects when it is used."""
        if self._async_link is None:
            self._async_link = config.async_link(self.topology, name=self._name)
        return self._async_link

    # --------------------------------------------------------------------------------------------------------- tasks

    @overload
    def task(self, function: Callable[P, R], /) -> AsyncAppTask[P, R]: ...
    @overload
    def task(
        self, *, bind: Literal[True], name: str | None = None, **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], R]], AsyncAppTask[P, R]]: ...
    @overload
    def task(self, *, name: str | None = None, **options: Any) -> Callable[[Callable[P, R]], AsyncAppTask[P, R]]: ...
    def task(self, *functions: Callable[..., Any], **options: Any) -> Any:
        """Make a task of a function, `async def` or not; see `App.task`."""
        return self.register(functions, options)

    async def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> Handle:
        """Send a task by its name; needs no task code on this host. See `App.send_task`."""
        return await self.send(self.call_by_name(name, args, kwargs, options))

    async def send(self, call: Call) -> Handle:
        """Send a prepared call, or add it to the batch of this context."""
        sending, known = self.prepare(call)
        _, producer, replies = self._parts()
        result: Handle = AsyncTaskResult(known, replies)
        passage = self._batch.get()
        if passage is not None and passage.batch.open:
            if passage.batch.add(sending, known, result):
                await passage.feed()
        else:
            await producer.send(sending, timeout_seconds=call.options.timeout, retry=call.options.retry)
            published((sending,))
        return result

    @asynccontextmanager
    async def batch(
        self,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,  # noqa: ASYNC109 - of the publish, as in the blocking world
        retry: bool = True,
        stream: bool = False,
    ) -> AsyncIterator[Batch[Handle]]:
        """Collect what is sent inside the block, by this task and those it starts, and publish it together at its end.

        As a stream it leaves in chunks while the block runs; a cancelled task of those it was started with takes nothing of
        it back. See `App.batch`.
        """
        outer = self._batch.get()
        if outer is not None and outer.batch.open:
            message = "a batch inside a batch: leave the outer `async with app.batch()` first"
            raise LocalError(message)
        batch: Batch[Handle] = Batch(stream=stream, timeout_seconds=timeout, retry=retry)
        passage = self._parts()[1].passage(batch)
        token = self._batch.set(passage)
        try:
            yield batch
            batch.open = False
            await passage.finish()
        except BaseException as error:
            batch.open = False
            await passage.leave(error)
            raise
        finally:
            self._batch.reset(token)

    # ------------------------------------------------------------------------------------------------------- results

    def AsyncResult(self, task_id: str) -> Handle:  # noqa: N802 - the name people know it by
        """Return the handle of a task that was sent with reply mode `task`, by anybody; asks nobody."""
        return AsyncTaskResult(Known(task_id), self._parts()[2])

    async def collect(
        self,
        results: Iterable[Handle],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as for get
        propagate: bool = True,
        on_result: Callable[[Handle], object] | None = None,
    ) -> list[Any]:
        """Fetch many results at once, over pipelined channels; see `App.collect`."""
        handles = list(results)
        by_id = {handle.id: handle for handle in handles}
        errors = await self._parts()[2].collect(
            [handle.known for handle in by_id.values()],
            timeout,
            None if on_result is None else lambda known: on_result(by_id[known.id]),
        )
        return [gathered(by_id[handle.id].known, errors, propagate=propagate) for handle in handles]

    # --------------------------------------------------------------------------------------------------------- ending

    async def close(self, timeout: float | None = 5.0) -> None:  # noqa: ASYNC109 - for the broker's goodbye
        """Close the connection to the broker, if there is one; the next use opens another.

        Args:
            timeout: For the broker's goodbye, seconds.
        """
        link = self._async_link
        if not self._async_link_given:
            self._async_link = None
        if link is not None:
            await link.close(timeout)

    async def __aenter__(self) -> Self:
        """Return the application."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    def _parts(self) -> tuple[AsyncRunner, AsyncProducer, AsyncReplies]:
        engine = self._engine
        if engine is None:
            runner = AsyncRunner(lambda: self.async_link)
            engine = self._engine = (runner, AsyncProducer(runner), AsyncReplies(runner, lambda: self.codec))
        return engine
