"""The names that `from amqpq import ...` offers: few, listed once, and all of them there."""

from __future__ import annotations

import ast
from importlib import metadata
from pathlib import Path

import pytest

import amqpq

MOST = 35


def test_public_names_are_few() -> None:
    """The package offers fewer than 35 names; the rest is found in its modules."""
    assert 0 < len(amqpq.__all__) < MOST


def test_public_names_are_listed_once() -> None:
    """No name stands twice in `__all__`."""
    assert len(set(amqpq.__all__)) == len(amqpq.__all__)


@pytest.mark.parametrize("name", getattr(amqpq, "__all__", []))
def test_public_name_is_there(name: str) -> None:
    """Each listed name can be had from the package."""
    assert getattr(amqpq, name) is not None


def test_dir_shows_what_can_be_had() -> None:
    """Completion in a shell shows every public name before it was ever used."""
    assert set(amqpq.__all__) <= set(dir(amqpq))


def test_star_import_gives_the_list() -> None:
    """`from amqpq import *` brings the listed names and no other."""
    namespace: dict[str, object] = {}
    exec("from amqpq import *", namespace)  # noqa: S102 - a star import is not allowed in a function
    assert namespace.keys() - {"__builtins__"} == set(amqpq.__all__)


def test_type_checkers_see_the_same_names() -> None:
    """What loads lazily is also imported under TYPE_CHECKING, or type checkers would know nothing of it."""
    tree = ast.parse(Path(amqpq.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == set(amqpq.__all__) - {"__version__"}


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that the package does not have is an AttributeError that names it, as everywhere in Python."""
    with pytest.raises(AttributeError, match="Apq"):
        _ = amqpq.Apq


def test_version_comes_from_the_installed_package() -> None:
    """The version is written down in one place, pyproject.toml, and read from the installed metadata."""
    assert amqpq.__version__ == metadata.version("amqpq")
