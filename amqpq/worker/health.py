"""What a worker says of its health, and where. Pure: the newest `Vitals` in, an answer out.

* `/livez`: whether it is of any use to wait for this process. 503 where its loop has not turned for `STALE_SECONDS`; then
  nothing but a restart helps. A broker that is away is no reason: the worker is waiting for it.
* `/readyz`: whether it does its work: connected, pool complete, every queue consumed, not stopping.
* `/health`: both, and how everything is, as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from amqpq.worker.vitals import Member, Vitals

STALE_SECONDS: Final = 10.0
"""The loop turns every second, and nothing that it does takes ten; a machine under load may take two or three."""
START_SECONDS: Final = 120.0
"""Until the loop turns for the first time: finding a broker (30 s) and declaring the topology (60 s) come first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the endpoint says of a worker at one moment. `why` has a sentence for each thing that is wrong."""

    live: bool
    ready: bool
    why: tuple[str, ...] = ()


def judge(vitals: Vitals, now: float) -> Verdict:
    """Say whether a worker is alive and ready.

    Args:
        vitals: The newest.
        now: On the clock of `vitals.taken`.
    """
    age = now - vitals.taken
    allowed = START_SECONDS if vitals.stage == "starting" and vitals.queues is None else STALE_SECONDS
    why: list[str] = []
    if age > allowed:
        why.append(f"the worker's loop has not turned for {age:.0f} s")
    live = not why
    if vitals.stage != "working":
        why.append(f"the worker is {vitals.stage}")
    if not vitals.pool_ready:
        why.append("the pool is not complete yet")
    down = [purpose for purpose in ("consuming", "publishing") if getattr(vitals.connections, purpose) is None]
    why += [f"there is no connection for {purpose}" for purpose in down]
    why += [f"queue {queue} is not consumed" for queue, consumed in (vitals.queues or {}).items() if not consumed]
    return Verdict(live, live and vitals.consuming, tuple(why))


def answer(target: str, vitals: Vitals, now: float) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON for a request's path; a query behind it is of no meaning.

    Args:
        target: As it stands in the request line.
        vitals: The newest.
        now: On the clock of `vitals.taken`.
    """
    path = target.partition("?")[0]
    verdict = judge(vitals, now)
    words = {"worker": vitals.worker, "live": verdict.live, "ready": verdict.ready, "why": list(verdict.why)}
    if path == "/livez":
        return (200 if verdict.live else 503), words
    if path == "/readyz":
        return (200 if verdict.ready else 503), words
    if path == "/health":
        return (200 if verdict.live else 503), {**words, **describe(vitals, now)}
    return 404, {"error": f"there is no {path}; ask for /livez, /readyz or /health"}


def describe(vitals: Vitals, now: float) -> dict[str, Any]:
    """Return everything as plain data; ages and durations in seconds."""
    connections = {
        purpose: {"up": blocked is not None, "blocked": blocked or None}
        for purpose in ("consuming", "publishing")
        for blocked in [getattr(vitals.connections, purpose)]
    }
    return {
        "stage": vitals.stage,
        "loop_age_seconds": round(now - vitals.taken, 3),
        "connections": connections,
        "queues": {queue: {"consumed": consumed} for queue, consumed in (vitals.queues or {}).items()},
        "pool": {
            "name": vitals.pool,
            "ready": vitals.pool_ready,
            "size": len(vitals.members),
            "busy": sum(1 for member in vitals.members if member.number is not None),
            "members": [_member(member, vitals, now) for member in vitals.members],
        },
        "deliveries": {"held": vitals.held, "waiting": vitals.waiting},
        "counts": dict(vitals.counts or {}),
    }


def as_json(data: object) -> bytes:
    """Return the body of an answer."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _member(member: Member, vitals: Vitals, now: float) -> dict[str, Any]:
    running = (vitals.running or {}).get(member.number or 0)
    return {
        "name": member.name,
        "pid": member.pid,
        "alive": member.alive,
        "ready": member.ready,
        "busy_seconds": None if member.since is None else round(now - member.since, 3),
        "task": running.task if running else None,
        "task_id": running.id if running else None,
        "done": member.done,
    }
