"""Hand-written policies: what they match, which keys the broker takes, and whether what they say can hold."""

from __future__ import annotations

import re
from typing import Any, Final

from amqpq.topology import versions
from amqpq.topology.document import PolicyPart
from amqpq.topology.effective import APPLY_TO, TYPED_SINCE, UNSUPPORTED, is_generated, rule_of
from amqpq.topology.lint import effective, settings
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Exchange, Queue, did_you_mean
from amqpq.topology.problems import Path

PATTERN_LIMIT: Final = 1024
"""Characters of a pattern (rabbit_policy, from 4.3 on)."""

_STRANGERS: Final = ("zz-other-project.zz", "0")
"""Names nobody has; a pattern that matches them matches everything."""

_KINDS: Final = {apply_to: (kind,) for kind, apply_to in APPLY_TO.items()}
UNLIMITED_SINCE: Final = (4, 0, 0)
"""The first version that takes a delivery-limit of -1 in a policy (measured on 3.10.8 and 4.0.5)."""


def check(context: Context) -> None:
    """Run the rules on policies."""
    things = list(effective.objects(context)) if context.file.policies else []
    matched: dict[str, list[Queue | Exchange]] = {}
    _band(context)
    for name, policy in context.file.policies.items():
        if is_generated(context.topology.project, name):
            message = f"'{name}' is what a generated policy would be called"
            context.findings.error(("policies", name), "TOP011", message, "name it differently")
        if _pattern(context, name, policy):
            built = context.topology.policies[name]
            matched[name] = [thing for thing in things if effective.matches(built, thing)]
            _reach(context, name, policy, matched[name])
            _escaping(context, name, policy)
        _keys(context, name, policy)
        _unsupported(context, name, policy, matched.get(name, []))
    _overlapping(context, matched)
    _without_effect(context)


def _band(context: Context) -> None:
    band = context.file.policy_band
    if band.from_ > band.to:
        message = f"no priority is left for generated policies from {band.from_} to {band.to}"
        context.findings.error(("policy_band",), "TOP058", message, "write the lower one as `from`")


def _pattern(context: Context, name: str, policy: PolicyPart) -> bool:
    """Check a pattern; False where nothing can be said about what it matches."""
    path: Path = ("policies", name, "pattern")
    if len(policy.pattern) > PATTERN_LIMIT:
        message = f"the pattern of the policy '{name}' has more than {PATTERN_LIMIT} characters"
        context.findings.error(path, "TOP059", message, "name the objects alike, or write several policies")
        return False
    try:
        return effective.compiled(policy.pattern) is not None
    except re.error as error:
        message = f"'{policy.pattern}' is no regular expression: {error}"
        context.findings.error(path, "TOP059", message, "write e.g. '^web\\.'")
        return False


def _reach(context: Context, name: str, policy: PolicyPart, matched: list[Queue | Exchange]) -> None:
    path: Path = ("policies", name, "pattern")
    pattern = effective.compiled(policy.pattern)
    generated = [thing.name for thing in matched if thing.generated and "delay." in thing.name]
    if pattern is not None and all(pattern.search(stranger) for stranger in _STRANGERS):
        message = f"the policy '{name}' matches every name in the virtual host, other projects' too"
        context.findings.warning(path, "TOP059", message, "begin the pattern with ^ and what the names begin with")
    elif not policy.pattern.startswith(("^", r"\A")):
        message = f"the pattern '{policy.pattern}' is found anywhere in a name, since it does not begin with ^"
        context.findings.warning(path, "TOP059", message, "begin it with ^")
    elif not matched:
        kinds = "" if policy.apply_to == "all" else f" among {policy.apply_to}"
        message = f"the policy '{name}' matches nothing of this file{kinds}"
        context.findings.warning(path, "TOP059", message, "is it a typo?")
    if generated:
        message = f"the policy '{name}' matches queues of the delay ladder, '{generated[0]}' among them"
        context.findings.warning(path, "TOP059", message, "leave them out: what it changes there, delayed tasks feel")


def _escaping(context: Context, name: str, policy: PolicyPart) -> None:
    for known in (*context.file.queues, *context.file.exchanges):
        if re.escape(known) != known and "." in known and known in policy.pattern:
            message = f"in the pattern '{policy.pattern}' the dots of '{known}' stand for any character"
            remedy = f"write '{policy.pattern.replace(known, known.replace('.', chr(92) + '.'))}'"
            context.findings.warning(("policies", name, "pattern"), "TOP010", message, remedy)
            return


def _keys(context: Context, name: str, policy: PolicyPart) -> None:
    findings, lowest = context.findings, context.lowest
    for key in policy.definition:
        path: Path = ("policies", name, "definition", key)
        since = settings.POLICY_SINCE.get(key)
        if key not in settings.POLICY_KEYS:
            near = did_you_mean(key.removeprefix("x-"), settings.POLICY_KEYS)
            message = f"no policy has a key '{key}'{near}: the broker refuses the policy"
            add = findings.error if near else findings.warning  # a plugin may bring keys of its own
            add(path, "TOP057", message, "" if near else "unless a plugin knows it, remove it")
        elif key.startswith("ha-"):
            message = f"RabbitMQ 4.0 has no mirrored queues any more: {key} does nothing there"
            findings.warning(path, "TOP032", message, "use quorum queues")
        elif since is not None and lowest < since:
            message = f"policies have {key} from RabbitMQ {versions.show(since)} on, and the file is for {versions.show(lowest)}"
            findings.error(path, "TOP033", message, f"require >={versions.show(since)}, or remove it")
        elif key == "delivery-limit" and policy.definition[key] == -1 and lowest < UNLIMITED_SINCE:
            message = f"RabbitMQ before 4.0 refuses a policy with delivery-limit: -1, and the file is for {versions.show(lowest)}"
            findings.error(path, "TOP033", message, "write a positive limit, or require >=4.0")
    for key, fault in settings.faults(policy.definition).items():
        message = f"{key}: {policy.definition[key]!r} {fault}"
        findings.error(("policies", name, "definition", key), "TOP041", message)
    if policy.apply_to in _KINDS and lowest < TYPED_SINCE:
        message = (
            f"RabbitMQ before 3.12 knows no policy for {policy.apply_to}, and the file is for {versions.show(lowest)}"
        )
        findings.error(("policies", name, "apply_to"), "TOP033", message, "write queues, or require >=3.12")


def _unsupported(context: Context, name: str, policy: PolicyPart, matched: list[Queue | Exchange]) -> None:
    """Find keys because of which the broker ignores the policy as a whole."""
    kinds: dict[str, str] = {kind: f"{kind} queues" for kind in _KINDS.get(policy.apply_to, ())}
    kinds |= {thing.type: f"the {thing.type} queue '{thing.name}'" for thing in matched if isinstance(thing, Queue)}
    for kind, what in kinds.items():
        for key in sorted(UNSUPPORTED[kind] & policy.definition.keys()):
            message = f"{what} cannot have {key}, so the broker ignores the whole policy '{name}' there"
            remedy = "write one policy for each type of queue, with apply_to"
            context.findings.error(("policies", name, "definition", key), "TOP057", message, remedy)


def _overlapping(context: Context, matched: dict[str, list[Queue | Exchange]]) -> None:
    policies = context.file.policies
    names = list(matched)
    for index, name in enumerate(names):
        for other in names[:index]:
            common = {(type(thing), thing.name) for thing in matched[other]}
            both = next((thing for thing in matched[name] if (type(thing), thing.name) in common), None)
            if both is None:
                continue
            kind = "exchange" if isinstance(both, Exchange) else "queue"
            if policies[name].priority == policies[other].priority:
                message = f"'{name}' and '{other}' have the same priority, and both match the {kind} '{both.name}'"
                context.findings.error(("policies", name), "TOP058", message, "give them different priorities")
                continue
            low, high = sorted((name, other), key=lambda each: policies[each].priority)
            lost = policies[low].definition.keys() - policies[high].definition.keys()
            if lost:
                what = ", ".join(sorted(lost))
                message = f"for the {kind} '{both.name}' only '{high}' applies: what '{low}' says ({what}) is lost"
                context.findings.warning(("policies", low), "TOP058", message, f"write it into '{high}', too")


def _without_effect(context: Context) -> None:
    """Find what a policy says in vain, because the queue itself says otherwise."""
    if not context.file.policies:
        return
    told: set[tuple[str, str]] = set()
    for found in effective.settings(context):
        if found.policy is None:
            continue
        definition: dict[str, Any] = dict(context.file.policies[found.policy].definition)
        for key, value in definition.items():
            said = found.arguments.get(key)
            if said is None or found.values[key] == value or (found.policy, key) in told:
                continue
            told.add((found.policy, key))
            which = (
                "the lesser value counts" if rule_of(found.queue.type, key) == "least" else "what the queue says counts"
            )
            message = f"the policy says {key}: {value!r}, and the queue '{found.queue.name}' itself {said!r}; {which}"
            path = ("policies", found.policy, "definition", key)
            context.findings.error(path, "TOP061", message, "say it in one place")
