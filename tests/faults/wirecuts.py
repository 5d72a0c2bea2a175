"""Where AMQP frames end in a stream of bytes, and gates for the proxy that act exactly there.

A frame is a type octet, a channel (2 octets), a size (4 octets), that many octets, and the octet 206 (AMQP 0-9-1, section
2.3.5). The client sends 8 octets before its first frame.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from amqpq.testing.proxy import Gate, open_gate

PROTOCOL_HEADER_BYTES: Final = 8
HEAD_BYTES: Final = 7
METHOD, HEADER, BODY = 1, 2, 3
BASIC_ACK: Final = (60, 80)
UNKNOWN_TAG: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has passed: where it ends in the piece of bytes that completed it, and what it is."""

    end: int
    kind: int
    channel: int
    method: tuple[int, int]


class Frames:
    """Finds the ends of frames in one direction of one connection.

    Args:
        from_client: The protocol header comes first; it counts as a frame of kind 0.
    """

    def __init__(self, *, from_client: bool) -> None:
        self._header = PROTOCOL_HEADER_BYTES if from_client else 0
        self._partial = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that end in this piece."""
        buffer = self._partial + data
        before = len(self._partial)
        start = 0
        while True:
            if self._header:
                size = self._header
            elif len(buffer) - start < HEAD_BYTES:
                break
            else:
                size = HEAD_BYTES + int.from_bytes(buffer[start + 3 : start + HEAD_BYTES]) + 1
            if len(buffer) - start < size:
                break
            frame = buffer[start : start + size]
            start += size
            if self._header:
                self._header = 0
                yield Frame(start - before, 0, 0, (0, 0))
            else:
                method = (int.from_bytes(frame[7:9]), int.from_bytes(frame[9:11])) if frame[0] == METHOD else (0, 0)
                yield Frame(start - before, frame[0], int.from_bytes(frame[1:3]), method)
        self._partial = buffer[start:]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where to break a connection: after `frames` frames of one direction and `more` bytes of the next."""

    from_client: bool
    frames: int
    more: int = 0


def boundaries(counts: Sequence[int]) -> list[Cut]:
    """Return cuts exactly between two frames, in both directions; early and late ones take turns."""
    return [Cut(way, count) for count in _alternating(counts) for way in (False, True)]


def middles(counts: Sequence[int], offsets: Sequence[int]) -> list[Cut]:
    """Return cuts inside a frame: in its head, after its head, in what it carries."""
    turn = itertools.cycle(offsets)
    return [Cut(way, count, next(turn)) for count in _alternating(counts) for way in (False, True)]


def _alternating(counts: Sequence[int]) -> list[int]:
    # A connection that breaks in its handshake makes its owner wait a little longer each time; one that gets through
    # ends that.
    half = (len(counts) + 1) // 2
    pairs = itertools.zip_longest(counts[:half], counts[half:])
    return [count for pair in pairs for count in pair if count is not None]


class CutGate:
    """Breaks one connection at one place.

    Args:
        cut: The place.
        fired: Set when it breaks.
    """

    def __init__(self, cut: Cut, fired: threading.Semaphore) -> None:
        self._cut = cut
        self._fired = fired
        self._frames = Frames(from_client=cut.from_client)
        self._left = cut.frames
        self._more = cut.more

    def __call__(self, data: bytes, /) -> tuple[bytes, bool]:
        """Let pass what is before the place."""
        start = 0
        if self._left:
            for frame in self._frames.feed(data):
                self._left -= 1
                if not self._left:
                    start = frame.end
                    break
            else:
                return data, False
        if len(data) - start < self._more:
            self._more -= len(data) - start
            return data, False
        self._fired.release()
        return data[: start + self._more], True


class CutPlan:
    """Gives each new connection the next cut of a list, once it is told to begin."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self.cuts = tuple(cuts)
        self._left = list(cuts)
        self._lock = threading.Lock()
        self._begun = False
        self._fired = threading.Semaphore(0)
        self.fired = 0

    def begin(self) -> None:
        """Cut the connections that come from now on."""
        self._begun = True

    def end(self) -> None:
        """Leave connections that come from now on alone."""
        self._begun = False

    def next_fired(self, timeout_seconds: float) -> bool:
        """Wait until one more cut has happened; whether it did in time."""
        happened = self._fired.acquire(timeout=timeout_seconds)
        self.fired += happened
        return happened

    def __call__(self) -> tuple[Gate, Gate]:
        """Return the gates of a new connection."""
        with self._lock:
            cut = self._left.pop(0) if self._begun and self._left else None
        if cut is None:
            return open_gate, open_gate
        gate = CutGate(cut, self._fired)
        return (gate, open_gate) if cut.from_client else (open_gate, gate)


class Intruder:
    """Puts an acknowledgement of a delivery that never was into a client's stream, where a frame may stand.

    The broker answers with 406 and closes that channel, though its owner has done nothing wrong.
    """

    def __init__(self) -> None:
        self._wanted: set[int] = set()
        self._lock = threading.Lock()
        self._fired = threading.Semaphore(0)

    def intrude(self, kind: int) -> None:
        """Do it after the next `basic.ack` (METHOD) or the next body (BODY) of any connection."""
        with self._lock:
            self._wanted.add(kind)

    def done(self, timeout_seconds: float) -> bool:
        """Wait until it was done once more."""
        return self._fired.acquire(timeout=timeout_seconds)

    def __call__(self) -> tuple[Gate, Gate]:
        """Return the gates of a new connection."""
        frames = Frames(from_client=True)

        def gate(data: bytes, /) -> tuple[bytes, bool]:
            for frame in list(frames.feed(data)):
                if self._takes(frame):
                    false = data[: frame.end] + false_ack(frame.channel) + data[frame.end :]
                    self._fired.release()
                    return false, False
            return data, False

        return gate, open_gate

    def _takes(self, frame: Frame) -> bool:
        if frame.kind not in self._wanted or (frame.kind == METHOD and frame.method != BASIC_ACK):
            return False
        with self._lock:
            if frame.kind not in self._wanted:
                return False
            self._wanted.discard(frame.kind)
            return True


def false_ack(channel: int) -> bytes:
    """Return a `basic.ack` frame for a delivery that does not exist."""
    payload = b"".join(part.to_bytes(2) for part in BASIC_ACK) + UNKNOWN_TAG.to_bytes(8) + b"\0"
    return bytes([METHOD]) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"
