"""What can be migrated, as far as the file tells; and how a message is moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from amqpq import topology
from amqpq.cli.migrate import WORDS, migrate
from amqpq.errors import ConfigurationError
from amqpq.provision.emptying import copy
from amqpq.provision.migration import Step
from amqpq.provision.preflight import Wish, wanted
from amqpq.topology import Queue, Topology
from amqpq.types import Delivery, Properties


def loaded(**queues: Any) -> Topology:
    """Return a topology with these queues."""
    return topology.load({"amqpq": 1, "project": "shop", "queues": queues, "security": {"signing": "off"}}, environ={})


def test_the_file_says_what_the_queue_becomes() -> None:
    """Every argument of the file, and the type that the command line names before the file's."""
    file = loaded(orders={"ttl": "1h"})
    assert wanted(file, Wish("orders")).arguments["x-queue-type"] == "classic"
    spec = wanted(file, Wish("orders", to="quorum"))
    assert (spec.name, spec.arguments["x-queue-type"], spec.arguments["x-message-ttl"]) == ("orders", "quorum", 3600000)


@pytest.mark.parametrize(
    ("queue", "to", "words"),
    [
        ({"max_priority": 5}, "quorum", "takes no max_priority; remove it"),
        ({"partitions": 4}, None, "has partitions, and these do not move"),
        ({"limits": {"max_length": 5, "overflow": "reject-publish-dlx"}}, "quorum", "takes no overflow"),
        ({"type": "quorum", "delivery_limit": 5}, "classic", "takes no delivery_limit"),
        ({"manage": "verify"}, "quorum", "whoever owns it migrates it"),
        ({"type": "stream", "retention": {"max_age": "1D"}}, None, "a stream is not drained"),
    ],
)
def test_what_cannot_become_of_a_queue_is_said_before_anything_is_done(queue: Any, to: Any, words: str) -> None:
    """Without a broker, with the remedy."""
    with pytest.raises(ConfigurationError, match=words):
        wanted(loaded(orders=queue), Wish("orders", to=to))


def test_an_unknown_queue_is_answered_with_the_nearest_one() -> None:
    """A typing error costs nothing."""
    with pytest.raises(ConfigurationError, match="no queue 'order' \\(did you mean 'orders'\\?\\)"):
        wanted(loaded(orders={}), Wish("order"))


def test_a_dead_letter_queue_keeps_its_name() -> None:
    """Other queues have it in an argument that cannot be changed."""
    with pytest.raises(ConfigurationError, match="takes the dead letters of orders"):
        wanted(loaded(orders={}), Wish("shop.dead", to="quorum"))


def test_a_name_that_is_taken_is_noticed() -> None:
    """A queue of the file that is called like a generation is in the way."""
    file = loaded(orders={})
    taken = replace(file, queues={**file.queues, "orders.g2": Queue("orders.g2")})  # lint refuses it, too
    with pytest.raises(ConfigurationError, match=r"'orders\.g2' of the file has a name that its migration needs"):
        wanted(taken, Wish("orders", to="quorum"))


def test_a_moved_message_keeps_what_is_its_own() -> None:
    """Key, body, properties and headers stay; what RabbitMQ would act upon, or refuse, does not."""
    headers = {
        "mine": 1,
        "amqpq-sig": "s",
        "CC": ["other"],
        "x-death": [],
        "x-first-death-queue": "q",
        "x-delivery-count": 3,
    }
    properties = Properties(headers=headers, priority=4, user_id="web", expiration=1000, delivery_mode=2)
    delivery = Delivery(b"body", properties, "web", "web.page", redelivered=True, tag=1)
    moved = copy(delivery, "orders")
    assert (moved.exchange, moved.routing_key, moved.body, moved.mandatory) == ("orders.in", "web.page", b"body", True)
    assert moved.properties.headers == {"mine": 1, "amqpq-sig": "s", "amqpq-user-id": "web"}
    assert (moved.properties.user_id, moved.properties.priority, moved.properties.expiration) == (None, 4, 1000)


def test_every_step_has_its_words() -> None:
    """Whoever looks at the status is told what is going on."""
    assert set(WORDS) == set(Step)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["orders", "--dry"], "start"),
        (["--to", "quorum", "orders"], "start"),
        (["status"], "status"),
        (["start", "status"], "start"),
    ],
)
def test_the_first_word_is_a_queue_or_a_subcommand(typed: list[str], meant: str) -> None:
    """`migrate orders` begins; `migrate status` shows; a queue called `status` needs `migrate start status`."""
    context = click.Context(migrate)
    rest = migrate.parse_args(context, list(typed))
    assert isinstance(migrate, click.Group)
    assert [*context._protected_args, *rest][0] == meant


def test_without_a_word_there_is_help() -> None:
    """`migrate` alone begins nothing."""
    said = CliRunner().invoke(migrate, ["--help"]).output
    assert "abort" in said
    assert "resume" in said
