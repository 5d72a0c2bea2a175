"""Schedules: cron fields and zones that mean something, and tasks that can be sent without their caller."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from amqpq.errors import LocalError, NoRoute
from amqpq.topology.document import SchedulePart
from amqpq.topology.lint.context import Context
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Path

FIELDS: Final = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
"""The five fields of cron: name, least and greatest value, names from the least value on."""

_PART = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?")
_TWICE: Final = ({1}, {2}, {1, 2})
"""Hours of the clock that a change of it skips or repeats in nearly all zones that have one."""


def check(context: Context, *, whole: bool) -> None:
    """Run the rules on schedules; where the wiring is not whole, only those on when they run."""
    for name, part in context.file.schedule.items():
        path: Path = ("schedule", name)
        if not any(unknown[:2] == path for unknown in context.findings.unknown):
            _when(context, path, part)
            if whole:
                _what(context, path, part)


def _when(context: Context, path: Path, part: SchedulePart) -> None:
    error = context.findings.error
    if (part.cron is None) == (part.every is None):
        what = "neither cron nor every" if part.cron is None else "both cron and every"
        error(
            path, "TOP079", f"the schedule '{path[1]}' says {what}", 'write one: `cron: "15 2 * * *"` or `every: 10s`'
        )
        return
    known = _zone(part.zone)
    if not known:
        near = did_you_mean(part.zone, available_timezones())
        error(
            (*path, "zone"),
            "TOP079",
            f"there is no time zone '{part.zone}'{near}",
            "" if near else "write Europe/Berlin",
        )
    if part.cron is None:
        return
    fault = cron_fault(part.cron)
    if fault:
        error((*path, "cron"), "TOP079", f"'{part.cron}' {fault}", 'write five fields: "15 2 * * *"')
    elif known and _changes(part.zone) and _hours(part.cron) in _TWICE:
        message = f"in {part.zone} the hour of '{part.cron}' is there twice or not at all on two days of the year"
        context.findings.info((*path, "cron"), "TOP079", message, "choose another hour, or `zone: UTC`")


def _what(context: Context, path: Path, part: SchedulePart) -> None:
    try:
        context.topology.route_for(part.task).routing_key(part.task, part.kwargs)
    except NoRoute as error:
        context.findings.error((*path, "task"), "TOP013", str(error))
    except LocalError as error:
        context.findings.error((*path, "task"), "TOP079", str(error), "add it under `kwargs:`")


def _zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _changes(zone: str) -> bool:
    """Whether the clock of a zone is changed within a year; any year shows it."""
    offsets = {datetime(2026, month, 1, tzinfo=ZoneInfo(zone)).utcoffset() for month in (1, 4, 7, 10)}
    return len(offsets) > 1


def _hours(cron: str) -> set[int]:
    text = cron.split()[1]
    return {int(part) for part in text.split(",") if part.isdigit()} if text.replace(",", "").isdigit() else set()


def cron_fault(text: str) -> str:
    """Return what is wrong with five cron fields, or nothing."""
    fields = text.split()
    if len(fields) != len(FIELDS):
        return f"has {len(fields)} fields, and cron has five: minute, hour, day of month, month, day of week"
    for field, (name, least, most, names) in zip(fields, FIELDS, strict=True):
        for part in field.split(","):
            if not _fits(part, least, most, names):
                return f"has '{part}' for the {name}, which is {least} to {most}"
    return ""


def _fits(part: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    match = _PART.fullmatch(part)
    if match is None or match["step"] == "0" or (match["low"] == "*" and match["high"] is not None):
        return False
    if match["low"] == "*":
        return True
    ends = [_value(word, least, names) for word in (match["low"], match["high"]) if word is not None]
    return all(least <= value <= most for value in ends) and ends == sorted(ends)


def _value(word: str, least: int, names: tuple[str, ...]) -> int:
    if word.isdigit():
        return int(word)
    return names.index(word.lower()) + least if word.lower() in names else -1
