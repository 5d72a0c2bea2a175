"""Tasks on RabbitMQ: the topology in YAML, signed messages, late acknowledgement, per-task reply queues.

Every name below is loaded when it is first used: `import amqpq` itself loads no driver and no YAML.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amqpq import errors, hooks, signals
    from amqpq.aioapp import AsyncApp, AsyncAppTask
    from amqpq.app import App, AppTask
    from amqpq.errors import AmqpqError
    from amqpq.producer.batch import Batch
    from amqpq.replies.aioresult import AsyncTaskResult
    from amqpq.replies.result import AsyncResult
    from amqpq.task import Request, Task, current_request
    from amqpq.topology.loading import load as load_topology
    from amqpq.topology.model import Topology

__all__ = [  # noqa: RUF022 - in groups
    # applications
    "App",
    "AsyncApp",
    # tasks
    "Task",
    "AppTask",
    "AsyncAppTask",
    "Request",
    "current_request",
    "hooks",
    "signals",
    # results
    "AsyncResult",
    "AsyncTaskResult",
    "Batch",
    # topology
    "Topology",
    "load_topology",
    # errors
    "AmqpqError",
    "errors",
    # the package
    "__version__",
]

_HOMES = {
    "App": "amqpq.app:App",
    "AppTask": "amqpq.app:AppTask",
    "AsyncApp": "amqpq.aioapp:AsyncApp",
    "AsyncAppTask": "amqpq.aioapp:AsyncAppTask",
    "AsyncTaskResult": "amqpq.replies.aioresult:AsyncTaskResult",
    "AsyncResult": "amqpq.replies.result:AsyncResult",
    "Batch": "amqpq.producer.batch:Batch",
    "Task": "amqpq.task:Task",
    "Request": "amqpq.task:Request",
    "current_request": "amqpq.task:current_request",
    "hooks": "amqpq.hooks",
    "signals": "amqpq.signals",
    "Topology": "amqpq.topology.model:Topology",
    "load_topology": "amqpq.topology.loading:load",
    "AmqpqError": "amqpq.errors:AmqpqError",
    "errors": "amqpq.errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        value: Any = metadata.version("amqpq")
    elif name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        home = importlib.import_module(module)
        value = getattr(home, attribute) if attribute else home
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, loaded or not."""
    return sorted({*globals(), *__all__})
