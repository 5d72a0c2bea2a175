"""So many per second and no more: a token bucket. Pure but for its state; it says how long to wait and does not wait."""

from __future__ import annotations

from collections.abc import Callable


class Bucket:
    """A token bucket that begins with one token.

    Args:
        per_second: Tokens that come in; None is no limit.
        monotonic: Seconds.
        burst: Tokens it holds at most.

    Raises:
        ValueError: The rate is not above zero.
    """

    __slots__ = ("_burst", "_monotonic", "_per_second", "_since", "_tokens")

    def __init__(self, per_second: float | None, monotonic: Callable[[], float], *, burst: int = 1) -> None:
        if per_second is not None and not per_second > 0:
            raise ValueError("a rate is above zero")
        self._per_second = per_second
        self._monotonic = monotonic
        self._burst = float(max(burst, 1))
        self._tokens = 1.0
        self._since = monotonic()

    def take(self, wanted: int) -> int:
        """Take up to `wanted` tokens; return how many there were."""
        if self._per_second is None:
            return wanted
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._per_second)
        self._since = now
        # What floating point takes from a token must not cost a whole pause.
        taken = min(wanted, int(self._tokens + 1e-9))
        self._tokens -= taken
        return taken

    def wait_seconds(self) -> float:
        """Return how long it takes until there is a token."""
        if self._per_second is None or self._tokens >= 1:
            return 0.0
        return (1 - self._tokens) / self._per_second
