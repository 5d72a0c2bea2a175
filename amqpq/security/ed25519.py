"""Ed25519 keys as PEM text, and what signs and checks with them.

The only module that loads `cryptography`, which takes 6 MB: who signs with a shared secret does without. What is signed by
whom, and where keys lie, is the business of `keys`.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from amqpq.errors import KeyProblem
from amqpq.security.signing import Algorithm, TrustedKey

PRIVATE_SUFFIX: Final = ".pem"
PUBLIC_SUFFIX: Final = ".pub"


class Ed25519Signer:
    """An Ed25519 private key (RFC 8032)."""

    __slots__ = ("_key_id", "_private")

    def __init__(self, key_id: str, private: Ed25519PrivateKey) -> None:
        self._key_id = key_id
        self._private = private

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
        return self._private.sign(data)

    def own_trust(self) -> TrustedKey:
        """Return the public key that checks what this one signs."""
        return _public_trust(self._key_id, self._private.public_key(), None)


def make_signer(key_id: str) -> Ed25519Signer:
    """Return a signer with a new key that is kept nowhere."""
    return Ed25519Signer(key_id, Ed25519PrivateKey.generate())


def make_pair() -> tuple[bytes, bytes]:
    """Return a new private key and its public half, both as PEM text."""
    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def load_signer(key_id: str, text: bytes, place: str) -> Ed25519Signer:
    """Return the signer of a private key.

    Args:
        key_id: The name under which others trust it.
        text: PEM.
        place: Where it is from, in words.

    Raises:
        KeyProblem: It is no such key.
    """
    return Ed25519Signer(key_id, _private(text, place))


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
    return _public_trust(key_id, _public(text, place), may)


def raw_of_private(text: bytes, place: str) -> bytes:
    """Return the 32 bytes of the public half of a private key; raises as `load_signer`."""
    return _raw(_private(text, place).public_key())


def raw_of_public(text: bytes, place: str) -> bytes:
    """Return the 32 bytes of a public key; raises as `load_trusted`."""
    return _raw(_public(text, place))


def _public_trust(key_id: str, public: Ed25519PublicKey, may: tuple[str, ...] | None) -> TrustedKey:
    """Wrap a public key: `check` answers where the library raises."""
    verify = public.verify

    def check(signature: bytes, data: bytes) -> bool:
        try:
            verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return TrustedKey(key_id, "ed25519", check, may)


def _private(text: bytes, place: str) -> Ed25519PrivateKey:
    """Return the private key of a PEM text."""
    if b"PUBLIC KEY" in text:
        raise KeyProblem(
            f"{place} holds a public key; signing takes the private one (the file that ends in {PRIVATE_SUFFIX})"
        )
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError as error:
        raise KeyProblem(
            f"{place} is protected by a passphrase; nobody could type it in a worker, so it must be without"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyProblem(f"{place} holds no private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(f"{place} holds another kind of private key than ed25519")
    return key


def _public(text: bytes, place: str) -> Ed25519PublicKey:
    """Return the public key of a PEM text."""
    if b"PRIVATE KEY" in text:
        raise KeyProblem(
            f"{place} holds a private key; trust takes the public half (the file that ends in {PUBLIC_SUFFIX})"
        )
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyProblem(f"{place} holds no public key in PEM form") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyProblem(f"{place} holds another kind of public key than ed25519")
    return key


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
