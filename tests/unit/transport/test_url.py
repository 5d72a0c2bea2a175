"""Broker URLs, and the passwords in them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.errors import ConfigurationError
from amqpq.transport.url import Address, Tls, masked, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("amqp://", Address()),
        ("amqp://host", Address("host")),
        ("amqp://host/", Address("host")),
        ("amqp://host//", Address("host")),
        ("amqp://host/%2F", Address("host")),
        ("amqp://u:p@host:1234/v", Address("host", 1234, "u", "p", "v")),
        ("amqp://u%40x:p%3A%2F%23@host/a%2Fb", Address("host", 5672, "u@x", "p:/#", "a/b")),
        ("amqp://u@host", Address("host", user="u", password="")),
        ("amqp://[::1]:5673/v", Address("::1", 5673, vhost="v")),
        ("amqps://host", Address("host", 5671, tls=Tls())),
        ("amqp://h?heartbeat=0", Address("h", heartbeat_seconds=0)),
        ("amqp://h?heartbeat=15", Address("h", heartbeat_seconds=15)),
        ("amqp://h/v?connection_timeout=2500", Address("h", vhost="v", connection_timeout_seconds=2.5)),
        ("amqps://h?verify=verify_none&server_name_indication=x", Address("h", 5671, tls=Tls(verify=False, server_name="x"))),
    ],
)  # fmt: skip
def test_a_url_says_where_and_as_whom(url: str, address: Address) -> None:
    """Every part of a URL has its place in the address, and its default."""
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqp://h?hartbeat=3", "unknown option 'hartbeat'; did you mean 'heartbeat'?"),
        ("amqp://h?zzz=3", "unknown option 'zzz'; known are cacertfile, certfile"),
        ("amqp://h?heartbeat=10s", "option heartbeat='10s': heartbeats are whole seconds from 0 (off) to 65535"),
        ("amqp://h?heartbeat=3&heartbeat=4", "option 'heartbeat' is given twice"),
        ("amqp://h?connection_timeout=0", "the time to connect is in whole milliseconds"),
        ("amqp://h?verify=verify_none", "is for amqps:// only"),
        ("amqps://h?verify=no", "must be verify_peer or verify_none"),
        ("amqps://h?cacertfile=/nowhere/ca.pem", "there is no such file"),
        ("http://h", "the scheme must be amqp or amqps, not 'http'"),
        ("localhost:5672", "a broker URL begins with amqp:// or amqps://"),
        ("localhost", "a broker URL begins with amqp:// or amqps://"),
        ("amqp://h/a/b", "the virtual host 'a/b' has a slash in it; write it %2F"),
        ("amqp://h:port/", "the port is not a number"),
        ("amqp://h:99999/", "the port is not a number from 0 to 65535"),
        ("amqp://[::1/", "it cannot be parsed"),
    ],
)
def test_a_url_that_cannot_be_meant_says_why(url: str, words: str) -> None:
    """Each mistake in a URL has its sentence, with the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "url", ["amqp://u:sec/ret@host/v", "amqp://u:sec#ret@host/", "amqp://u:se:cr/et@h", "x://u:secret@h?a=1"]
)
def test_an_unusable_url_does_not_give_its_password_away(url: str) -> None:
    """A password with unescaped characters breaks the URL, and the message explains it without showing it."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert "ret" not in str(caught.value)
    assert "cr" not in str(caught.value)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20).map(lambda text: f"pässwörd{text}#@:/"))
def test_user_and_password_travel_percent_encoded(user: str, password: str) -> None:
    """Any user and password, percent-encoded, come out as they are, and the password shows nowhere."""
    try:
        url = f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@host/v"
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    address = parse(url)
    assert (address.user, address.password) == (user, password)
    for shown in (repr(address), str(address), masked(url)):
        assert password not in shown
        assert quote(password, safe="") not in shown


def test_tls_options_without_tls_are_refused() -> None:
    """A project that configures TLS and writes amqp:// would send its password in clear."""
    with pytest.raises(ConfigurationError, match="amqp:// is not encrypted; write amqps://"):
        parse("amqp://host", tls=Tls())


def test_the_url_completes_the_tls_options(tmp_path: Path) -> None:
    """What the URL says wins over what is handed in; the rest stays."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    address = parse(f"amqps://h?cacertfile={ca}", tls=Tls(verify=False, ca="other.pem"))
    assert address.tls == Tls(verify=False, ca=str(ca))


def test_an_address_shows_its_place_with_brackets_for_ipv6() -> None:
    """host:port is unambiguous for people and for py-amqp."""
    assert parse("amqp://[fe80::1]:5673").place == "[fe80::1]:5673"
    assert str(parse("amqps://u:p@h/v")) == "amqps://u:***@h:5671/v"
