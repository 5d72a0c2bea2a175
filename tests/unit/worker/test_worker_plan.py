"""What a worker may be asked for, and what it says to the rest."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import SimpleNamespace

import pytest

from amqpq.errors import ConfigurationError
from amqpq.topology import load
from amqpq.worker.plan import (
    PREFETCH_MULTIPLIER,
    check_unpatched,
    choose_concurrency,
    choose_pool,
    choose_prefetch,
    choose_queues,
    worker_name,
)

TOPOLOGY = load(
    {
        "amqpq": 1,
        "project": "shop",
        "queues": {"default": {}, "web.high": {}},
        "security": {"signing": "off"},
    }
)


def test_by_default_every_queue_but_dead_letters() -> None:
    """A worker does not eat the evidence."""
    assert choose_queues(TOPOLOGY, []) == ("default", "web.high")


def test_queues_are_taken_in_order_and_once() -> None:
    """What was named is what is consumed."""
    assert choose_queues(TOPOLOGY, ["web.high", "default", "web.high"]) == ("web.high", "default")


def test_a_dead_letter_queue_may_be_named() -> None:
    """Who asks for it gets it."""
    assert choose_queues(TOPOLOGY, ["shop.dead"]) == ("shop.dead",)


def test_an_unknown_queue_is_an_error_with_a_suggestion() -> None:
    """A typing error does not become a worker that waits for ever."""
    with pytest.raises(
        ConfigurationError, match=re.escape("-Q web.hgih: the topology has no such queue (did you mean 'web.high'?)")
    ):
        choose_queues(TOPOLOGY, ["web.hgih"])


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_pool_whose_library_is_missing_names_the_extra(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence ends with the command that helps."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == pool else name)
    with pytest.raises(ConfigurationError, match=re.escape(f"pip install 'amqpq[{pool}]'")):
        choose_pool(pool)
    assert choose_pool("asyncio") == "asyncio"


@pytest.mark.parametrize(
    "module, question, library",
    [("gevent.monkey", "is_module_patched", "gevent"), ("eventlet.patcher", "is_monkey_patched", "eventlet")],
)
def test_an_application_that_patches_its_worker_is_refused(
    module: str, question: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats would depend on its greenlets; the pool of that name patches where it does no harm."""
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{question: lambda name: name == "socket"}))
    with pytest.raises(ConfigurationError, match=f"-P {library} patches the one that runs tasks"):
        check_unpatched()
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{question: lambda _name: False}))
    check_unpatched()


@pytest.mark.parametrize("pool", ["asyncio", "gevent", "eventlet"])
def test_tasks_that_share_a_process_are_many(pool: str) -> None:
    """CPUs are no measure for tasks that wait."""
    assert choose_concurrency(pool, None) == 100
    assert choose_concurrency(pool, 7) == 7


def test_an_unknown_pool_is_an_error_with_a_suggestion() -> None:
    """A typing error names its correction."""
    with pytest.raises(ConfigurationError, match="did you mean 'prefork'"):
        choose_pool("preforked")


def test_solo_runs_one_task_at_a_time() -> None:
    """A wish the pool cannot keep is refused, not ignored."""
    assert choose_concurrency("solo", None) == 1
    with pytest.raises(ConfigurationError, match="solo pool runs one task at a time"):
        choose_concurrency("solo", 4)


def test_concurrency_is_positive() -> None:
    """A worker that runs nothing is a mistake."""
    with pytest.raises(ConfigurationError, match="at least one task"):
        choose_concurrency("prefork", 0)


def test_prefetch_has_a_bound() -> None:
    """Memory is bounded by prefetch, so unlimited is refused."""
    assert choose_prefetch(None, 3) == 3 * PREFETCH_MULTIPLIER
    assert choose_prefetch(7, 3) == 7
    with pytest.raises(ConfigurationError, match="0 would mean unlimited"):
        choose_prefetch(0, 3)


def test_names_are_filled_in() -> None:
    """`%p` is the pid, and a name without a host gets one."""
    assert re.fullmatch(r"w7@.+", worker_name("w%p@%h", pid=7))
    assert re.fullmatch(r"w1@.+", worker_name("w1"))
    assert re.fullmatch(r"amqpq@.+", worker_name(None))
