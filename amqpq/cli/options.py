"""Options that many commands share, and how they become a topology or an application."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback as tracebacks
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amqpq.errors import AmqpqError, ConfigurationError
from amqpq.topology import units

if TYPE_CHECKING:
    from amqpq.app import App
    from amqpq.topology import Topology

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_TOPOLOGY = "topology.yaml"


def duration(text: str | float) -> float:
    """Read seconds, as a number or with a unit: `90`, `1.5`, `10m`, `1h30m`."""
    if isinstance(text, int | float):
        return float(text)
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else units.seconds(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; a bare number is seconds") from error


def topology_option(command: Command) -> Command:
    """Add `-t/--topology FILE` and `-e/--environment ENV`: parameters `topology_file` and `environment`."""
    file_option = click.option(
        "-t",
        "--topology",
        "topology_file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="AMQPQ_TOPOLOGY",
        default=None,
        help="Topology file. [default: $AMQPQ_TOPOLOGY, else ./topology.yaml]",
    )
    environment_option = click.option(
        "-e",
        "--environment",
        "environment",
        metavar="ENV",
        default=None,
        help="Merge this entry of `environments:` over the file.",
    )
    return file_option(environment_option(command))


def json_option(command: Command) -> Command:
    """Add `--json`: parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(command)


def app_option(*, required: bool = True) -> Callable[[Command], Command]:
    """Add `-A/--app MODULE[:ATTRIBUTE]`: parameter `app_reference`.

    Args:
        required: whether the command runs task code and so cannot do without.
    """
    return click.option(
        "-A",
        "--app",
        "app_reference",
        metavar="MODULE[:ATTRIBUTE]",
        required=required,
        default=None,
        help="Where the application is: a module, and the App's name in it where there are several.",
    )


def load_topology(file: Path | None, environment: str | None = None) -> Topology:
    """Load the topology a command is about.

    Args:
        file: what `-t` named; None for `./topology.yaml`.
        environment: what `-e` named.

    Raises:
        ConfigurationError: there is no such file.
        TopologyError: the file has errors.
    """
    from amqpq.topology import load  # noqa: PLC0415 - pydantic and yaml load with it, and --help needs neither

    path = file or Path(DEFAULT_TOPOLOGY)
    if not path.is_file():
        remedy = "" if file else "; name one with -t FILE or $AMQPQ_TOPOLOGY"
        raise ConfigurationError(f"no topology file at {path}{remedy}")
    return load(path, environment=environment)


def load_app(reference: str) -> App:
    """Import the application that `module[:attribute]` names, as found from the current folder.

    Args:
        reference: a dotted module, and after a colon the App's name in it. Without the name: `app`, else the only App.

    Raises:
        ConfigurationError: there is no such module or App, or there are several to choose from.
    """
    from amqpq.app import App  # noqa: PLC0415 - the engine loads with it, and --help needs none of it

    module_name, _, attribute = reference.partition(":")
    module = _import(module_name, reference)
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if attribute:
        found = getattr(module, attribute, None)
        if isinstance(found, App):
            return found
        what = "has no attribute" if found is None else f"has a {type(found).__name__}, not an App, at"
        raise ConfigurationError(f"-A {reference}: {module_name} {what} {attribute!r}{_meant(attribute, apps)}")
    if "app" in apps:
        return apps["app"]
    distinct = {id(value): value for value in apps.values()}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if not distinct:
        raise ConfigurationError(f"-A {reference}: {module_name} has no App; create one with `app = App(...)`")
    names = ", ".join(f"{module_name}:{name}" for name in sorted(apps))
    raise ConfigurationError(f"-A {reference}: the module has several Apps, name one: {names}")


def _import(module_name: str, reference: str) -> ModuleType:
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(f"-A {reference}: expected MODULE[:ATTRIBUTE], as in `shop.tasks:app`")
    here = str(Path.cwd())
    if here not in sys.path:
        # A console script has its own folder on sys.path and not the current one, which is where a project's code is.
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise _failed_import(reference, module_name, error) from error  # something that the module imports
        meant = _meant(module_name.partition(".")[0], _modules_in(Path(here)))
        message = f"-A {reference}: there is no module {error.name!r} in {here} or installed{meant}"
        raise ConfigurationError(message) from error
    except AmqpqError:
        raise  # it says itself what is wrong
    except Exception as error:
        raise _failed_import(reference, module_name, error) from error


def _failed_import(reference: str, module_name: str, error: Exception) -> ConfigurationError:
    """Say what the module did wrong, with the part of the traceback that is the person's own code."""
    frames = error.__traceback__
    while frames is not None and (frames.tb_frame.f_code.co_filename == __file__ or _is_machinery(frames)):
        frames = frames.tb_next
    text = "".join(tracebacks.format_exception(type(error), error, frames)).rstrip()
    return ConfigurationError(f"-A {reference}: importing {module_name!r} failed\n{text}")


def _is_machinery(frames: TracebackType) -> bool:
    return str(frames.tb_frame.f_globals.get("__name__")).partition(".")[0] == "importlib"


def _modules_in(folder: Path) -> list[str]:
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return [*packages, *(path.stem for path in folder.glob("*.py"))]


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
