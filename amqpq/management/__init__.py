"""A client of RabbitMQ's HTTP API: what AMQP 0-9-1 cannot tell, and what it cannot set. Blocking.

It asks for what the tag `management` may read, and no more: `/api/definitions`, which needs `administrator`, is there for
imports. Answers become values with the fields that every version has (3.10 to 4.3,
https://www.rabbitmq.com/docs/http-api-reference); what an answer leaves out is None, never zero.
"""

from amqpq.management.calls import Endpoint, endpoint
from amqpq.management.client import Management
from amqpq.management.values import BindingInfo, ExchangeInfo, Overview, PolicyInfo, QueueInfo, User

__all__ = [
    "BindingInfo",
    "Endpoint",
    "ExchangeInfo",
    "Management",
    "Overview",
    "PolicyInfo",
    "QueueInfo",
    "User",
    "endpoint",
]
