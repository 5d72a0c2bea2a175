"""The asyncio application on a real broker: the same names, awaited, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from amqpq import App, AsyncApp, Batch, errors
from amqpq.producer import bulk
from amqpq.testing.proxy import Proxy
from amqpq.testing.responder import Responder
from amqpq.testing.rigs import through
from amqpq.topology.declarations import declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection
from amqpq.types import QueueSpec, QueueState
from tests.support.lab import answer

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 20.0
TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"tasks": {"type": "direct"}},
    "queues": {"default": {"max_priority": 10}},
    "bindings": ["tasks[default] -> default"],
    "routes": {"tasks.*": {"exchange": "tasks", "key": "default"}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}
Body = Callable[[AsyncApp], Coroutine[Any, Any, None]]


def environ(broker_url: str) -> dict[str, str]:
    """Return what the application looks up."""
    return {"SIGN_KEY": "5a" * 32, "AMQPQ_BROKER_URL": broker_url}


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection into the vhost that is not the application's; the topology is declared through it."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS, name="test")
    project = App(TOPOLOGY, environ=environ(vhost_url))
    flow.run(declare.apply(opened.channel, declarations(project.topology)), DEADLINE_SECONDS)
    yield opened
    answer(opened.close())


@pytest.fixture
def responder(vhost_url: str, connection: Connection) -> Responder:
    """Hands the calls of the queue `default` to the test."""
    return Responder(App(TOPOLOGY, environ=environ(vhost_url)), connection)


@pytest.fixture
def doubling(vhost_url: str, connection: Connection) -> Responder:
    """Answers `tasks.double` and fails `tasks.fail`."""

    def fail() -> None:
        raise KeyError("colour")

    functions: dict[str, Callable[..., Any]] = {"tasks.double": lambda x: 2 * x, "tasks.fail": fail}
    return Responder(App(TOPOLOGY, environ=environ(vhost_url)), connection, functions=functions)


@pytest.fixture
def run(vhost_url: str) -> Callable[[Body], None]:
    """Run a coroutine function with an application on an event loop of its own; the loop has nothing to complain of."""

    def go(body: Body) -> None:
        complaints: list[str] = []

        async def whole() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
            async with AsyncApp(TOPOLOGY, environ=environ(vhost_url)) as app:
                await asyncio.wait_for(body(app), 60)

        asyncio.run(whole())
        assert not complaints

    return go


def state(connection: Connection, name: str) -> QueueState | None:
    """Return the state of a queue, None where it does not exist."""
    channel = connection.channel()
    try:
        found: QueueState = answer(channel.declare_queue(QueueSpec(name), passive=True))
    except errors.ObjectNotFound:
        return None
    answer(channel.close())
    return found


def until(question: Callable[[], bool], what: str) -> None:
    """Ask until the answer is yes; another process's queue is being waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not question():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
        time.sleep(0.02)


@pytest.mark.usefixtures("doubling")
def test_delay_and_get_are_awaited(run: Callable[[Body], None], connection: Connection) -> None:
    """A task of the application is sent and its result fetched, in every reply mode."""

    async def body(app: AsyncApp) -> None:
        @app.task(name="tasks.double")
        def double(x: int) -> int:
            return 2 * x

        result = await double.delay(4)
        assert await result.get(timeout=20) == 8
        assert (await result.state(), await result.ready(), await result.successful()) == ("SUCCESS", True, True)
        queue = f"amqpq.reply.{result.id}"
        await asyncio.to_thread(until, lambda: state(connection, queue) is None, "the reply queue deleted")
        direct = await double.apply_async((5,), reply="direct")
        assert await direct.get(timeout=20) == 10
        none = await double.apply_async((6,), reply="none")
        with pytest.raises(errors.NoReplyExpected):
            await none.get(timeout=20)
        assert double(7) == 14

    run(body)


@pytest.mark.usefixtures("doubling")
def test_requests_run_side_by_side(run: Callable[[Body], None]) -> None:
    """Many coroutines share one connection, as a web server's handlers do."""

    async def one(app: AsyncApp, number: int) -> Any:
        result = await app.send_task("tasks.double", [number], reply="direct" if number % 2 else "task")
        return await result.get(timeout=30)

    async def body(app: AsyncApp) -> None:
        found = await asyncio.gather(*(one(app, number) for number in range(60)))
        assert found == [2 * number for number in range(60)]

    run(body)


@pytest.mark.usefixtures("doubling")
def test_failures_are_raised_where_they_are_awaited(run: Callable[[Body], None]) -> None:
    """A failure comes back as its class; an unknown id, a wrong argument and an unroutable task as themselves."""

    async def body(app: AsyncApp) -> None:
        result = await app.send_task("tasks.fail")
        with pytest.raises(KeyError, match="colour"):
            await result.get(timeout=20)
        assert "in fail" in str(await result.traceback())
        assert await result.failed()
        with pytest.raises(errors.ResultNotFound):
            await app.AsyncResult("never").get(timeout=20)
        with pytest.raises(errors.Unroutable):
            await app.send_task("tasks.double", routing_key="nowhere")
        with pytest.raises(errors.LocalError, match="did you mean 'priority'"):
            await app.send_task("tasks.double", prioritty=1)  # type: ignore[call-arg]

    run(body)


def test_states_are_seen_and_shown(run: Callable[[Body], None], responder: Responder) -> None:
    """Looking leaves the state, `on_state` sees it, and a timeout loses nothing."""

    async def body(app: AsyncApp) -> None:
        result = await app.send_task("tasks.add")
        assert await result.state() == "PENDING"
        call = responder.next()
        responder.say(call, "PROGRESS", 50)
        assert await result.peek() == ("PROGRESS", 50)
        assert await result.result() == 50
        seen: list[Any] = []
        with pytest.raises(errors.ResultTimeout, match="last state seen: PROGRESS"):
            await result.get(timeout=0.2, on_state=lambda *each: seen.append(each))
        assert seen == [("PROGRESS", 50)]
        responder.say(call, "SUCCESS", 5)
        assert await result.get(timeout=20) == 5

    run(body)


def test_a_cancelled_get_leaves_nothing_behind(
    run: Callable[[Body], None], responder: Responder, connection: Connection
) -> None:
    """Cancelling the wait leaves no consumer and no unacknowledged state, and the result can still be fetched."""

    async def body(app: AsyncApp) -> None:
        result = await app.send_task("tasks.add")
        call = responder.next()
        responder.say(call, "PROGRESS", 50)
        seen = asyncio.Event()
        waiting = asyncio.create_task(result.get(on_state=lambda *_: seen.set()))
        await asyncio.wait_for(seen.wait(), 20)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        name = f"amqpq.reply.{result.id}"
        await asyncio.to_thread(until, lambda: state(connection, name) == QueueState(name, 1, 0), "the state goes back")
        responder.say(call, "SUCCESS", 5)
        assert await result.get(timeout=20) == 5

    run(body)


def test_a_cancelled_publish_leaves_no_reply_queue(run: Callable[[Body], None], connection: Connection) -> None:
    """A request that is cancelled while it publishes deletes the reply queue that nobody will ask for."""

    async def body(app: AsyncApp) -> None:
        await app.send_task("tasks.add", reply="none")  # the connection is open
        names = []
        for number in range(20):
            publishing = asyncio.create_task(app.send_task("tasks.add", task_id=f"cancelled-{number}"))
            await asyncio.sleep(0)  # it has begun
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            names.append(f"amqpq.reply.cancelled-{number}")
        await asyncio.to_thread(until, lambda: not any(state(connection, name) for name in names), "no queue is left")

    run(body)


@pytest.mark.usefixtures("doubling")
def test_a_batch_with_collect(run: Callable[[Body], None], connection: Connection) -> None:
    """A batch is published at its end, by the tasks started in it too, and collected with a missing one."""

    async def body(app: AsyncApp) -> None:
        async with app.batch() as batch:
            await asyncio.gather(*(app.send_task("tasks.double", [number]) for number in range(100)))
            assert not any(state(connection, f"amqpq.reply.{task_id}") for task_id in batch.ids[:3])
        values = await app.collect([*batch.results, app.AsyncResult("missing")], timeout=30, propagate=False)
        assert values[:100] == [2 * number for number in range(100)]
        assert isinstance(values[100], errors.ResultNotFound)
        assert not any(state(connection, f"amqpq.reply.{task_id}") for task_id in batch.ids[::20])
        with pytest.raises(errors.BatchFailed) as caught:
            async with app.batch():
                bad = await app.send_task("tasks.double", [1], routing_key="nowhere")
        assert list(caught.value.failures) == [bad.id]

    run(body)


@pytest.mark.usefixtures("doubling")
def test_a_stream_leaves_while_its_block_runs(
    run: Callable[[Body], None], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks started in it fill its chunks; results can be asked for inside the block, and failures come at its end."""
    monkeypatch.setattr(bulk, "CHUNK_QUEUES", 10)

    async def body(app: AsyncApp) -> None:
        with pytest.raises(errors.BatchFailed) as caught:  # noqa: PT012 - the stream fails at its end
            async with app.batch(stream=True) as batch:
                sent = await asyncio.gather(*(app.send_task("tasks.double", [number]) for number in range(95)))
                assert await sent[0].get(timeout=20) == 0
                with pytest.raises(errors.LocalError, match="not published yet"):
                    await sent[94].get(timeout=20)
                bad = await app.send_task("tasks.double", [1], routing_key="nowhere")
        assert list(caught.value.failures) == [bad.id]
        assert await app.collect(batch.results[1:95], timeout=30) == [2 * number for number in range(1, 95)]
        assert not any(state(connection, f"amqpq.reply.{task_id}") for task_id in batch.ids[::20])

    run(body)


class Stalled:
    """A stream of tasks without results whose broker is not heard of, with the two chunks under way that it may have."""

    def __init__(self, app: AsyncApp, proxy: Proxy) -> None:
        self._app = app
        self._proxy = proxy

    async def send(self, count: int) -> None:
        """Call the task so often."""
        for _ in range(count):
            await self._app.send_task("tasks.add", reply="none")

    async def begin(self, batch: Batch[Any]) -> asyncio.Task[None]:
        """Fill three chunks of 10; return the task that waits to hand over the third one."""
        self._proxy.stall()
        await self.send(29)
        waiting = asyncio.create_task(self.send(1))
        await asyncio.to_thread(until, lambda: len(batch) == 30 and not batch.bulk.full, "the third chunk is begun")
        return waiting


@pytest.fixture
def stalled(
    vhost_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[AsyncApp, Stalled, Proxy], Coroutine[Any, Any, None]]], None]]:
    """Run a coroutine function with an application that reaches its broker through a proxy."""
    del connection
    monkeypatch.setattr(bulk, "CHUNK", 10)
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)

    def go(body: Callable[[AsyncApp, Stalled, Proxy], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with AsyncApp(TOPOLOGY, environ=environ(through(proxy, vhost_url))) as app:
                await app.send_task("tasks.add", reply="none")  # the connection is open
                await asyncio.wait_for(body(app, Stalled(app, proxy), proxy), 60)

        asyncio.run(whole())

    yield go
    proxy.close()


def test_a_cancelled_call_takes_nothing_out_of_its_stream(stalled: Any, connection: Connection) -> None:
    """The task that waits to hand over a chunk is cancelled: the chunk, which is others' too, goes on, and once only."""

    async def body(app: AsyncApp, stream: Stalled, proxy: Proxy) -> None:
        async with app.batch(stream=True) as batch:
            waiting = await stream.begin(batch)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            proxy.resume()
            await stream.send(5)
        assert len(batch) == 35
        assert state(connection, "default") == QueueState("default", 1 + 35, 0)

    stalled(body)


def test_a_cancelled_stream_waits_for_nothing(stalled: Any) -> None:
    """Its block is cancelled while the broker is not heard of: it ends, and its handles know what is in doubt."""

    async def body(app: AsyncApp, stream: Stalled, proxy: Proxy) -> None:
        begun: asyncio.Future[Batch[Any]] = asyncio.get_running_loop().create_future()

        async def block() -> None:
            async with app.batch(stream=True, timeout=120) as batch:
                waiting = await stream.begin(batch)
                begun.set_result(batch)
                await waiting

        running = asyncio.create_task(block())
        batch = await begun
        running.cancel()
        await asyncio.wait({running}, timeout=DEADLINE_SECONDS)
        assert running.cancelled()
        kinds = [type(batch.failures[task_id]) for task_id in batch.ids]
        assert kinds == [errors.OutcomeUnknown] * 20 + [errors.PublishError] * 10
        proxy.resume()

    stalled(body)


def test_waiting_goes_on_after_a_cut_connection(vhost_url: str, responder: Responder) -> None:
    """The network fails while a result is awaited: the next connection brings it."""
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)

    async def body() -> None:
        async with AsyncApp(TOPOLOGY, environ=environ(through(proxy, vhost_url))) as app:
            result = await app.send_task("tasks.add")
            call = responder.next()
            responder.say(call, "STARTED")

            def on_state(*_: Any) -> None:
                proxy.cut()
                responder.say(call, "SUCCESS", 5)

            assert await result.get(timeout=20, on_state=on_state) == 5
            await app.send_task("tasks.add", reply="none")

    try:
        asyncio.run(body())
    finally:
        proxy.close()


def test_a_direct_reply_that_is_lost_says_so(vhost_url: str, connection: Connection) -> None:
    """A direct reply dies with its connection, and whoever awaits it is told."""
    del connection
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)

    async def body() -> None:
        async with AsyncApp(TOPOLOGY, environ=environ(through(proxy, vhost_url))) as app:
            result = await app.send_task("tasks.add", reply="direct")
            waiting: Awaitable[Any] = asyncio.create_task(result.get(timeout=20))
            await asyncio.sleep(0)
            proxy.cut()
            with pytest.raises(errors.ReplyLost):
                await waiting

    try:
        asyncio.run(body())
    finally:
        proxy.close()
