"""Publishing to a real broker, and what a person sees where that cannot be done."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqpq import App, errors, signals
from amqpq.producer import bulk
from amqpq.testing.proxy import Proxy
from amqpq.testing.responder import Responder
from amqpq.testing.rigs import through
from amqpq.topology.declarations import declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection
from tests.support.lab import answer, ready, stranger, taken_from

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 20.0


def application(broker_url: str, **changes: Any) -> App:
    """Make an application of a project with one direct exchange and a queue."""
    topology = {
        "amqpq": 1,
        "project": "shop",
        "exchanges": {"tasks": {"type": "direct"}},
        "queues": {"default": {"max_priority": 10}},
        "bindings": ["tasks[default] -> default"],
        "routes": {"tasks.*": {"exchange": "tasks", "key": "default"}},
        "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
        **changes,
    }
    return App(topology, environ={"SIGN_KEY": "5a" * 32, "AMQPQ_BROKER_URL": broker_url})


def connect(broker_url: str) -> Connection:
    """Open a connection that is not the application's."""
    return blocking.connect(url.parse(broker_url), heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS, name="test")


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection into the vhost that is not the application's; the topology is declared through it."""
    opened = connect(vhost_url)
    project = application(vhost_url)
    flow.run(declare.apply(opened.channel, declarations(project.topology)), DEADLINE_SECONDS)
    yield opened
    answer(opened.close())


@pytest.fixture
def app(vhost_url: str, connection: Connection) -> Iterator[App]:
    """The application; its topology is on the broker."""
    del connection
    with application(vhost_url) as opened:
        yield opened


def test_a_published_task_is_in_its_queue(app: App, connection: Connection) -> None:
    """`send_task` returns when the broker has the message; its reply queue is there and empty."""
    result = app.send_task("tasks.add", [2, 3])
    assert ready(connection, "default") == 1
    assert ready(connection, f"amqpq.reply.{result.id}") == 0


def test_an_unroutable_task_leaves_no_reply_queue(app: App, connection: Connection) -> None:
    """The person sees where it went and what to do; nothing is left on the broker."""
    with pytest.raises(errors.Unroutable) as caught:
        app.send_task("tasks.add", routing_key="nowhere", task_id="lost")
    assert str(caught.value) == (
        "task tasks.add[lost] went to exchange 'tasks' with key 'nowhere', which reaches no queue (312 NO_ROUTE); "
        "`amqpq topology apply` declares what the file says, `amqpq topology route` shows where it leads"
    )
    assert ready(connection, "amqpq.reply.lost") is None


def test_a_missing_exchange_is_unroutable(app: App, connection: Connection) -> None:
    """An exchange that was never declared is reported as such, and the application goes on."""
    answer(connection.channel().delete_exchange("tasks"))
    with pytest.raises(errors.Unroutable, match=r"no exchange 'tasks'.*topology apply"):
        app.send_task("tasks.add", task_id="lost")
    app.send_task("tasks.add", queue="default")


def test_a_queue_that_was_never_declared_is_unroutable(app: App, connection: Connection) -> None:
    """`queue=` of a queue that is in the file and not on the broker names it."""
    answer(connection.channel().delete_queue("default"))
    with pytest.raises(
        errors.Unroutable, match="went to queue 'default'.*the queue is missing: `amqpq topology apply`"
    ):
        app.send_task("tasks.add", queue="default")


def test_a_full_queue_refuses(vhost_url: str, connection: Connection) -> None:
    """A queue with reject-publish that is full is a `Nacked`, told apart from unroutable."""
    limits = {"limits": {"max_length": 1, "overflow": "reject-publish"}}
    with application(vhost_url, queues={"default": {"max_priority": 10}, "small": limits}) as app:
        flow.run(declare.apply(connection.channel, declarations(app.topology)), DEADLINE_SECONDS)
        app.send_task("tasks.add", queue="small", reply="none")
        with pytest.raises(errors.Nacked, match="the broker refused task tasks.add.*is full and rejects"):
            app.send_task("tasks.add", queue="small", task_id="second")
    assert ready(connection, "amqpq.reply.second") is None


def test_a_broker_that_is_down_is_named(vhost_url: str) -> None:
    """With nobody at the address the person sees the address and what to do, within the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with application(f"amqp://guest:secret@127.0.0.1:{port}/") as app:
        with pytest.raises(errors.BrokerUnreachable, match=rf"127\.0\.0\.1:{port}") as caught:
            app.send_task("tasks.add", timeout=0.3)
        assert "secret" not in str(caught.value)
    del vhost_url


def test_a_lost_connection_is_replaced(vhost_url: str, connection: Connection) -> None:
    """A connection that was cut is noticed, and the next call opens another."""
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)
    try:
        with application(through(proxy, vhost_url)) as app:
            app.send_task("tasks.add", reply="none")
            proxy.cut()
            app.send_task("tasks.add", reply="none")
    finally:
        proxy.close()
    assert ready(connection, "default") == 2


def test_many_threads_publish_and_fetch_at_once(app: App, connection: Connection) -> None:
    """One application serves many threads over one connection."""
    Responder(app, connection, functions={"tasks.double": lambda x: 2 * x})
    found: dict[int, int] = {}

    def work(number: int) -> None:
        for turn in range(5):
            value = number * 100 + turn
            found[value] = app.send_task("tasks.double", [value], reply="task" if turn % 2 else "direct").get(
                timeout=20
            )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 50
    assert found == {value: 2 * value for value in found}


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="os.fork in a process with threads warns there")
def test_a_forked_child_publishes_for_itself(app: App, connection: Connection) -> None:
    """A web server that forks after its first call: the child opens a connection of its own, the parent keeps its."""
    app.send_task("tasks.add", reply="none")
    child = os.fork()
    if child == 0:
        try:
            app.send_task("tasks.add", [1])
            with app.batch():
                app.send_task("tasks.add", [2])
        except BaseException:  # noqa: BLE001 - nothing may escape into the child's copy of the test run
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    app.send_task("tasks.add", reply="none")
    assert ready(connection, "default") == 4


def test_a_batch_is_pipelined_and_lists_its_failures(app: App, connection: Connection) -> None:
    """A batch of hundreds is published in order; the one message that reaches no queue is listed, and leaves no queue."""
    with pytest.raises(errors.BatchFailed) as caught, app.batch() as batch:  # noqa: PT012 - the batch fails at its end
        for number in range(300):
            app.send_task("tasks.add", [number], routing_key="nowhere" if number == 150 else None)
    lost = batch.ids[150]
    assert list(caught.value.failures) == [lost]
    assert ready(connection, "default") == 299
    assert ready(connection, f"amqpq.reply.{lost}") is None
    assert ready(connection, f"amqpq.reply.{batch.ids[151]}") == 0


def test_a_batch_survives_a_cut_connection(vhost_url: str, connection: Connection) -> None:
    """What the cut left open is published again, under the same ids; nothing is lost."""
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)
    try:
        with application(through(proxy, vhost_url)) as app:
            app.send_task("tasks.add", reply="none")
            cutter = threading.Timer(0.05, proxy.cut)
            with app.batch() as batch:
                for number in range(1000):
                    app.send_task("tasks.add", [number], reply="none")
                cutter.start()
            cutter.join()
    finally:
        proxy.close()
    arrived = {delivery.properties.message_id for delivery in taken_from(connection.channel(), "default")}
    assert set(batch.ids) <= arrived


@pytest.mark.parametrize("reply", ["none", "task"])
def test_a_stream_survives_cut_connections(
    vhost_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    """What the cuts left open is published again, in order, under the same ids; nothing is lost, and each told of once."""
    monkeypatch.setattr(bulk, "CHUNK", 100)
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)
    told: list[str] = []

    @signals.after_task_publish.connect
    def receiver(task_id: str, **_: Any) -> None:
        told.append(task_id)

    try:
        with application(through(proxy, vhost_url)) as app, app.batch(stream=True) as batch:
            for number in range(1000):
                app.send_task("tasks.add", [number], reply=reply)
                if number in {150, 450, 799, 990}:
                    proxy.cut()
    finally:
        proxy.close()
        signals.after_task_publish.disconnect(receiver)
    assert told == list(batch.ids)
    arrived = [delivery.properties.message_id for delivery in taken_from(connection.channel(), "default")]
    # First copies, because the broker may still read the rest of a connection that was cut beside the next one.
    assert list(dict.fromkeys(arrived)) == list(batch.ids)
    assert len(arrived) <= 1000 + 4 * bulk.CHUNKS_UNDER_WAY * bulk.CHUNK


def test_a_stream_belongs_to_the_process_that_began_it(app: App, connection: Connection) -> None:
    """A child that goes on with its parent's stream is told so, and sends nothing on the parent's connection."""
    with app.batch(stream=True) as batch:
        for number in range(bulk.CHUNK):
            app.send_task("tasks.add", [number], reply="none")
        child = os.fork()
        if child == 0:
            try:
                for number in range(bulk.CHUNK):
                    app.send_task("tasks.add", [number], reply="none")
            except errors.LocalError as refusal:
                os._exit(0 if "in the process that this one was forked from" in str(refusal) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        app.send_task("tasks.add", [bulk.CHUNK], reply="none")
    assert ready(connection, "default") == len(batch) == bulk.CHUNK + 1


def test_a_permission_that_is_missing_is_named(broker_server: Any, vhost_url: str, connection: Connection) -> None:
    """A user who may not declare reply queues sees which one, and nothing is published."""
    del connection
    with stranger(broker_server, vhost_url, configure="^$") as theirs, application(theirs) as app:
        with pytest.raises(errors.AccessRefused, match=r"amqpq\.reply\.mine") as caught:
            app.send_task("tasks.add", task_id="mine")
        assert "while declaring the reply queue amqpq.reply.mine" in caught.value.__notes__
        app.send_task("tasks.add", reply="none")


def test_a_blocked_broker_is_not_waited_for_beyond_the_deadline(
    private_vhost_url: str, rabbitmqctl: Callable[..., str]
) -> None:
    """Under a memory alarm a publish ends with `Blocked` at its deadline, sends nothing, and works again after the alarm."""
    connection = connect(private_vhost_url)
    with application(private_vhost_url) as app:
        flow.run(declare.apply(connection.channel, declarations(app.topology)), DEADLINE_SECONDS)
        app.send_task("tasks.add", reply="none")
        rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
        try:
            with pytest.raises(errors.Blocked) as first:
                app.send_task("tasks.add", timeout=1, reply="none")
            with pytest.raises(errors.Blocked, match="was not sent: the broker blocks publishers") as second:
                app.send_task("tasks.add", timeout=0.5)
            with pytest.raises(errors.BatchFailed) as third, app.batch(stream=True, timeout=0.5):  # noqa: PT012
                for number in range(2 * bulk.CHUNK):
                    app.send_task("tasks.add", [number], reply="none")
        finally:
            rabbitmqctl("set_vm_memory_high_watermark", "0.6")
        # The broker tells a connection that it is blocked when it publishes: too late for that one message.
        assert isinstance(first.value, errors.BlockedInDoubt)
        assert not isinstance(second.value, errors.OutcomeUnknown)
        # A stream ends with the call that cannot hand over its chunk.
        assert [type(failure) for failure in third.value.failures.values()] == [errors.Blocked] * bulk.CHUNK
        app.send_task("tasks.add", reply="none")
    assert ready(connection, "default") == 3
    answer(connection.close())
