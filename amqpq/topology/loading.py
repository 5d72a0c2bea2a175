"""Loads a topology: from files or a mapping to a checked `Topology`, or to the list of everything that is wrong.

The steps, each noting its problems and going on: read (`sources`), lay the environment over, put variables in
(`variables`), check the shape (`shape`), refuse what is not built (`unbuilt`), build the values (`build`), lint (`lint`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from amqpq.errors import ConfigurationError, TopologyError
from amqpq.topology import build, lint, lockfile, shape, sources, unbuilt
from amqpq.topology.document import File, VariablePart
from amqpq.topology.lint import Suppressed
from amqpq.topology.lockfile import Lock, Locked
from amqpq.topology.model import Topology
from amqpq.topology.problems import Findings, Problem
from amqpq.topology.variables import Variables, check_declarations
from amqpq.yamlfile import Entry, Node, Place

URL_VARIABLE: Final = "AMQPQ_BROKER_URL"
MANAGEMENT_VARIABLE: Final = "AMQPQ_MANAGEMENT_URL"
"""Environment variable that overrides `broker.url`; several URLs are separated by spaces."""

_VARIABLES: Final = TypeAdapter(dict[str, VariablePart])


@dataclass(frozen=True, slots=True)
class Inspection:
    """A topology looked at: with all findings, and with the values where there are no errors."""

    topology: Topology | None
    problems: tuple[Problem, ...]
    suppressed: tuple[Suppressed, ...] = ()
    """What the file says is meant so."""
    fail_on: Literal["warning", "error"] = "error"
    """The least severity that lets lint fail."""
    file: File | None = None
    """The file as it was checked; None where nothing useful was in it."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The findings that keep the topology from being used."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def load(
    source: str | Path | Mapping[str, Any] | Sequence[str | Path],
    *,
    environment: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Topology:
    """Load a topology.

    Args:
        source: A file, several files that make up one topology, or a mapping of the same shape.
        environment: The overlay under `environments:` to use.
        environ: Where variables are looked up; default: the process's environment. `AMQPQ_BROKER_URL` in it overrides
            `broker.url`, `AMQPQ_MANAGEMENT_URL` overrides `broker.management`.

    Raises:
        TopologyError: The topology has errors; all of them are listed.
    """
    inspection = inspect(source, environment=environment, environ=environ)
    if inspection.topology is None:
        raise TopologyError([str(problem) for problem in inspection.errors])
    return inspection.topology


def inspect(
    source: str | Path | Mapping[str, Any] | Sequence[str | Path],
    *,
    environment: str | None = None,
    environ: Mapping[str, str] | None = None,
    rabbitmq: str | None = None,
    today: date | None = None,
) -> Inspection:
    """Look at a topology: like `load`, but with warnings, and errors as values.

    Args:
        source: As for `load`.
        environment: As for `load`.
        environ: As for `load`.
        rabbitmq: A version, `4.3`, to look at it for, instead of those under `requires:`.
        today: The day that suppressions are held against; default: today, in UTC.
    """
    findings, path = sources.gather(source)
    if findings.failed and not findings.root.value:
        return Inspection(None, tuple(findings.sorted()))  # nothing could be read
    base = path.resolve().parent if path is not None else Path.cwd()
    environ = os.environ if environ is None else environ
    others = [name for name in sources.environments(findings.root) if name != environment]
    before = copy.deepcopy(findings.root) if others else findings.root
    sources.overlay(findings, environment)
    for problem in (found for name in others for found in _other_environment(before, name, environ, base)):
        findings.problems.append(problem)
    if rabbitmq is not None:
        _put(findings.root, ("requires", "rabbitmq"), f"=={rabbitmq}", "--rabbitmq")
    values = _variables(findings, environ, base)
    url = values.environ.get(URL_VARIABLE, "").split()
    management = values.environ.get(MANAGEMENT_VARIABLE, "")
    if url:
        _remove(findings.root, "broker", "url")
    if management:
        _remove(findings.root, "broker", "management")
    literal = lint.secrets_in_clear(findings)
    values.substitute(findings)
    if url:
        _put(findings.root, ("broker", "url"), url, f"${URL_VARIABLE}")
    if management:
        _put(findings.root, ("broker", "management"), management, f"${MANAGEMENT_VARIABLE}")
    file = shape.validate(findings)
    topology = None
    if file is not None:
        unbuilt.refuse(file, findings)
        topology = build.build(file, findings, build.Origin(path, base, environment))
        locked = None if path is None else _locked(lockfile.beside(path), topology, findings)
        lint.run(lint.Context(file, topology, findings, locked))
    told = {(problem.place, problem.rule) for problem in findings.problems}
    findings.problems.extend(problem for problem in literal if (problem.place, problem.rule) not in told)
    day = today or datetime.now(UTC).date()
    problems, suppressed = _suppress(file, findings, day, as_written=rabbitmq is None)
    fail_on = file.lint.fail_on if file is not None else "error"
    return Inspection(None if findings.failed else topology, problems, suppressed, fail_on, file)


def read_lock(path: Path) -> Lock:
    """Read an `amqpq.lock`; an empty one where there is none.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return lockfile.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lock()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"it cannot be read: {error}") from error


def _locked(path: Path, topology: Topology, findings: Findings) -> Locked | None:
    """Return what the lock says of a topology; one that cannot be read keeps nobody from using the file."""
    try:
        return read_lock(path).entries.get((topology.project, topology.environment))
    except ConfigurationError as error:
        message, _, remedy = str(error).partition("; ")
        findings.problems.append(Problem(Place(str(path)), "TOP064", "warning", message, remedy))
        return None


def _suppress(
    file: File | None, findings: Findings, today: date, *, as_written: bool
) -> tuple[tuple[Problem, ...], tuple[Suppressed, ...]]:
    """Take out what the file says is meant so; what is wrong with that comes on top."""
    problems = findings.sorted()
    if file is None or not file.lint.suppress:
        return tuple(problems), ()
    findings.problems = []
    whole = as_written and not any(problem.severity == "error" for problem in problems)
    left, suppressed = lint.suppress(file.lint.suppress, findings, problems, today, whole=whole)
    findings.problems += left
    return tuple(findings.sorted()), tuple(suppressed)


def _other_environment(root: Node, name: str, environ: Mapping[str, str], base: Path) -> list[Problem]:
    """Check the shape of an overlay that is not in use; what its variables hold is known only where it is used."""
    places = sources.environments(root)[name].places()
    findings = Findings(copy.deepcopy(root))
    sources.overlay(findings, name)
    values = _variables(findings, environ, base)
    found = len(findings.problems)
    values.substitute(findings)
    del findings.problems[found:]
    shape.validate(findings)
    return [problem for problem in findings.problems if problem.place in places]


def _variables(findings: Findings, environ: Mapping[str, str], base: Path) -> Variables:
    """Read the declarations under `variables:`; wrong ones are told by the shape check, and left out here."""
    node = findings.root.at(("variables",))
    declared = node.data() if node is not None else None
    parts: dict[str, VariablePart] = {}
    for name, part in (declared or {}).items() if isinstance(declared, dict | None) else ():
        try:
            parts.update(_VARIABLES.validate_python({name: part}))
        except ValidationError:
            parts[name] = VariablePart.model_validate({"default": ""})
    check_declarations(parts, findings)
    return Variables(parts, environ, base)


def _remove(root: Node, section: str, key: str) -> None:
    node = root.at((section,))
    if node is not None and isinstance(node.value, dict):
        node.value.pop(key, None)


def _put(root: Node, path: tuple[str, str], value: str | list[str], origin: str) -> None:
    """Put a value from outside into the tree, where the file's stood."""
    if not isinstance(root.value, dict):
        return
    place = Place(origin)
    section, key = path
    entry = root.value.get(section)
    if entry is None or entry.node.value is None:
        entry = Entry(place, Node({}, place))
        root.value[section] = entry
    if isinstance(entry.node.value, dict):
        node = Node(value, place) if isinstance(value, str) else Node([Node(item, place) for item in value], place)
        entry.node.value[key] = Entry(place, node)
