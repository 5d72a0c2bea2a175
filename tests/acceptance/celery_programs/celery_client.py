"""A producer as people have it today: Celery and nothing else. Calls what its arguments say and prints what came back.

Its only settings are the ones any Celery project has: broker, rpc:// backend, serializer, compression.
"""

from __future__ import annotations

import json
import sys

from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeout


def main(url: str, serializer: str, compression: str) -> None:
    """Call a task that answers one that fails, and one that takes longer than it may."""
    app = Celery("client", broker=url, backend="rpc://")
    app.conf.update(
        task_serializer=serializer,
        result_serializer=serializer,
        accept_content=[serializer],
        task_compression=compression,
    )
    answered = app.send_task("shop.add", args=[2, 3], kwargs={"label": "x" * 2000})
    failed = app.send_task("shop.fail", args=["on purpose"])
    late = app.send_task("shop.nap", args=[600], time_limit=0.3, soft_time_limit=0.2)
    try:
        value = answered.get(timeout=30)
        error = failed.get(timeout=30, propagate=False)
        overran = late.get(timeout=30, propagate=False)
    except CeleryTimeout as timeout:
        sys.exit(f"no result in time: {timeout}")
    sys.stdout.write(
        json.dumps(
            {
                "value": value,
                "state": answered.state,
                "failed_state": failed.state,
                "error_type": type(error).__name__,
                "error_is_value_error": isinstance(error, ValueError),
                "error_text": str(error),
                "overran_state": late.state,
                "overran_type": type(overran).__name__,
                "traceback": failed.traceback,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
