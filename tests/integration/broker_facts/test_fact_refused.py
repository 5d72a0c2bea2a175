"""What RabbitMQ 4 refuses that 3.10 took."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import amqp
import pytest

from amqpq.errors import AmqpqError
from amqpq.types import Properties, Publication, QueueSpec
from tests.support.lab import QUORUM, STREAM, Lab, answer

MIB = 2**20


def denied(lab: Lab, feature: str) -> bool:
    """Whether the broker denies a deprecated feature: a version's default, which packagers and operators change."""
    if lab.version < (3, 13, 0):
        return False
    states = {found["name"]: found.get("state") for found in lab.api("GET", "deprecated-features")}
    return states[feature] == "denied"


def test_a_queue_that_is_neither_durable_nor_exclusive(lab: Lab) -> None:
    """Where `transient_nonexcl_queues` is denied (4.3 as it is released, not as Debian packages it), the connection ends."""
    connection = lab.connect()
    pending = connection.channel().declare_queue(QueueSpec("fleeting", durable=False))
    if denied(lab, "transient_nonexcl_queues"):
        with pytest.raises(AmqpqError, match="transient_nonexcl_queues"):
            answer(pending)
        assert answer(connection.closed) is not None
    else:
        assert answer(pending).name == "fleeting"


def test_an_exclusive_queue_that_is_not_durable(lab: Lab) -> None:
    """Taken by every version."""
    lab.declare("mine", durable=False, exclusive=True)


def test_the_old_store_of_classic_queues(lab: Lab) -> None:
    """RabbitMQ 4.3 refuses `x-queue-version: 1`, and takes 2."""
    assert bool(lab.refusal("old", {"x-queue-version": 1})) == (lab.version >= (4, 3, 0))
    assert not lab.refusal("new", {"x-queue-version": 2})


def test_the_mode_of_a_classic_queue_is_no_longer_looked_at(lab: Lab) -> None:
    """RabbitMQ 4.3 takes any `x-queue-mode`, as it does an argument that it does not know; before, only those there were."""
    assert not lab.refusal("lazy", {"x-queue-mode": "lazy"})
    assert bool(lab.refusal("nonsense", {"x-queue-mode": "nonsense"})) == (lab.version < (4, 3, 0))


def test_the_old_locator_of_classic_queues(lab: Lab) -> None:
    """Where `queue_master_locator` is denied (4.3), the argument ends the whole connection."""
    connection = lab.connect()
    spec = QueueSpec("located", arguments={"x-queue-master-locator": "min-masters"})
    pending = connection.channel().declare_queue(spec)
    if denied(lab, "queue_master_locator"):
        with pytest.raises(AmqpqError, match="queue_master_locator"):
            answer(pending)
    else:
        assert answer(pending).name == "located"


def test_a_prefetch_for_the_whole_channel(lab: Lab) -> None:
    """Where `global_qos` is denied (4.3), the broker says yes, and gives each consumer as many."""
    lab.declare("work")
    lab.send("work", *[b"%d" % number for number in range(10)])
    parts = urlsplit(lab.url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    received: list[bytes] = []
    with amqp.Connection(f"{parts.hostname}:{parts.port}", user, password, virtual_host=lab.vhost) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 3, a_global=True)
        for _ in range(2):
            channel.basic_consume("work", callback=lambda message: received.append(message.body))
        expected = 6 if denied(lab, "global_qos") else 3
        while len(received) < expected:
            connection.drain_events(timeout=20)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.5)
    assert len(received) == expected


def test_a_message_of_17_mib(lab: Lab) -> None:
    """More than `max_message_size` of RabbitMQ 4 (16 MiB); 3.10 takes 128 MiB."""
    lab.declare("work")
    channel = lab.connection.channel()
    message = Publication("", "work", b"x" * (17 * MIB), Properties())
    (outcome,) = answer(channel.publish([message]))
    assert outcome.confirmed == (lab.version < (4, 0, 0))
    if not outcome.confirmed:
        assert "max size" in str(answer(channel.closed))
    lab.delete("work")


@pytest.mark.parametrize(
    "flags",
    [{"durable": False}, {"exclusive": True}, {"auto_delete": True}],
    ids=lambda flags: next(iter(flags)),
)
@pytest.mark.parametrize("base", [QUORUM, STREAM], ids=["quorum", "stream"])
def test_a_quorum_queue_or_stream_that_does_not_stay(lab: Lab, base: dict[str, str], flags: dict[str, bool]) -> None:
    """Refused by every version, as is one that is exclusive."""
    assert lab.refusal("short-lived", base, **flags)


def test_a_delivery_limit_on_a_classic_queue(lab: Lab) -> None:
    """Refused by every version: only quorum queues count."""
    assert "invalid arg 'x-delivery-limit'" in lab.refusal("work", {"x-delivery-limit": 5})


def test_rejecting_to_dead_letters_when_full_on_a_quorum_queue(lab: Lab) -> None:
    """`reject-publish-dlx` is taken by every version and not kept: the oldest goes, as with `drop-head`."""
    lab.declare("dead")
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    lab.declare("work", {**QUORUM, **dead, "x-overflow": "reject-publish-dlx", "x-max-length": 1})
    lab.send("work", b"first", b"second")
    assert lab.arrival("dead").body == b"first"
    assert lab.arrival("work").body == b"second"
