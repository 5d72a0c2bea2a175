from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from amqpq import App, AsyncApp, signals
from amqpq.errors import BatchFailed, ConfigurationError, LocalError, Unroutable
from amqpq.signals import SIGNALS, Signal


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    before = {name: signal.receivers for name, signal in SIGNALS.items()}
    yield
    for name, receivers in before.items():
        SIGNALS[name].receivers = receivers


@pytest.fixture
def signal() -> Signal:
    """A signal of this test."""
    return Signal("door", "open")


def test_receivers_are_called_in_order_with_keywords(signal: Signal) -> None:
    """The decorator leaves the function as it was."""
    heard: list[Any] = []

    @signal.connect
    def first(sender: str, **more: Any) -> None:
        heard.append((sender, more))

    signal.connect(lambda **more: heard.append(more))
    signal.send("front", open=True)
    assert heard == [("front", {"open": True}), {"sender": "front", "open": True}]
    assert first.__name__ == "first"


def test_a_receiver_may_want_one_sender(signal: Signal) -> None:
    """By equality, or by the name of a task."""

    class Named:
        name = "shop.add"

    heard: list[Any] = []

    @signal.connect(sender="shop.add")
    def one(sender: Any, **_: Any) -> None:
        heard.append(sender)

    named = Named()
    for sender in ("shop.add", "shop.sub", named, 3):
        signal.send(sender, open=True)
    assert heard == ["shop.add", named]


def test_connecting_twice_is_connecting_once_and_ends(signal: Signal) -> None:
    """A module that is loaded again adds nothing."""
    heard: list[int] = []

    def one(**_: Any) -> None:
        heard.append(1)

    signal.connect(one)
    signal.connect(one)
    signal.send("x", open=1)
    assert heard == [1]
    assert signal.disconnect(one)
    assert not signal.disconnect(one)
    signal.send("x", open=1)
    assert heard == [1]


def test_what_a_receiver_raises_is_logged_and_stops_nobody(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    """The next receiver is called, and so is what comes after the signal."""
    heard: list[int] = []

    def broken(**_: Any) -> None:
        raise LookupError("no such door")

    signal.connect(broken)
    signal.connect(lambda **_: heard.append(1))
    with caplog.at_level(logging.ERROR, "amqpq.signals"):
        signal.send("x", open=1)
    assert heard == [1]
    assert "a receiver of the signal door failed" in caplog.text
    assert "no such door" in caplog.text


@pytest.mark.parametrize("receiver", [lambda: None, lambda sender: sender, lambda open: open, "text"])  # noqa: A006
def test_a_receiver_that_could_not_be_called_is_refused(signal: Signal, receiver: Any) -> None:
    """At once, and not when the event comes."""
    with pytest.raises(ConfigurationError, match="signal door"):
        signal.connect(receiver)


def test_every_signal_has_its_name() -> None:
    """The variable and the name that the log shows are one word."""
    assert all(getattr(signals, name).name == name for name in SIGNALS)
    assert len(SIGNALS) == 17


def test_a_header_of_a_receiver_travels_signed(app: App) -> None:
    """What `before_task_publish` adds is part of the message, under its signature."""

    @signals.before_task_publish.connect(sender="tasks.add")
    def add_tenant(headers: dict[str, Any], body: Any, task_id: str, **_: Any) -> None:
        headers["tenant"] = f"{body[0][0]} of {task_id}"

    sending, known = app.prepare(app.call_by_name("tasks.add", (2, 3), {}, {"headers": {"mine": 1}}))
    published = sending.plan.publication
    envelope = app.codec.decode_task(published.body, published.properties, arrived=("tasks", "default"))
    assert envelope.headers == {"mine": 1, "tenant": f"2 of {known.id}"}


def test_a_receiver_that_spoils_the_headers_is_told(app: App) -> None:
    """A header whose name is no text cannot be sent."""
    signals.before_task_publish.connect(lambda headers, **_: headers.update({3: 4}))
    with pytest.raises(LocalError, match="is not a mapping from names to values"):
        app.send_task("tasks.add", (2, 3))


def test_after_task_publish_means_confirmed(app: App) -> None:
    """Calls alone and in batches are told; what was refused is not."""
    heard: list[tuple[str, str, str]] = []

    @signals.after_task_publish.connect
    def told(sender: str, exchange: str, headers: dict[str, Any], **_: Any) -> None:
        heard.append((sender, exchange, headers["id"]))

    first = app.send_task("tasks.add", (1, 2))
    with app.batch() as batch:
        second = app.send_task("web.resize", (1,))
    assert heard == [("tasks.add", "tasks", first.id), ("web.resize", "web", second.id)]
    with pytest.raises(Unroutable):
        app.send_task("tasks.add", (1, 2), exchange="tasks", routing_key="nowhere")
    with pytest.raises(BatchFailed), app.batch() as batch:  # noqa: PT012 - the batch is sent at the end of the block
        app.send_task("tasks.add", (1, 2), exchange="tasks", routing_key="nowhere")
        third = app.send_task("tasks.add", (1, 2))
    assert len(batch) == 2
    assert heard[2:] == [("tasks.add", "tasks", third.id)]


def test_the_asyncio_world_prepares_in_the_same_place() -> None:
    """An AsyncApp tells `before_task_publish`, too."""
    heard: list[str] = []
    signals.before_task_publish.connect(lambda sender, **_: heard.append(sender))
    topology = {"amqpq": 1, "project": "shop", "queues": {"default": {}}, "security": {"signing": False}}
    app = AsyncApp({**topology, "routes": {"*": {"queue": "default"}}})
    app.prepare(app.call_by_name("shop.add", (1,), {}, {}))
    assert heard == ["shop.add"]
