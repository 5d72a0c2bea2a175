from __future__ import annotations

import stat
from pathlib import Path

import pytest

from amqpq.errors import BrokerSetupError
from amqpq.node import state
from amqpq.node.options import Ports
from amqpq.node.process import Process
from amqpq.node.state import State

RUNNING = State("rabbitmq", Ports(1, 2, 3, 4), "guest", "guest", "127.0.0.1", "3.10.8", Process(10, "77"), None)


def test_state_comes_back_as_written(tmp_path: Path) -> None:
    """What one program run writes, another one reads."""
    state.write(tmp_path, RUNNING)
    assert state.read(tmp_path) == RUNNING


def test_a_fresh_folder_has_no_state(tmp_path: Path) -> None:
    """A folder without a state file was never a node's."""
    assert state.read(tmp_path) is None


def test_nobody_else_may_read_the_state(tmp_path: Path) -> None:
    """The file holds a password, so it is the owner's alone."""
    state.write(tmp_path, RUNNING)
    assert stat.S_IMODE((tmp_path / state.FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ports": 1, "server": null, "epmd": null}', "not json"])
def test_a_foreign_file_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    """A file that is not a node's state is an error that names it and says what to do."""
    (tmp_path / state.FILE).write_text(text)
    with pytest.raises(BrokerSetupError, match="node.json is not the state of a private node .* delete the folder"):
        state.read(tmp_path)
