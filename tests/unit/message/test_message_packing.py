"""MessagePack with a buffer that is kept."""

from __future__ import annotations

import threading

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.message import packing

pack = packing.reusing()

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.lists(PLAIN, max_size=5))
def test_it_writes_what_a_new_buffer_would(values: list[object]) -> None:
    """Nothing of one message gets into the next."""
    for value in values:
        assert pack(value) == msgpack.packb(value)


def test_what_failed_leaves_nothing_behind() -> None:
    """Half of a message that cannot be written is not the beginning of the next one."""
    with pytest.raises(TypeError):
        pack(["the beginning", object()])
    assert pack(1) == b"\x01"


def test_two_threads_do_not_write_into_each_others_message() -> None:
    """A thread may come while another one is in the middle of a message."""
    inside, outside = threading.Event(), threading.Event()

    def slow(_value: object) -> object:
        inside.set()
        assert outside.wait(10)
        return "slow"

    shared = packing.reusing(slow)
    written: list[bytes] = []
    thread = threading.Thread(target=lambda: written.append(shared(["a", object(), "b"])))
    thread.start()
    assert inside.wait(10)
    assert shared(["c"]) == msgpack.packb(["c"])
    outside.set()
    thread.join()
    assert written == [msgpack.packb(["a", "slow", "b"])]


def test_a_message_in_the_middle_of_another_one_has_a_buffer_of_its_own() -> None:
    """A finalizer may run while a value is written, and publish."""
    inner: list[bytes] = []

    def default(_value: object) -> object:
        inner.append(nested(["inner"]))
        return "outer"

    nested = packing.reusing(default)
    assert nested(["a", object(), "b"]) == msgpack.packb(["a", "outer", "b"])
    assert inner == [msgpack.packb(["inner"])]


def test_a_buffer_that_a_large_message_has_stretched_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message of the largest size must not cost a worker that much memory for good."""
    made, usual = [], msgpack.Packer

    def packer(default: object) -> msgpack.Packer:
        made.append(default)
        return usual(default=default)

    monkeypatch.setattr(msgpack, "Packer", packer)
    fresh = packing.reusing()
    sizes = [10, packing.KEPT_BYTES - 100, packing.KEPT_BYTES + 1, 10]
    assert [len(fresh(b"x" * size)) > size for size in sizes] == [True] * 4
    assert len(made) == 2
