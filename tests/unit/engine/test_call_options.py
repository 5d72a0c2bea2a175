from __future__ import annotations

from typing import Any

import pytest

from amqpq.errors import LocalError, NotBuiltYet
from amqpq.producer.options import PLAIN, RetryPolicy, read_options


def test_no_options_cost_nothing() -> None:
    """A call without options shares one value."""
    assert read_options({}) is PLAIN


def test_an_unknown_option_says_what_was_meant() -> None:
    """A misspelt option is refused with the nearest known one."""
    with pytest.raises(LocalError, match=r"unknown option 'prioritty' \(did you mean 'priority'\?\)"):
        read_options({"prioritty": 3})


@pytest.mark.parametrize("name", ["chain", "link", "link_error"])
def test_later_options_are_refused_by_name(name: str) -> None:
    """An option whose machinery is not there yet is never accepted and ignored."""
    with pytest.raises(NotBuiltYet, match=f"not built yet: {name}="):
        read_options({name: 1})


@pytest.mark.parametrize(
    "given, text",
    [
        ({"priority": 256}, "priority=256 is not a whole number from 0 to 255"),
        ({"priority": True}, "priority=True is not a whole number"),
        ({"priority": "9"}, "priority='9' is not a whole number"),
        ({"reply": "tsk"}, "reply='tsk' is not a reply mode"),
        ({"reply": "client"}, "not built yet: reply mode 'client'"),
        ({"reply": "task", "ignore_result": True}, "contradict each other"),
        ({"queue": "a", "exchange": "b"}, "excludes exchange="),
        ({"task_id": ""}, "task_id='' is not a non-empty text"),
        ({"task_id": "x" * 250}, "its reply queue could not be named"),
        ({"timeout": 0}, "timeout=0 is not a positive number of seconds"),
        ({"timeout": None}, "a publish never waits without a deadline"),
        ({"headers": ["a"]}, "is not a mapping from names to values"),
        ({"retry": "yes"}, "retry='yes' is neither True nor False"),
        ({"retry_policy": {"max_retris": 1}}, "unknown key 'max_retris' in retry_policy.*did you mean 'max_retries'"),
        ({"retry_policy": {"interval_step": -1}}, r"retry_policy\['interval_step'\]=-1 is not a number from 0"),
        ({"time_limit": -1}, "time_limit=-1 is not a positive number of seconds"),
        ({"soft_time_limit": "2"}, "soft_time_limit='2' is not a positive number of seconds"),
        ({"time_limit": 2, "soft_time_limit": 3}, "soft_time_limit=3 is not below time_limit=2"),
        ({"compression": "zip"}, "unknown compression 'zip'.*zlib, bzip2 and none"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(given: dict[str, Any], text: str) -> None:
    """Each refusal shows the option, its value, and what would do."""
    with pytest.raises(LocalError, match=text):
        read_options(given)


@pytest.mark.parametrize("word, ours", [("gzip", "zlib"), ("bz2", "bzip2"), ("zlib", "zlib"), ("none", "none")])
def test_celery_names_of_compressions_are_understood(word: str, ours: str) -> None:
    """Celery's words for the same algorithms are taken for ours."""
    assert read_options({"compression": word}).compression == ours


def test_retry_off_is_a_policy_of_no_retries() -> None:
    """`retry=False` publishes once."""
    assert read_options({"retry": False}).retry.pause(0) is None


def test_retry_policy_grows_to_its_limit() -> None:
    """Intervals start, step and end as Celery's policy says, and the count is kept."""
    policy = read_options(
        {"retry_policy": {"max_retries": 3, "interval_start": 1, "interval_step": 2, "interval_max": 4}}
    ).retry
    assert [policy.pause(number) for number in range(4)] == [1, 3, 4, None]


def test_default_policy_goes_on_until_the_deadline() -> None:
    """Without a policy the timeout alone ends the retries, and the pause stays short."""
    assert RetryPolicy().pause(1000) == RetryPolicy().interval_max
