"""Every wrong file has an answer a person can act on: place, rule, sentence, remedy; all of them at once."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from amqpq.errors import TopologyError
from amqpq.topology import inspect, load

GOOD = """\
amqpq: 1
project: shop
exchanges:
  web: {type: topic}
queues:
  high: {}
"""
"""Five lines to which each case adds its own from line 7 on."""


def problems(text: str, folder: Path, **environ: str) -> list[str]:
    """Return the errors of a file, without the folder."""
    path = folder / "t.yaml"
    path.write_text(text, encoding="utf-8")
    found = inspect(path, environ=environ)
    return [str(problem).removeprefix(f"{folder}/") for problem in found.errors]


CASES = {
    "unknown key": ("quees: {}", "t.yaml:7:1: TOP001 unknown key 'quees' (did you mean 'queues'?)"),
    "unknown nested key": (
        "bindings: ['web[#] -> high']\nroutes:\n  t: {exchange: web, key: a, expiry: 1s}",
        "t.yaml:9:30: TOP001 unknown key 'expiry' in 'routes.t' (did you mean 'expires'?)",
    ),
    "unknown key like none": (
        "delays: {zzz: 1s}",
        "t.yaml:7:10: TOP001 unknown key 'zzz' in 'delays'; known here: unit, max",
    ),
    "duplicate key": (
        "queues: {other: {}}",
        "t.yaml:7:1: TOP001 the key 'queues' is written twice; the first is at line 5; remove one of them",
    ),
    "wrong type": (
        "messages: {persistent: maybe}",
        "t.yaml:7:24: TOP001 messages.persistent must be true or false, not the text 'maybe'",
    ),
    "mapping expected": ("replies: [task]", "t.yaml:7:10: TOP001 replies must be a mapping, not a list"),
    "swallowed star": (
        "bindings:\n  - {from: web, to: high, keys: [*.created]}",
        "t.yaml:8:34: TOP002 '*.created' begins with '*', which YAML takes as an alias; quote it: \"*.created\"",
    ),
    "swallowed hash in a list": (
        "bindings:\n  - {from: web, to: high, keys: [a, #]}\nroutes: {}",
        (
            "t.yaml:8:37: TOP002 a '#' after a space begins a comment, and swallowed the end of the list or mapping; "
            'quote it: "#"'
        ),
    ),
    "swallowed hash where text is needed": (
        "dead_letters:\n  d:\n    queue: #",
        (
            "t.yaml:9:11: TOP002 dead_letters.d.queue is empty, because '#' begins a comment; "
            'quote it if it is meant: queue: "#"'
        ),
    ),
    "swallowed hash as a key": (
        "routes:\n  t:\n    exchange: web\n    key: #.created",
        "t.yaml:10:9: TOP002 routes.t.key is empty, because '#' begins a comment; quote it if it is meant: key: \"#\"",
    ),
    "swallowed hash in a binding": (
        "bindings:\n  - web[a, #] -> high",
        (
            "t.yaml:8:5: TOP002 bindings[0]: the binding 'web[a,' ends inside its keys: "
            "a '#' after a space begins a comment in YAML; quote all of it"
        ),
    ),
    "boolean for text": (
        "bindings:\n  - {from: web, to: high, keys: [on]}",
        't.yaml:8:34: TOP003 bindings[0].keys[0] must be text, and YAML reads on as the boolean true; quote it: "on"',
    ),
    "number for text": (
        "bindings:\n  - {from: web, to: high, keys: [3.10]}",
        't.yaml:8:34: TOP003 bindings[0].keys[0] must be text, and YAML reads 3.10 as the number 3.1; quote it: "3.10"',
    ),
    "octal number": (
        "replies: {expires: 0123}",
        (
            "t.yaml:7:20: TOP003 0123 is a number to some readers of YAML and text to others; "
            'quote it if it is text: "0123"; else write plain digits'
        ),
    ),
    "duration without unit": (
        "replies: {expires: 30}",
        "t.yaml:7:20: TOP001 replies.expires: 30 has no unit; write 30s for seconds (or ms, m, h, d, w)",
    ),
    "not one of": (
        "replies: {mode: taks}",
        "t.yaml:7:17: TOP001 replies.mode must be one of task, client, direct, none, not 'taks' (did you mean 'task'?)",
    ),
    "missing key": ("dead_letters:\n  d: {}", "t.yaml:8:3: TOP001 'dead_letters.d' lacks the key 'queue'"),
    "missing variable": (
        'broker: {url: "${SHOP_URL}"}',
        (
            "t.yaml:7:15: TOP004 the variable 'SHOP_URL' is neither declared under `variables:` nor set in the environment; "
            "set $SHOP_URL, or write ${SHOP_URL:default}"
        ),
    ),
    "variable in braces": (
        "broker: {url: ${SHOP_URL}}",
        't.yaml:7:15: TOP001 inside {...} YAML takes the braces of ${SHOP_URL} for a mapping; quote it: "${SHOP_URL}"',
    ),
    "variable without a value": (
        'variables: {U: {type: secret, from: "env:SHOP_URL"}}\nbroker:\n  url: ${U}',
        "t.yaml:9:8: TOP004 the variable 'U' has no value: env:SHOP_URL is not there, and it has no default",
    ),
    "variable of the wrong type": (
        'variables: {N: {type: int, from: "env:WORD"}}\nmessages: {max_size: "${N}"}',
        "t.yaml:8:22: TOP004 the variable 'N' is declared as int, and env:WORD holds 'many'",
    ),
    "default of the wrong type": (
        'variables: {N: {type: int, default: "32"}}',
        "t.yaml:7:37: TOP004 the variable 'N' is declared as int, and its default is '32' of another type",
    ),
    "secret in the open": (
        'variables: {S: {type: secret, from: "env:WORD"}}\nsecurity: {signing: {key: "${S}"}}',
        (
            "t.yaml:8:27: TOP004 a secret is used where it would be shown; secrets go into broker.url, broker.management; "
            "for keys write the reference itself: env:NAME or file:PATH"
        ),
    ),
    "password in clear": (
        'broker: {url: "amqps://shop:hunter2@rabbit/"}',
        (
            "t.yaml:7:15: TOP005 a password stands here in clear; "
            "take it from a variable: `{type: secret, from: env:NAME}` and ${NAME}"
        ),
    ),
    "password in a default": (
        'broker: {url: "${U:amqps://shop:hunter2@rabbit/}"}',
        (
            "t.yaml:7:15: TOP005 a password stands here in clear; "
            "take it from a variable: `{type: secret, from: env:NAME}` and ${NAME}"
        ),
    ),
    "password as a default": (
        'broker: {url: "amqps://shop:${PASS:hunter2}@rabbit/"}',
        (
            "t.yaml:7:15: TOP005 a password stands here in clear; "
            "take it from a variable: `{type: secret, from: env:NAME}` and ${NAME}"
        ),
    ),
    "secret with a default": (
        "variables: {S: {type: secret, default: hunter2}}",
        "t.yaml:7:40: TOP005 the secret 'S' has a default in clear; remove the default",
    ),
    "shared key in clear": (
        "security: {signing: {algorithm: hmac-sha256, key: 5f23456789abcdef0123456789abcdef}}",
        "t.yaml:7:51: TOP005 the key of hmac-sha256 must be a reference, not the secret itself; write env:NAME or file:PATH",
    ),
    "binding to nowhere": (
        "bindings:\n  - web[a] -> hihg",
        "t.yaml:8:5: TOP013 the binding leads nowhere: there is no queue and no exchange 'hihg' (did you mean 'high'?)",
    ),
    "binding from nowhere": (
        "bindings:\n  - wbe[a] -> high",
        "t.yaml:8:5: TOP013 there is no exchange 'wbe' (did you mean 'web'?)",
    ),
    "binding twice": (
        "bindings:\n  - web[a, b] -> high\n  - web[b] -> high",
        "t.yaml:9:5: TOP012 this binding is written twice; the first is at line 8; remove one",
    ),
    "binding from the default exchange": (
        "bindings:\n  - {from: '', to: high, keys: [a]}",
        "t.yaml:8:5: TOP014 the default exchange cannot be bound from; every queue is bound to it by its name already",
    ),
    "no binding at all": (
        "bindings:\n  - web high",
        "t.yaml:8:5: TOP001 bindings[0]: the binding 'web high' has no '->'; write `source[key, key] -> target`",
    ),
    "name of the broker": (
        "dead_letters: {d: {queue: amq.dead}}",
        "t.yaml:7:27: TOP007 names that begin with 'amq.' belong to the broker: 'amq.dead'; name it differently",
    ),
    "route to nowhere": (
        "routes:\n  t: {exchange: web, key: a.b}",
        (
            "t.yaml:8:27: TOP015 the key 'a.b' of the route 't' reaches no queue; bindings of 'web': none at all; "
            "add a binding: `web[...] -> queue`"
        ),
    ),
    "route without a place": (
        "routes:\n  t: {priority: 3}",
        "t.yaml:8:6: TOP001 the route 't' says not where to publish; give it `exchange` and `key`, or `queue`",
    ),
    "pickle unsigned": (
        "messages: {accept: [pickle, msgpack]}\nsecurity: {require: optional}",
        (
            "t.yaml:7:20: TOP065 pickle runs code of whoever wrote the message, and unsigned messages are accepted; "
            "write `require: signed`, or remove pickle"
        ),
    ),
    "not built: client replies": (
        "replies: {mode: client}",
        "t.yaml:7:17: TOP000 not built yet: one reply queue per client (`mode: client`); remove it rather than rely on it",
    ),
    "not built: X.509": (
        "security: {signing: {algorithm: x509, key: host.pem}}",
        "t.yaml:7:33: TOP000 not built yet: signing with X.509 certificates; remove it rather than rely on it",
    ),
    "management is no URL": (
        "broker: {management: 'localhost:15672'}",
        (
            "t.yaml:7:22: TOP001 broker.management must begin with http:// or https:// and name a host; "
            "write http://user:password@host:15672"
        ),
    ),
    "not built: moved": (
        "dead_letters: {d: {queue: high}}\nmoved: [{from: queue.a, to: queue.high}]",
        (
            "t.yaml:8:9: TOP000 not built yet: renames of queues that take dead letters (`moved`); remove it rather than rely on "
            "it"
        ),
    ),
    "format version": (None, "t.yaml:1:8: TOP001 format version 2 is not known; this amqpq reads `amqpq: 1`"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_file_says_what_is_wrong_where_and_what_to_do(name: str, tmp_path: Path) -> None:
    """The problem is reported with place, rule, sentence and remedy, and nothing else is."""
    addition, expected = CASES[name]
    text = GOOD.replace("amqpq: 1", "amqpq: 2") if addition is None else GOOD + addition + "\n"
    assert problems(text, tmp_path, WORD="many") == [expected]


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    """Text, variables, shape, references and rules of one file are one list, in the order of the file."""
    text = """\
        amqpq: 1
        project: shop
        broker: {url: "${MISSING}"}
        exchanges:
          web: {type: topc}
        queues:
          high: {max_priority: ten, typ: quorum, dead_letter: parkd}
          low: {type: quorum, max_priority: 3}
        bindings:
          - {from: web, to: low, keys: [*.x]}
          - web[a] -> hihg
        schedule:
          s: {task: t, every: 1s}
        """
    found = problems(textwrap.dedent(text), tmp_path)
    assert [(problem.split(":")[1], problem.split(" ")[1]) for problem in found] == [
        ("3", "TOP004"),
        ("5", "TOP001"),
        ("7", "TOP001"),
        ("7", "TOP001"),
        ("7", "TOP013"),
        ("8", "TOP030"),
        ("10", "TOP002"),
        ("11", "TOP013"),
        ("13", "TOP000"),
    ]


def test_load_raises_one_error_with_every_problem(tmp_path: Path) -> None:
    """`load` raises what `inspect` lists, each problem on a line that begins with its place."""
    path = tmp_path / "t.yaml"
    path.write_text("amqpq: 1\nproject: p\nquees: {}\nrouts: {}\n")
    with pytest.raises(TopologyError) as caught:
        load(path, environ={})
    assert str(caught.value) == (
        f"2 errors in the topology:\n"
        f"{path}:3:1: TOP001 unknown key 'quees' (did you mean 'queues'?)\n"
        f"{path}:4:1: TOP001 unknown key 'routs' (did you mean 'routes'?)"
    )


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "t.yaml:1:1: TOP001 the file is empty; begin with `amqpq: 1` and `project: ...`"),
        ("- a\n- b\n", "t.yaml:1:1: TOP001 a topology file is a mapping: `amqpq: 1`, `project: ...`"),
        ("queues: {a: {}}\n", "t.yaml:1:1: TOP001 the file lacks the key 'amqpq'; begin the file with `amqpq: 1`"),
        ("amqpq: 1\n", "t.yaml:1:1: TOP001 the file lacks the key 'project'; name the project: `project: shop`"),
        ("a: [1\n", "t.yaml:2:1: TOP001 while parsing a flow sequence expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_files_that_are_no_topology_say_how_one_begins(text: str, words: str, tmp_path: Path) -> None:
    """An empty file, a list, a file without its head and text that is no YAML each have their sentence."""
    assert words in problems(text, tmp_path)


def test_a_file_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A missing file and one that is no text are named, not raised as something else."""
    with pytest.raises(TopologyError, match="there is no such file"):
        load(tmp_path / "missing.yaml", environ={})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TopologyError, match="not UTF-8 text"):
        load(tmp_path / "binary.yaml", environ={})
    with pytest.raises(TopologyError, match="cannot read it: Is a directory"):
        load(tmp_path, environ={})


def test_secrets_never_stand_in_an_error(tmp_path: Path) -> None:
    """Wrong values that come from a secret are reported without the value."""
    text = GOOD + 'variables: {S: {type: secret, from: "env:TOKEN"}}\nbroker: {url: ["${S}"], heartbeat: "${S}"}\n'
    found = "\n".join(problems(text, tmp_path, TOKEN="http://u:hunter2@h"))
    assert "TOP001" in found
    assert "hunter2" not in found
