"""Reply queues as an operator sees them with rabbitmqctl: there while results wait, gone once they are fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from amqpq import App

KEY = "5a" * 32
"""The one that the workers of these tests get."""
PENDING = 200
WAIT_SECONDS = 60.0


@pytest.fixture
def reply_queues(rabbitmqctl: Callable[..., str], private_vhost_url: str) -> Callable[[], dict[str, int]]:
    """Answers the reply queues of the vhost, each with its number of messages, as rabbitmqctl lists them."""
    vhost = unquote(urlsplit(private_vhost_url).path[1:])

    def listed() -> dict[str, int]:
        lines = rabbitmqctl("list_queues", "-p", vhost, "--no-table-headers", "name", "messages").splitlines()
        pairs = (line.split("\t") for line in lines)
        return {name: int(messages) for name, messages in pairs if name.startswith("amqpq.reply.")}

    return listed


def test_reply_queues_are_there_before_and_gone_after_retrieval(
    private_shop: App,
    start_private_worker: Any,
    reply_queues: Callable[[], dict[str, int]],
    until: Callable[..., None],
) -> None:
    """200 pending results are 200 queues with one message each; fetched, none is left."""
    with private_shop.batch():
        results = [private_shop.send_task("shop.add", (number, 1)) for number in range(PENDING)]
    assert set(reply_queues()) == {f"amqpq.reply.{result.id}" for result in results}
    start_private_worker("-c", "2")
    until(lambda: list(reply_queues().values()) == [1] * PENDING, "every result")
    assert private_shop.collect(results, timeout=WAIT_SECONDS) == [number + 1 for number in range(PENDING)]
    assert reply_queues() == {}


def test_an_unfetched_reply_queue_disappears_after_its_time(
    private_vhost_url: str,
    private_shop: App,
    start_private_worker: Any,
    reply_queues: Callable[[], dict[str, int]],
    until: Callable[..., None],
) -> None:
    """A result that nobody fetches is gone, with its queue, once `replies.expires` is over."""
    start_private_worker("-c", "1")
    topology = {
        "amqpq": 1,
        "project": "shop",
        "queues": {"default": {}},
        "replies": {"expires": "2s"},
        "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SHOP_KEY", "key_id": "shop"}},
    }
    with App(topology, environ={"AMQPQ_BROKER_URL": private_vhost_url, "SHOP_KEY": KEY}) as hasty:
        hasty.send_task("shop.add", (1, 2))
        kept = private_shop.send_task("shop.add", (3, 4))
        until(lambda: list(reply_queues().values()) in ([1, 1], [1]), "both results, or the end of the first")
        until(lambda: set(reply_queues()) == {f"amqpq.reply.{kept.id}"}, "the end of the unfetched reply queue")
    assert kept.get(timeout=WAIT_SECONDS) == 7
