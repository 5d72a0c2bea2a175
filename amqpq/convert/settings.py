"""Celery settings, from a Python file or module, under their new names.

The file is executed, as Celery executes it: it builds its queues with kombu's classes. Nothing of Celery is imported here; what
the file imports must be installed where this runs.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from amqpq.errors import ConfigurationError

OLD_NAMES: Final = {
    "CELERY_QUEUES": "task_queues",
    "CELERY_ROUTES": "task_routes",
    "CELERY_DEFAULT_QUEUE": "task_default_queue",
    "CELERY_DEFAULT_EXCHANGE": "task_default_exchange",
    "CELERY_DEFAULT_EXCHANGE_TYPE": "task_default_exchange_type",
    "CELERY_DEFAULT_ROUTING_KEY": "task_default_routing_key",
    "CELERY_DEFAULT_DELIVERY_MODE": "task_default_delivery_mode",
    "CELERY_DEFAULT_RATE_LIMIT": "task_default_rate_limit",
    "CELERY_CREATE_MISSING_QUEUES": "task_create_missing_queues",
    "CELERY_QUEUE_MAX_PRIORITY": "task_queue_max_priority",
    "CELERY_TASK_SERIALIZER": "task_serializer",
    "CELERY_RESULT_SERIALIZER": "result_serializer",
    "CELERY_ACCEPT_CONTENT": "accept_content",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_RESULT_EXPIRES": "result_expires",
    "CELERY_RESULT_BACKEND": "result_backend",
    "CELERY_RESULT_PERSISTENT": "result_persistent",
    "CELERY_IGNORE_RESULT": "task_ignore_result",
    "CELERY_ACKS_LATE": "task_acks_late",
    "CELERY_ANNOTATIONS": "task_annotations",
    "CELERY_ALWAYS_EAGER": "task_always_eager",
    "CELERYD_PREFETCH_MULTIPLIER": "worker_prefetch_multiplier",
    "CELERYD_CONCURRENCY": "worker_concurrency",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYBEAT_SCHEDULE": "beat_schedule",
    "BROKER_URL": "broker_url",
    "BROKER_HEARTBEAT": "broker_heartbeat",
}
"""Of Celery 3 (https://docs.celeryq.dev/en/stable/userguide/configuration.html#new-lowercase-settings)."""

_PREFIXES: Final = (
    "task_",
    "worker_",
    "result_",
    "broker_",
    "beat_",
    "event_",
    "control_",
    "security_",
    "accept_content",
    "timezone",
    "enable_utc",
    "imports",
    "include",
)
_OLD_PREFIXES: Final = ("CELERY", "BROKER_")
_DJANGO: Final = "CELERY_"


def load(reference: str) -> dict[str, Any]:
    """Execute a settings file or module and return its settings.

    Args:
        reference: A file (`celeryconfig.py`), or a module, and after a colon the name of an application or of a mapping in it.

    Raises:
        ConfigurationError: It is not there, it fails, or it has no settings of Celery.
    """
    path = Path(reference)
    if reference.endswith(".py"):
        if not path.is_file():
            raise ConfigurationError(f"there is no file {reference}")
        values = _executed(reference, lambda: runpy.run_path(str(path)), path.resolve().parent)
        return _settings(values, reference)
    name, _, attribute = reference.partition(":")
    module = _executed(reference, lambda: vars(importlib.import_module(name)), Path.cwd())
    if not attribute:
        return _settings(module, reference)
    if attribute not in module:
        raise ConfigurationError(f"{name} has nothing named '{attribute}'")
    return _settings({attribute: module[attribute]}, reference)


def _executed(reference: str, run: Callable[[], Mapping[str, Any]], folder: Path) -> Mapping[str, Any]:
    """Run the person's code with their folder on the path, and say what went wrong in it."""
    sys.path.insert(0, str(folder))
    try:
        return dict(run())
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root in {"kombu", "celery"}:
            raise ConfigurationError(
                f"{reference} needs {root}, which is not installed here: pip install {root}"
            ) from error
        raise ConfigurationError(
            f"{reference}: {error}; the settings are executed, so what they import must be there"
        ) from error
    except Exception as error:
        raise ConfigurationError(f"{reference} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(folder))


def _settings(values: Mapping[str, Any], reference: str) -> dict[str, Any]:
    found = named(values)
    if not found:
        for value in values.values():
            if isinstance(value, Mapping):
                found = named({str(name): item for name, item in value.items()})
            elif _is_application(value):
                # The defaults are Celery's, which the conversion knows.
                found = dict(value.conf.table(with_defaults=False, censored=False))
            if found:
                break
    if not found:
        raise ConfigurationError(
            f"{reference} has no settings of Celery, neither as names nor in an application's conf"
        )
    return found


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among some names, under their new names: old ones, new ones, and Django's (`CELERY_TASK_...`)."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in OLD_NAMES:
            found[OLD_NAMES[name]] = value
        elif name.startswith(_DJANGO) and name.removeprefix(_DJANGO).lower().startswith(_PREFIXES):
            found[name.removeprefix(_DJANGO).lower()] = value
        elif name.startswith(_PREFIXES) or (name.startswith(_OLD_PREFIXES) and name.isupper()):
            found[name] = value
    return found


def _is_application(value: object) -> bool:
    return any(kind.__module__.startswith("celery.app") for kind in type(value).__mro__) and hasattr(value, "conf")
