"""What OpenSSL does better than libsodium: Ed25519 of large messages, and PEM files of any form.

The only module that loads `cryptography`, which takes 7 MB: small messages and keys in the usual form need it not (`ed25519`).
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from amqpq.errors import KeyProblem
from amqpq.security.keys import PRIVATE_SUFFIX, PUBLIC_SUFFIX


def signing(seed: bytes) -> Callable[[bytes], bytes]:
    """Return what signs with a private key of 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign


def checking(public: bytes) -> Callable[[bytes, bytes], bool]:
    """Return what says whether a signature fits, for a public key of 32 bytes."""
    verify = Ed25519PublicKey.from_public_bytes(public).verify

    def check(signature: bytes, data: bytes) -> bool:
        try:
            verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return check


def private_bytes(text: bytes, place: str) -> bytes:
    """Return the 32 bytes of a private key.

    Args:
        text: PEM.
        place: Where it is from, in words.

    Raises:
        KeyProblem: It is no Ed25519 key, or cannot be read.
    """
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
    return key.private_bytes_raw()


def public_bytes(text: bytes, place: str) -> bytes:
    """Return the 32 bytes of a public key.

    Args:
        text: PEM.
        place: Where it is from, in words.

    Raises:
        KeyProblem: It is no Ed25519 key, or cannot be read.
    """
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
    return key.public_bytes_raw()
