"""Topologies from elsewhere (RabbitMQ definitions, a live broker, Celery settings) and for elsewhere (AsyncAPI, Kubernetes, ...).

Import, step by step: read the objects (`definitions`, `live`) or the settings (`celery`), leave out what amqpq generates itself
(`generated`), fold the rest into the shape of a topology file (`folding`), see what lint says of it (`fitting`), write YAML
(`text`). Export goes from what an apply would declare to the other format. Whatever a side cannot hold is a `Remark`: nothing
is left out in silence.
"""
