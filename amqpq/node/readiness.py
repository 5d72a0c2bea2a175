"""When a node is ready: RabbitMQ opens its AMQP listener last, after recovery and plugins. A handshake is the proof."""

from __future__ import annotations

import socket

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = 1
"""First byte of the server's answer, `connection.start` (AMQP 0-9-1 section 2.3.5)."""


def speaks_amqp(host: str, port: int, timeout_seconds: float = 2.0) -> bool:
    """Whether an AMQP 0-9-1 broker answers at the address."""
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
            connection.sendall(_PROTOCOL_HEADER)
            answer = connection.recv(1)
    except OSError:
        return False
    return answer == bytes([_METHOD_FRAME])
