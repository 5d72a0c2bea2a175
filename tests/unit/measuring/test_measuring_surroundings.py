from __future__ import annotations

from pathlib import Path

import pytest

from amqpq.measuring.surroundings import (
    Surroundings,
    is_local,
    machine_busy,
    publish_rate,
    raised,
    remarks,
    share_in_use,
)
from amqpq.transport.url import Address


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.7", False), ("mq.example", False)],
)
def test_this_machine_is_known_by_its_name(host: str, local: bool) -> None:
    """A loopback address is this machine; what only DNS could tell is not asked."""
    assert is_local(Address(host=host)) is local


def test_a_quiet_broker_elsewhere_needs_no_remark() -> None:
    """Nothing is said of what is well, or cannot be seen."""
    assert remarks(Surroundings(local=False, cpus=8, others_per_second=2.0, alarms=())) == []
    assert remarks(Surroundings(local=False, cpus=8)) == []


def test_what_takes_its_share_is_said() -> None:
    """An alarm, the messages of others, and a broker on the same machine."""
    seen = Surroundings(local=True, cpus=2, others_per_second=1234.0, alarms=("memory on rabbit@a",))
    alarm, others, here = remarks(seen)
    assert "the broker has an alarm: memory on rabbit@a" in alarm
    assert "others publish about 1,234 messages/s" in others
    assert "both share its 2 CPUs" in here


def test_what_the_management_api_says_is_read() -> None:
    """The rate and the alarms are where RabbitMQ has them."""
    assert publish_rate({"message_stats": {"publish": 7, "publish_details": {"rate": 12.5}}}) == 12.5
    nodes = [
        {"name": "rabbit@a", "mem_alarm": True, "disk_free_alarm": False},
        {"name": "rabbit@b", "disk_free_alarm": True},
    ]
    assert raised(nodes) == ("memory on rabbit@a", "disk space on rabbit@b")


@pytest.mark.parametrize("answer", [None, [], {}, {"message_stats": {}}, {"message_stats": {"publish_details": {}}}])
def test_a_broker_that_gathers_no_statistics_has_no_rate(answer: object) -> None:
    """It is not known then, and no error."""
    assert publish_rate(answer) is None


def test_the_machine_says_how_busy_it_is() -> None:
    """Idle and waiting for a disk is not busy; user, nice, system, interrupts and stolen time are."""
    before = "cpu  100 10 50 1000 20 0 5 5 0 0\ncpu0 ..."
    after = "cpu  130 20 60 1040 30 0 5 5 0 0\ncpu0 ..."
    assert share_in_use(before, after) == pytest.approx(0.5)
    assert share_in_use(before, before) is None


def test_a_machine_that_does_not_tell_is_not_said_to_be_busy(tmp_path: Path) -> None:
    """There is no such file outside Linux."""
    assert machine_busy(tmp_path / "stat", 0) is None
