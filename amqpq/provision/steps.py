"""One thing that an apply does. Every step may be done twice: the second time changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from amqpq.provision.observed import SeenPolicy
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

Operation: TypeAlias = Literal[
    "rename", "exchange", "queue", "policy", "bind", "unbind", "delete policy", "delete queue", "delete exchange"
]

_KINDS: Final = {"bind": "binding", "unbind": "binding"}


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to which object; `spec` is None where it is deleted, or only noted where it lives (`rename`)."""

    operation: Operation
    name: str
    spec: ExchangeSpec | QueueSpec | BindingSpec | SeenPolicy | None

    @property
    def address(self) -> str:
        """The object in words, as a `Change` has it."""
        kind = _KINDS.get(self.operation, self.operation.removeprefix("delete "))
        return f"{kind} {self.name}"
