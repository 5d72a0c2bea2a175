from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amqpq import config
from amqpq.cli import bench as bench_command
from amqpq.cli.main import main
from amqpq.errors import ConfigurationError
from amqpq.measuring import bench as benches
from amqpq.measuring import surroundings
from amqpq.testing.memory import MemoryBroker, memory_link
from amqpq.topology import Topology
from amqpq.transport.link import Link

TOPOLOGY = """\
amqpq: 1
project: shop
broker: {url: "amqp://mq.example/"}
security: {signing: {algorithm: ed25519, key: keys/shop.pem, key_id: shop}}
replies: {mode: direct}
queues: {default: {}}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `amqpq bench` in an empty folder; the broker is in memory, wherever it is said to be."""
    broker = MemoryBroker()
    links: list[Link] = []

    def link(topology: Topology, *, name: str = "") -> Link:
        assert config.addresses(topology)
        assert name == "amqpq bench"
        links.append(memory_link(broker))
        return links[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_BROKER_URL", raising=False)
    monkeypatch.delenv("AMQPQ_MANAGEMENT_URL", raising=False)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.setattr(config, "link", link)
    monkeypatch.setattr(benches, "BATCH_MESSAGES", 20)
    monkeypatch.setattr(surroundings, "machine_busy", lambda: 0.1)
    yield lambda *options: CliRunner().invoke(main, ["bench", *options])
    assert broker.queues() == {}
    for each in links:
        with pytest.raises(ConfigurationError, match="closed"):
            each.connection(1.0)


def test_the_report_as_data(run: Run) -> None:
    """`--json` has the broker, what was measured and how, the figures with their units in their names, and the verdict."""
    answer = run("--broker", "amqp://me:hidden@mq.example/", "--seconds", "0.1", "--json")
    assert answer.exit_code == 0, answer.output
    assert "hidden" not in answer.output
    data = json.loads(answer.stdout)
    assert list(data) == ["broker", "plan", "setting", "figures", "remarks", "verdict"]
    assert data["broker"]["addresses"] == ["amqp://me:***@mq.example:5672/"]
    assert set(data["figures"]["publish"]) == {"classic", "quorum"}
    assert set(data["figures"]["publish"]["classic"]["batch"]) == {
        "per_second", "slowest_per_second", "fastest_per_second", "cpu_us", "busy", "messages", "seconds",
    }  # fmt: skip
    assert set(data["figures"]["round_trip"]) == {"p50_ms", "p99_ms", "samples"}
    assert set(data["figures"]["signing"]["ed25519"]) == {"encode_us", "decode_us"}
    assert all(set(finding) == {"limit", "found", "advice"} for finding in data["verdict"])
    assert data["setting"]["reply_mode"] is None


def test_the_report_for_people(run: Run) -> None:
    """A line per measure with its unit; nothing but data on standard output, and no progress outside a terminal."""
    answer = run("--broker", "amqp://me:hidden@mq.example/", "--seconds", "0.1", "--payload", "64")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith(
        "amqpq in memory 3.13.7 at amqp://me:***@mq.example:5672/; 64 bytes a message\n\nMEASURE"
    )
    for line in ("network, there and back", "publish, in batches, quorum queue", "reply queues: declare to delete"):
        assert f"\n{line} " in answer.stdout
    assert "What limits:\n1. " in answer.stdout
    assert answer.stderr == ""


def test_the_broker_and_the_settings_come_from_the_topology(run: Run, tmp_path: Path) -> None:
    """What the file says of signatures and replies is judged with the figures. No key is needed."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    data = json.loads(run("--seconds", "0.1", "--json").stdout)
    assert data["broker"]["addresses"] == ["amqp://guest:***@mq.example:5672/"]
    assert data["setting"]["signing"] == "ed25519"
    assert data["setting"]["reply_mode"] == "direct"


def test_the_broker_comes_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No topology file is needed where the variable is set."""
    monkeypatch.setenv("AMQPQ_BROKER_URL", "amqp://one.example/ amqp://two.example/")
    data = json.loads(run("--seconds", "0.1", "--only", "round-trip", "--json").stdout)
    assert data["broker"]["addresses"] == ["amqp://guest:***@one.example:5672/", "amqp://guest:***@two.example:5672/"]
    assert data["plan"]["only"] == ["round-trip"]
    assert data["figures"]["publish"] == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "no broker to measure: give --broker URL, -t FILE or -A MODULE, or set $AMQPQ_BROKER_URL"),
        (("--broker", "mq.example"), "a broker URL begins with amqp:// or amqps://"),
        (("--broker", "amqp://a/", "-t", "x.yaml"), "by one of --broker, --app and --topology"),
        (("--broker", "amqp://a/", "-e", "live"), "-e goes with a topology"),
        (("--only", "publsh"), "there is no measure 'publsh'; did you mean 'publish'?"),
        (
            ("--only", "fsync"),
            "there is no measure 'fsync'; known are publish, round-trip, throughput, replies, signing",
        ),
        (("--seconds", "0"), "must be above 0 and at most 600 seconds"),
        (("--seconds", "20m"), "must be above 0 and at most 600 seconds"),
        (("--payload", "-1"), "-1 is not in the range"),
        (("-t", "nothing.yaml"), "no topology file at nothing.yaml"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: tuple[str, ...], words: str, run: Run) -> None:
    """With exit code 1 and what to do, before anything is asked of a broker."""
    answer = run(*options)
    assert answer.exit_code == 1
    assert words in answer.stderr


def test_the_broker_comes_from_an_application(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-A` names a module; its topology says where and with which settings."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    (tmp_path / "benched_tasks.py").write_text("from amqpq import App\n\napp = App('topology.yaml')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = json.loads(run("-A", "benched_tasks", "--seconds", "0.1", "--only", "signing", "--json").stdout)
    assert data["broker"]["addresses"] == ["amqp://guest:***@mq.example:5672/"]
    assert data["setting"]["signing"] == "ed25519"


def test_a_terminal_is_told_what_is_measured_now(capsys: pytest.CaptureFixture[str]) -> None:
    """On one line of standard error, which is empty again at the end, also of a run that fails."""

    def interrupted() -> None:
        with bench_command._progress(shown=True) as say:
            say("direct replies")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    said = capsys.readouterr()
    assert said.err == "\rmeasuring: direct replies\r"  # click takes the colours and erasures away where no terminal is
    assert said.out == ""
