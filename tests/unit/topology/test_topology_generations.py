"""The record of generations, and what an apply makes of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from amqpq.errors import LocalError
from amqpq.topology.declarations import Declarations
from amqpq.topology.generations import (
    NOTHING_MOVED,
    Home,
    is_generation,
    located,
    next_name,
    read,
    resolve,
    write,
)
from amqpq.types import BindingSpec, ExchangeSpec, Properties, Publication, QueueSpec

MOVED = Home("orders.g2", ("orders.g2",), {"orders.g2": "quorum"}, ingress=True)
WANTED = Declarations(
    exchanges=(ExchangeSpec("web", "topic"),),
    queues=(QueueSpec("orders"), QueueSpec("mail")),
    bindings=(BindingSpec("web", "orders", "web.#"), BindingSpec("web", "mail", "mail")),
)


def test_names_count_up_from_two() -> None:
    """The generations of `orders` are `orders`, `orders.g2`, `orders.g3`; nothing else is one."""
    assert next_name("orders", "orders") == "orders.g2"
    assert next_name("orders", "orders.g2") == "orders.g3"
    assert next_name("orders", "orders.g99") == "orders.g100"
    assert [name for name in ("orders", "orders.g2", "orders.g1", "orders.g02", "other", "orders.in", "orders.g2.g2")
            if is_generation("orders", name)] == ["orders", "orders.g2"]  # fmt: skip


def test_a_project_that_never_migrated_is_as_the_file_says() -> None:
    """Without a record nothing changes."""
    assert resolve(WANTED, NOTHING_MOVED) == WANTED
    assert located(WANTED, NOTHING_MOVED) == WANTED
    assert NOTHING_MOVED.current("orders") == "orders"
    assert NOTHING_MOVED.consumed("orders") == ("orders",)


def test_an_apply_declares_a_moved_queue_where_it_lives() -> None:
    """Under its physical name, bound to its ingress, and the bindings of the file lead to that."""
    found = resolve(WANTED, NOTHING_MOVED.with_home("orders", MOVED))
    assert [spec.name for spec in found.queues] == ["orders.g2", "mail"]
    assert [spec.name for spec in found.exchanges] == ["web", "orders.alt", "orders.in"]
    assert found.exchanges[-1].arguments == {"alternate-exchange": "orders.alt"}
    assert set(map(str, found.bindings)) == {
        str(BindingSpec("orders.in", "orders.g2")),
        str(BindingSpec("web", "orders.in", "web.#", to_exchange=True)),
        str(WANTED.bindings[1]),
    }


def test_an_apply_leaves_a_queue_alone_that_is_being_moved() -> None:
    """Neither the queue nor one of its bindings is declared: they are the migration's."""
    found = resolve(WANTED, NOTHING_MOVED.with_home("orders", replace(MOVED, moving=True)))
    assert [spec.name for spec in found.queues] == ["mail"]
    assert found.bindings == WANTED.bindings[1:]


def test_a_worker_needs_every_queue_that_it_is_to_consume() -> None:
    """What it verifies at its start are the physical queues, and it does not compare them with the file."""
    both = replace(MOVED, consumed=("orders", "orders.g2"), moving=True)
    found = located(WANTED, NOTHING_MOVED.with_home("orders", both))
    assert [spec.name for spec in found.queues] == ["mail"]
    assert [spec.name for spec in found.expected_queues] == ["orders", "orders.g2"]


def test_a_publication_by_name_goes_through_the_ingress() -> None:
    """Only where there is one, and only for the default exchange."""
    record = NOTHING_MOVED.with_home("orders", MOVED)
    publication = Publication("", "orders", b"", Properties())
    assert record.address(publication) == publication._replace(exchange="orders.in")
    assert record.address(publication._replace(exchange="web")).exchange == "web"
    assert record.address(publication._replace(routing_key="mail")).exchange == ""


def test_a_record_cannot_point_workers_at_another_queue() -> None:
    """Whoever can write to the stream can name generations of the queue, and no others."""
    body = json.loads(write(NOTHING_MOVED.with_home("orders", MOVED)))
    body["queues"]["orders"]["consumed"] = ["secrets"]
    with pytest.raises(LocalError, match="none of its own"):
        read(json.dumps(body).encode())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"format": 1}', b"\xff", b'{"format": 1, "serial": 1, "queues": {"a": {}}}']
)
def test_what_is_no_record_is_refused(body: bytes) -> None:
    """Nothing but the error of a record that cannot be read comes out."""
    with pytest.raises(LocalError, match="cannot be read"):
        read(body)


def test_a_record_of_a_later_format_is_refused() -> None:
    """An older version does not guess."""
    with pytest.raises(LocalError, match="format 2, and this amqpq reads 1; upgrade"):
        read(b'{"format": 2}')
