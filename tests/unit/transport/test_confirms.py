"""The ledger of confirms, against a plain model of what a broker may answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.transport.confirms import Batch, Ledger
from amqpq.types import Fate, Outcome, Properties, Publication


def publication(
    key: str = "q", *, body: bytes = b"", exchange: str = "ex", message_id: str | None = None
) -> Publication:
    """A publication; mandatory, as all are by default."""
    return Publication(exchange, key, body, Properties(message_id=message_id))


def fates(batch: Batch) -> list[Fate]:
    """The fates of a batch, in order."""
    return [outcome.fate for outcome in batch.outcomes]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_every_order_of_answers_settles_every_publication_once(sizes: list[int], data: st.DataObject) -> None:
    """Acks and nacks, single and multiple, in any order: each batch is answered once, with what the broker said of each."""
    ledger = Ledger()
    batches = [ledger.add([publication()] * size) for size in sizes]
    total = sum(sizes)
    model: dict[int, Fate] = {}
    answered: list[Batch] = []
    flags = st.lists(st.booleans(), min_size=total, max_size=total)
    order = data.draw(st.permutations(range(1, total + 1)))
    for tag, multiple, confirmed in zip(order, data.draw(flags), data.draw(flags), strict=True):
        for each in range(1, tag + 1) if multiple else [tag]:
            model.setdefault(each, Fate.CONFIRMED if confirmed else Fate.NACKED)
        answered += ledger.ack(tag, multiple=multiple) if confirmed else ledger.nack(tag, multiple=multiple)
        assert {batch.first for batch in answered} == {
            batch.first for batch in batches if all(each in model for each in range(batch.first, batch.last + 1))
        }
    assert len(answered) == len(batches)
    assert [fate for batch in batches for fate in fates(batch)] == [model[tag] for tag in range(1, total + 1)]
    assert ledger.empty


def test_multiple_zero_means_all_so_far() -> None:
    """AMQP's 0 with multiple settles everything that was sent."""
    ledger = Ledger()
    batch = ledger.add([publication()] * 3)
    assert ledger.ack(0, multiple=True) == [batch]


def test_a_number_never_sent_changes_nothing() -> None:
    """A confirm for what was not sent, or was settled before, is not an answer to anything."""
    ledger = Ledger()
    assert ledger.ack(1, multiple=False) == []
    batch = ledger.add([publication()])
    assert ledger.ack(2, multiple=False) == []
    assert ledger.ack(1, multiple=False) == [batch]
    assert ledger.ack(1, multiple=False) == []


def test_a_returned_message_is_returned_although_it_is_confirmed() -> None:
    """basic.return comes before the ack for it, and weighs more."""
    ledger = Ledger()
    batch = ledger.add([publication("here"), publication("nowhere"), publication("here")])
    assert ledger.returned("ex", "nowhere", None, b"", "312 NO_ROUTE")
    assert ledger.ack(3, multiple=True) == [batch]
    assert batch.outcomes == [Outcome(Fate.CONFIRMED), Outcome(Fate.RETURNED, "312 NO_ROUTE"), Outcome(Fate.CONFIRMED)]


def test_a_return_finds_its_message_by_id() -> None:
    """Of two messages on one route, the one with the returned id is meant."""
    ledger = Ledger()
    batch = ledger.add([publication(message_id="a"), publication(message_id="b")])
    ledger.returned("ex", "q", "b", b"", "gone")
    ledger.ack(2, multiple=True)
    assert fates(batch) == [Fate.CONFIRMED, Fate.RETURNED]


def test_a_return_finds_its_message_by_body_where_there_is_no_id() -> None:
    """The content that came back tells two messages without an id apart."""
    ledger = Ledger()
    batch = ledger.add([publication(body=b"a"), publication(body=b"b")])
    ledger.returned("ex", "q", None, b"b", "gone")
    ledger.ack(2, multiple=True)
    assert fates(batch) == [Fate.CONFIRMED, Fate.RETURNED]


def test_equal_messages_come_back_in_the_order_of_publication() -> None:
    """Messages that agree in everything are returned first to last, over several batches, and settled ones are passed by."""
    ledger = Ledger()
    first = ledger.add([publication()] * 2)
    second = ledger.add([publication()] * 2)
    ledger.ack(1, multiple=False)
    assert ledger.returned("ex", "q", None, b"", "gone")
    assert ledger.returned("ex", "q", None, b"", "gone")
    ledger.ack(4, multiple=True)
    assert (fates(first), fates(second)) == ([Fate.CONFIRMED, Fate.RETURNED], [Fate.RETURNED, Fate.CONFIRMED])


def test_what_was_not_mandatory_does_not_come_back() -> None:
    """A return is never matched to a publication that asked for none, or to nothing."""
    ledger = Ledger()
    ledger.add([Publication("ex", "q", b"", Properties(), mandatory=False)])
    assert not ledger.returned("ex", "q", None, b"", "gone")


@given(st.lists(st.sampled_from(["here", "nowhere"]), min_size=1, max_size=30), st.integers(1, 4), st.data())
def test_returns_and_confirms_as_a_broker_sends_them(keys: list[str], size: int, data: st.DataObject) -> None:
    """With returns in order, and confirms late and gathered at random, exactly the unroutable ones are returned."""
    ledger = Ledger()
    batches = [
        ledger.add([publication(key) for key in keys[start : start + size]]) for start in range(0, len(keys), size)
    ]
    for tag, key in enumerate(keys, 1):
        if key == "nowhere":
            assert ledger.returned("ex", key, None, b"", "gone")
        if data.draw(st.booleans()):
            ledger.ack(tag, multiple=data.draw(st.booleans()))
    ledger.ack(len(keys), multiple=True)
    assert [fate for batch in batches for fate in fates(batch)] == [
        Fate.RETURNED if key == "nowhere" else Fate.CONFIRMED for key in keys
    ]


NOT_FOUND = "NOT_FOUND - no exchange 'gone' in vhost '/'"
FORBIDDEN = "ACCESS_REFUSED - access to exchange 'closed' in vhost '/' refused for user 'u'"


@pytest.mark.parametrize(
    ("exchanges", "words", "refused", "expected"),
    [
        (["a", "b"], "the socket broke", False, [Fate.UNKNOWN, Fate.UNKNOWN]),
        (["a", "gone", "a", "gone"], NOT_FOUND, True, [Fate.UNKNOWN, Fate.RETURNED, Fate.UNKNOWN, Fate.RETURNED]),
        (["a", "closed"], FORBIDDEN, True, [Fate.UNKNOWN, Fate.NACKED]),
        (["gone"], NOT_FOUND, False, [Fate.UNKNOWN]),
        (["a"], "PRECONDITION_FAILED - message size 20000000 is larger than limit", True, [Fate.NACKED]),
        (["a", "a"], "PRECONDITION_FAILED - message size 20000000 is larger than limit", True, [Fate.UNKNOWN] * 2),
    ],
)
def test_what_is_left_when_the_channel_goes(
    exchanges: list[str], words: str, refused: bool, expected: list[Fate]
) -> None:
    """What the broker's last words prove is told apart from what nobody knows."""
    ledger = Ledger()
    batch = ledger.add([publication(exchange=exchange) for exchange in exchanges])
    assert ledger.abandon(words, refused_publish=refused) == [batch]
    assert fates(batch) == expected
    assert all(outcome.reason == words for outcome in batch.outcomes)


def test_what_was_settled_stays_settled_when_the_channel_goes() -> None:
    """Confirmed stays confirmed, returned stays returned; only the rest is unknown."""
    ledger = Ledger()
    batch = ledger.add([publication("a"), publication("b"), publication("c")])
    ledger.ack(1, multiple=False)
    ledger.returned("ex", "b", None, b"", "312 NO_ROUTE")
    assert ledger.abandon("lost") == [batch]
    assert fates(batch) == [Fate.CONFIRMED, Fate.RETURNED, Fate.UNKNOWN]
    assert ledger.abandon("lost again") == []


def test_the_ledger_forgets_what_is_done() -> None:
    """Two thousand confirmed publications leave nothing behind, also where the first is answered last."""
    ledger = Ledger()
    oldest = ledger.add([publication()])
    for tag in range(2, 2_001):
        ledger.add([publication()])
        ledger.ack(tag, multiple=False)
    assert ledger.ack(1, multiple=False) == [oldest]
    assert ledger.empty
    assert len(ledger._batches) == 0
