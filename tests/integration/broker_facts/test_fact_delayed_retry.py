"""L9: where a message is while it waits for its delayed retry (RabbitMQ 4.3)."""

from __future__ import annotations

import pytest

from tests.support.lab import QUORUM, Lab, answer, until

HOUR_MS = 3_600_000


DELAYED = {"delayed-retry-type": "all", "delayed-retry-min": HOUR_MS, "delayed-retry-max": HOUR_MS}


def needs_delayed_retry(lab: Lab) -> None:
    """Skip where the broker has none."""
    if lab.version < (4, 3, 1):
        pytest.skip("delayed retry by policy came with RabbitMQ 4.3.1")


def set_policy(lab: Lab, definition: dict[str, object]) -> None:
    """Set the policy of the queue, in place of the one before."""
    lab.api("PUT", "policies/{v}/delay", {"pattern": "^work$", "definition": definition, "apply-to": "quorum_queues"})


@pytest.fixture
def waiting(lab: Lab) -> Lab:
    """A queue with one message that waits for an hour, by policy."""
    needs_delayed_retry(lab)
    set_policy(lab, DELAYED)
    lab.declare("work", QUORUM)
    lab.send("work", b"later")
    rejected(lab)
    return lab


def rejected(lab: Lab) -> None:
    """Give the next message back as failed, and see that the broker has it."""
    channel = lab.connection.channel()
    delivery = answer(channel.get("work"))
    assert delivery is not None
    channel.reject(delivery.tag, requeue=True)
    assert answer(channel.get("work")) is None


def counted(lab: Lab) -> dict[str, int]:
    """What the management API counts, once it has counted a delayed message: that comes later than their sum."""
    seen = until(lambda: found if (found := lab.seen("work")).get("messages_delayed") else None, "it is counted")
    return {kind: seen[kind] for kind in ("messages", "messages_ready", "messages_unacknowledged", "messages_delayed")}


def test_a_delayed_message_is_neither_ready_nor_fetched(waiting: Lab) -> None:
    """A passive declaration and `basic.get` both say that the queue is empty."""
    assert waiting.state("work") == (0, 0)
    assert waiting.take("work") is None


def test_only_the_management_api_sees_it(waiting: Lab) -> None:
    """Some seconds later: in `messages`, and in `messages_delayed`."""
    assert counted(waiting) == {
        "messages": 1,
        "messages_ready": 0,
        "messages_unacknowledged": 0,
        "messages_delayed": 1,
    }


def test_switching_the_delay_off_does_not_bring_it_back(waiting: Lab) -> None:
    """What waits already waits to its end; only what is rejected after the policy changed comes back at once."""
    set_policy(waiting, {"delayed-retry-type": "disabled"})
    waiting.send("work", b"at once")
    returned: list[bytes] = []

    def comes_back_at_once() -> bool:
        channel = waiting.connection.channel()
        delivery = answer(channel.get("work"))
        assert delivery is not None
        channel.reject(delivery.tag, requeue=True)
        again = answer(channel.get("work", no_ack=True))
        if again is None:  # the policy does not hold yet, and this one waits too
            waiting.send("work", b"at once")
            return False
        returned.append(again.body)
        return True

    until(comes_back_at_once, "the policy holds")
    assert returned == [b"at once"]
    assert waiting.take("work") is None
    assert counted(waiting)["messages_delayed"] >= 1


def test_purging_takes_it(waiting: Lab) -> None:
    """And counts it."""
    assert answer(waiting.channel.purge_queue("work")) == 1


def test_deleting_the_queue_takes_it_along_uncounted(waiting: Lab) -> None:
    """The answer to the deletion says 0: no proof that nothing was lost."""
    assert waiting.delete("work") == 0


def test_arguments_of_delayed_retry_are_not_checked(lab: Lab) -> None:
    """A type that does not exist, a minimum above the maximum or below zero: all are taken. A policy is checked better."""
    needs_delayed_retry(lab)
    assert not lab.refusal("type", {**QUORUM, "x-delayed-retry-type": "nonsense"})
    assert not lab.refusal("range", {**QUORUM, "x-delayed-retry-min": 5000, "x-delayed-retry-max": 1000})
    assert not lab.refusal("negative", {**QUORUM, "x-delayed-retry-min": -5})
    body = {"pattern": ".*", "definition": {"delayed-retry-type": "nonsense"}, "apply-to": "quorum_queues"}
    assert "not a valid delayed retry type" in lab.api_refusal("PUT", "policies/{v}/never", body)
    body = {"pattern": ".*", "definition": {"delayed-retry-type": "all"}, "apply-to": "quorum_queues"}
    assert "delayed-retry-min is required" in lab.api_refusal("PUT", "policies/{v}/never", body)
