"""`amqpq dlq` against dead letters of real workers and of a real broker."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.message import TaskEnvelope
from amqpq.transport import flow
from amqpq.transport.interface import Flow
from amqpq.types import Properties, Publication, QueueSpec
from tests.acceptance.conftest import APPS, Starter, worker_environment

DEADLINE_SECONDS = 60.0
STALL_SECONDS = 240.0
"""The broker may make a pause of three minutes on the way back, where a confirm from queue to queue got lost
(rabbit_fifo_dlx_worker, dead_letter_worker_publisher_confirm_timeout)."""
DEAD = "shop.dead"
Until = Callable[..., None]


def dlq(url: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Type `amqpq dlq ARGUMENTS`."""
    done = subprocess.run(
        [sys.executable, "-m", "amqpq", "dlq", *arguments],
        cwd=APPS,
        env=worker_environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback (most" not in done.stderr
    return done


def rows(url: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows of `amqpq dlq list --json`."""
    listed: list[dict[str, Any]] = json.loads(dlq(url, "list", "--json", *arguments).stdout)
    return listed


def ready(shop: App, queue: str) -> int:
    """How many messages a queue has ready."""
    channel = shop.link.connection(DEADLINE_SECONDS).channel()

    def ask() -> Flow[int]:
        state = yield channel.declare_queue(QueueSpec(queue), passive=True)
        yield channel.close()
        count: int = state.messages
        return count

    return flow.run(ask(), DEADLINE_SECONDS)


def publish(shop: App, publications: list[Publication]) -> None:
    """Publish what a stranger might."""
    channel = shop.link.connection(DEADLINE_SECONDS).channel()

    def publishing() -> Flow[None]:
        outcomes = yield channel.publish(publications)
        assert all(outcome.confirmed for outcome in outcomes)
        yield channel.close()

    flow.run(publishing(), DEADLINE_SECONDS)


def park(shop: App, count: int) -> None:
    """Fill the dead letters with genuine tasks, as a worker parks them."""
    publications = []
    for number in range(count):
        body, properties = shop.codec.encode_task(_envelope(number), exchange="", key="default")
        headers = {
            **properties.headers,
            "amqpq-cause": "failed",
            "amqpq-reason": f"RuntimeError: number {number}",
            "amqpq-queue": "default",
        }
        publications.append(Publication("", DEAD, body, properties._replace(headers=headers)))
    publish(shop, publications)


def _envelope(number: int) -> TaskEnvelope:
    return TaskEnvelope(f"n{number}", "shop.add", (number, 0))


def test_a_parked_task_that_is_sent_back_runs_again_in_the_same_worker(
    shop: App, start_worker: Starter, vhost_url: str, tmp_path: Path, until: Until
) -> None:
    """Neither the memory against replays nor that of what ended here refuses it; it may fail and be sent back again."""
    worker = start_worker("-c", "1")
    gate = tmp_path / "gate"
    sent = shop.send_task("shop.fail_until", [str(gate)])
    until(lambda: ready(shop, DEAD) == 1)
    (row,) = rows(vhost_url)
    assert (row["id"], row["task"], row["cause"], row["queue"]) == (sent.id, "shop.fail_until", "failed", "default")
    assert "LookupError" in row["reason"]

    assert "sent back 1 dead letter: 1 to default" in dlq(vhost_url, "requeue", sent.id).stdout
    until(lambda: len(gate.with_suffix(".ran").read_text()) == 2)
    until(lambda: ready(shop, DEAD) == 1)
    assert [(row["cause"], row["requeues"]) for row in rows(vhost_url)] == [("failed", 1)]

    gate.touch()
    dlq(vhost_url, "requeue", "--task", "shop.fail_*")
    worker.says("succeeded")
    assert len(gate.with_suffix(".ran").read_text()) == 3
    assert ready(shop, DEAD) == 0
    assert worker.stop() == 0
    assert "replayed" not in worker.text


def test_a_task_through_an_exchange_comes_back_to_its_queue_and_verifies(
    shop: App, start_worker: Starter, vhost_url: str, until: Until
) -> None:
    """Its signed route leads to the queue that it is sent back to, so that the worker takes it there."""
    worker = start_worker("-c", "1", "--pool", "threads")
    sent = shop.send_task("web.resize", ["wide"])
    until(lambda: ready(shop, DEAD) == 1)
    shown = dlq(vhost_url, "show", sent.id).stdout
    assert "verified; signed with key 'shop'" in shown
    assert "arguments:  'wide'" in shown
    assert "TypeError" in shown
    dlq(vhost_url, "requeue", "--queue-of-origin", "web.high")
    worker.says("TypeError", times=3)
    until(lambda: ready(shop, DEAD) == 1)
    assert [row["cause"] for row in rows(vhost_url)] == ["failed"]
    assert worker.stop() == 0


def test_what_the_broker_gave_up_is_on_the_desk_too(
    shop: App, start_worker: Starter, vhost_url: str, until: Until
) -> None:
    """An expired message has x-death only; it is listed, refuses to come straight back, and may be dropped."""
    shop.send_task("shop.add", [1, 2], expires=0.05, reply="none")
    until(lambda: ready(shop, DEAD) == 1)
    (row,) = rows(vhost_url, "--cause", "expired")
    assert (row["by"], row["queue"], row["task"]) == ("broker", "default", "shop.add")
    assert row["age_seconds"] is not None

    stayed = dlq(vhost_url, "requeue", "--all", code=3)
    assert "its expiry has passed" in stayed.stderr
    assert ready(shop, DEAD) == 1

    dlq(vhost_url, "requeue", "--all", "--expired")
    worker = start_worker("-c", "1")
    until(lambda: ready(shop, DEAD) == 1)
    assert [row["by"] for row in rows(vhost_url)] == ["worker"]
    assert worker.stop() == 0

    assert "--yes" in dlq(vhost_url, "drop", "--cause", "expired", code=1).stderr
    assert dlq(vhost_url, "drop", "--cause", "expired", "--dry-run").stdout == "would drop 1 dead letter\n"
    assert dlq(vhost_url, "drop", "--cause", "expired", "--yes").stdout == "dropped 1 dead letter\n"
    assert ready(shop, DEAD) == 0


def test_looking_searching_and_dry_runs_change_nothing(shop: App, vhost_url: str) -> None:
    """After them the queue holds the same messages in the same order."""
    park(shop, 40)
    order = [row["id"] for row in rows(vhost_url)]
    assert order == [f"n{number}" for number in range(40)]
    found = dlq(vhost_url, "search", "NUMBER 17").stdout.splitlines()
    assert len(found) == 2
    assert found[1].split()[0] == "n17"
    assert "would send back 40 dead letters: 40 to default" in dlq(vhost_url, "requeue", "--all", "--dry-run").stdout
    dlq(vhost_url, "show", "n3")
    assert "no dead letter with id 'zz'" in dlq(vhost_url, "show", "zz", "--scan", "10", code=1).stderr
    assert "looked at 10 of 40" in dlq(vhost_url, "list", "--scan", "10").stderr
    assert [row["id"] for row in rows(vhost_url)] == order


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("requeue",), "name what is meant"),
        (("drop", "--yes"), "name what is meant"),
        (("requeue", "--all", "--task", "x"), "--all means every dead letter"),
        (("requeue", "--all", "--rate", "fast"), "10/s, 100/m or 1/h"),
        (("requeue", "--all", "--rate", "0"), "above zero"),
        (("list", "--queue", "nowhere"), "nowhere"),
        (("list", "--older-than", "long"), "not a duration"),
    ],
)
def test_a_mistake_is_said_and_nothing_is_done(
    shop: App, vhost_url: str, arguments: tuple[str, ...], words: str
) -> None:
    """Each of them ends with exit code 1 and says what to write."""
    park(shop, 1)
    assert words in " ".join(dlq(vhost_url, *arguments, code=1).stderr.split())
    assert ready(shop, DEAD) == 1


def test_what_a_stranger_wrote_does_not_reach_the_terminal(shop: App, vhost_url: str) -> None:
    """Escape sequences and line breaks in headers are made harmless."""
    headers = {"id": "e\x1b[31m", "task": "a\nb", "amqpq-cause": "failed", "amqpq-reason": "\x1b]0;title\x07"}
    publish(shop, [Publication("", DEAD, b"", Properties(headers=headers))])
    said = dlq(vhost_url, "list").stdout + dlq(vhost_url, "show", "e\x1b[31m").stdout
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "unsigned" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.timeout(400)
def test_a_tool_that_is_stopped_in_the_middle_loses_and_doubles_nothing(
    shop: App, vhost_url: str, until: Until, number: signal.Signals
) -> None:
    """It ends between two steps; run again, it goes on with the rest."""
    park(shop, 300)
    process = _requeueing(vhost_url, "100/s")
    until(lambda: ready(shop, "default") > 20, "something sent back")
    process.send_signal(number)
    _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert "interrupted" in said
    until(lambda: ready(shop, "default") + ready(shop, DEAD) == 300)
    assert 0 < ready(shop, DEAD) < 300
    go_on(shop, vhost_url, 300, until)
    assert ready(shop, DEAD) == 0


@pytest.mark.timeout(400)
def test_a_tool_that_is_killed_in_the_middle_loses_and_doubles_nothing(shop: App, vhost_url: str, until: Until) -> None:
    """The next run finishes what was under way, and goes on."""
    park(shop, 300)
    process = _requeueing(vhost_url, "200/s")
    until(lambda: ready(shop, "default") > 20, "something sent back")
    process.kill()
    process.communicate(timeout=DEADLINE_SECONDS)
    go_on(shop, vhost_url, 300, until)
    back = [row["id"] for row in rows(vhost_url, "--queue", "default", "--limit", "1000")]
    assert sorted(back) == sorted(f"n{number}" for number in range(300))
    assert ready(shop, DEAD) == ready(shop, "shop.returning") == 0


def go_on(shop: App, url: str, count: int, until: Until) -> None:
    """Type the command again until everything is back: mostly once, and once more if the broker was slow to see a tool's end."""

    def again() -> bool:
        dlq(url, "requeue", "--all")
        until(lambda: ready(shop, "default") >= count or ready(shop, "shop.returning"), seconds=STALL_SECONDS)
        return ready(shop, "default") == count

    until(again, "everything is back", STALL_SECONDS)


def _requeueing(url: str, rate: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "amqpq", "dlq", "requeue", "--all", "--rate", rate],
        cwd=APPS,
        env=worker_environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("typed", "left"), [(b"n\n", 3), (b"y\n", 0)])
def test_dropping_asks_on_a_terminal(shop: App, vhost_url: str, typed: bytes, left: int) -> None:
    """No is no: everything stays. Yes drops what was counted."""
    park(shop, 3)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "dlq", "drop", "--all"],
            cwd=APPS,
            env=worker_environment(vhost_url),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(ours, typed)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Drop 3 dead letters for good?" in said
    assert ready(shop, DEAD) == left
