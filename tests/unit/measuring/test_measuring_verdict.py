"""Figures to sentences: each row is a broker somebody might have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from amqpq.measuring.figures import CodecCost, Figures, Latency, Publishing, Rate, Replies
from amqpq.measuring.verdict import MOST_FINDINGS, Limit, Setting, judge

QUIET = Setting(payload_bytes=200, prefetch=100, frame_max=131072, local=False, machine_busy=0.1)


def latency(p50_ms: float) -> Latency:
    """A latency with a tail."""
    return Latency(p50_ms, p50_ms * 2, 1000)


def steady(per_second: float, *, busy: float = 0.4, **changes: Any) -> Rate:
    """A rate that did not swing."""
    even = Rate(
        per_second, per_second * 0.9, per_second * 1.1, busy / per_second * 1e6, busy, 10_000, 10_000 / per_second
    )
    return replace(even, **changes)


def published(rate: Rate, single_ms: float = 0.4, *, kind: str = "classic", network_ms: float = 0.2) -> Figures:
    """Figures of publishing alone."""
    return Figures(latency(network_ms), publish={kind: Publishing(rate, latency(single_ms))})


def consumed(rate: Rate, *, network_ms: float = 0.2) -> Figures:
    """Figures of throughput alone."""
    return Figures(latency(network_ms), throughput={"quorum": rate})


COSTS = {"off": CodecCost(4, 6), "hmac-sha256": CodecCost(6, 9), "ed25519": CodecCost(40, 120)}

TABLE = {
    "a busy process": (
        published(steady(24_120, busy=0.93)),
        QUIET,
        Limit.CLIENT,
        "This process limits publishing (classic 24,100/s): it kept 93% of a core busy, at 39 us a message.",
        "in processes of their own",
    ),
    "a slow broker": (
        published(steady(9_000, busy=0.3), kind="quorum"),
        QUIET,
        Limit.BROKER,
        (
            "The broker limits publishing (quorum 9,000/s): this process was busy for 30% of a core at most, and the network "
            "answers in 0.20 ms."
        ),
        "A quorum queue has each message on the disks of most of its nodes",
    ),
    "a gigabit link": (
        published(steady(1_700)),
        replace(QUIET, payload_bytes=65_536),
        Limit.NETWORK,
        "The network limits publishing (classic 1,700/s): 111 MB/s of payload, which is about what a link of 1 Gbit/s carries.",
        "compression: zlib",
    ),
    "a short prefetch, far away": (
        consumed(steady(900), network_ms=10.0),
        replace(QUIET, prefetch=10),
        Limit.SETTINGS,
        (
            "The prefetch limits publishing and consuming (quorum 900/s): 10 messages in 10.0 ms, which is the way to the broker "
            "and back, are all that can come."
        ),
        "Give more: 18 would do here",
    ),
    "a short prefetch, near": (
        consumed(steady(2_090)),
        replace(QUIET, prefetch=1),
        Limit.SETTINGS,
        (
            "The prefetch of 1 limits publishing and consuming (quorum 2,090/s): a consumer that holds so few waits for the "
            "broker after nearly every message."
        ),
        "--prefetch 100",
    ),
    "one message at a time, far away": (
        published(steady(9_000), 13.0, network_ms=12.4),
        QUIET,
        Limit.NETWORK,
        (
            "One publish at a time waits for the network: 12.4 of 13.0 ms are the way to the broker and back, so it is "
            "76.9/s at most."
        ),
        "`with app.batch():`",
    ),
    "a slow disk": (
        published(steady(9_000), 8.4, kind="quorum"),
        QUIET,
        Limit.BROKER,
        (
            "One publish at a time waits for the broker: its confirm on a quorum queue takes 8.4 ms, 0.20 of them network; a "
            "persistent message is confirmed when it is on disk."
        ),
        "fsync",
    ),
    "a proxy without TCP_NODELAY": (
        published(steady(9_000), 40.9),
        QUIET,
        Limit.SETTINGS,
        (
            "A publish and its confirm on a classic queue take 41 ms, 0.2 ms of them network: the rest looks like TCP holding "
            "its acknowledgement back for 40 ms."
        ),
        "nodelay",
    ),
    "small frames": (
        published(steady(9_000)),
        replace(QUIET, frame_max=4096, payload_bytes=10_000),
        Limit.SETTINGS,
        "Frames are 4096 bytes at most, so each message of 10000 bytes is cut into 3.",
        "frame_max = 131072",
    ),
    "far, with a prefetch that is enough": (
        consumed(steady(2_000), network_ms=10.0),
        replace(QUIET, prefetch=1000),
        Limit.NETWORK,
        "The broker is 10.0 ms away: a worker that is to take 2,000 messages/s needs 20 of them under way.",
        "`--prefetch 20`",
    ),
    "reply queues": (
        Figures(latency(0.2), replies=Replies(steady(580), steady(9_010))),
        QUIET,
        Limit.BROKER,
        "The broker makes, fills, empties and deletes 580 reply queues/s, and answers 9,010 direct calls/s.",
        "`replies: {mode: direct}`",
    ),
    "Ed25519": (
        replace(consumed(steady(10_000)), signing=COSTS),
        replace(QUIET, signing="ed25519"),
        Limit.CLIENT,
        "Ed25519 takes 150 us of CPU to sign and check a message, more than all else; HMAC takes 5.",
        "sign with hmac-sha256",
    ),
    "a rate that swung": (
        published(steady(9_000, slowest_per_second=3_000.0)),
        QUIET,
        Limit.LOAD,
        "The rate of publishing (classic queue) swung between 3,000 and 9,900/s while it was measured.",
        "measure again when it is quiet",
    ),
    "a busy machine": (
        published(steady(9_000)),
        replace(QUIET, machine_busy=0.8, local=True),
        Limit.LOAD,
        (
            "This machine was busy before it began (80% of its CPUs): this process and the broker had only what others left, "
            "and the rates say no more than that."
        ),
        "Measure again",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_limits_is_said_in_a_sentence(case: str) -> None:
    """Each case has a finding with its number in it, of the right kind, and what to do about it."""
    figures, setting, limit, found, advice = TABLE[case]
    matching = [finding for finding in judge(figures, setting) if finding.found == found]
    assert matching, [str(finding) for finding in judge(figures, setting)]
    assert matching[0].limit is limit
    assert advice in matching[0].advice


@pytest.mark.parametrize("case", TABLE)
def test_each_finding_needs_its_cause(case: str) -> None:
    """Nothing is said of what is well: a near broker with a fast disk has one finding, that something must be the limit."""
    well = published(steady(20_000))
    assert TABLE[case][3] not in [finding.found for finding in judge(well, QUIET)]
    assert [finding.limit for finding in judge(well, QUIET)] == [Limit.BROKER]


def test_on_a_busy_machine_nobody_is_blamed_for_the_rates() -> None:
    """Who waited for whom cannot be told there, so neither the broker nor this process is said to limit."""
    busy = replace(QUIET, machine_busy=0.6)
    assert [finding.limit for finding in judge(published(steady(9_000)), busy)] == [Limit.LOAD]


def test_rates_with_one_limit_share_a_line() -> None:
    """Queue types stand side by side, kinds of work behind one another."""
    figures = Figures(
        latency(0.2),
        publish={
            kind: Publishing(steady(rate), latency(0.4)) for kind, rate in (("classic", 6_020), ("quorum", 12_770))
        },
        throughput={"classic": steady(6_254)},
    )
    (finding,) = judge(figures, QUIET)
    listed = "publishing (classic 6,020/s, quorum 12,800/s) and publishing and consuming (classic 6,250/s)"
    assert finding.found.startswith(f"The broker limits {listed}: ")


def test_a_local_broker_has_no_link() -> None:
    """What looks like a full gigabit on loopback is a coincidence."""
    local = replace(QUIET, payload_bytes=65_536, local=True)
    assert [finding.limit for finding in judge(published(steady(1_700)), local)] == [Limit.BROKER]


def test_a_large_message_is_not_the_disk() -> None:
    """What a megabyte takes on its way is no wait for the disk."""
    large = published(steady(300), 4.2)
    assert not any("on disk" in finding.found for finding in judge(large, QUIET))


def test_direct_replies_are_not_recommended_to_who_has_them() -> None:
    """The topology's own mode is known where there is one."""
    figures = Figures(latency(0.2), replies=Replies(steady(580), steady(9_000)))
    said = [str(finding) for finding in judge(figures, replace(QUIET, reply_mode="direct"))]
    assert not any("mode: direct" in each for each in said)


def test_at_most_five_findings() -> None:
    """A reader gets the most important ones, however much there is to say."""
    figures = Figures(
        latency(12.0),
        publish={"quorum": Publishing(steady(9_000, busy=0.95, slowest_per_second=1.0), latency(13.0))},
        throughput={"quorum": steady(2_000)},
        replies=Replies(steady(100), steady(9_000)),
        signing=COSTS,
    )
    setting = Setting(10_000, 10, 4096, local=False, signing="ed25519")
    found = judge(figures, setting)
    assert len(found) == MOST_FINDINGS
    assert found[0].limit is Limit.LOAD


def test_nothing_measured_nothing_said() -> None:
    """The cost of signatures alone limits nobody."""
    assert judge(Figures(latency(0.2), signing=COSTS), QUIET) == ()
