"""A pool that follows its work: grows when tasks wait, shrinks when it has had less to do for a while.

`decide` is the whole policy and is pure; `Autoscaler` asks it once a second. Demand is what is here and not done, running or
waiting. The prefetch is that of the largest size from the start: what waits here makes the pool grow until it fits or is as
large as it may be, so nothing is kept from other workers that this one will not run soon, and the consumers stay as they are
(the prefetch of a consumer is fixed when it begins, https://www.rabbitmq.com/docs/consumer-prefetch).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from amqpq.log import WORKER
from amqpq.worker.pools.interface import Pool
from amqpq.worker.reactor import Reactor

logger = logging.getLogger(WORKER)

LOOK_SECONDS: Final = 1.0
"""Between two looks. Short bursts come and go unnoticed: starting a process costs more than they do."""
IDLE_SECONDS: Final = 30.0
"""How long less is needed before the pool shrinks, as in Celery (AUTOSCALE_KEEPALIVE)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Between which sizes a pool is to stay."""

    most: int
    fewest: int


@dataclass(frozen=True, slots=True)
class Lull:
    """A time in which the pool is larger than it needs to be: since when, and the most that was needed in it."""

    since: float
    peak: int


def decide(scale: Scale, size: int, demand: int, lull: Lull | None, now: float) -> tuple[int, Lull | None]:
    """Decide how large a pool is to be.

    It grows at once, to twice its size at most, so that a burst does not start everything there is. It shrinks when it has
    needed less for `IDLE_SECONDS`, to the most that it needed in that time.

    Args:
        scale: Its bounds.
        size: How large it is.
        demand: Tasks that are here and not done.
        lull: What the last decision returned.
        now: Seconds, on a clock that does not jump.

    Returns:
        The size, and what the next decision has to know.
    """
    if demand > size:
        return max(scale.fewest, min(scale.most, demand, size * 2)), None
    if demand == size:
        return size, None
    lull = Lull(now, demand) if lull is None else Lull(lull.since, max(lull.peak, demand))
    if now - lull.since < IDLE_SECONDS:
        return size, lull
    return max(scale.fewest, lull.peak), Lull(now, demand)


class Autoscaler:
    """Keeps a pool at the size that its work needs.

    Args:
        pool: The pool.
        scale: Its bounds.
        demand: Tells how many tasks are here and not done; None while that does not matter.
        reactor: The loop's.
    """

    def __init__(self, pool: Pool, scale: Scale, demand: Callable[[], int | None], reactor: Reactor) -> None:
        self._pool = pool
        self._scale = scale
        self._demand = demand
        self._reactor = reactor
        self._lull: Lull | None = None

    def start(self) -> None:
        """Begin to look."""
        self._reactor.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._reactor.call_later(LOOK_SECONDS, self._look)
        demand = self._demand()
        if demand is None:
            self._lull = None
            return
        size = self._pool.size
        wanted, self._lull = decide(self._scale, size, demand, self._lull, self._reactor.monotonic())
        if wanted > size:
            logger.info("autoscale: %d tasks are here; the pool grows from %d to %d", demand, size, wanted)
            self._pool.grow(wanted - size)
        elif wanted < size:
            logger.info("autoscale: the pool shrinks from %d to %d", size, wanted)
            self._pool.shrink(size - wanted)
