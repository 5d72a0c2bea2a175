"""What is wrong with a topology file: each problem with its place, its rule and its remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from amqpq.yamlfile import Node, Place

Severity: TypeAlias = Literal["error", "warning", "info"]
Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the file's tree: keys and list positions."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `rule` is its stable id, `TOP013`; `amqpq.topology.lint.catalogue` has all of them."""

    place: Place
    rule: str
    severity: Severity
    message: str
    remedy: str = ""
    path: Path = field(default=(), compare=False)
    """Where in the tree, where that is known: what a suppression names."""

    def __str__(self) -> str:
        """Write it on one line, beginning with `file:line:column`."""
        return f"{self.place}: {self.rule} {self.message}{'; ' if self.remedy else ''}{self.remedy}"


def written(path: Path) -> str:
    """Write a path as a person does: `bindings[2].keys`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


@dataclass(slots=True)
class Findings:
    """Collects problems while a file is read; finds the place of a path in the tree."""

    root: Node
    problems: list[Problem] = field(default_factory=list)
    unknown: set[Path] = field(default_factory=set)
    """Paths that could not be read: what follows from them is not reported again."""
    secret: set[Path] = field(default_factory=set)
    """Paths whose value came, in part or whole, from a secret: it is not repeated in a problem."""

    def error(self, path: Path, rule: str, message: str, remedy: str = "") -> None:
        """Note an error at `path`."""
        self.add(path, rule, "error", message, remedy)

    def warning(self, path: Path, rule: str, message: str, remedy: str = "") -> None:
        """Note a warning at `path`."""
        self.add(path, rule, "warning", message, remedy)

    def info(self, path: Path, rule: str, message: str, remedy: str = "") -> None:
        """Note something worth knowing at `path`."""
        self.add(path, rule, "info", message, remedy)

    def add(self, path: Path, rule: str, severity: Severity, message: str, remedy: str = "") -> None:
        """Note a problem at `path`, unless it stems from something that could not be read."""
        if not any(path[: len(unknown)] == unknown for unknown in self.unknown):
            self.problems.append(Problem(self.place(path), rule, severity, message, remedy, path))

    def place(self, path: Path) -> Place:
        """Return the place of `path`, or of the nearest thing above it that the file has."""
        for length in range(len(path), -1, -1):
            node = self.root.at(path[:length])
            if node is not None:
                return node.place
        return self.root.place

    def key_place(self, path: Path) -> Place:
        """Return the place of the key that `path` ends with (of the value, in a list)."""
        parent = self.root.at(path[:-1]) if path else None
        name = path[-1] if path else None
        if parent is not None and isinstance(parent.value, dict) and isinstance(name, str) and name in parent.value:
            return parent.value[name].place
        return self.place(path)

    @property
    def failed(self) -> bool:
        """Whether there is an error among the problems."""
        return any(problem.severity == "error" for problem in self.problems)

    def sorted(self) -> list[Problem]:
        """Return the problems in the order of the file, each once."""
        # What YAML swallowed or changed explains whatever else is wrong with the value at that place.
        explained = {problem.place for problem in self.problems if problem.rule in {"TOP002", "TOP003"}}
        unique = dict.fromkeys(
            problem for problem in self.problems if problem.rule != "TOP001" or problem.place not in explained
        )
        return sorted(unique, key=lambda problem: (problem.place.file, problem.place.line, problem.place.column))
