"""One call of RabbitMQ's HTTP API after another, over one connection that is kept open; refusals become our errors.

Redirects are not followed and no proxy is asked: either would hand the password to somebody else. Not thread-safe.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

from amqpq.errors import (
    AccessRefused,
    AuthenticationRefused,
    BrokerUnreachable,
    ConfigurationError,
    ObjectNotFound,
    OperationTimeout,
    PreconditionFailed,
    TlsMismatch,
    TransportError,
)
from amqpq.transport import tls
from amqpq.transport.url import Tls, masked
from amqpq.types import Json

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
DEFAULT_PORT: Final = 15672
DEFAULT_TLS_PORT: Final = 15671

_EITHER: Final = frozenset({"not_authorized", "not_authorised"})
_NO_TAG: Final = "`rabbitmqctl set_user_tags USER management` lets a user read this, the tag policymaker lets it write"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is, and as whom to log in. Its repr and str never show the password."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    tls: Tls | None = None
    path: str = ""
    """What stands before `/api`, where a proxy puts the API below something; without a slash at its end."""

    def __str__(self) -> str:
        """Return the URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


def endpoint(url: str, *, tls_options: Tls | None = None, login: tuple[str, str] = ("guest", "guest")) -> Endpoint:
    """Parse the URL of the HTTP API: `http(s)://user:password@host:port`.

    Args:
        url: User and password are percent-decoded. A path is what stands before `/api`.
        tls_options: For `https://`; None is the system's trust.
        login: User and password for a URL that has none.

    Raises:
        ConfigurationError: The URL cannot be used; the message shows it without its password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad(url, "it cannot be parsed; special characters in user and password are percent-encoded") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _bad(url, "the URL of the HTTP API begins with http:// or https:// and names a host")
    if parts.query or parts.fragment:
        raise _bad(url, "it has no options; write user, password, host, port")
    user, password = login if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/")
    return Endpoint(
        host=parts.hostname,
        port=port or (DEFAULT_TLS_PORT if secure else DEFAULT_PORT),
        user=user,
        password=password,
        tls=(tls_options or Tls()) if secure else None,
        path=path.removesuffix("/api"),
    )


def _bad(url: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"broker.management {masked(url)!r}: {problem}")


class Calls:
    """Calls to one API. Use it as a context manager, or call `close`."""

    def __init__(self, where: Endpoint, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self.where = where
        self._timeout_seconds = timeout_seconds
        self._context: ssl.SSLContext | None = None if where.tls is None else tls.context(where.tls)
        self._connection: http.client.HTTPConnection | None = None

    def __repr__(self) -> str:
        return f"<management API of {self.where}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent; a later call opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(self, method: str, *path: str, query: Mapping[str, str] | None = None, body: Json | None = None) -> Any:
        """Make one call.

        Args:
            method: GET, PUT, POST or DELETE.
            path: The steps behind `/api`, each percent-encoded here (a virtual host `/` is one step).
            query: Parameters of the address.
            body: Sent as JSON, where it is not None.

        Returns:
            The decoded answer, None where it is empty.
        """
        target = f"{self.where.path}/api/{'/'.join(quote(step, safe='') for step in path)}"
        if query:
            target += f"?{urlencode(query)}"
        status, reason, data = self._answer(method, target, None if body is None else json.dumps(body).encode())
        what = f"{method} {target.removeprefix(self.where.path)}"
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise self._refusal(status, reason, data, what)
        if not data:
            return None
        try:
            return json.loads(data)
        except ValueError:
            raise TransportError(
                f"{self.where} answers {what} with something that is not JSON; does broker.management name the "
                "management plugin's port (15672 by default)?"
            ) from None

    def _answer(self, method: str, target: str, body: bytes | None) -> tuple[int, str, bytes]:
        """Send a call and read its answer; once more where a connection that was kept open turns out to be gone."""
        if method != "GET":
            # The broker closes a connection on which nothing is asked for a while (seen on 4.3.6), and a write is not made twice:
            # it may have happened. So each goes over a fresh one.
            self.close()
        for fresh in (self._connection is None, True):
            connection = self._connection or self._connect()
            self._connection = connection
            try:
                connection.request(method, target, body, self._headers(body))
                answer = connection.getresponse()
                return answer.status, answer.reason, answer.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                self.close()
                if fresh:
                    raise self._unreachable(error) from error
            except TimeoutError as error:
                self.close()
                message = f"{self.where} did not answer {method} within {self._timeout_seconds:g} s"
                raise OperationTimeout(message) from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                raise self._unreachable(error) from error
        raise AssertionError("the second attempt returns or raises")

    def _connect(self) -> http.client.HTTPConnection:
        host, port, limit = self.where.host, self.where.port, self._timeout_seconds
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=limit)
        name = self.where.tls.server_name if self.where.tls is not None else None
        if name is None:
            return http.client.HTTPSConnection(host, port, timeout=limit, context=self._context)
        return _NamedConnection(host, port, limit, self._context, name)

    def _headers(self, body: bytes | None) -> dict[str, str]:
        login = base64.b64encode(f"{self.where.user}:{self.where.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def _unreachable(self, error: Exception) -> TransportError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsMismatch(
                f"the certificate of {self.where} is not trusted: {error.verify_message}; name its authority in broker.tls.ca"
            )
        if isinstance(error, ssl.SSLError):
            return TlsMismatch(f"{self.where} does not speak TLS ({error.reason}); write http:// for a plain port")
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
            return TlsMismatch(f"{self.where} does not answer in plain HTTP; write https:// for a TLS port")
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        if isinstance(error, socket.gaierror):
            why = f"the host name is not known ({why})"
        return BrokerUnreachable(
            f"the management API at {self.where} does not answer: {why}; is it enabled "
            "(`rabbitmq-plugins enable rabbitmq_management`), and does broker.management name its port?"
        )

    def _refusal(self, status: int, reason: str, data: bytes, what: str) -> TransportError:
        told = _told(data) or reason
        if status == HTTPStatus.UNAUTHORIZED and "login failed" in told.lower():
            return AuthenticationRefused(
                f"{self.where} refused the login of '{self.where.user}'; check user and password in broker.management"
            )
        if status == HTTPStatus.UNAUTHORIZED and told.lower() in _EITHER:
            # RabbitMQ 4.3 answers a wrong password and a missing tag alike.
            message = (
                f"{self.where} refuses {what} to '{self.where.user}': user or password are wrong, or a tag is missing"
            )
            return AccessRefused(f"{message}; check broker.management; {_NO_TAG}")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return AccessRefused(f"{self.where} refuses {what} to '{self.where.user}': {told}; {_NO_TAG}")
        if status == HTTPStatus.NOT_FOUND:
            return ObjectNotFound(f"{self.where} knows no {what}: {told}")
        if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.METHOD_NOT_ALLOWED}:
            return PreconditionFailed(f"{self.where} does not take {what}: {told}")
        if status < HTTPStatus.BAD_REQUEST:
            return TransportError(
                f"{self.where} sends {what} elsewhere ({status}), which is not followed; name the final address"
            )
        return TransportError(f"{self.where} answers {what} with {status}: {told}")


class _NamedConnection(http.client.HTTPSConnection):
    """A TLS connection to a host whose certificate bears another name (`server_name`)."""

    def __init__(self, host: str, port: int, limit: float, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=limit, context=context)
        self._name = name
        self._ssl = context

    def connect(self) -> None:
        """Connect, and ask for the certificate of the other name."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._ssl.wrap_socket(plain, server_hostname=self._name)


def _told(data: bytes) -> str:
    """Return the broker's reason from an error's body."""
    try:
        found = json.loads(data)
    except ValueError:
        return ""
    return str(found.get("reason") or found.get("error") or "") if isinstance(found, dict) else ""
