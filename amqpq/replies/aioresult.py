"""`AsyncTaskResult`: the handle of a task that was sent, for asyncio code. The twin of `amqpq.replies.result`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from amqpq import lifecycle, log
from amqpq.errors import OperationTimeout, ResultError, ResultTimeout, TransportError
from amqpq.message.envelope import ResultEnvelope
from amqpq.replies import collecting, reading, retrieving
from amqpq.replies.aiorunner import AsyncRunner
from amqpq.replies.outcome import Known, result_seen, state_word
from amqpq.replies.result import LOOK_TIMEOUT_SECONDS
from amqpq.replies.retrieving import Retrieval
from amqpq.transport import aioflow
from amqpq.types import Delivery

if TYPE_CHECKING:
    from amqpq.message.codec import Codec

logger = log.logger(log.REPLIES)

R = TypeVar("R")


class AsyncReplies:
    """Fetches results for one application, on one event loop; see `amqpq.replies.result.Replies`."""

    def __init__(self, runner: AsyncRunner, codec: Callable[[], Codec]) -> None:
        self._runner = runner
        self._codec = codec

    def reader(self, task_id: str) -> Callable[[Delivery], ResultEnvelope | None]:
        """Return what makes states of the deliveries for one task."""
        codec = self._codec()
        return lambda delivery: reading.read(codec, task_id, delivery)

    async def fetch(
        self, known: Known[Any], timeout_seconds: float | None, on_state: reading.OnState | None
    ) -> ResultEnvelope:
        """Wait for the final state of a task and delete its queue."""
        known.check_answerable()
        if known.final is not None and (known.fetched or known.mode == "direct"):
            return known.final
        if known.mode == "direct":
            return await self._fetch_direct(known, timeout_seconds, on_state)
        retrieval = Retrieval(known.id, self.reader(known.id), on_state, final=known.final)
        try:
            await self._runner.resume(retrieval.flow, timeout_seconds)
        except OperationTimeout as error:
            if retrieval.final is None:
                raise known.late(timeout_seconds, retrieval.state) from error
        except TransportError as error:
            if retrieval.final is None:
                raise
            logger.warning("the result of task %s is here, its queue could not be deleted: %s", known.id, error)
        final = cast("ResultEnvelope", retrieval.final)
        known.final = final
        known.fetched = True
        return final

    async def _fetch_direct(
        self, known: Known[Any], timeout_seconds: float | None, on_state: reading.OnState | None
    ) -> ResultEnvelope:
        slot = known.slot
        if slot is None:
            raise known.lost("it was sent by another process")
        waiting = retrieving.await_direct(slot, self.reader(known.id), on_state, known.lost)
        try:
            known.final = await aioflow.run(waiting, timeout_seconds)
        except OperationTimeout as error:
            raise known.late(timeout_seconds, slot.state) from error
        return known.final

    async def look(self, known: Known[Any]) -> ResultEnvelope | None:
        """Return the latest state of a task without taking it away; None where there is none yet."""
        known.check_answerable()
        if known.final is not None:
            return known.final
        reader = self.reader(known.id)
        if known.mode == "direct":
            if known.slot is None:
                raise known.lost("it was sent by another process")
            return known.learn(retrieving.look_direct(known.slot, reader, known.lost))
        seen = await self._runner.resume(
            lambda session: retrieving.peek(session, known.id, reader), LOOK_TIMEOUT_SECONDS
        )
        return known.learn(seen)

    async def forget(self, known: Known[Any]) -> None:
        """Delete the reply queue of a task, or stop waiting for its direct reply."""
        if known.mode == "task" and not known.fetched:
            await self._runner.resume(lambda session: retrieving.forget(session, known.id), LOOK_TIMEOUT_SECONDS)
        known.forget()

    async def collect(
        self,
        items: Iterable[Known[Any]],
        timeout_seconds: float | None,
        on_final: Callable[[Known[Any]], object] | None,
    ) -> dict[str, Exception]:
        """Fetch the final states of many tasks over pipelined channels; return the errors of those that have none."""
        collection = collecting.Collection(self.reader, on_final)
        collection.add(items)
        deadline = None if timeout_seconds is None else self._runner.now() + timeout_seconds
        try:
            if collection.left:
                await self._runner.resume(collection.flow, timeout_seconds)
            for known in collection.direct:
                left = None if deadline is None else max(deadline - self._runner.now(), 0.0)
                try:
                    await self._fetch_direct(known, left, None)
                except ResultTimeout:
                    raise
                except ResultError as error:
                    collection.fail(known, error)
                else:
                    collection.done(known)
        except (OperationTimeout, ResultTimeout) as error:
            raise collection.late(timeout_seconds) from error
        return collection.errors


class AsyncTaskResult(Generic[R]):
    """A task that was sent: its id, its state, its result, for `await`.

    ::

        result = await add.delay(2, 3)
        await result.get(timeout=10)    # 5; the reply queue is deleted with it

    The names are those of `AsyncResult`; whatever asks the broker is a method to be awaited, `state()` among them.
    """

    def __init__(self, known: Known[R], replies: AsyncReplies) -> None:
        self._known = known
        self._replies = replies

    def __repr__(self) -> str:
        """Show the id, and the final state where it is known; asks nobody."""
        final = self._known.final
        return f"<AsyncTaskResult {self.id}{f' {final.status}' if final is not None else ''}>"

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same task."""
        return isinstance(other, AsyncTaskResult) and other.id == self.id

    def __hash__(self) -> int:
        """Hash by the id."""
        return hash(self.id)

    @property
    def known(self) -> Known[R]:
        """What is known so far; for the engine."""
        return self._known

    @property
    def id(self) -> str:
        """The task's id; enough to fetch the result from anywhere (in reply mode `task`)."""
        return self._known.id

    @property
    def task_id(self) -> str:
        """The task's id, by Celery's other name for it."""
        return self._known.id

    async def get(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the name people know; the deadline cleans up where a cancellation cannot
        *,
        propagate: bool = True,
        on_state: Callable[[str, Any], object] | None = None,
    ) -> R:
        """Wait for the task, take its result out of the reply queue, and return it; see `AsyncResult.get`.

        Cancelling it leaves the result, or the task's latest state, where it was.
        """
        final = await self._replies.fetch(self._known, timeout, on_state)
        value: R = self._known.value(final, propagate=propagate)
        return value

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as for get
        *,
        propagate: bool = True,
        on_state: Callable[[str, Any], object] | None = None,
    ) -> R:
        """The same as `get`."""
        return await self.get(timeout, propagate=propagate, on_state=on_state)

    async def peek(self) -> tuple[str, Any]:
        """Return the latest state word and what came with it, in one look."""
        seen = await self._replies.look(self._known)
        return state_word(seen), None if seen is None else seen.result

    async def state(self) -> str:
        """Return the latest state word; PENDING where no worker has said anything yet.

        Raises:
            ResultNotFound: No such reply queue.
        """
        return state_word(await self._replies.look(self._known))

    async def status(self) -> str:
        """The same as `state`."""
        return await self.state()

    async def ready(self) -> bool:
        """Whether the task has finished, in whatever way."""
        return lifecycle.is_final(await self.state())

    async def successful(self) -> bool:
        """Whether the task has finished and returned."""
        return await self.state() == lifecycle.State.SUCCESS

    async def failed(self) -> bool:
        """Whether the task has finished without returning."""
        state = await self.state()
        return lifecycle.is_final(state) and state != lifecycle.State.SUCCESS

    async def result(self) -> Any:
        """Return what is there so far: the value, the exception, or what the task reported last; None where nothing is."""
        return result_seen(await self._replies.look(self._known))

    async def info(self) -> Any:
        """The same as `result`."""
        return await self.result()

    async def traceback(self) -> str | None:
        """Return the traceback of a failed task, as the worker wrote it."""
        seen = await self._replies.look(self._known)
        return seen.traceback if seen is not None else None

    async def forget(self) -> None:
        """Delete the reply queue: the result is not wanted any more. The task runs all the same."""
        await self._replies.forget(self._known)
