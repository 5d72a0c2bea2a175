"""The ready-made topologies: in a checkout the folder `topology/`, in an installed package the copy that came with it."""

from __future__ import annotations

from pathlib import Path

from amqpq.errors import ConfigurationError
from amqpq.topology.model import did_you_mean


def folder() -> Path:
    """Return the folder with the ready-made topologies.

    Raises:
        ConfigurationError: Neither a checkout's nor an installed one is there.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package.parents[1] / "topology", package / "library"):
        if (candidate / "minimal.yaml").is_file():
            return candidate
    raise ConfigurationError("the ready-made topologies are missing from this installation; install amqpq again")


def names() -> tuple[str, ...]:
    """Return the names of the ready-made topologies."""
    return tuple(sorted(path.stem for path in folder().glob("*.yaml")))


def find(name: str) -> Path:
    """Return the file of a ready-made topology.

    Raises:
        ConfigurationError: There is none of this name.
    """
    path = folder() / f"{name}.yaml"
    if name not in names():
        raise ConfigurationError(
            f"there is no ready-made topology '{name}'{did_you_mean(name, names())}; there are: {', '.join(names())}"
        )
    return path
