"""Bad input, calls: tasks nobody routes, arguments that cannot travel, results that cannot be had."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from amqpq import App, AsyncApp, errors
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Flow
from tests.support.commands import amqpq

pytestmark = pytest.mark.acceptance

TOPOLOGY = """\
amqpq: 1
project: shop
security: {signing: off}
messages: {max_size: 1KiB}
queues:
  default: {}
routes:
  "tasks.*": {queue: default}
"""

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def folder(tmp_path: Path, vhost_url: str) -> Path:
    """A project whose topology is on the broker, and whose queue nobody consumes."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    amqpq(tmp_path, "topology", "apply", broker=vhost_url).done()
    return tmp_path


@pytest.fixture
def environ(vhost_url: str) -> Mapping[str, str]:
    """The broker, as an application finds it."""
    return {"AMQPQ_BROKER_URL": vhost_url}


@pytest.fixture
def app(folder: Path, environ: Mapping[str, str]) -> Iterator[App]:
    """A blocking application."""
    with App(folder / "topology.yaml", environ=environ) as made:
        yield made


@pytest.fixture
def awaited(folder: Path, environ: Mapping[str, str]) -> Callable[..., BaseException]:
    """Call `send_task` of an `AsyncApp` on a loop of its own, and return what it raised."""

    def call(*arguments: Any, **options: Any) -> BaseException:
        async def scenario() -> None:
            async with AsyncApp(folder / "topology.yaml", environ=environ) as made:
                await made.send_task(*arguments, **options)

        with pytest.raises(errors.AmqpqError) as caught:
            asyncio.run(scenario())
        return caught.value

    return call


def _delete(channel: Channel, queue: str) -> Flow[None]:
    yield channel.delete_queue(queue)


class Cart:
    """Something of the caller's own, which no serializer knows."""


# ---------------------------------------------------------------------------------------------------------- tasks, routes


def test_a_task_name_nobody_routes_is_corrected(folder: Path, vhost_url: str) -> None:
    """The message has the name, what was probably meant, the routes there are, and the two ways out."""
    for command in (("call",), ("send",), ("topology", "route", "--task")):
        said = amqpq(folder, *command, "taks.add", broker=vhost_url).refused()
        assert "no route matches the task 'taks.add' (did you mean 'tasks.*'?)" in said
        assert "routes of project 'shop': 'tasks.*'" in said
        assert "Add one under `routes:`, or name a queue in the call" in said


def test_a_task_name_nobody_routes_is_a_typed_error(app: App, awaited: Callable[..., BaseException]) -> None:
    """`NoRoute` in Python, before anything is sent; blocking and asyncio alike."""
    with pytest.raises(errors.NoRoute) as blocking:
        app.send_task("taks.add")
    assert str(awaited("taks.add")) == str(blocking.value)


def test_a_queue_that_is_not_in_the_file_is_corrected(folder: Path, vhost_url: str) -> None:
    """`--queue` with a typo."""
    said = amqpq(folder, "call", "tasks.add", "-q", "defualt", broker=vhost_url).refused()
    assert "queue='defualt': the topology of project 'shop' has no such queue (did you mean 'default'?)" in said


def test_a_queue_that_is_gone_from_the_broker_is_unroutable(app: App, folder: Path, vhost_url: str) -> None:
    """In the file and not on the broker: the message came back, and the remedy is the command that declares it."""
    flow.run(_delete(app.link.connection(10).channel(), "default"), 10)
    said = amqpq(folder, "call", "tasks.add", "1", "2", broker=vhost_url).refused()
    assert "went to queue 'default', which reaches no queue (312 NO_ROUTE)" in said
    assert "the queue is missing: `amqpq topology apply` creates what the file declares" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"priorty": 3}, "unknown option 'priorty' (did you mean 'priority'?)"),
        ({"countdown": 3}, "has no delay ladder; add `delays: {}` to it, and run `amqpq topology apply`"),
        ({"priority": 300}, "priority=300 is not a whole number from 0 to 255"),
        ({"serializer": "xml"}, "unknown serializer 'xml'; there are msgpack, json, yaml, pickle"),
        ({"compression": "zip"}, "unknown compression 'zip' (did you mean 'gzip'?); there are zlib, bzip2 and none"),
        ({"reply": "maybe"}, "maybe"),
        ({"headers": {"task": "x"}}, "the header 'task' is the protocol's own; give yours another name"),
        ({"expires": -1}, "expires=-1 is already past"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_honoured_is_refused(
    app: App, awaited: Callable[..., BaseException], options: dict[str, Any], sentence: str
) -> None:
    """Nothing is accepted and ignored, in either world."""
    with pytest.raises(errors.LocalError) as caught:
        app.send_task("tasks.add", [1, 2], **options)
    assert sentence in str(caught.value)
    assert str(awaited("tasks.add", [1, 2], **options)) == str(caught.value)


def test_arguments_the_function_does_not_take_are_refused_by_the_sender(app: App) -> None:
    """Where the task's code is at hand, its signature is checked before anything is sent."""

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(TypeError, match=r"tasks\.add\(x: 'int', y: 'int'\).*: missing a required argument: 'y'"):
        add.delay(1)  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------- arguments that cannot travel


@pytest.mark.parametrize(
    ("args", "kwargs", "options", "sentence"),
    [
        ((1, Cart()), {}, {}, "tasks.add: argument 2, a Cart, cannot be written as msgpack: an object of type 'Cart'"),
        ((), {"cart": Cart()}, {}, "tasks.add: argument 'cart', a Cart, cannot be written as msgpack"),
        ((1,), {"bag": {"in": [Cart()]}}, {}, "tasks.add: argument 'bag', a dict, cannot be written as msgpack"),
        (({1, 2},), {}, {"serializer": "json"}, "tasks.add: argument 1, a set, cannot be written as json"),
        ((2**70,), {}, {}, "argument 1, a int, cannot be written as msgpack: a whole number of more than 64 bits"),
    ],
    ids=["positional", "keyword", "nested", "set", "large number"],
)
def test_an_argument_that_cannot_be_written_is_named(
    app: App,
    awaited: Callable[..., BaseException],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: dict[str, Any],
    sentence: str,
) -> None:
    """Which argument, what it is, in which format, and what to do instead; nothing was sent."""
    with pytest.raises(errors.NotSerializable) as caught:
        app.send_task("tasks.add", args, kwargs, **options)
    assert sentence in str(caught.value)
    assert "pass plain data or choose another serializer" in str(caught.value)
    assert str(awaited("tasks.add", args, kwargs, **options)) == str(caught.value)


def test_a_header_that_cannot_be_written_is_named(app: App, awaited: Callable[..., BaseException]) -> None:
    """A header is written by AMQP itself, whose types are fewer."""
    with pytest.raises(errors.NotSerializable, match="'cart'"):
        app.send_task("tasks.add", [1, 2], headers={"cart": Cart()})
    assert "'cart'" in str(awaited("tasks.add", [1, 2], headers={"cart": Cart()}))


def test_a_body_over_the_limit_is_refused_before_it_is_sent(
    folder: Path, vhost_url: str, app: App, awaited: Callable[..., BaseException]
) -> None:
    """Both sizes are said, the key to change, and the better way."""
    said = amqpq(folder, "call", "tasks.add", "x" * 2000, broker=vhost_url).refused()
    assert "tasks.add: the message takes 2007 bytes, messages.max_size allows 1024" in said
    assert "send a reference to the data, or raise the limit" in said
    with pytest.raises(errors.MessageTooLarge) as caught:
        app.send_task("tasks.add", ["x" * 2000], compression="zlib")  # packing does not get it past the limit
    assert str(awaited("tasks.add", ["x" * 2000])) == str(caught.value)


def test_a_pickle_is_not_sent_where_it_is_not_accepted(app: App, awaited: Callable[..., BaseException]) -> None:
    """The sender is told why: loading it would run code of his."""
    sentence = "pickle is sent only signed, and only where messages.accept has it: loading it runs code of the sender"
    with pytest.raises(errors.ConfigurationError, match=sentence):
        app.send_task("tasks.add", [1, 2], serializer="pickle")
    assert sentence in str(awaited("tasks.add", [1, 2], serializer="pickle"))


def test_a_file_that_accepts_pickle_unsigned_is_refused(tmp_path: Path) -> None:
    """Lint says it before any message is sent."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY.replace("{max_size: 1KiB}", "{accept: [msgpack, pickle]}"))
    said = amqpq(tmp_path, "topology", "lint")
    said.refused()
    assert "pickle runs code of whoever wrote the message, and unsigned messages are accepted" in said.out
    assert "write `require: signed`, or remove pickle" in said.out


# -------------------------------------------------------------------------------------------- what the file switches off


def test_confirms_cannot_be_switched_off(tmp_path: Path) -> None:
    """What the transport always does is not pretended to be off."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY.replace("{max_size: 1KiB}", "{confirm: false}"))
    said = amqpq(tmp_path, "topology", "lint")
    said.refused()
    assert "topology.yaml:4:21: error TOP000 not built yet: publishing without confirms" in said.out


def test_without_mandatory_a_lost_message_is_no_error(app: App, folder: Path, environ: Mapping[str, str]) -> None:
    """`mandatory: false` is honoured: the broker drops what reaches no queue, as the file asks and lint warns."""
    flow.run(_delete(app.link.connection(10).channel(), "default"), 10)
    with pytest.raises(errors.Unroutable):
        app.send_task("tasks.add", [1, 2])
    (folder / "topology.yaml").write_text(TOPOLOGY.replace("{max_size: 1KiB}", "{mandatory: false}"))
    assert "with mandatory: false an unroutable message is dropped" in amqpq(folder, "topology", "lint").done()
    with App(folder / "topology.yaml", environ=environ) as careless:
        careless.send_task("tasks.add", [1, 2]).forget()


# -------------------------------------------------------------------------------------------------------------- results


def test_an_id_that_never_existed_is_told_from_a_pending_task(folder: Path, vhost_url: str) -> None:
    """Unknown is an error at once, whatever the timeout; pending is a state."""
    said = amqpq(folder, "result", UNKNOWN_ID, broker=vhost_url).refused()
    assert f"task {UNKNOWN_ID} has no reply queue: the id never existed, its result was already fetched" in said
    assert amqpq(folder, "result", UNKNOWN_ID, "--peek", broker=vhost_url).refused() == said
    pending = amqpq(folder, "send", "tasks.add", "1", "2", broker=vhost_url).done().strip()
    assert amqpq(folder, "result", pending, "--peek", broker=vhost_url).done() == "PENDING\n"


def test_an_id_that_never_existed_is_a_typed_error(app: App, folder: Path, environ: Mapping[str, str]) -> None:
    """`ResultNotFound` from every way to look, in both worlds."""
    handle = app.AsyncResult(UNKNOWN_ID)
    looks: list[Callable[[], object]] = [handle.get, handle.ready, lambda: handle.state, lambda: handle.result]
    for look in looks:
        with pytest.raises(errors.ResultNotFound, match="the id never existed"):
            look()

    async def scenario() -> None:
        async with AsyncApp(folder / "topology.yaml", environ=environ) as made:
            await made.AsyncResult(UNKNOWN_ID).get()

    with pytest.raises(errors.ResultNotFound, match="the id never existed"):
        asyncio.run(scenario())


def test_a_timeout_says_how_far_the_task_is_and_that_nothing_is_lost(folder: Path, vhost_url: str) -> None:
    """The id is in the message, and it can be asked for again."""
    said = amqpq(folder, "call", "tasks.add", "1", "2", "--timeout", "0.3", broker=vhost_url).refused()
    assert "did not finish within 0.3 s (last state seen: PENDING)" in said
    assert "its result, once there, can still be fetched by this id" in said
    task_id = str(uuid.UUID(said.partition("[")[2].partition("]")[0]))
    assert amqpq(folder, "result", task_id, "--peek", broker=vhost_url).done() == "PENDING\n"
    again = amqpq(folder, "result", task_id, "--timeout", "0.3", broker=vhost_url).refused()
    assert f"task {task_id} did not finish within 0.3 s" in again


def test_a_timeout_is_a_typed_error(app: App, folder: Path, environ: Mapping[str, str]) -> None:
    """`ResultTimeout` is a `TimeoutError`, in both worlds; the task's queue is still there."""
    result = app.send_task("tasks.add", [1, 2])
    with pytest.raises(errors.ResultTimeout) as caught:
        result.get(timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.recoverable

    async def scenario() -> None:
        async with AsyncApp(folder / "topology.yaml", environ=environ) as made:
            await made.AsyncResult(result.id).get(timeout=0.2)

    with pytest.raises(errors.ResultTimeout, match=f"task {result.id} did not finish within 0.2 s"):
        asyncio.run(scenario())
    assert result.state == "PENDING"


def test_a_result_nobody_promised_is_not_waited_for(app: App) -> None:
    """`reply: none` has no result; `get` says so instead of waiting."""
    with pytest.raises(errors.NoReplyExpected, match="was sent with reply: none; there is no result to fetch"):
        app.send_task("tasks.add", [1, 2], reply="none").get(timeout=5)


# ------------------------------------------------------------------------------------------------------ the command line


def test_an_unknown_command_is_corrected(tmp_path: Path) -> None:
    """A typo in a command's name."""
    assert "No such command 'wroker'. Did you mean 'worker'?" in amqpq(tmp_path, "wroker").refused()


def test_a_module_that_is_not_there_is_corrected(tmp_path: Path) -> None:
    """A typo in `-A`; the folder that was searched is named."""
    (tmp_path / "tasks.py").write_text("")
    said = amqpq(tmp_path, "worker", "-A", "taks").refused()
    assert f"-A taks: there is no module 'taks' in {tmp_path} or installed; did you mean 'tasks'?" in said
    assert "tasks has no App; create one with `app = App(...)`" in amqpq(tmp_path, "worker", "-A", "tasks").refused()


def test_a_module_that_fails_shows_its_own_line_only(tmp_path: Path) -> None:
    """A mistake in the person's own module is shown with its line, without the frames of the command."""
    (tmp_path / "tasks.py").write_text("count = 0\nratio = 1 / count\n")
    said = amqpq(tmp_path, "worker", "-A", "tasks")
    assert said.code == 1
    assert said.err.startswith("error: -A tasks: importing 'tasks' failed\n")
    assert 'tasks.py", line 2' in said.err
    assert "ZeroDivisionError: division by zero" in said.err
    assert said.err.count("  File ") == 1


def test_a_key_that_is_missing_names_the_command_that_makes_it(tmp_path: Path, vhost_url: str) -> None:
    """Signing is on by default; without a key the first call says which file is missing and how to get it."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY.replace("security: {signing: off}\n", ""))
    said = amqpq(tmp_path, "call", "tasks.add", "1", "2", broker=vhost_url).refused()
    assert str(tmp_path / "keys" / "shop.pem") in said
    assert "amqpq keys new shop" in said


def test_machines_get_errors_on_standard_error_only(folder: Path, vhost_url: str) -> None:
    """With `--json` standard output is JSON or empty, never an error message."""
    said = amqpq(folder, "call", "taks.add", "--json", broker=vhost_url)
    said.refused()
    assert said.out == ""
    assert json.loads(amqpq(folder, "send", "tasks.add", "1", "--json", broker=vhost_url).done())["task"] == "tasks.add"
