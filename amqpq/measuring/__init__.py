"""What a broker, the way to it and this machine can do, measured with amqpq's own transport, and what limits it.

`figures` and `verdict` are pure; `probes` are flows on channels; `bench` runs them on two connections, in queues of its own.
"""
