"""The processes of a worker, as the system tells them."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = "amqpq template"
"""What the process calls itself from which the others of a prefork pool are forked."""


def pool_of(worker: int) -> list[int]:
    """Return the processes in which a worker's tasks run: its children, and those of the template instead of that itself."""
    return [
        pid for child in children_of(worker) for pid in (children_of(child) if name_of(child) == TEMPLATE else [child])
    ]


def template_of(worker: int) -> int | None:
    """Return the process from which a worker's children are forked, if there is one."""
    return next((child for child in children_of(worker) if name_of(child) == TEMPLATE), None)


def children_of(pid: int) -> list[int]:
    """Return the children of a process, the oldest first."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def name_of(pid: int) -> str:
    """Return what a process calls itself; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
