"""A pool that follows its work: grows when tasks wait, shrinks when it has had less to do for a while.

`decide` is the whole policy and is pure; `Sizing` asks it once a second. Demand is what is here and not done, running or
waiting. The prefetch is that of the largest size from the start: what waits here makes the pool grow until it fits or is as
large as it may be, so nothing is kept from other workers that this one will not run soon, and the consumers stay as they are
(the prefetch of a consumer is fixed when it begins, https://www.rabbitmq.com/docs/consumer-prefetch).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from amqpq.errors import ConfigurationError
from amqpq.log import WORKER
from amqpq.worker.intake import PREFETCH_LIMIT, Intake
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


class Sizing:
    """The size of a worker's pool, by hand or following its work, and the prefetch that goes with it.

    Args:
        pool: The pool.
        intake: Whose prefetch follows.
        scale: Its bounds; None where the size is set by hand.
        demand: Tells how many tasks are here and not done; None while that does not matter.
        reactor: The loop's.
    """

    def __init__(
        self, pool: Pool, intake: Intake, scale: Scale | None, demand: Callable[[], int | None], reactor: Reactor
    ) -> None:
        self._pool = pool
        self._intake = intake
        self._scale = scale
        self._demand = demand
        self._reactor = reactor
        self._lull: Lull | None = None
        self._per_task = intake.prefetch / (pool.size if scale is None else scale.most)
        if scale is not None:
            reactor.call_later(LOOK_SECONDS, self._look)

    def set_size(self, size: int) -> None:
        """Run so many tasks at a time from now on, and hold deliveries in proportion.

        Raises:
            ConfigurationError: The pool cannot, or it follows its work; the message says why.
        """
        scale = self._scale
        if scale is not None:
            raise ConfigurationError(
                f"the size of this pool follows its work, between {scale.fewest} and {scale.most} (--autoscale)"
            )
        self._resize(size)
        self._hold_for(size)
        logger.info("%d tasks at a time now, prefetch %d per queue", size, self._intake.prefetch)

    def set_scale(self, most: int | None, fewest: int | None) -> Scale:
        """Change the bounds, or one of them; the pool is within them at once.

        Raises:
            ConfigurationError: It has none, or these are none.
        """
        if self._scale is None:
            raise ConfigurationError("this worker was started without --autoscale; its size is set by hand")
        scale = Scale(self._scale.most if most is None else most, self._scale.fewest if fewest is None else fewest)
        if not 1 <= scale.fewest <= scale.most:
            raise ConfigurationError(f"from {scale.fewest} to {scale.most} is no range of sizes; at least one must run")
        self._scale = scale
        self._resize(max(scale.fewest, min(scale.most, self._pool.size)))
        self._hold_for(scale.most)
        return scale

    def _resize(self, size: int) -> None:
        if size > self._pool.size:
            self._pool.grow(size - self._pool.size)
        elif size < self._pool.size:
            self._pool.shrink(self._pool.size - size)

    def _hold_for(self, size: int) -> None:
        self._intake.resize(max(1, min(PREFETCH_LIMIT, round(self._per_task * size))))

    def _look(self) -> None:
        self._reactor.call_later(LOOK_SECONDS, self._look)
        demand = self._demand()
        if demand is None or self._scale is None:
            self._lull = None
            return
        size = self._pool.size
        wanted, self._lull = decide(self._scale, size, demand, self._lull, self._reactor.monotonic())
        if wanted != size:
            grows = "grows" if wanted > size else "shrinks"
            logger.info("autoscale: %d tasks are here; the pool %s from %d to %d", demand, grows, size, wanted)
            self._resize(wanted)
