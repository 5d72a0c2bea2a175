"""Faults of the network between workers, producers and the broker."""

from __future__ import annotations

import threading
from typing import Final

from tests.faults.scene import Row, Scene
from tests.faults.wirecuts import CutPlan, boundaries, middles

MORE_SECONDS: Final = 60.0
NOTICE_SECONDS: Final = 30.0
COUNTS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30)
"""Frames after which a connection breaks: all of the handshake, subscribing, and the traffic."""
OFFSETS: Final = (1, 3, 7, 8, 12, 40)
"""Bytes into the next frame: its head is 7."""
BYTES_PER_SECOND: Final = 150_000.0
LATENCY_SECONDS: Final = 0.02
SLOW_SECONDS: Final = 5.0
LOST: Final = r"connection for (consuming|publishing) lost"


def cut(scene: Scene) -> None:
    """Break connection after connection, each at the next place of the list."""
    plan: CutPlan = scene.gates
    plan.begin()
    for way in scene.ways:
        way.cut()
    scene.struck()
    for _ in plan.cuts:
        scene.traffic.extend(40)
        if not plan.next_fired(NOTICE_SECONDS):
            break
        scene.struck()
    plan.end()
    scene.notes.append(f"{plan.fired} of {len(plan.cuts)} places")
    if plan.fired < len(plan.cuts) // 2:
        raise TimeoutError(f"only {plan.fired} of {len(plan.cuts)} cuts happened")


def stall(scene: Scene) -> None:
    """Forward nothing until every worker has noticed by its heartbeats; then everything, late."""
    _until_lost(scene, lambda: [way.stall() for way in scene.ways])
    for way in scene.ways:
        way.resume()


def half_open(scene: Scene) -> None:
    """Swallow what the present connections carry, for ever; new ones work."""
    _until_lost(scene, lambda: [way.swallow() for way in scene.ways])


def _until_lost(scene: Scene, begin: object) -> None:
    hands = scene.crew.at_work
    before = [hand.count(LOST) for hand in hands]
    if callable(begin):
        begin()
    scene.struck()
    for hand, count in zip(hands, before, strict=True):
        hand.says(LOST, count + 1, NOTICE_SECONDS)  # both of its connections


def slow(scene: Scene) -> None:
    """Make the line long and thin for a while."""
    for way in scene.ways:
        way.slow(BYTES_PER_SECOND, LATENCY_SECONDS)
    scene.struck()
    threading.Event().wait(SLOW_SECONDS)
    for way in scene.ways:
        way.slow(0)


ROWS: Final = (
    Row(
        "cut-between-frames",
        "connections break exactly at frame boundaries, of both directions, from the first frame on",
        cut,
        workers=1,
        producers=True,
        gates=lambda: CutPlan(boundaries(COUNTS)),
    ),
    Row(
        "cut-inside-frames",
        "connections break in the head and in the payload of frames, of both directions",
        cut,
        workers=1,
        producers=True,
        gates=lambda: CutPlan(middles(COUNTS, OFFSETS)),
    ),
    Row("stall", "nothing passes until the heartbeats are missed; then all of it, late", stall, producers=True),
    Row("half-open", "what the present connections carry is swallowed without a word", half_open, producers=True),
    Row(
        "slow-link",
        f"{BYTES_PER_SECOND / 1000:g} kB/s and {LATENCY_SECONDS * 1000:g} ms a piece, for {SLOW_SECONDS:g} s",
        slow,
        workers=0,
    ),
)
