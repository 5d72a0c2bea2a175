"""Signing bytes and checking signatures. Pure: no file, no clock, no message format.

The algorithm belongs to the key. A message names a key id and nothing else, so no message can choose a weaker algorithm
or have a public key used as a shared secret. What is signed is the business of the caller (`amqpq.message.canonical`).

A key may be limited: `may` holds patterns of task names (`web.*`) and the words `results` and `control`. None allows everything.

Signatures travel as base64 text. Base64 has several spellings of the same bytes, so only the canonical one is accepted:
a signature that can be respelled would not do as an identity in `amqpq.security.replay`.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from amqpq.errors import KeyProblem, KeyUntrusted, Replayed, SignatureInvalid

Algorithm: TypeAlias = Literal["ed25519", "hmac-sha256"]
"""The algorithms a key may have."""

ALGORITHMS: Final[tuple[Algorithm, ...]] = ("ed25519", "hmac-sha256")

RESULTS: Final = "results"
"""The word in `may` that allows a key to sign results."""

CONTROL: Final = "control"
"""The word in `may` that allows a key to sign remote-control messages and revocations."""

MINIMUM_SECRET_BYTES: Final = 32
"""As long as the digest: RFC 2104 section 3 discourages shorter keys."""

_BLOCK_BYTES: Final = 64
"""What SHA-256 takes at a time; a longer key is hashed first (RFC 2104, section 2)."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key whose signatures are believed, and for what.

    `check(signature, data)` says whether the signature fits; it never raises.
    """

    key_id: str
    algorithm: Algorithm
    check: Callable[[bytes, bytes], bool] = field(repr=False)
    may: tuple[str, ...] | None = None

    def restricted(self, may: tuple[str, ...] | None) -> TrustedKey:
        """Return the same key with these limits."""
        return TrustedKey(self.key_id, self.algorithm, self.check, may)


class Signer(Protocol):
    """A private key or a shared secret, with its id."""

    @property
    def key_id(self) -> str:
        """The name under which others trust the key."""

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of the key."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature of `data`."""

    def own_trust(self) -> TrustedKey:
        """Return the key that checks what this one signs."""


class HmacKey:
    """A shared secret: who can check with it can also sign with it (HMAC-SHA256, RFC 2104).

    The padded key is hashed once, and copies of that are continued for each message. `hmac` does so too, and takes twice as
    long, in Python around the same calls.
    """

    __slots__ = ("_inner", "_key_id", "_outer")

    def __init__(self, key_id: str, secret: bytes) -> None:
        if len(secret) < MINIMUM_SECRET_BYTES:
            raise KeyProblem(
                f"key {key_id!r}: {len(secret)} bytes are too few for hmac-sha256; it takes at least "
                f"{MINIMUM_SECRET_BYTES} random bytes (`amqpq keys new NAME --algorithm hmac-sha256`)"
            )
        self._key_id = key_id
        key = hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def __repr__(self) -> str:
        """Show the id, never the secret."""
        return f"HmacKey({self._key_id!r})"

    @property
    def key_id(self) -> str:
        """The name under which others trust the key."""
        return self._key_id

    @property
    def algorithm(self) -> Algorithm:
        """Always `hmac-sha256`."""
        return "hmac-sha256"

    def sign(self, data: bytes, /) -> bytes:
        """Return the 32 bytes of the code."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()

    def check(self, signature: bytes, data: bytes) -> bool:
        """Say whether the code fits, in constant time."""
        return hmac.compare_digest(self.sign(data), signature)

    def own_trust(self) -> TrustedKey:
        """Return the key that checks what this one signs: the same secret."""
        return TrustedKey(self._key_id, "hmac-sha256", self.check)


class Stamp(NamedTuple):
    """What a message says of its signature. Nothing in it is believed before `Verifier.verify`."""

    key_id: str
    signed_at_ms: int
    """Milliseconds since the epoch."""
    signature: str
    """Base64 text."""


class Verifier:
    """Checks signatures against the trusted keys.

    Args:
        trusted: Key id to key.
        required: Whether an unsigned message is refused. Where it is not, and no key is trusted at all, signatures are
            not looked at: such a host has no means to tell a good one from a bad one.
        replay_window_seconds: How far in the future a message may claim to be signed. The past is not limited here,
            since a task may wait in its queue for days: see `amqpq.security.replay`.
    """

    def __init__(self, trusted: Mapping[str, TrustedKey], *, required: bool, replay_window_seconds: float) -> None:
        self._keys = {key_id: (key, _permission(key.may)) for key_id, key in trusted.items()}
        self.required = required
        self.replay_window_seconds = replay_window_seconds

    def __repr__(self) -> str:
        """Show whose signatures are believed."""
        return f"Verifier({sorted(self._keys)}, required={self.required})"

    @property
    def looks(self) -> bool:
        """Whether signatures are looked at."""
        return self.required or bool(self._keys)

    def verify(self, stamp: Stamp, data: bytes, *, task: str | None, now: float, word: str = RESULTS) -> None:
        """Return if the stamp is a trusted key's signature of `data`, else raise.

        Args:
            stamp: As the message carries it.
            data: The canonical bytes of what was received.
            task: The task's name, or None for what is no task.
            now: Seconds since the epoch.
            word: What `may` must hold for what is no task: `results` or `control`.

        Raises:
            KeyUntrusted: Nobody here trusts the key, or not for this.
            SignatureInvalid: The signature does not fit.
            Replayed: It was signed in the future, beyond the window.
        """
        found = self._keys.get(stamp.key_id)
        if found is None:
            raise KeyUntrusted(
                f"the message is signed with key {stamp.key_id!r}, which nobody here trusts; if it should be, "
                f"`amqpq keys trust {stamp.key_id} PUBFILE` adds it under security.trust"
            )
        key, permitted = found
        if not key.check(signature_bytes(stamp), data):
            raise SignatureInvalid(
                f"the signature of key {stamp.key_id!r} does not match the message: "
                "it was altered on the way, or forged"
            )
        if permitted is not None and not permitted(task, word):
            what = f"task {task!r}" if task is not None else word
            raise KeyUntrusted(
                f"key {stamp.key_id!r} is trusted, but not for {what}: "
                f"security.trust.{stamp.key_id}.may is {list(key.may or ())}"
            )
        if stamp.signed_at_ms > (now + self.replay_window_seconds) * 1000:
            ahead = stamp.signed_at_ms / 1000 - now
            raise Replayed(
                f"the message says it was signed {ahead:.0f} s in the future; security.replay_window allows "
                f"{self.replay_window_seconds:.0f} s (are the clocks of both hosts right?)"
            )


def signature_text(signature: bytes) -> str:
    """Return the one accepted spelling of a signature."""
    return binascii.b2a_base64(signature, newline=False).decode("ascii")


def signature_bytes(stamp: Stamp) -> bytes:
    """Return the bytes of a signature in its one accepted spelling.

    Raises:
        SignatureInvalid: It is not base64, or another spelling of it.
    """
    try:
        signature = binascii.a2b_base64(stamp.signature, strict_mode=True)
    except ValueError as error:
        raise SignatureInvalid(f"the signature of key {stamp.key_id!r} is not base64 ({error})") from error
    if signature_text(signature) != stamp.signature:
        raise SignatureInvalid(f"the signature of key {stamp.key_id!r} is not in canonical base64")
    return signature


_WORDS: Final = frozenset({RESULTS, CONTROL})


def _permission(may: tuple[str, ...] | None) -> Callable[[str | None, str], bool] | None:
    """Compile `may` into one question; None where everything is allowed."""
    if may is None:
        return None
    words = frozenset(may) & _WORDS
    matches = re.compile("|".join(translate(pattern) for pattern in may if pattern not in _WORDS) or r"(?!)").match

    def permitted(task: str | None, word: str) -> bool:
        return word in words if task is None else matches(task) is not None

    return permitted
