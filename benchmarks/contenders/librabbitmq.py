"""librabbitmq, the C client, both sides: the floor of any language. `librabbitmq.c` is built for each measurement.

The client is a shared library called in the driver's process, so that its time and its CPU are read like everybody's; the
worker is a program. Calls go through direct reply-to, `IN_FLIGHT` at once.

Options: `confirm` = "yes" waits for the confirms of all publishes, up to a thousand of them outstanding.

`$CC`, `$CFLAGS` and `$LDFLAGS` are honoured, for a library that is not where the compiler looks.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks import contender

SOURCE = Path(__file__).with_suffix(".c")
IN_FLIGHT = 500
"""Calls on their way at once; more bring nothing on two cores."""

REMEDY = "apt-get install gcc libc6-dev librabbitmq-dev"


def missing() -> str | None:
    """Return how to install what the build needs, or None where it is there."""
    if shutil.which(_compiler()) is None:
        return f"{_compiler()}, the C compiler, is not installed: {REMEDY}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        probe = Path(folder) / "probe.c"
        probe.write_text(
            "#include <amqp.h>\n#include <amqp_tcp_socket.h>\nint main(void) { return !amqp_version(); }\n"
        )
        done = _compiled(probe, Path(folder) / "probe")
    return None if done.returncode == 0 else f"librabbitmq's headers or library are not installed: {REMEDY}"


def version() -> str:
    """Return the library's version, or that there is none."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        probe = Path(folder) / "version.c"
        probe.write_text("#include <amqp.h>\n#include <stdio.h>\nint main(void) { return puts(amqp_version()) < 0; }\n")
        if shutil.which(_compiler()) is None or _compiled(probe, Path(folder) / "version").returncode != 0:
            return "(absent)"
        return subprocess.run([Path(folder) / "version"], capture_output=True, text=True, check=True).stdout.strip()


def _compiler() -> str:
    return shlex.split(os.environ.get("CC", "cc"))[0]


def _compiled(source: Path, target: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-O2", "-Wall"),
        *shlex.split(os.environ.get("CFLAGS", "")),
        *more,
        *("-o", str(target), str(source)),
        *shlex.split(os.environ.get("LDFLAGS", "")),
        "-lrabbitmq",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _build(target: Path, *more: str) -> Path:
    done = _compiled(SOURCE, target, *more)
    if done.returncode != 0:
        raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr}")
    return target


class Contender:
    """The client of `librabbitmq.c`; its worker is the same source as a program."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._program = _build(setting.folder / "librabbitmq-worker")
        self._client = ctypes.CDLL(str(_build(setting.folder / "librabbitmq-client.so", "-shared", "-fPIC")))
        body = contender.PAYLOAD.encode()
        confirm = setting.options.get("confirm") == "yes"
        words = [word.encode() if isinstance(word, str) else word for word in _address(setting.url)]
        self._checked("open", self._client.bench_open(*words, setting.queue.encode(), body, len(body), int(confirm)))

    def prepare(self) -> None:
        """Declare the queue."""
        self._checked("declare", self._client.bench_declare())

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command of the C worker."""
        words = [str(word) for word in _address(self._setting.url)]
        return [str(self._program), *words, self._setting.queue, str(contender.PREFETCH)], self._setting.environment()

    def publish(self, count: int) -> None:
        """Publish `count` persistent messages."""
        self._checked("publish", self._client.bench_publish(count))

    def collect(self, count: int) -> None:
        """Call `count` times through direct reply-to."""
        self._checked("collect", self._client.bench_collect(count, IN_FLIGHT))

    def round_trip(self) -> None:
        """Call once and wait for the reply."""
        self._checked("call", self._client.bench_collect(1, 1))

    def close(self) -> None:
        """Close the connection."""
        self._client.bench_close()

    def _checked(self, what: str, code: int) -> None:
        if code != 0:
            raise RuntimeError(f"librabbitmq: {what} failed; standard error says why")


def _address(url: str) -> tuple[str, int, str, str, str]:
    parts = urlsplit(url)
    return (
        parts.hostname or "localhost",
        parts.port or 5672,
        unquote(parts.path[1:]) or "/",
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
    )
