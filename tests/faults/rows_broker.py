"""Faults that the broker makes in order: it closes, cancels, deletes, and loses patience."""

from __future__ import annotations

from typing import Final

from amqpq.transport import flow
from amqpq.transport.interface import Channel, Flow
from tests.faults.scene import QUEUE, Column, Row, Scene, declare_all
from tests.faults.wirecuts import BODY, METHOD, Intruder

MORE_SECONDS: Final = 60.0
CLOSINGS: Final = 3
CHANNEL_ERRORS: Final = 3
BETWEEN: Final = 60
PATIENCE_SECONDS: Final = 2.0
LINGER_SECONDS: Final = 6.0
WAIT_SECONDS: Final = 30.0
IMPATIENT: Final = (
    f"application:set_env(rabbit, consumer_timeout, {PATIENCE_SECONDS * 1000:.0f}), "
    "application:set_env(rabbit, channel_tick_interval, 500), "
    "application:set_env(rabbit, quorum_tick_interval, 500)."
)
PATIENT: Final = (
    "application:set_env(rabbit, consumer_timeout, 1800000), "
    "application:set_env(rabbit, channel_tick_interval, 60000), "
    "application:set_env(rabbit, quorum_tick_interval, 5000)."
)
ENDED: Final = rf"not consuming {QUEUE}|connection for consuming lost"


def close_connections(scene: Scene) -> None:
    """Close every connection of the vhost, several times: workers', producers', collectors'."""
    for _ in range(CLOSINGS):
        scene.server.nodes[0].ctl("close_all_connections", "--vhost", scene.vhost.name, "a fault on purpose")
        scene.struck()
        scene.traffic.more(BETWEEN, MORE_SECONDS)


def close_channels(scene: Scene) -> None:
    """Have the broker close channels that consume, and channels that publish."""
    intruder: Intruder = scene.gates
    for kind in (METHOD, BODY) * CHANNEL_ERRORS:
        intruder.intrude(kind)
        if not intruder.done(WAIT_SECONDS):
            raise TimeoutError("nothing passed that could be disturbed")
        scene.struck()
        scene.traffic.more(BETWEEN, MORE_SECONDS)


def cancel_consumers(scene: Scene) -> None:
    """Delete the queue while nothing is in it: its consumers are cancelled."""
    scene.traffic.pause(MORE_SECONDS)
    _replace_queue(scene)
    scene.struck()
    scene.traffic.resume()


def delete_queue(scene: Scene) -> None:
    """Delete the queue under load; what was in it is gone by the operator's hand, and left out of the count."""
    _delete_queue(scene)
    declare_all(scene.traffic.producing)
    scene.traffic.forgive()
    scene.struck()


def lose_patience(scene: Scene) -> None:
    """Run a task for longer than the broker waits for an acknowledgement.

    On 4.3 the workers have asked for more patience with their subscription, so that nothing is taken from them.
    """
    before = {hand.name: hand.count(ENDED) for hand in scene.crew.at_work}
    scene.traffic.send("faults.linger", "linger", LINGER_SECONDS)
    scene.traffic.until_answered("linger", MORE_SECONDS)
    times = sum(hand.count(ENDED) - before[hand.name] for hand in scene.crew.at_work)
    averted = scene.column.version.startswith("4.3")
    scene.struck(1 if averted else times)
    scene.notes.append(f"{times} timeouts")
    if averted and times:
        raise AssertionError("the broker did not heed the timeout that a subscription asked for")


def _replace_queue(scene: Scene) -> None:
    _delete_queue(scene)
    declare_all(scene.traffic.producing)


def _delete_queue(scene: Scene) -> None:
    def delete(channel: Channel) -> Flow[None]:
        yield channel.delete_queue(QUEUE)
        yield channel.close()

    flow.run(delete(scene.traffic.producing.link.connection(10.0).channel()), 10.0)


def _evaluate(expression: str, scene: Scene) -> None:
    scene.server.nodes[0].ctl("eval", expression)


def _has_timeout(column: Column) -> bool:
    """4.3 enforces the consumer timeout on quorum queues only (its release notes)."""
    return column.queue == "quorum" or not column.version.startswith("4.3")


ROWS: Final = (
    Row(
        "close-connection", f"rabbitmqctl closes every connection, {CLOSINGS} times", close_connections, producers=True
    ),
    Row(
        "channel-error",
        f"the broker closes {CHANNEL_ERRORS} channels that consume and {CHANNEL_ERRORS} that publish, with 406",
        close_channels,
        producers=True,
        gates=Intruder,
    ),
    Row("server-cancel", "the empty queue is deleted and made anew: basic.cancel to its consumers", cancel_consumers),
    Row(
        "queue-deleted",
        "the queue is deleted with what it holds, and made anew, under load",
        delete_queue,
        producers=True,
    ),
    Row(
        "consumer-timeout",
        f"a task of {LINGER_SECONDS:g} s where the broker waits {PATIENCE_SECONDS:g} s for an acknowledgement",
        lose_patience,
        workers=1,
        fits=_has_timeout,
        prepare=lambda scene: _evaluate(IMPATIENT, scene),
        restore=lambda scene: _evaluate(PATIENT, scene),
    ),
)
