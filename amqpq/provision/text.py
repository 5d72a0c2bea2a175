"""How a plan is printed: for people line by line, for machines as JSON. Pure; no secret is part of either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from amqpq.provision.changes import APPLIED, Action, Change, Detail
from amqpq.provision.plan import FORMAT, Plan
from amqpq.topology import versions

_COUNTED: Final = (
    ("add", (Action.CREATE,)),
    ("change", (Action.CHANGE,)),
    ("remove", (Action.DELETE,)),
    ("change by policy", (Action.POLICY,)),
    ("migrate", (Action.MIGRATE,)),
    ("replace", (Action.REPLACE,)),
    ("blocked", (Action.MISSING, Action.FORBIDDEN, Action.ADMIN)),
    ("foreign", (Action.FOREIGN,)),
    ("unknown", (Action.UNKNOWN,)),
)

INDENT: Final = "      "


def heading(plan: Plan) -> str:
    """Return the first line: which project, where, and how it was looked at."""
    environment = f" env={plan.environment}" if plan.environment else ""
    return (
        f"amqpq plan  project={plan.project}{environment} vhost={plan.vhost}  broker={versions.show(plan.version)} "
        f"observed={plan.level}  serial={plan.serial}"
    )


def lines(plan: Plan, *, infos: bool = True) -> Iterator[str]:
    """Return the plan for people; without `infos` what makes no difference is left out."""
    yield heading(plan)
    for change in plan.changes:
        if infos or change.action is not Action.INFO:
            yield from _change(change)
    for problem in plan.problems:
        yield f"  ! check      {problem}"
    for warning in plan.warnings:
        yield f"  ? check      {warning}"
    yield summary(plan)


def _change(change: Change) -> Iterator[str]:
    told = change.action in {Action.ADMIN, Action.FOREIGN}  # the reason says it all
    head, *rest = (
        [""] if told else [_detail(detail) for detail in change.details if detail.action is change.action] or [""]
    )
    others = [] if told else [_detail(detail) for detail in change.details if detail.action is not change.action]
    note = "; ".join(part for part in (head if not change.because else "", change.because, _counts(change)) if part)
    yield f"  {change.mark} {change.kind:<10} {change.name}{f'  {note}' if note else ''}"
    for line in [*([head] if change.because and head else []), *rest, *others]:
        yield f"{INDENT}{line}"
    if change.remedy and change.action not in APPLIED:
        yield f"{INDENT}-> {change.remedy}"


def _detail(detail: Detail) -> str:
    note = f"  ({detail.note})" if detail.note else ""
    return f"{detail.key} {_shown(detail.before)} -> {_shown(detail.after)}{note}"


def _counts(change: Change) -> str:
    counted = ((change.ready, "ready"), (change.unacknowledged, "unacked"), (change.consumers, "consumers"))
    return ", ".join(f"{number} {word}" for number, word in counted if number)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return repr(value) if isinstance(value, str) and (not value or value.isdigit()) else str(value)


def summary(plan: Plan) -> str:
    """Return the last line; "no changes" only where everything could be seen."""
    parts = [
        f"{count} {'to ' if word in {'add', 'change', 'remove', 'change by policy', 'migrate', 'replace'} else ''}{word}"
        for word, actions in _COUNTED
        if (count := len(plan.of(*actions)))
    ]
    text = ", ".join(parts) if parts else "no changes"
    return f"Plan: {text}.   Messages that may be lost by this plan: {plan.may_lose}"


def document(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON: to be read by machines, kept with --out, and compared by an apply."""
    return {
        "format_version": FORMAT,
        "serial": plan.serial,
        "project": plan.project,
        "environment": plan.environment,
        "topology_hash": plan.target,
        "plan_hash": plan.fingerprint,
        "observed": {
            "level": plan.level,
            "vhost": plan.vhost,
            "broker": ".".join(str(part) for part in plan.version),
            "cluster": plan.cluster,
            "hashes": dict(plan.hashes),
        },
        "outcome": plan.outcome,
        "changes": [_facts(change) for change in plan.changes],
        "steps": [{"operation": step.operation, "name": step.name} for step in plan.steps],
        "unknown": [change.address for change in plan.of(Action.UNKNOWN)],
        "problems": list(plan.problems),
        "warnings": list(plan.warnings),
        "loss_budget": plan.may_lose,
    }


def _facts(change: Change) -> dict[str, Any]:
    return {
        "address": change.address,
        "kind": change.kind,
        "name": change.name,
        "action": change.action.value,
        "details": [asdict(detail) for detail in change.details],
        "because": change.because,
        "remedy": change.remedy,
        "risk": change.risk,
        "ready": change.ready,
        "unacknowledged": change.unacknowledged,
        "consumers": change.consumers,
    }
