"""Bytes, properties, confirms: connections to RabbitMQ, and nothing of tasks.

`interface` is the seam; `blocking` (py-amqp) and `aio` (pika) stand behind it, `link` and `aiolink` keep one connection
open, `flow` and `aioflow` run what is written once for both. Nothing is imported here: a driver loads when it is used.
"""
