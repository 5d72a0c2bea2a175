"""`amqpq.lock` as a value: what an object resolves to, who says it, what differs, and the text of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amqpq.errors import ConfigurationError
from amqpq.topology import inspect, load, lockfile
from amqpq.topology.lockfile import Difference, Lock, Locked, Values

HEAD: dict[str, Any] = {"amqpq": 1, "project": "shop"}
DEAD = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "shop.dead"}


def resolved(**sections: Any) -> dict[str, Values]:
    """Return what a file resolves to."""
    inspection = inspect({**HEAD, **sections}, environ={})
    assert inspection.file is not None
    assert inspection.topology is not None, inspection.errors
    return lockfile.resolve(inspection.file, inspection.topology)


def queue(part: dict[str, Any] | None, **sections: Any) -> Values:
    """Return what the queue `web` resolves to."""
    return resolved(queues={"web": part}, **sections)["queue web"]


def changed(before: dict[str, Values], after: dict[str, Values]) -> list[tuple[str, str, Any, Any, bool]]:
    """Return what differs, as tuples."""
    found = lockfile.differences(before, after)
    return [(each.address, each.key, each.before, each.after, each.meant) for each in found]


# ---------------------------------------------------------------------------------------------------------- resolving


def test_what_the_file_does_not_say_is_a_default() -> None:
    """A queue of which nothing is said has its type, durability and dead letters from amqpq."""
    values = queue({})
    assert values.said == {}
    assert values.filled == {"durable": True, "auto_delete": False, "x-queue-type": "classic", **DEAD}


@pytest.mark.parametrize(
    "part,said",
    [
        ({"type": "quorum"}, {"x-queue-type": "quorum"}),
        ({"durable": True}, {"durable": True}),
        ({"ttl": "1h"}, {"x-message-ttl": 3_600_000}),
        ({"max_priority": None}, {"x-max-priority": None}),
        ({"limits": {"max_length": 5}}, {"x-max-length": 5}),
        ({"limits": None}, {"x-max-length": None, "x-max-length-bytes": None, "x-overflow": None}),
        ({"dead_letter": "none"}, dict.fromkeys(DEAD)),
        (
            {"type": "quorum", "extra_arguments": {"x-queue-leader-locator": "balanced"}},
            {"x-queue-type": "quorum", "x-queue-leader-locator": "balanced"},
        ),
        ({"partitions": 3}, {"partitions": 3}),
    ],
    ids=repr,
)
def test_what_the_file_says_is_no_default(part: dict[str, Any], said: dict[str, Any]) -> None:
    """Each key of a queue is its own; None where the file says that there is none."""
    values = queue(part)
    assert values.said == said
    assert values.filled.keys().isdisjoint(said)


def test_every_key_of_a_queue_that_becomes_an_argument_is_known() -> None:
    """A new key of the format must say what it becomes; the others change no declaration."""
    from_parts = {key.partition(".")[0] for key in lockfile.ARGUMENTS}
    inspection = inspect({**HEAD, "queues": {"web": {}}}, environ={})
    assert inspection.file is not None
    fields = set(type(inspection.file.queues["web"]).model_fields)
    assert fields - from_parts == {"require", "partition_by", "manage", "extra_arguments"}
    assert from_parts <= fields


def test_exchanges_are_there_too() -> None:
    """With type, durability and alternate exchange."""
    found = resolved(exchanges={"web": {"type": "topic", "unrouted": "lost"}, "lost": {}}, queues={"q": {}})
    assert found["exchange web"].said == {"type": "topic", "alternate-exchange": "lost"}
    assert found["exchange web"].filled == {"durable": True, "auto_delete": False, "internal": False}
    assert found["exchange lost"].filled["type"] == "direct"


def test_a_partitioned_queue_is_there_once() -> None:
    """By the name that the file gives it, with the exchange before it."""
    found = resolved(queues={"clicks": {"partitions": 8, "partition_by": {"header": "user"}}}, routes={})
    assert sorted(found) == ["exchange clicks.hash", "queue clicks", "queue shop.dead"]
    assert found["exchange clicks.hash"].said == {"hash-header": "user", "hash-property": None}


def test_generated_objects_are_there_with_what_the_file_says_of_them() -> None:
    """The ladder's times follow from `delays.unit`, the revocations' age from `control.revocations`."""
    sections = {"queues": {"web": {}}, "control": {"revocations": "1h"}, "limits": {"*": {"concurrency": 2}}}
    usual = resolved(**sections, delays={})
    spoken = resolved(**sections, delays={"unit": "1s"})
    assert usual["queue shop.delay.0.1"].filled["x-message-ttl"] == 125
    assert spoken["queue shop.delay.0.1"].said == {"x-message-ttl": 1000}
    assert usual["queue shop.revocations"].said == {"x-max-age": "3600s"}
    assert usual["queue shop.permits.*.2"].filled["x-max-length"] == 2


def test_what_is_not_declared_is_not_there() -> None:
    """Objects of others have their owner's properties."""
    assert list(resolved(queues={"web": {"manage": "verify"}, "mail": {"manage": "external"}})) == ["queue shop.dead"]


# ---------------------------------------------------------------------------------------------------------- comparing


def test_a_default_that_changed_was_not_meant() -> None:
    """Nobody wrote it, then or now."""
    now = resolved(queues={"web": {}})
    was = {**now, "queue web": Values({}, {**now["queue web"].filled, "x-queue-type": "quorum", "x-overflow": "x"})}
    assert changed(was, now) == [
        ("queue web", "x-overflow", "x", None, False),
        ("queue web", "x-queue-type", "quorum", "classic", False),
    ]


@pytest.mark.parametrize(
    "before,after",
    [
        ({}, {"type": "quorum"}),
        ({"type": "quorum"}, {}),
        ({"ttl": "1h"}, {}),
        ({}, {"dead_letter": "none"}),
        ({"dead_letter": "none"}, {}),
        ({"limits": {"max_length": 5}}, {"limits": {"max_length_bytes": 5}}),
        ({}, {"type": "stream", "retention": {"max_age": "1D"}}),
        ({"type": "quorum"}, {"type": "quorum", "single_active": True, "partitions": 2}),
    ],
    ids=repr,
)
def test_what_somebody_wrote_or_took_out_was_meant(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A change of the file is a change by intent, in what follows from it as well."""
    found = changed({"queue web": queue(before)}, {"queue web": queue(after)})
    assert found
    assert all(meant for *_, meant in found), found


def test_what_another_section_says_was_meant() -> None:
    """A queue that takes dead letters has none itself, and not because of a default."""
    letters = {"dead_letters": {"late": {"queue": "web"}}}
    usual, taking = queue({}), queue({}, **letters)
    for before, after in ((usual, taking), (taking, usual)):
        found = changed({"queue web": before}, {"queue web": after})
        assert [(key, meant) for _, key, _, _, meant in found] == [(key, True) for key in DEAD]


def test_a_default_delivery_limit_that_changed_was_not_meant() -> None:
    """It follows from what is said of the queue, and here nothing else is said than before."""
    part = {"type": "quorum", "single_active": True, "partitions": 2}
    now = queue(part)
    was = Values(now.said, {**now.filled, "x-delivery-limit": 10})
    assert changed({"queue web": was}, {"queue web": now}) == [("queue web", "x-delivery-limit", 10, 20, False)]


def test_objects_come_and_go() -> None:
    """As a whole, not value by value."""
    one, two = resolved(queues={"one": {}}), resolved(queues={"two": {}})
    found = list(lockfile.differences(one, two))
    assert [(each.address, each.key, each.before is None) for each in found] == [
        ("queue one", "", False),
        ("queue two", "", True),
    ]
    assert found[0] == Difference("queue one", "", one["queue one"].whole, None)


def test_one_is_not_true() -> None:
    """To the broker they are two values."""
    one, true = ({"queue web": Values({"x": value})} for value in (1, True))
    assert changed(one, true) == [("queue web", "x", 1, True, True)]


def test_a_lock_is_stale_when_a_value_differs(tmp_path: Path) -> None:
    """Whoever says it; and fresh when it was just made."""
    (tmp_path / "topology.yaml").write_text("amqpq: 1\nproject: shop\nqueues:\n  web: {ttl: 1h}\n")
    topology = load(tmp_path / "topology.yaml", environ={})
    now = resolved(queues={"web": {"ttl": "1h"}})
    assert not lockfile.is_stale(Locked("1", now), topology)
    assert lockfile.is_stale(Locked("1", resolved(queues={"web": {"ttl": "2h"}})), topology)
    assert lockfile.is_stale(Locked("1", resolved(queues={"web": {"ttl": "1h"}, "mail": {}})), topology)


# ------------------------------------------------------------------------------------------------------------ the text


def test_a_lock_comes_back_as_it_was_written() -> None:
    """Several projects and environments in one file do not touch each other."""
    objects = resolved(queues={"web": {"ttl": "1h", "dead_letter": "none"}}, delays={})
    entries = {("shop", None): objects, ("shop", "prod"): resolved(queues={"web": {}}), ("crm", "base"): objects}
    lock = Lock({key: Locked("0.1", value) for key, value in entries.items()})
    text = lockfile.render(lock)
    assert lockfile.parse(text) == lock
    assert lockfile.render(lockfile.parse(text)) == text


def test_a_value_has_a_line_of_its_own_in_a_settled_order() -> None:
    """The order of the file is not that of the lock, so that moving a queue in the file changes nothing."""
    texts = {
        lockfile.render(Lock({("shop", None): Locked("0.1", resolved(queues=queues))}))
        for queues in ({"a": {"ttl": "1h", "expires": "2h"}, "b": {}}, {"b": {}, "a": {"expires": "2h", "ttl": "1h"}})
    }
    assert len(texts) == 1
    assert '"x-message-ttl": 3600000' in [line.strip(" ,") for line in texts.pop().splitlines()]


@pytest.mark.parametrize(
    "text,words",
    [
        ("<<<<<<< ours\n{}", r"it cannot be read \(line 1: .*\); take the one of git again"),
        ("{}", "it cannot be read"),
        ("[]", "it cannot be read"),
        ('{"amqpq_lock": 1, "projects": {"shop": {"base": {"amqpq": "1"}}}}', "it cannot be read"),
        ('{"amqpq_lock": 2, "projects": {}}', "of format 2, and this amqpq reads 1; use the amqpq that wrote it"),
    ],
)
def test_what_is_no_lock_is_refused_with_the_remedy(text: str, words: str) -> None:
    """A merge conflict, another file, or one of a newer amqpq."""
    with pytest.raises(ConfigurationError, match=words):
        lockfile.parse(text)
