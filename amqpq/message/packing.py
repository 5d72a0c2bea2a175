"""MessagePack with a buffer that is kept: `msgpack.packb` takes a mebibyte of memory for every call and gives it back.

That is half of what a small message costs, and nine tenths of one of 64 KiB (31 us against 3: the memory is the system's
each time, and has to be mapped again as it is written).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgpack

KEPT_BYTES: Final = 1024 * 1024
"""A buffer never shrinks. One that a larger message has stretched is let go of, so that it does not stay as large for ever."""


def reusing(default: Callable[[object], object] | None = None) -> Callable[[object], bytes]:
    """Return what packs a value, into a buffer that nobody else uses meanwhile.

    Args:
        default: Called with what MessagePack has no type for; returns something it has one for.
    """
    spare: list[msgpack.Packer] = []

    def pack(value: object) -> bytes:
        # Taken out while it is in use: another thread, or a finalizer that runs in the middle of `default`, must not write into
        # the same message. One that has failed is not put back.
        try:
            packer = spare.pop()
        except IndexError:
            packer = msgpack.Packer(default=default)
        data: bytes = packer.pack(value)
        if len(data) <= KEPT_BYTES:
            spare.append(packer)
        return data

    return pack
