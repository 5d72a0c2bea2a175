"""L10: CC and BCC when a message is published again: where the copies go, and where not."""

from __future__ import annotations

from tests.support.lab import Lab


def test_a_copy_header_makes_copies_each_time_a_message_is_published_to_queues_by_name(lab: Lab) -> None:
    """CC stays in the message; who publishes it again as it is makes a second copy for the other queue."""
    lab.declare("a")
    lab.declare("b")
    lab.send("a", b"x", headers={"CC": ["b"]})
    assert lab.bodies("b") == [b"x"]
    taken = lab.arrival("a")
    assert taken.properties.headers["CC"] == ["b"]
    lab.send("a", taken.body, headers=taken.properties.headers)
    assert lab.bodies("b") == [b"x"]


def test_an_ingress_makes_no_copies(lab: Lab) -> None:
    """A fanout exchange does not look at CC, so what is published again to an ingress stays one message."""
    lab.exchange("a.in", "fanout", {"alternate-exchange": "a.alt"})
    lab.exchange("a.alt", "fanout")
    lab.declare("a")
    lab.declare("b")
    lab.bind("a.in", "a")
    assert lab.publish("a.in", "a", b"x", headers={"CC": ["b"], "BCC": ["b"]}).confirmed
    assert lab.bodies("a") == [b"x"]
    assert lab.bodies("b") == []


def test_an_ingress_behind_another_exchange_keeps_the_copies_of_that_exchange(lab: Lab) -> None:
    """The first exchange looks at CC; the queue behind the ingress still gets one message."""
    lab.exchange("direct", "direct")
    lab.exchange("a.in", "fanout")
    lab.declare("a")
    lab.declare("b")
    lab.bind("a.in", "a")
    lab.bind("direct", "b", "b")
    lab.bind("direct", "a.in", "a", to_exchange=True)
    assert lab.publish("direct", "a", b"x", headers={"CC": ["b", "a"]}).confirmed
    assert lab.bodies("a") == [b"x"]
    assert lab.bodies("b") == [b"x"]


def test_blind_copies_are_taken_out(lab: Lab) -> None:
    """BCC makes a copy and is gone from the message, so publishing again repeats nothing."""
    lab.declare("a")
    lab.declare("b")
    lab.send("a", b"x", headers={"BCC": ["b"]})
    assert lab.bodies("b") == [b"x"]
    assert "BCC" not in lab.arrival("a").properties.headers
