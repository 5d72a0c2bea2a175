"""The producer's host: a caller that has the topology and no task code. Prints what came back as JSON."""

import json

from amqpq import App

app = App("topology.yaml")
result = app.send_task("tasks.describe", args=["the quick brown fox"])
answer = {"id": result.id, "describe": result.get(timeout=30)}

failed = app.send_task("tasks.fail", args=["on purpose"])
try:
    failed.get(timeout=30)
except ValueError as error:  # the worker's exception, as the same class; its traceback travelled as text
    answer |= {"error": str(error), "traceback": failed.traceback}

app.close()
print(json.dumps(answer))
