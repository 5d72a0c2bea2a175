"""A Celery producer that sends a task for later which fails once; prints what its AsyncResult showed on the way."""

from __future__ import annotations

import json
import sys
import time

from celery import Celery


def main(url: str, serializer: str) -> None:
    """Watch the states until the end."""
    app = Celery("client", broker=url, backend="rpc://")
    app.conf.update(task_serializer=serializer, result_serializer=serializer, accept_content=[serializer])
    due = time.time() + 1.5
    result = app.send_task("shop.flaky", args=[due], countdown=1.5)
    states = []
    while not result.ready():
        if result.state not in states:
            states.append(result.state)
        time.sleep(0.05)
    sys.stdout.write(json.dumps({"states": states, "value": result.get(timeout=30)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
