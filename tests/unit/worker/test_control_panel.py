"""The pure part of remote control: which command, with which arguments, for whom, and what is remembered as revoked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from amqpq.clock import ManualClock
from amqpq.errors import Undecodable
from amqpq.message.control import Request, mailbox_queue, read_request, read_revocation, reply_queue, write_revocation
from amqpq.worker.control.commands import ALLOWED, COMMANDS, Access, find, read_arguments
from amqpq.worker.control.events import NOT_TOLD, ending
from amqpq.worker.control.lamport import LamportClock
from amqpq.worker.control.panel import answer, is_for
from amqpq.worker.control.revoked import DEFAULT_SECONDS, Revoked
from amqpq.worker.control.surface import Refused
from amqpq.worker.control.view import signal_number
from amqpq.worker.work import Finished


class Surface:
    """A worker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **named: Any) -> Any:
            self.told.append((name, *arguments, *named.values()))
            return {"resize": 3, "terminate": ["a"], "autoscale": (8, 2), "add_queue": True, "send_events": True}.get(
                name
            )

        return note


def ask(method: str, *, signed: bool = True, rule: str = "signed", **arguments: Any) -> tuple[Any, list[Any]]:
    """Put a command to a worker; return the answer and what reached the worker."""
    surface = Surface()
    found = answer(Request(method, arguments), surface, signed=signed, rule=rule)
    return found.value, surface.told


def test_celerys_arguments_reach_the_worker() -> None:
    """Each command acts with what Celery's tools send."""
    assert ask("pool_grow", n=2) == ({"ok": "pool will grow to 3"}, [("resize", 2)])
    assert ask("pool_shrink") == ({"ok": "pool will shrink to 3"}, [("resize", -1)])
    assert ask("autoscale", max=8, min=2) == ({"ok": "autoscale now max=8 min=2"}, [("autoscale", 8, 2)])
    assert ask("revoke", task_id="a")[1] == [("revoke", ["a"])]
    assert ask("revoke", task_id=["a", "b"], terminate=True, signal="KILL")[1] == [
        ("revoke", ["a", "b"]), ("terminate", ["a", "b"], "KILL"),
    ]  # fmt: skip
    assert ask("terminate", task_id=["a"], signal="TERM")[1] == [("revoke", ["a"]), ("terminate", ["a"], "TERM")]
    assert ask("time_limit", task_name="a", hard=60, soft=50.5)[1] == [("limit_time", "a", 60, 50.5)]
    assert ask("time_limit", task_name="a", hard=None, soft=0)[1] == [("limit_time", "a", None, None)]
    assert ask("time_limit", task_name="a", soft="long")[0] == {
        "error": "time_limit: soft is a number of seconds, or 0 for none, not 'long'"
    }
    queue: dict[str, Any] = {"queue": "q", "exchange": None, "exchange_type": "", "routing_key": None}
    assert ask("add_consumer", **queue) == ({"ok": "add consumer q"}, [("add_queue", "q")])
    assert ask("disable_events") == ({"ok": "task events disabled"}, [("send_events", False)])


@pytest.mark.parametrize("method", ["rate_limit", "revoke_by_stamped_headers", "pool_restart"])
def test_what_cannot_be_done_is_answered_with_the_reason(method: str) -> None:
    """An error, as Celery writes errors, and nothing happens."""
    value, told = ask(method)
    assert set(value) == {"error"}
    assert told == []


def test_an_unknown_command_and_a_typing_error_are_explained() -> None:
    """The answer names what was probably meant, or what the command takes."""
    assert ask("pool_growth")[0] == {"error": "no such control command: 'pool_growth' (did you mean 'pool_grow'?)"}
    assert ask("pool_grow", count=2)[0] == {"error": "pool_grow: unknown argument 'count'; it takes n"}
    assert ask("revoke")[0] == {"error": "revoke: task_id is missing"}
    assert ask("pool_grow", n="2")[0] == {"error": "pool_grow: n is a whole number from 1 to 1000, not '2'"}
    assert ask("pool_grow", n=-1)[1] == []
    assert ask("revoke", task_id=[1])[1] == []


@pytest.mark.parametrize("rule", sorted(ALLOWED))
@pytest.mark.parametrize("method", sorted(COMMANDS))
def test_an_unsigned_command_goes_as_far_as_the_file_says(rule: str, method: str) -> None:
    """Ping always, looking with `inspect`, acting with `unsigned` only; a signed one is never stopped."""
    access = COMMANDS[method].access
    allowed = {"signed": Access.PING, "inspect": Access.LOOK, "unsigned": Access.ACT}[rule]
    value, told = ask(method, signed=False, rule=rule)
    refused = isinstance(value, dict) and "must be signed" in str(value.get("error"))
    assert refused is (access > allowed)
    assert not (refused and told)
    assert "must be signed" not in str(ask(method, signed=True, rule=rule)[0])


def test_only_inspections_are_looks() -> None:
    """Whatever changes a worker needs the right to act."""
    acting = {command.name for command in COMMANDS.values() if command.access is Access.ACT}
    assert {"revoke", "terminate", "shutdown", "pause", "add_consumer", "enable_events", "pool_grow"} <= acting
    assert {command.name for command in COMMANDS.values() if command.access is Access.PING} == {"ping"}


def test_every_command_of_celery_is_known() -> None:
    """So that none of its tools hears that there is no such command, but for its debugging aids."""
    control = pytest.importorskip("celery.worker.control")
    missing = set(control.Panel.data) - set(COMMANDS)
    assert missing == {"election", "memdump", "memsample", "objgraph"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request("ping"), True),
        (Request("ping", destination=("w1@test", "w2@test")), True),
        (Request("ping", destination=("w2@test",)), False),
        (Request("ping", pattern="w*@test", matcher="glob"), True),
        (Request("ping", pattern="W*", matcher="glob"), False),
        (Request("ping", pattern="*" * 300, matcher="glob"), False),
    ],
)
def test_a_request_is_for_those_it_names(request_: Request, expected: bool) -> None:
    """By destination, by pattern, else for all."""
    assert is_for(request_, "w1@test") is expected


def test_a_regular_expression_from_the_network_is_not_matched() -> None:
    """It could keep the worker's thread busy for ever."""
    with pytest.raises(Refused, match="not supported"):
        is_for(Request("ping", pattern="(a+)+$", matcher="pcre"), "w1@test")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"method": 1},
        {"method": "ping", "arguments": []},
        {"method": "ping", "destination": "w1@test"},
        {"method": "ping", "destination": [1]},
        {"method": "ping", "ticket": 1},
        {"method": "ping", "reply_to": "me"},
        {"method": "ping", "reply_to": {"exchange": "", "routing_key": "default"}},
        {"method": "ping", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": 1}},
    ],
)
def test_what_is_no_request_is_refused(value: dict[str, Any]) -> None:
    """With the field named, and never with another exception."""
    with pytest.raises(Undecodable, match="control message"):
        read_request(value)


def test_unknown_commands_are_found_by_find_alone() -> None:
    """`find` and `read_arguments` raise only what an answer can say."""
    with pytest.raises(Refused):
        find("")
    with pytest.raises(Refused):
        read_arguments(COMMANDS["revoke"], {"task_id": ["a"], "x" * 1000: 1})


def test_the_queues_are_ones_that_every_version_takes() -> None:
    """Exclusive, since RabbitMQ 4.3 refuses transient queues that are not; they vanish with their owner."""
    for spec in (mailbox_queue("w1@test"), reply_queue("me")):
        assert spec.exclusive
        assert not spec.durable
        assert spec.auto_delete
        assert spec.arguments["x-expires"] == 10_000


# ------------------------------------------------------------------------------------------------------------- revoked


def test_an_id_is_forgotten_when_its_time_is_over() -> None:
    """Until then it counts, however often it is asked for; it is never remembered shorter than somebody said."""
    clock = ManualClock()
    revoked = Revoked(clock.time)
    assert revoked.add(["a", "b"], clock.time() + 60) == ["a", "b"]
    assert revoked.add(["a"], clock.time() + 10) == []
    clock.advance(59)
    assert "a" in revoked
    assert revoked.ids() == ["a", "b"]
    clock.advance(1)
    assert "a" not in revoked
    assert revoked.ids() == []
    assert revoked.add(["late"], clock.time() - 1) == []


def test_without_a_time_it_is_a_week() -> None:
    """Longer than Celery's three hours, and not for ever."""
    clock = ManualClock()
    revoked = Revoked(clock.time)
    revoked.add(["a"])
    clock.advance(DEFAULT_SECONDS - 1)
    assert "a" in revoked
    clock.advance(1)
    assert "a" not in revoked


def test_the_memory_is_bounded() -> None:
    """The one revoked longest ago goes first; what is no id does not come in at all."""
    revoked = Revoked(ManualClock().time, capacity=3)
    revoked.add(["a", "b", "c", "d"])
    assert revoked.ids() == ["b", "c", "d"]
    revoked.add(["x" * 1000])
    assert len(revoked) == 3
    assert not Revoked(ManualClock().time)


@pytest.mark.parametrize(
    "entry",
    [
        {"method": "mark", "mark": "m"},
        {"method": "revoke", "ids": "a", "until": 1.0},
        {"method": "revoke", "ids": [1], "until": 1.0},
        {"method": "revoke", "ids": ["a"], "until": True},
        {"method": "revoke", "ids": ["a"]},
    ],
)
def test_an_entry_of_another_kind_revokes_nothing(entry: dict[str, Any]) -> None:
    """What is written is read again; all else is passed over."""
    assert read_revocation(entry) is None
    assert read_revocation(write_revocation(["a"], 5.0)) == (["a"], 5.0)


# -------------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("happened", "again", "kind"),
    [
        ("succeeded", False, "task-succeeded"),
        ("failed", False, "task-failed"),
        ("failed", True, "task-retried"),
        ("retried", True, "task-retried"),
        ("overran", False, "task-failed"),
        ("crashed", True, "task-retried"),
        ("crashed", False, "task-failed"),
        ("refused", False, "task-rejected"),
        ("expired", False, "task-revoked"),
        ("revoked", False, "task-revoked"),
    ],
)
def test_every_end_has_its_event(happened: str, again: bool, kind: str) -> None:
    """With the fields that Celery's monitors read."""
    told = ending(Finished(1, happened, "t", 2.0, reason="why", traceback="x" * 100_000), again=again)
    assert told is not None
    assert told[0] == kind
    assert len(str(told[1])) < 10_000
    if kind == "task-succeeded":
        assert told[1] == {"result": NOT_TOLD, "runtime": 2.0}


def test_what_is_only_put_off_has_none() -> None:
    """A task that is not due, or goes back, has not ended."""
    for happened in ("early", "untouched", "cut-off"):
        assert ending(Finished(1, happened), again=True) is None


def test_the_logical_clock_is_never_behind_and_takes_no_nonsense() -> None:
    """A Lamport clock; a huge value would break those that read JSON numbers as floats."""
    clock = LamportClock()
    clock.adjust(41)
    assert clock.forward() == 43
    odd: Sequence[object] = (2**80, -1, "9", True, None)
    for value in odd:
        clock.adjust(value)
    assert clock.value == 43


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("sigkill", 9), ("15", 15)])
def test_signals_have_names_and_numbers(name: str, number: int) -> None:
    """As `kill` takes them; what is none is refused with the remedy."""
    assert signal_number(name) == number
    with pytest.raises(Refused, match="kill -l"):
        signal_number("BANG")
