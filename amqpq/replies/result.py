"""`AsyncResult`, for blocking code: the handle of a task that was sent, by anybody, from anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from amqpq import lifecycle, log
from amqpq.errors import OperationTimeout, ResultError, ResultTimeout, TransportError
from amqpq.message.envelope import ResultEnvelope
from amqpq.replies import collecting, reading, retrieving
from amqpq.replies.outcome import Known, result_seen, state_word
from amqpq.replies.retrieving import Retrieval
from amqpq.replies.runner import Runner
from amqpq.replies.session import Session
from amqpq.transport import flow
from amqpq.transport.interface import Flow
from amqpq.types import Delivery

if TYPE_CHECKING:
    from amqpq.message.codec import Codec

logger = log.logger(log.REPLIES)

R = TypeVar("R")
T = TypeVar("T")

LOOK_TIMEOUT_SECONDS: Final = 30.0
"""For what takes no timeout of its own: `state`, `ready()`, `forget()`."""


class Replies:
    """Fetches results for one application.

    Args:
        runner: Runs flows on its link.
        codec: Called for the codec that reads results, at first use: its keys are not needed before.
        revoke: Revokes a task: its id, whether to end it where it runs, with which signal.
    """

    def __init__(self, runner: Runner, codec: Callable[[], Codec], revoke: Callable[[str, bool, str], object]) -> None:
        self._runner = runner
        self._codec = codec
        self.revoke = revoke

    def reader(self, task_id: str) -> Callable[[Delivery], ResultEnvelope | None]:
        """Return what makes states of the deliveries for one task."""
        codec = self._codec()
        return lambda delivery: reading.read(codec, task_id, delivery)

    def fetch(
        self, known: Known[Any], timeout_seconds: float | None, on_state: reading.OnState | None
    ) -> ResultEnvelope:
        """Wait for the final state of a task and delete its queue."""
        known.check_answerable()
        if known.final is not None and (known.fetched or known.mode == "direct"):
            return known.final
        if known.mode == "direct":
            return self._fetch_direct(known, timeout_seconds, on_state)
        retrieval = Retrieval(known.id, self.reader(known.id), on_state, final=known.final)
        try:
            self._runner.resume(retrieval.flow, timeout_seconds)
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

    def _fetch_direct(
        self, known: Known[Any], timeout_seconds: float | None, on_state: reading.OnState | None
    ) -> ResultEnvelope:
        slot = known.slot
        if slot is None:
            raise known.lost("it was sent by another process")
        waiting = retrieving.await_direct(slot, self.reader(known.id), on_state, known.lost)
        try:
            known.final = flow.run(waiting, timeout_seconds)
        except OperationTimeout as error:
            raise known.late(timeout_seconds, slot.state) from error
        return known.final

    def look(self, known: Known[Any]) -> ResultEnvelope | None:
        """Return the latest state of a task without taking it away; None where there is none yet."""
        known.check_answerable()
        if known.final is not None:
            return known.final
        reader = self.reader(known.id)
        if known.mode == "direct":
            if known.slot is None:
                raise known.lost("it was sent by another process")
            return known.learn(retrieving.look_direct(known.slot, reader, known.lost))
        return known.learn(self._run(lambda session: retrieving.peek(session, known.id, reader)))

    def forget(self, known: Known[Any]) -> None:
        """Delete the reply queue of a task, or stop waiting for its direct reply."""
        if known.mode == "task" and not known.fetched:
            self._run(lambda session: retrieving.forget(session, known.id))
        known.forget()

    def _run(self, make: Callable[[Session], Flow[T]]) -> T:
        return self._runner.resume(make, LOOK_TIMEOUT_SECONDS)

    def collect(
        self,
        items: Iterable[Known[Any]],
        timeout_seconds: float | None,
        on_final: Callable[[Known[Any]], object] | None,
    ) -> dict[str, Exception]:
        """Fetch the final states of many tasks over pipelined channels; return the errors of those that have none."""
        collection = collecting.Collection(self.reader, on_final)
        collection.add(items)
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            if collection.left:
                self._runner.resume(collection.flow, timeout_seconds)
            for known in collection.direct:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                try:
                    self._fetch_direct(known, left, None)
                except ResultTimeout:
                    raise
                except ResultError as error:
                    collection.fail(known, error)
                else:
                    collection.done(known)
        except (OperationTimeout, ResultTimeout) as error:
            raise collection.late(timeout_seconds) from error
        return collection.errors


class AsyncResult(Generic[R]):
    """A task that was sent: its id, its state, its result.

    ::

        result = add.delay(2, 3)
        result.get(timeout=10)                        # 5; the reply queue is deleted with it
        app.AsyncResult(result.id).get(timeout=10)    # the same from any process, on any host, as long as nobody fetched it

    Looking (`state`, `ready()`, `result`) leaves the result where it is; `get()` takes it away. What `get` returned is
    kept in this object, so that asking again costs nothing.
    """

    def __init__(self, known: Known[R], replies: Replies) -> None:
        self._known = known
        self._replies = replies

    def __repr__(self) -> str:
        """Show the id, and the final state where it is known; asks nobody."""
        final = self._known.final
        return f"<AsyncResult {self.id}{f' {final.status}' if final is not None else ''}>"

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same task."""
        return isinstance(other, AsyncResult) and other.id == self.id

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

    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_state: Callable[[str, Any], object] | None = None,
    ) -> R:
        """Wait for the task, take its result out of the reply queue, and return it.

        Args:
            timeout: Seconds to wait; None waits for as long as it takes.
            propagate: Whether a failure is raised; otherwise the exception is returned.
            on_state: Called in this thread with each intermediate state and what the task reported with it.

        Raises:
            ResultTimeout: The task did not finish in time. Nothing is lost: ask again.
            ResultNotFound: No such reply queue: never sent, fetched by somebody else, or expired.
            NoReplyExpected: It was sent with `reply: none`.
            ReplyLost: A direct reply's connection went away.
            TaskExpired: It expired before a worker could run it.
            Exception: What the task raised, as the same class where it can be imported, else as `RemoteError`.
        """
        value: R = self._known.value(self._replies.fetch(self._known, timeout, on_state), propagate=propagate)
        return value

    def wait(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_state: Callable[[str, Any], object] | None = None,
    ) -> R:
        """The same as `get`."""
        return self.get(timeout, propagate=propagate, on_state=on_state)

    def peek(self) -> tuple[str, Any]:
        """Return the latest state word and what came with it, in one look: the value, the failure's description, progress."""
        seen = self._replies.look(self._known)
        return state_word(seen), None if seen is None else seen.result

    @property
    def state(self) -> str:
        """The latest state word; PENDING where no worker has said anything yet.

        Raises:
            ResultNotFound: No such reply queue.
        """
        return state_word(self._replies.look(self._known))

    @property
    def status(self) -> str:
        """The same as `state`."""
        return self.state

    def ready(self) -> bool:
        """Whether the task has finished, in whatever way."""
        return lifecycle.is_final(self.state)

    def successful(self) -> bool:
        """Whether the task has finished and returned."""
        return self.state == lifecycle.State.SUCCESS

    def failed(self) -> bool:
        """Whether the task has finished without returning."""
        state = self.state
        return lifecycle.is_final(state) and state != lifecycle.State.SUCCESS

    @property
    def result(self) -> Any:
        """What is there so far: the value, the exception, or what the task reported last; None where nothing is."""
        return result_seen(self._replies.look(self._known))

    @property
    def info(self) -> Any:
        """The same as `result`."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as the worker wrote it."""
        seen = self._replies.look(self._known)
        return seen.traceback if seen is not None else None

    def revoke(self, *, terminate: bool = False, signal: str = "SIGTERM") -> None:
        """Have the task not run, wherever it waits; who waits for it gets `TaskRevoked`. See `App.control`.

        Args:
            terminate: Also end it where it runs now; only the prefork pool can.
            signal: With which.

        Raises:
            KeyProblem: It has to be signed and the key is not there.
            TransportError: The broker did not take it.
        """
        self._replies.revoke(self.id, terminate, signal)

    def forget(self) -> None:
        """Delete the reply queue: the result is not wanted any more. The task runs all the same."""
        self._replies.forget(self._known)
