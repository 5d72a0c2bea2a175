"""Workers that others look after: `amqpq multi`, probes, a service manager."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqpq import App

pytestmark = [pytest.mark.acceptance]

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).with_name("apps")
WAIT_SECONDS = 60.0
HOST = socket.gethostname()

Typed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def typed(vhost_url: str, tmp_path: Path) -> Iterator[Typed]:
    """`typed("multi", "start", "w1")` is the command, typed in a folder with the application; no worker outlives a test."""
    for file in ("shop.py", "topology.yaml"):
        shutil.copy(APPS / file, tmp_path)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    environment = {**os.environ, "PYTHONPATH": path, "AMQPQ_BROKER_URL": vhost_url, "SHOP_KEY": "5a" * 32}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "amqpq", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS * 2,
            check=False,
        )

    yield run
    run("multi", "kill", "w1", "w2", "w3", "--pidfile=run/%n.pid")


def pids(answer: subprocess.CompletedProcess[str]) -> dict[str, int | None]:
    """The process ids that `--json` shows, by the workers' short names."""
    return {each["name"].partition("@")[0]: each["pid"] for each in json.loads(answer.stdout)}


def states(answer: subprocess.CompletedProcess[str]) -> list[str]:
    """The states that `--json` shows."""
    return [each["state"] for each in json.loads(answer.stdout)]


FILES = ("--pidfile=run/%n.pid", "--logfile=log/%n.log")


def test_workers_are_started_found_restarted_and_stopped(
    shop: App, typed: Typed, tmp_path: Path, until: Callable[..., None]
) -> None:
    """The whole life of two workers in the background; both work, each with its own options."""
    started = typed("multi", "start", "w1", "w2", "-A", "shop", "-c", "1", "-c:w2", "2", *FILES, "--json")
    assert (started.returncode, states(started)) == (0, ["started", "started"]), started.stdout + started.stderr
    first = pids(started)
    assert {name: int((tmp_path / "run" / f"{name}.pid").read_text()) for name in first} == first
    assert sorted(shop.collect([shop.send_task("shop.add", (n, 0)) for n in range(10)], timeout=60)) == [*range(10)]
    assert states(typed("multi", "start", "w1", "w2", "-A", "shop", *FILES, "--json")) == ["runs already"] * 2
    until(lambda: "prefork, 2 processes" in (tmp_path / "log" / "w2.log").read_text())
    assert "prefork, 1 process," in (tmp_path / "log" / "w1.log").read_text()

    again = typed("multi", "restart", "w1", "w2", "-A", "shop", "-c", "1", *FILES, "--json")
    assert (again.returncode, states(again)) == (0, ["started", "started"]), again.stdout + again.stderr
    second = pids(again)
    assert not set(first.values()) & set(second.values())
    assert pids(typed("multi", "show", "w1", "w2", *FILES, "--json")) == second

    ended = typed("multi", "stopwait", "w1", "w2", *FILES, "--json")
    assert (ended.returncode, states(ended)) == (0, ["stopped", "stopped"])
    assert not list((tmp_path / "run").iterdir())
    assert (tmp_path / "log" / "w1.log").read_text().count("stopped; ") == 2


def test_a_worker_that_does_not_start_says_why(shop: App, typed: Typed) -> None:
    """Exit code 1 and the end of its log; the others start."""
    del shop
    answer = typed("multi", "start", "w1", "w2", "-A", "shop", "-c", "1", "-Q:w2", "defualt", *FILES)
    assert answer.returncode == 1
    assert f"w2@{HOST}" in answer.stdout
    assert "did you mean 'default'" in answer.stdout
    assert typed("multi", "stopwait", "w1", *FILES).returncode == 0


def test_a_worker_that_takes_longer_to_stop_is_not_killed(
    shop: App, typed: Typed, tmp_path: Path, until: Callable[..., None]
) -> None:
    """`stopwait` gives up waiting and says so; what runs is finished; `restart` starts nothing beside it."""
    typed("multi", "start", "w1", "-A", "shop", "-c", "1", *FILES)
    result = shop.send_task("shop.hold", (str(tmp_path), "slow"))
    until(lambda: list(tmp_path.glob("slow.begun.*")))
    answer = typed("multi", "restart", "w1", "-A", "shop", "--timeout", "0.3", *FILES)
    assert answer.returncode == 1
    assert "it still runs after 0.3 s" in answer.stdout
    (tmp_path / "open").touch()
    assert result.get(timeout=WAIT_SECONDS) == "slow"
    assert typed("multi", "stopwait", "w1", *FILES).returncode == 0


def test_a_killed_worker_is_gone_and_its_task_runs_again(
    shop: App, typed: Typed, tmp_path: Path, until: Callable[..., None]
) -> None:
    """Its pid file is stale then, and in nobody's way."""
    typed("multi", "start", "w1", "-A", "shop", "-c", "1", *FILES)
    result = shop.send_task("shop.hold", (str(tmp_path), "cut"))
    until(lambda: list(tmp_path.glob("cut.begun.*")))
    killed = typed("multi", "kill", "w1", *FILES, "--json")
    assert (killed.returncode, states(killed)) == (0, ["killed"])
    assert "what runs is cut off" in killed.stderr
    assert "its pid file is stale" in typed("multi", "show", "w1", *FILES).stdout
    (tmp_path / "open").touch()
    assert typed("multi", "start", "w1", "-A", "shop", "-c", "1", *FILES).returncode == 0
    assert result.get(timeout=WAIT_SECONDS) == "cut"
    assert typed("multi", "stopwait", "w1", *FILES).returncode == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_health_is_known_while_tasks_run_and_while_it_stops(
    shop: App, start_worker: Any, typed: Typed, tmp_path: Path, until: Callable[..., None], pool: str
) -> None:
    """Which process runs what, since when; ready until it stops, alive until it ends."""
    address = f"unix:{tmp_path}/w1.sock"
    worker = start_worker("-P", pool, "-c", "1", "--health", f"unix:{tmp_path}/%n.sock", "-n", "w1@%h")
    assert typed("health", "--ready", address).returncode == 0
    shop.send_task("shop.hold", (str(tmp_path), "busy"), task_id="busy", reply="none")
    until(lambda: list(tmp_path.glob("busy.begun.*")))
    runner = int(next(tmp_path.glob("busy.begun.*")).suffix[1:])

    def members() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(typed("health", address, "--json").stdout)["pool"]["members"]
        return found

    until(lambda: members()[0]["task_id"] == "busy", "the task in the health of its worker")
    member = members()[0]
    assert (member["task"], member["pid"], member["alive"]) == ("shop.hold", runner, True)
    assert member["busy_seconds"] >= 0
    worker.signal(signal.SIGTERM)
    worker.says("warm shutdown")
    until(lambda: typed("health", "--ready", address).returncode == 1)
    assert "the worker is draining" in typed("health", address).stdout
    assert typed("health", address).returncode == 0
    (tmp_path / "open").touch()
    assert worker.exit_code() == 0
    assert typed("health", address).returncode == 1
    assert not (tmp_path / "w1.sock").exists()


def test_a_worker_that_hangs_as_a_whole_is_not_well(shop: App, start_worker: Any, typed: Typed, tmp_path: Path) -> None:
    """Stopped by a signal, it answers nothing, and the probe does not wait for ever."""
    del shop
    worker = start_worker("-c", "1", "--health", f"unix:{tmp_path}/w1.sock")
    worker.signal(signal.SIGSTOP)
    answer = typed("health", f"unix:{tmp_path}/w1.sock")
    assert answer.returncode == 1
    assert "nobody answers" in answer.stderr
    worker.signal(signal.SIGCONT)
    assert worker.stop() == 0


def test_a_worker_without_its_broker_is_alive_and_not_ready(
    private_shop: App, start_private_worker: Any, private_node: Any, typed: Typed, tmp_path: Path, until: Any
) -> None:
    """A restart of the worker would not bring the broker back."""
    del private_shop
    address = f"unix:{tmp_path}/w1.sock"
    worker = start_private_worker("-c", "1", "--health", address)
    private_node.kill()
    until(lambda: typed("health", "--ready", address).returncode == 1)
    assert "there is no connection for consuming" in typed("health", address).stdout
    assert typed("health", address).returncode == 0
    private_node.start()
    until(lambda: typed("health", "--ready", address).returncode == 0)
    assert worker.stop() == 0


def test_the_service_manager_is_told(shop: App, start_worker: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """READY when it consumes, signs of life from then on, STOPPING when it was told to."""
    del shop
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(str(tmp_path / "notify"))
        ears.settimeout(WAIT_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        worker = start_worker("-c", "1")
        heard: list[str] = []
        while "READY=1" not in heard or heard[heard.index("READY=1") :].count("WATCHDOG=1") < 4:
            heard += ears.recv(4096).decode().splitlines()
        worker.signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            heard += ears.recv(4096).decode().splitlines()
        assert worker.exit_code() == 0
    assert heard.count("READY=1") == 1
