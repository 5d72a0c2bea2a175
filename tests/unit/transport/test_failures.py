"""Driver and broker words to errors with a place and a remedy."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from amqpq import errors
from amqpq.transport import failures
from amqpq.transport.url import Address, parse

PLAIN = parse("amqp://u:p@broker:5672/v")
SECURE = parse("amqps://u:p@broker:5671/v")


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (311, errors.PreconditionFailed, "max_message_size"),
        (403, errors.AccessRefused, "rabbitmqctl set_permissions"),
        (404, errors.ObjectNotFound, "amqpq topology apply"),
        (405, errors.ResourceLocked, "exclusive"),
        (406, errors.PreconditionFailed, ""),
        (599, errors.TransportError, ""),
    ],
)
def test_a_channel_error_keeps_the_words_of_the_broker(code: int, kind: type[Exception], remedy: str) -> None:
    """The reply code gives the type, the broker's words stand first, the remedy behind."""
    error = failures.channel_error(code, "WORDS - of the broker")
    assert type(error) is kind
    assert str(error).startswith("WORDS - of the broker")
    assert remedy in str(error)


def test_a_queue_whose_node_is_down_is_no_missing_queue() -> None:
    """RabbitMQ answers 404 to both; only one of them comes back by itself."""
    error = failures.channel_error(
        404, "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible"
    )
    assert type(error) is errors.QueueUnavailable
    assert error.recoverable
    assert "topology apply" not in str(error)


@pytest.mark.parametrize(
    ("code", "text", "kind", "words"),
    [
        (
            403,
            "ACCESS_REFUSED - Login was refused",
            errors.AuthenticationRefused,
            "refused the user 'u' or the password",
        ),
        (530, "NOT_ALLOWED - vhost v not found", errors.AccessRefused, "rabbitmqctl add_vhost v"),
        (530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", errors.AccessRefused, "set_permissions -p v u"),
        (541, "INTERNAL_ERROR - vhost v is down", errors.BrokerUnreachable, "vhost v is down"),
    ],
)
def test_a_refused_login_names_the_place_and_the_remedy(
    code: int, text: str, kind: type[Exception], words: str
) -> None:
    """Wrong password, missing virtual host and missing permission are told apart, and none shows the password."""
    error = failures.login_error(code, text, PLAIN)
    assert type(error) is kind
    assert "broker:5672" in str(error)
    assert words in str(error)
    assert ":p@" not in str(error)


def tls_error(reason: str) -> ssl.SSLError:
    """An SSLError as OpenSSL raises it."""
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "address", "received", "kind", "words"),
    [
        (ConnectionRefusedError(111, "refused"), PLAIN, b"", errors.BrokerUnreachable, "nothing listens at broker:5672"),
        (socket.gaierror(-2, "Name or service not known"), PLAIN, b"", errors.BrokerUnreachable, "'broker' cannot be resolved"),
        (TimeoutError("timed out"), PLAIN, b"", errors.BrokerUnreachable, "did not answer in time"),
        (TimeoutError("timed out"), PLAIN, b"\x01\x00", errors.BrokerUnreachable, "after the connection was made"),
        (OSError("Server unexpectedly closed connection"), PLAIN, b"", errors.BrokerUnreachable, "TLS (then write amqps://)"),
        (ConnectionResetError(104, "reset"), SECURE, b"", errors.BrokerUnreachable, "or the port speaks plain AMQP"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), PLAIN, b"", errors.BrokerUnreachable, "No route to host"),
        (OSError("x"), PLAIN, b"\x15\x03\x03\x00\x02", errors.TlsMismatch, "broker:5672 speaks TLS, and the URL says amqp://"),
        (OSError("x"), PLAIN, b"AMQP\x00\x01\x00\x00", errors.TransportError, "does not speak AMQP 0-9-1, it offers 1.0.0"),
        (OSError("x"), PLAIN, b"HTTP/1.1 400 Bad Request", errors.TransportError, "not an AMQP broker: it answered b'HTTP/1"),
        (tls_error("WRONG_VERSION_NUMBER"), SECURE, b"", errors.TlsMismatch, "does not speak TLS, and the URL says amqps://"),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), SECURE, b"", errors.TlsMismatch, "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        (ssl.SSLEOFError(8, "EOF occurred"), SECURE, b"", errors.BrokerUnreachable, "during the TLS handshake"),
    ],
)  # fmt: skip
def test_a_failed_handshake_says_what_is_there_instead(
    error: Exception, address: Address, received: bytes, kind: type[Exception], words: str
) -> None:
    """Each way a connection can fail to open has its own type and its own sentence."""
    mapped = failures.handshake_error(error, address, received)
    assert type(mapped) is kind
    assert words in str(mapped)


def test_what_refuses_for_good_is_not_recoverable() -> None:
    """A search stops at what no retry can change, and goes on at what time may heal."""
    assert not failures.login_error(403, "", PLAIN).recoverable
    assert not failures.handshake_error(tls_error("WRONG_VERSION_NUMBER"), SECURE).recoverable
    assert failures.handshake_error(OSError("Server unexpectedly closed connection"), PLAIN).recoverable
    assert failures.login_error(541, "vhost is down", PLAIN).recoverable


def test_a_search_in_vain_lists_every_address_once() -> None:
    """The last words of every address are shown, not those of every attempt."""
    other = parse("amqp://second:5672")
    tried = [
        (PLAIN, errors.BrokerUnreachable("first words")),
        (other, errors.BrokerUnreachable("of the second")),
        (PLAIN, errors.BrokerUnreachable("last words")),
    ]
    message = str(failures.unreachable(tried, 10))
    assert message.startswith("no broker answered within 10 s at any of 2 addresses:")
    assert "broker:5672: last words" in message
    assert "second:5672: of the second" in message
    assert "first words" not in message
