"""Two files of one project: in one of them the queue `mail` is called `post`."""

from __future__ import annotations

from typing import Any, Final

from amqpq.topology import Topology, load

KEY: Final = {"SIGN_KEY": "5a" * 32}
MOVED: Final = [{"from": "queue.mail", "to": "queue.post"}]


def loaded(queue: str, **more: Any) -> Topology:
    """Return the topology with the queue under this name."""
    return load(
        {
            "amqpq": 1,
            "project": "shop",
            "exchanges": {"web": {"type": "topic"}},
            "queues": {queue: {}, "other": {}},
            "bindings": [f"web[mail.#] -> {queue}", "web[other] -> other"],
            "routes": {"mail.topic": {"exchange": "web", "key": "mail.topic"}, "*": {"queue": queue}},
            "delays": {"max": "10s"},
            "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
            **more,
        },
        environ=KEY,
    )
