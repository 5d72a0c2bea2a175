"""Messages, written and read; verification comes first. Pure: no broker, and a clock only where one is given.

`envelope` is what they say; `wire`, `serializers`, `compression`, `canonical` how they are written; `codec` does it.
"""

from amqpq.message.codec import Codec, Encoding, Rules
from amqpq.message.envelope import ResultEnvelope, TaskEnvelope, TaskFacts

__all__ = ["Codec", "Encoding", "ResultEnvelope", "Rules", "TaskEnvelope", "TaskFacts"]
