"""Remote control from the caller's side: asking workers, telling workers, revoking tasks."""

from amqpq.remote.control import Control, Inspect

__all__ = ["Control", "Inspect"]
