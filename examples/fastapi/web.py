"""A web service that publishes tasks and awaits results in its request handlers. It has no task code: names are enough.

One `AsyncApp` per process, opened and closed with the service. A handler that waits costs no thread: hundreds may wait.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException

from amqpq import AsyncApp
from amqpq.errors import ResultNotFound, ResultTimeout

queue = AsyncApp("topology.yaml")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await queue.close()


api = FastAPI(title="texts", lifespan=lifespan)


@api.post("/count")
async def count(text: Annotated[str, Body(embed=True)]) -> dict[str, int]:
    """Publish, wait for the result, answer with it."""
    result = await queue.send_task("texts.count", args=[text])
    words: dict[str, int] = await result.get(timeout=10)
    return words


@api.post("/jobs", status_code=202)
async def start(seconds: Annotated[float, Body(embed=True)]) -> dict[str, str]:
    """Publish and answer at once, with the id to ask for later; any process may be asked."""
    result = await queue.send_task("texts.slow", args=[seconds])
    return {"id": result.id}


@api.get("/jobs/{task_id}")
async def fetch(task_id: str, wait: float = 0.5) -> dict[str, Any]:
    """Answer with the result; 202 while it is not there, 404 for an id that never was or was fetched already."""
    try:
        return {"id": task_id, "result": await queue.AsyncResult(task_id).get(timeout=wait)}
    except ResultTimeout:
        raise HTTPException(202, "not finished yet") from None
    except ResultNotFound:
        raise HTTPException(404, "no such job, or its result was fetched already") from None
