"""`amqpq topology lock`: what it keeps and compares, what it prints, and what other commands say of a stale lock. No broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import amqpq
from amqpq.topology import load

TEXT = """\
amqpq: 1
project: shop
variables: {URL: {type: secret, from: "env:SHOP_URL", default: "amqp://guest:guest@localhost:5672/"}}
broker: {url: "${URL}"}
queues:
  web: {ttl: 1h}
  mail: {}
routes:
  "mail.*": {queue: mail}
  "*": {queue: web}
environments:
  prod:
    queues: {web: {ttl: 2h}}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(topology_command: Callable[[str], Run]) -> Run:
    """Run `amqpq topology ...` in a folder with a topology file."""
    return topology_command(TEXT)


def rewrite(before: str, after: str) -> None:
    """Change the topology file."""
    path = Path("topology.yaml")
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def forge(key: str, value: str) -> None:
    """Change the lock as if another amqpq had filled in another default."""
    path = Path("amqpq.lock")
    lock = json.loads(path.read_text(encoding="utf-8"))
    lock["projects"]["shop"]["base"]["objects"]["queue mail"]["default"][key] = value
    path.write_text(json.dumps(lock), encoding="utf-8")


def test_a_lock_is_written_beside_the_file_and_then_left_alone(run: Run) -> None:
    """With the version that resolved it. Where nothing is different nothing is written, not even a newer version."""
    first = run("lock")
    assert (first.exit_code, first.stdout, first.stderr) == (0, "", "amqpq.lock: project shop locked\n")
    text = Path("amqpq.lock").read_text(encoding="utf-8")
    assert json.loads(text)["projects"]["shop"]["base"]["amqpq"] == amqpq.__version__
    text = text.replace(amqpq.__version__, "0.0.1")
    Path("amqpq.lock").write_text(text, encoding="utf-8")
    second = run("lock")
    assert (second.exit_code, second.stderr) == (0, "amqpq.lock is what the file resolves to, project shop\n")
    assert Path("amqpq.lock").read_text(encoding="utf-8") == text


def test_the_lock_is_where_the_topology_file_is(run: Run, tmp_path: Path) -> None:
    """Not where the command runs."""
    (tmp_path / "deploy").mkdir()
    Path("topology.yaml").rename("deploy/shop.yaml")
    assert run("lock", "-t", "deploy/shop.yaml").exit_code == 0
    assert Path("deploy/amqpq.lock").is_file()
    assert not Path("amqpq.lock").exists()


def test_check_says_what_differs_and_who_says_it(run: Run) -> None:
    """Exit code 1, a line for each value, objects that come and go as a whole; nothing is written."""
    run("lock")
    forge("x-queue-type", "quorum")
    rewrite("ttl: 1h", "ttl: 90m")
    rewrite("  mail: {}", "  mail: {}\n  news: {}")
    rewrite('  "mail.*"', '  "news.*": {queue: news}\n  "mail.*"')
    before = Path("amqpq.lock").read_text(encoding="utf-8")
    result = run("lock", "--check")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "queue mail: x-queue-type 'quorum' -> 'classic'  (amqpq fills it in)",
        "queue news: new",
        "queue web: x-message-ttl 3600000 -> 5400000",
    ]
    assert result.stderr == (
        "amqpq.lock is stale, project shop: 3 differences; `amqpq topology lock` accepts what is now\n"
    )
    assert Path("amqpq.lock").read_text(encoding="utf-8") == before


def test_lock_accepts_what_is_now(run: Run) -> None:
    """It prints the same differences, writes, and the check is content."""
    run("lock")
    rewrite("ttl: 1h", "ttl: 90m")
    result = run("lock")
    assert (result.exit_code, result.stdout) == (0, "queue web: x-message-ttl 3600000 -> 5400000\n")
    assert result.stderr == "amqpq.lock: project shop locked, 1 difference\n"
    assert run("lock", "--check").exit_code == 0


def test_a_default_that_is_written_into_the_file_is_to_be_locked_too(run: Run) -> None:
    """No value differs; from then on it is the file's."""
    run("lock")
    rewrite("mail: {}", "mail: {type: classic}")
    result = run("lock", "--check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "only who says a value differs, the file or amqpq" in result.stderr


def test_each_environment_is_locked_for_itself(run: Run) -> None:
    """One does not change what is kept of another, and what was never locked is told as that."""
    run("lock")
    base = json.loads(Path("amqpq.lock").read_text(encoding="utf-8"))["projects"]["shop"]["base"]
    missing = run("lock", "-e", "prod", "--check")
    assert missing.exit_code == 1
    assert missing.stderr == (
        "amqpq.lock has nothing of project shop, environment prod; `amqpq topology lock -e prod` writes it\n"
    )
    assert run("lock", "-e", "prod").exit_code == 0
    shop = json.loads(Path("amqpq.lock").read_text(encoding="utf-8"))["projects"]["shop"]
    assert shop["base"] == base
    assert shop["environments"]["prod"]["objects"]["queue web"]["file"] == {"x-message-ttl": 7_200_000}
    assert run("lock", "--check").exit_code == 0


def test_lock_as_json(run: Run) -> None:
    """Every difference with its values, and whether anybody meant it."""
    assert json.loads(run("lock", "--json").stdout) == {
        "lock": "amqpq.lock",
        "project": "shop",
        "environment": None,
        "locked": False,
        "current": False,
        "written": True,
        "objects": 3,
        "differences": [],
    }
    forge("x-queue-type", "quorum")
    result = run("lock", "--check", "--json")
    shown = json.loads(result.stdout)
    assert (result.exit_code, shown["written"], shown["current"]) == (1, False, False)
    assert shown["differences"] == [
        {"address": "queue mail", "key": "x-queue-type", "before": "quorum", "after": "classic", "meant": False}
    ]


def test_a_file_with_errors_is_not_locked(run: Run) -> None:
    """All its errors are told, and no lock is made of half a file."""
    rewrite("queues:\n  web", "quees: {}\nqueues:\n  web")
    result = run("lock")
    assert result.exit_code == 1
    assert "unknown key 'quees'" in result.stderr
    assert not Path("amqpq.lock").exists()


def test_a_lock_that_cannot_be_read_is_not_overwritten(run: Run) -> None:
    """It may hold other environments, which this command does not know."""
    Path("amqpq.lock").write_text("<<<<<<< ours", encoding="utf-8")
    result = run("lock")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: amqpq.lock: it cannot be read (line 1")
    assert Path("amqpq.lock").read_text(encoding="utf-8") == "<<<<<<< ours"


def test_the_lock_holds_no_password(run: Run) -> None:
    """Only what is declared is part of it."""
    run("lock")
    assert "hunter2" not in Path("amqpq.lock").read_text(encoding="utf-8")


def test_lint_finds_the_default_that_changed(run: Run) -> None:
    """TOP064, until it is written into the file or accepted."""
    run("lock")
    assert run("lint", "--strict").exit_code == 0
    forge("x-queue-type", "quorum")
    result = run("lint", "--strict")
    assert result.exit_code == 1
    assert "topology.yaml:7:9: warning TOP064 x-queue-type of the queue 'mail' was quorum by amqpq" in result.stdout
    run("lock")
    assert run("lint", "--strict").exit_code == 0


@pytest.mark.parametrize("command", [["plan"], ["drift"], ["apply"]])
def test_a_stale_lock_is_a_remark_of_plan_drift_and_apply(run: Run, command: list[str]) -> None:
    """One line on standard error, and nothing is refused for it; a lock that holds is not spoken of."""
    unreachable = ["--timeout", "1ms"]
    run("lock")
    assert "amqpq.lock" not in run(*command, *unreachable).output
    rewrite("ttl: 1h", "ttl: 90m")
    result = run(*command, *unreachable)
    remark = "amqpq.lock is not what the file resolves to now: `amqpq topology lock --check` says in what"
    assert result.stderr.splitlines()[0] == remark
    Path("amqpq.lock").write_text("{", encoding="utf-8")
    assert run(*command, *unreachable).stderr.startswith("amqpq.lock: it cannot be read")


@pytest.mark.usefixtures("run")
def test_nobody_needs_a_lock() -> None:
    """A file with a broken one, or none, is loaded as ever."""
    assert load("topology.yaml", environ={}).project == "shop"
    Path("amqpq.lock").write_text("{", encoding="utf-8")
    assert load("topology.yaml", environ={}).project == "shop"
