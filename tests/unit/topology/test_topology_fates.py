"""What becomes of messages that fail or wait, rule by rule; the integration ring holds it against a broker."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.topology import Router, Topology, fates, load
from amqpq.topology.expected import How
from amqpq.topology.fates import End, Ending, Failure, Follower, Message, Walked, span_text
from amqpq.topology.routing import router
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

OLD, NEW = (3, 10, 0), (4, 0, 0)


def queue(name: str, dead: str | None = None, *, key: str | None = None, **arguments: object) -> QueueSpec:
    """Make a queue; `dead` is its dead-letter exchange, `max_length` stands for `x-max-length`."""
    made: dict[str, object] = {f"x-{word.replace('_', '-')}": value for word, value in arguments.items()}
    if dead is not None:
        made["x-dead-letter-exchange"] = dead
    if key is not None:
        made["x-dead-letter-routing-key"] = key
    return QueueSpec(name, arguments=made)


def follower(
    *queues: QueueSpec,
    exchanges: Iterable[ExchangeSpec] = (),
    bindings: Iterable[BindingSpec] = (),
    version: tuple[int, int, int] = OLD,
) -> Follower:
    """Follow messages through these."""
    return Follower(Router(exchanges, queues, bindings, version=version))


def fail(at: Follower, how: How, times: int | None = None, *, where: str = "a") -> list[Ending]:
    """Let a message fail in the queue a."""
    return at.fail(Message(where, where), Failure(how, times))


def only(endings: list[Ending]) -> Ending:
    """The one ending of a message that was not copied."""
    assert len(endings) == 1
    return endings[0]


# ------------------------------------------------------------------------------------------------------ dead letters


def test_a_rejected_message_goes_to_the_dead_letter_of_its_queue() -> None:
    """At once, with the key that the queue says."""
    ending = only(fail(follower(queue("a", "", key="dead"), queue("dead")), "reject"))
    assert (ending.end, ending.where, ending.seconds) == (End.RESTS, "dead", (0, 0))
    assert [step.text for step in ending.steps] == ["a: a consumer rejects it", "a: dead letter (rejected) to dead"]


def test_without_a_dead_letter_key_the_message_keeps_its_own() -> None:
    """And the exchange routes by it."""
    at = follower(
        queue("a", "dlx"),
        queue("mine"),
        queue("others"),
        exchanges=[ExchangeSpec("dlx", "topic")],
        bindings=[BindingSpec("dlx", "mine", "web.#"), BindingSpec("dlx", "others", "mail.#")],
    )
    assert only(at.fail(Message("a", "web.resize"), Failure("reject"))).where == "mine"


def test_a_dead_letter_key_takes_further_keys_of_the_message_away() -> None:
    """CC counts for dead letters only where the queue says no key of its own."""
    headers = {"CC": ["copy"]}
    kept = follower(queue("a", ""), queue("copy")).fail(Message("a", "gone", headers), Failure("reject"))
    assert only(kept).where == "copy"
    taken = follower(queue("a", "", key="dead"), queue("dead"), queue("copy"))
    assert only(taken.fail(Message("a", "gone", headers), Failure("reject"))).where == "dead"


@pytest.mark.parametrize(
    "spec,reason",
    [
        (queue("a"), "a has no dead letter"),
        (queue("a", "gone"), "its dead letters go to the exchange 'gone', which does not exist"),
        (
            queue("a", "", key="b"),
            "its dead letters go to the default exchange with key 'b', where no queue takes them",
        ),
    ],
)
def test_a_dead_letter_that_nobody_takes_is_dropped(spec: QueueSpec, reason: str) -> None:
    """With the reason."""
    ending = only(fail(follower(spec), "reject"))
    assert (ending.end, ending.where, ending.reason) == (End.DROPPED, "nowhere", reason)


def test_a_queue_that_dead_letters_at_least_once_keeps_it() -> None:
    """Where the three settings that this takes are there; without reject-publish the broker falls back to dropping."""
    settings = {"queue_type": "quorum", "dead_letter_strategy": "at-least-once", "overflow": "reject-publish"}
    ending = only(fail(follower(queue("a", "", key="b", **settings)), "reject"))
    assert (ending.end, ending.where) == (End.KEPT, "a")
    ending = only(fail(follower(queue("a", "", key="b", **{**settings, "overflow": "drop-head"})), "reject"))
    assert ending.end is End.DROPPED


def test_each_copy_of_a_dead_letter_has_its_end() -> None:
    """A fanout of dead letters ends in all its queues."""
    at = follower(
        queue("a", "all"),
        queue("b"),
        queue("c"),
        exchanges=[ExchangeSpec("all", "fanout")],
        bindings=[BindingSpec("all", "b"), BindingSpec("all", "c")],
    )
    assert sorted(ending.where for ending in fail(at, "reject")) == ["b", "c"]


# ------------------------------------------------------------------------------------------------------------- circles


def waiting_room() -> Follower:
    """The retry loop of old: rejected into a queue to wait in, from which it comes back."""
    return follower(queue("a", "", key="wait"), queue("wait", "", key="a", message_ttl=60_000))


def test_a_circle_with_a_rejection_goes_on_for_ever() -> None:
    """The broker does not cut it; the circle is named."""
    ending = only(fail(waiting_room(), "reject"))
    assert (ending.end, ending.where) == (End.LOOPS, "a loop")
    assert ending.reason == "it goes round for ever: a -> wait -> a"


def test_a_circle_with_a_rejection_ends_when_the_message_is_run() -> None:
    """After as many rounds as it fails, each with its wait."""
    ending = only(fail(waiting_room(), "reject", 3))
    assert (ending.end, ending.where, ending.seconds) == (End.DONE, "done", (180, 180))


def test_a_circle_without_a_rejection_is_cut() -> None:
    """The broker drops the message instead of giving it back to a queue it died in; the circle is named."""
    at = follower(queue("a", "", key="b", message_ttl=1000), queue("b", "", key="a", message_ttl=2000))
    ending = only(at.expire(Message("a", "a"), 60))
    assert (ending.end, ending.seconds) == (End.DROPPED, (3, 3))
    assert ending.reason == "a circle of dead letters without a rejection, which the broker cuts: a -> b -> a"


def test_a_circle_of_delivery_limits_is_cut() -> None:
    """That a consumer had it in hand makes no rejection of it."""
    limited = {"queue_type": "quorum", "delivery_limit": 2}
    at = follower(queue("a", "", key="wait", **limited), queue("wait", "", key="a", message_ttl=1000))
    ending = only(fail(at, "limit"))
    assert ending.end is End.DROPPED
    assert "a -> wait -> a" in ending.reason


def test_dead_letters_that_multiply_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways back from each death are more with every round; that is said, and not followed for ever."""
    monkeypatch.setattr(fates, "COPIES", 500)
    at = follower(
        queue("a", "all"),
        queue("b", "", key="a", message_ttl=0),
        queue("c", "", key="a", message_ttl=0),
        exchanges=[ExchangeSpec("all", "fanout")],
        bindings=[BindingSpec("all", "b"), BindingSpec("all", "c")],
    )
    endings = fail(at, "reject", 100)
    assert endings[-1].end is End.UNDECIDED
    assert "multiply" in endings[-1].reason


@pytest.mark.parametrize("version,end", [(OLD, End.DROPPED), (NEW, End.DONE)])
def test_before_3_13_the_broker_mistakes_the_order_of_deaths(version: tuple[int, int, int], end: End) -> None:
    """With three queues in a circle an old death seems newer than the rejection, and the circle is cut."""
    at = follower(
        queue("a", "", key="b"),
        queue("b", "", key="c", message_ttl=1000),
        queue("c", "", key="a", message_ttl=1000),
        version=version,
    )
    assert only(fail(at, "reject", 5)).end is end


@pytest.mark.parametrize("version,end", [(OLD, End.LOOPS), (NEW, End.DROPPED)])
def test_before_3_13_one_rejection_lets_a_message_expire_for_ever(version: tuple[int, int, int], end: End) -> None:
    """Between two queues in which nobody rejects anything."""
    at = follower(
        queue("a", "", key="b"),
        queue("b", "", key="c", message_ttl=1000),
        queue("c", "", key="b", message_ttl=1000),
        version=version,
    )
    ending = only(fail(at, "reject", 1))
    assert ending.end is end
    assert ending.reason.endswith("b -> c -> b")


NAMES = ("a", "b", "c")


@st.composite
def wirings(draw: st.DrawFn) -> Follower:
    """Draw queues that dead-letter to one another in any way, some through a fanout or to nowhere."""
    queues = []
    for name in NAMES:
        arguments: dict[str, object] = {}
        if draw(st.booleans()):
            arguments["message_ttl"] = draw(st.sampled_from([0, 1000, 60_000]))
        if draw(st.booleans()):
            arguments |= {"queue_type": "quorum", "delivery_limit": draw(st.sampled_from([-1, 0, 1, 5]))}
        if draw(st.booleans()):
            arguments["expires"] = 5000
        dead = draw(st.sampled_from([None, "", "", "all", "gone"]))
        key = draw(st.sampled_from([None, *NAMES])) if dead is not None else None
        queues.append(queue(name, dead, key=key, **arguments))
    bindings = [BindingSpec("all", name) for name in NAMES if draw(st.booleans())]
    version = draw(st.sampled_from([OLD, NEW]))
    return follower(*queues, exchanges=[ExchangeSpec("all", "fanout")], bindings=bindings, version=version)


@given(wirings(), st.sampled_from(["raise", "reject", "crash", "limit"]), st.sampled_from([None, 1, 2, 7, 1000]))
def test_whatever_the_wiring_following_a_failure_comes_to_an_end(at: Follower, how: How, times: int | None) -> None:
    """Every copy has an ending, and one that fails for ever is never said to be run."""
    endings = fail(at, how, times)
    assert endings
    assert times is not None or all(ending.end is not End.DONE for ending in endings)
    assert all(ending.end is not End.UNDECIDED or "multiply" in ending.reason for ending in endings)
    assert all(ending.seconds[0] <= ending.seconds[1] for ending in endings)


@given(wirings(), st.floats(0, 1e6))
def test_whatever_the_wiring_waiting_comes_to_an_end(at: Follower, seconds: float) -> None:
    """No more time passes than is asked for, and nothing loops: circles of expiry are cut."""
    endings = at.expire(Message("a", "a"), seconds)
    assert endings
    assert all(ending.end in {End.RESTS, End.DROPPED, End.UNDECIDED} for ending in endings)
    assert all(ending.seconds[1] <= seconds for ending in endings)


# ------------------------------------------------------------------------------------------------------ delivery limit


@pytest.mark.parametrize(
    "version,limit,end",
    [
        (OLD, None, End.LOOPS),
        (NEW, None, End.RESTS),
        (OLD, -1, End.RESTS),
        (NEW, -1, End.LOOPS),
        (OLD, 5, End.RESTS),
        (NEW, 0, End.RESTS),
    ],
)
def test_a_delivery_limit_depends_on_the_version(version: tuple[int, int, int], limit: int | None, end: End) -> None:
    """None is no limit before 4.0 and 20 from there on; -1 is 0 before 4.0 and no limit from there on."""
    arguments: dict[str, object] = {"queue_type": "quorum"} | ({} if limit is None else {"delivery_limit": limit})
    at = follower(queue("a", "", key="dead", **arguments), queue("dead"), version=version)
    assert only(fail(at, "limit")).end is end


def test_a_message_may_come_back_as_often_as_the_limit_says() -> None:
    """With the next time it is a dead letter."""
    at = follower(queue("a", "", key="dead", queue_type="quorum", delivery_limit=2), queue("dead"))
    assert only(fail(at, "limit", 2)).end is End.DONE
    assert only(fail(at, "limit", 3)).where == "dead"


def test_a_classic_queue_hands_out_for_ever() -> None:
    """It counts no deliveries; only the message's own good end ends it."""
    ending = only(fail(follower(queue("a", "", key="dead"), queue("dead")), "limit"))
    assert (ending.end, ending.reason) == (
        End.LOOPS,
        "a counts no deliveries, as no classic queue does: it is handed out for ever",
    )
    assert only(fail(follower(queue("a")), "limit", 1000)).end is End.DONE


# ------------------------------------------------------------------------------------------------------------- expiry


def test_a_message_waits_in_each_queue_its_time() -> None:
    """Until the time is over: where it is then is the end."""
    at = follower(queue("a", "", key="b", message_ttl=10_000), queue("b", "", key="c", message_ttl=20_000), queue("c"))
    for seconds, where in ((9, "a"), (10, "b"), (29, "b"), (30, "c"), (1e9, "c")):
        assert only(at.expire(Message("a"), seconds)).where == where


def test_the_shorter_time_to_live_counts_and_that_of_the_message_once() -> None:
    """A dead letter has lost the expiration that its message had."""
    at = follower(queue("a", "", key="b", message_ttl=10_000), queue("b", "", key="c", message_ttl=60_000), queue("c"))
    assert only(at.expire(Message("a", ttl_seconds=5), 64)).seconds == (5, 5)
    assert only(at.expire(Message("a", ttl_seconds=5), 65)).where == "c"
    assert only(at.expire(Message("a", ttl_seconds=50), 11)).seconds == (10, 10)


def test_a_queue_that_expires_takes_its_messages_along() -> None:
    """That is no dead letter; and what dies later finds the queue gone."""
    at = follower(queue("a", "", key="b", message_ttl=10_000), queue("b", expires=5000), queue("x", expires=5000))
    assert only(at.expire(Message("x"), 4)).end is End.RESTS
    assert only(at.expire(Message("x"), 5)).end is End.DROPPED
    ending = only(at.expire(Message("a"), 60))
    assert (ending.end, ending.seconds) == (End.DROPPED, (10, 10))


# ------------------------------------------------------------------------------------------------------------- workers


def made(retries: dict[str, object] | None = None, **queues: object) -> Topology:
    """A topology with a queue `a`, retries and a ladder."""
    source = {"amqpq": 1, "project": "p", "queues": {"a": {}, **queues}, "security": {"signing": "off"}}
    return load({**source, "retries": retries or {}, "delays": {}}, environ={})


def raises(topology: Topology, times: int | None = None, **more: object) -> Ending:
    """Let the function of a message in a raise."""
    failure = Failure("raise", times, retries=topology.retries, **more)  # type: ignore[arg-type]
    return only(Follower(router(topology), topology).fail(Message("a", "a"), failure))


def test_retries_wait_and_end_in_the_dead_letter() -> None:
    """Waits grow, are rounded up to the ladder's unit, and are a span where they are spread."""
    topology = made({"max": 3, "backoff": {"min": "1s", "factor": 3}})
    ending = raises(topology)
    assert (ending.where, ending.seconds) == ("p.dead", (0.5 + 1.5 + 4.5, 13.0))
    topology = made({"max": 2, "backoff": {"min": "130ms", "factor": 1, "jitter": False}})
    assert raises(topology).seconds == (0.5, 0.5)  # 130 ms are two units of 125 ms


def test_a_message_that_fails_seldom_enough_is_run() -> None:
    """The attempt after its last failure is one of those allowed."""
    topology = made({"max": 3, "backoff": {"jitter": False}})
    assert (raises(topology, 3).end, raises(topology, 3).seconds) == (End.DONE, (7, 7))
    assert raises(topology, 4).where == "p.dead"
    assert raises(made(), 1).where == "p.dead"


def test_retries_may_drop() -> None:
    """Where the file says so."""
    ending = raises(made({"max": 1, "then": "drop"}))
    assert (ending.end, ending.reason) == (End.DROPPED, "`retries` say `then: drop`")


def test_a_message_that_expires_between_attempts_is_parked() -> None:
    """The worker that gets it then does not run it."""
    ending = raises(made({"max": 50}), expires_seconds=100)
    assert ending.where == "p.dead"
    assert ending.steps[-2].text == "a: it has expired meanwhile"
    assert ending.seconds[1] < 200


def test_a_message_of_a_queue_that_the_ladder_does_not_lead_back_to_gets_lost() -> None:
    """Nobody binds what somebody else owns."""
    topology = made({"max": 1}, a={"manage": "external"})
    ending = raises(topology)
    assert ending.where == "p.dead"
    assert "no binding of the ladder leads back" in ending.steps[-1].text


@pytest.mark.parametrize("factor", [1, 1.0001, 2])
def test_a_million_retries_are_followed_in_no_time(factor: float) -> None:
    """Once waits do not grow any more the rest is one step."""
    retries = {"max": 10**6, "backoff": {"min": "1s", "max": "1m", "factor": factor, "jitter": False}}
    ending = raises(made(retries))
    assert ending.where == "p.dead"
    assert 10**6 <= ending.seconds[1] <= 60 * 10**6
    assert len(ending.steps) < 30
    assert "to 1000000 raise; after each it waits" in ending.steps[-3].text


def test_a_message_is_parked_with_the_third_process_that_it_kills() -> None:
    """Two may be chance."""
    topology = made()
    at = Follower(router(topology), topology)
    assert only(fail(at, "crash")).where == "p.dead"
    assert only(fail(at, "crash", 2)).end is End.DONE
    assert only(fail(at, "crash", 3)).where == "p.dead"


def test_what_was_passed_is_noted() -> None:
    """Queues whose dead letters left, bindings, alternate exchanges."""
    walked = Walked()
    exchanges = [
        ExchangeSpec("dlx", "direct", arguments={"alternate-exchange": "rest"}),
        ExchangeSpec("rest", "fanout"),
    ]
    wiring = Router(exchanges, [queue("a", "dlx"), queue("b")], [BindingSpec("rest", "b")])
    Follower(wiring, walked=walked).fail(Message("a", "k"), Failure("reject"))
    assert (walked.bindings, walked.unrouted, walked.dead_letters) == ({("rest", "queue", "b", "")}, {"dlx"}, {"a"})


@pytest.mark.parametrize(
    "span,text",
    [
        ((0, 0), "0s"),
        ((0.5, 1), "500ms to 1s"),
        ((6511.5, 6511.5), "1h48m31.5s"),
        ((1209600, 1209600), "14d"),
        ((60, 90), "1m to 1m30s"),
    ],
)
def test_times_are_written_with_all_their_units(span: tuple[float, float], text: str) -> None:
    """So that they can be compared by eye."""
    assert span_text(span) == text
