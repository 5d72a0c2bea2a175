"""What it costs to write, sign, check and read a message: CPU of this process, no broker."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from amqpq.measuring.figures import Clocks, CodecCost
from amqpq.message.codec import Codec, Rules
from amqpq.message.envelope import TaskEnvelope
from amqpq.security.ed25519 import make_signer
from amqpq.security.signing import MINIMUM_SECRET_BYTES, HmacKey, Signer, Verifier

_KEY: Final = "bench"
_ROUND: Final = 50
"""Messages between two looks at the clock."""
_REPLAY_WINDOW_SECONDS: Final = 600.0


def costs(payload: bytes, max_size: int, clocks: Clocks, seconds: float) -> Iterator[tuple[str, CodecCost]]:
    """Yield each algorithm with its cost; `off` is unsigned.

    Args:
        payload: The task's one argument.
        max_size: What the codec takes, bytes.
        clocks: The time.
        seconds: For all of them together.
    """
    signers: dict[str, Signer | None] = {
        "off": None,
        "hmac-sha256": HmacKey(_KEY, secrets.token_bytes(MINIMUM_SECRET_BYTES)),
        "ed25519": make_signer(_KEY),
    }
    envelope = TaskEnvelope(secrets.token_hex(16), "bench.noop", (payload,))
    for algorithm, signer in signers.items():
        trusted = {} if signer is None else {_KEY: signer.own_trust()}
        verifier = Verifier(trusted, required=signer is not None, replay_window_seconds=_REPLAY_WINDOW_SECONDS)
        codec = Codec(Rules(max_size=max_size), signer=signer, verifier=verifier)
        body, properties = codec.encode_task(envelope, exchange="", key=_KEY)
        share = seconds / len(signers) / 2
        encode = _cpu_us(partial(codec.encode_task, envelope, exchange="", key=_KEY), clocks, share)
        decode = _cpu_us(partial(codec.decode_task, body, properties), clocks, share)
        yield algorithm, CodecCost(encode, decode)


def _cpu_us(work: Callable[[], object], clocks: Clocks, seconds: float) -> float:
    done = 0
    end, began = clocks.wall() + seconds, clocks.cpu()
    while done == 0 or clocks.wall() < end:
        for _ in range(_ROUND):
            work()
        done += _ROUND
    return (clocks.cpu() - began) / done * 1e6
