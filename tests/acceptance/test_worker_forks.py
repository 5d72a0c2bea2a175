"""Processes of the prefork pool that are forks of one that has loaded the application: what they share, and what not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from tests.support.pool import children_of, name_of, pool_of, template_of

WAIT_SECONDS = 120.0
FORKING = ("-A", "forking", "-l", "debug")
FORKED: tuple[str, ...] = ()
ANEW: tuple[str, ...] = ("--no-fork",)
SAYS_NO = "each process of the pool loads the application for itself, and shares no memory: "


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORKING_FOLDER", str(tmp_path))


def private_bytes(pid: int) -> int:
    """Memory that a process has for itself alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("shop")
def test_forks_share_their_memory(start_worker: Any) -> None:
    """A fork has less than half for itself of what a process has that is started anew; who reads topologies has gone."""
    forking, anew = start_worker("-c", "1", "-n", "w1@%h"), start_worker("-c", "1", "-n", "w2@%h", "--no-fork")
    assert template_of(forking.process.pid) is not None
    assert template_of(anew.process.pid) is None
    (fork,), (other,) = forking.children(), anew.children()
    assert private_bytes(fork) < private_bytes(other) / 2
    for pid in (forking.process.pid, fork):
        assert "pydantic" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_fork_finds_what_a_process_finds_that_is_started_anew(shop: App, start_worker: Any) -> None:
    """Its group, its input, its signals, its arguments, its threads and its descriptors; nothing of the worker's."""
    found = []
    for choice in (FORKED, ANEW):
        worker = start_worker(*FORKING, "-c", "1", *choice)
        (child,) = worker.children()
        assert (name_of(child) == "amqpq child") == (choice == FORKED)
        found.append(shop.send_task("shop.surroundings").get(timeout=WAIT_SECONDS))
        assert worker.stop() == 0
    forked, anew = found
    assert not forked.pop("inherited by its own children")
    anew.pop("inherited by its own children")
    assert forked == anew
    assert forked["leads its group"]
    assert forked["input"] == os.devnull


def test_each_fork_draws_other_numbers(shop: App, start_worker: Any) -> None:
    """The generator is seeded in each, the ones that replace others included."""
    start_worker(*FORKING, "-c", "2", "--max-tasks-per-child", "1")
    with shop.batch():
        results = [shop.send_task("shop.draw") for _ in range(8)]
    drawn = [tuple(pair) for pair in shop.collect(results, timeout=WAIT_SECONDS)]
    assert len({pid for pid, _ in drawn}) == 8
    assert len({number for _, number in drawn}) == 8


def test_a_fork_ends_as_a_program_does(shop: App, start_worker: Any, tmp_path: Path) -> None:
    """It waits for its threads and runs its exit handlers; the template runs none, and nothing is left."""
    worker = start_worker(*FORKING, "-c", "1")
    template = template_of(worker.process.pid)
    pid = shop.send_task("shop.thread_at_the_end").get(timeout=WAIT_SECONDS)
    assert worker.stop() == 0
    assert (tmp_path / f"waited.{pid}").exists()
    assert {path.name for path in tmp_path.glob("ended.*")} == {f"ended.{pid}", f"ended.{worker.process.pid}"}
    assert template is not None
    assert not alive(template)


def test_a_killed_template_costs_nothing(shop: App, start_worker: Any, tmp_path: Path) -> None:
    """Its children go on; who comes after them is started anew, and the log says so once; how they end, nobody sees."""
    worker = start_worker("-c", "2")
    template, children = template_of(worker.process.pid), worker.children()
    assert template is not None
    held = shop.send_task("shop.hold", (str(tmp_path), "held"))
    os.kill(template, signal.SIGKILL)
    shop.send_task("shop.die", (str(tmp_path),))
    worker.says("ended (nobody saw how)")
    (tmp_path / "open").touch()
    assert held.get(timeout=WAIT_SECONDS) == "held"
    with shop.batch():
        results = [shop.send_task("shop.whoami") for _ in range(100)]
    assert len(shop.collect(results, timeout=WAIT_SECONDS)) == 100
    assert worker.text.count(f"process {template}, from which children were forked, does not answer") == 1
    assert len(worker.children()) == 2
    assert worker.children() - children
    assert worker.stop() == 0
    assert not any(alive(pid) for pid in {template, *children})


def test_a_template_that_hangs_is_given_up(shop: App, start_worker: Any) -> None:
    """It is not waited for longer than it takes to see that, and ends."""
    worker = start_worker("-c", "1")
    template = template_of(worker.process.pid)
    assert template is not None
    os.kill(template, signal.SIGSTOP)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    assert shop.send_task("shop.add", (1, 2)).get(timeout=WAIT_SECONDS) == 3
    worker.says("starting new ones anew")
    assert worker.stop() == 0
    assert not alive(template)


def test_signals_of_the_terminal_do_not_end_the_template(shop: App, start_worker: Any) -> None:
    """It is in the worker's group; the child that comes next is a fork, too."""
    worker = start_worker("-c", "1")
    template = template_of(worker.process.pid)
    assert template is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(template, number)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    worker.says("was killed by SIGKILL")
    pid = shop.send_task("shop.whoami").get(timeout=WAIT_SECONDS)
    assert pid in children_of(template)


@pytest.mark.parametrize("choice", [FORKED, ANEW], ids=["forked", "anew"])
def test_nothing_is_left_of_a_killed_worker(
    shop: App, start_worker: Any, tmp_path: Path, until: Callable[..., None], choice: tuple[str, ...]
) -> None:
    """Neither the template nor a child, busy or not."""
    worker = start_worker("-c", "2", *choice)
    shop.send_task("shop.hold", (str(tmp_path), "held"))
    until(lambda: list(tmp_path.glob("held.begun.*")))
    family = {*children_of(worker.process.pid), *pool_of(worker.process.pid)}
    assert len(family) == (3 if choice == FORKED else 2)
    worker.kill()
    until(lambda: not any(alive(pid) for pid in family), "the end of the killed worker's processes")


def test_no_zombie_stays(shop: App, start_worker: Any, until: Callable[..., None]) -> None:
    """Children that were replaced are gone, not waiting to be asked how they ended."""
    worker = start_worker("-c", "1", "--max-tasks-per-child", "1")
    template = template_of(worker.process.pid)
    assert template is not None
    for number in range(3):
        assert shop.send_task("shop.add", (number, 1)).get(timeout=WAIT_SECONDS) == number + 1
    until(lambda: [alive(pid) for pid in children_of(template)] == [True], "the burial of those that were replaced")
    assert "did not end within" not in worker.text


@pytest.mark.parametrize(
    ("ways", "why"),
    [
        ("thread", "the application has started a thread (poller)"),
        ("pipe", "the application has opened pipe:["),
        ("folder", "the application has made what is removed when a process ends, such as a TemporaryDirectory"),
    ],
)
def test_what_must_not_be_shared_is_not_forked(
    shop: App, start_worker: Any, monkeypatch: pytest.MonkeyPatch, ways: str, why: str
) -> None:
    """Each process imports the application for itself then; the log says why, and all else is as ever."""
    monkeypatch.setenv("FORKING_IMPORT", ways)
    worker = start_worker(*FORKING, "-c", "1")
    worker.says(SAYS_NO + why)
    assert template_of(worker.process.pid) is None
    assert shop.send_task("shop.surroundings").get(timeout=WAIT_SECONDS)["input"] == os.devnull
    assert worker.stop() == 0
