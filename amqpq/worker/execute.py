"""One delivery to one outcome: check, decode, look up, run, encode the result. Runs where user code runs, in every pool.

Nothing raised here leaves here: whatever happens is an outcome that the worker's loop can settle. Verification comes before
decompression and decoding (the codec's business), and an answer goes only to an address that was verified: a refused
message is never answered, since whoever forged it chose its reply address.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
import traceback as tracebacks
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TypeAlias

from amqpq import log
from amqpq import task as task_module
from amqpq.clock import SYSTEM_CLOCK, Clock
from amqpq.errors import ExpiredMessage, LocalError, RemoteMessageError, Undecodable, UnregisteredTask
from amqpq.lifecycle import State
from amqpq.log import WORKER
from amqpq.message import Encoding, ResultEnvelope, TaskEnvelope, failure
from amqpq.retry import Retry
from amqpq.task import Request, Task, current_request
from amqpq.topology.delays import no_ladder
from amqpq.worker import life
from amqpq.worker.again import Again, Attempts, retries_of
from amqpq.worker.arrival import Arrivals
from amqpq.worker.deadletter import crashes_of
from amqpq.worker.host import Host
from amqpq.worker.limits import NO_TIMING, Limits, Timekeeper, Timing, limits_of_call, limits_of_task, not_kept
from amqpq.worker.settle import Happened
from amqpq.worker.work import DECODING, RUNNING, Finished, Reply, Work

logger = logging.getLogger(WORKER)

TRACEBACK_CHARACTERS: Final = 65_536
"""Enough for any traceback that somebody reads; a runaway one must not make the result too large to publish."""

_OURS: Final = frozenset({__file__, task_module.__file__})
"""Frames of these files stand above the user's in every traceback and say nothing."""


CoroutineRunner: TypeAlias = Callable[[Coroutine[Any, Any, Any]], object]
"""`asyncio.run`, or what stands for it where event loops cannot run on the thread of a task."""


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> object:
    import asyncio  # noqa: PLC0415 - see HIDDEN_IMPORTS in tests/test_architecture.py

    return asyncio.run(coroutine)


class NotBuiltYetHere(RemoteMessageError):
    """The message asks for something that this version cannot honour, so it was not run."""

    cause = "unsupported"


class Run:
    """One run of a task: as a context, the time in which its limits count."""

    def __init__(
        self, task: Task[..., Any], limits: Limits | None, keeper: Timekeeper | None, run_coroutine: CoroutineRunner
    ) -> None:
        self.task = task
        self._limits = limits
        self._keeper = keeper if limits is not None else None
        self._run_coroutine = run_coroutine

    def __enter__(self) -> None:
        """Begin."""
        if self._keeper is not None and self._limits is not None:
            try:
                self._keeper.begin(self._limits)
            except BaseException:  # a soft limit of no time at all
                self._keeper.end()
                raise

    def __exit__(self, *_error: object) -> None:
        """End; the soft limit may be raised from here, which then is how the task failed."""
        if self._keeper is not None:
            self._keeper.end()

    def afterwards(self) -> Run:
        """Return the time in which hooks tell of its end: the hard limit anew, and no soft one, which is the function's."""
        hard = self._limits.hard if self._limits is not None and self._keeper is not None else None
        return Run(self.task, Limits(hard) if hard is not None else None, self._keeper, self._run_coroutine)

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Run an `async def` task to its end, where no event loop runs."""
        return self._run_coroutine(coroutine) if self._keeper is None else self._keeper.finish(coroutine)

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[object]:
        """Return what the running event loop has to await for the task."""
        return coroutine if self._keeper is None else self._keeper.drive(coroutine)


Steps: TypeAlias = Generator[tuple[Run, Coroutine[Any, Any, Any]], object, Finished]
"""A delivery on its way: yields what has to be awaited, with its run, and is sent what came of it."""


class Executor:
    """Runs deliveries: each on the thread that calls `run`, or in the event loop that awaits `run_in_loop`.

    Args:
        host: The application.
        worker: The worker's name, `name@host`.
        clock: For expiry and run times.
        mark: Told the number of the delivery and how far it is (`work.DECODING`, `work.RUNNING`): what is known of it
            when this process dies.
        timing: How long tasks may run.
        run_coroutine: Runs the coroutine of a task to its end, in `run`.
    """

    def __init__(
        self,
        host: Host,
        worker: str,
        *,
        clock: Clock = SYSTEM_CLOCK,
        mark: Callable[[int, int], object] | None = None,
        timing: Timing = NO_TIMING,
        run_coroutine: CoroutineRunner = _run_coroutine,
    ) -> None:
        self._codec = host.codec
        self._registry = host.registry
        self._worker = worker
        self._clock = clock
        self._mark = mark or _no_mark
        self._timing = timing
        self._run_coroutine = run_coroutine
        self._reply_encodings: dict[str | None, Encoding] = {}
        self._topology = host.topology
        self._arrivals = Arrivals(host.topology)
        self._attempts = Attempts(host, clock)
        self._persistent_replies = host.topology.replies.persistent

    def run(self, work: Work, report: Callable[[Reply], object]) -> Finished:
        """Run one delivery on this thread.

        Args:
            work: The delivery.
            report: Publishes a state on the way; called on this thread, or on one that the task started.

        Returns:
            What became of it, with the reply ready to publish.
        """
        steps = self._steps(work, report)
        step: Callable[[Any], tuple[Run, Coroutine[Any, Any, Any]]] = steps.send
        value: object = None
        while True:
            # One `try` around all of it: a soft limit is raised on whatever line this thread is on.
            try:
                run, coroutine = step(value)
                value = run.finish(coroutine)
                step = steps.send
            except StopIteration as end:
                finished: Finished = end.value
                return finished
            except BaseException as error:  # noqa: BLE001 - all of it is the task's to see
                step, value = steps.throw, error

    async def run_in_loop(self, work: Work, report: Callable[[Reply], object]) -> Finished:
        """Do the same beside others in the running event loop; for `async def` tasks, which it awaits."""
        steps = self._steps(work, report)
        step: Callable[[Any], tuple[Run, Coroutine[Any, Any, Any]]] = steps.send
        value: object = None
        while True:
            try:
                run, coroutine = step(value)
                value = await run.drive(coroutine)
                step = steps.send
            except StopIteration as end:
                finished: Finished = end.value
                return finished
            except BaseException as error:  # noqa: BLE001 - a cancellation too is how a task ends, not how this does
                step, value = steps.throw, error

    def _steps(self, work: Work, report: Callable[[Reply], object]) -> Steps:
        """Run one delivery, with whatever is to be awaited left to who drives this."""
        self._mark(work.number, DECODING)
        try:
            envelope = self._codec.decode_task(work.body, work.properties, arrived=self._arrivals.way(work))
        except RemoteMessageError as error:
            return Finished(work.number, Happened.REFUSED, cause=error.cause, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours must park the message that shows it, not kill the child
            return Finished(
                work.number,
                Happened.REFUSED,
                cause="internal-error",
                reason=f"{type(error).__name__}: {error}",
                traceback="".join(tracebacks.format_exception(error)),
            )
        again = retries_of(work.properties)
        if again:
            envelope = envelope._replace(retries=envelope.retries + again)
        task = self._registry.get(envelope.task)
        due = self._due_later(envelope)
        if due is not None:
            return Finished(work.number, Happened.EARLY, task=envelope.task, due=due)
        refusal = self._refusal(envelope, task)
        if refusal is not None or task is None:
            return self._refused(work, envelope, refusal or UnregisteredTask())
        try:
            limits = self._limits(work, envelope, task)
        except RemoteMessageError as error:
            return self._refused(work, envelope, error)
        self._mark(work.number, RUNNING)
        run = Run(task, limits, self._timing.keeper, self._run_coroutine)
        return (yield from self._run(work, envelope, run, report))

    # ------------------------------------------------------------------------------------------------ before it runs

    def _due_later(self, envelope: TaskEnvelope) -> float | None:
        """Return when the task is due, if that is later and the broker can hold it until then."""
        if envelope.eta is None or self._topology.delays is None:
            return None
        try:
            due = _moment(envelope.eta, "eta")
            if envelope.expires is not None and _moment(envelope.expires, "expires") <= self._clock.time():
                return None
        except Undecodable:
            return None
        return due if due > self._clock.time() else None

    def _refusal(self, envelope: TaskEnvelope, task: Task[..., Any] | None) -> RemoteMessageError | None:
        if task is None:
            return UnregisteredTask(self._registry.explain_missing(envelope.task))
        try:
            if envelope.expires is not None and _moment(envelope.expires, "expires") <= self._clock.time():
                return ExpiredMessage(f"it expired at {envelope.expires}")
            if envelope.eta is not None and _moment(envelope.eta, "eta") > self._clock.time():
                return NotBuiltYetHere(f"not due before {envelope.eta}, and {no_ladder(self._topology)}")
        except Undecodable as error:
            return error
        wanted = [name for name, follow_up in envelope.embed.items() if follow_up]
        return NotBuiltYetHere(f"not built yet: {', '.join(wanted)}") if wanted else None

    def _limits(self, work: Work, envelope: TaskEnvelope, task: Task[..., Any]) -> Limits | None:
        """Decide the limits of one run; None where there are none."""
        of_task = limits_of_task(task.options) if work.limits is None else Limits(*work.limits)
        limits = limits_of_call(envelope.timelimit).or_else(of_task).or_else(self._timing.limits)
        if limits.hard is None and limits.soft is None:
            return None
        reason = not_kept(self._timing.pool, limits, is_async=task.is_async)
        if reason:
            raise NotBuiltYetHere(f"{reason} (header timelimit: {list(envelope.timelimit)})")
        return limits

    def _refused(self, work: Work, envelope: TaskEnvelope, error: RemoteMessageError) -> Finished:
        expired = isinstance(error, ExpiredMessage)
        state = State.EXPIRED if expired else State.FAILURE
        return Finished(
            work.number,
            Happened.EXPIRED if expired else Happened.REFUSED,
            task=envelope.task,
            reply=self._answer(work, envelope, state, failure.describe(error)),
            cause=error.cause,
            reason=str(error),
        )

    # --------------------------------------------------------------------------------------------------- the function

    def _run(self, work: Work, envelope: TaskEnvelope, run: Run, report: Callable[[Reply], object]) -> Steps:
        def tell(state: str, meta: object) -> None:
            reply = self._answer_or_raise(work, envelope, state, meta)
            if reply is not None:
                report(reply)

        request = self._request(work, envelope, tell, self._attempts.most(run.task))
        token, fields = current_request.set(request), log.context.set(self._fields(work, envelope))
        task, began = run.task, time.perf_counter()
        try:
            with run:
                if task.options.track_started:
                    tell(State.STARTED, {"hostname": self._worker, "pid": os.getpid()})
                life.begin(task, request)
                result = task(*envelope.args, **envelope.kwargs)
                if inspect.iscoroutine(result):
                    result = yield run, result
                _raise_asked(request)
                seconds = time.perf_counter() - began
                reply = self._answer_or_raise(work, envelope, State.SUCCESS, result)
            if life.listened_to(task):
                with run.afterwards():
                    life.succeeded(task, request, result)
        except BaseException as error:  # noqa: BLE001 - SystemExit and CancelledError end the task, never the worker
            return self._raised(work, envelope, (run, request), error, time.perf_counter() - began)
        finally:
            current_request.reset(token)
            log.context.reset(fields)
        return Finished(work.number, Happened.SUCCEEDED, envelope.task, seconds, reply)

    def _fields(self, work: Work, envelope: TaskEnvelope) -> log.MessageKeys:
        """What each log line of the task carries."""
        return {
            "amqpq_task": envelope.task,
            "amqpq_task_id": envelope.id,
            "amqpq_queue": work.queue,
            "amqpq_attempts": envelope.retries + crashes_of(work.properties) + 1,
            "amqpq_worker": self._worker,
        }

    def _raised(
        self, work: Work, envelope: TaskEnvelope, ran: tuple[Run, Request], error: BaseException, seconds: float
    ) -> Finished:
        """Decide between another attempt and the end."""
        run, request = ran
        verdict = self._attempts.verdict(work, envelope, run.task, error, request.asked or ())
        if isinstance(verdict, Again):
            finished = self._retrying(work, envelope, verdict, seconds)
            tell = life.retried
        else:
            finished = self._failed(work, envelope, verdict.error, seconds)._replace(drop=verdict.drop)
            tell = life.failed
        if life.listened_to(run.task):
            with run.afterwards():
                tell(run.task, request, verdict.error, finished.traceback)
        return finished

    def _retrying(self, work: Work, envelope: TaskEnvelope, again: Again, seconds: float) -> Finished:
        error, text = again.error, _traceback_text(again.error)
        return Finished(
            work.number,
            Happened.RETRIED,
            envelope.task,
            seconds,
            self._answer(work, envelope, State.RETRY, failure.describe(error), text),
            "retried",
            f"{type(error).__name__}: {error}",
            text,
            again.due,
            again.changed,
        )

    def _failed(self, work: Work, envelope: TaskEnvelope, error: BaseException, seconds: float) -> Finished:
        text = _traceback_text(error)
        return Finished(
            work.number,
            Happened.FAILED,
            envelope.task,
            seconds,
            self._answer(work, envelope, State.FAILURE, failure.describe(error), text),
            "failed",
            f"{type(error).__name__}: {error}",
            text,
        )

    def _request(
        self, work: Work, envelope: TaskEnvelope, tell: Callable[[str, object], None], max_retries: float
    ) -> Request:
        return Request(  # by position: with names it takes three times as long
            envelope.id,
            envelope.task,
            tuple(envelope.args),
            envelope.kwargs,
            envelope.root_id,
            envelope.parent_id,
            envelope.group,
            envelope.retries,
            envelope.eta,
            envelope.expires,
            envelope.timelimit,
            envelope.origin,
            envelope.shadow,
            envelope.ignore_result,
            envelope.reply_to,
            envelope.correlation_id,
            envelope.priority,
            envelope.headers,
            self._worker,
            {
                "exchange": work.exchange,
                "routing_key": work.routing_key,
                "redelivered": work.redelivered,
                "queue": work.queue,
            },
            tell,
            max_retries,
            [],
        )

    # ------------------------------------------------------------------------------------------------------ the answer

    def _answer(
        self, work: Work, envelope: TaskEnvelope, status: str, result: object, traceback: str | None = None
    ) -> Reply | None:
        """Encode an answer that is ours to make; one that cannot be encoded says so instead."""
        try:
            return self._answer_or_raise(work, envelope, status, result, traceback)
        except LocalError as error:
            logger.warning("the answer of %s[%s] cannot be sent: %s", envelope.task, envelope.id, error)
            instead = failure.describe(error)
        try:
            return self._answer_or_raise(work, envelope, status, instead)
        except LocalError:
            logger.exception("%s[%s] stays without an answer", envelope.task, envelope.id)
            return None

    def _answer_or_raise(
        self, work: Work, envelope: TaskEnvelope, status: str, result: object, traceback: str | None = None
    ) -> Reply | None:
        if envelope.reply_to is None or envelope.ignore_result:
            return None
        body, properties = self._codec.encode_result(
            ResultEnvelope(envelope.id, str(status), result, traceback),
            reply_to=envelope.reply_to,
            encoding=self._encoding(work),
            correlation_id=envelope.correlation_id or envelope.id,
        )
        return Reply(envelope.reply_to, body, properties)

    def _encoding(self, work: Work) -> Encoding:
        """Answer in the format of the question: whoever wrote it can read it (a Celery producer accepts JSON only)."""
        content_type = work.properties.content_type
        encoding = self._reply_encodings.get(content_type)
        if encoding is None:
            serializer = self._codec.task_facts(work.properties).serializer
            encoding = Encoding(
                # Never pickle: a caller that sends pickles has not said that it loads ours.
                serializer=None if serializer == "pickle" else serializer,
                persistent=self._persistent_replies,
            )
            self._reply_encodings[content_type] = encoding
        return encoding


def _raise_asked(request: Request) -> None:
    """Raise the `Retry` of `retry(throw=False)`: the function has gone on, and has ended now."""
    if request.asked and isinstance(request.asked[-1], Retry):
        raise request.asked[-1]


def _no_mark(_number: int, _stage: int) -> None:
    return


def _moment(text: str, header: str) -> float:
    """Return an ISO 8601 time as seconds since the epoch; one without an offset is UTC, as Celery writes it."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise Undecodable(f"the header {header!r} is not an ISO 8601 time: {text!r}") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _traceback_text(error: BaseException) -> str:
    """Format the traceback, beginning with the first frame that is the user's."""
    top: TracebackType | None = error.__traceback__
    while top is not None and top.tb_frame.f_code.co_filename in _OURS:
        top = top.tb_next
    try:
        text = "".join(tracebacks.format_exception(type(error), error, top))
    except Exception as second:  # noqa: BLE001 - an error whose __str__ raises is still an error to report
        text = f"{type(error).__name__} (its text cannot be shown: {type(second).__name__})\n"
    return text[-TRACEBACK_CHARACTERS:]
