"""A private RabbitMQ node: started, stopped, killed and asked from Python.

    node = Node("/tmp/my-broker")
    node.start()
    node.url                       # amqp://guest:guest@127.0.0.1:23817/
    node.ctl("list_queues", "name", "messages")
    node.kill()                    # SIGKILL, as a power cut would
    node.start()
    node.stop()

What makes it private: its own Erlang name service, cookie, ports and data folder, listeners on the loopback address
only, and none of the machine's RabbitMQ configuration read. So any number of nodes run side by side, as any user, and
none of them notices a RabbitMQ that the machine runs as a service.

`find_broker` is what `amqpq broker` uses: a `Node` where RabbitMQ is installed, a `ComposeNode` where only Docker is.
"""

from __future__ import annotations

from amqpq.node.compose import ComposeNode
from amqpq.node.find import Broker, default_folder, find_broker
from amqpq.node.installation import Installation, find_installation
from amqpq.node.node import Node
from amqpq.node.options import NodeOptions, Ports

__all__ = [
    "Broker",
    "ComposeNode",
    "Installation",
    "Node",
    "NodeOptions",
    "Ports",
    "default_folder",
    "find_broker",
    "find_installation",
]
