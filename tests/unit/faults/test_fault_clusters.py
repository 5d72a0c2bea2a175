"""The hosts of the clusters."""

from __future__ import annotations

from tests.faults.clusters import holder


def test_who_has_the_address_of_a_cluster_is_read_from_what_ip_says() -> None:
    """The cable of another run, which one that was killed has left behind; nobody, where there is no line."""
    said = (
        "7: aqf0-4711    inet 10.203.78.254/24 scope global aqf0-4711\\       valid_lft forever preferred_lft forever\n"
    )
    assert holder(said) == "aqf0-4711"
    assert holder("") is None
