"""A codec with a key, a clock that stands still, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amqpq.message import Codec, Rules
from amqpq.security.replay import SeenIds
from amqpq.security.signing import HmacKey, Signer, Verifier

NOW = 1_795_000_000.25
SECRET = bytes(range(32))

MakeCodec = Callable[..., Codec]


@pytest.fixture
def make_codec() -> MakeCodec:
    """Make codecs that sign with one secret and trust it; every part can be replaced."""

    def make(
        rules: Rules | None = None,
        *,
        signer: Signer | None = None,
        unsigned: bool = False,
        trusted: dict[str, Signer] | None = None,
        may: tuple[str, ...] | None = None,
        required: bool = True,
        now: float = NOW,
        seen: SeenIds | None = None,
    ) -> Codec:
        signer = signer or HmacKey("producer-a", SECRET)
        trusted = {signer.key_id: signer} if trusted is None else trusted
        keys = {key_id: key.own_trust().restricted(may) for key_id, key in trusted.items()}
        return Codec(
            rules or Rules(),
            signer=None if unsigned else signer,
            verifier=Verifier(keys, required=required, replay_window_seconds=600),
            clock=lambda: now,
            app_id="shop",
            seen=seen,
        )

    return make


@pytest.fixture
def codec(make_codec: MakeCodec) -> Codec:
    """Return a codec that signs and requires signatures."""
    return make_codec()
