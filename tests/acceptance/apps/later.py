"""Tasks that are sent with a delay, or tried again; they note when they ran in a file."""

from __future__ import annotations

import time
from pathlib import Path

from amqpq import App

app = App("later.yaml")


@app.task
def note(folder: str, name: str, due: float) -> float:
    """Note by how much this is late; a negative number would be early."""
    late = time.time() - due
    with Path(folder, f"{name}.ran").open("a", encoding="utf-8") as ran:
        ran.write(f"{late:.3f}\n")
    return late
