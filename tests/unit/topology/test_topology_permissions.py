"""Permissions as RabbitMQ reads them; the integration ring holds them against a broker."""

from __future__ import annotations

import pytest

from amqpq.topology import Topology, load
from amqpq.topology.permissions import answers, matches, problem


@pytest.mark.parametrize(
    "pattern,name,granted",
    [
        ("shop", "workshop.x", True),  # anywhere in the name
        ("^shop$", "workshop", False),
        ("^shop\\.(a|b)$", "shop.b", True),
        ("", "shop", False),  # nothing
        ("^$", "shop", False),
        (".*", "shop", True),
        ("^.$", "\u00e9", False),  # two bytes
        ("^\\w+$", "\u00e9", False),
        ("^amq\\.default$", "amq.default", True),
    ],
)
def test_a_pattern_grants_what_it_matches_somewhere(pattern: str, name: str, granted: bool) -> None:
    """Unanchored, byte by byte, and the empty one matches nothing."""
    assert matches(pattern, name) is granted


@pytest.mark.parametrize("pattern", ["(", "[[:alpha:]]", "a{,3}", "\\Qa\\E", "(?|a|b)", "[a&&b]", "\\h", "(?P>x)"])
def test_what_two_dialects_read_differently_is_refused(pattern: str) -> None:
    """Better no answer than a wrong one."""
    assert problem(pattern) is not None


def test_what_both_read_alike_is_taken() -> None:
    """Groups, repetitions, classes, alternatives, anchors."""
    assert [p for p in ("", "^$", ".*", "^(a|b)\\.[a-z]{2,3}$", "^(?:x|y)+$", "a\\{,3") if problem(p) is not None] == []


@pytest.fixture
def topology() -> Topology:
    """One user, with names that tell the rights apart."""
    return load(
        {
            "amqpq": 1,
            "project": "p",
            "exchanges": {
                "web": {"type": "topic", "unrouted": "lost"},
                "lost": {"type": "fanout"},
                "inner": {"internal": True},
            },
            "queues": {"web": {"dead_letter": "none"}, "mail": {}, "lost": {"dead_letter": "none"}},
            "bindings": ["web[a] -> web", "web[b] -> mail", "lost -> lost", "web[c] -> inner", "inner[c] -> mail"],
            "security": {
                "signing": "off",
                "permissions": {
                    "all": {"configure": ".*", "write": ".*", "read": ".*"},
                    "none": {},
                    "named": {"configure": "^(web|mail|lost)$", "write": "^(web|inner)$", "read": "^(web|mail)$"},
                },
            },
        },
        environ={},
    )


@pytest.mark.parametrize(
    "user,name,may",
    [
        ("all", "web", ["publish", "consume", "configure"]),
        ("all", "mail", ["consume", "configure"]),
        ("all", "inner", ["configure"]),  # nobody publishes to an internal exchange
        ("all", "", ["publish"]),  # and nobody declares the default one
        ("none", "web", []),
        ("named", "mail", ["consume"]),  # its dead letters go to amq.default
        ("named", "lost", ["configure"]),
        ("named", "web", ["publish", "consume"]),  # its alternate exchange may not be written to
        ("named", "", []),
    ],
)
def test_operations_take_the_rights_that_the_broker_asks_for(
    topology: Topology, user: str, name: str, may: list[str]
) -> None:
    """To publish is to write, to consume is to read, to declare is more than to configure."""
    assert [answer.operation for answer in answers(topology, user, name) if answer.granted] == may


def test_an_answer_says_which_pattern_refused(topology: Topology) -> None:
    """With the right, and the name that it was held against."""
    *_, configure = answers(topology, "named", "mail")
    assert [str(need) for need in configure.needs] == [
        "configure mail: granted by '^(web|mail|lost)$'",
        "read mail: granted by '^(web|mail)$'",
        "write amq.default: refused, '^(web|inner)$' does not match",
    ]
    assert str(answers(topology, "none", "web")[0].needs[0]) == (
        "write web: refused, there is no pattern, which grants nothing"
    )
