"""Results through a real broker: per-task reply queues, direct replies, and what is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from amqpq import App, errors
from amqpq.cli.main import main
from amqpq.message import ResultEnvelope
from amqpq.testing.proxy import Proxy
from amqpq.testing.responder import Responder
from amqpq.testing.rigs import through
from amqpq.topology.declarations import declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection
from amqpq.types import Publication, QueueSpec
from tests.support.lab import answer, ready

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 20.0
TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {"max_priority": 10}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}
SIGN_KEY = "5a" * 32


def application(broker_url: str, **changes: Any) -> App:
    """Make an application of a project with one queue."""
    return App({**TOPOLOGY, **changes}, environ={"SIGN_KEY": SIGN_KEY, "AMQPQ_BROKER_URL": broker_url})


def until(question: Callable[[], bool], what: str, pause_seconds: float = 0.02) -> None:
    """Ask until the answer is yes; the broker's own clock is being waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not question():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
        time.sleep(pause_seconds)


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection into the vhost that is not the application's; the topology is declared through it."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS, name="test")
    flow.run(declare.apply(opened.channel, declarations(application(vhost_url).topology)), DEADLINE_SECONDS)
    yield opened
    answer(opened.close())


@pytest.fixture
def app(vhost_url: str, connection: Connection) -> Iterator[App]:
    """The application; its topology is on the broker."""
    del connection
    with application(vhost_url) as opened:
        yield opened


def test_a_result_is_fetched_once_and_its_queue_deleted(app: App, connection: Connection, vhost_url: str) -> None:
    """The result is there for whoever has the id, in another application too, and once."""
    Responder(app, connection, functions={"tasks.add": lambda x, y: x + y})
    result = app.send_task("tasks.add", [2, 3])
    with application(vhost_url) as elsewhere:
        assert elsewhere.AsyncResult(result.id).get(timeout=20) == 5
    assert ready(connection, f"amqpq.reply.{result.id}") is None
    with pytest.raises(
        errors.ResultNotFound, match="the id never existed, its result was already fetched or has expired"
    ):
        result.get(timeout=20)


def test_an_unknown_id_is_told_apart_from_a_pending_task(app: App, connection: Connection) -> None:
    """No queue is an error at once; an empty one is PENDING."""
    del connection
    with pytest.raises(errors.ResultNotFound):
        _ = app.AsyncResult("never").state
    assert app.send_task("tasks.add").state == "PENDING"


def test_a_get_that_gives_up_leaves_no_consumer_and_no_unacknowledged_state(app: App, connection: Connection) -> None:
    """After a timeout the state is ready again for others, and nobody consumes."""
    responder = Responder(app, connection)
    result = app.send_task("tasks.add")
    call = responder.next()
    responder.say(call, "PROGRESS", 50)
    with pytest.raises(errors.ResultTimeout, match="last state seen: PROGRESS"):
        result.get(timeout=0.3)
    name = f"amqpq.reply.{result.id}"
    until(lambda: ready(connection, name) == 1, "the state goes back")
    channel = connection.channel()
    assert answer(channel.declare_queue(QueueSpec(name), passive=True)).consumers == 0
    assert result.peek() == ("PROGRESS", 50)
    responder.say(call, "SUCCESS", 5)
    assert result.get(timeout=20) == 5


def test_progress_is_seen_on_the_way(app: App, connection: Connection) -> None:
    """States arrive while the result is waited for, in order."""
    responder = Responder(app, connection)
    result = app.send_task("tasks.add")
    call = responder.next()
    following: list[tuple[Any, ...]] = [("PROGRESS", 50), ("SUCCESS", 5)]
    seen: list[tuple[str, Any]] = []

    def on_state(state: str, meta: Any) -> None:
        seen.append((state, meta))
        responder.say(call, *following.pop(0))

    responder.say(call, "STARTED", {"host": "here"})
    assert result.get(timeout=20, on_state=on_state) == 5
    assert seen == [("STARTED", {"host": "here"}), ("PROGRESS", 50)]


def test_the_newest_state_replaces_the_others(app: App, connection: Connection) -> None:
    """A reply queue holds one message, however often the task reports."""
    responder = Responder(app, connection)
    result = app.send_task("tasks.add")
    call = responder.next()
    for done in range(20):
        responder.say(call, "PROGRESS", done)
        assert result.peek() == ("PROGRESS", done)
    # Looking gives the state back without waiting for the broker, and this is another channel.
    until(lambda: ready(connection, f"amqpq.reply.{result.id}") == 1, "one state is there")


def test_an_unfetched_result_expires_with_its_queue(vhost_url: str, connection: Connection) -> None:
    """Nobody has to clean up: the broker deletes what was not fetched in time."""
    with application(vhost_url, replies={"expires": "500ms"}) as app:
        result = app.send_task("tasks.add")
        # Asking counts as use and renews the queue's life, so the questions are further apart than that.
        until(
            lambda: ready(connection, f"amqpq.reply.{result.id}") is None, "the reply queue expires", pause_seconds=1.0
        )
        with pytest.raises(errors.ResultNotFound):
            result.get(timeout=20)


def test_a_forged_result_is_not_accepted(app: App, connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody signed is thrown out of the reply queue with a warning, and the true result is waited for."""
    responder = Responder(app, connection)
    result = app.send_task("tasks.add")
    call = responder.next()
    name = f"amqpq.reply.{result.id}"
    forger = application("amqp://localhost/", security={"signing": "off"})
    body, properties = forger.codec.encode_result(ResultEnvelope(result.id, "SUCCESS", "evil"), reply_to=name)
    channel = connection.channel()
    answer(channel.publish([Publication("", name, body, properties)]))
    with pytest.raises(errors.ResultTimeout):
        result.get(timeout=0.3)
    responder.say(call, "SUCCESS", "true")
    assert result.get(timeout=20) == "true"
    assert "the result is unsigned" in caplog.text


def test_get_resumes_after_a_cut_connection(vhost_url: str, connection: Connection) -> None:
    """The network fails while a result is waited for: the waiting goes on over the next connection."""
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)
    try:
        with application(through(proxy, vhost_url)) as app:
            responder = Responder(app, connection)
            result = app.send_task("tasks.add")
            call = responder.next()

            def on_state(*_: Any) -> None:
                proxy.cut()
                responder.say(call, "SUCCESS", 5)

            responder.say(call, "STARTED")
            assert result.get(timeout=20, on_state=on_state) == 5
    finally:
        proxy.close()
    assert ready(connection, f"amqpq.reply.{result.id}") is None


def test_two_who_wait_for_one_result(app: App, connection: Connection, vhost_url: str) -> None:
    """One of them gets it, the other one is told that it is gone; nobody waits for ever."""
    responder = Responder(app, connection)
    result = app.send_task("tasks.add")
    found: list[Any] = []

    def wait(handle: Any) -> None:
        try:
            found.append(handle.get(timeout=20))
        except errors.ResultNotFound:
            found.append(None)

    with application(vhost_url) as elsewhere:
        threads = [
            threading.Thread(target=wait, args=(handle,)) for handle in (result, elsewhere.AsyncResult(result.id))
        ]
        for thread in threads:
            thread.start()
        responder.say(responder.next(), "SUCCESS", 5)
        for thread in threads:
            thread.join(40)
    assert sorted(found, key=str) == [5, None]


def test_direct_replies_need_no_queue(app: App, connection: Connection) -> None:
    """Mode `direct` gets states and value over the pseudo-queue; signatures hold although the broker rewrites reply_to."""
    responder = Responder(app, connection)
    result = app.send_task("tasks.add", reply="direct")
    call = responder.next()
    assert (call.delivery.properties.reply_to or "").startswith("amq.rabbitmq.reply-to.")
    responder.say(call, "PROGRESS", 1)
    responder.say(call, "SUCCESS", 5)
    seen: list[Any] = []
    assert result.get(timeout=20, on_state=lambda *state: seen.append(state)) == 5
    assert seen == [("PROGRESS", 1)]


def test_a_direct_reply_is_lost_with_its_connection(vhost_url: str, connection: Connection) -> None:
    """At most once, and said so."""
    del connection
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)
    try:
        with application(through(proxy, vhost_url)) as app:
            result = app.send_task("tasks.add", reply="direct")
            proxy.cut()
            with pytest.raises(errors.ReplyLost, match="Direct replies are at most once"):
                result.get(timeout=20)
    finally:
        proxy.close()


def test_hundreds_are_collected_and_none_is_left(app: App, connection: Connection) -> None:
    """A batch of results is fetched over pipelined channels; missing ones are reported, and no queue remains."""
    Responder(app, connection, functions={"tasks.double": lambda x: 2 * x})
    with app.batch() as batch:
        for number in range(300):
            app.send_task("tasks.double", [number])
    handles: list[Any] = list(batch.results)
    for place in (0, 100, 150, 303):
        handles.insert(place, app.AsyncResult(f"missing-{place}"))
    values = app.collect(handles, timeout=60, propagate=False)
    assert [value for value in values if isinstance(value, int)] == [2 * number for number in range(300)]
    assert [place for place, value in enumerate(values) if isinstance(value, errors.ResultNotFound)] == [
        0,
        100,
        150,
        303,
    ]
    assert all(ready(connection, f"amqpq.reply.{task_id}") is None for task_id in batch.ids[::20])


def test_collecting_survives_a_cut_connection(vhost_url: str, connection: Connection) -> None:
    """A connection lost in the middle of a collection costs time and no result."""
    address = url.parse(vhost_url)
    proxy = Proxy(address.host, address.port)
    try:
        with application(through(proxy, vhost_url)) as app:
            Responder(app, connection, functions={"tasks.double": lambda x: 2 * x})
            with app.batch() as batch:
                for number in range(200):
                    app.send_task("tasks.double", [number])
            done: list[str] = []

            def on_result(result: Any) -> None:
                done.append(result.id)
                if len(done) == 50:
                    proxy.cut()

            assert app.collect(batch.results, timeout=60, on_result=on_result) == [2 * number for number in range(200)]
    finally:
        proxy.close()
    assert sorted(done) == sorted(batch.ids)


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def shell(vhost_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run an `amqpq` command against the vhost, with the project's topology in the current folder."""
    (tmp_path / "topology.yaml").write_text(
        "amqpq: 1\nproject: shop\nqueues:\n  default: {max_priority: 10}\n"
        "security:\n  signing: {algorithm: hmac-sha256, key: 'env:SIGN_KEY', key_id: shop}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    monkeypatch.setenv("SIGN_KEY", SIGN_KEY)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def test_call_prints_the_result(app: App, connection: Connection, shell: Callable[..., Any]) -> None:
    """`amqpq call` reads arguments as JSON or text, waits, and prints the value."""
    Responder(app, connection, functions={"tasks.add": lambda *args, **kwargs: [*args, kwargs]})
    done = shell("call", "tasks.add", "2", "text", "-k", "name=[1, true]", "-k", "who=me", "--timeout", "20s")
    assert (done.exit_code, done.stdout) == (0, '[2, "text", {"name": [1, true], "who": "me"}]\n')


def test_call_prints_json(app: App, connection: Connection, shell: Callable[..., Any]) -> None:
    """`--json` is for machines: id, status and result."""
    Responder(app, connection, functions={"tasks.add": lambda x, y: x + y})
    done = shell("call", "tasks.add", "2", "3", "--json", "--timeout", "20")
    assert done.exit_code == 0
    assert '"status": "SUCCESS"' in done.stdout
    assert '"result": 5' in done.stdout


def test_call_of_a_task_that_fails(app: App, connection: Connection, shell: Callable[..., Any]) -> None:
    """A failure prints the worker's traceback and the error, and ends with exit code 1."""

    def fail() -> None:
        raise ValueError("no such colour")

    Responder(app, connection, functions={"tasks.fail": fail})
    done = shell("call", "tasks.fail", "--timeout", "20")
    assert done.exit_code == 1
    assert 'raise ValueError("no such colour")' in done.stderr
    assert done.stderr.endswith("error: ValueError: no such colour\n")


def test_call_that_runs_out_of_time(app: App, connection: Connection, shell: Callable[..., Any]) -> None:
    """The person sees the id, with which the result can still be fetched."""
    del app, connection
    done = shell("call", "tasks.add", "--timeout", "200ms")
    assert done.exit_code == 1
    assert "did not finish within 0.2 s (last state seen: PENDING)" in done.stderr


def test_send_and_result_are_two_halves_of_a_call(app: App, connection: Connection, shell: Callable[..., Any]) -> None:
    """`send` prints an id, `result --peek` looks, `result` fetches, and a second `result` says that it is gone."""
    responder = Responder(app, connection)
    task_id = shell("send", "tasks.add", "2", "3", "--priority", "7").stdout.strip()
    assert shell("result", task_id, "--peek").stdout == "PENDING\n"
    call = responder.next()
    assert call.delivery.properties.priority == 7
    responder.say(call, "SUCCESS", {"sum": 5})
    assert shell("result", task_id, "--peek").stdout == 'SUCCESS {"sum": 5}\n'
    assert shell("result", task_id, "--timeout", "20").stdout == '{"sum": 5}\n'
    gone = shell("result", task_id)
    assert gone.exit_code == 1
    assert f"error: task {task_id} has no reply queue" in gone.stderr


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["call", "tasks.add", "-k", "broken"], "'broken' is not NAME=VALUE, as in -k size=10"),
        (["call", "tasks.add", "--timeout", "soon"], "'soon' is not a duration"),
        (["send", "tasks.add", "--queue", "defualt"], "did you mean 'default'"),
        (["send", "tasks.add", "--priority", "999"], "priority=999 is not a whole number from 0 to 255"),
    ],
)
def test_bad_arguments_are_explained(shell: Callable[..., Any], arguments: list[str], text: str) -> None:
    """What cannot be meant is refused before anything is sent."""
    done = shell(*arguments)
    assert done.exit_code == 1
    assert text in done.stderr


def test_properties_of_a_reply_are_plain(app: App, connection: Connection) -> None:
    """A result message is persistent and names its task, so that other tools can read it."""
    Responder(app, connection, functions={"tasks.add": lambda x: x})
    result = app.send_task("tasks.add", [1])
    name = f"amqpq.reply.{result.id}"
    until(lambda: ready(connection, name) == 1, "the result arrives")
    reply = answer(connection.channel().get(name))
    assert reply is not None
    properties = reply.properties
    assert (properties.correlation_id, properties.delivery_mode) == (result.id, 2)
