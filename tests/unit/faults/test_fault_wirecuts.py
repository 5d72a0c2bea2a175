"""Frames are found wherever a stream is split, and cuts happen exactly where they are asked for."""

from __future__ import annotations

import threading

import pytest

from tests.faults.wirecuts import BODY, METHOD, Cut, CutGate, CutPlan, Frames, Intruder, boundaries, false_ack, middles

PROTOCOL = b"AMQP\x00\x00\x09\x01"


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    """A frame as it travels."""
    return bytes([kind]) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


ACK = frame(METHOD, b"\x00\x3c\x00\x50" + (7).to_bytes(8) + b"\x00", channel=3)
PUBLISHED = [frame(METHOD, b"\x00\x3c\x00\x28" + b"x" * 9), frame(2, b"h" * 20), frame(BODY, b"body")]
STREAM = PROTOCOL + b"".join(PUBLISHED) + ACK


@pytest.mark.parametrize("piece", [1, 3, 7, 8, len(STREAM)])
def test_frames_are_found_in_any_pieces(piece: int) -> None:
    """Each frame ends where it ends, however the bytes arrive."""
    frames = Frames(from_client=True)
    ends = [
        (start + found.end, found.kind, found.channel)
        for start in range(0, len(STREAM), piece)
        for found in frames.feed(STREAM[start : start + piece])
    ]
    sizes = [len(PROTOCOL), *(len(part) for part in PUBLISHED), len(ACK)]
    assert [end for end, *_ in ends] == [sum(sizes[: number + 1]) for number in range(len(sizes))]
    assert [kind for _, kind, _ in ends] == [0, METHOD, 2, BODY, METHOD]
    assert ends[-1][2] == 3


@pytest.mark.parametrize("piece", [1, 5, len(STREAM)])
@pytest.mark.parametrize("more", [0, 1, 7, 9])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_cut_lets_pass_exactly_what_is_before_it(piece: int, more: int, count: int) -> None:
    """So many frames and so many bytes of the next one, then the end."""
    fired = threading.Semaphore(0)
    gate = CutGate(Cut(True, count, more), fired)
    passed = b""
    for start in range(0, len(STREAM), piece):
        through, breaks = gate(STREAM[start : start + piece])
        passed += through
        if breaks:
            break
    sizes = [len(PROTOCOL), *(len(part) for part in PUBLISHED), len(ACK)]
    assert passed == STREAM[: sum(sizes[:count]) + more]
    assert fired.acquire(blocking=False)


def test_a_plan_gives_each_new_connection_the_next_cut() -> None:
    """Only while it has begun; then all of the list is used up, and connections live."""
    plan = CutPlan(boundaries([1, 2]))
    assert not any(isinstance(gate, CutGate) for gate in plan())
    plan.begin()
    made = [plan() for _ in range(5)]
    assert [isinstance(up, CutGate) for up, _ in made] == [False, True, False, True, False]
    assert [isinstance(down, CutGate) for _, down in made] == [True, False, True, False, False]


def test_cuts_inside_frames_take_every_offset() -> None:
    """Early and late places take turns, and the offsets go round."""
    cuts = middles([1, 2, 3, 4], [1, 7, 9])
    assert [cut.frames for cut in cuts[::2]] == [1, 3, 2, 4]
    assert {cut.more for cut in cuts} == {1, 7, 9}


def test_an_intruder_puts_one_false_acknowledgement_where_a_frame_may_stand() -> None:
    """After an acknowledgement, on the same channel; once per time asked."""
    intruder = Intruder()
    gate, _ = intruder()
    assert gate(STREAM) == (STREAM, False)
    intruder.intrude(METHOD)
    assert gate(b"".join(PUBLISHED) + ACK + ACK)[0] == b"".join(PUBLISHED) + ACK + false_ack(3) + ACK
    intruder.intrude(BODY)
    assert gate(b"".join(PUBLISHED) + ACK)[0] == b"".join(PUBLISHED) + false_ack(1) + ACK
    assert intruder.done(0)
    assert intruder.done(0)
