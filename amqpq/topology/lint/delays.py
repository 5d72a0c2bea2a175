"""Delays: a ladder that makes sense, and whose names nobody else uses."""

from __future__ import annotations

from typing import Final

from amqpq.topology import delays
from amqpq.topology.lint.context import Context
from amqpq.topology.units import duration_text

SHORTEST_SECONDS: Final = 0.001
"""The broker counts in milliseconds."""
LONGEST_SECONDS: Final = 10 * 365 * 86400
"""The longest time to live that the broker takes (rabbit_misc:check_expiry)."""
REPLY_SECONDS: Final = 4_294_967
"""How long a reply queue can wait: `x-expires` is a number of milliseconds below 2**32."""


def check(context: Context) -> None:
    """Run the rules on delays."""
    _sizes(context)
    _names(context)


def _sizes(context: Context) -> None:
    findings, part = context.findings, context.file.delays
    if ("delays", "unit") in findings.unknown or ("delays", "max") in findings.unknown:
        return
    whole = abs(part.unit * 1000 - round(part.unit * 1000)) < 1e-6  # noqa: PLR2004 - floats of milliseconds
    if part.unit < SHORTEST_SECONDS or not whole:
        message = (
            f"delays.unit: {part.unit * 1000:g} ms is no whole number of milliseconds, which is what the broker counts"
        )
        findings.error(("delays", "unit"), "TOP052", message, "write 125ms, 1s, ...")
        return
    if part.max < part.unit:
        message = f"delays.max ({duration_text(part.max)}) is shorter than delays.unit ({duration_text(part.unit)})"
        findings.error(("delays", "max"), "TOP052", message, "make it longer, or the unit finer")
    elif part.max > LONGEST_SECONDS:
        findings.error(
            ("delays", "max"), "TOP052", "the broker lets a message wait ten years at most", "make it shorter"
        )
    elif (levels := delays.digit_count(delays.units_of(part.max, part.unit))) > delays.LEVELS_LIMIT:
        message = f"from {duration_text(part.unit)} to {duration_text(part.max)} takes {levels} levels of seven queues"
        findings.error(("delays", "unit"), "TOP052", message, f"at most {delays.LEVELS_LIMIT}: a coarser unit, or less")
    elif context.topology.delays is not None and part.max > REPLY_SECONDS and context.topology.replies.mode == "task":
        message = "a reply queue can wait seven weeks at most, so a task with a longer delay cannot have one"
        findings.warning(("delays", "max"), "TOP052", message, "such calls need reply='none'")


def _names(context: Context) -> None:
    rungs = delays.ladder(context.topology)
    for section, taken in (
        ("exchanges", {exchange.name for exchange in rungs.exchanges}),
        ("queues", {queue.name for queue in rungs.queues}),
    ):
        for name in getattr(context.file, section):
            if name in taken:
                message = f"'{name}' would collide with the delay ladder of project '{context.topology.project}'"
                context.findings.error((section, name), "TOP011", message, "name it differently")
