"""What a worker's log lines carry, and what they do not."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from amqpq.errors import ConfigurationError
from amqpq.log import MessageKeys, context, get_task_logger, task_logger
from amqpq.worker.logs import JsonFormatter, LogPlan, TextFormatter, WholeLines, WorkerStamp, choose_log, shared_lock

FIELDS: MessageKeys = {
    "amqpq_task": "shop.add",
    "amqpq_task_id": "1f0c",
    "amqpq_queue": "default",
    "amqpq_attempts": 2,
    "amqpq_worker": "w1@h",
}


@pytest.fixture
def _running() -> Iterator[None]:
    token = context.set(FIELDS)
    yield
    context.reset(token)


def record(message: str, *args: object, name: str = "shop.tasks", **more: Any) -> logging.LogRecord:
    """A record as a logger makes one."""
    made = logging.getLogger(name).makeRecord(
        name, logging.WARNING, __file__, 1, message, args, more.pop("exc_info", None), extra=more or None
    )
    made.created = 1_700_000_000.25
    WorkerStamp("w1@h").filter(made)
    return made


def as_object(made: logging.LogRecord) -> dict[str, Any]:
    """What a log pipeline reads."""
    line = JsonFormatter().format(made)
    assert "\n" not in line
    read: dict[str, Any] = json.loads(line)
    return read


def test_a_json_line_is_one_object_in_utc() -> None:
    """Time, level, logger, message, process and worker are always there."""
    assert as_object(record("sold %d\nof %s", 3, "ink")) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "shop.tasks",
        "message": "sold 3\nof ink",
        "pid": os.getpid(),
        "worker": "w1@h",
    }


@pytest.mark.usefixtures("_running")
def test_a_line_of_a_task_names_it() -> None:
    """In JSON with every key; in text with name and id before the message, but in our own lines, which say it themselves."""
    line = as_object(record("sold"))
    assert (line["task"], line["task_id"], line["queue"], line["attempts"], line["worker"]) == (
        "shop.add", "1f0c", "default", 2, "w1@h",
    )  # fmt: skip
    text = TextFormatter().format(record("sold"))
    assert text.endswith(f" WARNING {os.getpid()} w1@h] shop.tasks: shop.add[1f0c]: sold")
    assert TextFormatter().format(record("sold", name="amqpq.task")).endswith("w1@h] amqpq.task: sold")


def test_a_record_that_nobody_has_stamped_is_a_line_too() -> None:
    """Other handlers may use the formatter: the one that keeps the last words of a process does."""
    bare = logging.makeLogRecord({"name": "shop.tasks", "msg": "sold", "levelname": "INFO"})
    assert TextFormatter().format(bare).endswith("] shop.tasks: sold")


def test_fields_of_the_user_stand_apart() -> None:
    """They cannot overwrite ours, and what is no JSON is shown as text, whatever it does."""

    class Odd:
        def __str__(self) -> str:
            raise LookupError

    line = as_object(record("sold", time="noon", order=7, of={1}, odd=Odd()))
    assert line["time"] == "2023-11-14T22:13:20.250Z"
    assert line["extra"] == {"time": "noon", "order": 7, "of": "{1}", "odd": "<Odd: LookupError>"}


def test_an_exception_is_part_of_its_line() -> None:
    """With class, message and traceback."""
    line: dict[str, Any] = {}
    try:
        ["pen"].index("ink")
    except ValueError:
        line = as_object(record("failed", exc_info=sys.exc_info()))
    assert (line["exception"]["type"], line["exception"]["message"]) == ("ValueError", "'ink' is not in list")
    assert line["exception"]["traceback"].startswith("Traceback")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_passwords_in_urls_are_masked(formatter: logging.Formatter) -> None:
    """In messages, fields and tracebacks, the user's own as well."""
    made = record("")
    try:
        {"a": 1}["cannot reach postgres://shop:s3cret@db:5432/shop"]
    except KeyError:
        made = record("lost %s", "amqp://guest:s3cret@h/,amqps://a:s3c:r@et@b/", exc_info=sys.exc_info())
    made.__dict__["url"] = "redis://:s3cret@cache"
    line = formatter.format(made)
    assert "s3c" not in line
    assert "amqp://guest:***@" in line
    assert "postgres://shop:***@db:5432" in line


@pytest.mark.usefixtures("_running")
def test_a_task_logger_stamps_records_for_anybodys_handlers() -> None:
    """Programs that set up logging themselves get the fields, too; `get_task_logger` is the same."""
    seen: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger = task_logger("shop.stamped")
    assert get_task_logger("shop.stamped") is logger
    assert len(logger.filters) == 1
    logger.addHandler(Keep())
    logger.warning("sold")
    logger.warning("mine", extra={"amqpq_queue": "other"})
    assert [(each.__dict__["amqpq_task_id"], each.__dict__["amqpq_queue"]) for each in seen] == [
        ("1f0c", "default"),
        ("1f0c", "other"),
    ]


@pytest.mark.parametrize(
    ("level", "form", "sentence"),
    [("loud", "text", "-l loud: use debug"), ("info", "xml", "--logformat xml: use text, json")],
)
def test_levels_and_formats_that_do_not_exist_are_refused(level: str, form: str, sentence: str) -> None:
    """With those that do."""
    with pytest.raises(ConfigurationError, match=sentence):
        choose_log(level, form)
    assert choose_log("INFO", "JSON") == ("info", "json")
    assert LogPlan().format == "text"


def test_a_line_of_any_length_is_written_whole() -> None:
    """A pipe takes 64 KiB at a time; the handler goes on until the line is out, and never loses a letter."""
    ours, theirs = os.pipe()
    handler = WholeLines(theirs, shared_lock())
    writer = threading.Thread(target=lambda: handler.emit(record("x" * 300_000)))
    writer.start()
    read = b""
    while not read.endswith(b"\n"):
        read += os.read(ours, 65536)
    writer.join()
    assert read == b"x" * 300_000 + b"\n"
    os.close(ours)
    os.close(theirs)
