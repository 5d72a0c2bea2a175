"""L9: where a message is while it waits for its delayed retry (RabbitMQ 4.3)."""

from __future__ import annotations

import pytest

from tests.support.lab import QUORUM, Lab, answer, until

HOUR_MS = 3_600_000


@pytest.fixture
def waiting(lab: Lab) -> Lab:
    """A queue with one message that waits for an hour, by policy."""
    if lab.version < (4, 3, 1):
        pytest.skip("delayed retry by policy came with RabbitMQ 4.3.1")
    lab.api(
        "PUT",
        "policies/{v}/delay",
        {
            "pattern": "^work$",
            "definition": {"delayed-retry-type": "all", "delayed-retry-min": HOUR_MS, "delayed-retry-max": HOUR_MS},
            "apply-to": "quorum_queues",
        },
    )
    lab.declare("work", QUORUM)
    lab.send("work", b"later")
    channel = lab.connection.channel()
    delivery = answer(channel.get("work"))
    assert delivery is not None
    channel.reject(delivery.tag, requeue=True)
    assert answer(channel.get("work")) is None
    return lab


def test_a_delayed_message_is_neither_ready_nor_fetched(waiting: Lab) -> None:
    """A passive declaration and `basic.get` both say that the queue is empty."""
    assert waiting.state("work") == (0, 0)
    assert waiting.take("work") is None


def test_the_management_api_counts_it(waiting: Lab) -> None:
    """As `messages_delayed`, some seconds later: the only place where it is seen."""
    seen = until(lambda: (found := waiting.seen("work")).get("messages_delayed") and found, "it is counted")
    assert seen["messages_delayed"] == 1
    assert seen["messages_ready"] == 0


def test_switching_the_delay_off_brings_it_back(waiting: Lab) -> None:
    """What waits is let go at once where the policy says `disabled`."""
    waiting.api(
        "PUT",
        "policies/{v}/delay",
        {"pattern": "^work$", "definition": {"delayed-retry-type": "disabled"}, "apply-to": "quorum_queues"},
    )
    assert waiting.arrival("work").body == b"later"


def test_deleting_the_queue_takes_it_along_uncounted(waiting: Lab) -> None:
    """The answer to the deletion does not count it."""
    assert waiting.delete("work") == 0
