"""From what a broker, a socket or a driver says to the errors of `amqpq.errors`, each with its place and its remedy.

No driver is imported here: both transports hand over reply codes and texts, or an OSError, and raise what they get back
`from` what they had. The codes are those of AMQP 0-9-1, section 1.1, as RabbitMQ uses them.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping, Sequence

from amqpq.errors import (
    AccessRefused,
    AuthenticationRefused,
    BrokerUnreachable,
    ConnectionLost,
    ObjectNotFound,
    PreconditionFailed,
    QueueUnavailable,
    ResourceLocked,
    TlsMismatch,
    TransportError,
)
from amqpq.topology.partitions import PLUGIN
from amqpq.transport.url import Address

_CHANNEL: Mapping[int, tuple[type[TransportError], str]] = {
    311: (PreconditionFailed, "the message is larger than the broker takes (max_message_size)"),
    403: (AccessRefused, ""),
    404: (ObjectNotFound, "`amqpq topology apply` creates what the topology file declares"),
    405: (ResourceLocked, "the queue is exclusive to another connection, or has an exclusive consumer"),
    406: (PreconditionFailed, ""),
}

_AWAY = re.compile(r"home node '.*' of durable queue '.*' in vhost '.*' is down or inaccessible")
"""RabbitMQ answers 404 to this too (rabbit_misc:absent/2), though the queue and what it holds are there."""

_HASH_TYPE = re.compile(r"(?:unknown|invalid) exchange type '?x-consistent-hash")
"""What the broker says where it lacks the plugin, with 503 (which closes the connection) or 406 (which closes the channel)."""
_PLUGIN_REMEDY = (
    f"queues with `partitions` need a plugin that comes with RabbitMQ: `rabbitmq-plugins enable {PLUGIN}` on every node"
)

_REFUSED = re.compile(r"in vhost '(?P<vhost>.*)' refused for user '(?P<user>.*?)'")

_PLAIN_TO_TLS_HEADS = (b"\x15\x03", b"\x16\x03")
"""What a TLS server answers to plain bytes begins with an alert record, or a handshake record."""


def channel_error(code: int, text: str) -> TransportError:
    """The error for a channel that the broker closed with this code and these words."""
    kind, remedy = _CHANNEL.get(code, (TransportError, ""))
    if kind is PreconditionFailed and _HASH_TYPE.search(text):
        remedy = _PLUGIN_REMEDY
    if kind is ObjectNotFound and _AWAY.search(text):
        kind, remedy = QueueUnavailable, "it comes back with its node"
    if kind is AccessRefused:
        remedy = permission_remedy(text)
    return kind(_sentence(_said(code, text), remedy))


def permission_remedy(text: str) -> str:
    """What to do where the broker denies access with these words."""
    refused = _REFUSED.search(text)
    who = f"{refused['vhost']} {refused['user']}" if refused is not None else "VHOST USER"
    return f"grant it with: rabbitmqctl set_permissions -p {who} CONFIGURE WRITE READ (three patterns of names)"


def connection_error(code: int, text: str, address: Address | None = None) -> ConnectionLost:
    """The error for an open connection that the broker closed with this code and these words."""
    place = f" at {address.place}" if address else ""
    remedy = _PLUGIN_REMEDY if _HASH_TYPE.search(text) else ""
    return ConnectionLost(_sentence(f"the broker{place} closed the connection: {_said(code, text)}", remedy))


def login_error(code: int, text: str, address: Address) -> TransportError:
    """The error for a connection that the broker closed before it was open."""
    said = _said(code, text)
    if code == 403:  # noqa: PLR2004 - ACCESS_REFUSED: RabbitMQ's answer to a wrong user or password
        return AuthenticationRefused(
            f"the broker at {address.place} refused the user {address.user!r} or the password: {said}. Check user and "
            f"password in the URL (percent-encode special characters); the user 'guest' may log in from localhost only"
        )
    if code in {402, 530}:
        missing = "not found" in text
        remedy = (
            f"create it with: rabbitmqctl add_vhost {address.vhost}"
            if missing
            else f"grant access with: rabbitmqctl set_permissions -p {address.vhost} {address.user} '.*' '.*' '.*'"
        )
        return AccessRefused(
            f"the broker at {address.place} does not let {address.user!r} into the virtual host {address.vhost!r}: "
            f"{said}; {remedy}"
        )
    return BrokerUnreachable(f"the broker at {address.place} ended the handshake: {said}")


def handshake_error(  # noqa: PLR0911 - a table of predicates, written as one
    error: Exception, address: Address, received: bytes = b""
) -> TransportError:
    """The error for a connection that could not be opened.

    Args:
        error: What the socket, the TLS library or the driver raised.
        address: Where we were connecting to.
        received: The first bytes the peer sent, if any: they tell a TLS port, or no broker at all.
    """
    place = address.place
    if isinstance(error, ssl.SSLError):
        return _tls_error(error, address)
    if received.startswith(_PLAIN_TO_TLS_HEADS):
        return TlsMismatch(
            f"{place} speaks TLS, and the URL says amqp://; write amqps:// (or use the plain port, 5672)"
        )
    if received.startswith(b"AMQP"):
        version = ".".join(str(number) for number in received[5:8])
        return TransportError(f"{place} does not speak AMQP 0-9-1, it offers {version}; amqpq needs RabbitMQ")
    if received[:1] not in {b"", b"\x01"}:
        return TransportError(f"{place} is not an AMQP broker: it answered {received[:16]!r}")
    if isinstance(error, (TimeoutError, socket.timeout)):
        stage = "after the connection was made" if received else "in time"
        return BrokerUnreachable(f"{place} did not answer {stage}; is a firewall in between, or the broker overloaded?")
    if isinstance(error, socket.gaierror):
        return BrokerUnreachable(f"the host name {address.host!r} cannot be resolved: {error.strerror or error}")
    if isinstance(error, ConnectionRefusedError):
        return BrokerUnreachable(f"nothing listens at {place} (connection refused); is the broker running?")
    if _closed_by_peer(error):
        return BrokerUnreachable(
            f"{place} took the connection and closed it at once: the broker is starting, a proxy has no broker behind "
            f"it, or the port speaks {'plain AMQP' if address.tls else 'TLS (then write amqps://)'}"
        )
    return BrokerUnreachable(f"no connection to {place}: {error}")


def unreachable(tried: Sequence[tuple[Address, TransportError]], seconds: float | None) -> BrokerUnreachable:
    """The error for a search that ended without a broker: every address with what it said last."""
    last: dict[str, str] = {address.place: str(error) for address, error in tried}
    within = "" if seconds is None else f" within {round(seconds, 1):g} s"
    if not last:
        return BrokerUnreachable(f"no broker answered{within}")
    if len(last) == 1:
        return BrokerUnreachable(f"no broker answered{within}: {next(iter(last.values()))}")
    lines = "".join(f"\n  {place}: {words}" for place, words in last.items())
    return BrokerUnreachable(f"no broker answered{within} at any of {len(last)} addresses:{lines}")


def _tls_error(error: ssl.SSLError, address: Address) -> TransportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsMismatch(
            f"the certificate of {address.place} is not accepted: {error.verify_message}; name its authority with "
            f"broker.tls.ca (or ?cacertfile=), and connect by the name it was issued for"
        )
    reason = getattr(error, "reason", None)  # absent from those that Python raises itself
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}:
        return TlsMismatch(
            f"{address.place} does not speak TLS, and the URL says amqps://; write amqp:// (or use the TLS port, 5671)"
        )
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return BrokerUnreachable(f"{address.place} closed the connection during the TLS handshake; is it a TLS port?")
    if "timed out" in str(error):
        return BrokerUnreachable(f"{address.place} did not finish the TLS handshake in time; is it a TLS port?")
    return TlsMismatch(f"TLS with {address.place} failed: {reason or error}")


def _closed_by_peer(error: Exception) -> bool:
    return isinstance(error, (ConnectionResetError, BrokenPipeError, EOFError)) or (
        # py-amqp raises a bare OSError with this text and no errno when it reads the end of the stream.
        isinstance(error, OSError) and (error.errno == errno.ECONNABORTED or "unexpectedly closed" in str(error))
    )


def _said(code: int, text: str) -> str:
    return text.rstrip().removesuffix(".") or f"code {code}"


def _sentence(said: str, remedy: str) -> str:
    return f"{said}; {remedy}" if remedy else said
