"""`amqpq inspect`, `amqpq control` and revoking, on a project that signs: who may, what is remembered, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from amqpq import App
from amqpq.errors import TaskRevoked
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from tests.support.commands import Said, amqpq

pytestmark = pytest.mark.acceptance

KEY = "5a" * 32
OTHER_KEY = "6b" * 32
WAIT_SECONDS = 60.0
WORKER = "w1@test"
TOPOLOGY = """\
amqpq: 1
project: shop
queues: {default: {}}
routes: {"*": {queue: default}}
control: {revocations: 1h}
security: {signing: {algorithm: hmac-sha256, key: "env:SHOP_KEY", key_id: shop}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands are typed."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def memory(folder: Path, vhost_url: str) -> Iterator[App]:
    """The application, as a producer sees it; with a stream of revocations."""
    with App(folder / "topology.yaml", environ={"AMQPQ_BROKER_URL": vhost_url, "SHOP_KEY": KEY}) as app:
        connection = app.link.connection(30.0)
        flow.run(declare.apply(connection.channel, declarations(app.topology)), 60.0)
        yield app


@pytest.fixture
def work(start_worker: Any, folder: Path, memory: App) -> Callable[..., Any]:
    """Start a worker of that project with one process."""
    del memory

    def start(*arguments: str, **options: Any) -> Any:
        return start_worker("-t", str(folder / "topology.yaml"), "-n", WORKER, "-c", "1", *arguments, **options)

    return start


@pytest.fixture
def typed(folder: Path, vhost_url: str) -> Callable[..., Said]:
    """Type a command as somebody who has the key."""

    def run(*arguments: str, key: str = KEY) -> Said:
        return amqpq(folder, *arguments, broker=vhost_url, extra={"SHOP_KEY": key})

    return run


def test_nobody_answers_where_nobody_is(typed: Any, memory: App) -> None:
    """The exit code says so, and the message what to look at."""
    del memory
    assert "no worker has answered" in typed("inspect", "ping").refused(1)
    assert "no worker has answered" in typed("control", "pause").refused(1)


def test_a_worker_is_asked_and_told_from_the_command_line(
    work: Any, memory: App, typed: Any, tmp_path: Path, until: Any
) -> None:
    """Tables for people, JSON for machines, exit code 1 where a worker could not do it."""
    worker = work("--prefetch", "5")
    running = memory.send_task("shop.hold", [str(tmp_path), "a"])
    until(lambda: list(tmp_path.glob("a.begun.*")))
    to = ("-d", WORKER, "--timeout", "60s")
    assert typed("inspect", "ping", *to).done() == f"{WORKER}: pong\n"
    shown = typed("inspect", "active", *to).done()
    assert running.id in shown
    assert "shop.hold" in shown
    assert json.loads(typed("inspect", "active", *to, "--json").done())[WORKER][0]["id"] == running.id
    assert "did you mean 'default'?" in typed("control", "add_consumer", "defalt", *to).out
    assert typed("control", "add_consumer", "defalt", *to).code == 1
    assert typed("control", "pause", *to).done() == f"{WORKER}: consuming paused\n"
    assert typed("control", "resume", *to).done() == f"{WORKER}: consuming again\n"
    (tmp_path / "open").touch()
    assert running.get(timeout=WAIT_SECONDS) == "a"
    assert typed("control", "shutdown", *to).done() == f"{WORKER}: warm shutdown\n"
    assert worker.exit_code() == 0


def test_a_task_that_runs_is_ended_and_its_neighbours_are_not(
    work: Any, memory: App, tmp_path: Path, until: Any
) -> None:
    """Its caller gets TaskRevoked, the process is replaced, and what waited behind it runs."""
    worker = work("--prefetch", "5")
    running = memory.send_task("shop.hold", [str(tmp_path), "a"])
    until(lambda: list(tmp_path.glob("a.begun.*")))
    behind = memory.send_task("shop.add", [1, 2])
    running.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        running.get(timeout=WAIT_SECONDS)
    assert behind.get(timeout=WAIT_SECONDS) == 3
    assert worker.stop() == 0
    assert "was revoked" in worker.text


def test_what_is_revoked_while_no_worker_runs_is_never_run(work: Any, memory: App, typed: Any, tmp_path: Path) -> None:
    """A worker that starts later reads the stream before it takes work; so does the next one."""
    revoked = memory.send_task("shop.hold", [str(tmp_path), "a"])
    other = memory.send_task("shop.add", [1, 2])
    said = typed("control", "revoke", revoked.id)
    assert "those that start later will know it" in said.err
    assert said.code == 0
    first = work()
    assert other.get(timeout=WAIT_SECONDS) == 3
    with pytest.raises(TaskRevoked):
        revoked.get(timeout=WAIT_SECONDS)
    assert first.stop() == 0
    again = memory.send_task("shop.hold", [str(tmp_path), "a"], task_id=revoked.id)
    work()
    with pytest.raises(TaskRevoked):
        again.get(timeout=WAIT_SECONDS)
    assert not list(tmp_path.glob("a.begun.*"))


def test_a_worker_that_was_cut_off_hears_what_was_revoked_meanwhile(
    work: Any, memory: App, broker_server: Any, vhost_url: str, until: Any
) -> None:
    """After a reconnect it goes on reading behind the last entry."""
    worker = work()
    vhost = urlsplit(vhost_url).path[1:]
    until(lambda: len(broker_server.request("GET", f"vhosts/{quote(vhost, safe='')}/connections")) >= 2)
    listed = broker_server.request("GET", f"vhosts/{quote(vhost, safe='')}/connections")
    for connection in listed:
        broker_server.request("DELETE", f"connections/{quote(connection['name'], safe='')}")
    memory.control.revoke("while-away")
    worker.says("connected again for consuming")
    with pytest.raises(TaskRevoked):
        memory.send_task("shop.add", [1, 2], task_id="while-away").get(timeout=WAIT_SECONDS)
    found = memory.control.inspect([WORKER], timeout=WAIT_SECONDS)
    until(lambda: found.ping() == {WORKER: {"ok": "pong"}}, "the mailbox being there again")


def test_without_the_stream_a_worker_does_not_start(start_worker: Any, folder: Path, vhost_url: str) -> None:
    """The file says that revocations are remembered; a worker that cannot know them says what to do."""
    del vhost_url
    worker = start_worker("-t", str(folder / "topology.yaml"), wait=False)
    assert worker.exit_code() == 1
    assert "amqpq topology apply" in worker.text


def test_a_key_that_nobody_trusts_controls_nothing(work: Any, typed: Any) -> None:
    """It is refused, logged, and changes nothing; and its sender gets no answer to believe."""
    worker = work()
    typed("control", "shutdown", "-d", WORKER, key=OTHER_KEY).refused(1)
    worker.says("a control message is not believed")
    assert worker.process.poll() is None
    typed("control", "revoke", "some-id", key=OTHER_KEY)
    worker.says("an entry of shop.revocations is not believed")
    assert typed("inspect", "revoked", "-d", WORKER, "--timeout", "60s").done() == f"{WORKER}: none\n"


def test_celerys_unsigned_commands_are_refused_and_ping_is_answered(work: Any, vhost_url: str, tmp_path: Path) -> None:
    """The tool gets the reason as its answer, the log gets it once, and the worker goes on."""
    worker = work()

    def celery(*arguments: str) -> str:
        command = [sys.executable, "-m", "celery", "-b", vhost_url, *arguments, "-d", WORKER, "-t", "60"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_SECONDS * 2, check=False
        )
        return done.stdout + done.stderr

    assert "pong" in celery("inspect", "ping")
    assert "must be signed" in celery("control", "shutdown")
    worker.says("a control message was refused: shutdown must be signed")
    assert worker.process.poll() is None


@contextmanager
def _user_without_control(broker_server: Any, vhost_url: str) -> Iterator[str]:
    """Yield the URL of a user who may do everything but touch what remote control needs."""
    name, parts = "no-control", urlsplit(vhost_url)
    vhost = quote(parts.path[1:], safe="")
    pattern = "^(?!.*celery).*"
    broker_server.request("PUT", f"users/{name}", {"password": "secret", "tags": ""})
    try:
        rights = {"configure": pattern, "write": pattern, "read": pattern}
        broker_server.request("PUT", f"permissions/{vhost}/{name}", rights)
        yield parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}").geturl()
    finally:
        broker_server.request("DELETE", f"users/{name}")


def test_without_the_permission_it_works_without_control(
    work: Any, memory: App, broker_server: Any, vhost_url: str
) -> None:
    """The broker refuses the mailbox; that is said once, and tasks run."""
    with _user_without_control(broker_server, vhost_url) as url:
        worker = work("-E", url=url)
        worker.says("no remote control, because the broker does not allow its queue")
        assert memory.send_task("shop.add", [1, 2]).get(timeout=WAIT_SECONDS) == 3
        assert worker.stop() == 0
    assert worker.text.count("no remote control") == 1


def test_a_second_worker_of_the_same_name_says_so_and_works(work: Any, memory: App, until: Any) -> None:
    """The mailbox has one owner, and the next one when that is gone; the other is told to take a name of its own."""
    first = work()
    second = work()
    second.says("another worker is called w1@test")
    assert first.stop() == 0
    assert memory.send_task("shop.add", [1, 2]).get(timeout=WAIT_SECONDS) == 3
    until(lambda: memory.control.ping([WORKER], timeout=WAIT_SECONDS) == [{WORKER: {"ok": "pong"}}])
