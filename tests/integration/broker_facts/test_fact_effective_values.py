"""L5: an argument of a queue and a policy that says otherwise: which of them counts, by what the queue does.

Each policy is set before the queue is declared, so that it holds from the first message on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from amqpq.types import Fate
from tests.support.lab import QUORUM, STREAM, Lab, answer, until

CLASSIC: Final[dict[str, Any]] = {}
BOTH: Final = pytest.mark.parametrize("base", [CLASSIC, QUORUM], ids=["classic", "quorum"])
EITHER_IS_LESS: Final = pytest.mark.parametrize("argument_is_less", [True, False], ids=["argument", "policy"])

SOON_MS: Final = 300
HOUR_MS: Final = 3_600_000
TRIES: Final = 200
"""Messages to publish until a full quorum queue refuses: it tells its publishers a little late."""


def pair(argument_is_less: bool, less: int, more: int) -> tuple[int, int]:
    """The value of the argument and that of the policy."""
    return (less, more) if argument_is_less else (more, less)


# ----------------------------------------------------------------------------------------------- the lesser value counts


@BOTH
@EITHER_IS_LESS
def test_the_shorter_length_limit_counts(lab: Lab, base: dict[str, Any], argument_is_less: bool) -> None:
    """A policy tightens `x-max-length` and cannot loosen it."""
    argument, policy = pair(argument_is_less, 2, 5)
    lab.policy({"max-length": policy})
    lab.declare("work", {**base, "x-max-length": argument})
    lab.send("work", *[b"%d" % number for number in range(8)])
    assert lab.bodies("work") == [b"6", b"7"]


@BOTH
@EITHER_IS_LESS
def test_the_smaller_size_limit_counts(lab: Lab, base: dict[str, Any], argument_is_less: bool) -> None:
    """The same for `x-max-length-bytes`."""
    argument, policy = pair(argument_is_less, 250, 1000)
    lab.policy({"max-length-bytes": policy})
    lab.declare("work", {**base, "x-max-length-bytes": argument})
    lab.send("work", *[b"%d" % number * 100 for number in range(8)])
    assert lab.bodies("work") == [b"6" * 100, b"7" * 100]


@BOTH
@EITHER_IS_LESS
def test_the_shorter_time_to_live_counts(lab: Lab, base: dict[str, Any], argument_is_less: bool) -> None:
    """The same for `x-message-ttl`: the message is a dead letter after the shorter of the two."""
    argument, policy = pair(argument_is_less, SOON_MS, HOUR_MS)
    lab.declare("dead")
    lab.policy({"message-ttl": policy}, "^work$")
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    lab.declare("work", {**base, **dead, "x-message-ttl": argument})
    lab.send("work", b"soon")
    assert lab.arrival("dead").body == b"soon"


@BOTH
@EITHER_IS_LESS
def test_the_shorter_lease_counts(lab: Lab, base: dict[str, Any], argument_is_less: bool) -> None:
    """The same for `x-expires`: the queue is gone after the shorter of the two; a quorum queue of 3.10 obeys the policy alone."""
    argument, policy = pair(argument_is_less, SOON_MS, HOUR_MS)
    lab.policy({"expires": policy}, "^work$")
    lab.declare("work", {**base, "x-expires": argument})
    lab.declare("clock", {**base, "x-expires": SOON_MS})
    if base and argument_is_less and lab.version < (4, 0, 0):
        # A quorum queue looks at its lease every five seconds: when the second clock is gone, so would be the other queue.
        until(lambda: lab.lacks("clock"), "the clock is gone")
        lab.declare("second clock", {**base, "x-expires": SOON_MS})
        until(lambda: lab.lacks("second clock"), "the second clock is gone")
        assert lab.exists("work")
    else:
        until(lambda: lab.lacks("work"), "the queue is gone")


@EITHER_IS_LESS
def test_the_lower_delivery_limit_counts(lab: Lab, argument_is_less: bool) -> None:
    """The same for `x-delivery-limit` of a quorum queue."""
    argument, policy = pair(argument_is_less, 1, 3)
    lab.policy({"delivery-limit": policy})
    lab.declare("work", {**QUORUM, "x-delivery-limit": argument})
    assert deliveries(lab, "work") == 2


@pytest.mark.parametrize("negative", ["argument", "policy"])
def test_a_negative_delivery_limit_is_not_the_lesser_one(lab: Lab, negative: str) -> None:
    """From RabbitMQ 4.0 on -1 means unlimited, and the other value counts; 3.10 takes it as zero, and no policy with it."""
    argument, policy = (-1, 3) if negative == "argument" else (3, -1)
    if policy < 0 and lab.version < (4, 0, 0):
        body = {"pattern": ".*", "definition": {"delivery-limit": policy}, "apply-to": "queues"}
        assert "not a valid delivery limit" in lab.api_refusal("PUT", "policies/{v}/unlimited", body)
        return
    lab.policy({"delivery-limit": policy})
    lab.declare("work", {**QUORUM, "x-delivery-limit": argument})
    assert deliveries(lab, "work") == (4 if lab.version >= (4, 0, 0) else 1)


def deliveries(lab: Lab, queue: str) -> int:
    """Reject a message until it is given up; return how often it came."""
    lab.send(queue, b"poison")
    count = 0
    channel = lab.connection.channel()
    while (delivery := answer(channel.get(queue))) is not None:
        channel.reject(delivery.tag, requeue=True)
        count += 1
        assert count <= TRIES
    return count


@BOTH
def test_an_operator_policy_tightens_what_argument_and_policy_allow(lab: Lab, base: dict[str, Any]) -> None:
    """The least of the three counts."""
    lab.policy({"max-length": 5})
    lab.operator_policy({"max-length": 2})
    lab.declare("work", {**base, "x-max-length": 7})
    lab.send("work", *[b"%d" % number for number in range(8)])
    assert lab.bodies("work") == [b"6", b"7"]


@BOTH
def test_an_operator_policy_loosens_nothing(lab: Lab, base: dict[str, Any]) -> None:
    """The same, when it allows more."""
    lab.policy({"max-length": 2})
    lab.operator_policy({"max-length": 5})
    lab.declare("work", base)
    lab.send("work", *[b"%d" % number for number in range(8)])
    assert lab.bodies("work") == [b"6", b"7"]


# -------------------------------------------------------------------------------------------------- one of the two counts


@BOTH
@pytest.mark.parametrize("argument", ["drop-head", "reject-publish"])
def test_what_happens_when_full_is_the_arguments_or_the_policys(lab: Lab, base: dict[str, Any], argument: str) -> None:
    """On a classic queue the argument decides `overflow`, on a quorum queue the policy."""
    policy = {"drop-head": "reject-publish", "reject-publish": "drop-head"}[argument]
    lab.policy({"overflow": policy})
    lab.declare("work", {**base, "x-max-length": 1, "x-overflow": argument})
    assert refuses_when_full(lab, "work") == ((policy if base else argument) == "reject-publish")


def refuses_when_full(lab: Lab, queue: str) -> bool:
    """Publish to a full queue until it refuses, or has taken more than it would take late."""
    for number in range(TRIES):
        fate = lab.publish("", queue, b"%d" % number).fate
        if fate is Fate.NACKED:
            return True
        assert fate is Fate.CONFIRMED
    return False


@BOTH
def test_dead_letters_go_where_the_argument_says(lab: Lab, base: dict[str, Any]) -> None:
    """`x-dead-letter-exchange` and `x-dead-letter-routing-key` win over the policy."""
    for name in ("by-argument", "by-policy"):
        lab.exchange(name, "direct")
        lab.declare(name)
        lab.bind(name, name, name)
    lab.policy({"dead-letter-exchange": "by-policy", "dead-letter-routing-key": "by-policy"}, "^work$")
    arguments = {"x-dead-letter-exchange": "by-argument", "x-dead-letter-routing-key": "by-argument"}
    lab.declare("work", {**base, **arguments})
    reject_one(lab, "work")
    assert lab.arrival("by-argument").body == b"rejected"
    assert lab.take("by-policy") is None


@BOTH
def test_an_argument_without_a_key_takes_the_policys_key(lab: Lab, base: dict[str, Any]) -> None:
    """The two are looked up one by one: exchange from the argument, key from the policy."""
    lab.declare("dead")
    lab.policy({"dead-letter-exchange": "nowhere", "dead-letter-routing-key": "dead"}, "^work$")
    lab.declare("work", {**base, "x-dead-letter-exchange": ""})
    reject_one(lab, "work")
    assert lab.arrival("dead").body == b"rejected"


@pytest.mark.parametrize("argument", ["at-most-once", "at-least-once"])
def test_the_dead_letter_strategy_is_the_arguments(lab: Lab, argument: str) -> None:
    """Seen by dead letters that no queue takes: dropped at most once, kept in the source (and filling it) at least once."""
    policy = {"at-most-once": "at-least-once", "at-least-once": "at-most-once"}[argument]
    lab.exchange("to-nobody")
    lab.policy({"dead-letter-strategy": policy}, "^work$")
    arguments = {"x-dead-letter-exchange": "to-nobody", "x-overflow": "reject-publish", "x-max-length": 3}
    lab.declare("work", {**QUORUM, **arguments, "x-dead-letter-strategy": argument})
    assert fills_with_dead_letters(lab, "work") == (argument == "at-least-once")


def fills_with_dead_letters(lab: Lab, queue: str) -> bool:
    """Publish and reject until the queue refuses, or has let go of many."""
    channel = lab.connection.channel()
    for number in range(TRIES):
        if not lab.publish("", queue, b"%d" % number).confirmed:
            return True
        delivery = answer(channel.get(queue))
        assert delivery is not None
        channel.reject(delivery.tag, requeue=False)
    return False


def reject_one(lab: Lab, queue: str) -> None:
    """Make one dead letter."""
    lab.send(queue, b"rejected")
    channel = lab.connection.channel()
    delivery = answer(channel.get(queue))
    assert delivery is not None
    channel.reject(delivery.tag, requeue=False)


def test_the_alternate_exchange_is_the_arguments(lab: Lab) -> None:
    """A policy cannot lead away what an argument leads."""
    for name in ("by-argument", "by-policy"):
        lab.exchange(name)
        lab.declare(name)
        lab.bind(name, name)
    lab.policy({"alternate-exchange": "by-policy"}, "^in$", "exchanges")
    lab.exchange("in", "direct", {"alternate-exchange": "by-argument"})
    assert lab.publish("in", "unbound", b"x").confirmed
    assert lab.bodies("by-argument") == [b"x"]
    assert lab.bodies("by-policy") == []


# -------------------------------------------------------------------------------------------------------------- streams


@EITHER_IS_LESS
def test_a_stream_keeps_what_the_policy_says(lab: Lab, argument_is_less: bool) -> None:
    """`max-length-bytes` of a stream is the policy's, be it more or less than the argument."""
    argument, policy = pair(argument_is_less, 200_000, 100_000_000)
    lab.policy({"max-length-bytes": policy})
    segments = {"x-stream-max-segment-size-bytes": 100_000}
    lab.declare("log", {**STREAM, **segments, "x-max-length-bytes": argument})
    for number in range(100):
        lab.send("log", b"%05d" % number * 2_000)
    assert first_body(lab, "log").startswith(b"00000") == argument_is_less


def first_body(lab: Lab, stream: str) -> bytes:
    """The oldest message of a stream."""
    connection = lab.connect()
    pending = connection.pending()
    channel = connection.channel()

    def first(delivery: Any) -> None:
        if not pending.done():
            pending.set_result(delivery.body)

    channel.consume(stream, first, prefetch=1, arguments={"x-stream-offset": "first"})
    body: bytes = answer(pending)
    answer(connection.close())
    return body


# ---------------------------------------------------------------------------------------------- delayed retry (4.3)


DELAYED: Final[Mapping[str, Any]] = {**QUORUM, "x-delayed-retry-min": HOUR_MS, "x-delayed-retry-max": HOUR_MS}


@pytest.mark.parametrize("argument", ["disabled", "all"])
def test_the_type_of_delayed_retry_is_the_policys(lab: Lab, argument: str) -> None:
    """RabbitMQ 4.3: what comes back waits as the policy says, whatever the argument."""
    needs_delayed_retry(lab)
    policy = {"disabled": "all", "all": "disabled"}[argument]
    lab.policy({"delayed-retry-type": policy, "delayed-retry-min": HOUR_MS})
    lab.declare("work", {**DELAYED, "x-delayed-retry-type": argument})
    assert waits_after_a_rejection(lab, "work") == (policy == "all")


@EITHER_IS_LESS
def test_the_shorter_delay_of_a_retry_counts(lab: Lab, argument_is_less: bool) -> None:
    """RabbitMQ 4.3: minimum and maximum of a delayed retry are the lesser of argument and policy."""
    needs_delayed_retry(lab)
    argument, policy = pair(argument_is_less, SOON_MS, HOUR_MS)
    lab.policy({"delayed-retry-min": policy, "delayed-retry-max": policy})
    delays = {"x-delayed-retry-min": argument, "x-delayed-retry-max": argument}
    lab.declare("work", {**QUORUM, **delays, "x-delayed-retry-type": "all"})
    assert waits_after_a_rejection(lab, "work")
    assert lab.arrival("work").body == b"again"


def waits_after_a_rejection(lab: Lab, queue: str) -> bool:
    """Reject a message and look whether it is there again at once."""
    lab.send(queue, b"again")
    channel = lab.connection.channel()
    delivery = answer(channel.get(queue))
    assert delivery is not None
    channel.reject(delivery.tag, requeue=True)
    return answer(channel.get(queue)) is None


def needs_delayed_retry(lab: Lab) -> None:
    """Skip where the broker has none."""
    if lab.version < (4, 3, 1):
        pytest.skip("delayed retry by policy came with RabbitMQ 4.3.1")
