"""The rigs: every conformance test runs once for each transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from amqpq.testing.rigs import AsyncioRig, BlockingRig, MemoryRig, Rig

TRANSPORTS = ("blocking", "asyncio", "memory")


@pytest.fixture(params=TRANSPORTS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """One transport, ready to be asked; two of the three need a real broker."""
    built: Rig
    if request.param == "memory":
        built = MemoryRig()
    else:
        broker_url: str = request.getfixturevalue("broker_url")
        built = BlockingRig(broker_url) if request.param == "blocking" else AsyncioRig(broker_url)
    try:
        yield built
    finally:
        built.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real broker, so that a run without one can leave it out."""
    for item in items:
        if "rig" in getattr(item, "fixturenames", ()) and "[memory" not in item.name and "-memory" not in item.name:
            item.add_marker(pytest.mark.integration)
