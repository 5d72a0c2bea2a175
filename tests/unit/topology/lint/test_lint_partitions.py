"""What lint says of partitioned queues beyond the samples of the catalogue."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.topology import inspect


def said(queues: dict[str, Any], **sections: Any) -> list[str]:
    """Return what lint finds, without what is only worth knowing."""
    problems = inspect({"amqpq": 1, "project": "shop", "queues": queues, **sections}, environ={}).problems
    return [f"{each.rule} {each.severity}: {each.message}" for each in problems if each.severity != "info"]


ROUTE = {"*": {"queue": "clicks", "key": "{user}"}}


def test_a_sound_one_is_sound() -> None:
    """By key, header and id."""
    assert said({"clicks": {"partitions": 4}}, routes=ROUTE) == []
    by_id = {"partitions": 4, "partition_by": {"property": "correlation_id"}}
    assert said({"clicks": by_id}, routes={"*": {"queue": "clicks"}}) == []


@pytest.mark.parametrize(
    ("queue", "sections", "finding"),
    [
        (
            {},
            {"routes": {"*": {"queue": "clicks"}}},
            "TOP015 error: the route '*' has no key, and 'clicks' has partitions",
        ),
        (
            {},
            {"routes": {"*": {"queue": "clicks", "key": "all"}}},
            "TOP023 warning: all tasks of '*' have the key 'all'",
        ),
        (
            {},
            {"routes": {"*": {"queue": "clicks", "key": "{us er}"}}},
            "TOP015 error: the key '{us er}' is no template",
        ),
        (
            {"partition_by": {"header": "h"}},
            {"routes": ROUTE},
            "TOP023 warning: the key of the route '*' has no effect",
        ),
        ({"partition_by": {}}, {"routes": ROUTE}, "TOP082 error: partition_by of 'clicks' says nothing"),
        (
            {"partition_by": {"header": "h", "property": "message_id"}},
            {"routes": ROUTE},
            "TOP082 error: partition_by of 'clicks' says two things",
        ),
        ({"type": "stream", "retention": {"max_age": "1D"}}, {"routes": ROUTE}, "TOP082 error: 'clicks' is a stream"),
        (
            {},
            {"routes": ROUTE, "dead_letters": {"d": {"queue": "clicks"}}},
            "TOP082 error: 'clicks' takes dead letters",
        ),
        (
            {},
            {"routes": ROUTE, "exchanges": {"clicks.hash": {}}, "bindings": ["clicks.hash[x] -> clicks"]},
            "TOP011 error: 'clicks.hash' would collide with the exchange of 'clicks'",
        ),
        ({}, {}, "TOP016 warning: no binding and no route leads to the queue 'clicks'"),
    ],
)
def test_what_is_wrong_with_one_is_told(queue: dict[str, Any], sections: dict[str, Any], finding: str) -> None:
    """Each with its rule."""
    found = said(
        {"clicks": {"partitions": 4, **queue}, "other": {}}, **{"routes": {"x": {"queue": "other"}}, **sections}
    )
    assert any(text.startswith(finding) for text in found), found


def test_a_queue_named_like_a_partition_is_refused_whatever_its_number() -> None:
    """One day there may be as many."""
    found = said({"clicks": {"partitions": 4}, "clicks.17": {}}, routes={**ROUTE, "x": {"queue": "clicks.17"}})
    assert "TOP011 error: 'clicks.17' would collide with a partition of 'clicks'" in found


def test_the_names_of_partitions_have_to_fit_too() -> None:
    """The broker takes 255 bytes."""
    name = "c" * 252
    found = said({name: {"partitions": 4}}, routes={"*": {"queue": name, "key": "{user}"}})
    assert any(text.startswith("TOP006") for text in found)


def test_a_key_beside_a_queue_without_partitions_is_still_one_too_many() -> None:
    """There is nothing to choose."""
    assert any(text.startswith("TOP001") for text in said({"clicks": {}}, routes=ROUTE))
