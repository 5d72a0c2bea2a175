"""Hooks, signals and log lines of workers that run; every pool, every process."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from amqpq import App

pytestmark = [pytest.mark.acceptance]

WAIT_SECONDS = 60.0
HOST = socket.gethostname()
POOLS = ("prefork", "threads", "solo", "asyncio", "gevent", "eventlet")
IN_A_CHILD = frozenset({"prefork", "asyncio", "gevent", "eventlet"})


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[Any]]]:
    """What the application has written down: words, process id, whether on the main thread."""
    monkeypatch.setenv("WATCHED_FOLDER", str(tmp_path))

    def read() -> list[list[Any]]:
        path = tmp_path / "heard"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def _needed_by(pool: str) -> None:
    """Skip where the library of a pool is not installed."""
    if (
        pool in {"gevent", "eventlet"} and find_spec(pool) is None
    ):  # importing eventlet here would burden every later fork
        pytest.skip(f"{pool} is not installed")


def lines(text: str) -> list[dict[str, Any]]:
    """The lines of a worker that logs JSON; each must be an object."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("pool", POOLS)
def test_hooks_run_where_the_task_runs_and_cost_no_result(
    shop: App, start_worker: Any, heard: Callable[[], list[list[Any]]], pool: str
) -> None:
    """A hook that raises is logged, the caller has its result; a failure tells its hook."""
    _needed_by(pool)
    worker = start_worker("-A", "watched", "-P", pool, "-c", "1")
    cooked = shop.send_task("shop.cook", ("fish",), {"salt": 2}, task_id=f"cook-{pool}")
    assert cooked.get(timeout=WAIT_SECONDS) == "fish with 2"
    with pytest.raises(ValueError, match="it is black"):
        shop.send_task("shop.burn").get(timeout=WAIT_SECONDS)
    hooks = [words for words in heard() if words[0] in {"before_start", "on_success", "on_failure"}]
    runner = next(iter(worker.children())) if pool in IN_A_CHILD else worker.process.pid
    on_main = hooks[0][-1]
    assert pool not in {"prefork", "solo"} or on_main
    assert hooks == [
        ["before_start", f"cook-{pool}", ["fish"], {"salt": 2}, runner, on_main],
        ["on_success", "fish with 2", runner, on_main],
        ["before_start", hooks[2][1], [], {}, runner, on_main],
        ["on_failure", "ValueError('it is black')", True, runner, on_main],
    ]
    worker.says(f"on_success of shop.cook[cook-{pool}] failed; the outcome stands")
    worker.says("a hook of somebody's")
    assert worker.stop() == 0


def test_signals_of_a_worker_and_its_processes(
    shop: App, start_worker: Any, heard: Callable[[], list[list[Any]]], until: Callable[..., None]
) -> None:
    """Each in its process; those of the parent off its main thread while the loop runs there."""
    worker = start_worker("-A", "watched", "-c", "1", "-n", "w1@%h")
    child = next(iter(worker.children()))
    shop.send_task("shop.cook", ("fish",), task_id="cook").get(timeout=WAIT_SECONDS)
    until(lambda: any(words[0] == "task_postrun" for words in heard()))
    assert worker.stop() == 0
    told = [words for words in heard() if "_" in words[0] and words[0].split("_")[0] in {"worker", "task"}]
    parent, name = worker.process.pid, f"w1@{HOST}"
    assert sorted(told) == sorted([
        ["worker_init", name, parent, True],
        ["worker_process_init", name, child, True],
        ["worker_ready", name, parent, False],
        ["task_prerun", "shop.cook", "cook", child, True],
        ["task_postrun", "shop.cook", "cook", "SUCCESS", child, True],
        ["worker_shutting_down", name, "SIGTERM", "warm", "0", parent, False],
        ["worker_process_shutdown", name, child, True],
        ["worker_shutdown", name, parent, True],
    ])  # fmt: skip
    assert (told[0][0], told[1][0], told[-1][0]) == ("worker_init", "worker_process_init", "worker_shutdown")


@pytest.mark.parametrize("pool", POOLS)
def test_every_line_is_an_object_that_knows_its_task(
    shop: App, start_worker: Any, heard: Callable[[], list[list[Any]]], pool: str
) -> None:
    """Lines of the task's logger, of any other logger in the task, and the worker's own about it."""
    del heard
    _needed_by(pool)
    worker = start_worker("-A", "watched", "-P", pool, "-c", "1", "-n", "w1@%h", "--logformat", "json")
    shop.send_task("shop.cook", ("fish",), {"salt": 3}, task_id="cook").get(timeout=WAIT_SECONDS)
    worker.says("succeeded in")
    assert worker.stop() == 0
    said = lines(worker.text)
    assert all(line["worker"] == f"w1@{HOST}" for line in said)
    about = {line["logger"]: line for line in said if line.get("task_id") == "cook"}
    assert about["watched"]["message"] == "cooking fish"
    assert about["shop.library"]["message"] == "salt: 3"
    for logger in ("watched", "shop.library", "amqpq.task"):
        line = about[logger]
        assert (line["task"], line["queue"], line["attempts"]) == ("shop.cook", "default", 1)
    assert any(line["message"] == f"w1@{HOST} ready." and "task" not in line for line in said)


def test_lines_of_several_processes_are_whole_under_load(shop: App, start_worker: Any) -> None:
    """4 processes write lines longer than a pipe takes in one piece; none is torn, none is missing."""
    worker = start_worker("-A", "watched", "-c", "4", "--logformat", "json")
    with shop.batch():
        results = [shop.send_task("shop.chatter", (number, 9000)) for number in range(60)]
    assert shop.collect(results, timeout=WAIT_SECONDS) == list(range(60))
    assert worker.stop() == 0
    said = lines(worker.text)
    chatter = [line for line in said if line["logger"] == "watched" and line["message"].endswith("x")]
    assert len(chatter) == 60 * 20
    assert len({line["pid"] for line in chatter}) > 1
    assert sum(1 for line in said if line.get("exception", {}).get("type") == "KeyError") == 60


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_in_the_log(shop: App, start_worker: Any, vhost_url: str, form: str) -> None:
    """Not the broker's password, not the key; at the highest level of detail, with a task that fails."""
    password = urlsplit(vhost_url).password or ""
    secret = vhost_url.replace(f":{password}@", ":guest@")
    worker = start_worker("-c", "1", "-l", "debug", "--logformat", form, url=secret)
    with pytest.raises(ValueError, match="black"):
        shop.send_task("shop.fail", (f"black, at {secret}",)).get(timeout=WAIT_SECONDS)
    shop.send_task("shop.nothing_like_it", reply="none")
    worker.says("no task 'shop.nothing_like_it'")
    assert worker.stop() == 0
    assert ":***@" in worker.text
    assert ":guest@" not in worker.text
    assert "5a5a5a5a" not in worker.text


def test_the_log_file_gets_everything_and_the_terminal_nothing(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None]
) -> None:
    """Banner, lines of the worker and of its processes; later workers append."""
    del shop
    log = tmp_path / "w1.log"
    for turn in (1, 2):
        worker = start_worker("-c", "1", "-n", "w1@%h", "--logfile", str(tmp_path / "%n%I.log"), wait=False)
        until(lambda wanted=turn: log.exists() and log.read_text().count(" ready.") == wanted)
        assert worker.stop() == 0
        assert worker.text == ""
    assert log.read_text().count("stopped; nothing was delivered") == 2
