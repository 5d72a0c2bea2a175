"""amqpq: confirmed publishes, late acknowledgement, results confirmed before the acknowledgement.

Options: `signing` (ed25519, hmac-sha256, off), `reply` (task: one durable queue per call; direct: the broker's own
direct reply-to), `pool`, `serializer` (msgpack, the default of amqpq; json), `compression` (zlib, bzip2), `log` (warning; info is
amqpq's default and writes a line per task);
`batch` = "yes" publishes inside `app.batch()` and fetches with `app.collect()`; "stream" inside `app.batch(stream=True)`.
"""

from __future__ import annotations

import importlib
import os
import secrets
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from amqpq.producer.bulk import CHUNK, CHUNKS_UNDER_WAY
from amqpq.producer.planning import Call
from amqpq.transport import flow
from amqpq.transport.interface import Flow, Pending
from amqpq.types import Fate, Outcome
from benchmarks import contender

TOPOLOGY = """\
amqpq: 1
project: bench
queues:
  {queue}: {{}}
routes:
  "bench.*": {{queue: {queue}}}
messages: {{serializer: {serializer}, accept: [{serializer}], compression: {compression}}}
replies: {{mode: {reply}, expires: 10m}}
security: {security}
"""

SECURITY = {
    "off": "{signing: off}",
    "ed25519": "{signing: {algorithm: ed25519, key: keys/bench.pem, key_id: bench}}",
    "hmac-sha256": '{signing: {algorithm: hmac-sha256, key: "env:BENCH_SECRET", key_id: bench}}',
}


class Contender:
    """An amqpq producer; the worker is the real command."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._file = setting.folder / "topology.yaml"
        self._file.write_text(
            TOPOLOGY.format(
                queue=setting.queue,
                reply=setting.options.get("reply", "task"),
                serializer=setting.options.get("serializer", "msgpack"),
                compression=setting.options.get("compression", "none"),
                security=SECURITY[setting.options["signing"]],
            )
        )
        self._variables = {
            **setting.environment(),
            "AMQPQ_TOPOLOGY": str(self._file),
            "AMQPQ_BROKER_URL": setting.url,
            "BENCH_SECRET": secrets.token_hex(32),
        }
        if setting.options["signing"] == "ed25519":
            self._command("keys", "new", "bench")
        os.environ.update(self._variables)
        from benchmarks.contenders import amqpq_tasks  # noqa: PLC0415 - it reads the environment when imported

        self._tasks: Any = importlib.reload(amqpq_tasks)  # another contender of this process had another

    def prepare(self) -> None:
        """Declare what the topology says."""
        self._command("topology", "apply")

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command."""
        command = contender.python(
            "amqpq",
            "worker",
            "-A",
            "benchmarks.contenders.amqpq_tasks",
            "-Q",
            self._setting.queue,
            "-P",
            self._setting.options.get("pool", "prefork"),
            "-c",
            str(contender.PROCESSES if self._setting.options.get("pool", "prefork") == "prefork" else 1),
            "--prefetch",
            str(contender.PREFETCH),
            "--loglevel",
            self._setting.options.get("log", "warning"),
        )
        return command, self._variables

    def publish(self, count: int) -> None:
        """Call `delay` on the task without result."""
        with self._batch():
            for _ in range(count):
                self._tasks.noop.delay(contender.PAYLOAD)

    def publishers(self, payload: str, count: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """Return what publishes `count` messages that are planned and signed now, and what makes the same calls as a stream."""
        app, task = self._tasks.app, self._tasks.noop
        call = Call(task.name, (payload,), task_options=task.options)
        plans = [app.planner.plan(call).publication for _ in range(count)]
        channel = app.link.connection(contender.RESULT_TIMEOUT_SECONDS).channel()

        def at_once() -> Flow[None]:
            chunks = deque(plans[start : start + CHUNK] for start in range(0, count, CHUNK))
            answers: deque[Pending[list[Outcome]]] = deque()
            while chunks or answers:
                if chunks:
                    answers.append(channel.publish(chunks.popleft()))
                if not chunks or len(answers) > CHUNKS_UNDER_WAY:
                    outcomes = yield answers.popleft()
                    if any(outcome.fate is not Fate.CONFIRMED for outcome in outcomes):
                        raise RuntimeError(f"not confirmed: {outcomes[:3]}")

        def stream() -> None:
            with app.batch(stream=True):
                for _ in range(count):
                    task.delay(payload)

        return lambda: flow.run(at_once(), contender.RESULT_TIMEOUT_SECONDS), stream

    def collect(self, count: int) -> None:
        """Call `delay`, then `get` on every result; with `batch`, both together."""
        with self._batch():
            results = [self._tasks.echo.delay(contender.PAYLOAD) for _ in range(count)]
        if self._setting.options.get("batch"):
            self._tasks.app.collect(results, timeout=contender.RESULT_TIMEOUT_SECONDS)
            return
        for result in results:
            result.get(timeout=contender.RESULT_TIMEOUT_SECONDS)

    def round_trip(self) -> None:
        """Call and get."""
        self._tasks.echo.delay(contender.PAYLOAD).get(timeout=contender.RESULT_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Close the application's connection."""
        self._tasks.app.close()

    def _batch(self) -> AbstractContextManager[Any]:
        batch = self._setting.options.get("batch")
        return self._tasks.app.batch(stream=batch == "stream") if batch else nullcontext()

    def _command(self, *arguments: str) -> None:
        command = contender.python("amqpq", *arguments)
        done = subprocess.run(
            command, cwd=self._setting.folder, env=self._variables, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"amqpq {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
