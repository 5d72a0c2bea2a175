"""Partitioned queues: what they cannot be, names that are theirs, and what keeps their order."""

from __future__ import annotations

from amqpq.topology.document import QueuePart
from amqpq.topology.lint.context import Context
from amqpq.topology.lint.names import NAME_LIMIT_BYTES
from amqpq.topology.partitions import exchange_name, keeps_place, partition_names


def check(context: Context) -> None:
    """Run the rules on partitioned queues."""
    for name, part in context.file.queues.items():
        if ("queues", name) in context.findings.unknown:
            continue
        if part.partitions is None:
            if part.partition_by is not None:
                message = f"'{name}' has no partitions, so there is nothing to choose by"
                context.findings.error(
                    ("queues", name, "partition_by"), "TOP082", message, "add `partitions: 8`, or remove it"
                )
            continue
        _one_key(context, name, part)
        _kind(context, name, part)
        _names(context, name)


def _one_key(context: Context, name: str, part: QueuePart) -> None:
    by = part.partition_by
    if by is not None and (by.header is None) == (by.property is None):
        message = f"partition_by of '{name}' says {'nothing' if by.header is None else 'two things'}"
        remedy = "write `{header: NAME}` or `{property: correlation_id}`; without it the routing key chooses"
        context.findings.error(("queues", name, "partition_by"), "TOP082", message, remedy)


def _kind(context: Context, name: str, part: QueuePart) -> None:
    findings, path = context.findings, ("queues", name, "partitions")
    if part.type == "stream":
        message = f"'{name}' is a stream: its readers each read all of it, and there is nothing to share out"
        findings.error(path, "TOP082", message, "use a classic or quorum queue, or one stream")
    named = {letter.queue for letter in context.file.dead_letters.values()}
    if name in named or context.topology.is_dead_letter(name):
        message = (
            f"'{name}' takes dead letters, and the broker finds no queue of that name: there are only its partitions"
        )
        findings.error(path, "TOP082", message, "remove `partitions`")
    if name == f"{context.topology.project}.revocations":
        findings.error(path, "TOP082", "the stream of revocations has no partitions", "remove `partitions`")
    if part.single_active and part.type != "stream" and not keeps_place(context.topology.queues[name]):
        message = (
            f"when a worker of '{name}' dies, the message it had loses its place: only a quorum queue with a delivery limit "
            "counts what comes back and keeps it where it was, so the order per key is broken there"
        )
        findings.warning(("queues", name, "single_active"), "TOP083", message, "use type: quorum, and a delivery_limit")


def _is_partition(name: str, other: str) -> bool:
    """Whether a name is that of a partition, of as many as there may be one day."""
    return other.startswith(f"{name}.") and other.removeprefix(f"{name}.").isdecimal()


def _names(context: Context, name: str) -> None:
    queue = context.topology.queues[name]
    taken = [("queues", other) for other in context.file.queues if _is_partition(name, other)]
    taken += [("exchanges", other) for other in context.file.exchanges if other == exchange_name(name)]
    for section, other in taken:
        what = "a partition" if section == "queues" else "the exchange"
        context.findings.error(
            (section, other), "TOP011", f"'{other}' would collide with {what} of '{name}'", "name it differently"
        )
    longest = max((exchange_name(name), partition_names(queue)[-1]), key=len)
    if len(longest.encode()) > NAME_LIMIT_BYTES:
        message = f"the name '{longest[:40]}...' has more than {NAME_LIMIT_BYTES} bytes"
        context.findings.error(("queues", name), "TOP006", message, "shorten the queue's")
