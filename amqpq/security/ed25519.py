"""Ed25519 keys as PEM text, and what signs and checks with them.

libsodium does it: beside OpenSSL it signs in two thirds of the time and checks in half (measured: 23 and 57 us against 34 and
106, 600 bytes). It hashes at half the speed, so large messages are OpenSSL's; the signatures are the same (RFC 8032,
deterministic). This is the only module that loads libsodium; who signs with a shared secret does without. What is signed by whom,
and where keys lie, is the business of `keys`.

A PEM file holds 32 bytes of key behind a prefix that is always the same (RFC 8410, section 10). What looks otherwise may still
be such a key, with attributes, say; `amqpq.security.openssl` reads it, or says what it is.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import secrets
from functools import cache
from typing import Any, Final

from nacl.bindings import (
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_ed25519_sk_to_pk,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from amqpq.security.signing import Algorithm, TrustedKey

SIGNED_BY_OPENSSL_BYTES: Final = 4 * 1024
CHECKED_BY_OPENSSL_BYTES: Final = 32 * 1024
"""From these sizes on OpenSSL is faster: signing hashes a message twice, checking once (measured)."""

_KEY_BYTES: Final = 32
_PRIVATE_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")
"""PKCS#8, version 1, id-Ed25519, an octet string in an octet string."""
_PUBLIC_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
"""SubjectPublicKeyInfo, id-Ed25519, a bit string."""


class Ed25519Signer:
    """An Ed25519 private key (RFC 8032)."""

    __slots__ = ("_key_id", "_private", "_sign_large")

    def __init__(self, key_id: str, seed: bytes) -> None:
        self._key_id = key_id
        _, self._private = crypto_sign_seed_keypair(seed)
        self._sign_large = cache(lambda: _openssl().signing(seed))

    def __repr__(self) -> str:
        """Show the id, never the key."""
        return f"Ed25519Signer({self._key_id!r})"

    @property
    def key_id(self) -> str:
        """The name under which others trust the key."""
        return self._key_id

    @property
    def algorithm(self) -> Algorithm:
        """Always `ed25519`."""
        return "ed25519"

    def sign(self, data: bytes, /) -> bytes:
        """Return the 64 bytes of the signature."""
        if len(data) >= SIGNED_BY_OPENSSL_BYTES:
            return bytes(self._sign_large()(data))
        return crypto_sign(data, self._private)[:crypto_sign_BYTES]

    def own_trust(self) -> TrustedKey:
        """Return the public key that checks what this one signs."""
        return _public_trust(self._key_id, crypto_sign_ed25519_sk_to_pk(self._private), None)


def make_signer(key_id: str) -> Ed25519Signer:
    """Return a signer with a new key that is kept nowhere."""
    return Ed25519Signer(key_id, secrets.token_bytes(_KEY_BYTES))


def make_pair() -> tuple[bytes, bytes]:
    """Return a new private key and its public half, both as PEM text."""
    seed = secrets.token_bytes(_KEY_BYTES)
    return _text("PRIVATE", _PRIVATE_PREFIX + seed), _text("PUBLIC", _PUBLIC_PREFIX + _half(seed))


def load_signer(key_id: str, text: bytes, place: str) -> Ed25519Signer:
    """Return the signer of a private key.

    Args:
        key_id: The name under which others trust it.
        text: PEM.
        place: Where it is from, in words.

    Raises:
        KeyProblem: It is no such key.
    """
    return Ed25519Signer(key_id, _seed(text, place))


def load_trusted(key_id: str, text: bytes, place: str, may: tuple[str, ...] | None) -> TrustedKey:
    """Return what checks the signatures of a public key.

    Args:
        key_id: The name it is known by.
        text: PEM.
        place: Where it is from, in words.
        may: What it may sign; None is everything.

    Raises:
        KeyProblem: It is no such key.
    """
    return _public_trust(key_id, raw_of_public(text, place), may)


def raw_of_private(text: bytes, place: str) -> bytes:
    """Return the 32 bytes of the public half of a private key; raises as `load_signer`."""
    return _half(_seed(text, place))


def raw_of_public(text: bytes, place: str) -> bytes:
    """Return the 32 bytes of a public key; raises as `load_trusted`."""
    return _usual(text, "PUBLIC", _PUBLIC_PREFIX) or bytes(_openssl().public_bytes(text, place))


def _seed(text: bytes, place: str) -> bytes:
    return _usual(text, "PRIVATE", _PRIVATE_PREFIX) or bytes(_openssl().private_bytes(text, place))


def _half(seed: bytes) -> bytes:
    public, _ = crypto_sign_seed_keypair(seed)
    return public


def _public_trust(key_id: str, public: bytes, may: tuple[str, ...] | None) -> TrustedKey:
    """Wrap a public key: `check` answers where the library raises."""
    large = cache(lambda: _openssl().checking(public))

    def check(signature: bytes, data: bytes) -> bool:
        if len(data) >= CHECKED_BY_OPENSSL_BYTES:
            return bool(large()(signature, data))
        if len(signature) != crypto_sign_BYTES:  # the library takes both in one piece
            return False
        try:
            crypto_sign_open(signature + data, public)
        except BadSignatureError:
            return False
        return True

    return TrustedKey(key_id, "ed25519", check, may)


# ---------------------------------------------------------------------------------------------------------------- PEM


def _text(half: str, der: bytes) -> bytes:
    """Return PEM text; base64 of 48 or 44 bytes is one line."""
    return f"-----BEGIN {half} KEY-----\n{base64.b64encode(der).decode()}\n-----END {half} KEY-----\n".encode()


def _usual(text: bytes, half: str, prefix: bytes) -> bytes | None:
    """Return the 32 bytes of a key in the form that OpenSSL, and we, write; None for anything else."""
    lines = text.decode("ascii", errors="replace").split()
    if lines[:3] != ["-----BEGIN", half, "KEY-----"] or lines[4:] != ["-----END", half, "KEY-----"]:
        return None
    try:
        der = base64.b64decode(lines[3], validate=True)
    except binascii.Error:
        return None
    return der[len(prefix) :] if der.startswith(prefix) and len(der) == len(prefix) + _KEY_BYTES else None


def _openssl() -> Any:
    """Return the module that needs `cryptography`, once there is a message or a file that does."""
    return importlib.import_module("amqpq.security.openssl")
