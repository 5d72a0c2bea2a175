"""A worker of a queue that was renamed: what it accepts, what it publishes, and where it consumes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from amqpq import App
from amqpq.message import TaskEnvelope
from amqpq.topology import Topology
from amqpq.topology.generations import NOTHING_MOVED, Generations, Home, write
from amqpq.topology.renames import placed
from amqpq.types import Delivery, Properties
from amqpq.worker.execute import Executor
from amqpq.worker.follower import Follower
from amqpq.worker.plan import choose_queues
from amqpq.worker.reactor import Reactor
from amqpq.worker.work import Finished, Reply, Work
from tests.support.renamed import KEY, MOVED, loaded

OLD = loaded("mail")
NEW = loaded("post", moved=MOVED)
FORMER = Home("mail", ("mail",), former="mail")


def executed(
    topology: Topology, queue: str, route: tuple[str, str], came: tuple[str, str], task: str = "add"
) -> Finished:
    """Run a message that was signed for a route, and came like this."""
    app = App(topology, environ=KEY)

    @app.task(name="add")
    def add() -> int:
        return 1

    @app.task(name="again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(args=(), countdown=1)

    body, properties = app.codec.encode_task(TaskEnvelope("1f0c", task, ()), exchange=route[0], key=route[1])
    return Executor(app, "w1@h").run(Work(7, queue, body, properties, *came, False, False), lambda _: None)


ROUTES = [("", "mail"), ("", "post"), ("web", "mail.x")]
WAYS = [
    ("", "mail"),
    ("", "post"),
    ("", "mail.g2"),
    ("mail.in", "mail"),
    ("post.in", "post"),
    ("post.in", "mail"),
    ("shop.delay.0", "mail"),
]


@pytest.mark.parametrize(("route", "came"), list(itertools.product(ROUTES, WAYS)))
def test_both_names_are_accepted(route: tuple[str, str], came: tuple[str, str]) -> None:
    """As the signed route, and as the way on which a message came."""
    assert executed(NEW, "post", route, came).happened == "succeeded"


@pytest.mark.parametrize(
    "came", [("", "mail"), ("mail.in", "mail"), ("shop.delay.0", "mail"), ("shop.delay.0", "post")]
)
@pytest.mark.parametrize("route", [("", "mail"), ("web", "mail.x")])
def test_a_worker_with_the_file_of_before_accepts_what_reaches_the_former_name(
    route: tuple[str, str], came: tuple[str, str]
) -> None:
    """Whoever published it; this is how workers and producers with the new file publish."""
    assert executed(OLD, "mail", route, came).happened == "succeeded"


@pytest.mark.parametrize("came", [("", "mail"), ("mail.in", "mail"), ("post.in", "post")])
@pytest.mark.parametrize("route", [("", "other"), ("web", "other"), ("", "mail.g2"), ("nowhere", "mail")])
def test_what_was_signed_for_another_queue_is_refused_as_ever(route: tuple[str, str], came: tuple[str, str]) -> None:
    """Two names are no licence for a third."""
    assert executed(NEW, "post", route, came).cause == "replayed"


def test_a_delayed_message_for_an_exchange_of_another_name_is_accepted() -> None:
    """It was signed for the old name, and comes out of the ladder."""
    topology = loaded("mail", moved=[{"from": "exchange.before", "to": "exchange.web"}])
    assert executed(topology, "mail", ("before", "mail.x"), ("shop.delay.0", "mail.x")).happened == "succeeded"
    assert executed(topology, "mail", ("before", "other"), ("shop.delay.0", "other")).cause == "replayed"


def test_another_attempt_with_other_arguments_is_signed_for_the_former_name() -> None:
    """A worker with the file of before may take it."""
    changed: Reply | None = executed(NEW, "post", ("", "mail"), ("", "mail"), "again").changed
    assert changed is not None
    assert changed.properties.headers["amqpq-route"] == "/mail"


def test_the_former_name_may_be_asked_for() -> None:
    """A unit file that says `-Q mail` need not change in the same moment."""
    assert choose_queues(NEW, ["mail"]) == choose_queues(NEW, ["post"]) == ("post",)


# ---------------------------------------------------------------------------------------------------- where it consumes


class Tap:
    """A subscription that only notes that it is acknowledged."""

    queue = "shop.generations"

    def ack(self, tag: int) -> None:
        """Settle."""

    def flush(self) -> None:
        """Send it."""


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    """A reactor that nothing runs."""
    made = Reactor()
    yield made
    made.close()


def heard(follower: Follower, record: Generations) -> None:
    """Let a follower hear of a record."""
    tap: Any = Tap()
    follower.delivered(tap, Delivery(write(record), Properties(), "", "shop.generations", redelivered=False, tag=1))


def test_a_worker_stays_in_the_old_queue_while_others_migrate(reactor: Reactor) -> None:
    """A record that tells of another queue says nothing against a rename that nobody has noted yet."""
    told: list[Generations] = []
    follower = Follower(NEW, placed(NEW, NOTHING_MOVED, ["mail"]), reactor, told.append)
    heard(follower, NOTHING_MOVED.with_home("other", Home("other.g2", ("other.g2",), ingress=True)))
    assert (told[-1].consumed("post"), told[-1].consumed("other")) == (("mail",), ("other.g2",))
    moving = replace(FORMER, consumed=("mail", "post"), ingress=True, moving=True)
    heard(follower, told[-1].with_home("post", moving))
    assert told[-1].consumed("post") == ("mail", "post")


def test_a_worker_with_the_file_of_before_hears_of_the_rename_and_goes_on(
    reactor: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    """The new name is none of its business."""
    told: list[Generations] = []
    follower = Follower(OLD, NOTHING_MOVED, reactor, told.append)
    heard(follower, NOTHING_MOVED.with_home("post", replace(FORMER, consumed=("mail", "post"), moving=True)))
    assert told[-1].consumed("mail") == ("mail",)
    assert not caplog.text


def test_a_worker_without_the_line_is_told_to_have_it(reactor: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    """While the queue lives in the one of its former name."""
    told: list[Generations] = []
    follower = Follower(loaded("post"), NOTHING_MOVED, reactor, told.append)
    heard(follower, NOTHING_MOVED.with_home("post", FORMER))
    assert told == [NOTHING_MOVED]
    assert "keep `moved: [{from: queue.mail, to: queue.post}]`" in caplog.text
