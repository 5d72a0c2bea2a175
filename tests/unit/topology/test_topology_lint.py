"""The rules one by one: each finds its case, and stays silent where all is well."""

from __future__ import annotations

import re
from typing import Any

import pytest

from amqpq.topology import inspect
from amqpq.topology.lint.keys import covers
from amqpq.topology.lint.routing import overlap

SOUND: dict[str, Any] = {
    "amqpq": 1,
    "project": "p",
    "exchanges": {"t": {"type": "topic"}, "d": {}, "f": {"type": "fanout"}, "h": {"type": "headers"}},
    "queues": {"q": {}, "r": {}},
    "bindings": ["t[a.#] -> q", "d[k] -> q", "f -> r", {"from": "h", "to": "r", "headers": {"x": "y"}}],
}
"""A topology with nothing wrong; a case lays something over it."""


def found(case: dict[str, Any], *severities: str) -> dict[str, list[str]]:
    """Return rule to messages for the sound topology with `case` laid over it."""
    source = {**SOUND, **{name: section for name, section in case.items() if not isinstance(section, dict)}}
    for name, section in case.items():
        if isinstance(section, dict):
            source[name] = {**SOUND.get(name, {}), **section}
        elif name == "bindings":
            source[name] = [*SOUND["bindings"], *section]
    problems: dict[str, list[str]] = {}
    for problem in inspect(source, environ={}).problems:
        if problem.severity in (severities or ("error", "warning")):
            problems.setdefault(problem.rule, []).append(f"{problem.severity}: {problem}")
    return problems


def test_a_sound_topology_has_no_findings() -> None:
    """Without a case there is neither error nor warning."""
    assert found({}) == {}


LONG = "n" * 256

CASES: list[tuple[str, dict[str, Any], str]] = [
    # names
    ("TOP006", {"queues": {"": {}}}, "error: .* empty name"),
    ("TOP006", {"queues": {"a\nb": {}}}, "error: .* line break"),
    ("TOP006", {"exchanges": {LONG: {}}}, "error: .* more than 255 bytes"),
    ("TOP007", {"queues": {"amq.gen": {}}}, "error: .* belong to the broker"),
    ("TOP007", {"exchanges": {"amq.topic": {"type": "topic"}}}, "error: .* `manage: verify`"),
    (
        "TOP008",
        {"queues": {"n" * 255: {"type": "quorum"}}, "bindings": [f"d[x] -> {'n' * 255}"]},
        "error: .* internal name",
    ),
    ("TOP009", {"queues": {"web-high": {}, "web.high": {}}}, "warning: .* differs from 'web-high' only by case"),
    ("TOP011", {"queues": {"amqpq.reply.x": {}}}, "error: .* collide with the reply queues"),
    ("TOP011", {"queues": {"p.permits.x": {}}}, "error: .* named like a permit queue"),
    # limits of tasks
    ("TOP001", {"limits": {"*": {"rate": "fast"}}}, "error: .* is not a rate; write a number and a unit"),
    ("TOP001", {"limits": {"*": {"rate": 10}}}, "error: .* 10 has no unit; write 10/s"),
    ("TOP001", {"limits": {"*": {"rate": "0/s"}}}, "error: .* never let a task begin"),
    ("TOP001", {"limits": {"*": {"concurrency": 0}}}, "error: .* greater than or equal to 1"),
    ("TOP001", {"limits": {"*": {"concurency": 2}}}, r"error: .*\(did you mean 'concurrency'"),
    ("TOP076", {"limits": {"*": {}}}, "error: .* says neither a rate nor a concurrency"),
    ("TOP076", {"limits": {"*": {"rate": "1/s", "concurrency": 1}}}, "error: .* both a rate and a concurrency"),
    ("TOP076", {"limits": {"*": {"rate": "1/s", "key": "x"}}}, "error: .* a rate for each value"),
    ("TOP076", {"limits": {"*": {"concurrency": 1, "slots": 4}}}, "error: .* slots are for the values of a key"),
    ("TOP076", {"limits": {"*": {"rate": "2/h"}}}, "error: .* 2/h is too slow: .* from 3/h on"),
    (
        "TOP076",
        {"limits": {"*": {"concurrency": 1, "key": "x"}}, "messages": {"accept": ["pickle", "msgpack"]}},
        "error: .* never loads a pickle",
    ),
    ("TOP006", {"limits": {"*" + "n" * 250: {"rate": "1/s"}}}, "error: .* its permit queue"),
    (
        "TOP077",
        {"routes": {"web.*": {"queue": "q"}}, "limits": {"wbe.*": {"rate": "1/s"}}},
        "warning: .* no route is for a task that 'wbe.\\*' matches",
    ),
    (
        "TOP078",
        {"limits": {"web.*": {"rate": "1/s"}, "*.fetch": {"rate": "1/s"}}},
        "warning: .* the first one counts",
    ),
    # references
    ("TOP012", {"bindings": ["d[k] -> q"]}, "error: .* written twice"),
    ("TOP013", {"exchanges": {"x": {"unrouted": "nowhere"}}}, "error: .* no exchange 'nowhere'"),
    ("TOP013", {"bindings": [{"from": "d", "to": "q", "as": "exchange", "keys": ["a"]}]}, "error: .* no exchange 'q'"),
    ("TOP013", {"bindings": [{"from": "d", "to": "t", "as": "queue", "keys": ["a"]}]}, "error: .* no queue 't'"),
    ("TOP013", {"routes": {"x": {"queue": "nope"}}}, "error: .* no queue 'nope'"),
    ("TOP013", {"checks": [{"publish": {"exchange": "d", "key": "k"}, "reaches": ["qq"]}]}, "error: .* no queue 'qq'"),
    ("TOP013", {"checks": [{"publish": {"task": "x"}, "reaches": []}]}, "error: .* no route matches the task 'x'"),
    (
        "TOP013",
        {"routes": {"x": {"exchange": "t", "key": "a.{n}"}}, "checks": [{"publish": {"task": "x"}, "reaches": ["q"]}]},
        "error: .* needs a keyword argument 'n'.*under `with:`",
    ),
    ("TOP014", {"bindings": [{"from": "", "to": "q", "keys": ["a"]}]}, "error: .* default exchange"),
    (
        "TOP014",
        {"exchanges": {"i": {"internal": True}}, "routes": {"x": {"exchange": "i", "key": "k"}}},
        "error: .* internal",
    ),
    # routing
    (
        "TOP015",
        {"routes": {"x": {"exchange": "d", "key": "typo"}}},
        "error: .* 'typo' .* reaches no queue; bindings of 'd': 'k'",
    ),
    ("TOP015", {"routes": {"x": {"exchange": "d"}}}, "error: .* has no key"),
    ("TOP015", {"routes": {"x.*": {"exchange": "t", "key": "b.{task}"}}}, "error: .* reaches no queue"),
    ("TOP015", {"routes": {"x": {"exchange": "d", "key": "a.{n}"}}}, "error: .* reaches no queue"),
    ("TOP015", {"routes": {"x": {"exchange": "t", "key": "a.{no name}"}}}, "error: .* is no template"),
    ("TOP015", {"routes": {"x": {"exchange": "t", "key": "a.{"}}}, "error: .* is no template"),
    ("TOP015", {"routes": {"*.x.*": {"exchange": "t", "key": "a.{task}"}}}, "error: .* more than one '\\*'"),
    ("TOP016", {"queues": {"alone": {}}, "routes": {"x": {"queue": "q"}}}, "warning: .* leads to the queue 'alone'"),
    ("TOP017", {"exchanges": {"idle": {}}}, "warning: .* drops whatever it gets"),
    (
        "TOP019",
        {
            "exchanges": {"a": {"type": "fanout"}, "b": {"type": "fanout"}},
            "bindings": ["a -> b", "b -> a"],
        },
        "error: .* lead in a circle: a -> b -> a",
    ),
    (
        "TOP019",
        {"exchanges": {"a": {"unrouted": "b"}, "b": {"unrouted": "a"}}},
        "error: .* alternate exchanges lead in a circle",
    ),
    ("TOP020", {"exchanges": {"f": {"type": "fanout", "unrouted": "d"}}}, "warning: .* its `unrouted` gets none"),
    ("TOP021", {"bindings": ["t[a.b] -> q"]}, "warning: .* 'a.b' is superfluous: 'a.#'"),
    ("TOP022", {"bindings": ["t[#.a.#.b.#] -> r"]}, "warning: .* more than 2 '#'"),
    ("TOP022", {"requires": {"rabbitmq": ">=4.3.5"}, "bindings": ["t[#.a.#.b.#] -> r"]}, "error: .* more than 2 '#'"),
    ("TOP022", {"bindings": ["t[ord*] -> r"]}, "warning: .* 'ord\\*' is literal"),
    ("TOP023", {"bindings": ["d[a.*] -> r"]}, "warning: .* takes 'a.\\*' literally"),
    ("TOP023", {"bindings": ["f[key] -> q"]}, "warning: .* ignores keys"),
    ("TOP023", {"routes": {"x": {"exchange": "f", "key": "k"}}}, "warning: .* ignores it"),
    ("TOP023", {"routes": {"x": {"exchange": "t", "key": "a.*"}}}, "warning: .* stands for itself"),
    ("TOP024", {"bindings": ["t -> r"]}, "warning: .* has no key"),
    ("TOP025", {"bindings": [{"from": "d", "to": "r", "headers": {"a": 1}}]}, "error: .* does not look at headers"),
    ("TOP025", {"bindings": [{"from": "h", "to": "q", "match": "any"}]}, "error: .* never matches"),
    (
        "TOP025",
        {"bindings": [{"from": "h", "to": "q", "headers": {"x-a": 1}}]},
        "error: .* matches everything; use match: all-with-x",
    ),
    ("TOP025", {"bindings": ["h -> q"]}, "warning: .* without headers matches everything"),
    (
        "TOP025",
        {"bindings": [{"from": "h", "to": "q", "headers": {"x-match": "any"}}]},
        "error: .* x-match is the key `match`",
    ),
    (
        "TOP025",
        {"bindings": [{"from": "h", "to": "q", "keys": ["k"], "headers": {"a": 1}}]},
        "warning: .* ignores keys",
    ),
    (
        "TOP026",
        {"bindings": [{"from": "h", "to": "q", "headers": {"a": 1.0}}]},
        "warning: .* whole number 1 before RabbitMQ 3.13",
    ),
    ("TOP027", {"bindings": [f"d[{LONG}] -> r"]}, "error: .* more than 255 bytes"),
    ("TOP028", {"messages": {"confirm": False}}, "warning: .* noticed by nobody"),
    ("TOP028", {"messages": {"mandatory": False}}, "warning: .* dropped"),
    # queues
    ("TOP030", {"queues": {"q": {"type": "quorum", "max_priority": 5}}}, "error: .* takes no max_priority"),
    ("TOP030", {"queues": {"q": {"type": "quorum", "durable": False}}}, "error: .* always durable"),
    ("TOP030", {"queues": {"q": {"type": "quorum", "auto_delete": True}}}, "error: .* never auto-deleted"),
    (
        "TOP030",
        {"queues": {"q": {"type": "quorum", "limits": {"max_length": 1, "overflow": "reject-publish-dlx"}}}},
        "error: .* reject-publish-dlx",
    ),
    ("TOP030", {"queues": {"q": {"delivery_limit": 3}}}, "error: .* does not count deliveries"),
    ("TOP030", {"queues": {"q": {"retention": {"max_age": "1D"}}}}, "error: .* has no retention"),
    (
        "TOP030",
        {"queues": {"q": {"type": "stream", "ttl": "1s", "retention": {"max_age": "1D"}}}},
        "error: .* a stream takes no ttl",
    ),
    (
        "TOP030",
        {"queues": {"q": {"type": "stream", "retention": {"max_age": "1D"}}}, "routes": {"x": {"queue": "q"}}},
        "warning: .* no worker can take them",
    ),
    ("TOP031", {"queues": {"q": {"durable": False}}}, "warning: .* refused from RabbitMQ 4.3 on"),
    ("TOP031", {"requires": {"rabbitmq": ">=4.3"}, "queues": {"q": {"durable": False}}}, "error: .* refused"),
    (
        "TOP032",
        {"queues": {"q": {"extra_arguments": {"x-queue-mode": "lazy"}}}},
        "warning: .* 4.3 does not look at x-queue-mode",
    ),
    (
        "TOP033",
        {"queues": {"q": {"type": "quorum", "delivery_limit": -1}}},
        "error: .* means 0, and the file is for 3.10",
    ),
    (
        "TOP033",
        {"queues": {"q": {"consumer_timeout": "1h"}}},
        "error: .* knows no consumer_timeout of a queue, and the file is for 3.10",
    ),
    (
        "TOP030",
        {"requires": {"rabbitmq": ">=4.3"}, "queues": {"q": {"consumer_timeout": "1h"}}},
        "error: .* only quorum queues have a consumer timeout",
    ),
    ("TOP036", {"queues": {"q": {"type": "stream"}}}, "error: .* no retention"),
    (
        "TOP037",
        {"queues": {"q": {"dead_letter": "none", "limits": {"max_length": 5}}}},
        "warning: .* drops its oldest messages",
    ),
    (
        "TOP038",
        {"queues": {"q": {"type": "quorum", "dead_letter": "none"}}},
        "warning: .* reaches the delivery limit is dropped",
    ),
    ("TOP039", {"queues": {"q": {"expires": "1h"}}}, "warning: .* deleted with its messages"),
    ("TOP041", {"queues": {"q": {"limits": {"overflow": "drop-head"}}}}, "warning: .* never happens"),
    ("TOP041", {"queues": {"q": {"ttl": "600w"}}}, "error: .* between 1 ms and 10 years"),
    ("TOP042", {"queues": {"q": {"max_priority": 200}}}, "warning: .* costs memory"),
    ("TOP042", {"routes": {"x": {"queue": "q", "priority": 3}}}, "warning: .* has no max_priority"),
    (
        "TOP042",
        {"queues": {"q": {"max_priority": 3}}, "routes": {"x": {"exchange": "d", "key": "k", "priority": 9}}},
        "warning: .* counts as 3",
    ),
    (
        "TOP042",
        {"queues": {"q": {"type": "quorum"}}, "routes": {"x": {"queue": "q", "priority": 3}}},
        "warning: .* no priorities before RabbitMQ 4.0",
    ),
    ("TOP043", {"queues": {"q": {"extra_arguments": {"x-message-ttl": 5}}}}, "error: .* write `ttl`"),
    ("TOP043", {"queues": {"q": {"extra_arguments": {"ttl": 5}}}}, "error: .* never look at it"),
    ("TOP043", {"exchanges": {"d": {"extra_arguments": {"alternate-exchange": "f"}}}}, "error: .* write `unrouted`"),
    ("TOP048", {"messages": {"max_size": "32MiB"}}, "warning: .* above 16 MiB"),
    (
        "TOP049",
        {"queues": {"q": {"type": "stream", "retention": {"max_age": "1D"}}}, "dead_letters": {"x": {"queue": "q"}}},
        "error: .* 'q' is a stream",
    ),
    (
        "TOP050",
        {"queues": {"q": {"dead_letter": "x"}}, "dead_letters": {"x": {"queue": "q"}}},
        "error: .* takes dead letters itself",
    ),
    # secrets and signatures
    ("TOP065", {"messages": {"serializer": "yaml"}}, "error: .* yaml is sent, and not among messages.accept"),
    (
        "TOP066",
        {"security": {"signing": "off", "require": "signed"}},
        "error: .* nothing this project sends would be accepted",
    ),
    ("TOP068", {"broker": {"url": "amqp://rabbit/"}}, "warning: .* rabbit is not encrypted"),
    ("TOP068", {"broker": {"url": "amqps://rabbit/"}}, "warning: .* user guest"),
    (
        "TOP068",
        {"broker": {"url": "amqps://localhost/", "tls": {"verify": "none"}}},
        "warning: .* accepts any certificate",
    ),
    ("TOP068", {"broker": {"url": "amqp://rabbit/", "tls": {}}}, "error: .* would be a plain one"),
    ("TOP001", {"broker": {"url": "http://rabbit/"}}, "error: .* must begin with amqp://"),
    ("TOP001", {"broker": {"url": "amqps://rabbit:port/"}}, "error: .* is not a URL"),
    ("TOP001", {"broker": {"tls": {"cert": "a.pem"}}}, "error: .* needs both cert and key"),
    ("TOP001", {"requires": {"rabbitmq": "4.x"}}, "error: .* not a version requirement"),
    ("TOP001", {"routes": {"x": {"queue": "q", "key": "k"}}}, "error: .* names a queue and an exchange or key"),
    ("TOP001", {"checks": [{"publish": {}, "reaches": []}]}, "error: .* either a task or to an exchange"),
    ("TOP074", {"routes": {"*": {"queue": "q"}, "web.*": {"queue": "r"}}}, "warning: .* never chosen: '\\*' above it"),
    # not built
    ("TOP000", {"exchanges": {"c": {"type": "x-consistent-hash"}}}, "error: .* not built yet: consistent-hash"),
    ("TOP000", {"queues": {"q": {"require": "optional"}}}, "error: .* not built yet: a signature requirement"),
    (
        "TOP000",
        {"routes": {"x": {"queue": "q", "reply": "client"}}},
        "error: .* not built yet: one reply queue per client",
    ),
    ("TOP000", {"schedule": {"s": {"task": "t", "every": "1s"}}}, "error: .* not built yet: scheduled tasks"),
]


@pytest.mark.parametrize("rule,case,words", CASES, ids=[f"{rule}-{number}" for number, (rule, *_) in enumerate(CASES)])
def test_each_rule_finds_its_case(rule: str, case: dict[str, Any], words: str) -> None:
    """The rule reports its case with the severity and the words of the catalogue."""
    problems = found(case)
    assert rule in problems, problems
    assert any(re.search(words, text, re.DOTALL) for text in problems[rule]), problems


QUIET: list[dict[str, Any]] = [
    {"exchanges": {"amq.topic": {"type": "topic", "manage": "verify"}}, "bindings": ["amq.topic[a] -> q"]},
    {"retries": {"max": 0}, "delays": {"unit": "1s"}, "allow": {"delete": False, "migrate": "reviewed"}},
    {"policies": {}, "schedule": {}, "moved": []},
    {"queues": {"q": {"require": "signed"}}},
    {"queues": {"q": {"type": "quorum", "delivery_limit": -1}}, "requires": {"rabbitmq": ">=4.0"}},
    {"queues": {"q": {"consumer_timeout": "1h"}}, "requires": {"rabbitmq": ">=3.12"}},
    {"routes": {"x.*": {"exchange": "t", "key": "{kind}.{task}"}}},
    {"routes": {"x": {"exchange": "t", "key": "a.{n}.c"}}},
    {"exchanges": {"e": {"unrouted": "f"}}, "routes": {"x": {"exchange": "e", "key": "{n}"}}},
    {"exchanges": {"theirs": {"manage": "verify"}}, "routes": {"x": {"exchange": "theirs", "key": "k"}}},
    {"routes": {"web.*": {"queue": "q"}, "*": {"queue": "r"}}},
    {"queues": {"log": {"type": "stream", "retention": {"max_bytes": "1GiB"}}}, "bindings": ["f -> log"]},
    {"broker": {"url": "amqp://127.0.0.1/", "tls": {"ca": "ca.pem"}}},
    {"messages": {"accept": ["pickle", "msgpack"], "serializer": "pickle"}},
    {"messages": {"compression": "none"}, "security": {"signing": False}},
]


@pytest.mark.parametrize("case", QUIET, ids=range(len(QUIET)))
def test_rules_stay_silent_where_all_is_well(case: dict[str, Any]) -> None:
    """What is right, and what changes nothing, is no finding."""
    assert found(case) == {}


@pytest.mark.parametrize(
    "wide,narrow,expected",
    [
        ("#", "a.b", True),
        ("a.#", "a", True),
        ("a.#", "a.*", True),
        ("a.*", "a.b", True),
        ("a.*", "a.#", False),
        ("*.b", "a.b", True),
        ("a.b", "a.*", False),
        ("#.b", "a.b", True),
        ("a.#.z", "a.b.z", True),
    ],
)
def test_a_wider_topic_key_covers_a_narrower_one(wide: str, narrow: str, expected: bool) -> None:
    """A key covers another when it matches all that the other matches."""
    assert covers(wide, narrow) is expected


@pytest.mark.parametrize(
    "left,right,expected",
    [
        ("a.#", "a.b", True),
        ("a.*", "#.b", True),
        ("a.#.c", "a.b", False),
        ("#", "", True),
        ("a", "b", False),
        ("*.x.#", "a.#", True),
    ],
)
def test_topic_patterns_overlap_where_some_key_matches_both(left: str, right: str, expected: bool) -> None:
    """Two patterns overlap when there is a key that both match."""
    split = [text.split(".") if text else [] for text in (left, right)]
    assert overlap(*split) is expected


def test_a_limit_of_one_task_taken_out_of_a_pattern_is_no_finding() -> None:
    """An exact name counts before every pattern, wherever it stands."""
    limits = {
        "web.*": {"rate": "3/h"},
        "web.fetch": {"concurrency": 1, "key": "x", "slots": 2},
        "a.*b": {"rate": "1/s"},
    }
    routes = {"web.*": {"queue": "q"}, "a.b": {"queue": "r"}}
    assert found({"limits": limits, "routes": routes}) == {}
