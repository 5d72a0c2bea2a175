"""Bad input, the topology file: what a person sees who has made a mistake in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from amqpq import App, errors
from tests.support.commands import Said, amqpq

pytestmark = pytest.mark.acceptance

MISTAKES = """\
amqpq: 1
project: shop

broker:
  url: amqp://shop:hunter2@rabbit.example/shop

exchanges:
  web: {type: topik}
  news: {type: fanout, durabel: true}
  audit: {type: headers}

queues:
  web.high: {max_priority: "10"}
  web.low: {ttl: 30}
  web.high: {}
  country: {dead_letter: no}

bindings:
  - news -> nowhere
  - web[web.high, #] -> web.high
  - {from: web, to: web.low, keys: [*.created]}
  - {from: audit, to: country, headers: {legal: yes}}

routes:
  "web.*": {exchange: web, key: #}
  "shop.*":
    exchange: web
    key: #
  "news.*": {exchange: news, reply: "${SHOP_REPLY}"}

messages:
  compression: gzip

schedule:
  nightly: {task: tasks.report, cron: "15 2 * * *"}
"""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in the file: the text it stands at, and what must be said about it."""

    at: str
    sentence: str
    line: int | None = None

    def place(self, file: str) -> str:
        """Return `file:line:column` of the text in the file."""
        lines = MISTAKES.split("\n")
        line = self.line or next(number for number, text in enumerate(lines, 1) if self.at in text)
        return f"{file}:{line}:{lines[line - 1].index(self.at) + 1}:"


EXPECTED = {
    "unknown key": Mistake("durabel", "unknown key 'durabel' in 'exchanges.news' (did you mean 'durable'?)"),
    "unknown word": Mistake("topik", "exchanges.web.type must be one of direct, topic, fanout, headers"),
    "swallowed # in a binding": Mistake(
        "web[web.high, #]", "ends inside its keys: a '#' after a space begins a comment in YAML; quote all of it"
    ),
    "swallowed # in braces": Mistake(
        "#}", "a '#' after a space begins a comment, and swallowed the end of the list or mapping; quote it"
    ),
    "swallowed # on a line": Mistake(
        " #", "routes.shop.*.key is empty, because '#' begins a comment; quote it if it is meant: key: \"#\"", line=28
    ),
    "swallowed *": Mistake(
        "*.created", "'*.created' begins with '*', which YAML takes as an alias; quote it: \"*.created\""
    ),
    "text for a number": Mistake('"10"', "queues.web.high.max_priority must be a whole number, not the text '10'"),
    "a number without a unit": Mistake("30}", "queues.web.low.ttl: 30 has no unit; write 30s for seconds"),
    "no is a boolean": Mistake("no}", 'must be text, and YAML reads no as the boolean false; quote it: "no"', line=16),
    "yes is a boolean": Mistake(
        "yes}", "YAML reads yes as the boolean true, and headers compare with their type; quote"
    ),
    "a key written twice": Mistake(
        "web.high: {}", "the key 'web.high' is written twice; the first is at line 13; remove one of them"
    ),
    "a variable without a value": Mistake(
        '"${SHOP_REPLY}"',
        "the variable 'SHOP_REPLY' is neither declared under `variables:` nor set in the environment; set $SHOP_REPLY",
    ),
    "a secret in clear": Mistake(
        "amqp://shop:hunter2",
        "a password stands here in clear; take it from a variable: `{type: secret, from: env:NAME}`",
    ),
    "a binding to nowhere": Mistake(
        "news -> nowhere", "the binding leads nowhere: there is no queue and no exchange 'nowhere'; declare it under"
    ),
    "an unknown algorithm": Mistake(
        "gzip", "messages.compression.algorithm must be one of zlib, bzip2, none, not 'gzip' (did you mean 'bzip2'?)"
    ),
    "not built yet": Mistake("{task: tasks.report", "not built yet: scheduled tasks; remove it rather than rely on it"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, and with an application that names it."""
    made = tmp_path_factory.mktemp("mistakes")
    (made / "shop.yaml").write_text(MISTAKES)
    (made / "shop.py").write_text('from amqpq import App\n\napp = App("shop.yaml")\n')
    return made


@pytest.fixture(scope="module")
def linted(folder: Path) -> Said:
    """What `amqpq topology lint` says of the file."""
    return amqpq(folder, "topology", "lint", "-t", "shop.yaml")


@pytest.mark.parametrize("mistake", EXPECTED.values(), ids=EXPECTED.keys())
def test_lint_says_where_and_what(linted: Said, mistake: Mistake) -> None:
    """Each mistake has a line that begins with file:line:column and says what was expected or how to mend it."""
    place = mistake.place("shop.yaml")
    about = [line for line in linted.out.splitlines() if line.startswith(place)]
    assert any(": error TOP" in line and mistake.sentence in line for line in about), f"{place}\n{linted.out}"


def test_lint_says_everything_at_once(linted: Said) -> None:
    """One look at the file is enough: no mistake hides another, and none is told twice."""
    linted.refused()
    told = [line for line in linted.out.splitlines() if ": error " in line]
    assert len(told) == len(EXPECTED), linted.out
    assert linted.err.startswith(f"{len(EXPECTED)} errors")


def test_lint_speaks_to_machines(folder: Path) -> None:
    """`--json` has the same findings, with place, rule and remedy apart."""
    said = amqpq(folder, "topology", "lint", "-t", "shop.yaml", "--json")
    said.refused()
    found = [problem for problem in json.loads(said.out)["problems"] if problem["severity"] == "error"]
    assert len(found) == len(EXPECTED)
    twice = next(problem for problem in found if "written twice" in problem["message"])
    assert (twice["file"], twice["line"], twice["column"]) == ("shop.yaml", 15, 3)
    assert twice["rule"].startswith("TOP")
    assert twice["remedy"] == "remove one of them"


@pytest.mark.parametrize(
    "command",
    [
        ("topology", "apply", "-t", "shop.yaml"),
        ("call", "-t", "shop.yaml", "web.resize"),
        ("worker", "-A", "shop"),
    ],
    ids=lambda command: command[0] if command[0] != "topology" else "apply",
)
def test_every_command_refuses_the_file_with_all_its_mistakes(folder: Path, command: Sequence[str]) -> None:
    """Whatever is done with the file, its mistakes are listed with their places, and nothing is sent."""
    said = amqpq(folder, *command).refused()
    assert f"error: {len(EXPECTED)} errors in the topology:" in said
    for mistake in EXPECTED.values():
        assert mistake.place("shop.yaml") in said
        assert mistake.sentence in said


def test_the_password_is_not_repeated(linted: Said, folder: Path) -> None:
    """What complains of a secret in clear does not show it once more."""
    assert "hunter2" not in linted.out + linted.err
    with pytest.raises(errors.TopologyError) as caught:
        _ = App(folder / "shop.yaml", environ={}).topology
    assert "hunter2" not in str(caught.value)


def test_python_gets_the_same_list(folder: Path) -> None:
    """In Python the error holds one sentence for each mistake, with its place."""
    with pytest.raises(errors.TopologyError) as caught:
        _ = App(folder / "shop.yaml", environ={}).topology
    assert len(caught.value.problems) == len(EXPECTED)
    place = EXPECTED["unknown key"].place(str(folder / "shop.yaml"))
    assert any(problem.startswith(place) for problem in caught.value.problems)


def test_a_mapping_is_checked_like_a_file() -> None:
    """A topology that was written in Python has no lines; its mistakes are named by their path."""
    app = App({"amqpq": 1, "project": "shop", "queues": {"default": {"max_prioritty": 10}}}, environ={})
    with pytest.raises(errors.TopologyError) as caught:
        _ = app.topology
    (problem,) = caught.value.problems
    assert problem.startswith("<mapping>:queues.default.max_prioritty: ")
    assert "(did you mean 'max_priority'?)" in problem


# ------------------------------------------------------------------------------------------- what is not in one file


def test_a_secret_that_does_not_fit_is_not_shown(tmp_path: Path) -> None:
    """A secret of the wrong form, from the environment, is refused by its place and never printed."""
    (tmp_path / "topology.yaml").write_text(
        "amqpq: 1\nproject: shop\nvariables:\n  ADDRESS: {type: secret, from: 'env:SHOP_ADDRESS'}\n"
        'broker: {url: "${ADDRESS}"}\nqueues: {default: {}}\n'
    )
    said = amqpq(tmp_path, "topology", "lint", extra={"SHOP_ADDRESS": "http://shop:hunter2@rabbit.example/"})
    said.refused()
    assert "topology.yaml:5:15: error TOP001" in said.out
    assert "amqp://user:password@host:5672/vhost" in said.out
    assert "hunter2" not in said.out + said.err


def test_a_secret_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    """A variable whose source is not there is named with its source."""
    (tmp_path / "topology.yaml").write_text(
        "amqpq: 1\nproject: shop\nvariables:\n  ADDRESS: {type: secret, from: 'env:SHOP_ADDRESS'}\n"
        'broker: {url: "${ADDRESS}"}\nqueues: {default: {}}\n'
    )
    said = amqpq(tmp_path, "topology", "lint")
    said.refused()
    assert (
        "topology.yaml:5:15: error TOP004 the variable 'ADDRESS' has no value: env:SHOP_ADDRESS is not there"
        in said.out
    )


def test_a_value_of_the_wrong_type_from_outside_is_named(tmp_path: Path) -> None:
    """`int` in the file and text in the environment: both are said."""
    (tmp_path / "topology.yaml").write_text(
        "amqpq: 1\nproject: shop\nvariables:\n  LIMIT: {type: int}\n"
        'queues: {default: {limits: {max_length: "${LIMIT}"}}}\n'
    )
    said = amqpq(tmp_path, "topology", "lint", extra={"LIMIT": "many"})
    said.refused()
    assert "the variable 'LIMIT' is declared as int, and env:LIMIT holds 'many'" in said.out
    assert "topology.yaml:5:" in said.out


def test_a_missing_file_names_the_ways_to_say_it(tmp_path: Path) -> None:
    """Without a file there, a person learns how to name one."""
    said = amqpq(tmp_path, "topology", "lint").refused()
    assert "no topology file at topology.yaml; name one with -t FILE or $AMQPQ_TOPOLOGY" in said
    assert "no topology file at shop.yaml" in amqpq(tmp_path, "topology", "apply", "-t", "shop.yaml").refused()


def test_a_missing_environment_is_corrected(tmp_path: Path) -> None:
    """`-e` with a typo says what the file has."""
    (tmp_path / "topology.yaml").write_text(
        "amqpq: 1\nproject: shop\nqueues: {default: {}}\nenvironments: {prod: {}}\n"
    )
    said = amqpq(tmp_path, "topology", "show", "-e", "prdo").refused()
    assert (
        "topology.yaml:4:15: TOP001 there is no environment 'prdo' (did you mean 'prod'?); the file has: prod" in said
    )


def test_text_that_is_no_yaml_has_its_place(tmp_path: Path) -> None:
    """A tab in the indentation, the commonest fault of all, is named as such."""
    (tmp_path / "topology.yaml").write_text("amqpq: 1\nproject: shop\nqueues:\n\tdefault: {}\n")
    said = amqpq(tmp_path, "topology", "lint")
    said.refused()
    assert "topology.yaml:4:1: error TOP001 a tab cannot indent YAML; use spaces" in said.out
