"""Secrets and signatures: secrets by reference only, and nothing executable without a signature."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from amqpq.topology.build import effective_requirement
from amqpq.topology.lint.context import Context
from amqpq.topology.problems import Findings, Path, Problem

_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://(?P<user>[^/@:]*):(?P<password>.+)@(?P<host>[^/@]*)", re.IGNORECASE)
_PASSWORD_DEFAULT = re.compile(r"://[^/@]*:\$\{[^}:]+:[^}]+\}@")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{32,}")
_BASE64_KEY = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")
_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)")
LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]", ""})
QUORUM_MESSAGE_BYTES: Final = 1024 * 1024
"""https://www.rabbitmq.com/docs/quorum-queues#large-messages"""
SECRET_FIELDS: Final[tuple[Path, ...]] = (("broker", "url"), ("broker", "management"))
"""The fields a secret may be put into: those that no output shows unmasked."""


def secrets_in_clear(findings: Findings) -> list[Problem]:
    """Look for passwords and keys in the text, before variables are put in; guest on this machine is no secret."""
    noted = Findings(findings.root)
    for path, node in findings.root.scalars():
        if not isinstance(node.value, str):
            continue
        text = node.value
        if "-----BEGIN" in text and "PRIVATE KEY" in text:
            noted.error(path, "TOP005", "a private key stands here in clear", "keep it in a file and name the file")
        elif _literal_password(text):
            message = "a password stands here in clear"
            noted.error(
                path, "TOP005", message, "take it from a variable: `{type: secret, from: env:NAME}` and ${NAME}"
            )
        elif _is_key(path) and _looks_like_key(text):
            message = "a key stands here in clear"
            noted.error(path, "TOP005", message, "write where it is: env:NAME or file:PATH")
    declared = findings.root.at(("variables",))
    for name, entry in declared.value.items() if declared is not None and isinstance(declared.value, dict) else ():
        kind, default = entry.node.at(("type",)), entry.node.at(("default",))
        if kind is None or kind.value != "secret" or default is None or not isinstance(default.value, str):
            continue
        if default.value and "://" not in default.value:
            message = f"the secret '{name}' has a default in clear"
            noted.error(("variables", name, "default"), "TOP005", message, "remove the default")
    return noted.problems


def check(context: Context) -> None:
    """Run the rules on secrets, addresses and signatures."""
    _secret_uses(context)
    _addresses(context)
    _management(context)
    _keys(context)
    _signatures(context)


def _literal_password(text: str) -> bool:
    if _PASSWORD_DEFAULT.search(text):
        return True
    match = _WITH_PASSWORD.search(text.split("${", 1)[0]) or _WITH_PASSWORD.search(text)
    if match is None or "${" in match["password"]:
        return False
    guest = match["user"] == "guest" and match["password"] == "guest"  # noqa: S105  the broker's own default
    return not (guest and _host(match["host"].rstrip("}")) in LOCAL_HOSTS)


def _host(netloc: str) -> str:
    return netloc if netloc.endswith("]") else netloc.rsplit(":", 1)[0]


def _is_key(path: Path) -> bool:
    return path[:1] == ("security",) and path[-1:] == ("key",)


def _looks_like_key(text: str) -> bool:
    bare = text.split("${", 1)[0] if "${" not in text else text.partition(":")[2].rstrip("}")
    return bool(_HEX_KEY.fullmatch(bare) or (_BASE64_KEY.fullmatch(bare) and "/" not in bare[:1]))


def _secret_uses(context: Context) -> None:
    for path in sorted(context.findings.secret, key=repr):
        if not any(path[: len(field)] == field for field in SECRET_FIELDS):
            message = "a secret is used where it would be shown"
            where = ", ".join(".".join(str(step) for step in field) for field in SECRET_FIELDS)
            remedy = f"secrets go into {where}; for keys write the reference itself: env:NAME or file:PATH"
            context.findings.error(path, "TOP004", message, remedy)


def _addresses(context: Context) -> None:
    tls = context.topology.broker.tls
    findings = context.findings
    for index, url in enumerate(context.topology.broker.urls):
        node = findings.root.at(("broker", "url"))
        path: Path = (
            ("broker", "url", index) if node is not None and isinstance(node.value, list) else ("broker", "url")
        )
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            findings.error(path, "TOP001", "broker.url is not a URL", "write amqp://user:password@host:5672/vhost")
            continue
        if parts.scheme not in {"amqp", "amqps"} or not host:
            message = "broker.url must begin with amqp:// or amqps:// and name a host"
            findings.error(path, "TOP001", message, "write amqp://user:password@host:5672/vhost")
            continue
        if host not in LOCAL_HOSTS:
            if tls is not None and parts.scheme == "amqp":
                # On the own machine (a developer's broker in place of the real one) the settings just wait for amqps://.
                message = f"broker.tls is given, and the connection to {host} would be a plain one"
                findings.error(path, "TOP068", message, "use amqps://, or remove broker.tls")
            elif parts.scheme == "amqp":
                findings.warning(path, "TOP068", f"the connection to {host} is not encrypted", "use amqps://")
            if unquote(parts.username or "guest") == "guest":
                message = f"the user guest is for the broker's own machine; {host} will refuse it by default"
                findings.warning(path, "TOP068", message, "create a user for this project")
    if tls is not None and tls.verify == "none":
        message = "verify: none accepts any certificate, an attacker's too"
        findings.warning(
            ("broker", "tls", "verify"), "TOP068", message, "use verify: peer with the authority's ca file"
        )
    if tls is not None and (tls.cert is None) != (tls.key is None):
        findings.error(
            ("broker", "tls"), "TOP001", "a client certificate needs both cert and key", "give both, or neither"
        )


def _management(context: Context) -> None:
    url, findings, path = context.topology.broker.management, context.findings, ("broker", "management")
    if url is None:
        return
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        message = "broker.management must begin with http:// or https:// and name a host"
        findings.error(path, "TOP001", message, "write http://user:password@host:15672")
    elif parts.scheme == "http" and host not in LOCAL_HOSTS:
        message = f"the connection to the management API of {host} is not encrypted"
        findings.warning(path, "TOP068", message, "use https://")


def _remote(url: str) -> bool:
    try:
        return (urlsplit(url).hostname or "") not in LOCAL_HOSTS
    except ValueError:
        return False


def _keys(context: Context) -> None:
    security, findings = context.file.security, context.findings
    if security.signing is not None and security.signing.algorithm == "hmac-sha256":
        path: Path = ("security", "signing", "key")
        if security.signing.key is None:
            message, remedy = "hmac-sha256 needs a key", "write where it is: `key: env:NAME` or `key: file:PATH`"
            findings.error(("security", "signing"), "TOP005", message, remedy)
        elif not _REFERENCE.fullmatch(security.signing.key):
            message = "the key of hmac-sha256 must be a reference, not the secret itself"
            findings.error(path, "TOP005", message, "write env:NAME or file:PATH")
    if security.encryption is not None and not _REFERENCE.fullmatch(security.encryption.key):
        message = "the key must be a reference, not the secret itself"
        findings.error(("security", "encryption", "key"), "TOP005", message, "write env:NAME or file:PATH")


def _signatures(context: Context) -> None:
    file, findings = context.file, context.findings
    required = effective_requirement(file) == "signed"
    if file.security.signing is None and required:
        message = "signing is off, and unsigned messages are refused: nothing this project sends would be accepted"
        findings.error(
            ("security", "require"), "TOP066", message, "remove `signing: off`, or write `require: optional`"
        )
    elif not required and any(_remote(url) for url in context.topology.broker.urls):
        message = "unsigned messages are accepted: whoever may publish to the broker can have tasks run"
        path: Path = ("security", "require" if file.security.require is not None else "signing")
        findings.info(path, "TOP066", message, "write `require: signed`")
    accept = file.messages.accept
    if "pickle" in accept and not required:
        message = "pickle runs code of whoever wrote the message, and unsigned messages are accepted"
        findings.error(("messages", "accept"), "TOP065", message, "write `require: signed`, or remove pickle")
    used: list[tuple[Path, str | None]] = [(("messages", "serializer"), file.messages.serializer)]
    used += [(("routes", pattern, "serializer"), route.serializer) for pattern, route in file.routes.items()]
    for path, serializer in used:
        if serializer is not None and serializer not in accept:
            message = f"{serializer} is sent, and not among messages.accept: workers of this project would refuse it"
            findings.error(path, "TOP065", message, f"add {serializer} to messages.accept, or send another format")
    if file.messages.max_size > 16 * 1024 * 1024:
        message = "messages.max_size is above 16 MiB, the default limit of RabbitMQ 4 (max_message_size)"
        findings.warning(
            ("messages", "max_size"), "TOP048", message, "send a reference to big data, or raise the broker's"
        )
    elif "max_size" in file.messages.model_fields_set and file.messages.max_size > QUORUM_MESSAGE_BYTES:
        name = next((name for name, queue in file.queues.items() if queue.type == "quorum"), None)
        if name is not None:
            message = (
                f"quorum queues ('{name}') write every message to disk on several nodes: above 1 MiB they get slow"
            )
            findings.info(("messages", "max_size"), "TOP048", message, "send a reference to big data")
    for field, what in (
        ("confirm", "a lost message is noticed by nobody"),
        ("mandatory", "an unroutable message is dropped"),
    ):
        if not getattr(file.messages, field):
            findings.warning(("messages", field), "TOP028", f"with {field}: false {what}", f"leave {field} on")
