"""Keys in files and in the environment."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from amqpq import errors
from amqpq.security.ed25519 import CHECKED_BY_OPENSSL_BYTES
from amqpq.security.keys import describe, describe_folder, generate, load_signer, load_trusted
from amqpq.security.signing import Algorithm

DATA = b"what is signed"
HEX = "ab" * 32


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_signs_and_checks(tmp_path: Path) -> None:
    """The public half believes what the private half signed, and nothing else."""
    generate("shop", "ed25519", tmp_path)
    signer = load_signer("ed25519", "shop.pem", "shop", base=tmp_path, environ={})
    trusted = load_trusted("shop", "shop.pub", ("web.*",), base=tmp_path, environ={})
    signature = signer.sign(DATA)
    assert (signer.key_id, signer.algorithm, trusted.algorithm, trusted.may) == (
        "shop",
        "ed25519",
        "ed25519",
        ("web.*",),
    )
    for key in (trusted, signer.own_trust()):
        assert key.check(signature, DATA)
        assert not key.check(signature, DATA + b"x")
        assert not key.check(signature[:-1], DATA)
        assert not key.check(b"", DATA)


def test_a_shared_secret_signs_and_checks(tmp_path: Path) -> None:
    """One file does both."""
    (info,) = generate("shop", "hmac-sha256", tmp_path)
    signer = load_signer("hmac-sha256", "file:shop.key", "shop", base=tmp_path, environ={})
    trusted = load_trusted("shop", str(info.path), None, base=tmp_path, environ={})
    assert trusted.algorithm == "hmac-sha256"
    assert trusted.check(signer.sign(DATA), DATA)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_private_files_are_their_owners_alone(tmp_path: Path, umask: int) -> None:
    """Whatever the umask; the public half is for everybody."""
    before = os.umask(umask)
    try:
        generate("shop", "ed25519", tmp_path / "keys")
        generate("secret", "hmac-sha256", tmp_path / "keys")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys" / "shop.pem") == 0o600
    assert mode(tmp_path / "keys" / "secret.key") == 0o600
    assert mode(tmp_path / "keys" / "shop.pub") == 0o644
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["secret.key", "shop.pem", "shop.pub"]


def test_an_existing_key_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    """Neither half: a lone public file is in the way too."""
    generate("shop", "ed25519", tmp_path)
    before = (tmp_path / "shop.pem").read_bytes()
    (tmp_path / "shop.pub").rename(tmp_path / "other.pub")
    with pytest.raises(errors.KeyProblem, match="exists.*--force"):
        generate("shop", "ed25519", tmp_path)
    (tmp_path / "other.pub").rename(tmp_path / "shop.pub")
    (tmp_path / "shop.pem").unlink()
    with pytest.raises(errors.KeyProblem, match="shop.pub exists"):
        generate("shop", "ed25519", tmp_path)
    generate("shop", "ed25519", tmp_path, force=True)
    assert (tmp_path / "shop.pem").read_bytes() != before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-f", "a b", "a\n", "ä", "x" * 129])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    """A key's name becomes a path and a header."""
    with pytest.raises(errors.KeyProblem, match="cannot name a key"):
        generate(name, "ed25519", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_key_file_names_the_path_and_the_command(tmp_path: Path) -> None:
    """The remedy is in the message."""
    with pytest.raises(errors.KeyProblem, match=r"keys/shop\.pem; `amqpq keys new shop` makes one"):
        load_signer("ed25519", "keys/shop.pem", "shop", base=tmp_path, environ={})
    with pytest.raises(errors.KeyProblem, match=r"keys/a\.pub; copy the public key of 'a'"):
        load_trusted("a", "keys/a.pub", None, base=tmp_path, environ={})
    with pytest.raises(errors.KeyProblem, match="cannot be read: Is a directory"):
        load_trusted("a", ".", None, base=tmp_path, environ={})


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        HEX.upper(),
        HEX + "\n",
        base64.b64encode(bytes(range(32))).decode(),
        base64.urlsafe_b64encode(b"\xff" * 33).decode(),
    ],
)
def test_a_secret_may_be_hex_or_base64_in_a_variable(text: str) -> None:
    """As other tools print random keys."""
    signer = load_signer("hmac-sha256", "env:KEY", "k", base=Path(), environ={"KEY": text})
    assert load_trusted("k", "env:KEY", None, base=Path(), environ={"KEY": text}).check(signer.sign(DATA), DATA)


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}])
def test_an_unset_variable_is_named(environ: dict[str, str]) -> None:
    """An empty one counts as unset."""
    with pytest.raises(errors.KeyProblem, match="environment variable KEY, which is not set"):
        load_signer("hmac-sha256", "env:KEY", "k", base=Path(), environ=environ)


@pytest.mark.parametrize("text", ["ab" * 31, "not a key at all!", "SECRETSECRET", "\xff", "ab" * 32 + " " + "cd" * 32])
def test_a_poor_secret_is_refused_without_being_shown(text: str) -> None:
    """Neither the message nor its cause quotes it."""
    with pytest.raises(errors.KeyProblem, match="32") as caught:
        load_signer("hmac-sha256", "env:KEY", "k", base=Path(), environ={"KEY": text})
    shown: BaseException | None = caught.value
    while shown is not None:
        assert text not in str(shown)
        shown = shown.__cause__


def pem(key: ed448.Ed448PrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey, passphrase: bytes | None = None) -> str:
    """Return a private key as PEM."""
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock).decode()


def public_pem(key: ed448.Ed448PrivateKey | Ed25519PrivateKey) -> str:
    """Return the public half as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "text,words",
    [
        (public_pem(Ed25519PrivateKey.generate()), "public key; signing takes the private one"),
        (pem(Ed25519PrivateKey.generate(), b"word"), "passphrase"),
        (pem(ed448.Ed448PrivateKey.generate()), "another kind of private key than ed25519"),
        (HEX, "no private key in PEM form"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key in PEM form"),
    ],
)
def test_the_wrong_kind_of_signing_key_is_refused_with_the_reason(text: str, words: str) -> None:
    """Each mix-up has its words."""
    with pytest.raises(errors.KeyProblem, match=words):
        load_signer("ed25519", "env:KEY", "k", base=Path(), environ={"KEY": text})


@pytest.mark.parametrize(
    "text,words",
    [
        (pem(Ed25519PrivateKey.generate()), "private key; trust takes the public half"),
        (public_pem(ed448.Ed448PrivateKey.generate()), "another kind of public key than ed25519"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key in PEM form"),
    ],
)
def test_the_wrong_kind_of_trusted_key_is_refused_with_the_reason(text: str, words: str) -> None:
    """A private key in a trust entry is a leak about to happen."""
    with pytest.raises(errors.KeyProblem, match=words):
        load_trusted("k", "env:KEY", None, base=Path(), environ={"KEY": text})


@pytest.mark.parametrize("comment", ["", "Bag Attributes\n    friendlyName: shop\n"])
def test_openssl_and_we_understand_each_other(comment: str) -> None:
    """Its keys, with what `openssl pkcs12` writes before them, sign what it checks; and the other way round."""
    private = Ed25519PrivateKey.generate()
    ours = load_signer("ed25519", "env:KEY", "k", base=Path(), environ={"KEY": comment + pem(private)})
    large = b"data" * CHECKED_BY_OPENSSL_BYTES  # signed and checked by other code
    assert [ours.sign(data) for data in (b"data", large)] == [private.sign(data) for data in (b"data", large)]
    assert ours.own_trust().check(private.sign(b""), b"")
    texts = {"PUB": comment + public_pem(private)}
    trusted = load_trusted("k", "env:PUB", None, base=Path(), environ=texts)
    assert trusted.check(ours.sign(b"data"), b"data")
    assert trusted.check(ours.sign(large), large)
    assert not trusted.check(ours.sign(large), large + b"!")
    assert not trusted.check(ours.sign(b"data"), b"date")
    assert not trusted.check(ours.sign(b"data")[:-1], b"data")
    assert not trusted.check(b"", b"data")
    assert not trusted.check(b"", large)


def test_the_files_we_write_are_those_openssl_writes(tmp_path: Path) -> None:
    """Byte for byte, so that every tool reads them."""
    generate("shop", "ed25519", tmp_path)
    text = (tmp_path / "shop.pem").read_text()
    private = load_pem_private_key(text.encode(), password=None)
    assert isinstance(private, Ed25519PrivateKey)
    assert (text, (tmp_path / "shop.pub").read_text()) == (pem(private), public_pem(private))


def test_pem_text_is_never_taken_for_a_secret() -> None:
    """Else everybody who has the public key could sign."""
    text = public_pem(Ed25519PrivateKey.generate())
    with pytest.raises(errors.KeyProblem, match="no shared secret"):
        load_signer("hmac-sha256", "env:KEY", "k", base=Path(), environ={"KEY": text})
    assert load_trusted("k", "env:KEY", None, base=Path(), environ={"KEY": text}).algorithm == "ed25519"


@pytest.mark.parametrize("algorithm", ["ed25519", "hmac-sha256"])
def test_no_repr_holds_key_material(tmp_path: Path, algorithm: Algorithm) -> None:
    """Signers, trusted keys and descriptions can be logged."""
    infos = generate("shop", algorithm, tmp_path)
    signer = load_signer(algorithm, infos[0].path.name, "shop", base=tmp_path, environ={})
    secret_lines = [line for line in infos[0].path.read_text().splitlines() if not line.startswith("-----")]
    shown = f"{signer!r} {signer.own_trust()!r} {infos!r}"
    for line in secret_lines:
        assert line not in shown
    assert "shop" in repr(signer)


def test_both_halves_have_one_fingerprint_and_a_readable_private_file_is_noticed(tmp_path: Path) -> None:
    """What `keys list` shows."""
    generate("shop", "ed25519", tmp_path)
    generate("audit", "hmac-sha256", tmp_path)
    (tmp_path / "notes.txt").write_text("not a key")
    secret, private, public = describe_folder(tmp_path)
    assert [info.kind for info in (secret, private, public)] == ["secret", "private", "public"]
    assert private.fingerprint == public.fingerprint != secret.fingerprint
    assert not private.exposed
    private.path.chmod(0o640)
    assert describe(private.path).exposed
    assert not public.exposed


def test_a_folder_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    """And a broken key file is named."""
    with pytest.raises(errors.KeyProblem, match="amqpq keys new NAME --dir"):
        describe_folder(tmp_path / "keys")
    (tmp_path / "x.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(errors.KeyProblem, match=r"x\.pem"):
        describe_folder(tmp_path)
