"""What one blocking connection does in its turns: it reads the socket, and flushes what could not be sent at once.

The thread that gives it its turns, called the I/O thread here, is one of its own, or that of a loop (`drivers`). It alone reads.

Who writes: the calling thread, directly, under a lock, as long as the kernel takes it, and with it what others have left in
the buffer: a publish then costs one system call and no change of thread. The socket is non-blocking; what the kernel does not
take goes into the buffer, and the I/O thread sends it on as room appears. So no caller can be caught inside a write for ever,
whatever the broker does (RabbitMQ stops reading from publishers under a memory or disk alarm, and for moments under flow
control). The buffer is bounded: `wait_for_room` holds callers back above `BUFFER_LIMIT_BYTES`.

What is sent from the I/O thread itself (acks and results from callbacks), or with `lazy`, is collected and leaves in
one write at the end of the turn.

Why a thread may not write while another reads, with TLS: an OpenSSL connection is one object and not safe for that, so
there the read takes the same lock. Reads never block, so nobody waits.

Heartbeats: one is sent when nothing else left for half the interval; nothing received for two intervals means that the
peer is gone (https://www.rabbitmq.com/docs/heartbeats).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from amqpq.log import TRANSPORT
from amqpq.transport.drivers import AtHome, Driver, OwnThread
from amqpq.transport.interface import Home

logger = logging.getLogger(TRANSPORT)

BUFFER_LIMIT_BYTES = 8 * 1024 * 1024
"""Callers wait above this: enough for a long fat network (100 ms at 640 Mbit/s), small beside a message of 16 MiB."""
STALL_SECONDS = 5.0
"""How long a caller waits for a full buffer to move at all; RabbitMQ's flow control pauses for well under a second."""
READ_MIN_BYTES = 16 * 1024
READ_MAX_BYTES = 60 * 1024
"""A read asks for twice as much when it was filled: 9 us a delivery, 45 us with py-amqp's own reads.

From 128 KiB on the C library takes the memory for a read from the system, and gives it back, each time: it costs five times as
much then, however little there is to read. With what is left of the read before, this stays below that."""
READS_PER_TURN = 4
"""Then acks and heartbeats get their turn, however much arrives."""
WRITE_PIECE_BYTES = 64 * 1024
"""What waits is joined up to this and the last piece of it, which stays below 128 KiB for the same reason."""

Socket: TypeAlias = "socket.socket | ssl.SSLSocket"

_TRY_LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Reactor:
    """Owns a connected socket, and has somebody drive it: a thread at first.

    Args:
        sock: Connected, handshake done.
        on_data: Called on the I/O thread with what arrived; an exception from it ends the connection.
        on_end: Called once on the I/O thread when the connection has ended, with what ended it, or None after `stop`.
        heartbeat_seconds: Negotiated interval; 0 is off.
        name: For the thread.
    """

    def __init__(
        self,
        sock: Socket,
        on_data: Callable[[bytes], None],
        on_end: Callable[[BaseException | None], None],
        *,
        heartbeat_seconds: float,
        heartbeat: bytes,
        name: str,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._on_data = on_data
        self._on_end = on_end
        self._heartbeat_seconds = heartbeat_seconds
        self.beat_seconds = heartbeat_seconds / 2
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._out: deque[bytes | memoryview] = deque()
        self._full = False  # the kernel did not take all: what waits is the I/O thread's to send
        self._out_bytes = 0
        self._taken_bytes = 0  # by the kernel since the beginning: whether a full buffer moves
        self._calls: deque[Callable[[], object]] = deque()
        self._stopping = False
        self._broken: Exception | None = None
        self._ended = False
        self._deadline: float | None = None
        self._last_sent = self._last_received = time.monotonic()
        self._read_bytes = READ_MIN_BYTES
        self._unread = False  # the last turn left something to read, perhaps inside the TLS library
        self._name = name
        self._driver: Driver = OwnThread(self, sock, name)
        self._next: Driver | None = None

    def start(self) -> None:
        """Start the I/O thread."""
        self._driver.start()

    def move_to(self, home: Home | None) -> None:
        """Have a loop drive the connection from now on; on the thread of that loop.

        Args:
            home: The loop; None for a thread of its own again.
        """
        with self._lock:
            driver = self._driver
            if self._ended:
                return
            if home is not None:
                self._next = AtHome(self, self._sock, home)
            elif isinstance(driver, OwnThread):
                self._next = None  # it has not left yet
                return
            else:
                self._next = OwnThread(self, self._sock, self._name)
        driver.leave()

    @property
    def on_own_thread(self) -> bool:
        """Whether the caller is the I/O thread."""
        return threading.get_ident() == self._driver.ident

    @property
    def crowded(self) -> bool:
        """Whether a caller should wait for room before it sends more."""
        return self._out_bytes > BUFFER_LIMIT_BYTES

    # ---------------------------------------------------------------------------------------------- from any thread

    def send(self, data: bytes, *, lazy: bool = False) -> None:
        """Send `data` after everything sent before; never blocks. After the end of the connection it does nothing.

        Args:
            data: Whole frames.
            lazy: It may wait for the I/O thread's next turn, to leave together with others.
        """
        own = threading.get_ident() == self._driver.ident
        with self._lock:
            if self._ended:
                return
            self._out.append(data)
            self._out_bytes += len(data)
            if not (self._full or lazy or own):
                self._send_waiting()
                if not self._full:
                    return
        if own:
            self._driver.come_back()
        else:
            self._driver.wake()

    def wait_for_room(self, *, patient: bool) -> bool:
        """Wait until the buffer is under its limit; False where it did not move for `STALL_SECONDS`.

        On the I/O thread it answers at once, nobody else could make room: True where it is patient, as what callbacks send is
        bounded by what was delivered.

        Args:
            patient: Wait at all.
        """
        if self.on_own_thread:
            return patient
        with self._room:
            while self._out_bytes > BUFFER_LIMIT_BYTES and not self._ended:
                before = self._taken_bytes
                if not patient:
                    return False
                self._room.wait(STALL_SECONDS)
                if self._taken_bytes == before and self._out_bytes > BUFFER_LIMIT_BYTES and not self._ended:
                    return False
        return True

    def call_soon(self, callback: Callable[[], object]) -> bool:
        """Run `callback` on the I/O thread, after those asked for before; False where the thread has ended."""
        with self._lock:
            if self._ended:
                return False
            self._calls.append(callback)
        if self.on_own_thread:
            self._driver.come_back()
        else:
            self._driver.wake()
        return True

    def stop(self) -> None:
        """End the connection once what was sent before has left; from any thread."""
        self._stopping = True
        self._driver.wake()

    def stop_after(self, seconds: float) -> None:
        """End the connection in `seconds` at the latest, whatever waits in the buffer."""
        self._deadline = time.monotonic() + seconds
        self._driver.wake()

    def abandon(self) -> None:
        """Forget the connection in a forked child: close our copy of the descriptors and send nothing.

        The parent's threads do not exist here, so its locks may be held for ever: they are replaced.
        """
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._ended = True
        self._out.clear()
        self._calls.clear()
        self._driver.abandon()
        with contextlib.suppress(OSError):  # the child has no use for it either way
            self._sock.close()

    def _try_send(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes now; the lock is held. A broken socket is noted for the I/O thread to end on."""
        try:
            sent = self._sock.send(data)
        except _TRY_LATER:
            return 0
        except (OSError, ValueError) as error:  # ValueError: a TLS socket that was shut down underneath
            self._broken = self._broken or _as_os_error(error)
            return 0
        self._taken_bytes += sent
        self._last_sent = time.monotonic()
        return sent

    # -------------------------------------------------------------------------------------------- on the I/O thread

    def turn(self, *, readable: bool) -> bool:
        """Do what there is to do; answer whether the connection goes on. Any error ends it."""
        # A process that was suspended, or a loop that was held up, must read what lies in the socket before it judges.
        if readable or self._tls or self._unread or 0 < self._heartbeat_seconds * 2 < self._silence:
            self._read()
        while self._calls:
            self._guarded(self._calls.popleft())
        waiting = self._flush()
        if self._broken is not None:
            self._read_last_words()
            raise self._broken
        if self._stopping and not waiting:
            return False
        self._check_time(readable=readable)
        return True

    def beat(self) -> None:
        """Send a heartbeat if nothing else has left for half the interval; from any thread."""
        if time.monotonic() - self._last_sent >= self.beat_seconds and not self._full:
            self.send(self._heartbeat)

    def end(self, reason: BaseException | None) -> None:
        """Close the socket, and tell who waits."""
        with self._room:
            self._ended = True
            self._out.clear()
            self._out_bytes = 0
            self._room.notify_all()
            calls = list(self._calls)
            self._calls.clear()
        with contextlib.suppress(OSError):  # it is gone already, which is all that closing is for
            self._sock.close()
        for callback in calls:
            self._guarded(callback)
        self._guarded(lambda: self._on_end(reason))

    def pass_on(self, driver: Driver) -> bool:
        """Start the next driver, where there is to be one; then `driver` has nothing to do any more."""
        with self._lock:
            following = self._next
            if following is None or self._driver is not driver:
                return False
            self._driver, self._next = following, None
        following.start()
        return True

    @property
    def full(self) -> bool:
        """Whether the kernel did not take all, so that its having room again is an event."""
        return self._full

    @property
    def hurried(self) -> bool:
        """Whether `patience` may have become shorter since the last turn but one."""
        return self._unread or self._deadline is not None

    def _read(self) -> None:
        """Read what the kernel, and the TLS library, have at the moment; not for ever, others wait for their turn."""
        self._unread = False
        for _ in range(READS_PER_TURN):
            try:
                if self._tls:
                    with self._lock:
                        data = self._sock.recv(self._read_bytes)
                else:
                    data = self._sock.recv(self._read_bytes)
            except _TRY_LATER:
                return
            if not data:
                raise ConnectionResetError("the broker closed the socket")
            self._last_received = time.monotonic()
            size = len(data)
            self._on_data(data)
            if self._stopping:  # what follows a goodbye is not for us
                return
            if size == self._read_bytes:
                self._read_bytes = min(size * 2, READ_MAX_BYTES)
            elif not self._tls:  # a plain socket that filled less than asked is empty
                if size * 8 < self._read_bytes and self._read_bytes > READ_MIN_BYTES:
                    self._read_bytes //= 2
                return
        self._unread = True

    def _read_last_words(self) -> None:
        """A write failed: what the broker said before it closed (connection.close) may still be unread."""
        with contextlib.suppress(OSError):  # then there are no last words
            self._read()

    def _flush(self) -> bool:
        """Send what waits; answer whether something is left."""
        if not self._out:
            return False
        with self._lock:
            self._send_waiting()
            return self._full

    def _send_waiting(self) -> None:
        """Send what waits until nothing does, or the kernel takes nothing more; the lock is held."""
        out = self._out
        while out:
            data = out.popleft()
            if out and len(data) < WRITE_PIECE_BYTES:
                pieces, size = [data], len(data)
                while out and size < WRITE_PIECE_BYTES:
                    pieces.append(out.popleft())
                    size += len(pieces[-1])
                data = b"".join(pieces)
            sent = self._try_send(data)
            self._out_bytes -= sent
            if sent < len(data):
                out.appendleft(memoryview(data)[sent:])
                if sent == 0:
                    break
        self._full = bool(out)
        if self._out_bytes <= BUFFER_LIMIT_BYTES:
            self._room.notify_all()

    @property
    def patience(self) -> float | None:
        """How long to sleep when nothing happens, seconds; None for ever."""
        if self._calls or self._unread:
            return 0
        moments = [] if self._deadline is None else [self._deadline]
        if self._heartbeat_seconds:
            moments += (
                self._last_sent + self._heartbeat_seconds / 2,
                self._last_received + self._heartbeat_seconds * 2,
            )
        return max(min(moments) - time.monotonic(), 0) if moments else None

    def _check_time(self, *, readable: bool) -> None:
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            raise TimeoutError("the broker did not answer our goodbye")
        interval = self._heartbeat_seconds
        if not interval:
            return
        # A turn in which something was readable proves nothing is lost.
        if not readable and self._silence > interval * 2:
            raise TimeoutError(
                f"nothing was heard from the broker for {self._silence:.1f} s (heartbeat {interval:g} s)"
            )
        if now - self._last_sent >= interval / 2:
            if self._out:  # the broker does not read; one more heartbeat would not help
                self._last_sent = now
            else:
                self.send(self._heartbeat)
                self._flush()

    @property
    def _silence(self) -> float:
        """How long nothing was received, seconds."""
        return time.monotonic() - self._last_received

    def _guarded(self, callback: Callable[[], object]) -> None:
        """Run foreign code: an error in it must not end the connection of everyone else."""
        try:
            callback()
        except Exception:
            logger.exception("a callback on the connection's thread failed")


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else ConnectionResetError(str(error))
