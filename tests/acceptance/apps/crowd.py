"""Tasks for every pool. They wait for one another through files, which works between threads, greenlets and processes."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amqpq import App
from amqpq.errors import SoftTimeLimitExceeded
from amqpq.task import current_request

app = App("topology.yaml")


def _met(folder: str, name: str, count: int) -> bool:
    Path(folder, f"{name}.here").touch()
    return len(list(Path(folder).glob("*.here"))) >= count


@app.task(name="crowd.meet", bind=True)
def meet(self: Any, folder: str, name: str, count: int) -> list[str | None]:
    """Wait until so many are here at the same time; say whose message this is, before and after."""
    before = self.request.id
    while not _met(folder, name, count):
        time.sleep(0.01)
    time.sleep(0.01)
    request = current_request.get()
    return [name, before, self.request.id, request.id if request else None]


@app.task(name="crowd.meet_later", bind=True)
async def meet_later(self: Any, folder: str, name: str, count: int) -> list[str | None]:
    """Do the same in an event loop."""
    before = self.request.id
    while not _met(folder, name, count):  # noqa: ASYNC110 - the others may be in another process
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    request = current_request.get()
    return [name, before, self.request.id, request.id if request else None]


@app.task(name="crowd.rated", rate_limit="1000/s")
def rated(number: int) -> int:
    """Be held back a little."""
    return number


@app.task(name="crowd.add")
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task(name="crowd.add_later")
async def add_later(x: int, y: int) -> int:
    """Add, after a moment on an event loop, some of it on a thread."""
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: x + y)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hide that a function is `async def`, as a careless decorator does."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


@app.task(name="crowd.decorated")
@_plain
async def decorated(x: int) -> int:
    """Be a plain function that returns a coroutine."""
    await asyncio.sleep(0.01)
    return x


@app.task(name="crowd.boom")
def boom(text: str) -> None:
    """Raise."""
    raise LookupError(text)


@app.task(name="crowd.boom_later")
async def boom_later(text: str) -> None:
    """Raise on an event loop."""
    await asyncio.sleep(0)
    raise LookupError(text)


@app.task(name="crowd.who", bind=True)
def who(self: Any) -> dict[str, Any]:
    """Return what the request says."""
    request = self.request
    return {
        "id": request.id,
        "task": request.task,
        "args": list(request.args),
        "hostname": request.hostname,
        "queue": request.delivery_info["queue"],
        "root": request.root_id,
    }


@app.task(name="crowd.progress", bind=True, track_started=True)
def progress(self: Any, folder: str) -> str:
    """Report, wait, report from a thread of its own, wait, end."""
    self.update_state(meta={"done": 1})
    _wait_for(Path(folder, "one"))
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(self.update_state, state="HALFWAY", meta={"done": 2}))
    thread.start()
    thread.join()
    _wait_for(Path(folder, "two"))
    return "end"


def _begin(folder: str, name: str) -> None:
    Path(folder, f"{name}.begun").touch()


def _is_open(folder: str) -> bool:
    return Path(folder, "open").exists()


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


@app.task(name="crowd.big")
def big(size: int) -> str:
    """Return much."""
    return "x" * size


@app.task(name="crowd.odd")
def odd() -> object:
    """Return what nobody can send."""
    return object()


@app.task(name="crowd.leave")
def leave(how: str) -> None:
    """Raise what usually ends a program, a coroutine or a greenlet."""
    raise _LEAVING[how]


@app.task(name="crowd.leave_later")
async def leave_later(how: str) -> None:
    """Raise it in an event loop."""
    await asyncio.sleep(0)
    raise _LEAVING[how]


class GreenletExit(BaseException):
    """What `greenlet` calls it, where that is not installed."""


_LEAVING: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GreenletExit": getattr(sys.modules.get("greenlet"), "GreenletExit", GreenletExit),
}


@app.task(name="crowd.leave_behind")
async def leave_behind() -> str:
    """Have a background task of this one's own call `sys.exit`."""

    async def background() -> None:
        sys.exit(3)

    task = asyncio.create_task(background())
    await asyncio.wait([task])
    return "still here"


@app.task(name="crowd.cancel_self")
async def cancel_self() -> None:
    """Cancel the asyncio task that runs this one, and return."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@app.task(name="crowd.threads")
def threads(count: int) -> int:
    """Have threads do it."""
    done: list[int] = []
    started = [threading.Thread(target=done.append, args=(number,)) for number in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(done)


@app.task(name="crowd.log")
def log(text: str) -> None:
    """Write a line."""
    logging.getLogger("crowd").warning("said: %s", text)


@app.task(name="crowd.hold")
def hold(folder: str, name: str) -> str:
    """Say that it has begun, and wait until the test opens."""
    _begin(folder, name)
    _wait_for(Path(folder, "open"))
    return name


@app.task(name="crowd.hold_later")
async def hold_later(folder: str, name: str) -> str:
    """Do that in an event loop."""
    _begin(folder, name)
    while not _is_open(folder):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    return name


@app.task(name="crowd.spin")
def spin(folder: str, name: str) -> str:
    """Hold the interpreter until the test opens; yield to nobody."""
    _begin(folder, name)
    while not _is_open(folder):
        pass
    return name


@app.task(name="crowd.spin_later")
async def spin_later(folder: str, name: str) -> str:
    """Hold the event loop."""
    return spin(folder, name)


@app.task(name="crowd.tidy")
def tidy() -> str:
    """Clean up when told."""
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        return "tidy"
    return "not told"


@app.task(name="crowd.tidy_later")
async def tidy_later() -> str:
    """Clean up when told."""
    try:
        await asyncio.sleep(600)
    except SoftTimeLimitExceeded:
        return "tidy"
    return "not told"


@app.task(name="crowd.die")
def die(folder: str, name: str) -> None:
    """End the process that runs this, as a crash would."""
    Path(folder, f"{name}.died.{time.monotonic_ns()}").touch()
    os.abort()


@app.task(name="crowd.whoami")
def whoami() -> int:
    """Return the process that runs this."""
    return os.getpid()


@app.task(name="crowd.nap")
def nap(seconds: float, number: int) -> int:
    """Take a moment."""
    time.sleep(seconds)
    return number


@app.task(name="crowd.grip")
def grip(seconds: int) -> int:
    """Hold the interpreter's lock, as a C extension may that does not care."""
    return int(ctypes.PyDLL(None).sleep(seconds))


@app.task(name="crowd.spin_for")
def spin_for(seconds: float) -> float:
    """Yield to nobody for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


@app.task(name="crowd.spin_for_later")
async def spin_for_later(seconds: float) -> float:
    """Hold the event loop for so long."""
    return spin_for(seconds)


@app.task(name="crowd.relay")
def relay(x: int) -> str:
    """Call another task, as tasks do; return its id."""
    request = current_request.get()
    assert request is not None
    result = add.delay(x, 1)
    return str(result.id)


@app.task(name="crowd.relay_later")
async def relay_later(x: int) -> str:
    """Do that beside an event loop."""
    return await asyncio.to_thread(relay.function, x)


@app.task(name="crowd.chat", bind=True)
def chat(self: Any, count: int) -> str | None:
    """Write many lines."""
    for number in range(count):
        logging.getLogger("crowd").warning("line %d of %s", number, self.request.id)
    return str(self.request.id)


@app.task(name="crowd.chat_later", bind=True)
async def chat_later(self: Any, count: int) -> str | None:
    """Write many lines, with pauses."""
    for number in range(count):
        logging.getLogger("crowd").warning("line %d of %s", number, self.request.id)
        await asyncio.sleep(0)
    return str(self.request.id)
