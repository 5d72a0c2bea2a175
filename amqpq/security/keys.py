"""Keys in files and in the environment: making, loading and describing them. Key material is never shown.

An Ed25519 key is a pair of PEM files (`NAME.pem` private, PKCS#8; `NAME.pub` public, SubjectPublicKeyInfo). A shared
secret is one line of hex or base64 (`NAME.key`). Private files are created for their owner alone (0600).

A reference says where a key is: `env:NAME` (the text itself, in a variable), `file:PATH`, or a bare path. Relative
paths begin at the folder of the topology file.

What a trusted key is (Ed25519 or a shared secret) is read off the key itself; PEM text is never taken for a secret.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import importlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from amqpq.errors import KeyProblem
from amqpq.security.signing import ALGORITHMS, Algorithm, HmacKey, Signer, TrustedKey, Verifier

__all__ = [
    "KeyInfo",
    "Signer",
    "TrustedKey",
    "Verifier",
    "check_name",
    "describe",
    "describe_folder",
    "generate",
    "load_signer",
    "load_trusted",
]

PRIVATE_SUFFIX: Final = ".pem"
PUBLIC_SUFFIX: Final = ".pub"
SECRET_SUFFIX: Final = ".key"  # noqa: S105 - a file name

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_OWNER_ONLY: Final = 0o600


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key file."""

    name: str
    algorithm: Algorithm
    kind: str
    """`private`, `public` or `secret`."""
    path: Path
    fingerprint: str
    """The same for both halves of a pair; says nothing about a secret."""
    mode: int = field(repr=False)
    """Permission bits of the file."""

    @property
    def exposed(self) -> bool:
        """Whether others than its owner can read a file that must stay private."""
        return self.kind != "public" and bool(self.mode & (stat.S_IRGRP | stat.S_IROTH))


# ------------------------------------------------------------------------------------------------------------- making


def check_name(name: str) -> str:
    """Return the name of a key, if it can be one: it becomes a file name and travels in every message.

    Raises:
        KeyProblem: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise KeyProblem(
            f"{name!r} cannot name a key: it takes letters, digits, '.', '_' and '-', "
            "at most 128, and does not begin with '.' or '-'"
        )
    return name


def generate(name: str, algorithm: Algorithm, folder: Path, *, force: bool = False) -> tuple[KeyInfo, ...]:
    """Make a new key and write its files.

    Args:
        name: Becomes the names of the files.
        algorithm: `ed25519` makes a pair, `hmac-sha256` a shared secret.
        folder: Created, for its owner alone, where it does not exist.
        force: Replace files of that name. What the old key signed can then no longer be checked with the new one.

    Returns:
        What was written; the private file first.

    Raises:
        KeyProblem: The name is unfit, a file is in the way, or it cannot be written.
    """
    check_name(name)
    if algorithm == "ed25519":
        private, public = _ed25519().make_pair()
        files = {PRIVATE_SUFFIX: private, PUBLIC_SUFFIX: public}
    elif algorithm == "hmac-sha256":
        files = {SECRET_SUFFIX: secrets.token_hex(32).encode() + b"\n"}
    else:
        raise KeyProblem(f"unknown algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    paths = {folder / (name + suffix): content for suffix, content in files.items()}
    if not force:
        for path in paths:
            if path.exists():
                raise KeyProblem(
                    f"{path} exists; were it replaced, what it signed could not be checked (--force does it anyway)"
                )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, content in paths.items():
            _write(path, content, 0o644 if path.suffix == PUBLIC_SUFFIX else _OWNER_ONLY)
    except OSError as error:
        raise KeyProblem(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return tuple(describe(path) for path in paths)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that has its permissions from the first moment, and is whole or absent."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


# ------------------------------------------------------------------------------------------------------------ loading


def load_signer(
    algorithm: Algorithm, key_reference: str, key_id: str, *, base: Path, environ: Mapping[str, str]
) -> Signer:
    """Load the key this host signs with.

    Args:
        algorithm: What the topology says the key is.
        key_reference: `env:NAME`, `file:PATH` or a path.
        key_id: The name under which others trust it.
        base: The folder relative paths begin at.
        environ: Where `env:` looks.

    Raises:
        KeyProblem: It is missing, unreadable, or of another kind.
    """
    text, place = _read(key_reference, base, environ, remedy=f"`amqpq keys new {key_id}` makes one")
    if algorithm == "hmac-sha256":
        return HmacKey(key_id, _secret(text, place))
    if algorithm != "ed25519":
        raise KeyProblem(f"unknown signing algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    signer: Signer = _ed25519().load_signer(key_id, text, place)
    return signer


def load_trusted(
    key_id: str, key_reference: str, may: tuple[str, ...] | None, *, base: Path, environ: Mapping[str, str]
) -> TrustedKey:
    """Load a key whose signatures are to be believed: an Ed25519 public key, or a shared secret.

    Args:
        key_id: The name it is known by.
        key_reference: `env:NAME`, `file:PATH` or a path.
        may: What it may sign; None is everything.
        base: The folder relative paths begin at.
        environ: Where `env:` looks.

    Raises:
        KeyProblem: It is missing, unreadable, or not a key.
    """
    text, place = _read(key_reference, base, environ, remedy=f"copy the public key of {key_id!r} there")
    if b"-----" not in text:
        return HmacKey(key_id, _secret(text, place)).own_trust().restricted(may)
    trusted: TrustedKey = _ed25519().load_trusted(key_id, text, place, may)
    return trusted


def _ed25519() -> Any:
    """Return the module that needs libsodium, once there is a key that does."""
    return importlib.import_module("amqpq.security.ed25519")


def _read(reference: str, base: Path, environ: Mapping[str, str], *, remedy: str) -> tuple[bytes, str]:
    """Return the text a reference leads to, and the place in words."""
    if reference.startswith("env:"):
        name = reference[4:]
        value = environ.get(name)
        if not value:
            raise KeyProblem(f"the key is to come from the environment variable {name}, which is not set")
        return value.encode(), f"environment variable {name}"
    path = base / Path(reference.removeprefix("file:")).expanduser()
    try:
        return path.read_bytes(), str(path)
    except FileNotFoundError as error:
        raise KeyProblem(f"there is no key file {path}; {remedy}") from error
    except OSError as error:
        raise KeyProblem(f"the key file {path} cannot be read: {error.strerror}") from error


def _secret(text: bytes, place: str) -> bytes:
    """Return the bytes of a shared secret written as hex or base64."""
    try:
        line = text.decode("ascii").strip()
    except UnicodeDecodeError:
        line = ""
    if _HEX.fullmatch(line):
        return bytes.fromhex(line)
    try:
        return base64.b64decode(line.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        # The line itself must not be shown, and neither must the decoder's words about it.
        raise KeyProblem(
            f"{place} holds no shared secret: it takes one line of hex or base64, at least 32 bytes of it"
        ) from error


# --------------------------------------------------------------------------------------------------------- describing


def describe(path: Path) -> KeyInfo:
    """Say what a key file holds, without showing it.

    Raises:
        KeyProblem: It is missing, unreadable, or not a key.
    """
    text, place = _read(str(path.absolute()), Path(), {}, remedy="`amqpq keys new NAME` makes one")
    mode = stat.S_IMODE(path.stat().st_mode)
    if b"PRIVATE KEY" in text:
        raw = _ed25519().raw_of_private(text, place)
        return KeyInfo(path.stem, "ed25519", "private", path, _fingerprint(raw), mode)
    if b"-----" in text:
        return KeyInfo(path.stem, "ed25519", "public", path, _fingerprint(_ed25519().raw_of_public(text, place)), mode)
    # A keyed code of fixed words: two hosts can compare it, and it gives nothing of the secret away.
    code = HmacKey(path.stem, _secret(text, place)).sign(b"amqpq key fingerprint")
    return KeyInfo(path.stem, "hmac-sha256", "secret", path, _fingerprint(code), mode)


def describe_folder(folder: Path) -> tuple[KeyInfo, ...]:
    """Describe every key file of a folder, by name; private halves before public ones.

    Raises:
        KeyProblem: The folder cannot be read, or a file with a key's suffix holds none.
    """
    try:
        paths = sorted(
            path for path in folder.iterdir() if path.suffix in {PRIVATE_SUFFIX, PUBLIC_SUFFIX, SECRET_SUFFIX}
        )
    except OSError as error:
        raise KeyProblem(
            f"the folder {folder} cannot be read: {error.strerror}; `amqpq keys new NAME --dir {folder}` makes it"
        ) from error
    return tuple(describe(path) for path in paths)


def _fingerprint(public: bytes) -> str:
    """Return a short name for a key, in the form people know from OpenSSH."""
    digest = base64.b64encode(hashlib.sha256(public).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"
