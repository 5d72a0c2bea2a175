"""Broker URLs: `amqp(s)://user:password@host:port/vhost?option=value`, parsed into an `Address` that hides its secret.

The form is RabbitMQ's (https://www.rabbitmq.com/docs/uri-spec and .../uri-query-parameters), with a habit of Celery's
users accepted: no path, and a path of one or two slashes, mean the virtual host `/`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from amqpq.errors import ConfigurationError

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671
DEFAULT_USER = DEFAULT_PASSWORD = "guest"  # noqa: S105 - RabbitMQ's own default user, refused by it except from localhost

_PASSWORD = re.compile(r"(?P<head>://[^/?#@:]*):(?P<password>.*)@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS: `verify` checks the broker's certificate and name; paths are to PEM files."""

    verify: bool = True
    ca: str | None = None
    """Trusted authorities; None is the system's."""
    certificate: str | None = None
    """Our own certificate, where the broker asks for one."""
    key: str | None = None
    server_name: str | None = None
    """The name the broker's certificate must bear; None is the host."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens, and as whom to log in. Its repr and str never show the password."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    user: str = DEFAULT_USER
    password: str = field(default=DEFAULT_PASSWORD, repr=False)
    vhost: str = "/"
    tls: Tls | None = None
    heartbeat_seconds: int | None = None
    """The URL's own heartbeat, which wins over the caller's; 0 switches heartbeats off."""
    connection_timeout_seconds: float | None = None
    """The URL's own limit for one attempt to connect."""

    @property
    def place(self) -> str:
        """The address as `host:port`, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return the URL without the password."""
        vhost = "" if self.vhost == "/" else self.vhost.replace("/", "%2F")
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}:***@{self.place}/{vhost}"


def masked(url: str) -> str:
    """Return `url` with its password replaced, whatever else is wrong with it."""
    return _PASSWORD.sub(r"\g<head>:***@", url, count=1)


def parse(url: str, *, tls: Tls | None = None) -> Address:
    """Parse a broker URL.

    Args:
        url: `amqp://` or `amqps://`; user, password and virtual host are percent-decoded.
        tls: The defaults for what an `amqps://` URL leaves open; refused with `amqp://`.

    Returns:
        The address.

    Raises:
        ConfigurationError: The URL cannot be used; the message shows it without its password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad(
            url,
            f"{_harmless(error)}; special characters in the user name, the password and the virtual host "
            "are written percent-encoded (@ %40, : %3A, / %2F, # %23, ? %3F)",
        ) from None
    if parts.scheme not in {"amqp", "amqps"}:
        raise _bad(
            url,
            f"the scheme must be amqp or amqps, not {parts.scheme!r}"
            if parts.scheme and "://" in url
            else "a broker URL begins with amqp:// or amqps://",
        )
    if parts.fragment or url.endswith("#"):
        raise _bad(url, "a # begins a fragment, which a broker URL has not; in a password write it %23")
    secure = parts.scheme == "amqps"
    if tls is not None and not secure:
        raise _bad(url, "TLS options are given, but amqp:// is not encrypted; write amqps://")
    address = Address(
        host=parts.hostname or "localhost",
        port=port or (DEFAULT_TLS_PORT if secure else DEFAULT_PORT),
        vhost=_vhost(url, parts.path),
        tls=(tls or Tls()) if secure else None,
    )
    return _with_options(url, _with_login(address, parts), parts.query)


def _with_login(address: Address, parts: SplitResult) -> Address:
    if parts.username is None:
        return address
    return replace(address, user=unquote(parts.username), password=unquote(parts.password or ""))


def _vhost(url: str, path: str) -> str:
    name = path.removeprefix("/")
    if name in {"", "/"}:
        return "/"
    if "/" in name:
        raise _bad(url, f"the virtual host {name!r} has a slash in it; write it %2F")
    return unquote(name)


# ---------------------------------------------------------------------------------------------------- query options


def _with_options(url: str, address: Address, query: str) -> Address:
    seen: set[str] = set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        apply = _OPTIONS.get(name)
        if apply is None:
            raise _bad(url, f"unknown option {name!r}{_did_you_mean(name)}")
        if name in seen:
            raise _bad(url, f"option {name!r} is given twice")
        seen.add(name)
        try:
            address = apply(address, value)
        except ValueError as error:
            raise _bad(url, f"option {name}={value!r}: {error}") from None
    return address


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, _OPTIONS, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(_OPTIONS))}"


def _heartbeat(address: Address, value: str) -> Address:
    if not value.isdecimal() or int(value) > 65535:  # noqa: PLR2004 - the wire carries 16 bits
        raise ValueError("heartbeats are whole seconds from 0 (off) to 65535")
    return replace(address, heartbeat_seconds=int(value))


def _connection_timeout(address: Address, value: str) -> Address:
    if not value.isdecimal() or int(value) == 0:
        raise ValueError("the time to connect is in whole milliseconds, from 1")
    return replace(address, connection_timeout_seconds=int(value) / 1000)


def _verify(address: Address, value: str) -> Address:
    if value not in {"verify_peer", "verify_none"}:
        raise ValueError("must be verify_peer or verify_none")
    return replace(address, tls=replace(_tls(address), verify=value == "verify_peer"))


def _tls(address: Address) -> Tls:
    if address.tls is None:
        raise ValueError("is for amqps:// only")
    return address.tls


def _file(name: str) -> Callable[[Address, str], Address]:
    def apply(address: Address, value: str) -> Address:
        tls = _tls(address)
        if not Path(value).is_file():
            raise ValueError("there is no such file")
        return replace(address, tls=_REPLACE_TLS[name](tls, value))

    return apply


def _server_name(address: Address, value: str) -> Address:
    return replace(address, tls=replace(_tls(address), server_name=value))


_REPLACE_TLS: Mapping[str, Callable[[Tls, str], Tls]] = {
    "ca": lambda tls, value: replace(tls, ca=value),
    "certificate": lambda tls, value: replace(tls, certificate=value),
    "key": lambda tls, value: replace(tls, key=value),
}

_OPTIONS: Mapping[str, Callable[[Address, str], Address]] = {
    "heartbeat": _heartbeat,
    "connection_timeout": _connection_timeout,
    "verify": _verify,
    "cacertfile": _file("ca"),
    "certfile": _file("certificate"),
    "keyfile": _file("key"),
    "server_name_indication": _server_name,
}


def _bad(url: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"broker URL {masked(url)!r}: {problem}")


def _harmless(error: ValueError) -> str:
    """Say what is wrong without the part of the URL the library quotes, which may be half a password."""
    return "the port is not a number from 0 to 65535" if "port" in str(error).lower() else "it cannot be parsed"
