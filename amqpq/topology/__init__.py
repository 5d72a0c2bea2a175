"""What exists on the broker and which task goes which way, as values; no connection anywhere.

`load` reads a topology file; the rest works on the `Topology` it returns. Names are lazy: the values alone load neither
YAML nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from amqpq.topology.loading import Inspection, inspect, load
    from amqpq.topology.model import Binding, Exchange, Queue, Route, Topology
    from amqpq.topology.routing import Reach, Router, reach

__all__ = [
    "Binding",
    "Exchange",
    "Inspection",
    "Queue",
    "Reach",
    "Route",
    "Router",
    "Topology",
    "inspect",
    "load",
    "reach",
]

_HOMES: Final = {
    "Binding": "model",
    "Exchange": "model",
    "Queue": "model",
    "Route": "model",
    "Topology": "model",
    "Reach": "routing",
    "Router": "routing",
    "reach": "routing",
    "Inspection": "loading",
    "inspect": "loading",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
