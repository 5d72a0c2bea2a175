"""TOP064: what amqpq fills in otherwise than it did when the file was locked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from amqpq.topology import Inspection, inspect, lockfile
from amqpq.topology.lockfile import Lock, Locked, Values

HEAD = "amqpq: 1\nproject: shop\n"
QUEUES = "queues:\n  web: {ttl: 1h}\n  mail: {}\nexchanges:\n  events: {}\nbindings:\n  - events[a] -> web\n"

Look: TypeAlias = Callable[..., list[str]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Lock a file, change the lock as if another amqpq had filled it in, and return what lint says of a file then."""
    path = tmp_path / "topology.yaml"

    def inspected(text: str, environment: str | None = None) -> Inspection:
        path.write_text(HEAD + text, encoding="utf-8")
        return inspect(path, environ={}, environment=environment)

    def run(was: dict[str, dict[str, Any]], text: str = QUEUES, *, now: str | None = None) -> list[str]:
        found = inspected(text)
        assert found.file is not None
        assert found.topology is not None, found.errors
        objects = dict(lockfile.resolve(found.file, found.topology))
        for address, values in was.items():
            objects[address] = filled(objects[address], values)
        lock = Lock({("shop", None): Locked("0.0.9", objects), ("shop", "prod"): Locked("0.0.9", objects)})
        lockfile.beside(path).write_text(lockfile.render(lock), encoding="utf-8")
        problems = inspected(text if now is None else now).problems
        place = f"{path}:"
        return [
            f"{str(each.place).removeprefix(place)} {each.message}; {each.remedy}"
            for each in problems
            if each.rule == "TOP064"
        ]

    return run


def filled(values: Values, changes: dict[str, Any]) -> Values:
    """Return the values with other defaults; None takes one out."""
    after = {**values.filled, **changes}
    return replace(values, filled={key: value for key, value in after.items() if value is not None})


def test_nothing_is_said_of_a_lock_that_holds(look: Look) -> None:
    """Nor where there is none."""
    assert look({}) == []


def test_a_default_for_life_is_told_with_its_price(look: Look) -> None:
    """Both values, who filled them in, how to keep it, and what accepting costs; at the queue."""
    (said,) = look({"queue mail": {"x-queue-type": "quorum"}})
    assert said == (
        "5:9 x-queue-type of the queue 'mail' was quorum by amqpq 0.0.9 (amqpq.lock), and this one makes it classic; "
        "write `type: quorum` to keep it, or accept it with `amqpq topology lock`: a queue that exists has to be migrated then"
    )


@pytest.mark.parametrize(
    "was,words",
    [
        ({"x-message-ttl": 90_000}, "write `ttl: 90s` to keep it, or accept it with `amqpq topology lock`"),
        ({"x-overflow": "drop-head"}, "write `limits: {overflow: drop-head}` to keep it, or accept"),
        (
            {"durable": False},
            "write `durable: false` to keep it, or accept it with `amqpq topology lock`: a queue that exists",
        ),
        ({"x-dead-letter-routing-key": None}, "write `dead_letter: none` to keep it"),
        ({"x-dead-letter-routing-key": "old"}, "write the queue of the lock under `dead_letters`, and its name"),
        ({"x-new": 5}, "write `extra_arguments: {x-new: 5}` to keep it"),
    ],
    ids=repr,
)
def test_the_remedy_is_in_the_words_of_the_file(look: Look, was: dict[str, Any], words: str) -> None:
    """What the lock says as an argument is written with the file's key."""
    (said,) = look({"queue mail": was})
    assert words in said


@pytest.mark.parametrize("argument,key", [(None, "write `type: topic`"), (False, "write `durable: false`")])
def test_an_exchange_that_exists_would_have_to_be_replaced(look: Look, argument: bool | None, key: str) -> None:
    """Nothing about one changes."""
    (said,) = look({"exchange events": {"type": "topic"} if argument is None else {"durable": argument}})
    assert key in said
    assert said.endswith(": an exchange that exists has to be replaced then")


def test_what_the_file_says_is_not_told(look: Look) -> None:
    """Neither what it said when it was locked, nor what it says now."""
    was = {"queue mail": {"x-queue-type": "quorum"}}
    assert look(was, now=QUEUES.replace("mail: {}", "mail: {type: quorum}")) == []
    assert look(was, now=QUEUES.replace("mail: {}", "mail: {type: classic}")) == []
    assert look({}, now=QUEUES.replace("ttl: 1h", "ttl: 2h")) == []
    assert look({}, now=QUEUES.replace("{ttl: 1h}", "{}")) == []


def test_the_generated_queue_of_dead_letters_can_be_written_out(look: Look) -> None:
    """With its type it is kept as it was; that is told at the project, which names it."""
    was = {"queue shop.dead": {"x-queue-type": "quorum"}}
    (said,) = look(was)
    assert said.startswith("2:10 x-queue-type of the queue 'shop.dead' was quorum by amqpq 0.0.9")
    assert "write `type: quorum` for 'shop.dead' under `queues` to keep it, or accept it with" in said
    assert look(was, now=QUEUES.replace("mail: {}", "mail: {}\n  shop.dead: {type: quorum}")) == []


def test_a_ladder_is_told_once(look: Look) -> None:
    """Of all its queues that changed alike the first is named, and how many there are."""
    text = QUEUES + "delays: {max: 1m}\n"
    was = {f"queue shop.delay.0.{digit}": {"x-queue-type": "classic"} for digit in (1, 2, 3)}
    (said,) = look(was, text)
    assert said.startswith("2:10 x-queue-type of the queue 'shop.delay.0.1' was classic by amqpq 0.0.9")
    assert "this one makes it quorum (and of 2 more); `amqpq topology plan` says" in said


def test_another_environment_has_values_of_its_own(look: Look, tmp_path: Path) -> None:
    """One that was not locked is not compared with another one's."""
    text = QUEUES + "environments:\n  prod: {}\n  test: {}\n"
    assert look({"queue mail": {"x-queue-type": "quorum"}}, text) != []

    def rules(environment: str) -> list[str]:
        found = inspect(tmp_path / "topology.yaml", environ={}, environment=environment)
        return [each.rule for each in found.problems if each.rule == "TOP064"]

    assert (rules("prod"), rules("test")) == (["TOP064"], [])


def test_a_lock_that_cannot_be_read_is_told_and_keeps_nobody_from_working(look: Look, tmp_path: Path) -> None:
    """As a warning at the lock, with the remedy."""
    look({})
    (tmp_path / "amqpq.lock").write_text("<<<<<<< ours", encoding="utf-8")
    found = inspect(tmp_path / "topology.yaml", environ={})
    (problem,) = [each for each in found.problems if each.rule == "TOP064"]
    assert (str(problem.place), problem.severity) == (str(tmp_path / "amqpq.lock"), "warning")
    assert problem.remedy.startswith("take the one of git again")
    assert found.topology is not None
