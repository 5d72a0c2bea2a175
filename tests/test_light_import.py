"""What an import costs: a web server's producer, a task module and a shell completion load what they need."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

HEAVY = {"amqp", "pika", "yaml", "pydantic", "pydantic_core", "click", "rich", "celery", "kombu"}

# Third-party packages that may load with each statement. Everything else, of ours or not, loads at first use.
ALLOWED = {
    "import amqpq": set[str](),
    "from amqpq import App": {"msgpack"},
    "import amqpq.cli.main": {"click"},
}

_PRINT_MODULES = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


@pytest.mark.parametrize("statement", ALLOWED)
def test_imports_stay_light(statement: str) -> None:
    """Each statement loads no third-party package but those on its list."""
    before = _third_party("pass")
    loaded = _third_party(statement) - before
    assert loaded - ALLOWED[statement] == set()


@pytest.mark.parametrize("statement", ["import amqpq", "from amqpq import App"])
def test_no_driver_and_no_framework_loads_with_the_package(statement: str) -> None:
    """Neither the package nor the App class loads a driver, yaml, pydantic, click or rich."""
    assert _third_party(statement) & HEAVY == set()


def test_help_needs_no_rich() -> None:
    """`amqpq --help` loads click and nothing else that is heavy."""
    statement = """
import sys
from amqpq.cli.main import main
sys.stdout = open('/dev/null', 'w')
try:
    main(['--help'])
except SystemExit:
    sys.stdout = sys.__stdout__
"""
    assert _third_party(statement) & HEAVY == {"click"}


def test_a_child_loads_only_what_runs_tasks() -> None:
    """A child of the prefork pool holds neither the worker's loop, nor a driver, nor an event loop, nor what reads topologies."""
    program = "import sys, amqpq.worker.pools.child\nfrom amqpq import App\nprint(*sys.modules)"
    loaded = set(_output(program).split())
    unused = {
        "amqpq.worker.loop",
        "amqpq.provision",
        "amqpq.topology.document",
        "asyncio",
        "subprocess",
        "cryptography",
        "nacl",
    }
    assert loaded & (unused | HEAVY) == set()


@cache
def _third_party(statement: str) -> frozenset[str]:
    # What begins with an underscore is the compiled part of a package that is named beside it.
    packages = {name for name in json.loads(_output(f"{statement}\n{_PRINT_MODULES}")) if not name.startswith("_")}
    return frozenset(packages - sys.stdlib_module_names - {"amqpq", "cython_runtime"})


def _output(program: str) -> str:
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
