"""The ledger of a channel in confirm mode: which publications are under way, and what became of them. Pure.

What RabbitMQ does (https://www.rabbitmq.com/docs/confirms), and what follows:

* Publications on a channel are numbered from 1 in the order they are sent. The broker answers with `basic.ack` or
  `basic.nack` for one number, or with `multiple` for all numbers up to it; numbers may be answered out of order.
* A mandatory message that reaches no queue comes back by `basic.return`, and is confirmed as well, after the return.
  The return carries no number: only exchange, routing key and the content.
* A channel handles what it is sent in order, and it is there that a message is found unroutable: so returns come in
  the order of publication, and a return belongs to a publication that is not settled yet, behind the last returned
  one. Among those it is the first with the same exchange, key, message id and body. Two that agree in all of that are
  interchangeable: one copy was kept and one came back, whichever is called which.

A publisher hands over many publications at once and waits for all, so the ledger keeps ranges, not single numbers.
Shared by the blocking and the asyncio transport.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from amqpq.types import Fate, Outcome, Publication

CONFIRMED = Outcome(Fate.CONFIRMED)

_first_tag = attrgetter("first")
_MISSING_EXCHANGE = re.compile(r"no exchange '(?P<name>.*)' in vhost '", re.DOTALL)
_FORBIDDEN_EXCHANGE = re.compile(r"access to exchange '(?P<name>.*)' in vhost '", re.DOTALL)


class Batch:
    """Consecutive publications with consecutive numbers `first` to `last`, and what is known of each."""

    __slots__ = ("_low", "_marked", "_scattered", "first", "last", "publications")

    def __init__(self, first: int, publications: Sequence[Publication]) -> None:
        self.first = first
        self.last = first + len(publications) - 1
        self.publications = publications
        self._low = first  # all below are settled
        self._scattered: set[int] = set()  # settled ones above
        self._marked: dict[int, Outcome] = {}  # number -> what it is where it is not plainly confirmed

    @property
    def done(self) -> bool:
        """Whether the broker has spoken about every one."""
        return self._low > self.last

    @property
    def outcomes(self) -> list[Outcome]:
        """One outcome per publication, in order; meaningful once done."""
        outcomes = [CONFIRMED] * (self.last - self.first + 1)
        for tag, outcome in self._marked.items():
            outcomes[tag - self.first] = outcome
        return outcomes

    def settled(self, tag: int) -> bool:
        """Whether the broker has spoken about this number."""
        return tag < self._low or tag in self._scattered

    def settle(self, tag: int, outcome: Outcome | None) -> None:
        """Settle one number; `outcome` is None for a confirm. A returned message stays returned."""
        if tag < self._low or tag in self._scattered:
            return
        if outcome is not None:
            self._marked.setdefault(tag, outcome)
        if tag != self._low:
            self._scattered.add(tag)
            return
        low = tag + 1
        scattered = self._scattered
        while low in scattered:
            scattered.remove(low)
            low += 1
        self._low = low

    def settle_up_to(self, tag: int, outcome: Outcome | None) -> None:
        """Settle every number up to `tag` that is not settled yet."""
        stop = min(tag, self.last)
        if outcome is None and not self._scattered:
            self._low = max(self._low, stop + 1)
            return
        for each in range(self._low, stop + 1):
            self.settle(each, outcome)

    def returned(self, tag: int) -> bool:
        """Whether this number has come back."""
        return tag in self._marked

    def mark_returned(self, tag: int, reason: str) -> None:
        """Note that this number came back; the confirm for it is still to come."""
        self._marked[tag] = Outcome(Fate.RETURNED, reason)

    def matches(self, tag: int, exchange: str, routing_key: str, message_id: str | None, body: bytes) -> bool:
        """Whether this number may be the message that came back."""
        publication = self.publications[tag - self.first]
        return (
            publication.mandatory
            and publication.routing_key == routing_key
            and publication.exchange == exchange
            and publication.properties.message_id == message_id
            and publication.body == body
        )


class Ledger:
    """The publications under way on one channel. Not thread-safe: the channel's lock guards it."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []  # ascending; those before _head are done
        self._head = 0
        self._next = 1
        self._last_returned = 0

    def __repr__(self) -> str:
        return f"<Ledger next={self._next} batches={len(self._batches) - self._head}>"

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return self._head == len(self._batches)

    def add(self, publications: Sequence[Publication]) -> Batch:
        """Number publications (at least one) that are being sent now; do not change the sequence afterwards."""
        batch = Batch(self._next, publications)
        self._next = batch.last + 1
        self._batches.append(batch)
        return batch

    def ack(self, tag: int, *, multiple: bool) -> list[Batch]:
        """The broker confirmed; answer the batches that are done by it."""
        return self._settle(tag, multiple, None)

    def nack(self, tag: int, *, multiple: bool) -> list[Batch]:
        """The broker refused; answer the batches that are done by it."""
        return self._settle(tag, multiple, Outcome(Fate.NACKED, "the broker refused the message (basic.nack)"))

    def _settle(self, tag: int, multiple: bool, outcome: Outcome | None) -> list[Batch]:  # noqa: FBT001 - as on the wire
        batches = self._batches
        if multiple:
            tag = tag or self._next - 1  # 0 with multiple means all so far
            done: list[Batch] = []
            for index in range(self._head, len(batches)):
                batch = batches[index]
                if batch.first > tag:
                    break
                if not batch.done:
                    batch.settle_up_to(tag, outcome)
                    if batch.done:
                        done.append(batch)
        else:
            found = self._find(tag)
            if found is None or found.settled(tag):
                return []
            found.settle(tag, outcome)
            done = [found] if found.done else []
        if done:
            self._drop_done()
        return done

    def _find(self, tag: int) -> Batch | None:
        batches = self._batches
        if self._head < len(batches):
            batch = batches[self._head]
            if not batch.first <= tag <= batch.last:
                batch = batches[max(bisect_right(batches, tag, lo=self._head, key=_first_tag) - 1, self._head)]
            if batch.first <= tag <= batch.last:
                return batch
        return None

    def _drop_done(self) -> None:
        batches, head = self._batches, self._head
        while head < len(batches) and batches[head].done:
            head += 1
        if head == len(batches) or (head > 64 and head * 2 > len(batches)):  # noqa: PLR2004 - amortised: each is moved once
            del batches[:head]
            head = 0
        self._head = head

    def returned(self, exchange: str, routing_key: str, message_id: str | None, body: bytes, reason: str) -> bool:
        """A message came back; answer whether it is one of those under way."""
        identity = (exchange, routing_key, message_id, body)
        for index in range(self._head, len(self._batches)):
            batch = self._batches[index]
            for tag in range(max(batch.first, self._last_returned + 1), batch.last + 1):
                if not batch.settled(tag) and batch.matches(tag, *identity):
                    batch.mark_returned(tag, reason)
                    self._last_returned = tag
                    return True
        return False

    def abandon(self, reason: str, *, refused_publish: bool = False) -> list[Batch]:
        """The channel or the connection is gone: settle all that is under way, and answer the batches.

        Args:
            reason: The broker's words.
            refused_publish: The broker closed the channel because of a publication. It drops what follows that one, so
                publications to an exchange that it reports missing were RETURNED in effect, and those to one it denies
                access to, or the only one under way, were refused: NACKED. The rest is UNKNOWN.
        """
        open_batches = [batch for batch in self._batches[self._head :] if not batch.done]
        unsettled = [(batch, tag) for batch in open_batches for tag in range(batch.first, batch.last + 1)
                     if not batch.settled(tag)]  # fmt: skip
        missing = _exchange_in(_MISSING_EXCHANGE, reason) if refused_publish else None
        forbidden = _exchange_in(_FORBIDDEN_EXCHANGE, reason) if refused_publish else None
        sole = refused_publish and len(unsettled) == 1
        for batch, tag in unsettled:
            exchange = batch.publications[tag - batch.first].exchange
            if exchange == missing:
                fate = Fate.RETURNED
            elif exchange == forbidden or sole:
                fate = Fate.NACKED
            else:
                fate = Fate.UNKNOWN
            batch.settle(tag, Outcome(fate, reason))
        self._batches.clear()
        self._head = 0
        return open_batches


def _exchange_in(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found["name"] if found else None
