"""Whether cost grows straight: with the length of the queue, with the size of the body, and with compression.

    python -m benchmarks.scaling depth --deep 1000000
    python -m benchmarks.scaling bodies codecs --rounds 3

* `depth`: what one task costs a worker with 1,000 and with a million in the queue. The same worker, warm, is stopped
  (SIGSTOP) while a thousand are published, and goes on; repeated. A burst has a beginning and an end, which cost, so 22,000
  are looked at too, and the long queue is held against the cheaper one. For these and for the million they are published
  first, then a worker is started, and measured over 20,000 after its first two thousand.
* `bodies`: publish and end to end with 64 KiB of text, amqpq's stream (confirmed) beside the C client, in turn. It is held
  against the C client without confirms; the one with them is shown.
* `prepared`: what the broker takes of messages that were planned, encoded and signed beforehand, beside the same calls as a
  stream: the limit of what a publisher of such messages can reach.
* `codecs`: the CPU that zlib and bzip2 add to publisher and worker with those bodies, beside the time that packing and
  unpacking take alone. Less than that is possible: what was packed is cheaper to sign and to send.

A private node is started, or `$AMQPQ_BROKER_URL` names a broker; the queues are deleted again.
"""

from __future__ import annotations

import argparse
import bz2
import os
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import msgpack

from amqpq.message.compression import ZLIB_LEVEL
from benchmarks import cpu, drive, measures, needs
from benchmarks.broker import broker
from benchmarks.catalogue import ENTRIES
from benchmarks.contender import SMALL_BYTES, Entry, Setting, payload
from benchmarks.contenders import ours
from benchmarks.counting import Board
from benchmarks.measures import Sample
from benchmarks.start import verdict

LARGE_BYTES = 65_536
DEPTH_LIMIT = 1.1
BODY_LIMIT = 0.8
CODEC_LIMIT = 1.1

SHALLOW = 1000
BURSTS = 20
MEASURED = SHALLOW * BURSTS
CHUNK = 20_000
"""Published in one batch: what the publisher holds in memory."""

WARM = 2000

PREPARED = 20_000

COUNTS = drive.Counts(publish=200, collect=0, round_trips=20)
BY_NAME = {entry.name: entry for entry in ENTRIES}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them where none is named")
    parser.add_argument("--deep", type=int, default=1_000_000, help="messages in the long queue (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    with broker() as url:
        held = [PARTS[part](url, given) for part in given.parts or PARTS]
    return 0 if all(held) else 1


# ------------------------------------------------------------------------------------------------------- long queues


def depth(url: str, given: argparse.Namespace) -> bool:
    """Measure tasks at both depths, print them, and return whether the limit holds."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        counter = Path(folder) / "counter"
        counter.mkdir()
        options = {"signing": "hmac-sha256", "batch": "yes"}
        setting = Setting(url, Path(folder), f"bench.depth.{os.getpid()}", counter, options)
        contender = ours.Contender(setting)
        contender.prepare()
        queue = drive.Queue(url, setting.queue)
        try:
            shallow = bursts(contender, queue, setting)
            middle = drained(contender, queue, setting, WARM + MEASURED)
            deep = drained(contender, queue, setting, given.deep)
        finally:
            contender.close()
            queue.close()
    for count, (processor, seconds) in ((SHALLOW, shallow), (WARM + MEASURED, middle), (given.deep, deep)):
        print(f"{count:>9,} in the queue: {processor * 1e6:.1f} us of worker CPU per task, {1 / seconds:,.0f} tasks/s")
    ratio = deep[0] / min(shallow[0], middle[0])
    return verdict(f"CPU per task in the long queue: {ratio:.3f} of that in the cheaper short one", ratio, DEPTH_LIMIT)


def bursts(contender: ours.Contender, queue: drive.Queue, setting: Setting) -> tuple[float, float]:
    """Return CPU seconds and seconds per task of a warm worker that finds `SHALLOW` tasks, `BURSTS` times."""
    board = Board(setting.counter)
    processor = seconds = 0.0
    with drive.running_worker(contender, queue, setting.folder / "worker.log") as pid:
        contender.publish(WARM)
        board.wait(WARM, drive.DEADLINE_SECONDS)
        for _ in range(BURSTS):
            target = board.total()[0] + SHALLOW
            members = cpu.tree(pid)
            signalled(members, signal.SIGSTOP)
            contender.publish(SHALLOW)
            before, began = cpu.tree_seconds(pid), time.monotonic_ns()
            signalled(reversed(members), signal.SIGCONT)
            ended = board.wait(target, drive.DEADLINE_SECONDS)
            processor += cpu.tree_seconds(pid) - before
            seconds += (ended - began) / 1e9
    return processor / MEASURED, seconds / MEASURED


def signalled(members: Iterable[int], number: signal.Signals) -> None:
    for member in members:
        os.kill(member, number)


def drained(contender: ours.Contender, queue: drive.Queue, setting: Setting, deep: int) -> tuple[float, float]:
    """Return CPU seconds and seconds per task of a worker with `deep` tasks before it, as many as the bursts had."""
    for begin in range(0, deep, CHUNK):
        contender.publish(min(CHUNK, deep - begin))
    board = Board(setting.counter)
    start, _ = board.total()
    with drive.running_worker(contender, queue, setting.folder / "worker.log") as pid:
        began = board.wait(start + WARM, drive.DEADLINE_SECONDS)
        before, first = cpu.tree_seconds(pid), board.total()[0]
        ended = board.wait(start + WARM + min(MEASURED, deep - WARM), drive.DEADLINE_SECONDS)
        processor, done = cpu.tree_seconds(pid) - before, board.total()[0] - first
        queue.purge()
    return processor / done, (ended - began) / 1e9 / done


# ------------------------------------------------------------------------------------------------------ large bodies


def bodies(url: str, given: argparse.Namespace) -> bool:
    """Measure large bodies beside the C client, print the ratios, and return whether they hold."""
    lack = needs.missing("librabbitmq")
    if lack is not None:
        print(f"SKIPPED: bodies. {lack}")
        return False
    names = ("librabbitmq (C)", "librabbitmq (C), confirms", "amqpq, HMAC, stream")
    found = medians(url, [BY_NAME[name] for name in names], given.rounds)
    held = []
    for measure, says in (("publish_per_s", "published"), ("end_to_end_per_s", "end to end")):
        floor, confirmed, own = (found[name][measure] for name in names)
        print(f"64 KiB, {says}: C {floor:,.0f}/s, C with confirms {confirmed:,.0f}/s, amqpq {own:,.0f}/s")
        ratio = own / floor
        holds = ratio >= BODY_LIMIT
        print(f"64 KiB, {says}: {ratio:.2f} of C's; at least {BODY_LIMIT:g}: {'holds' if holds else 'DOES NOT HOLD'}")
        held.append(holds)
    return all(held)


def medians(url: str, entries: list[Entry], rounds: int) -> dict[str, dict[str, float]]:
    """Measure large bodies without results, in alternating order; return the medians by row and measure."""
    samples = []
    for number in range(1, rounds + 1):
        for entry in entries if number % 2 else reversed(entries):
            plain = replace(entry, scale=10, results=False)
            figures = drive.measured(plain, url, COUNTS, payload_bytes=LARGE_BYTES)
            samples += [Sample(number, entry.name, measure, value) for measure, value in figures.items()]
    found: dict[str, dict[str, float]] = {entry.name: {} for entry in entries}
    for (name, measure), summary in measures.summaries(samples).items():
        found[name][measure] = summary.median
    return found


# ------------------------------------------------------------------------------------------------------------- limits


def prepared(url: str, given: argparse.Namespace) -> bool:
    """Publish messages that were planned, encoded and signed beforehand, and the same calls as a stream, in turn.

    The first is what the broker takes of such messages, persistent, mandatory and confirmed, from a client that does nothing
    else; so it is the limit of the second. It prints both, and holds nothing.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(url, Path(folder), f"bench.prepared.{os.getpid()}", Path(folder), {"signing": "hmac-sha256"})
        contender = ours.Contender(setting)
        contender.prepare()
        queue = drive.Queue(url, setting.queue)
        try:
            for size, count in ((SMALL_BYTES, PREPARED), (LARGE_BYTES, PREPARED // 10)):
                rates: tuple[list[float], list[float]] = ([], [])
                for _ in range(given.rounds):
                    for taken, publish in zip(rates, contender.publishers(payload(size), count), strict=True):
                        began = time.perf_counter()
                        publish()
                        taken.append(count / (time.perf_counter() - began))
                        queue.hold(count)
                        queue.purge()
                limit, own = map(median, rates)
                print(f"{size:,} bytes: prepared {limit:,.0f}/s, as a stream {own:,.0f}/s, {own / limit:.2f} of it")
        finally:
            contender.close()
            queue.close()
    return True


# -------------------------------------------------------------------------------------------------------- compression

CODECS: Mapping[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "zlib": (lambda body: zlib.compress(body, ZLIB_LEVEL), zlib.decompress),
    "bzip2": (bz2.compress, bz2.decompress),
}


def codecs(url: str, given: argparse.Namespace) -> bool:
    """Measure what compression adds, print it beside the codec's own time, and return whether the limits hold."""
    plain = BY_NAME["amqpq, HMAC, batch"]
    packed = {name: replace(plain, name=name, options={**plain.options, "compression": name}) for name in CODECS}
    found = medians(url, [plain, *packed.values()], given.rounds)
    held = []
    for name, (pack, unpack) in CODECS.items():
        body = msgpack.packb([[payload(LARGE_BYTES)], {}, {}])
        for measure, says, alone in (
            ("publish_cpu_us", "packing", cost_us(pack, body)),
            ("end_to_end_worker_cpu_us", "unpacking", cost_us(unpack, pack(body))),
        ):
            added = found[name][measure] - found[plain.name][measure]
            print(f"{name}, {says}: {alone:,.0f} us alone, {added:,.0f} us added per message")
            held.append(verdict(f"{name}, {says}: {added / alone:.2f} of the codec's time", added / alone, CODEC_LIMIT))
    return all(held)


def cost_us(codec: Callable[[bytes], bytes], body: bytes, rounds: int = 50) -> float:
    """Return the median CPU of one call, in microseconds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        codec(body)
        times.append(time.process_time() - began)
    return median(times) * 1e6


PARTS: Mapping[str, Callable[[str, argparse.Namespace], bool]] = {
    "depth": depth,
    "bodies": bodies,
    "prepared": prepared,
    "codecs": codecs,
}


if __name__ == "__main__":
    sys.exit(main())
