"""How often a task may begin on one worker: a token bucket, as a value. The clock is the caller's.

A token comes every `rate.interval` seconds. The bucket holds a tenth of a second's worth, at least one: so slow rates are
even, and fast ones are not held to the length of a turn of the loop. In any time of `t` seconds at most
`t * rate.per_second + capacity` tasks begin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from amqpq.rates import Rate

BURST_SECONDS: Final = 0.1

_NEARLY: Final = 1e-9
"""What adding up fractions may cost."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens at a moment, seconds on the caller's clock."""

    rate: Rate
    tokens: float
    at: float

    @classmethod
    def full(cls, rate: Rate, now: float) -> Bucket:
        """Return a bucket that nothing was taken from."""
        return cls(rate, _capacity(rate), now)

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 where there is one."""
        missing = 1.0 - self._tokens(now)
        return 0.0 if missing <= _NEARLY else missing * self.rate.interval

    def taken(self, now: float) -> Bucket:
        """Return the bucket with one token less."""
        return replace(self, tokens=max(0.0, self._tokens(now) - 1.0), at=now)

    def _tokens(self, now: float) -> float:
        return min(_capacity(self.rate), self.tokens + max(0.0, now - self.at) * self.rate.per_second)


def _capacity(rate: Rate) -> float:
    return max(1.0, rate.per_second * BURST_SECONDS)
