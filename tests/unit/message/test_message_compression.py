"""Packing and unpacking, with a ceiling that holds while unpacking."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from amqpq import errors
from amqpq.message import Rules
from amqpq.message.canonical import task_bytes
from amqpq.message.compression import BZIP2, PACKERS, ZLIB, check_algorithm, unpack
from amqpq.security.signing import signature_text
from amqpq.types import Properties

MIB = 2**20


@pytest.mark.parametrize("name", ["zlib", "bzip2"])
@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_what_was_packed_comes_back_up_to_the_ceiling(name: str, size: int) -> None:
    """The ceiling itself is allowed, and an empty body too."""
    wire_name, pack = PACKERS[name]
    body = b"x" * size
    assert unpack(pack(body), wire_name, 1000) == body


@pytest.mark.parametrize("name", ["zlib", "bzip2"])
def test_one_byte_over_the_ceiling_is_refused(name: str) -> None:
    """The error names the ceiling."""
    wire_name, pack = PACKERS[name]
    with pytest.raises(errors.OversizeMessage, match="more than 1000 bytes"):
        unpack(pack(b"x" * 1001), wire_name, 1000)


def zlib_bomb(size: int) -> bytes:
    """Pack `size` zeros: one packed megabyte, repeated; after a full flush no part refers to another (RFC 1951)."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    megabyte = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\xda" + megabyte * (size // MIB) + packer.flush()


@pytest.mark.parametrize("kind", ["zlib", "bzip2"])
def test_a_bomb_is_refused_within_the_ceilings_memory(kind: str) -> None:
    """A megabyte that unpacks to a gigabyte never takes more memory than a few times the ceiling."""
    if kind == "zlib":
        bomb, wire_name = zlib_bomb(1024 * MIB), ZLIB
        assert 0.9 * MIB < len(bomb) < 1.1 * MIB
    else:
        bomb, wire_name = bz2.compress(bytes(16 * MIB)), BZIP2
    ceiling = 2 * MIB
    tracemalloc.start()
    try:
        with pytest.raises(errors.OversizeMessage):
            unpack(bomb, wire_name, ceiling)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * ceiling


def test_the_codec_refuses_a_signed_bomb_too(make_codec: Any) -> None:
    """A trusted sender cannot take the worker down either."""
    codec = make_codec(Rules(max_size=2 * MIB))
    bomb = zlib_bomb(256 * MIB)
    headers = {"task": "t", "id": "1", "compression": ZLIB, "amqpq-kid": codec.signer.key_id, "amqpq-ts": 1}
    properties = Properties("application/json", headers=headers)
    headers["amqpq-sig"] = signature_text(codec.signer.sign(task_bytes(properties, {}, bomb)))
    with pytest.raises(errors.OversizeMessage, match=r"messages\.max_size"):
        codec.decode_task(bomb, properties)
    headers["amqpq-sig"] = signature_text(bytes(32))
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_task(bomb, properties)


@pytest.mark.parametrize("name", ["zlib", "bzip2"])
def test_what_is_cut_short_or_followed_by_something_is_refused(name: str) -> None:
    """One whole stream, and nothing behind it."""
    wire_name, pack = PACKERS[name]
    packed = pack(b"some body")
    for end in range(len(packed)):
        with pytest.raises(errors.Undecodable):
            unpack(packed[:end], wire_name, 1000)
    with pytest.raises(errors.Undecodable, match="3 bytes follow"):
        unpack(packed + b"abc", wire_name, 1000)
    with pytest.raises(errors.Undecodable, match="follow"):
        unpack(packed + packed, wire_name, 1000)


@pytest.mark.parametrize("wire_name", [ZLIB, BZIP2])
@pytest.mark.parametrize("body", [b"", b"plain text", gzip.compress(b"x", mtime=0), b"BZh9garbage", b"x\x9cgarbage"])
def test_what_is_not_of_the_format_is_refused(wire_name: str, body: bytes) -> None:
    """Kombu's x-gzip is the zlib format; a gzip file is none."""
    with pytest.raises(errors.Undecodable):
        unpack(body, wire_name, 1000)


@pytest.mark.parametrize("wire_name", ["application/zstd", "zlib", 5, b"application/x-gzip"])
def test_an_unknown_packing_is_refused_with_what_there_is(wire_name: object) -> None:
    """The error names both known ones."""
    with pytest.raises(errors.ContentRefused, match="application/x-gzip.*application/x-bz2"):
        unpack(b"", wire_name, 1000)


def test_compression_is_chosen_by_name() -> None:
    """None and "none" are none; a typo is an error."""
    assert check_algorithm(None) is None
    assert check_algorithm("none") is None
    assert check_algorithm("bzip2") == "bzip2"
    with pytest.raises(errors.ConfigurationError, match="zlib, bzip2 and none"):
        check_algorithm("gzip")
