"""Further cases of rules that find more than one thing; the catalogue has one sample of each rule."""

from __future__ import annotations

import re
from typing import Any

import pytest

from amqpq.topology import inspect
from amqpq.topology.lint import catalogue, routing

SOUND: dict[str, Any] = {
    "amqpq": 1,
    "project": "p",
    "exchanges": {"t": {"type": "topic"}, "d": {}, "f": {"type": "fanout"}, "h": {"type": "headers"}},
    "queues": {"q": {}, "r": {}, "u": {"type": "quorum"}},
    "bindings": ["t[a.#] -> q", "d[k] -> q", "f -> r", {"from": "h", "to": "r", "headers": {"x": 1}}, "d[u] -> u"],
}
POLICY: dict[str, Any] = {"pattern": "^q$", "apply_to": "queues", "definition": {"max-length": 5}}


def policy(**changes: Any) -> dict[str, Any]:
    """Return a sound policy with changes."""
    return {"policies": {"x": {**POLICY, **changes}}}


def rights(**changes: str) -> dict[str, Any]:
    """Return permissions of one user, who may do what is needed, with changes."""
    return {"security": {"permissions": {"u": {"configure": "^$", "write": ".*", "read": ".*", **changes}}}}


def said(case: dict[str, Any]) -> list[str]:
    """Return all findings of the sound topology with `case` laid over it."""
    source = dict(SOUND)
    for name, section in case.items():
        if isinstance(section, dict):
            source[name] = {**SOUND.get(name, {}), **section}
        else:
            source[name] = [*SOUND.get(name, []), *section]
    problems = inspect(source, environ={}).problems
    for problem in problems:
        assert problem.severity in catalogue.rules()[problem.rule].severities, problem
    return [f"{each.rule} {each.severity}: {each.message}" for each in problems]


def test_the_sound_topology_is_sound() -> None:
    """Neither error nor warning, but of policies that are not built yet."""
    assert [text for text in said({}) if "info:" not in text] == []
    assert [text for text in said(policy()) if "info:" not in text and not text.startswith("TOP000")] == []


NEWER = {"requires": {"rabbitmq": ">=4.3.1"}}
RETRY = {"x-delayed-retry-type": "failed", "x-delayed-retry-min": 1000}
LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once"}

CASES: list[tuple[str, dict[str, Any]]] = [
    # names
    ("TOP011 error: 'q.g2' is what a migration would name another generation of 'q'", {"queues": {"q.g2": {}}}),
    (
        "TOP011 error: the queue 'r' was renamed to 'q', and the file still has it",
        {"moved": [{"from": "queue.r", "to": "queue.q"}]},
    ),
    ("TOP013 error: there is no queue 'qq'", {"moved": [{"from": "queue.old", "to": "queue.qq"}]}),
    (
        "TOP013 error: there is no queue 'mid'",
        {"moved": [{"from": "queue.old", "to": "queue.mid"}, {"from": "queue.mid", "to": "queue.q"}]},
    ),
    (
        "TOP011 error: 'queue.q' is renamed twice",
        {"moved": [{"from": "queue.old", "to": "queue.q"}, {"from": "queue.older", "to": "queue.q"}]},
    ),
    (
        "TOP011 error: 'exchange.old' is renamed twice",
        {"moved": [{"from": "exchange.old", "to": "exchange.t"}, {"from": "exchange.old", "to": "exchange.d"}]},
    ),
    (
        "TOP011 error: 'q.g2' and 'q' are what a migration would name generations of one queue",
        {"moved": [{"from": "queue.q.g2", "to": "queue.q"}]},
    ),
    (
        "TOP011 error: the queue 'p.dead' was renamed to 'q', and amqpq makes one of that name",
        {"moved": [{"from": "queue.p.dead", "to": "queue.q"}]},
    ),
    (
        "TOP011 error: 'old.in' is what the rename of the queue 'old' names an exchange",
        {"exchanges": {"old.in": {}}, "moved": [{"from": "queue.old", "to": "queue.q"}]},
    ),
    (
        r"TOP000 error: not built yet: renames of queues that take dead letters \(`moved`\)",
        {
            "queues": {"r": {"extra_arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}}},
            "moved": [{"from": "queue.old", "to": "queue.q"}],
        },
    ),
    (
        "TOP011 error: the queue 'old' is to go, and it was renamed to 'q'",
        {"decommission": {"queues": ["old"]}, "moved": [{"from": "queue.old", "to": "queue.q"}]},
    ),
    ("TOP001 error: 'queue.old' to 'exchange.t' is no rename", {"moved": [{"from": "queue.old", "to": "exchange.t"}]}),
    (
        "TOP063 warning: 't' belongs to somebody else",
        {"exchanges": {"t": {"manage": "verify"}}, "moved": [{"from": "exchange.o", "to": "exchange.t"}]},
    ),
    ("TOP011 error: the queue 'q' is to go, and the file still has it", {"decommission": {"queues": ["q"]}}),
    ("TOP011 error: the exchange 't' is to go, and the file still has it", {"decommission": {"exchanges": ["t"]}}),
    ("TOP007 error: names that begin with 'amq.' belong to the broker", {"decommission": {"exchanges": ["amq.topic"]}}),
    (
        r"TOP063 warning: 't' belongs to somebody else \(manage: verify\): it is not ours to delete",
        {"exchanges": {"t": {"type": "topic", "manage": "verify"}}, "decommission": {"exchanges": ["t"]}},
    ),
    ("TOP011 error: 'p.generations' is the stream", {"queues": {"p.generations": {}}}),
    ("TOP011 error: 'q.in' is what a migration would name an exchange before 'q'", {"exchanges": {"q.in": {}}}),
    (
        "TOP011 error: 'p.revocations' would collide",
        {"control": {"revocations": "1d"}, "queues": {"p.revocations": {}}},
    ),
    # rights
    ("TOP069 info: 'u' may declare and delete everything", rights(configure=".*")),
    (
        "TOP070 warning: none of the users may read the queue 'old', in which 'q' lives until it is migrated",
        {"moved": [{"from": "queue.old", "to": "queue.q"}], **rights(read="^(q|r|u)(\\.g[0-9]+)?$")},
    ),
    (
        r"TOP070 warning: none of the users may write to 'old\.in', by which producers reach 'q'",
        {
            "moved": [{"from": "queue.old", "to": "queue.q"}],
            "routes": {"x": {"queue": "q"}},
            **rights(write="^(t|amq.default)$"),
        },
    ),
    ("TOP069 info: 'u' may read 'q', but not 'q.g2', where a migration would move it", rights(read="^(q|r|u)$")),
    (
        "TOP070 warning: none of the users may write to 'amq.default'",
        {"routes": {"x": {"queue": "q"}}, **rights(write="^t$")},
    ),
    (
        "TOP070 warning: none of the users may read the queue 'q'",
        {"routes": {"x": {"exchange": "d", "key": "k"}}, **rights(read="^[ru]")},
    ),
    # routing
    (
        "TOP027 error: the key has more than 255 bytes",
        {"routes": {"x": {"exchange": "t", "key": "a." + "n" * 256 + "{n}"}}},
    ),
    (
        "TOP020 warning: what matches this binding is dropped in 'e'",
        {"exchanges": {"t": {"type": "topic", "unrouted": "f"}, "e": {}}, "bindings": ["t[b] -> e"]},
    ),
    ("TOP022 info: in '#.b' the '#' is not at the end", {"bindings": ["t[#.b] -> r"]}),
    (
        "TOP026 warning: the check sends x='1', and the binding to 'r' asks for 1",
        {"checks": [{"publish": {"exchange": "h", "headers": {"x": "1"}}, "reaches": []}]},
    ),
    # arguments
    ("TOP030 error: x-dead-letter-strategy is for quorum queues", {"queues": {"q": {"extra_arguments": LEAST_ONCE}}}),
    (
        "TOP030 error: x-initial-cluster-size is for stream queues",
        {"queues": {"q": {"extra_arguments": {"x-initial-cluster-size": 3}}}},
    ),
    (
        "TOP032 warning: RabbitMQ 4.3 does not look at x-queue-mode",
        {**NEWER, "queues": {"q": {"extra_arguments": {"x-queue-mode": "lazy"}}}},
    ),
    (
        "TOP032 error: RabbitMQ 4.3 refuses x-queue-version",
        {**NEWER, "queues": {"q": {"extra_arguments": {"x-queue-version": 1}}}},
    ),
    (
        "TOP033 error: quorum queues have x-delayed-retry-type from RabbitMQ 4.3 on, and the file is for 3.10",
        {"queues": {"u": {"type": "quorum", "extra_arguments": RETRY}}},
    ),
    (
        "TOP041 error: x-dead-letter-strategy: 'once' must be one of",
        {"queues": {"u": {"type": "quorum", "extra_arguments": {"x-dead-letter-strategy": "once"}}}},
    ),
    (
        r"TOP043 warning: RabbitMQ knows no argument x-dead-letter-strateg \(did you mean 'x-dead-letter-strategy'",
        {"queues": {"u": {"type": "quorum", "extra_arguments": {"x-dead-letter-strateg": "at-least-once"}}}},
    ),
    (
        "TOP033 error: classic queues have x-queue-leader-locator from RabbitMQ 4.3 on",
        {"queues": {"q": {"extra_arguments": {"x-queue-leader-locator": "balanced"}}}},
    ),
    (
        "TOP030 error: a stream takes no x-dead-letter-exchange",
        {"queues": {"s": {"type": "stream", "extra_arguments": {"x-dead-letter-exchange": "d"}}}},
    ),
    # dead letters
    (
        "TOP049 error: the dead letters of 'r' go to the exchange 'none', which the file does not have",
        {"queues": {"r": {"extra_arguments": {"x-dead-letter-exchange": "none"}}}},
    ),
    (
        "TOP034 error: at-least-once for 'u', which has no dead letter",
        {"queues": {"u": {"type": "quorum", "dead_letter": "none", "extra_arguments": LEAST_ONCE}}},
    ),
    (
        "TOP034 warning: 'u' keeps its dead letters until they are confirmed",
        {"queues": {"u": {"type": "quorum", "limits": {"overflow": "reject-publish"}, "extra_arguments": LEAST_ONCE}}},
    ),
    (
        "TOP034 error: at-least-once for 'u', which does not reject",
        policy(pattern="^u$", definition={"dead-letter-strategy": "at-least-once"}),
    ),
    (
        "TOP035 error: dead-letter-routing-key does nothing for 'r'",
        {
            "queues": {"r": {"dead_letter": "none"}},
            **policy(pattern="^r$", definition={"dead-letter-routing-key": "x"}),
        },
    ),
    (
        "TOP049 error: the dead letters of 'r' go to the exchange 'none', which the file does not have",
        {
            "queues": {"r": {"dead_letter": "none"}},
            **policy(pattern="^r$", definition={"dead-letter-exchange": "none"}),
        },
    ),
    (
        "TOP049 error: the dead letters of 'r' reach no queue",
        {
            "queues": {"r": {"dead_letter": "none"}},
            **policy(pattern="^r$", definition={"dead-letter-exchange": "d", "dead-letter-routing-key": "typo"}),
        },
    ),
    (
        "TOP050 error: dead letters go in a circle: r -> r",
        {
            "queues": {"r": {"dead_letter": "none", "ttl": "1m"}},
            **policy(pattern="^r$", definition={"dead-letter-exchange": "", "dead-letter-routing-key": "r"}),
        },
    ),
    (
        "TOP055 warning: tasks of 'u' that failed wait in the delay ladder",
        {**NEWER, "delays": {}, "queues": {"u": {"type": "quorum", "extra_arguments": RETRY}}},
    ),
    # times
    (
        "TOP040 warning: tasks of 'x' have expired .10s. before their first retry .1m.",
        {"routes": {"x": {"queue": "q", "expires": "10s", "retries": {"max": 1, "backoff": {"min": "1m"}}}}},
    ),
    (
        "TOP072 warning: the caller of 'x' may have to wait",
        {"replies": {"mode": "direct"}, "retries": {"max": 20}, "routes": {"x": {"queue": "q"}}},
    ),
    # priorities, sizes, addresses
    (
        "TOP042 warning: quorum queues .'u'. have the priorities 0 to 31: 99 counts as 31",
        {**NEWER, "routes": {"x": {"queue": "u", "priority": 99}}},
    ),
    (
        "TOP042 info: in a quorum queue .'u'. a message without a priority has 4",
        {**NEWER, "routes": {"x": {"queue": "u", "priority": 9}}},
    ),
    ("TOP048 info: quorum queues .'u'. write every message to disk", {"messages": {"max_size": "2MiB"}}),
    (
        "TOP066 info: unsigned messages are accepted",
        {"broker": {"url": "amqps://rabbit/"}, "security": {"signing": "off"}},
    ),
    (
        "TOP068 warning: the connection to the management API of rabbit is not encrypted",
        {"broker": {"management": "http://rabbit:15672"}},
    ),
    ("TOP001 error: broker.management must begin with http://", {"broker": {"management": "rabbit:15672"}}),
    ("TOP075 info: no check says where tasks of 'x' go", {"routes": {"x": {"queue": "q"}}}),
    # policies
    (
        "TOP010 warning: in the pattern '\\^w.h' the dots of 'w.h' stand for any character",
        {"queues": {"w.h": {}}, **policy(pattern="^w.h")},
    ),
    ("TOP032 warning: RabbitMQ 4.0 has no mirrored queues", policy(definition={"ha-mode": "all"})),
    (
        "TOP033 error: policies have delayed-retry-type from RabbitMQ 4.3.1 on, and the file is for 4.3",
        {"requires": {"rabbitmq": ">=4.3"}, **policy(pattern="^u$", definition={"delayed-retry-type": "disabled"})},
    ),
    (
        "TOP033 error: RabbitMQ before 3.12 knows no policy for quorum_queues",
        policy(pattern="^u$", apply_to="quorum_queues"),
    ),
    ("TOP041 error: overflow: 'drop' must be one of", policy(definition={"overflow": "drop"})),
    (
        r"TOP057 error: no policy has a key 'x-max-length' \(did you mean 'max-length'\?\)",
        policy(definition={"x-max-length": 5}),
    ),
    ("TOP057 error: the quorum queue 'u' cannot have max-age", policy(pattern="^u$", definition={"max-age": "1D"})),
    (
        "TOP057 error: stream queues cannot have message-ttl",
        {"requires": {"rabbitmq": ">=4.0"}, **policy(apply_to="streams", definition={"message-ttl": 5})},
    ),
    (
        "TOP058 warning: for the queue 'q' only 'y' applies: what 'x' says .max-length. is lost",
        {"policies": {"x": POLICY, "y": {**POLICY, "priority": 1, "definition": {"expires": 5000}}}},
    ),
    ("TOP058 error: no priority is left for generated policies from 9 to 8", {"policy_band": {"from": 9, "to": 8}}),
    ("TOP011 error: 'amqpq.p.12' is what a generated policy would be called", {"policies": {"amqpq.p.12": POLICY}}),
    ("TOP059 error: '\\^.q' is no regular expression", policy(pattern="^(q")),
    ("TOP059 error: the pattern of the policy 'x' has more than 1024 characters", policy(pattern="^" + "q" * 1024)),
    ("TOP059 warning: the policy 'x' matches every name", policy(pattern=".*")),
    ("TOP059 warning: the policy 'x' matches nothing of this file among queues", policy(pattern="^t$")),
    (
        "TOP059 warning: the policy 'x' matches queues of the delay ladder, 'p.delay.0.1'",
        {"delays": {}, **policy(pattern="^p\\.")},
    ),
    (
        "TOP061 error: the policy says dead-letter-routing-key: 'k', and the queue 'q' itself 'p.dead'; what",
        policy(definition={"dead-letter-exchange": "d", "dead-letter-routing-key": "k"}),
    ),
    ("TOP057 warning: no policy has a key 'frobnicate': the broker refuses", policy(definition={"frobnicate": 1})),
    (
        "TOP033 error: RabbitMQ before 4.0 refuses a policy with delivery-limit: -1",
        policy(pattern="^u$", definition={"delivery-limit": -1}),
    ),
    # schedules
    ("TOP079 error: the schedule 's' says neither cron nor every", {"schedule": {"s": {"task": "x"}}}),
    (
        "TOP079 error: the schedule 's' says both cron and every",
        {"schedule": {"s": {"task": "x", "cron": "* * * * *", "every": "1s"}}},
    ),
    (
        r"TOP079 error: there is no time zone 'Europe/Berln' \(did you mean 'Europe/Berlin'",
        {"schedule": {"s": {"task": "x", "every": "1s", "zone": "Europe/Berln"}}},
    ),
    (
        "TOP079 info: in Europe/Berlin the hour of '15 2",
        {"schedule": {"s": {"task": "x", "cron": "15 2 * * *", "zone": "Europe/Berlin"}}},
    ),
    (
        "TOP079 error: the route 'x' needs a keyword argument 'n'",
        {"routes": {"x": {"exchange": "t", "key": "a.{n}"}}, "schedule": {"s": {"task": "x", "every": "1s"}}},
    ),
    (
        "TOP013 error: no route matches the task 'y'",
        {"routes": {"x": {"queue": "q"}}, "schedule": {"s": {"task": "y", "every": "1s"}}},
    ),
]


@pytest.mark.parametrize("words,case", CASES, ids=[f"{words[:6]}-{number}" for number, (words, _) in enumerate(CASES)])
def test_each_case_is_found(words: str, case: dict[str, Any]) -> None:
    """With its rule, its severity and the words of the message."""
    texts = said(case)
    assert any(re.match(words, text) for text in texts), texts


def test_very_many_quorum_queues_are_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is held against the one that RabbitMQ's page names."""
    assert not any(text.startswith("TOP047") for text in said({}))
    monkeypatch.setattr(routing, "MANY_QUORUM_QUEUES", 0)
    assert any(text.startswith("TOP047 warning: 1 quorum queues") for text in said({}))


QUIET: list[tuple[str, dict[str, Any]]] = [
    ("TOP011", {"queues": {"other.g2": {}, "q.g1": {}}, "exchanges": {"other.in": {}}}),
    (
        "TOP020",
        {"exchanges": {"t": {"type": "topic", "unrouted": "f"}, "e": {}}, "bindings": ["t[b] -> e", "e[x] -> r"]},
    ),
    ("TOP026", {"checks": [{"publish": {"exchange": "h", "headers": {"x": 1}}, "reaches": ["r"]}]}),
    ("TOP032", {**NEWER, "queues": {"q": {"extra_arguments": {"x-queue-version": 2}}}}),
    ("TOP033", {**NEWER, "queues": {"u": {"type": "quorum", "extra_arguments": RETRY}}}),
    (
        "TOP034",
        {
            "queues": {
                "u": {
                    "type": "quorum",
                    "limits": {"max_length": 5, "overflow": "reject-publish"},
                    "extra_arguments": LEAST_ONCE,
                }
            }
        },
    ),
    (
        "TOP034",
        policy(
            pattern="^u$",
            definition={"dead-letter-strategy": "at-least-once", "overflow": "reject-publish", "max-length": 5},
        ),
    ),
    ("TOP035", policy(pattern="^r$", definition={"dead-letter-routing-key": "x"})),
    ("TOP043", {"queues": {"r": {"extra_arguments": {"x-dead-letter-exchange": "f"}}}}),
    ("TOP043", {"queues": {"q": {"extra_arguments": {"x-something-of-a-plugin": 1}}}}),
    (
        "TOP049",
        {"queues": {"r": {"dead_letter": "none"}}, **policy(pattern="^r$", definition={"dead-letter-exchange": "f"})},
    ),
    (
        "TOP049",
        {
            "exchanges": {"z": {"manage": "verify"}},
            "queues": {"r": {"dead_letter": "none"}},
            **policy(pattern="^r$", definition={"dead-letter-exchange": "z"}),
        },
    ),
    ("TOP057", policy(pattern="^[qr]$", definition={"message-ttl": 5000})),
    ("TOP058", {"policies": {"x": POLICY, "y": {**POLICY, "priority": 1}}, "policy_band": {"from": 9, "to": 9}}),
    ("TOP011", {"policies": {"amqpq.p.x": POLICY, "amqpq.q.1": {**POLICY, "priority": 1}}}),
    ("TOP059", policy(pattern="^(?i)q$")),
    ("TOP061", policy(pattern="^q$", definition={"message-ttl": 5000})),
    ("TOP068", {"broker": {"management": "http://localhost:15672"}}),
    ("TOP069", rights()),
    ("TOP070", {"routes": {"x": {"exchange": "t", "key": "a"}}, **rights(read="^q$")}),
    ("TOP069", rights(read=r"^(q|r|u)(\.g[0-9]+)?$")),
    ("TOP070", {"routes": {"x": {"queue": "q"}}, **rights(write=r"^amq\.default$")}),
    (
        "TOP075",
        {
            "routes": {"x": {"exchange": "d", "key": "k"}},
            "checks": [{"publish": {"exchange": "d", "key": "k"}, "reaches": ["q"]}],
        },
    ),
    ("TOP079", {"schedule": {"s": {"task": "x", "cron": "15 2 * * *"}}}),
    ("TOP079", {"schedule": {"s": {"task": "x", "cron": "15 5 * * *", "zone": "Europe/Berlin"}}}),
]


@pytest.mark.parametrize("rule,case", QUIET, ids=[f"{rule}-{number}" for number, (rule, _) in enumerate(QUIET)])
def test_the_rule_is_silent_where_all_is_well(rule: str, case: dict[str, Any]) -> None:
    """What is right is no finding of it."""
    assert [text for text in said(case) if text.startswith(rule)] == []


def test_what_is_wrong_for_a_later_version_can_be_asked_for() -> None:
    """The version that is given counts instead of the lowest one of `requires`, and says so where that is wrong."""
    source = {**SOUND, "queues": {**SOUND["queues"], "q": {"durable": False}}}

    def severities(rabbitmq: str | None) -> list[str]:
        problems = inspect(source, environ={}, rabbitmq=rabbitmq).problems
        return [problem.severity for problem in problems if problem.rule == "TOP031"]

    assert severities(None) == ["warning"]
    assert severities("4.3") == ["error"]
    old = inspect(source, environ={}, rabbitmq="3.8").errors
    assert [str(problem).partition(":")[0] for problem in old] == ["--rabbitmq"]
