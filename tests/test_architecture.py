"""The shape of the code: sizes, hidden imports, docstrings. Which layer may import which is import-linter's to hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "amqpq"

MODULE_LINES = 500
FUNCTION_LINES = 60
"""Without the docstring."""
PARAMETERS = 8
"""Keyword-only ones included, `self` and `cls` not."""

# Imports inside a function hide a dependency from the reader. Each has to say here why it cannot stand at the top.
HIDDEN_IMPORTS = {
    ("amqpq/cli/options.py", "amqpq.app"): "the engine; --help needs none of it",
    ("amqpq/cli/options.py", "amqpq.topology"): "pydantic and yaml; --help needs neither",
    ("amqpq/cli/output.py", "rich.console"): "costs 60 ms, and most commands print plain text",
    ("amqpq/message/serializers.py", "yaml"): "few projects send YAML",
    ("amqpq/worker/execute.py", "asyncio"): "a fifth of a child's memory, and most children run no `async def` task",
    ("amqpq/worker/pools/alarm.py", "amqpq.worker.pools.driven"): "asyncio, as above",
}

# importlib.import_module hides even more.
DYNAMIC_IMPORTS = {
    "amqpq/__init__.py": "the public names load when they are asked for",
    "amqpq/cli/main.py": "a command loads when it is called",
    "amqpq/cli/options.py": "-A names the user's module",
    "amqpq/config.py": "pydantic and yaml load when a topology is, a transport and asyncio when they are used",
    "amqpq/convert/settings.py": "the user's Celery settings are a module",
    "amqpq/topology/__init__.py": "pydantic and yaml load when a topology is",
    "amqpq/security/ed25519.py": "cryptography takes 7 MB, and only large messages need it",
    "amqpq/security/keys.py": "libsodium takes 2 MB, and a shared secret does without",
    "amqpq/version.py": "importlib.metadata costs 15 ms, and is needed where no folder has the version",
    "amqpq/worker/host.py": "a child process imports the user's module",
    "amqpq/worker/pools/eventlet_hub.py": "an extra, loaded in its child only",
    "amqpq/worker/pools/gevent_hub.py": "an extra, loaded in its child only",
}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

TEST = re.compile(r"^ *(?:async )?def test_", re.MULTILINE)
TEST_THAT_SAYS = re.compile(
    r'^ *(?:async )?def test_\w+\([^()]*\)(?: -> [^:\n]+)?:\n +r?"""[^"]*\.\s*"""', re.MULTILINE
)


def test_modules_are_short() -> None:
    """A module has at most 500 lines; a longer one has two subjects."""
    long = {_name(path): count for path in _modules(PACKAGE) if (count := len(_text(path).splitlines())) > MODULE_LINES}
    assert not long


def test_functions_are_short() -> None:
    """A function has at most 60 lines beside its docstring."""
    long = {each.place: each.lines for each in _functions(PACKAGE) if each.lines > FUNCTION_LINES}
    assert not long


def test_signatures_are_narrow() -> None:
    """A function takes at most eight parameters; more of them are an options object.

    The parameters of a command are what its user may write, and click passes them one by one.
    """
    wide = {each.place: each.width for each in _functions(PACKAGE) if each.width > PARAMETERS and not each.is_command}
    assert not wide


def test_no_import_hides_in_a_function() -> None:
    """Imports inside functions are on the list above, with their reason."""
    found = {(_name(path), module) for path in _modules(PACKAGE) for module in _facts(path).hidden_imports}
    assert found - HIDDEN_IMPORTS.keys() == set()


def test_the_list_of_hidden_imports_is_current() -> None:
    """A reason whose import is gone goes too."""
    found = {(_name(path), module) for path in _modules(PACKAGE) for module in _facts(path).hidden_imports}
    assert HIDDEN_IMPORTS.keys() - found == set()


def test_no_module_is_imported_by_text() -> None:
    """Only the listed modules import by a name that is computed."""
    found = {_name(path) for path in _modules(PACKAGE) if _imports_by_text(path)}
    assert found - DYNAMIC_IMPORTS.keys() == set()


def test_everything_public_says_what_it_is() -> None:
    """Modules, classes and functions without a leading underscore have a docstring."""
    silent = [place for path in _modules(PACKAGE) for place in _facts(path).silent]
    assert not silent


def test_every_test_says_its_behaviour() -> None:
    """Each test function has a docstring that states the behaviour in a sentence."""
    silent = [
        each.place
        for path in _modules(ROOT / "tests")
        if len(TEST_THAT_SAYS.findall(_text(path))) < len(TEST.findall(_text(path)))  # else it need not be parsed
        for each in _facts(path).functions
        if each.name.startswith("test_") and not each.docstring.strip().endswith(".")
    ]
    assert not silent


def test_module_names_say_their_subject() -> None:
    """No module is called after what it is not about: utils, common, helpers, misc."""
    vague = [_name(path) for path in _modules(PACKAGE) if path.stem in {"utils", "util", "common", "helpers", "misc"}]
    assert not vague


def test_test_modules_have_names_of_their_own() -> None:
    """Test files have different names, because pytest reports them by name."""
    seen: dict[str, Path] = {}
    twice = [
        (path, seen[path.name])
        for path in _modules(ROOT / "tests")
        if path.name in seen or seen.update({path.name: path})
    ]
    assert [pair for pair in twice if pair[0].name not in {"__init__.py", "__main__.py", "conftest.py"}] == []


# ------------------------------------------------------------------------------------------------------------ reading


@cache
def _modules(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.rglob("*.py")))


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Described:
    """A function: where it is, and how large."""

    place: str
    name: str
    docstring: str
    lines: int
    width: int
    is_command: bool


@dataclass(frozen=True)
class Facts:
    """What the tests above want to know of a module. Its tree is not kept: so many nodes make every later test slower."""

    functions: tuple[Described, ...]
    hidden_imports: frozenset[str]
    silent: tuple[str, ...]


@cache
def _facts(path: Path) -> Facts:
    tree = ast.parse(_text(path), str(path))
    functions = [node for node in _statements(tree) if isinstance(node, Function)]
    return Facts(
        functions=tuple(_described(path, function) for function in functions),
        hidden_imports=frozenset(name for function in functions for name in _hidden_imports(function)),
        silent=tuple(_without_docstring(tree, path)),
    )


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the statements below a node; expressions, most of a tree, are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(folder: Path) -> Iterator[Described]:
    for path in _modules(folder):
        yield from _facts(path).functions


def _described(path: Path, function: Function) -> Described:
    return Described(
        place=f"{_name(path)}:{function.lineno} {function.name}",
        name=function.name,
        docstring=ast.get_docstring(function) or "",
        lines=_length(function),
        width=_width(function),
        is_command=_is_command(function),
    )


def _length(function: Function) -> int:
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    begin = (first.end_lineno or first.lineno) + 1 if has_docstring else first.lineno
    return (function.end_lineno or begin) - begin + 1


def _width(function: Function) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def _is_command(function: Function) -> bool:
    return any(re.search(r"\bcommand\(", ast.unparse(decorator)) for decorator in function.decorator_list)


def _hidden_imports(function: Function) -> Iterator[str]:
    for inner in _statements(function):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            module = inner.module or ""
            children = [f"{module}.{alias.name}" for alias in inner.names]
            # `from amqpq import topology` imports the module amqpq.topology.
            yield from (child if _is_module(child) else module for child in children)


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _imports_by_text(path: Path) -> bool:
    if not re.search(r"\b(import_module|__import__)\b", _text(path)):
        return False
    tree = ast.parse(_text(path), str(path))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(names & {"import_module", "__import__"})


def _without_docstring(tree: ast.Module, path: Path) -> Iterator[str]:
    if ast.get_docstring(tree) is None:
        yield _name(path)
    yield from _silent_members(tree, path)


def _silent_members(scope: ast.Module | ast.ClassDef, path: Path) -> Iterator[str]:
    for node in scope.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not _is_overload(node):
            yield f"{_name(path)}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _silent_members(node, path)


def _is_overload(node: ast.ClassDef | Function) -> bool:
    words = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(words & {"overload", "setter", "override"})
