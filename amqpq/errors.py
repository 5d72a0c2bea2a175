"""Every error amqpq raises, in one tree.

Three branches say whose fault it is, because that decides what to do next:

* `LocalError`: what was asked for cannot be done (a typo, a missing key, an argument that cannot be serialised).
  Nothing was sent. Trying again changes nothing.
* `RemoteMessageError`: what came out of a queue is nonsense, a forgery, or not for us. Only the decoding entries of
  `amqpq.message` raise it. The worker turns it into a dead letter with the `cause` as a header.
* `TransportError` and `ResultError`: the broker, the network or the task at the other end.

The first line of a class docstring is its default message; it is written as advice. `recoverable` says whether the same
call may succeed later without anyone changing anything.
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Final


class AmqpqError(Exception):
    """Something went wrong inside amqpq."""

    recoverable: ClassVar[bool] = False
    """Whether the same call may succeed later without a change."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.advice())

    @classmethod
    def advice(cls) -> str:
        """Return the first paragraph of the class docstring, on one line."""
        paragraph = (cls.__doc__ or cls.__name__).split("\n\n", 1)[0]
        return " ".join(paragraph.split())


# --------------------------------------------------------------------------------------------------- what you asked for


class LocalError(AmqpqError):
    """The call cannot be carried out as written."""


class TopologyError(LocalError):
    """The topology file has errors; each is listed with its place.

    `problems` holds one sentence per error, each beginning with `file:line:column`.
    """

    def __init__(self, problems: list[str] | tuple[str, ...]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{count} error{'s' if count != 1 else ''} in the topology:\n" + "\n".join(self.problems))

    def __reduce__(self) -> tuple[type[TopologyError], tuple[tuple[str, ...]]]:
        """Pickle by the problems, not by the rendered text."""
        return type(self), (self.problems,)


class ConfigurationError(LocalError):
    """The application or a command is set up in a way that cannot work."""


class NotBuiltYet(LocalError):
    """This option is part of the design but not built yet; remove it rather than rely on it."""


class NoRoute(LocalError):
    """No route matches the task name; add one under `routes:` or name a queue in the call."""


class UnknownTask(LocalError):
    """No task of this name is registered in the application."""


class DuplicateTask(LocalError):
    """Two functions claim the same task name; give one of them another `name=`."""


class NotSerializable(LocalError):
    """The arguments cannot be written with the chosen serializer; pass plain data or choose another serializer."""


class MessageTooLarge(LocalError):
    """The message is larger than `messages.max_size`; send a reference to the data, or raise the limit."""


class KeyProblem(LocalError):
    """A signing key is missing, unreadable or of the wrong kind."""


class BrokerSetupError(LocalError):
    """A private RabbitMQ node cannot be started on this machine."""


# --------------------------------------------------------------------------------------------- what a queue held


class RemoteMessageError(AmqpqError):
    """A message from a queue cannot be accepted.

    `cause` is the stable word that travels in the dead letter's headers.
    """

    cause: ClassVar[str] = "refused"


class Undecodable(RemoteMessageError):
    """The body cannot be decoded as its content type says."""

    cause = "undecodable"


class ContentRefused(RemoteMessageError):
    """The content type is not among `messages.accept`."""

    cause = "content-refused"


class OversizeMessage(RemoteMessageError):
    """The body is, or unpacks to, more than `messages.max_size`."""

    cause = "oversize"


class SignatureMissing(RemoteMessageError):
    """The message is unsigned and this project requires signatures."""

    cause = "unsigned"


class SignatureInvalid(RemoteMessageError):
    """The signature does not match the message: it was altered on the way, or forged."""

    cause = "forged"


class KeyUntrusted(RemoteMessageError):
    """The message is signed with a key that nobody here trusts; add it under `security.trust`."""

    cause = "untrusted"


class Replayed(RemoteMessageError):
    """The message came by another route than it was signed for, came here before, or was signed in the future."""

    cause = "replayed"


class UnregisteredTask(RemoteMessageError):
    """The message names a task that this worker does not know."""

    cause = "unknown-task"


class ExpiredMessage(RemoteMessageError):
    """The task's expiry passed before a worker could run it."""

    cause = "expired"


# ------------------------------------------------------------------------------------------- the broker, the network


class TransportError(AmqpqError):
    """The broker could not do what was asked."""

    recoverable = True


class BrokerUnreachable(TransportError):
    """No broker answered at any of the addresses; is it running? (`amqpq broker start` gives you a private one)."""


class TlsMismatch(TransportError):
    """One side speaks TLS and the other does not; use amqps:// for a TLS port and amqp:// for a plain one."""

    recoverable = False


class AuthenticationRefused(TransportError):
    """The broker refused the user name or the password."""

    recoverable = False


class AccessRefused(TransportError):
    """The user lacks a permission for this operation; `rabbitmqctl set_permissions` grants it."""

    recoverable = False


class ConnectionLost(TransportError):
    """The connection to the broker went away."""


class ChannelClosed(TransportError):
    """The broker closed the channel; whatever was under way on it has no answer."""


class ObjectNotFound(TransportError):
    """The exchange or queue does not exist on the broker; `amqpq topology apply` creates what the file declares."""

    recoverable = False


class QueueUnavailable(ChannelClosed):
    """The queue exists, but the cluster node that it is on is down; it comes back with that node.

    Whatever was asked for is worth asking again: what the queue holds is not lost.
    """


class ResourceLocked(TransportError):
    """The queue belongs exclusively to another connection."""


class PreconditionFailed(TransportError):
    """The object exists on the broker with other properties."""

    recoverable = False


class OperationTimeout(TransportError, TimeoutError):
    """The broker did not answer before the deadline."""


class PublishError(TransportError):
    """The message was not published.

    `message_id` names the message where it is known; publishing again keeps that id.
    """

    def __init__(self, message: str | None = None, *, message_id: str | None = None) -> None:
        super().__init__(message)
        self.message_id = message_id


class Unroutable(PublishError):
    """No queue is bound for this exchange and key, so the broker returned the message."""

    recoverable = False


class Nacked(PublishError):
    """The broker refused the message (a full queue with reject-publish, or an internal error)."""


class Blocked(PublishError):
    """The broker blocks publishers (memory or disk alarm) and did not unblock before the deadline."""


class OutcomeUnknown(PublishError):
    """The connection went away before the confirm: the message may or may not have been accepted."""


class BlockedInDoubt(Blocked, OutcomeUnknown):
    """The broker blocked publishers just after this message was written: it may take it when the alarm ends."""


FAILURES_SHOWN: Final = 10
"""Of a batch, in the text of its error."""


class BatchFailed(PublishError):
    """Some messages of the batch were not published.

    `failures` maps the message id of each failed message to its `PublishError`.
    """

    def __init__(self, failures: dict[str, PublishError]) -> None:
        self.failures = dict(failures)
        lines = [f"{message_id}: {error}" for message_id, error in islice(self.failures.items(), FAILURES_SHOWN)]
        if len(self.failures) > FAILURES_SHOWN:
            lines.append(f"and {len(self.failures) - FAILURES_SHOWN} more; `failures` has all of them")
        super().__init__("\n".join([f"{len(self.failures)} of the batch's messages were not published:", *lines]))

    def __reduce__(self) -> tuple[type[BatchFailed], tuple[dict[str, PublishError]]]:
        """Pickle by the failures, not by the rendered text."""
        return type(self), (self.failures,)


# ------------------------------------------------------------------------------------------------------------ results


class ResultError(AmqpqError):
    """The result cannot be had."""


class ResultTimeout(ResultError, TimeoutError):
    """The task did not finish before the timeout; its result, once there, can still be fetched by id."""

    recoverable = True


class ResultNotFound(ResultError):
    """No reply queue has this id: it never existed, was already fetched, or expired."""


class NoReplyExpected(ResultError):
    """This task was sent with `reply: none`; there is no result to fetch."""


class ReplyLost(ResultError):
    """The connection a direct reply would have come through went away; direct replies are at most once."""


class TaskExpired(ResultError):
    """The task expired before a worker could run it."""


class TaskRevoked(ResultError):
    """The task was revoked before it ran, or ended by a revoke; nobody will run it."""


class MaxRetriesExceeded(ResultError):
    """The task asked to be tried again and had been tried as often as it may be."""


class WorkerLost(ResultError):
    """The process that ran the task died, as often as a message may; the task is in the dead letter of its queue."""


class SoftTimeLimitExceeded(ResultError):
    """The task ran longer than its soft time limit.

    Raised inside the task, which may catch it to clean up; a task that lets it go has failed with it.
    """


class TimeLimitExceeded(ResultError):
    """The task ran longer than its hard time limit, so its process was killed; it is in the dead letter of its queue."""


class RemoteError(ResultError):
    """The task failed with an exception that does not exist on this side.

    `exc_type`, `exc_module` and `exc_message` are the remote exception's; `traceback` is its text.
    """

    def __init__(self, exc_type: str, exc_message: object, exc_module: str = "", traceback: str = "") -> None:
        self.exc_type = exc_type
        self.exc_message = exc_message
        self.exc_module = exc_module
        self.traceback = traceback
        name = f"{exc_module}.{exc_type}" if exc_module else exc_type
        super().__init__(f"{name}: {exc_message}")

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, object, str, str]]:
        """Pickle by the parts, not by the rendered text."""
        return type(self), (self.exc_type, self.exc_message, self.exc_module, self.traceback)
