"""`amqpq topology import` and `export`: files, standard input and output, and where remarks go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.topology import load

DEFINITIONS = json.dumps(
    {
        "exchanges": [{"name": "web", "type": "topic"}],
        "queues": [{"name": "q", "arguments": {"x-message-ttl": 5000}}, {"name": "amq.gen-1"}],
        "bindings": [{"source": "web", "destination": "q", "destination_type": "queue", "routing_key": "web.#"}],
    }
)


def amqpq(*arguments: str, text: str | None = None) -> Result:
    """Run the command line."""
    return CliRunner().invoke(main, ["topology", *arguments], input=text)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with definitions and a topology file, and nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("AMQPQ_TOPOLOGY", "AMQPQ_BROKER_URL", "AMQPQ_MANAGEMENT_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "definitions.json").write_text(DEFINITIONS)
    (tmp_path / "topology.yaml").write_text(
        "amqpq: 1\nproject: shop\nqueues: {default: {}}\nbroker: {url: 'amqp://localhost/shop'}\n"
    )
    return tmp_path


def test_definitions_become_yaml_on_standard_output() -> None:
    """What could not be held goes to standard error, so that the output is a topology file."""
    result = amqpq("import", "definitions", "definitions.json", "--project", "shop")
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["bindings"] == ["web[web.#] -> q"]
    assert "left out: queue 'amq.gen-1': the broker chose the name" in result.stderr
    assert "1 exchange, 1 queue, 1 binding; 2 remarks" in result.stderr


def test_definitions_come_from_standard_input_too(folder: Path) -> None:
    """And the file goes where -o says."""
    result = amqpq("import", "definitions", "-", "-o", "new.yaml", text=DEFINITIONS)
    assert (result.exit_code, result.stdout) == (0, "")
    assert load(folder / "new.yaml", environ={}).queues["q"].ttl_seconds == 5


def test_an_import_for_machines_has_the_remarks_in_it() -> None:
    """`--json` gives the file's data and the remarks; nothing is said beside it."""
    result = amqpq("import", "definitions", "definitions.json", "--json")
    told = json.loads(result.stdout)
    assert told["topology"]["queues"]["q"] == {"ttl": "5s", "dead_letter": "none"}
    assert [remark["kind"] for remark in told["remarks"]] == ["left out", "note"]
    assert result.stderr == ""


def test_a_mistake_is_one_line() -> None:
    """As with every command."""
    result = amqpq("import", "definitions", "-", text="nothing")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: this is not JSON")


def test_celery_settings_become_yaml(folder: Path) -> None:
    """With routes, which Celery's settings have and a broker has not."""
    (folder / "celeryconfig.py").write_text("task_routes = {'a.*': 'q'}\n")
    result = amqpq("import", "celery", "celeryconfig.py", "--project", "shop", "-o", "new.yaml")
    assert result.exit_code == 0
    assert load(folder / "new.yaml", environ={}).route_for("a.x").key == "q"


def test_a_file_that_cannot_be_written_is_told() -> None:
    """By its name."""
    result = amqpq("export", "definitions", "-o", "nowhere/out.json")
    assert result.exit_code == 1
    assert "cannot write nowhere/out.json" in result.stderr


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("definitions", '{\n  "exchanges"'),
        ("asyncapi", '{\n  "asyncapi"'),
        ("kubernetes", "---\n"),
        ("terraform", "terraform {"),
    ],
)
def test_an_export_is_data_on_standard_output(kind: str, begins: str) -> None:
    """And what it leaves out on standard error."""
    result = amqpq("export", kind)
    assert result.exit_code == 0
    assert result.stdout.startswith(begins)
    assert ": " in result.stderr


def test_the_virtual_host_is_that_of_the_file() -> None:
    """Unless another is named."""
    assert "  vhost: shop\n" in amqpq("export", "kubernetes").stdout
    assert '  vhost = "other"\n' in amqpq("export", "terraform", "--vhost", "other").stdout


def test_a_broker_that_does_not_answer_is_told() -> None:
    """With where it was looked for."""
    result = amqpq("import", "live", "--management", "http://127.0.0.1:9", "--timeout", "5s")
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stderr
