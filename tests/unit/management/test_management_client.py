"""The client of the HTTP API, against a small server that answers what it is told to."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import pytest

from amqpq import errors
from amqpq.management import Management, PolicyInfo, endpoint

Answer: TypeAlias = tuple[int, Any]


class Server:
    """Answers each request with the next of `answers` (the last one again and again); remembers what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [(200, {})]
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                server.asked.append((self.command, self.path, json.loads(body) if body else None))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, data = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                text = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "http://elsewhere.example/")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_DELETE = _answer  # noqa: N815 - the names are the library's

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End, with its thread."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a port of its own."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def api(server: Server) -> Iterator[Management]:
    """A client of the server, logged in as anna with the password pa:ss."""
    with Management(endpoint(f"http://anna:pa%3Ass@127.0.0.1:{server.port}"), timeout_seconds=10) as client:
        yield client


def test_steps_of_the_address_are_encoded(server: Server, api: Management) -> None:
    """A virtual host `/` and a queue with a slash or a question mark are one step each."""
    server.answers = [(200, {"name": "a/b?", "arguments": []})]
    assert api.queue("/", "a/b?").arguments == {}
    assert server.asked == [("GET", "/api/queues/%2F/a%2Fb%3F", None)]


def test_all_pages_of_queues_are_read(server: Server, api: Management) -> None:
    """Queues are asked for page by page, without statistics."""
    server.answers = [(200, {"items": [{"name": f"q{page}"}], "page_count": 3}) for page in (1, 2, 3)]
    assert [queue.name for queue in api.queues("v")] == ["q1", "q2", "q3"]
    assert [path.partition("&page=")[2].partition("&")[0] for _, path, _ in server.asked] == ["1", "2", "3"]
    assert all("disable_stats=true" in path for _, path, _ in server.asked)


def test_queues_that_go_away_while_pages_are_read_end_the_reading(server: Server, api: Management) -> None:
    """A page that is out of range by now holds nothing; it is no error."""
    server.answers = [(200, {"items": [{"name": "q1"}], "page_count": 2}), (400, {"error": "page_out_of_range"})]
    assert [queue.name for queue in api.queues("v")] == ["q1"]


def test_what_the_answer_leaves_out_is_none(server: Server, api: Management) -> None:
    """A count that the broker has not gathered is not zero."""
    server.answers = [(200, {"name": "a", "messages_ready": 0})]
    queue = api.queue("v", "a")
    assert (queue.ready, queue.unacknowledged, queue.consumers, queue.effective_policy) == (0, None, None, None)


def test_bindings_of_the_default_exchange_are_left_out(server: Server, api: Management) -> None:
    """Every queue has one, and nobody can change it."""
    one = {"destination": "q", "destination_type": "queue", "routing_key": "k", "arguments": {}, "properties_key": "k"}
    server.answers = [(200, [{"source": "", **one}, {"source": "x", **one}])]
    assert [(binding.source, binding.target, binding.key) for binding in api.bindings("v")] == [("x", "q", "k")]


def test_a_policy_is_written_in_the_words_of_the_api(server: Server, api: Management) -> None:
    """`apply_to` is `apply-to` there; the name is in the address."""
    server.answers = [(201, b"")]
    api.put_policy("v", PolicyInfo("p", "^a$", "quorum_queues", 7, {"max-length": 5}))
    body = {"pattern": "^a$", "apply-to": "quorum_queues", "priority": 7, "definition": {"max-length": 5}}
    assert server.asked == [("PUT", "/api/policies/v/p", body)]


def test_a_global_parameter_that_is_not_there_is_none(server: Server, api: Management) -> None:
    """Asking for it is no error."""
    server.answers = [(404, {"error": "Object Not Found", "reason": "Not Found"})]
    assert api.global_parameter("amqpq.shop") is None


REFUSALS: dict[str, tuple[Answer, type[errors.AmqpqError], str]] = {
    "wrong password": (
        (401, {"error": "not_authorized", "reason": "Login failed"}),
        errors.AuthenticationRefused,
        "refused the login of 'anna'; check user and password in broker.management",
    ),
    "no tag": (
        (401, {"error": "not_authorized", "reason": "Not management user"}),
        errors.AccessRefused,
        "Not management user; `rabbitmqctl set_user_tags USER management`",
    ),
    "wrong password or no tag": (
        (401, {"error": "not_authorized", "reason": "Not_Authorized"}),
        errors.AccessRefused,
        "user or password are wrong, or a tag is missing",
    ),
    "forbidden": ((403, {"reason": "no"}), errors.AccessRefused, "refuses GET /api/overview to 'anna': no"),
    "nothing there": ((404, {"reason": "Not Found"}), errors.ObjectNotFound, "knows no GET /api/overview"),
    "not taken": ((400, {"reason": "bad pattern"}), errors.PreconditionFailed, "does not take .*: bad pattern"),
    "elsewhere": ((302, b""), errors.TransportError, "sends GET /api/overview elsewhere \\(302\\)"),
    "broken": ((500, b"oops"), errors.TransportError, "answers GET /api/overview with 500"),
    "not the API": ((200, b"<html>"), errors.TransportError, "something that is not JSON; does broker.management name"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_become_errors_with_a_remedy(server: Server, api: Management, case: str) -> None:
    """Each status is an error of ours; none shows the password, nor what it looks like on the wire."""
    answer, kind, text = REFUSALS[case]
    server.answers = [answer]
    with pytest.raises(kind, match=text) as caught:
        api.overview()
    assert type(caught.value) is kind
    assert "pa:ss" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(server: Server, api: Management) -> None:
    """A read that finds the kept connection gone is made once more."""
    server.answers = [(200, {"rabbitmq_version": "4.0.5"})]
    api.overview()
    assert api._connection is not None
    api._connection.sock.close()
    api._connection.sock = _Gone()
    assert api.overview().version == "4.0.5"


def test_a_write_does_not_rely_on_a_connection_that_was_kept(server: Server, api: Management) -> None:
    """The server may have closed it while something else was done."""
    server.answers = [(200, {"rabbitmq_version": "4.0.5"}), (204, b"")]
    api.overview()
    assert api._connection is not None
    api._connection.sock.close()
    api._connection.sock = _Gone()
    api.delete_policy("v", "p")
    assert [method for method, _, _ in server.asked] == ["GET", "DELETE"]


def test_a_write_is_not_made_twice(server: Server, api: Management, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have happened: whoever asked decides."""
    made: list[http.client.HTTPConnection] = []

    def connect() -> http.client.HTTPConnection:
        made.append(http.client.HTTPConnection("127.0.0.1", server.port))
        made[-1].sock = _Gone()
        return made[-1]

    monkeypatch.setattr(api, "_connect", connect)
    with pytest.raises(errors.BrokerUnreachable):
        api.delete_policy("v", "p")
    assert len(made) == 1


class _Gone:
    """A socket whose other end has gone."""

    def sendall(self, _: bytes) -> None:
        raise BrokenPipeError

    def close(self) -> None:
        """Nothing is left to close."""


def test_nobody_there_is_said_with_the_remedy() -> None:
    """Connection refused names the address and the plugin."""
    made = Server()
    made.close()
    with pytest.raises(
        errors.BrokerUnreachable, match=f"127.0.0.1:{made.port} does not answer.*plugins enable rabbitmq_management"
    ):
        Management(endpoint(f"http://127.0.0.1:{made.port}")).overview()


def test_a_plain_port_is_told_from_a_tls_port(server: Server) -> None:
    """https:// to a port without TLS names the remedy."""
    with pytest.raises(errors.TlsMismatch, match="write http://"):
        Management(endpoint(f"https://127.0.0.1:{server.port}"), timeout_seconds=10).overview()


URLS: dict[str, tuple[str, str]] = {
    "port": ("http://host", "http://host:15672"),
    "TLS port": ("https://host", "https://host:15671"),
    "a proxy's folder": ("https://host:443/rabbit/api/", "https://host:443/rabbit"),
    "IPv6": ("http://[::1]:1", "http://[::1]:1"),
}


@pytest.mark.parametrize("case", URLS)
def test_urls(case: str) -> None:
    """What a URL leaves open has RabbitMQ's defaults."""
    given, shown = URLS[case]
    assert str(endpoint(given)) == shown


def test_a_url_without_login_uses_the_one_of_the_broker() -> None:
    """Two secrets for one user are one too many."""
    where = endpoint("http://host", login=("anna", "secret"))
    assert (where.user, where.password) == ("anna", "secret")
    assert "secret" not in repr(where)
    assert "secret" not in repr(Management(where))


@pytest.mark.parametrize(
    "given", ["amqp://u:secret@host", "http://u:secret@", "http://u:secret@h:x", "http://u:secret@h?a=b"]
)
def test_bad_urls_are_refused_without_their_password(given: str) -> None:
    """The message names the field and hides the secret."""
    with pytest.raises(errors.ConfigurationError, match=r"broker\.management") as caught:
        endpoint(given)
    assert "secret" not in str(caught.value)


def _calls(api: Management) -> list[Callable[[], object]]:
    return [lambda: api.exchanges("v"), lambda: api.policies("v"), lambda: api.operator_policies("v")]


def test_an_answer_of_another_shape_is_an_error(server: Server, api: Management) -> None:
    """An object where a list should be is not read as an empty list."""
    server.answers = [(200, {})]
    for call in _calls(api):
        with pytest.raises(errors.TransportError, match="with no list"):
            call()
