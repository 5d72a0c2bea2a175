"""Loads a topology: from files or a mapping to a checked `Topology`, or to the list of everything that is wrong.

The steps, each noting its problems and going on: read (`sources`), lay the environment over, put variables in
(`variables`), check the shape (`shape`), refuse what is not built (`unbuilt`), build the values (`build`), lint (`lint`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from amqpq.errors import TopologyError
from amqpq.topology import build, lint, shape, sources, unbuilt
from amqpq.topology.document import VariablePart
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
) -> Inspection:
    """Look at a topology: like `load`, but with warnings, and errors as values."""
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
        place = Place(f"${URL_VARIABLE}")
        _override(findings.root, "url", Node([Node(each, place) for each in url], place), place)
    if management:
        place = Place(f"${MANAGEMENT_VARIABLE}")
        _override(findings.root, "management", Node(management, place), place)
    file = shape.validate(findings)
    topology = None
    if file is not None:
        unbuilt.refuse(file, findings)
        topology = build.build(file, findings, build.Origin(path, base, environment))
        lint.run(lint.Context(file, topology, findings))
    told = {(problem.place, problem.rule) for problem in findings.problems}
    findings.problems.extend(problem for problem in literal if (problem.place, problem.rule) not in told)
    problems = tuple(findings.sorted())
    return Inspection(None if findings.failed else topology, problems)


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


def _override(root: Node, key: str, node: Node, place: Place) -> None:
    """Put a value of the environment into the tree's section `broker`, where the file's stood."""
    if not isinstance(root.value, dict):
        return
    entry = root.value.get("broker")
    if entry is None or entry.node.value is None:
        entry = Entry(place, Node({}, place))
        root.value["broker"] = entry
    if isinstance(entry.node.value, dict):
        entry.node.value[key] = Entry(place, node)
