"""The ready-made topologies: nothing in them that lint would warn of."""

from __future__ import annotations

import pytest

from amqpq.topology import inspect, library


@pytest.mark.parametrize("name", library.names())
def test_a_ready_made_topology_has_neither_errors_nor_warnings(name: str) -> None:
    """Whoever begins with one begins without a finding."""
    problems = inspect(library.find(name), environ={}).problems
    assert [str(problem) for problem in problems if problem.severity != "info"] == []
