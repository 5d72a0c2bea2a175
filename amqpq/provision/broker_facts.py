"""What a migration has to ask the management API: the bindings of a queue, and how many messages it holds.

`GET /api/queues/VHOST/NAME` and `.../bindings` need the tag `management`, and no more.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from amqpq.errors import ConfigurationError, TransportError
from amqpq.types import BindingSpec

TIMEOUT_SECONDS: Final = 10.0
_NOT_FOUND: Final = 404


class ManagementFacts:
    """Asks one broker's management API about one virtual host.

    Args:
        url: Of the API, `http://host:15672`; user and password in it count before the others.
        vhost: The virtual host.
        user: Whom to be.
        password: Theirs.
    """

    def __init__(self, url: str, vhost: str, user: str, password: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError("the management API is named by an http:// or https:// URL")
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._root = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}/api"
        self._vhost = quote(vhost, safe="")
        user, password = (
            (unquote(parts.username), unquote(parts.password or "")) if parts.username else (user, password)
        )
        self._credentials = base64.b64encode(f"{user}:{password}".encode()).decode()

    def __repr__(self) -> str:
        """Show where; not who."""
        return f"ManagementFacts({self._root!r})"

    def bindings(self, queue: str) -> tuple[BindingSpec, ...]:
        """Return the bindings of a queue, but that of the default exchange.

        Raises:
            TransportError: The API does not say.
        """
        found = self._get(f"queues/{self._vhost}/{quote(queue, safe='')}/bindings") or []
        return tuple(
            BindingSpec(part["source"], queue, part["routing_key"], arguments=part["arguments"])
            for part in found
            if part["source"]
        )

    def unsettled(self, queue: str) -> int | None:
        """Return how many messages a queue holds, ready or unacknowledged; None where it has no numbers yet.

        Raises:
            TransportError: The API does not say.
        """
        found = self._get(f"queues/{self._vhost}/{quote(queue, safe='')}")
        if found is None:
            return 0
        ready, held = found.get("messages_ready"), found.get("messages_unacknowledged")
        return None if ready is None or held is None else int(ready) + int(held)

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self._root}/{path}", headers={"authorization": f"Basic {self._credentials}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - likewise
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == _NOT_FOUND:
                return None
            raise TransportError(
                f"the management API at {self._root} answered {error.code} {error.reason}; the user needs the tag `management`"
            ) from error
        except (OSError, ValueError) as error:
            raise TransportError(f"the management API at {self._root} does not answer: {error}") from error
