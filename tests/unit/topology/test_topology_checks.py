"""Checks of a file: what each kind finds, what lint says of those that are wrong, and how much of the wiring they walk."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.topology import Topology, checks, inspect, load
from amqpq.topology.checks import CheckResult
from amqpq.topology.coverage import coverage

SHOP: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"web": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}, "news": {"type": "fanout"}},
    "queues": {
        "high": {"type": "quorum", "delivery_limit": 3, "dead_letter": "parked"},
        "mail": {"ttl": "10m"},
        "log": {"type": "stream", "retention": {"max_age": "1D"}},
        "lost": {"dead_letter": "none"},
        "parked": {"ttl": "14d"},
    },
    "dead_letters": {"parked": {"queue": "parked"}},
    "bindings": [
        "web[web.#] -> high",
        "web[mail] -> mail",
        "news -> mail",
        "news -> high",
        "news -> log",
        "lost -> lost",
    ],
    "routes": {
        "web.*": {"exchange": "web", "key": "web.{task}", "retries": {"max": 2, "backoff": {"jitter": False}}},
        "mail.*": {"exchange": "web", "key": "{box}", "expires": "1m", "reply": "none"},
        "news": {"exchange": "news", "expires": "1m"},
    },
    "security": {
        "signing": "off",
        "permissions": {"host": {"write": "^web$", "read": "^(mail|high)$"}, "nobody": {}},
    },
}


def shop(*entries: dict[str, Any], **changes: Any) -> Topology:
    """A topology with these checks."""
    return load({**SHOP, **changes, "checks": list(entries)}, environ={})


def run(entry: dict[str, Any], **changes: Any) -> CheckResult:
    """Run one check."""
    (result,) = checks.run(shop(entry, **changes))
    return result


# --------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    "entry,outcome",
    [
        ({"fail": {"task": "web.x"}, "ends_in": "parked", "within": "3s"}, "parked after 3s"),
        ({"fail": {"task": "web.x", "times": 2}, "ends_in": "done"}, "done after 3s"),
        ({"fail": {"task": "web.x", "how": "crash"}, "ends_in": "parked"}, "parked"),
        ({"fail": {"task": "web.x", "how": "reject"}, "ends_in": ["parked"]}, "parked"),
        ({"fail": {"queue": "high", "how": "limit"}, "ends_in": "parked"}, "parked"),
        ({"fail": {"queue": "mail"}, "ends_in": "shop.dead", "within": "0s"}, "shop.dead"),
        ({"fail": {"queue": "lost"}, "ends_in": "nowhere"}, "nowhere"),
        ({"fail": {"task": "mail.x", "with": {"box": "mail"}}, "ends_in": "shop.dead"}, "shop.dead"),
        ({"fail": {"task": "news"}, "ends_in": ["shop.dead", "parked"]}, "parked, shop.dead"),
        ({"fail": {"task": "news", "queue": "mail"}, "ends_in": "shop.dead"}, "shop.dead"),
        ({"expire": {"queue": "mail", "after": "5m"}, "ends_in": "mail"}, "mail"),
        ({"expire": {"queue": "mail", "after": "10m"}, "ends_in": "shop.dead"}, "shop.dead after 10m"),
        ({"expire": {"queue": "parked", "after": "15d"}, "ends_in": "nowhere"}, "nowhere after 14d"),
        (
            {"expire": {"task": "mail.x", "with": {"box": "mail"}, "after": "2m"}, "ends_in": "shop.dead"},
            "shop.dead after 1m",
        ),
        ({"expire": {"task": "news", "queue": "high", "after": "2m"}, "ends_in": "high"}, "high"),
        ({"expire": {"task": "news", "queue": "high", "after": "25h"}, "ends_in": "parked"}, "parked after 1d1m"),
        ({"permission": {"user": "host", "may": "publish", "object": "web"}, "exactly": True}, "may publish"),
        ({"permission": {"user": "host", "may": ["consume"], "object": "mail"}}, "may consume"),
        ({"permission": {"user": "nobody", "may": [], "object": ""}}, "may do nothing"),
    ],
)
def test_a_check_passes_where_it_is_so(entry: dict[str, Any], outcome: str) -> None:
    """And says what became of the message, or what is allowed."""
    result = run(entry)
    assert (result.faults, result.outcome) == ((), outcome)


@pytest.mark.parametrize(
    "entry,faults",
    [
        (
            {"fail": {"task": "web.x"}, "ends_in": "shop.dead"},
            ["should end in shop.dead", "should not end in parked"],
        ),
        ({"fail": {"task": "web.x"}, "ends_in": "parked", "within": "2s"}, ["may take 3s, longer than 2s"]),
        (
            {"fail": {"task": "web.x", "times": 2}, "ends_in": "parked"},
            ["should end in parked", "should not end in done"],
        ),
        ({"fail": {"task": "news"}, "ends_in": "parked"}, ["should not end in shop.dead"]),
        (
            {"fail": {"task": "web.x", "queue": "mail"}, "ends_in": "parked"},
            ["reaches no queue in mail in which it could be run or wait"],
        ),
        (
            {"fail": {"queue": "mail", "how": "limit"}, "ends_in": "shop.dead"},
            [
                "should end in shop.dead",
                "mail counts no deliveries, as no classic queue does: it is handed out for ever",
            ],
        ),
        (
            {"expire": {"queue": "mail", "after": "9m"}, "ends_in": "shop.dead"},
            ["should end in shop.dead", "should not end in mail"],
        ),
        (
            {"permission": {"user": "host", "may": "configure", "object": "mail"}},
            ["should be allowed to configure"],
        ),
        (
            {"permission": {"user": "host", "may": [], "object": "mail"}},
            ["should not be allowed to consume"],
        ),
        (
            {"permission": {"user": "host", "may": "configure", "object": "web"}, "exactly": True},
            ["should be allowed to configure", "should not be allowed to publish"],
        ),
    ],
)
def test_a_check_that_fails_says_what_is_wrong(entry: dict[str, Any], faults: list[str]) -> None:
    """In words."""
    assert list(run(entry).faults) == faults


def test_a_failing_check_has_the_way_of_its_message() -> None:
    """Each step, with the time when it happens at the latest."""
    result = run({"fail": {"task": "web.x"}, "ends_in": "lost"})
    assert [(step.seconds, step.text) for step in result.steps] == [
        (0, "topic exchange 'web': binding 'web.#' matches -> queue 'high'"),
        (0, "high: attempt 1 of 3 raises; it waits 1s"),
        (1, "high: attempt 2 of 3 raises; it waits 2s"),
        (3, "high: attempt 3 of 3 raises, and no retry is left"),
        (3, "high: the worker parks it in parked"),
    ]


def test_the_lowest_version_decides() -> None:
    """A quorum queue without a limit has one of 20 from RabbitMQ 4.0 on, and none before."""
    queues = {**SHOP["queues"], "high": {"type": "quorum", "dead_letter": "parked"}}
    entry = {"fail": {"queue": "high", "how": "limit"}, "ends_in": "parked"}
    assert not run(entry, queues=queues).passed
    assert run(entry, queues=queues, requires={"rabbitmq": ">=4.0"}).passed


# ---------------------------------------------------------------------------------------------------------------- lint


@pytest.mark.parametrize(
    "entry,rule,message,remedy",
    [
        ({}, "TOP001", "a check is about one thing: publish, fail, expire or permission", "write one of the four"),
        (
            {"publish": {"task": "news"}, "reaches": [], "fail": {"queue": "mail"}},
            "TOP001",
            "a check is about one thing",
            "write one of the four",
        ),
        ({"publish": {"task": "news"}}, "TOP001", "it lacks the key 'reaches'", "add `reaches: [...]`"),
        ({"fail": {"queue": "mail"}}, "TOP001", "it lacks the key 'ends_in'", "add `ends_in: [...]`"),
        ({"fail": {"queue": "mail"}, "ends_in": []}, "TOP001", "ends_in is empty", "write `nowhere`"),
        ({"fail": {}, "ends_in": "mail"}, "TOP001", "does not say which message", "write `{task: ...}`"),
        (
            {"fail": {"queue": "mail", "with": {"a": 1}}, "ends_in": "lost"},
            "TOP001",
            "`with` holds the arguments of a task",
            "remove it",
        ),
        (
            {"expire": {"queue": "mail", "after": "1s"}, "ends_in": "mail", "within": "1s"},
            "TOP001",
            "`within` goes with fail, not with expire",
            "remove it",
        ),
        (
            {"fail": {"queue": "mail"}, "ends_in": "lost", "exactly": True},
            "TOP001",
            "`exactly` goes with publish and permission, not with fail",
            "remove it",
        ),
        ({"fail": {"queue": "mial"}, "ends_in": "lost"}, "TOP013", "no queue 'mial' (did you mean 'mail'?)", ""),
        ({"fail": {"queue": "mail"}, "ends_in": "parkd"}, "TOP013", "no queue 'parkd' (did you mean 'parked'?)", ""),
        ({"fail": {"queue": "mail"}, "ends_in": "nowere"}, "TOP013", "(did you mean 'nowhere'?)", ""),
        ({"fail": {"queue": "log"}, "ends_in": "lost"}, "TOP030", "'log' is a stream", "name a classic or quorum"),
        ({"fail": {"task": "sms"}, "ends_in": "lost"}, "TOP013", "no route matches the task 'sms'", ""),
        (
            {"expire": {"task": "mail.x", "after": "1s"}, "ends_in": "mail"},
            "TOP013",
            "needs a keyword argument 'box'",
            "add it under `with:`",
        ),
        (
            {"permission": {"user": "hots", "may": "publish", "object": "web"}},
            "TOP013",
            "security.permissions has no user 'hots' (did you mean 'host'?)",
            "",
        ),
        (
            {"permission": {"user": "host", "may": "publish", "object": "wbe"}},
            "TOP013",
            "there is no exchange and no queue 'wbe' (did you mean 'web'?)",
            "",
        ),
        (
            {"permission": {"user": "host", "may": "publish", "object": "mail"}},
            "TOP013",
            "'mail' is a queue, and messages are published to exchanges",
            "name the exchange",
        ),
        (
            {"permission": {"user": "host", "may": "consume", "object": ""}},
            "TOP013",
            "the default exchange is an exchange, and messages are consumed from queues",
            "name the queue",
        ),
    ],
)
def test_a_check_that_makes_no_sense_is_an_error(entry: dict[str, Any], rule: str, message: str, remedy: str) -> None:
    """Each with its place and what to do."""
    (problem,) = [p for p in inspect({**SHOP, "checks": [entry]}, environ={}).problems if p.severity == "error"]
    assert problem.rule == rule
    assert message in problem.message
    assert problem.remedy.startswith(remedy)


def test_a_queue_that_is_called_like_a_word_is_an_error() -> None:
    """`ends_in: nowhere` would mean two things."""
    source = {**SHOP, "queues": {**SHOP["queues"], "nowhere": {}}}
    entry = {"fail": {"queue": "mail"}, "ends_in": "nowhere"}
    errors = [problem.message for problem in inspect({**source, "checks": [entry]}, environ={}).errors]
    assert errors == ["'nowhere' is a word here, and the name of a queue"]


@pytest.mark.parametrize(
    "pattern,severity,words",
    [
        ("web", "warning", "also grants every name in which it occurs"),
        ("^web", "warning", "also grants every name"),
        ("[[:alpha:]]", "error", "read differently"),
        ("(", "error", "no regular expression"),
        ("^web$", None, ""),
        (".*", None, ""),
        ("", None, ""),
    ],
)
def test_patterns_are_looked_at(pattern: str, severity: str | None, words: str) -> None:
    """One that is not anchored is a warning, one that cannot be read here as there an error."""
    source = {**SHOP, "security": {"signing": "off", "permissions": {"host": {"write": pattern}}}}
    found = [problem for problem in inspect(source, environ={}).problems if problem.rule == "TOP069"]
    assert [problem.severity for problem in found] == ([] if severity is None else [severity])
    assert all(words in problem.message for problem in found)


# ------------------------------------------------------------------------------------------------------------ coverage


def covered(*entries: dict[str, Any]) -> set[str]:
    """The ways that these checks walk."""
    topology = shop(*entries)
    return {f"{path.kind}: {path.name}" for path in coverage(topology, checks.run(topology)).paths if path.walked}


def test_checks_walk_routes_bindings_and_dead_letters() -> None:
    """Whatever a message passes on its way counts."""
    assert covered({"publish": {"task": "web.x"}, "reaches": ["high"]}) == {
        "route: web.*",
        "binding: web[web.#] -> high",
    }
    assert covered({"publish": {"exchange": "web", "key": "?"}, "reaches": ["lost"]}) == {
        "unrouted: web -> lost",
        "binding: lost -> lost",
    }
    assert covered({"fail": {"task": "web.x"}, "ends_in": "parked"}) == {
        "route: web.*",
        "binding: web[web.#] -> high",
        "dead letter: high -> parked",
    }
    assert covered({"expire": {"queue": "mail", "after": "1h"}, "ends_in": "shop.dead"}) == {
        "dead letter: mail -> shop.dead"
    }


def test_a_check_that_fails_walks_nothing() -> None:
    """It proves nothing."""
    assert covered({"fail": {"task": "web.x"}, "ends_in": "lost"}) == set()


def test_coverage_is_a_share_of_all_ways() -> None:
    """Three routes, six bindings, one alternate exchange and two dead letters."""
    topology = shop({"fail": {"task": "web.x"}, "ends_in": "parked"})
    found = coverage(topology, checks.run(topology))
    assert found.counts() == {"route": (1, 3), "binding": (1, 6), "unrouted": (0, 1), "dead letter": (1, 2)}
    assert found.percent == 25
    assert len(found.missing) == 9
    nothing = load({"amqpq": 1, "project": "p", "exchanges": {"x": {}}, "security": {"signing": "off"}}, environ={})
    assert coverage(nothing, ()).percent == 100


def test_what_somebody_else_owns_need_not_be_walked() -> None:
    """Whoever owns an object owns its wiring."""
    queues = {**SHOP["queues"], "mail": {"manage": "external"}}
    topology = shop(queues=queues)
    names = {path.name for path in coverage(topology, ()).paths}
    assert "web[web.#] -> high" in names
    assert not [name for name in names if "mail" in name and "->" in name]
