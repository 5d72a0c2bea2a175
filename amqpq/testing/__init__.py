"""For tests of programs that use amqpq: an in-memory broker (`amqpq.testing.memory`) and a bad network (`.proxy`)."""
