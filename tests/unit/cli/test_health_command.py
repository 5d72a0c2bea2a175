from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.endpoint import Address
from amqpq.worker.endpoint import Endpoint
from amqpq.worker.vitals import Connections, Vitals

WELL = Vitals("w1@h", "working", 100.0, Connections("", ""), {"default": True}, "threads", pool_ready=True)

Asked = Callable[..., Result]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    """`asked(vitals, "--ready")` is what the command says of such a worker."""
    opened: list[Endpoint] = []

    def ask(vitals: Vitals, *options: str) -> Result:
        path = tmp_path / f"{len(opened)}.sock"
        opened.append(Endpoint(Address(path=str(path)), lambda: vitals, lambda: 101.0))
        return CliRunner().invoke(main, ["health", f"unix:{path}", *options])

    yield ask
    for endpoint in opened:
        endpoint.close()


@pytest.mark.parametrize(
    ("vitals", "options", "code", "words"),
    [
        (WELL, (), 0, "w1@h: ready"),
        (WELL, ("--ready",), 0, "w1@h: ready"),
        (replace(WELL, stage="draining"), (), 0, "w1@h: alive\n  the worker is draining"),
        (replace(WELL, stage="draining"), ("--ready",), 1, "the worker is draining"),
        (replace(WELL, taken=50.0), (), 1, "w1@h: not alive\n  the worker's loop has not turned for 51 s"),
        (replace(WELL, taken=50.0), ("--ready", "--json"), 1, '"live": false'),
    ],
)
def test_the_exit_code_is_what_probes_look_at(
    asked: Asked, vitals: Vitals, options: tuple[str, ...], code: int, words: str
) -> None:
    """And the words are for people."""
    answer = asked(vitals, *options)
    assert answer.exit_code == code, answer.output
    assert words in answer.output


def test_json_has_the_whole_picture(asked: Asked) -> None:
    """With `--ready`, too."""
    assert json.loads(asked(WELL, "--json").output)["queues"] == {"default": {"consumed": True}}
    assert json.loads(asked(WELL, "--ready", "--json").output)["stage"] == "working"


@pytest.mark.parametrize("address", ["1", "unix:/nobody/here.sock"])
def test_nobody_there_is_not_well(address: str) -> None:
    """Exit code 1, with the address."""
    answer = CliRunner().invoke(main, ["health", address])
    assert answer.exit_code == 1
    assert "nobody answers at" in answer.output


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a container says it once for worker and probe; without any the command says what is missing."""
    monkeypatch.setenv("AMQPQ_HEALTH", "127.0.0.1:1")
    assert "nobody answers at 127.0.0.1:1" in CliRunner().invoke(main, ["health"]).output
    monkeypatch.delenv("AMQPQ_HEALTH")
    assert "set $AMQPQ_HEALTH" in CliRunner().invoke(main, ["health"]).output


def test_what_answers_and_is_no_worker_is_not_well() -> None:
    """Another program has the port."""
    with socket.create_server(("127.0.0.1", 0)) as ears:

        def greet() -> None:
            caller, _ = ears.accept()
            with caller:
                caller.recv(4096)
                caller.sendall(b"220 mail.example.org\r\n\r\n")

        other = threading.Thread(target=greet)
        other.start()
        answer = CliRunner().invoke(main, ["health", str(ears.getsockname()[1])])
        other.join()
    assert answer.exit_code == 1
    assert "what answers there is no worker" in answer.output
