"""What limits: figures to sentences. Pure, and nothing else decides it.

The rules, and the numbers they go by:

* On a machine that was busy before it began nothing is said about rates but that: who waited for whom cannot be told.
* A rate at which this process keeps nearly a core busy (`BUSY`) is this process's own limit: Python runs on one core at a time.
* One that a short prefetch explains (`prefetch` messages per network round trip, or fewer than `LOW_PREFETCH`) is a setting's.
* One that fills a usual link (80 to 100 % of 0.1, 1, 10 or 25 Gbit/s) is the network's.
* Every other rate is the broker's.
* What one message at a time takes is the network's where that is half of it and more, else the broker's, which for a persistent
  message is mostly its disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from amqpq.measuring.figures import Figures, Latency, Rate

MOST_FINDINGS: Final = 5
BUSY: Final = 0.85
"""Of a core. What is left goes to waiting for the interpreter lock and the kernel."""
FAR_MS: Final = 1.0
"""A network round trip above this is not the same machine or rack."""
LOW_PREFETCH: Final = 10
"""A consumer that holds fewer waits for the broker after nearly every message, however near it is."""
SLOW_DISK_MS: Final = 2.0
"""What a confirm may take beyond the network before the disk is worth a word; 0.3 to 0.8 ms where it is good."""
DELAYED_ACK_MS: Final = (38.0, 46.0)
"""Linux holds a TCP acknowledgement back for 40 ms; Nagle's algorithm waits for it."""
LINKS_BYTES: Final[Mapping[str, float]] = {
    "100 Mbit/s": 12.5e6,
    "1 Gbit/s": 125e6,
    "10 Gbit/s": 1.25e9,
    "25 Gbit/s": 3.1e9,
}
FULL_LINK: Final = 0.8
CHEAPER_DIRECT: Final = 3.0
"""From so many times the calls on, direct replies are worth a word."""
FRAME_OVERHEAD_BYTES: Final = 8
CROWDED: Final = 0.5
"""Of the machine's processors in use before the first measure; from here on this process and a local broker wait for a turn."""
SLOWEST_SHARE: Final = 0.5
"""A slowest fifth below this share of the fastest: something else goes on."""
FULL_FRAME_BYTES: Final = 131072
"""RabbitMQ's default `frame_max`."""
_PUBLISHING: Final = "publishing"
_CONSUMING: Final = "publishing and consuming"
_CALLING: Final = "calls with direct replies"


class Limit(StrEnum):
    """What limits."""

    CLIENT = "client"
    NETWORK = "network"
    BROKER = "broker"
    SETTINGS = "settings"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Setting:
    """What was known beside the figures.

    `machine_busy` is the share of the processors in use before the first measure, None where the machine does not tell. `signing`
    and `reply_mode` are the topology's; None where no topology is about, and `signing` where nothing is signed.
    """

    payload_bytes: int
    prefetch: int
    frame_max: int
    local: bool
    machine_busy: float | None = None
    signing: str | None = None
    reply_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One limit: what was found, and what to do about it."""

    limit: Limit
    found: str
    advice: str

    def __str__(self) -> str:
        """Return both as sentences."""
        return f"{self.found} {self.advice}"


def judge(figures: Figures, setting: Setting) -> tuple[Finding, ...]:
    """Return at most five findings, the most important one first; none where nothing was measured that can be judged."""
    return tuple(islice(_findings(figures, setting), MOST_FINDINGS))


def _findings(figures: Figures, setting: Setting) -> Iterator[Finding]:
    if _crowded(setting):
        yield _crowd(setting)
    else:
        yield from _uneven(figures)
        yield from _rates(figures, setting)
    yield from _one_at_a_time(figures)
    yield from _small_frames(setting)
    yield from _far(figures, setting)
    yield from _replies(figures, setting)
    yield from _signing(figures, setting)


# ---------------------------------------------------------------------------------------------------------------- rates


@dataclass(frozen=True, slots=True)
class _Named:
    """A rate and what it is of; `kind` is the type of the queue, empty where that says nothing."""

    work: str
    kind: str
    rate: Rate

    def __str__(self) -> str:
        return f"{self.work} ({self.kind} queue)" if self.kind else self.work


def _named_rates(figures: Figures) -> list[_Named]:
    found = [_Named(_PUBLISHING, kind, publishing.batch) for kind, publishing in figures.publish.items()]
    found += [_Named(_CONSUMING, kind, rate) for kind, rate in figures.throughput.items()]
    if figures.replies is not None:
        found.append(_Named(_CALLING, "", figures.replies.direct))
    return found


def _crowded(setting: Setting) -> bool:
    return setting.machine_busy is not None and setting.machine_busy >= CROWDED


def _crowd(setting: Setting) -> Finding:
    both = "this process and the broker had" if setting.local else "this process had"
    return Finding(
        Limit.LOAD,
        f"This machine was busy before it began ({setting.machine_busy:.0%} of its CPUs): {both} only what others left, and "
        "the rates say no more than that.",
        "Measure again when it is quiet.",
    )


def _uneven(figures: Figures) -> Iterator[Finding]:
    """Something else goes on: the rest is to be read with that in mind, so it comes first."""
    for named in _named_rates(figures):
        rate = named.rate
        if rate.slowest_per_second < SLOWEST_SHARE * rate.fastest_per_second:
            yield Finding(
                Limit.LOAD,
                f"The rate of {named} swung between {_count(rate.slowest_per_second)} and "
                f"{_count(rate.fastest_per_second)}/s while it was measured.",
                "Other work on the broker, on this machine or on the network takes its share; measure again when it is quiet, "
                "or with more --seconds.",
            )
            return


def _rates(figures: Figures, setting: Setting) -> Iterator[Finding]:
    """One finding per limit, which names all rates that it limits."""
    limited: dict[Limit, list[_Named]] = {}
    for named in _named_rates(figures):
        limited.setdefault(_limit(named, figures.network, setting), []).append(named)
    for limit, rates in limited.items():
        if limit is Limit.CLIENT:
            yield _client(rates)
        elif limit is Limit.SETTINGS:
            yield _prefetch(rates, figures.network, setting)
        elif limit is Limit.NETWORK:
            yield _link(rates, setting)
        else:
            yield _broker(rates, figures.network)


def _limit(named: _Named, network: Latency, setting: Setting) -> Limit:
    if named.rate.busy >= BUSY:
        return Limit.CLIENT
    if named.work != _PUBLISHING and _short(named.rate, network, setting):
        return Limit.SETTINGS
    if _full_link(named.rate, setting):
        return Limit.NETWORK
    return Limit.BROKER


def _client(rates: Sequence[_Named]) -> Finding:
    busy = max(named.rate.busy for named in rates)
    each = [named.rate.cpu_us for named in rates]
    cost = f"{min(each):.0f}" if len(each) == 1 else f"{min(each):.0f} to {max(each):.0f}"
    return Finding(
        Limit.CLIENT,
        f"This process limits {_listed(rates)}: it kept {busy:.0%} of a core busy, at {cost} us a message.",
        "The broker may have room: more producers and workers (`amqpq worker -c`) in processes of their own show how much.",
    )


def _short(rate: Rate, network: Latency, setting: Setting) -> bool:
    """Whether the prefetch explains the rate."""
    if setting.prefetch < LOW_PREFETCH:
        return True
    return network.p50_ms >= FAR_MS and rate.per_second * 1.5 >= setting.prefetch / (network.p50_ms / 1e3)


def _prefetch(rates: Sequence[_Named], network: Latency, setting: Setting) -> Finding:
    if network.p50_ms < FAR_MS:
        return Finding(
            Limit.SETTINGS,
            f"The prefetch of {setting.prefetch} limits {_listed(rates)}: a consumer that holds so few waits for the broker "
            "after nearly every message.",
            "Long tasks want few; for short ones try `amqpq bench --prefetch 100`, and `amqpq worker --prefetch`.",
        )
    fastest = max(named.rate.per_second for named in rates)
    return Finding(
        Limit.SETTINGS,
        f"The prefetch limits {_listed(rates)}: {setting.prefetch} messages in {network.p50_ms:.1f} ms, which is the way to the "
        "broker and back, are all that can come.",
        f"Give more: {_needed(2 * fastest, network)} would do here (`amqpq bench --prefetch`, `amqpq worker --prefetch`).",
    )


def _full_link(rate: Rate, setting: Setting) -> str | None:
    if setting.local:
        return None
    moved = rate.per_second * setting.payload_bytes
    return next((name for name, limit in LINKS_BYTES.items() if FULL_LINK * limit <= moved <= limit), None)


def _link(rates: Sequence[_Named], setting: Setting) -> Finding:
    fastest = max((named.rate for named in rates), key=lambda rate: rate.per_second)
    return Finding(
        Limit.NETWORK,
        f"The network limits {_listed(rates)}: {fastest.per_second * setting.payload_bytes / 1e6:.0f} MB/s of payload, which is "
        f"about what a link of {_full_link(fastest, setting) or 'this size'} carries.",
        "Send less: `messages: {compression: zlib}`, or references to the data instead of the data.",
    )


def _broker(rates: Sequence[_Named], network: Latency) -> Finding:
    busy = max(named.rate.busy for named in rates)
    disk = " A quorum queue has each message on the disks of most of its nodes before it confirms."
    return Finding(
        Limit.BROKER,
        f"The broker limits {_listed(rates)}: this process was busy for {busy:.0%} of a core at most, and the network answers "
        f"in {network.p50_ms:.2f} ms.",
        "A queue and a connection use about one of its cores each: several of both (`partitions:`) use more."
        + (disk if any(named.kind == "quorum" for named in rates) else ""),
    )


# -------------------------------------------------------------------------------------------------------- one at a time


def _one_at_a_time(figures: Figures) -> Iterator[Finding]:
    """The slowest confirm says it for all: types differ in what the disk costs and in nothing else."""
    if not figures.publish:
        return
    kind, publishing = max(figures.publish.items(), key=lambda item: item[1].single.p50_ms)
    single, network = publishing.single, figures.network.p50_ms
    carried = 1e3 / publishing.batch.per_second  # what one message takes when nobody waits for it
    at_most = 1e3 / single.p50_ms
    if DELAYED_ACK_MS[0] <= single.p50_ms - network <= DELAYED_ACK_MS[1]:
        yield Finding(
            Limit.SETTINGS,
            f"A publish and its confirm on a {kind} queue take {single.p50_ms:.0f} ms, {network:.1f} ms of them network: "
            "the rest looks like TCP holding its acknowledgement back for 40 ms.",
            "A proxy on the way, or the broker, has no TCP_NODELAY: set it (`tcp_listen_options.nodelay = true`).",
        )
    elif network >= FAR_MS and network >= single.p50_ms / 2:
        yield Finding(
            Limit.NETWORK,
            f"One publish at a time waits for the network: {network:.1f} of {single.p50_ms:.1f} ms are the way to the broker "
            f"and back, so it is {_count(at_most)}/s at most.",
            "Publish inside `with app.batch():`, from several threads, or nearer to the broker.",
        )
    elif single.p50_ms - network - carried >= SLOW_DISK_MS:
        yield Finding(
            Limit.BROKER,
            f"One publish at a time waits for the broker: its confirm on a {kind} queue takes {single.p50_ms:.1f} ms, "
            f"{network:.2f} of them network; a persistent message is confirmed when it is on disk.",
            "A faster disk (look at the time of fsync) helps, and `with app.batch():` shares one wait among many messages.",
        )


# ------------------------------------------------------------------------------------------------------------- settings


def _small_frames(setting: Setting) -> Iterator[Finding]:
    content = setting.frame_max - FRAME_OVERHEAD_BYTES
    if 0 < setting.frame_max < FULL_FRAME_BYTES and setting.payload_bytes > content:
        yield Finding(
            Limit.SETTINGS,
            f"Frames are {setting.frame_max} bytes at most, so each message of {setting.payload_bytes} bytes is cut into "
            f"{-(-setting.payload_bytes // content)}.",
            f"`frame_max = {FULL_FRAME_BYTES}` in rabbitmq.conf is RabbitMQ's own default.",
        )


def _far(figures: Figures, setting: Setting) -> Iterator[Finding]:
    """What a prefetch has to be is only worth a word where the network is far and the one that was tried was enough."""
    if figures.network.p50_ms < FAR_MS or not figures.throughput:
        return
    best = max(rate.per_second for rate in figures.throughput.values())
    needed = _needed(best, figures.network)
    if needed <= setting.prefetch:
        yield Finding(
            Limit.NETWORK,
            f"The broker is {figures.network.p50_ms:.1f} ms away: a worker that is to take {_count(best)} messages/s needs "
            f"{needed} of them under way.",
            f"Start such workers with `--prefetch {needed}` or more; the default is four per task that runs at once.",
        )


def _replies(figures: Figures, setting: Setting) -> Iterator[Finding]:
    replies = figures.replies
    if replies is None or setting.reply_mode not in {None, "task"}:
        return
    lives, direct = replies.queue_per_task, replies.direct
    if lives.busy < BUSY and direct.per_second >= CHEAPER_DIRECT * lives.per_second:
        yield Finding(
            Limit.BROKER,
            f"The broker makes, fills, empties and deletes {_count(lives.per_second)} reply queues/s, and answers "
            f"{_count(direct.per_second)} direct calls/s.",
            "Where a result may be lost with the caller's connection, use `replies: {mode: direct}`; where nobody reads it, "
            "`reply: none`.",
        )


def _signing(figures: Figures, setting: Setting) -> Iterator[Finding]:
    """Both ends of Ed25519 against all else that a message costs here."""
    if setting.signing != "ed25519" or "ed25519" not in figures.signing:
        return
    costs = figures.signing
    signed = costs["ed25519"].encode_us + costs["ed25519"].decode_us
    plain = costs["off"].encode_us + costs["off"].decode_us
    shared = costs["hmac-sha256"].encode_us + costs["hmac-sha256"].decode_us
    carried = max((rate.cpu_us for rate in figures.throughput.values()), default=0.0)
    if signed - plain > plain + carried:
        yield Finding(
            Limit.CLIENT,
            f"Ed25519 takes {signed - plain:.0f} us of CPU to sign and check a message, more than all else; HMAC takes "
            f"{max(shared - plain, 0):.0f}.",
            "Where producers and workers may share one secret, sign with hmac-sha256.",
        )


# ---------------------------------------------------------------------------------------------------------------- words


def _listed(rates: Sequence[_Named]) -> str:
    """Return `publishing (classic 6,020/s, quorum 12,800/s) and direct replies (4,960/s)`."""
    works: dict[str, list[str]] = {}
    for named in rates:
        works.setdefault(named.work, []).append(f"{named.kind} {_count(named.rate.per_second)}/s".strip())
    parts = [f"{work} ({', '.join(each)})" for work, each in works.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _needed(per_second: float, network: Latency) -> int:
    """Return how many messages have to be under way for this rate."""
    return max(round(per_second * network.p50_ms / 1e3), 1)


def _count(per_second: float) -> str:
    """Return a rate with as many digits as can be meant."""
    if per_second < 100:  # noqa: PLR2004 - below, the third digit says something
        return f"{per_second:.3g}"
    digits = 10 ** max(len(str(round(per_second))) - 3, 0)
    return f"{round(per_second / digits) * digits:,}"
