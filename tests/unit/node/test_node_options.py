from __future__ import annotations

import socket
from dataclasses import astuple
from pathlib import Path

import pytest

from amqpq.errors import BrokerSetupError
from amqpq.node import options
from amqpq.node.options import NodeOptions, Ports

PORTS = Ports(amqp=20001, management=20002, distribution=20003, epmd=20004)


def test_free_ports_are_four_below_the_ephemeral_range() -> None:
    """The chosen ports differ and lie where the kernel takes no client ports from."""
    ports = astuple(options.free_ports())
    assert len(set(ports)) == 4
    assert all(options.FIRST_PORT <= port < options.LAST_PORT for port in ports)


def test_a_wanted_port_is_kept() -> None:
    """A port that was asked for becomes the AMQP port."""
    wanted = options.free_ports().amqp
    assert options.free_ports(wanted).amqp == wanted


def test_a_taken_port_is_refused() -> None:
    """A port that somebody listens on is an error that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerSetupError, match=f"port {port} is taken"):
            options.free_ports(port)


def test_config_binds_to_the_loopback_address() -> None:
    """A default node listens on the loopback address only, and leaves `guest` to this machine."""
    lines = options.render_config(NodeOptions(), PORTS, "guest", "guest").splitlines()
    assert "listeners.tcp.1 = 127.0.0.1:20001" in lines
    assert "management.tcp.ip = 127.0.0.1" in lines
    assert not any(line.startswith("loopback_users") for line in lines)


def test_config_takes_further_lines() -> None:
    """What `config` says is in the file, over our own lines."""
    chosen = NodeOptions(listen="10.0.0.1", config={"consumer_timeout": "60000", "management.tcp.port": "1"})
    lines = options.render_config(chosen, PORTS, "amqpq", "secret").splitlines()
    assert "consumer_timeout = 60000" in lines
    assert "management.tcp.port = 1" in lines
    assert "management.tcp.port = 20002" not in lines
    assert "loopback_users = none" in lines


def test_plugins_are_listed_once() -> None:
    """Management and the consistent-hash exchange are always enabled, further plugins once."""
    text = options.render_plugins(NodeOptions(plugins=("rabbitmq_management", "rabbitmq_shovel")))
    assert text == "[rabbitmq_management,rabbitmq_consistent_hash_exchange,rabbitmq_shovel].\n"


def test_an_unchanged_file_is_not_written(tmp_path: Path) -> None:
    """A file that holds the text already keeps its modification time."""
    path = tmp_path / "file"
    options.write_if_changed(path, "text")
    before = path.stat().st_mtime_ns
    options.write_if_changed(path, "text")
    assert path.stat().st_mtime_ns == before
