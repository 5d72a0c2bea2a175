"""Faults of processes: workers, their children, the broker."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

from tests.faults.crew import Hand
from tests.faults.scene import CONCURRENCY, Column, Row, Scene

MORE_SECONDS: Final = 60.0
CHILD_KILLS: Final = 4
BETWEEN: Final = 60
"""Results between two strikes of the same fault."""
GORGERS: Final = ("gorge1", "gorge2", "gorge3")
STARVERS: Final = ("starve1", "starve2", "starve3")


def kill_worker(scene: Scene) -> None:
    """Kill one, and start another, as a supervisor does."""
    scene.crew.at_work[0].kill()
    scene.struck()
    scene.crew.hire()
    scene.crew.ready()


def kill_children(scene: Scene) -> None:
    """Kill one child after the other, of both workers in turn."""
    for turn in range(CHILD_KILLS):
        hand = scene.crew.at_work[turn % len(scene.crew.at_work)]
        os.kill(hand.children()[0], signal.SIGKILL)
        scene.struck()
        scene.traffic.more(BETWEEN, MORE_SECONDS)


def kill_templates(scene: Scene) -> None:
    """Kill the process that forks a worker's children, of both workers: its forks go on, so nothing at all may run twice."""
    for hand in scene.crew.at_work:
        _lose_template(hand)
        scene.struck()
        scene.traffic.more(BETWEEN, MORE_SECONDS)


def kill_templates_and_children(scene: Scene) -> None:
    """Kill both templates, then each of their forks, and of each worker one of those that came instead.

    Nobody is there to fork: each is started anew. That it is there is not enough, it has to work.
    """
    forks = {hand.name: _lose_template(hand) for hand in scene.crew.at_work}
    for hand in scene.crew.at_work:
        first, *others = forks[hand.name]
        newcomer = _replaced(scene, hand, first)
        for pid in (*others, newcomer):
            _replaced(scene, hand, pid)


def _lose_template(hand: Hand) -> list[int]:
    """Kill the template of a worker; return its forks, which are nobody's that could be asked for them from now on."""
    template, forks = hand.template(), hand.children()
    if template is None or len(forks) != CONCURRENCY:
        raise AssertionError(f"worker {hand.name} has {len(forks)} children, and their template is {template}")
    hand.family.add([template, *forks])
    os.kill(template, signal.SIGKILL)
    return forks


def _replaced(scene: Scene, hand: Hand, pid: int) -> int:
    """Kill a child; return the one that comes instead, when it has begun a task. There is traffic until then."""
    known = hand.children()
    os.kill(pid, signal.SIGKILL)
    scene.struck()
    deadline = time.monotonic() + MORE_SECONDS
    while not (working := [new for new in hand.children() if new not in known and new in scene.at_work]):
        if time.monotonic() > deadline or not hand.alive:
            raise TimeoutError(f"no new child of worker {hand.name} works")
        scene.traffic.extend(BETWEEN)
        scene.traffic.more(BETWEEN, MORE_SECONDS)
    return working[0]


def exhaust_children(scene: Scene) -> None:
    """Send tasks that take memory until they are killed, and tasks that meet the limit of their process."""
    for gorger, starver in zip(GORGERS, STARVERS, strict=True):
        scene.traffic.send("faults.gorge", gorger)
        scene.traffic.send("faults.starve", starver)
        scene.struck()
    scene.traffic.extend(2 * BETWEEN)
    scene.traffic.more(BETWEEN, MORE_SECONDS)


def kill_broker(scene: Scene) -> None:
    """Kill it, and start it on what it left behind."""
    node = scene.server.nodes[0]
    node.kill()
    scene.struck()
    node.start()


def restart_broker(scene: Scene) -> None:
    """Stop it in order, and start it."""
    scene.struck()
    scene.server.nodes[0].restart()


MEMORY_ON: Final = ("set_vm_memory_high_watermark", "absolute", "1000")
MEMORY_OFF: Final = ("set_vm_memory_high_watermark", "0.4")
DISK_ON: Final = ("set_disk_free_limit", "1000000GB")
DISK_OFF: Final = ("set_disk_free_limit", "50MB")
ALARM_SECONDS: Final = 7.0
"""More than three heartbeats."""


def memory_alarm(scene: Scene) -> None:
    """Set the limit below what is used, and back."""
    _alarm(scene, MEMORY_ON, MEMORY_OFF)


def disk_alarm(scene: Scene) -> None:
    """Ask for more free space than there is, and no more."""
    _alarm(scene, DISK_ON, DISK_OFF)


def _alarm(scene: Scene, on: tuple[str, ...], off: tuple[str, ...]) -> None:
    node = scene.server.nodes[0]
    pause = threading.Event()
    node.ctl(*on)
    try:
        deadline = time.monotonic() + MORE_SECONDS
        while not scene.traffic.producing.link.connection(10.0).blocked:
            if time.monotonic() > deadline:
                raise TimeoutError("the broker did not block the producers")
            pause.wait(0.05)
        scene.struck()
        pause.wait(ALARM_SECONDS)
    finally:
        node.ctl(*off)


def _prefork(column: Column) -> bool:
    return column.pool == "prefork"


def _has_children(column: Column) -> bool:
    return column.pool not in {"threads", "solo"}


ROWS: Final = (
    Row("worker-kill", "kill -9 of one of two workers; another one starts", kill_worker, workers=1),
    Row(
        "child-kill",
        f"kill -9 of {CHILD_KILLS} children, one after the other",
        kill_children,
        workers=1,
        fits=_has_children,
    ),
    Row(
        "template-kill",
        "kill -9 of the process that children are forked from, of both workers",
        kill_templates,
        workers=0,
        fits=_prefork,
    ),
    Row(
        "template-child-kill",
        "kill -9 of that process, then of each child, then of one that came instead",
        kill_templates_and_children,
        workers=1,
        fits=_prefork,
    ),
    Row(
        "child-memory",
        "three children killed as the kernel kills for memory, three that get no more memory",
        exhaust_children,
        workers=1,
        fits=_prefork,
        parked={"failed": len(STARVERS)},
        fails=STARVERS,
    ),
    Row("broker-kill", "kill -9 of the broker, and a restart", kill_broker, producers=True),
    Row("broker-restart", "the broker stops in order, and starts again", restart_broker, producers=True),
    Row(
        "memory-alarm",
        f"the memory alarm blocks all who publish for {ALARM_SECONDS:g} s",
        memory_alarm,
        producers=True,
    ),
    Row(
        "disk-alarm",
        f"the disk alarm blocks all who publish for {ALARM_SECONDS:g} s",
        disk_alarm,
        producers=True,
    ),
)
