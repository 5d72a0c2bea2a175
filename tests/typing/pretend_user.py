"""What a user's editor and type checker make of the public names; checked by mypy with the rest, and never run.

`assert_type` says what must be inferred. A `type: ignore` marks what must be refused: mypy reports one that is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar, assert_type

from amqpq import App, AppTask, AsyncApp, AsyncResult, AsyncTaskResult, Batch, Task, errors, hooks, signals

app = App("topology.yaml", environment="prod")
async_app = AsyncApp({"amqpq": 1, "project": "shop"})


@app.task
def add(x: int, y: int) -> int:
    """Without brackets."""
    return x + y


@app.task(name="shop.resize", priority=5, reply="task")
def resize(path: str, *, width: int = 100) -> bytes:
    """With options."""
    return path.encode() * width


@app.task(bind=True)
def report(self: Task[..., Any], month: str) -> dict[str, int]:
    """With the task itself as first argument, which the caller does not pass."""
    self.update_state(state="PROGRESS", meta={"done": 1})
    assert_type(self.request.id, str | None)
    return {month: 1}


P = ParamSpec("P")
R = TypeVar("R")


class Watched(AppTask[P, R]):
    """A base class that stays generic."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        einfo: hooks.ExceptionInfo,
    ) -> None:
        """A hook with its types."""
        assert_type(einfo.type, type[BaseException])
        super().on_failure(exc, task_id, args, kwargs, einfo)


watched_app = App("topology.yaml", task_cls=Watched)


@app.task(base=Watched)
def pay(amount: float) -> str:
    """A task of that class takes and returns what its function does."""
    return f"{amount}"


@signals.task_failure.connect(sender="shop.pay")
def page_somebody(sender: Task[..., Any], exception: BaseException, **_: Any) -> None:
    """A receiver."""
    del sender, exception


@app.task
async def fetch(url: str) -> list[str]:
    """A coroutine function in a blocking application: the result is what it returns, not the coroutine."""
    return [url]


def blocking() -> None:
    """Calls as a script makes them."""
    assert_type(add(1, 2), int)
    assert_type(add.delay(1, 2), AsyncResult[int])
    assert_type(add.delay(1, y=2).get(timeout=10), int)
    assert_type(pay.delay(1.5), AsyncResult[str])
    assert_type(resize.delay("a", width=3), AsyncResult[bytes])
    assert_type(report.delay("may"), AsyncResult[dict[str, int]])
    assert_type(fetch.delay("http://"), AsyncResult[list[str]])
    assert_type(app.send_task("shop.add", [1, 2]), AsyncResult[Any])
    assert_type(app.AsyncResult("id"), AsyncResult[Any])

    add.delay("1", 2)  # type: ignore[arg-type]
    add.delay(1)  # type: ignore[call-arg]
    add.delay(1, 2, 3)  # type: ignore[call-arg]
    report.delay(report, "may")  # type: ignore[call-arg, arg-type]
    resize.delay("a", 3)  # type: ignore[call-arg]

    add.apply_async((1, 2), queue="web.high", priority=9, expires=60, compression="bzip2", serializer="json")
    add.apply_async([1, 2], expires=timedelta(minutes=1), headers={"tenant": "a"}, retry=True, reply="direct")
    add.apply_async((1,), {"y": 2}, expires=datetime.now(UTC), task_id="id", shadow="nice", timeout=3.0)
    add.apply_async((1, 2), prioritty=9)  # type: ignore[call-arg]
    add.apply_async((1, 2), priority="9")  # type: ignore[arg-type]

    with app.batch(stream=True) as batch:
        add.delay(1, 2)
    assert_type(batch, Batch[AsyncResult[Any]])
    assert_type(app.collect(batch.results, timeout=10), list[Any])
    try:
        add.delay(1, 2).get(on_state=lambda state, meta: (state.lower(), meta))
    except errors.BatchFailed as failed:
        assert_type(failed.failures, dict[str, errors.PublishError])


@async_app.task
def count(path: str) -> int:
    """A plain function in an asyncio application."""
    return len(path)


@async_app.task(bind=True, name="shop.crawl")
async def crawl(self: Task[..., Any], url: str) -> float:
    """A coroutine function in an asyncio application."""
    self.update_state(meta=url)
    return 1.0


async def awaiting() -> None:
    """Calls as a request handler makes them."""
    result = await count.delay("a")
    assert_type(result, AsyncTaskResult[int])
    assert_type(await result.get(timeout=10), int)
    assert_type(await result.state(), str)
    assert_type(await crawl.delay("http://"), AsyncTaskResult[float])
    assert_type(await crawl.apply_async(("http://",), priority=3), AsyncTaskResult[float])
    await count.delay(1)  # type: ignore[arg-type]
    async with AsyncApp("topology.yaml") as other:
        assert_type(await other.send_task("shop.add", [1]), AsyncTaskResult[Any])
        async with other.batch() as batch:
            await count.delay("a")
        assert_type(await other.collect(batch.results), list[Any])
