"""Queues that have another name now: what is declared, where they live, and who is told to wait."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from amqpq.errors import ConfigurationError, LocalError
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations
from amqpq.topology.delays import entry
from amqpq.topology.generations import NOTHING_MOVED, Generations, Home, next_name, read, resolve, write
from amqpq.topology.renames import check_current, placed, unsure
from amqpq.types import BindingSpec, Properties, Publication

MOVED = [{"from": "queue.mail", "to": "queue.post"}]
FORMER = Home("mail", ("mail",), former="mail")
OWN = Home("post", ("post",), {"post": "classic"}, ingress=True, former="mail")


def loaded(*queues: str, **sections: Any) -> Topology:
    """Return a topology with these queues, all bound to `web`."""
    return load(
        {
            "amqpq": 1,
            "project": "shop",
            "exchanges": {"web": {"type": "topic"}},
            "queues": {name: {} for name in queues},
            "bindings": [f"web[{name}.#] -> {name}" for name in queues],
            "delays": {"max": "10s"},
            "security": {"signing": "off"},
            **sections,
        },
        environ={},
    )


@pytest.fixture(scope="module")
def new() -> Topology:
    """The file after the rename."""
    return loaded("post", "audit", moved=MOVED)


@pytest.fixture(scope="module")
def old() -> Topology:
    """The file of before."""
    return loaded("mail", "audit")


def bindings_to(topology: Topology, where: Generations, *targets: str) -> set[str]:
    """Return the bindings that an apply makes to these targets, as `source -> target`."""
    found = resolve(declarations(topology), where).bindings
    return {f"{each.source} -> {each.target}" for each in found if each.target in targets}


# ----------------------------------------------------------------------------------------------------- where it lives


def test_a_renamed_queue_lives_in_the_one_of_its_former_name(new: Topology) -> None:
    """Where the broker has that one and nobody has noted anything yet."""
    assert unsure(new, NOTHING_MOVED) == ("post", "mail")
    where = placed(new, NOTHING_MOVED, ["mail"])
    assert where.homes == {"post": replace(FORMER, noted=False)}
    assert where.to_note == ("post",)
    noted = where.noting()
    assert (noted.homes, noted.to_note, noted.serial) == ({"post": FORMER}, (), 1)
    assert unsure(new, noted) == ()
    assert placed(new, noted, []) == noted


@pytest.mark.parametrize("there", [[], ["post"]])
def test_on_a_broker_without_the_old_queue_the_new_one_lives_under_its_own_name(
    new: Topology, there: list[str]
) -> None:
    """An apply makes it, or has made it."""
    assert placed(new, NOTHING_MOVED, there) == NOTHING_MOVED


def test_two_queues_are_one_too_many(new: Topology) -> None:
    """Nobody knows which of them is meant, and what is routed to both comes twice."""
    with pytest.raises(LocalError, match="the broker has both, 'mail' and 'post'"):
        placed(new, NOTHING_MOVED, ["mail", "post"])


def test_a_queue_that_was_migrated_before_is_renamed_where_it_lives(new: Topology) -> None:
    """Its home stays in the record, for workers with the file of before, until the queue has one of its own name."""
    before = NOTHING_MOVED.with_home("mail", Home("mail.g2", ("mail.g2",), {"mail.g2": "quorum"}, ingress=True))
    assert unsure(new, before) == ("post",)
    where = placed(new, before, [])
    assert where.homes["post"] == Home("mail.g2", ("mail.g2",), {"mail.g2": "quorum"}, former="mail", noted=False)
    assert where.homes["mail"] == before.homes["mail"]
    with pytest.raises(LocalError, match=r"the broker has both, 'mail\.g2' and 'post'"):
        placed(new, before, ["post"])


def test_a_rename_waits_for_a_migration_under_the_former_name(new: Topology) -> None:
    """Its record would stay as it is now; workers follow that migration meanwhile."""
    moving = Home("mail", ("mail", "mail.g2"), ingress=True, moving=True, journal={"queue": "mail"})
    where = placed(new, NOTHING_MOVED.with_home("mail", moving), [])
    assert (where.consumed("post"), where.homes["post"].journal) == (("mail", "mail.g2"), None)
    assert where.to_note == ()
    assert set(where.noting().homes) == {"mail"}


def test_a_rename_can_be_taken_back(old: Topology) -> None:
    """By the line the other way round; then the file of before holds again, and no record speaks against it."""
    back = loaded("mail", "audit", moved=[{"from": "queue.post", "to": "queue.mail"}])
    record = NOTHING_MOVED.with_home("post", FORMER)
    assert unsure(back, record) == ("mail",)
    where = placed(back, record, ["mail"])
    assert (where.current("mail"), where.to_note) == ("mail", ("mail",))
    noted = where.noting()
    assert noted.homes == {"mail": Home("mail", ("mail",), ingress=True, former="post")}
    check_current(back, noted)
    check_current(old, noted)
    assert placed(old, noted, []) == noted
    between = loaded("post", "audit", moved=MOVED)  # a worker that runs on with the file in between
    assert placed(between, noted, []).consumed("post") == ("mail",)


def test_the_line_must_not_go_before_the_queue_has_one_of_its_own() -> None:
    """Else an apply would make a second queue, and the first one would be nobody's."""
    later = loaded("post", "audit")
    with pytest.raises(LocalError, match=r"keep `moved: \[\{from: queue\.mail, to: queue\.post\}\]` in the file until"):
        placed(later, NOTHING_MOVED.with_home("post", FORMER), [])
    own = NOTHING_MOVED.with_home("post", OWN)
    assert placed(later, own, []) == own


def test_the_record_alone_points_no_worker_at_another_queue(new: Topology) -> None:
    """Only the file says what a queue was called before."""
    forged = NOTHING_MOVED.with_home("audit", Home("secrets", ("secrets",), former="secrets"))
    with pytest.raises(LocalError, match="'audit' lives in 'secrets'"):
        placed(new, forged, [])
    forged = NOTHING_MOVED.with_home("post", replace(FORMER, consumed=("mail", "secrets"), former="secrets"))
    with pytest.raises(LocalError, match="'post' lives in 'secrets', which is none of its own"):
        placed(new, forged, [])
    body = json.loads(write(NOTHING_MOVED.with_home("post", FORMER)))
    body["queues"]["post"]["consumed"] = ["secrets"]
    with pytest.raises(LocalError, match="none of its own"):
        read(json.dumps(body).encode())


def test_the_record_comes_back_as_it_was_written() -> None:
    """With the former name, which only renamed queues have."""
    record = NOTHING_MOVED.with_home("post", FORMER).with_home("audit", Home("audit.g2", ("audit.g2",), ingress=True))
    assert read(write(record)) == record
    assert "former" not in json.loads(write(record))["queues"]["audit"]


def test_a_worker_with_the_file_of_before_goes_on(old: Topology) -> None:
    """It knows nothing of the new queue, and consumes the one that it knows."""
    record = NOTHING_MOVED.with_home("post", OWN)
    assert placed(old, record, []) == record
    assert record.consumed("mail") == ("mail",)


def test_nothing_is_declared_with_the_file_of_before(old: Topology, new: Topology) -> None:
    """It would make the queue of the former name anew, beside the one that takes its place."""
    for home in (FORMER, OWN):
        with pytest.raises(
            ConfigurationError, match="queue 'mail' was renamed to 'post', and this file has it under its"
        ):
            check_current(old, NOTHING_MOVED.with_home("post", home))
        check_current(new, NOTHING_MOVED.with_home("post", home))
    check_current(loaded("post", "mail"), NOTHING_MOVED.with_home("post", OWN))  # another queue has the name now
    back = loaded("mail", moved=[{"from": "queue.post", "to": "queue.mail"}])
    check_current(back, NOTHING_MOVED.with_home("post", FORMER))


def test_the_first_queue_of_the_new_name_comes_after_those_of_the_former() -> None:
    """Whatever generation of that it lived in."""
    assert next_name("post", "mail") == "post"
    assert next_name("post", "mail.g2") == "post"
    assert next_name("post", "post") == "post.g2"


# -------------------------------------------------------------------------------------------------- what is declared


def test_there_is_a_way_in_by_the_former_name(new: Topology) -> None:
    """As a migration of a queue of that name would have made it; and the exit of the delay ladder knows both names."""
    declared = declarations(new)
    assert {spec.name for spec in declared.exchanges} >= {"mail.in", "mail.alt"}
    assert BindingSpec("mail.in", "post") in declared.bindings
    exits = [
        tuple(each.arguments) for each in declared.bindings if each.source == "shop.delay.out" and each.target == "post"
    ]
    assert exits == [("x-match", "amqpq-to-post"), ("x-match", "amqpq-to-mail")]
    assert "mail" not in {spec.name for spec in declared.queues}


def test_all_bindings_lead_to_where_the_queue_lives(new: Topology) -> None:
    """To the queue of the former name; behind the migration to the ingress, and from there to its own; meanwhile nowhere."""
    ways = {"web -> mail", "mail.in -> mail", "shop.delay.out -> mail"}
    assert bindings_to(new, NOTHING_MOVED.with_home("post", FORMER), "mail", "post", "post.in") == ways
    found = bindings_to(new, NOTHING_MOVED.with_home("post", OWN), "mail", "post", "post.in")
    assert found == {"web -> post.in", "mail.in -> post.in", "shop.delay.out -> post.in", "post.in -> post"}
    moving = NOTHING_MOVED.with_home("post", replace(FORMER, moving=True))
    assert bindings_to(new, moving, "mail", "post", "post.in") == set()
    names = {spec.name for spec in resolve(declarations(new), NOTHING_MOVED.with_home("post", FORMER)).queues}
    assert ("mail" in names, "post" in names) == (True, False)


# -------------------------------------------------------------------------------------------------- how it is reached


def test_what_is_delayed_finds_its_queue_before_the_apply_and_after_it(new: Topology, old: Topology) -> None:
    """The ladder of before knows only the former name."""
    for topology, queue in ((old, "mail"), (new, "post")):
        headers = entry(topology, 3.0, [queue], 0.0).headers
        assert [name for name in headers if name.startswith("amqpq-to-")] == ["amqpq-to-mail"]


@pytest.mark.parametrize(
    ("home", "way"),
    [
        (None, ("", "post")),
        (FORMER, ("", "mail")),
        (replace(FORMER, moving=True, ingress=True), ("mail.in", "mail")),
        (Home("mail.g2", ("mail.g2",), ingress=True, former="mail"), ("mail.in", "mail")),
        (OWN, ("post.in", "post")),
    ],
)
def test_a_worker_publishes_so_that_others_understand(home: Home | None, way: tuple[str, str]) -> None:
    """By the former name where workers take it that know no other, else by its own."""
    record = NOTHING_MOVED if home is None else NOTHING_MOVED.with_home("post", home)
    found = record.address(Publication("", "post", b"", Properties()))
    assert (found.exchange, found.routing_key) == way
    assert record.address(Publication("web", "post", b"", Properties())).exchange == "web"
