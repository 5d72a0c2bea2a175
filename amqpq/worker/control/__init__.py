"""Remote control of a worker: a mailbox as Celery workers have, commands, revoked tasks, events."""

from amqpq.worker.control.office import ControlPlan, Inside, Office

__all__ = ["ControlPlan", "Inside", "Office"]
