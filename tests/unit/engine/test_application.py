from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amqpq import App, AsyncApp, errors
from amqpq.config import addresses, codec
from amqpq.message import ResultEnvelope, TaskEnvelope
from amqpq.security.keys import generate
from amqpq.topology import load

MINIMAL: dict[str, Any] = {"amqpq": 1, "project": "shop", "queues": {"default": {}}, "security": {"signing": "off"}}


def test_an_application_loads_nothing_before_it_is_used() -> None:
    """Making an application and its tasks reads no file and loads no driver, no YAML and no pydantic."""
    program = """
import sys
from amqpq import App
app = App("there-is-no-such-file.yaml")
@app.task
def add(x, y): return x + y
assert add(1, 2) == 3
print(sorted({"amqp", "pika", "yaml", "pydantic", "click", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_file_is_named() -> None:
    """The person sees the path, and where it is the default, how to name another."""
    with pytest.raises(errors.ConfigurationError, match=r"no topology file at nowhere\.yaml$"):
        _ = App("nowhere.yaml", environ={}).topology
    with pytest.raises(errors.ConfigurationError, match=r"no topology file at other\.yaml; name one in App"):
        _ = App(environ={"AMQPQ_TOPOLOGY": "other.yaml"}).topology


def test_a_topology_comes_from_wherever_it_is(tmp_path: Path) -> None:
    """A path, a mapping and a loaded topology make the same application; $AMQPQ_BROKER_URL overrides the address."""
    path = tmp_path / "shop.yaml"
    path.write_text("amqpq: 1\nproject: shop\nqueues: {default: {}}\n", encoding="utf-8")
    environ = {"AMQPQ_BROKER_URL": "amqp://somewhere:1234/"}
    for source in (path, str(path), MINIMAL, load(MINIMAL, environ=environ)):
        app = App(source, environ=environ)
        assert app.topology.project == "shop"
        assert [address.place for address in addresses(app.topology)] == ["somewhere:1234"]


def test_an_environment_needs_a_file() -> None:
    """An environment cannot be merged over what is loaded already."""
    with pytest.raises(errors.ConfigurationError, match="environment='prod' cannot be merged"):
        _ = App(load(MINIMAL, environ={}), environment="prod").topology


def test_a_topology_can_be_replaced_until_it_is_used() -> None:
    """The command line's `-t` counts before the application's own, and not halfway."""
    app = App("nowhere.yaml")
    app.topology = load(MINIMAL, environ={})
    assert app.topology.project == "shop"
    with pytest.raises(errors.LocalError, match="is in use already"):
        app.topology = load(MINIMAL, environ={})


def test_a_missing_key_is_named_with_the_remedy(tmp_path: Path) -> None:
    """Without its private key a producer sees the path and the command that makes one."""
    path = tmp_path / "topology.yaml"
    path.write_text("amqpq: 1\nproject: shop\nqueues: {default: {}}\n", encoding="utf-8")
    with pytest.raises(errors.KeyProblem, match=r"keys/shop\.pem.*`amqpq keys new shop`"):
        App(path, environ={}).send_task("tasks.add")


def test_a_host_without_private_key_can_verify(tmp_path: Path) -> None:
    """A host that trusts somebody reads what they sign; only to sign itself is the error."""
    generate("producer", "ed25519", tmp_path / "keys")
    full = codec(_trusting(tmp_path, "producer"), environ={})
    (tmp_path / "keys" / "producer.pem").unlink()
    bare = codec(_trusting(tmp_path, "nobody"), environ={})
    body, properties = full.encode_task(TaskEnvelope("1", "tasks.add"), exchange="", key="default")
    assert bare.decode_task(body, properties).id == "1"
    with pytest.raises(errors.KeyProblem, match=r"nobody\.pem"):
        bare.encode_result(ResultEnvelope("1", "SUCCESS"), reply_to="q")


def _trusting(folder: Path, own: str) -> Any:
    source = {
        **MINIMAL,
        "security": {
            "signing": {"algorithm": "ed25519", "key": str(folder / "keys" / f"{own}.pem"), "key_id": own},
            "trust": {"producer": {"key": str(folder / "keys" / "producer.pub")}},
        },
    }
    return load(source, environ={})


def test_a_task_keeps_its_name_and_is_registered() -> None:
    """Both applications register the tasks that they decorate, for a worker to find."""
    for app in (App(MINIMAL), AsyncApp(MINIMAL)):

        @app.task
        def add(x: int) -> int:
            return x

        @app.task(name="other.name", bind=True)
        def other(self: Any, x: int) -> tuple[str, int]:
            return self.name, x

        assert app.registry.names == ("other.name", f"{__name__}.add")
        assert app.registry["other.name"] is other
        assert (add(3), other(3)) == (3, ("other.name", 3))


def test_repr_shows_no_secret() -> None:
    """An application shows its project and tasks, and never an address with its password."""
    app = App(MINIMAL, environ={"AMQPQ_BROKER_URL": "amqp://me:secret@host/"})
    assert repr(app) == "<App dict: 0 tasks>"
    _ = app.topology
    assert repr(app) == "<App shop: 0 tasks>"
    assert "secret" not in repr(app.link)
