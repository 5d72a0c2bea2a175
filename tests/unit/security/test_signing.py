"""Signing bytes and checking signatures."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from amqpq import errors
from amqpq.security.signing import HmacKey, Stamp, TrustedKey, Verifier, signature_bytes, signature_text

SECRET = bytes(range(32))
DATA = b"what is signed"


def stamp(key: HmacKey, data: bytes = DATA, *, at_ms: int = 1000) -> Stamp:
    """Sign."""
    return Stamp(key.key_id, at_ms, signature_text(key.sign(data)))


def test_the_code_is_hmac_sha256() -> None:
    """As RFC 2104 and the standard library have it, so that other languages can check it."""
    assert HmacKey("k", SECRET).sign(DATA) == hmac.new(SECRET, DATA, hashlib.sha256).digest()
    assert HmacKey("k", SECRET * 5).sign(DATA) == hmac.new(SECRET * 5, DATA, hashlib.sha256).digest()


def test_signing_twice_gives_the_same() -> None:
    """The prepared state is not used up."""
    key = HmacKey("k", SECRET)
    assert key.sign(DATA) == key.sign(DATA)
    assert key.sign(b"other") != key.sign(DATA)


def test_a_secret_that_is_too_short_is_refused_without_showing_it() -> None:
    """The error tells the length and the remedy."""
    with pytest.raises(errors.KeyProblem, match="31 bytes are too few.*at least 32.*amqpq keys new") as caught:
        HmacKey("k", b"S" * 31)
    assert "SSS" not in str(caught.value)


def test_a_key_shows_its_id_only() -> None:
    """No repr holds key material."""
    key = HmacKey("k", b"S" * 32)
    assert repr(key) == "HmacKey('k')"
    assert repr(key.own_trust()) == "TrustedKey(key_id='k', algorithm='hmac-sha256', may=None)"


def test_a_fitting_signature_passes_and_any_other_does_not() -> None:
    """Another key of the same id, other bytes, other time: refused."""
    key = HmacKey("k", SECRET)
    verifier = Verifier({"k": key.own_trust()}, required=True, replay_window_seconds=10)
    verifier.verify(stamp(key), DATA, task="t", now=1.0)
    for bad in (stamp(HmacKey("k", b"x" * 32)), stamp(key, b"other"), Stamp("k", 1000, ""), Stamp("k", 1000, "AAAA")):
        with pytest.raises(errors.SignatureInvalid):
            verifier.verify(bad, DATA, task="t", now=1.0)


def test_the_algorithm_belongs_to_the_key() -> None:
    """A key that checks nothing but its own algorithm cannot be talked into another: the message has no say."""
    asked: list[bytes] = []

    def check(signature: bytes, _data: bytes) -> bool:
        asked.append(signature)
        return False

    verifier = Verifier({"pub": TrustedKey("pub", "ed25519", check)}, required=True, replay_window_seconds=10)
    forged = stamp(HmacKey("pub", b"the public key, used as a secret"))
    with pytest.raises(errors.SignatureInvalid):
        verifier.verify(forged, DATA, task="t", now=1.0)
    assert asked == [signature_bytes(forged)]


@pytest.mark.parametrize(
    "text", ["a", "====", "YWJj\n", " YWJj", "YWJj====", "YW Jj", "YWI", "YWI=x", "YWJ=", "ä", "YW-_"]
)
def test_a_signature_has_one_spelling(text: str) -> None:
    """What is not canonical base64 is refused, even where a lenient decoder would read it."""
    with pytest.raises(errors.SignatureInvalid, match="base64"):
        signature_bytes(Stamp("k", 0, text))


def test_permission_is_asked_after_the_signature() -> None:
    """A forger learns nothing about what a key may sign."""
    key = HmacKey("k", SECRET)
    verifier = Verifier({"k": key.own_trust().restricted(("web.*",))}, required=True, replay_window_seconds=10)
    with pytest.raises(errors.SignatureInvalid):
        verifier.verify(stamp(key)._replace(signature="AAAA"), DATA, task="tasks.add", now=1.0)
    with pytest.raises(errors.KeyUntrusted):
        verifier.verify(stamp(key), DATA, task="tasks.add", now=1.0)


@pytest.mark.parametrize(
    "patterns,task,allowed",
    [
        (("web.*",), "web.resize", True),
        (("web.*",), "web", False),
        (("web.*",), "xweb.resize", False),
        (("web.*",), "web.a\nb", True),
        (("web.resize",), "web-resize", False),
        (("tasks.?",), "tasks.a", True),
        (("a", "b"), "b", True),
        (("a", "b"), "ab", False),
        (("*",), "anything", True),
        ((), "anything", False),
        (("results",), "anything", False),
    ],
)
def test_patterns_match_whole_names(patterns: tuple[str, ...], task: str, allowed: bool) -> None:
    """A pattern is a glob over the whole task name."""
    key = HmacKey("k", SECRET)
    verifier = Verifier({"k": key.own_trust().restricted(patterns)}, required=True, replay_window_seconds=10)
    if allowed:
        verifier.verify(stamp(key), DATA, task=task, now=1.0)
    else:
        with pytest.raises(errors.KeyUntrusted):
            verifier.verify(stamp(key), DATA, task=task, now=1.0)
