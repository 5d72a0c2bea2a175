from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from amqpq.cli import options
from amqpq.errors import ConfigurationError, TopologyError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a topology and a module, as the current one; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    (tmp_path / "topology.yaml").write_text("amqpq: 1\nproject: shop\nqueues:\n  default: {}\n")
    yield tmp_path
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


def module(folder: Path, name: str, *apps: str, more: str = "") -> None:
    """Write a module with Apps of those names."""
    lines = ["from amqpq import App", *(f'{app} = App("topology.yaml")' for app in apps), more]
    (folder / f"{name}.py").write_text("\n".join(lines) + "\n")


def test_the_options_arrive_by_their_names() -> None:
    """Each decorator gives the command its parameters."""
    seen: dict[str, object] = {}

    @click.command()
    @options.topology_option
    @options.json_option
    @options.app_option(required=False)
    def command(**values: object) -> None:
        seen.update(values)

    run = CliRunner().invoke(command, ["-t", "a.yaml", "-e", "prod", "--json", "-A", "shop"])
    assert run.exit_code == 0, run.output
    assert seen == {"topology_file": Path("a.yaml"), "environment": "prod", "as_json": True, "app_reference": "shop"}


def test_the_topology_file_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$AMQPQ_TOPOLOGY` is used where `-t` is not given."""
    seen: list[object] = []

    @click.command()
    @options.topology_option
    def command(topology_file: Path | None, environment: str | None) -> None:
        seen.extend((topology_file, environment))

    monkeypatch.setenv("AMQPQ_TOPOLOGY", "other.yaml")
    CliRunner().invoke(command, [])
    assert seen == [Path("other.yaml"), None]


def test_the_default_topology_is_in_this_folder(project: Path) -> None:
    """Without a name ./topology.yaml is loaded."""
    assert options.load_topology(None).project == "shop"
    assert options.load_topology(project / "topology.yaml").project == "shop"


def test_a_missing_topology_says_how_to_name_one(project: Path) -> None:
    """Without a file the error says where it looked and what to do."""
    (project / "topology.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"no topology file at topology.yaml; name one with -t"):
        options.load_topology(None)
    with pytest.raises(ConfigurationError, match="no topology file at nowhere.yaml$"):
        options.load_topology(Path("nowhere.yaml"))


def test_errors_in_the_topology_are_its_own(project: Path) -> None:
    """A broken file is reported as the topology reports it."""
    (project / "topology.yaml").write_text("amqpq: 1\nproject: shop\nqueus: {}\n")
    with pytest.raises(TopologyError, match="queues"):
        options.load_topology(None)


def test_the_app_called_app_is_found(project: Path) -> None:
    """A bare module name means its `app`, whatever other Apps are there."""
    module(project, "shop_one", "other", "app")
    assert options.load_app("shop_one") is sys.modules["shop_one"].app


def test_the_only_app_is_found(project: Path) -> None:
    """Without an `app` the only App of the module is taken, under whatever name, also under two."""
    module(project, "shop_two", "main", more="alias = main")
    assert options.load_app("shop_two") is sys.modules["shop_two"].main


def test_the_named_app_is_found(project: Path) -> None:
    """`module:attribute` names the App."""
    module(project, "shop_three", "app", "other")
    assert options.load_app("shop_three:other") is sys.modules["shop_three"].other


def test_several_apps_must_be_named(project: Path) -> None:
    """Among several Apps none is guessed; the error lists what to write."""
    module(project, "shop_four", "one", "two")
    with pytest.raises(ConfigurationError, match="several Apps, name one: shop_four:one, shop_four:two"):
        options.load_app("shop_four")


def test_a_module_without_an_app_says_so(project: Path) -> None:
    """A module in which nobody made an App is an error that says how to make one."""
    module(project, "shop_five")
    with pytest.raises(ConfigurationError, match=r"shop_five has no App; create one with `app = App"):
        options.load_app("shop_five")


def test_a_mistyped_attribute_gets_a_suggestion(project: Path) -> None:
    """An App's name that is nearly right is answered with the right one."""
    module(project, "shop_six", "orders")
    with pytest.raises(ConfigurationError, match="no attribute 'order'; did you mean 'orders'?"):
        options.load_app("shop_six:order")


def test_what_is_no_app_is_named(project: Path) -> None:
    """An attribute of another kind is an error that says which kind."""
    module(project, "shop_seven", "app", more="number = 7")
    with pytest.raises(ConfigurationError, match="has a int, not an App, at 'number'"):
        options.load_app("shop_seven:number")


def test_a_mistyped_module_gets_a_suggestion(project: Path) -> None:
    """A module's name that is nearly right is answered with the one in this folder."""
    module(project, "inventory_tasks", "app")
    with pytest.raises(ConfigurationError, match="no module 'inventory_task' .*; did you mean 'inventory_tasks'?"):
        options.load_app("inventory_task")


def test_an_import_that_fails_inside_the_module_shows_the_line_that_failed(project: Path) -> None:
    """The reference was right: what is shown is the traceback, from the person's own module on."""
    module(project, "shop_eight", "app", more="import no_such_dependency")
    with pytest.raises(ConfigurationError) as caught:
        options.load_app("shop_eight")
    text = str(caught.value)
    assert text.startswith("-A shop_eight: importing 'shop_eight' failed\nTraceback")
    assert text.endswith("ModuleNotFoundError: No module named 'no_such_dependency'")
    assert text.count("  File ") == 1
    assert "shop_eight.py" in text


@pytest.mark.parametrize("reference", ["", ":app", ".relative:app"])
def test_a_reference_without_a_module_is_explained(reference: str) -> None:
    """What is no dotted name is an error that shows the form."""
    with pytest.raises(ConfigurationError, match=r"expected MODULE\[:ATTRIBUTE\]"):
        options.load_app(reference)
