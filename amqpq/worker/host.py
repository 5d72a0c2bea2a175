"""What a worker needs of an application. `amqpq.app.App` fits; the worker does not know that class."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, Protocol

from amqpq.errors import ConfigurationError, LocalError
from amqpq.message import ResultEnvelope, TaskEnvelope, TaskFacts
from amqpq.message.codec import Encoding
from amqpq.security.signing import Signer, Verifier
from amqpq.task import Task
from amqpq.topology import Topology
from amqpq.types import Properties


class Tasks(Protocol):
    """The tasks that may be run, by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, sorted."""

    def get(self, name: str) -> Task[..., Any] | None:
        """Return the task of this name, or None."""

    def explain_missing(self, name: str) -> str:
        """Say that there is no task of this name, and which one was probably meant."""


class ResultCodec(Protocol):
    """The part of `amqpq.message.Codec` that a worker uses."""

    @property
    def signer(self) -> Signer | None:
        """Signs what goes out."""

    @property
    def verifier(self) -> Verifier:
        """Checks what comes in."""

    def decode_task(
        self, body: bytes, properties: Properties, *, arrived: tuple[str, str] | None = None
    ) -> TaskEnvelope:
        """Check, unpack and decode a task."""

    def verify_task(self, body: bytes, properties: Properties) -> object:
        """Check size and signature of a task, and whether its key may sign it; nothing of it is decoded."""

    def encode_result(
        self,
        envelope: ResultEnvelope,
        *,
        reply_to: str,
        encoding: Encoding = ...,
        correlation_id: str | None = None,
    ) -> tuple[bytes, Properties]:
        """Encode and sign a result."""

    def encode_task(
        self, envelope: TaskEnvelope, *, exchange: str, key: str, encoding: Encoding = ...
    ) -> tuple[bytes, Properties]:
        """Encode and sign a task."""

    def task_facts(self, properties: Properties) -> TaskFacts:
        """Return what the properties claim."""


class Host(Protocol):
    """An application as a worker sees it."""

    @property
    def topology(self) -> Topology:
        """What exists on the broker."""

    @property
    def registry(self) -> Tasks:
        """The tasks."""

    @property
    def codec(self) -> ResultCodec:
        """Decodes tasks, encodes results."""


def load_host(reference: str, topology: Topology | None = None) -> Host:
    """Import the application that `module:attribute` names exactly; a child of the worker has nothing else to go by.

    Args:
        reference: As `-A` says, complete.
        topology: To be used instead of loading the file again.

    Raises:
        ConfigurationError: There is nothing there.
    """
    module_name, _, attribute = reference.partition(":")
    host: Any = getattr(importlib.import_module(module_name), attribute, None)
    if host is None:
        raise ConfigurationError(f"{module_name} has no {attribute!r}; the worker was started with -A {reference}")
    if topology is not None:
        # An application that used its topology while it was imported keeps that one. So it did in the parent, which
        # would not have started with another.
        with contextlib.suppress(LocalError):
            host.topology = topology
    loaded: Host = host
    return loaded
