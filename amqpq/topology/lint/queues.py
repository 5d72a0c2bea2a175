"""Queues: which argument which type takes, in which version, and which combinations lose messages."""

from __future__ import annotations

from typing import Final

from amqpq.topology import versions
from amqpq.topology.document import QueuePart
from amqpq.topology.lint import arguments
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Queue

WIDE_PRIORITIES: Final = 10
"""Each priority level of a classic queue costs memory and a process's time (https://www.rabbitmq.com/docs/priority)."""

LONGEST_SECONDS: Final = 10 * 365 * 86400
"""Longest TTL or expiry the broker takes (rabbit_misc:check_expiry)."""

SHORTEST_SECONDS: Final = 0.001
"""The broker counts in milliseconds."""


def check(context: Context) -> None:
    """Run the rules on queues (and on the further arguments of exchanges)."""
    for name, part in context.file.queues.items():
        if part.manage == "full":
            _Rules(context, name, part).run()
    for name, exchange in context.file.exchanges.items():
        arguments.of_exchange(context, name, exchange.extra_arguments)


class _Rules:
    """The rules on one queue."""

    def __init__(self, context: Context, name: str, part: QueuePart) -> None:
        self._context = context
        self._name = name
        self._part = part
        self._queue: Queue = context.topology.queues[name]

    def run(self) -> None:
        if self._part.type != "classic":
            self._replicated()
        if self._part.type == "stream":
            self._stream()
        else:
            self._no_stream()
        self._versions()
        self._losses()
        arguments.of_queue(self._context, self._queue)
        for key in ("ttl", "expires"):
            value = getattr(self._part, key)
            if value is not None and (value > LONGEST_SECONDS or 0 < value < SHORTEST_SECONDS):
                self._error(key, "TOP041", f"{key} must be between 1 ms and 10 years")

    def _error(self, key: str, rule: str, message: str, remedy: str = "") -> None:
        self._context.findings.error(("queues", self._name, *key.split(".")), rule, message, remedy)

    def _warn(self, key: str, rule: str, message: str, remedy: str = "") -> None:
        path = ("queues", self._name, *key.split(".")) if key else ("queues", self._name)
        self._context.findings.warning(path, rule, message, remedy)

    def _replicated(self) -> None:
        kind = self._part.type
        if self._part.max_priority is not None:
            message = f"a {kind} queue takes no max_priority: the broker refuses the declaration"
            remedy = "remove it (a quorum queue has priorities of its own from 4.0 on), or use type: classic"
            self._error("max_priority", "TOP030", message, remedy)
        for key, wrong in (("durable", not self._part.durable), ("auto_delete", self._part.auto_delete)):
            if wrong:
                message = f"a {kind} queue is always durable and never auto-deleted"
                self._error(key, "TOP030", message, f"remove `{key}`, or use type: classic")
        limits = self._part.limits
        if limits is not None and limits.overflow == "reject-publish-dlx":
            message = f"a {kind} queue does not know overflow: reject-publish-dlx"
            self._error("limits.overflow", "TOP030", message, "use reject-publish or drop-head, or type: classic")

    def _stream(self) -> None:
        refused = {
            "ttl": self._part.ttl,
            "expires": self._part.expires,
            "limits": self._part.limits,
            "delivery_limit": self._part.delivery_limit,
            "consumer_timeout": self._part.consumer_timeout,
            "dead_letter": None if self._part.dead_letter == "none" else self._part.dead_letter,
            "single_active": self._part.single_active or None,
        }
        for key, value in refused.items():
            if value is not None:
                self._error(
                    key, "TOP030", f"a stream takes no {key}", "streams keep by `retention: {max_age, max_bytes}`"
                )
        retention = self._part.retention
        if retention is None or (retention.max_age is None and retention.max_bytes is None):
            message = f"the stream '{self._name}' has no retention: it grows until the disk is full"
            self._error("retention", "TOP036", message, "add `retention: {max_age: 30D}` or max_bytes")

    def _no_stream(self) -> None:
        if self._part.retention is not None:
            message = f"a {self._part.type} queue has no retention"
            self._error("retention", "TOP030", message, "use `ttl` and `limits`, or type: stream")
        if self._part.type == "classic" and self._part.delivery_limit is not None:
            message = "a classic queue does not count deliveries: the broker refuses delivery_limit"
            self._error("delivery_limit", "TOP030", message, "remove it, or use type: quorum")

    def _versions(self) -> None:
        lowest = self._context.lowest
        if not self._part.durable and self._part.type == "classic":
            message = "a queue that is neither durable nor exclusive is refused from RabbitMQ 4.3 on"
            if lowest >= (4, 3, 0):
                self._error("durable", "TOP031", message, "make it durable")
            else:
                self._warn("durable", "TOP031", message, "make it durable")
        if self._part.delivery_limit == -1 and lowest < (4, 0, 0):
            message = f"before RabbitMQ 4.0 a delivery_limit of -1 means 0, and the file is for {versions.show(lowest)}"
            self._error("delivery_limit", "TOP033", message, "write a positive limit, or require >=4.0")
        elif self._part.delivery_limit == -1:
            path = ("queues", self._name, "delivery_limit")
            self._context.findings.info(path, "TOP038", "without a delivery limit a poison message comes back for ever")
        if self._part.consumer_timeout is not None and lowest < (3, 12, 0):
            message = f"RabbitMQ before 3.12 knows no consumer_timeout of a queue, and the file is for {versions.show(lowest)}"
            remedy = "require >=3.12, or set it in rabbitmq.conf and write `broker: {consumer_timeout: ...}`"
            self._error("consumer_timeout", "TOP033", message, remedy)
        elif self._part.consumer_timeout is not None and self._part.type == "classic" and lowest >= (4, 3, 0):
            message = "from RabbitMQ 4.3 on only quorum queues have a consumer timeout"
            self._error("consumer_timeout", "TOP030", message, "remove it, or use type: quorum")
        if self._part.max_priority is not None and self._part.max_priority > WIDE_PRIORITIES:
            message = f"each of the {self._part.max_priority} priorities costs memory and CPU"
            self._warn("max_priority", "TOP042", message, f"use at most {WIDE_PRIORITIES}")

    def _losses(self) -> None:
        queue = self._queue
        # Without a dead letter on purpose: not because it takes dead letters itself, or names one that does not exist.
        wanted = "dead_letter" in self._part.model_fields_set and self._part.dead_letter in {None, "none"}
        targets = {part.queue for part in self._context.file.dead_letters.values()}
        dead_end = wanted and self._name not in targets and queue.dead_letter is None
        if dead_end and queue.type == "quorum":
            message = f"the quorum queue '{self._name}' has no dead letter: what reaches the delivery limit is dropped"
            self._warn("", "TOP038", message, "give it a dead_letter")
        limited = queue.limits.max_length is not None or queue.limits.max_length_bytes is not None
        if dead_end and limited and queue.limits.overflow in {None, "drop-head"}:
            message = f"'{self._name}' drops its oldest messages when it is full, and has no dead letter for them"
            self._warn("limits", "TOP037", message, "use overflow: reject-publish, or give it a dead_letter")
        if queue.expires_seconds is not None:
            message = f"when '{self._name}' was unused for that long it is deleted with its messages, which are not dead-lettered"
            self._warn("expires", "TOP039", message, "use ttl if the messages are meant")
        if queue.limits.overflow is not None and not limited:
            message = "overflow without max_length or max_length_bytes never happens"
            self._warn("limits.overflow", "TOP041", message, "add a limit, or remove it")
        if not limited and queue.ttl_seconds is None and queue.type != "stream":
            path = ("queues", self._name)
            message = f"'{self._name}' may grow without end: it has no limit and no ttl"
            self._context.findings.info(path, "TOP036", message)
