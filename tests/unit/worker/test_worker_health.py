"""What a worker says of its health; and the endpoint that says it."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.endpoint import Address, read_address
from amqpq.errors import ConfigurationError
from amqpq.worker import endpoint as endpoints
from amqpq.worker.endpoint import Endpoint
from amqpq.worker.health import answer, judge
from amqpq.worker.vitals import Connections, Member, Running, Vitals
from amqpq.worker.watch import ServiceManager, Watch

WELL = Vitals(
    worker="w1@h",
    stage="working",
    taken=100.0,
    connections=Connections("", ""),
    queues={"default": True, "web": True},
    pool="prefork, 2 processes",
    pool_ready=True,
    members=(Member("child 7", 7, number=3, since=99.0, done=5), Member("child 8", 8)),
    running={3: Running("shop.add", "1f0c")},
    held=2,
    waiting=1,
    counts={"received": 7},
)


@pytest.mark.parametrize(
    ("vitals", "now", "live", "ready", "why"),
    [
        (WELL, 101.0, True, True, ()),
        (WELL, 111.0, False, False, ("the worker's loop has not turned for 11 s",)),
        (replace(WELL, stage="draining"), 101.0, True, False, ("the worker is draining",)),
        (replace(WELL, pool_ready=False), 101.0, True, False, ("the pool is not complete yet",)),
        (
            replace(WELL, connections=Connections(None, "")),
            101.0,
            True,
            False,
            ("there is no connection for consuming",),
        ),
        (replace(WELL, queues={"default": True, "web": False}), 101.0, True, False, ("queue web is not consumed",)),
    ],
)
def test_alive_and_ready_are_two_questions(
    vitals: Vitals, now: float, live: bool, ready: bool, why: tuple[str, ...]
) -> None:
    """A worker that waits for its broker is alive; one whose loop hangs is not, whatever it said before."""
    verdict = judge(vitals, now)
    assert (verdict.live, verdict.ready, verdict.why) == (live, ready, why)


def test_a_start_may_take_longer_than_a_turn() -> None:
    """Nothing turns while a broker is looked for; but not for ever."""
    starting = Vitals("w1@h", "starting", 100.0)
    assert judge(starting, 160.0).live
    assert not judge(starting, 160.0).ready
    assert not judge(starting, 300.0).live


@pytest.mark.parametrize(
    ("target", "vitals", "code"),
    [
        ("/livez", WELL, 200),
        ("/readyz?verbose", WELL, 200),
        ("/livez", replace(WELL, stage="draining"), 200),
        ("/readyz", replace(WELL, stage="draining"), 503),
        ("/livez", replace(WELL, taken=0.0), 503),
        ("/health", replace(WELL, taken=0.0), 503),
        ("/", WELL, 404),
    ],
)
def test_the_status_says_it_to_probes(target: str, vitals: Vitals, code: int) -> None:
    """200 is well, 503 is not."""
    assert answer(target, vitals, 101.0)[0] == code


def test_the_whole_picture() -> None:
    """Connections, queues, every member with what it runs and for how long."""
    _, data = answer("/health", replace(WELL, connections=Connections("low on memory", None)), 101.0)
    assert data["connections"] == {
        "consuming": {"up": True, "blocked": "low on memory"},
        "publishing": {"up": False, "blocked": None},
    }
    assert data["queues"] == {"default": {"consumed": True}, "web": {"consumed": True}}
    assert (data["pool"]["size"], data["pool"]["busy"], data["loop_age_seconds"]) == (2, 1, 1.0)
    assert data["pool"]["members"][0] == {
        "name": "child 7", "pid": 7, "alive": True, "ready": True,
        "busy_seconds": 2.0, "task": "shop.add", "task_id": "1f0c", "done": 5,
    }  # fmt: skip
    assert data["pool"]["members"][1]["task"] is None
    assert (data["deliveries"], data["counts"]) == ({"held": 2, "waiting": 1}, {"received": 7})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:8080", Address("0.0.0.0", 8080)),  # noqa: S104 - read, not listened on
        ("[::1]:8080", Address("::1", 8080)),
        ("unix:/run/w1.sock", Address(path="/run/w1.sock")),
    ],
)
def test_addresses_are_read_and_shown(text: str, address: Address) -> None:
    """A bare port is this machine's alone."""
    assert read_address(text) == address
    assert read_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "0", "70000", "unix:", "/run/w1.sock", "http://localhost:80", "a:b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With the forms that there are."""
    with pytest.raises(ConfigurationError, match="use PORT, HOST:PORT or unix:/PATH"):
        read_address(text)


# ------------------------------------------------------------------------------------------------------------ endpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket is."""
    return tmp_path / "w1.sock"


@pytest.fixture
def endpoint(path: Path) -> Iterator[Endpoint]:
    """An endpoint of a worker that is well."""
    made = Endpoint(Address(path=str(path)), lambda: WELL, lambda: 101.0)
    yield made
    made.close()


def ask(path: Path, request: bytes) -> bytes:
    """Send these bytes, read to the end."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(str(path))
        caller.sendall(request)
        read = b""
        while data := caller.recv(65536):
            read += data
    return read


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /readyz HTTP/1.1\r\nHost: w1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /nothing HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /readyz HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /" + b"x" * 8187, b"HTTP/1.1 400 Bad Request"),
    ],
)
def test_requests_are_answered_whatever_they_are(path: Path, request_: bytes, status: bytes) -> None:
    """With a status and one JSON object."""
    head, _, body = ask(path, request_).partition(b"\r\n\r\n")
    assert head.splitlines()[0] == status
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)


@pytest.mark.usefixtures("endpoint")
def test_head_is_answered_without_a_body(path: Path) -> None:
    """As HTTP has it."""
    assert ask(path, b"HEAD /livez HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.usefixtures("endpoint")
def test_a_caller_that_says_nothing_does_not_keep_others_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go of after a moment."""
    monkeypatch.setattr(endpoints, "PATIENCE_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert ask(path, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_the_socket_is_private_and_goes_with_the_worker(path: Path, endpoint: Endpoint) -> None:
    """User and group may ask; nothing is left behind."""
    assert path.stat().st_mode & 0o777 == 0o660
    endpoint.close()
    assert not path.exists()


def test_a_socket_of_a_dead_worker_is_taken_over(path: Path) -> None:
    """A living one's is not, nor is a file that is no socket."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    living = Endpoint(Address(path=str(path)), lambda: WELL)
    with pytest.raises(ConfigurationError, match="another worker listens there"):
        Endpoint(Address(path=str(path)), lambda: WELL)
    living.close()
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="is no socket"):
        Endpoint(Address(path=str(path)), lambda: WELL)
    assert path.read_text() == "mine"


def test_a_port_that_is_taken_is_said() -> None:
    """Two workers on one host want two ports."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=rf"--health {address}: Address already in use"):
            Endpoint(address, lambda: WELL)


# ----------------------------------------------------------------------------------------------------- service manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """Somebody who listens as systemd does, and the environment that says so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(str(tmp_path / "notify"))
        ears.settimeout(20)
        yield ears, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}


def test_the_service_manager_hears_ready_alive_and_stopping(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """Each once, but for the sign of life, which comes with every turn that is looked at."""
    ears, environ = manager
    told = ServiceManager(environ)
    for vitals in (
        replace(WELL, pool_ready=False),
        WELL,
        WELL,
        replace(WELL, stage="draining"),
        replace(WELL, stage="over"),
    ):
        told.tell(vitals)
    heard = [ears.recv(4096).decode().splitlines() for _ in range(5)]
    assert [lines[:-1] for lines in heard] == [
        ["WATCHDOG=1"],
        ["READY=1", "WATCHDOG=1"],
        ["WATCHDOG=1"],
        ["STOPPING=1", "WATCHDOG=1"],
        ["WATCHDOG=1"],
    ]
    assert heard[1][-1] == "STATUS=working, 1 of 2 busy, 2 deliveries held"


def test_the_watchdog_is_fed_twice_in_its_time(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """Once a second at least; and nothing is done where nobody asks."""
    _, environ = manager
    assert Watch("w1@h", None, ServiceManager(environ)).beat_seconds == 1.0
    assert Watch("w1@h", None, ServiceManager({**environ, "WATCHDOG_USEC": "500000"})).beat_seconds == 0.25
    other = {**environ, "WATCHDOG_PID": str(os.getpid() + 1)}
    assert ServiceManager(other).watchdog_seconds is None
    assert Watch("w1@h", None, ServiceManager({})).pulse is None


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """The worker works on."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(WELL)


# ------------------------------------------------------------------------------------------------------------ the loop


def test_a_loop_says_what_runs_where(app: App, start: Any, gate: Any, until: Callable[..., None]) -> None:
    """Its vitals name the task, its thread, connections and queues; while it stops it says so."""
    worker = start(concurrency=2)
    app.send_task("shop.hold", ("x",), task_id="held", reply="none")
    until(lambda: gate.begun)
    seen: list[Vitals] = []
    told = threading.Event()

    def look(_: object = None) -> None:
        seen.append(worker.loop.vitals())
        told.set()

    worker.reactor.post(look)
    assert told.wait(20)
    vitals = seen[0]
    assert vitals.consuming
    assert (vitals.worker, vitals.pool, vitals.held, vitals.waiting) == ("w1@test", "threads, 2 threads", 1, 0)
    assert vitals.queues == {"default": True, "forgetful": True}
    busy = [member for member in vitals.members if member.number is not None]
    assert len(vitals.members) == 2
    assert [(vitals.running or {})[member.number or 0] for member in busy] == [Running("shop.hold", "held")]
    assert vitals.counts == {"received": 1}
    worker.signal()
    until(lambda: worker.loop.stage == "draining")
    assert worker.loop.vitals().consuming is False
    gate.opened.set()
    worker.wait()
