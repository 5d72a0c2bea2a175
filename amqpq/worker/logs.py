"""Logging of a worker and its children: one handler on standard error, one line per event. Only the command line asks for it.

Each line says when, how grave, which worker and process, and, where it is about a message or written by a running task, its
task, id, queue and attempt. As text, or as JSON: one object per line, with the keys of `amqpq.log` without their prefix.

Passwords in URLs are masked in every line, the user's own included: an exception of a database driver shows its URL, too.

A worker and its children share standard error. Where that is a pipe, the kernel keeps a write of more than `PIPE_BUF`
bytes in one piece only if nobody else writes meanwhile (pipe(7)), and a traceback is easily longer. So they take turns by
a lock on a file that they inherit. A process that does not let go in time (stopped by a debugger) is not waited for:
mingled lines are better than a worker that hangs.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from amqpq import log
from amqpq.errors import ConfigurationError

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FORMATS: Final = ("text", "json")

TURN_SECONDS: Final = 0.25
"""How long a line waits for its turn."""
PAUSE_SECONDS: Final = 0.001

_URL_PASSWORD: Final = re.compile(r"(://[^\s/:@]*):[^\s'\",]*@")
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; all others are fields."""
_KEYS: Final = tuple(log.MessageKeys.__annotations__)
_PREFIX: Final = "amqpq_"


@dataclass(frozen=True, slots=True)
class LogPlan:
    """How a worker and its children log. `lock` is the descriptor of the file that they lock; None: nobody takes turns."""

    level: str = "info"
    format: str = "text"
    worker: str = ""
    lock: int | None = None


PLAIN: Final = LogPlan()


def choose_log(level: str, form: str) -> tuple[str, str]:
    """Return level and format as the rest takes them.

    Raises:
        ConfigurationError: There is no such level or format.
    """
    if level.lower() not in LEVELS:
        raise ConfigurationError(f"-l {level}: use {', '.join(LEVELS)}")
    if form.lower() not in FORMATS:
        raise ConfigurationError(f"--logformat {form}: use {', '.join(FORMATS)}")
    return level.lower(), form.lower()


def shared_lock() -> int:
    """Return the descriptor of a file to take turns by; it has no name, and goes with the last process that has it."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def configure(plan: LogPlan) -> None:
    """Send the log of this process to standard error, from the plan's level on.

    A program that has set up logging keeps its handlers; they are given the fields.
    """
    root = logging.getLogger()
    stamp = WorkerStamp(plan.worker)
    if root.handlers:
        for handler in root.handlers:
            handler.addFilter(stamp)
        return
    handler = WholeLines(2, plan.lock)
    handler.addFilter(stamp)
    handler.setFormatter(JsonFormatter() if plan.format == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(plan.level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_error


class WorkerStamp(log.Stamp):
    """Gives each record the worker's name, besides what the running task says."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def __eq__(self, other: object) -> bool:
        """Whether it says the same; a handler takes no filter twice."""
        return isinstance(other, WorkerStamp) and other._worker == self._worker

    def __hash__(self) -> int:
        """As the worker's name."""
        return hash(self._worker)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the keys."""
        super().filter(record)
        record.__dict__.setdefault("amqpq_worker", self._worker)
        return True


def masked(text: str) -> str:
    """Return the text with the passwords of URLs replaced by `***`."""
    return _URL_PASSWORD.sub(r"\1:***@", text) if "://" in text else text


class TextFormatter(logging.Formatter):
    """`[time level pid worker] logger: task[id]: message`; task and id where a task writes."""

    def __init__(self) -> None:
        super().__init__(
            "[%(asctime)s %(levelname)s %(process)d %(amqpq_worker)s] %(name)s: %(amqpq_subject)s%(message)s"
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines where there is a traceback."""
        fields = record.__dict__
        ours = record.name.partition(".")[0] == log.ROOT  # says itself what it is about
        task = None if ours else fields.get("amqpq_task")
        fields["amqpq_subject"] = f"{task}[{fields.get('amqpq_task_id')}]: " if task else ""
        fields.setdefault("amqpq_worker", "")
        return masked(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object per line: `time`, `level`, `logger`, `message`, `pid`, the keys of `amqpq.log`, `extra`, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        fields = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
        line.update({key.removeprefix(_PREFIX): fields.pop(key) for key in _KEYS if key in fields})
        fields.pop("amqpq_subject", None)
        if fields:
            line["extra"] = fields
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            line["exception"] = {
                "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
                "message": _text(error),
                "traceback": self.formatException(record.exc_info),
            }
        if record.stack_info:
            line["stack"] = record.stack_info
        return masked(json.dumps(line, ensure_ascii=False, default=_text))


class WholeLines(logging.Handler):
    """Writes each line in one piece, whoever else writes to the same place.

    Args:
        descriptor: Where to.
        lock: The file by which processes take turns.
    """

    def __init__(self, descriptor: int, lock: int | None = None) -> None:
        super().__init__()
        self._descriptor = descriptor
        # A file keeps each write in one piece by itself: writers share its offset, or append.
        self._lock = None if stat.S_ISREG(os.fstat(descriptor).st_mode) else lock

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            data = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            with self._turn():
                while data:
                    data = data[os.write(self._descriptor, data) :]
        except Exception:  # noqa: BLE001 - logging's own way with errors, which depends on logging.raiseExceptions
            self.handleError(record)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        taken = self._lock is not None and _take(self._lock)
        try:
            yield
        finally:
            if taken and self._lock is not None:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)


def _take(lock: int) -> bool:
    """Lock the file for this process; False where another one holds it for too long."""
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_SECONDS)
        else:
            return True


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be shown must not cost the line
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread is not None else "a thread"
    logging.getLogger(log.WORKER).error(
        "%s ended with an error", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )


def to_file(path: str) -> None:
    """Send standard output and standard error of this process, and of the children to come, to the end of a file.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        # Appending: children and a log rotation by copying and truncating both rely on it.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as error:
        raise ConfigurationError(f"--logfile {path}: {error.strerror}") from error
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
