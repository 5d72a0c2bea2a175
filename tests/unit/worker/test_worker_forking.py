"""Children that are forks: what must not be shared, and the orders to the template."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqpq.worker import aside as aside_module
from amqpq.worker.aside import aside
from amqpq.worker.pools import template
from amqpq.worker.pools.childprocess import UNSEEN, death
from amqpq.worker.pools.forked import Forked, Template, descriptors, unshareable
from amqpq.worker.pools.template import ANSWER, DESCRIPTORS, FORK, ORDER, REAP

Sockets = tuple[socket.socket, socket.socket]


@pytest.fixture
def line() -> Iterator[Sockets]:
    """The parent's end and the template's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def nothing_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary folder of the test run itself."""
    monkeypatch.setattr(weakref.finalize, "_registry", {})


@pytest.fixture
def harmless(tmp_path: Path) -> Iterator[list[int]]:
    """Descriptors that many processes may have."""
    found = [
        os.open(os.devnull, os.O_RDWR),
        os.open("/dev/urandom", os.O_RDONLY),
        os.open(tmp_path, os.O_RDONLY),
        os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ]
    yield found
    for number in found:
        os.close(number)


@pytest.mark.usefixtures("nothing_to_remove")
def test_what_has_no_place_of_its_own_may_be_shared(harmless: list[int]) -> None:
    """Devices without state, folders, files that are appended to; and what is closed again."""
    assert not unshareable(harmless)
    assert not unshareable([max(harmless) + 1000])


def _read_file(folder: Path) -> int:
    (folder / "data").touch()
    return os.open(folder / "data", os.O_RDONLY)


@pytest.mark.usefixtures("nothing_to_remove")
@pytest.mark.parametrize(
    ("opened", "what"),
    [
        (lambda _: socket.socket().detach(), "socket:["),
        (lambda _: os.memfd_create("kept"), "/memfd:kept"),
        (_read_file, "/data"),
    ],
    ids=["socket", "memory", "file"],
)
def test_what_is_gone_for_others_once_read_is_not_shared(
    tmp_path: Path, opened: Callable[[Path], int], what: str
) -> None:
    """Sockets and files with a place; the answer names them."""
    number = opened(tmp_path)
    try:
        assert what in unshareable([number])
        assert unshareable([number]).startswith("the application has opened ")
    finally:
        os.close(number)


def test_what_is_open_is_known() -> None:
    """A descriptor is there from its opening to its closing."""
    before = descriptors()
    reading, writing = os.pipe()
    assert descriptors() - before == {reading, writing}
    os.close(reading)
    os.close(writing)
    assert descriptors() == before


def test_the_template_ends_with_its_orders(line: Sockets) -> None:
    """Nobody can order anything any more: whoever could is gone."""
    ours, theirs = line
    ours.close()
    assert template.obey(theirs) is None


def test_a_child_that_nobody_knows_is_not_reaped(line: Sockets) -> None:
    """The answer is the error's number."""
    ours, theirs = line
    ours.send(ORDER.pack(REAP, os.getpid()))
    ours.shutdown(socket.SHUT_WR)
    template.obey(theirs)
    assert ANSWER.unpack(ours.recv(ANSWER.size)) == (-errno.ECHILD, 0, 0)


def test_a_fork_that_fails_is_answered(line: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template lives on, without the descriptors that were for the child."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "too many")

    monkeypatch.setattr(os, "fork", refuse)
    ours, theirs = line
    before = descriptors()
    socket.send_fds(ours, [ORDER.pack(FORK, 0)], [0, 1, 2])
    ours.shutdown(socket.SHUT_WR)
    assert template.obey(theirs) is None
    assert ANSWER.unpack(ours.recv(ANSWER.size)) == (-errno.EAGAIN, 0, 0)
    assert descriptors() == before


def test_descriptors_that_are_received_are_not_inherited(line: Sockets) -> None:
    """A program that a task starts would otherwise keep the sockets of its child open."""
    ours, theirs = line
    socket.send_fds(ours, [b"x"], [0, 1])
    data, received = template.receive(theirs, 1, DESCRIPTORS)
    try:
        assert (data, len(received)) == (b"x", 2)
        assert not any(os.get_inheritable(number) for number in received)
    finally:
        for number in received:
            os.close(number)


class NoTemplate(Template):
    """One that is lost."""

    def __init__(self) -> None:
        self._orders = None


def test_how_a_process_ended_may_be_seen_by_nobody() -> None:
    """Its template is lost, and another process has reaped it; nobody waits for that."""
    with subprocess.Popen(["true"]) as process:
        orphan = Forked(process.pid, os.pidfd_open(process.pid), NoTemplate())
        process.wait()
    assert orphan.poll() == orphan.wait() == UNSEEN
    assert death(orphan.returncode) == "ended (nobody saw how)"


def test_the_first_process_of_a_container_inherits_orphans() -> None:
    """Then it can tell how they ended, and has to bury them."""
    with subprocess.Popen(["false"]) as process:
        orphan = Forked(process.pid, os.pidfd_open(process.pid), NoTemplate())
        assert orphan.wait(60.0) == 1
        assert orphan.peak_bytes


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing stood against forking the test run."""
    monkeypatch.setattr(aside_module, "obstacle", lambda _: "")


@pytest.mark.usefixtures("forking")
def test_a_value_can_be_computed_aside() -> None:
    """Another process does it."""
    assert aside(os.getpid, ()) != os.getpid()


@pytest.mark.usefixtures("forking")
def test_what_cannot_be_computed_aside_is_computed_here() -> None:
    """It raises here what it raises, and a value that does not travel is made here."""
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0, ())

    def who() -> int:
        return os.getpid()

    assert aside(lambda: who, ()) is who


def test_nothing_is_forked_where_that_is_not_wanted() -> None:
    """Then it is computed here."""
    assert aside(os.getpid, None) == os.getpid()
