"""Publishing to a queue by its name while it moves, on the in-memory broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amqpq import App, errors
from amqpq.topology.generations import ingress_specs
from amqpq.transport import ways
from amqpq.transport.interface import Channel
from amqpq.types import BindingSpec, QueueSpec
from tests.support.lab import answer

Ready = Callable[[str], "int | None"]


def adopt(channel: Channel, queue: str, physical: str) -> None:
    """Put an ingress before a queue."""
    for spec in ingress_specs(queue):
        answer(channel.declare_exchange(spec))
    answer(channel.declare_queue(QueueSpec(physical)))
    answer(channel.bind(BindingSpec(f"{queue}.in", physical)))


def test_a_message_by_name_goes_through_the_ingress(app: App, channel: Channel, ready: Ready) -> None:
    """A producer that starts after a migration publishes where the queue lives now."""
    adopt(channel, "default", "default.g2")
    app.send_task("tasks.add", (1,), queue="default")
    assert (ready("default"), ready("default.g2")) == (0, 1)


def test_a_returned_message_is_published_another_way(app: App, channel: Channel, ready: Ready) -> None:
    """A producer that believes the queue to be there is sent the message back, and finds the ingress; the caller sees nothing."""
    app.send_task("tasks.add", (1,), queue="default")
    assert ready("default") == 1
    adopt(channel, "default", "default.g2")
    answer(channel.delete_queue("default"))
    result = app.send_task("tasks.add", (2,), queue="default")
    assert ready("default.g2") == 1
    assert ready(f"amqpq.reply.{result.id}") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_batch_that_is_returned_is_published_another_way(
    app: App, channel: Channel, ready: Ready, stream: bool
) -> None:
    """All of its messages for the queue that has moved, and no other one twice."""
    app.send_task("tasks.add", (1,), queue="default")
    adopt(channel, "default", "default.g2")
    answer(channel.delete_queue("default"))
    with app.batch(stream=stream):
        for number in range(3):
            app.send_task("tasks.add", (number,), queue="default")
            app.send_task("tasks.add", (number,), queue="audit")
    assert (ready("default.g2"), ready("audit")) == (3, 3)


def test_an_answer_is_believed_for_a_while_only(
    app: App, channel: Channel, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that runs on notices an ingress although nothing is ever returned to it."""
    app.send_task("tasks.add", (1,), queue="default")
    adopt(channel, "default", "default.g2")
    app.send_task("tasks.add", (2,), queue="default")
    assert ready("default") == 2
    monkeypatch.setattr(ways, "LOOK_SECONDS", 0.0)
    app.send_task("tasks.add", (3,), queue="default")
    assert (ready("default"), ready("default.g2")) == (2, 1)


def test_a_queue_that_is_gone_is_still_missing(app: App, channel: Channel) -> None:
    """Without an ingress the caller is told as ever."""
    answer(channel.delete_queue("audit"))
    with pytest.raises(errors.Unroutable, match="the queue is missing"):
        app.send_task("tasks.add", queue="audit")
