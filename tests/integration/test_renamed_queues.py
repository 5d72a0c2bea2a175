"""A queue that gets another name, on a real broker: workers and producers with the old file and the new one, side by side."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from amqpq import App, config, topology
from amqpq.errors import LocalError
from amqpq.management import Management, endpoint
from amqpq.provision import preflight
from amqpq.provision.broker_facts import ManagementFacts
from amqpq.provision.migrating import Migrator, Patience, lock_name
from amqpq.provision.migration import Migration, Step, abort, following
from amqpq.provision.preflight import Wish
from amqpq.topology import Topology
from amqpq.topology.declarations import declarations
from amqpq.topology.generations import NOTHING_MOVED, Generations
from amqpq.transport import declare, flow, register
from amqpq.types import QueueSpec
from amqpq.worker.declaring import read_generations
from tests.conftest import BrokerServer
from tests.support.commands import Said, amqpq, worker
from tests.support.lab import answer, taken_from, until

QUICK: Final = Patience(workers=30, drain=30, quiet=0.2, heard=0.2, look=0.05, sample=0.2)
FILE: Final = """\
amqpq: 1
project: shop
exchanges:
  web: {type: topic}
queues:
  QUEUE: {type: TYPE}
bindings:
  - web[mail.#] -> QUEUE
routes:
  mail.topic: {exchange: web, key: mail.topic}
  "mail.*": {queue: QUEUE}
delays: {max: 10s}
replies: {mode: none}
security: {signing: {algorithm: hmac-sha256, key: "file:KEY"}}
allow: {delete: true}
"""
MOVED: Final = "moved: [{from: queue.mail, to: queue.post}]\n"
TASKS: Final = """\
from amqpq import App

app = App("topology.yaml")


@app.task(name="mail.note")
def note(number: int) -> None:
    with open("../noted", "a", encoding="utf-8") as file:
        file.write(f"{number}\\n")


@app.task(name="mail.topic")
def topic(number: int) -> None:
    note(number)


@app.task(name="mail.again", bind=True)
def again(self, number: int) -> None:
    if not self.request.retries:
        raise self.retry(countdown=1)
    note(number)


@app.task(name="mail.changed", bind=True)
def changed(self, number: int, offset: int) -> None:
    if offset:
        raise self.retry(args=(number + offset, 0), countdown=1)
    note(number)
"""
OFFSET: Final = 1_000_000


class Scene:
    """Two folders, `old` and `new`, with the topology before the rename and after it, and a virtual host."""

    def __init__(self, folder: Path, url: str, server: BrokerServer) -> None:
        self.folder, self.url = folder, url
        self.extra = {"AMQPQ_MANAGEMENT_URL": server.management_url}
        (folder / "key").write_text("ab" * 32, encoding="utf-8")
        (folder / "key").chmod(0o600)
        self.old = self.write("old", "mail")
        self.new = self.write("new", "post", MOVED)
        self.link = config.link(self.old)
        self.connection = self.link.connection(30)
        self.management = Management(endpoint(server.management_url))
        self.facts = ManagementFacts(self.management, config.addresses(self.old)[0].vhost)
        self.numbers = itertools.count()

    def write(self, folder: str, queue: str, more: str = "", kind: str = "classic") -> Topology:
        """Write a folder of tasks with their topology, and return that."""
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        text = FILE.replace("QUEUE", queue).replace("TYPE", kind).replace("KEY", str(self.folder / "key")) + more
        (place / "topology.yaml").write_text(text, encoding="utf-8")
        (place / "tasks.py").write_text(TASKS, encoding="utf-8")
        return topology.load(place / "topology.yaml", environ={"AMQPQ_BROKER_URL": self.url})

    def command(self, folder: str, *arguments: str) -> Said:
        """Type `amqpq ARGUMENTS` in a folder."""
        return amqpq(self.folder / folder, *arguments, broker=self.url, extra=self.extra)

    def apply(self, folder: str) -> None:
        """Apply a plan of a folder's file."""
        self.command(folder, "topology", "plan", "--out", "plan").done()
        self.command(folder, "topology", "apply", "plan").done()

    def changes(self, folder: str) -> list[str]:
        """Return what a plan of a folder's file would change."""
        found = json.loads(self.command(folder, "topology", "plan", "--json").done())
        return [f"{each['action']} {each['address']}" for each in found["changes"] if each["action"] != "info"]

    def has_record(self) -> None:
        """Make the stream of the record: workers look for one every 30 seconds, and follow at once where there is one."""
        channel = self.connection.channel()
        flow.run(register.create(channel, "shop"), 20)
        flow.run(register.put(channel, "shop", NOTHING_MOVED), 20)

    def where(self) -> Generations:
        """Return where the queues of the new file live."""
        return register.where_now(self.connection, self.new)

    def migrator(self, report: Callable[[Migration], object] = lambda _: None, kind: type[Migrator] = Migrator) -> Any:
        """Return one that has the lock."""
        found = kind(self.connection, "shop", self.facts, QUICK, report)
        found.lock()
        return found

    def unlock(self) -> None:
        """Give the lock up."""
        answer(self.connection.channel().delete_queue(lock_name("shop")))

    def begin(self, migrator: Migrator, **wish: Any) -> Migration:
        """Examine the migration of `post`, and write the first entry of the journal."""
        found = preflight.examine(self.new, Wish("post", **wish), migrator, self.connection, self.facts)
        assert found.migration is not None
        migrator.begin(found.migration)
        return found.migration

    def send(self, app: App, queue: str) -> list[int]:
        """Publish in every way that there is; return the numbers that will be noted."""
        by_name, named, topic, later, again, changed = (next(self.numbers) for _ in range(6))
        app.send_task("mail.note", [by_name], task_id=f"t{by_name}")
        app.send_task("mail.note", [named], queue=queue, task_id=f"t{named}")
        app.send_task("mail.topic", [topic], task_id=f"t{topic}")
        app.send_task("mail.note", [later], countdown=1, task_id=f"t{later}")
        app.send_task("mail.again", [again], task_id=f"t{again}")
        app.send_task("mail.changed", [changed, OFFSET], task_id=f"t{changed}")
        return [by_name, named, topic, later, again, changed + OFFSET]

    def send_at_once(self, app: App, queue: str) -> list[str]:
        """Publish by name and over the exchange, without delay; return the ids."""
        ids = [f"t{next(self.numbers)}" for _ in range(3)]
        app.send_task("mail.note", [1], task_id=ids[0])
        app.send_task("mail.note", [1], queue=queue, task_id=ids[1])
        app.send_task("mail.topic", [1], task_id=ids[2])
        return ids

    def noted(self) -> Counter[int]:
        """How often each number was processed."""
        path = self.folder / "noted"
        return Counter(int(line) for line in path.read_text(encoding="utf-8").split()) if path.exists() else Counter()

    def all_noted(self, sent: list[int]) -> None:
        """Wait until everything is processed, and see that each was once, and that nothing was refused."""
        until(lambda: set(sent) <= self.noted().keys() or None, "everything is processed", 60)
        assert self.noted() == Counter(sent)
        assert self.ids("shop.dead") == []

    def ids(self, *queues: str) -> list[str]:
        """Take everything out of queues; return the ids."""
        channel = self.connection.channel()
        return sorted(str(each.properties.headers["id"]) for queue in queues for each in taken_from(channel, queue))

    def close(self) -> None:
        """Let go of the broker."""
        self.management.close()
        self.link.close()


@pytest.fixture
def scene(tmp_path: Path, vhost_url: str, broker_server: BrokerServer) -> Iterator[Scene]:
    """The two files, and nothing on the broker."""
    made = Scene(tmp_path, vhost_url, broker_server)
    yield made
    made.close()


@pytest.fixture
def before(scene: Scene) -> Scene:
    """The broker as the file of before has it."""
    declare.demand(flow.run(declare.apply(scene.connection.channel, declarations(scene.old)), 60))
    return scene


@pytest.fixture
def apps(scene: Scene) -> Iterator[tuple[App, App]]:
    """Producers with the file of before, and with the new one."""
    old, new = App(scene.old), App(scene.new)
    yield old, new
    old.close()
    new.close()


WORKER: Final = ("-A", "tasks", "-P", "threads", "-c", "2", "-l", "warning")


def test_every_message_comes_once_whoever_has_which_file(before: Scene, apps: tuple[App, App]) -> None:
    """From before the apply to behind the migration, in each of its steps: by name, over an exchange, delayed, tried again."""
    scene, (old, new) = before, apps
    scene.has_record()
    sent: list[int] = []

    def send_all() -> None:
        for app, queue in ((old, "mail"), (new, "post"), (new, "mail")):
            sent.extend(scene.send(app, queue))

    with ExitStack() as of_new, ExitStack() as of_old:
        of_old.enter_context(worker(scene.folder / "old", *WORKER, "-Q", "mail", broker=scene.url))
        of_new.enter_context(worker(scene.folder / "new", *WORKER, "-Q", "post", broker=scene.url))
        until(lambda: consumers(scene, "mail") == 2 or None, "both workers consume `mail`")
        send_all()
        scene.apply("new")
        assert scene.changes("new") == []
        send_all()

        def report(migration: Migration) -> None:
            if migration.step is Step.FOLLOW:
                of_old.close()  # those with the file of before do not follow
            send_all()

        last = scene.migrator(report).go(scene.begin(scene.migrator()))
        assert (last.step, last.old, last.new) == (Step.DONE, "mail", "post")
        send_all()
        scene.all_noted(sent)
    assert scene.changes("new") == []
    assert scene.where().homes["post"].current == "post"


def consumers(scene: Scene, queue: str) -> int:
    """Return how many consumers a queue has."""
    channel = scene.connection.channel()
    count = answer(channel.declare_queue(QueueSpec(queue), passive=True)).consumers
    channel.close()
    return count


class CutOff(Exception):
    """The migrating process is gone."""


class Mortal(Migrator):
    """Ends behind a step, before the journal says that it is done."""

    ends_in = Step.DONE

    def perform(self, migration: Migration) -> None:
        """Do a step, and end with it."""
        super().perform(migration)
        if migration.step is self.ends_in:
            raise CutOff


def test_a_migration_to_the_new_name_goes_on_wherever_it_is_cut_off(before: Scene, apps: tuple[App, App]) -> None:
    """Killed behind every step; what producers with both files publish before, in between and after is there once.

    The queue gets another type, too: that comes with the one of its own name.
    """
    scene, (old, new) = before, apps
    scene.new = scene.write("new", "post", MOVED, kind="quorum")
    scene.apply("new")
    assert (scene.changes("new"), scene.where().homes["post"].types) == (["migrate queue mail"], {"mail": "classic"})
    ids: list[str] = []
    first = scene.migrator(kind=Mortal)
    under_way: Migration | None = scene.begin(first, strategy="move")
    killed: list[Step] = []
    while under_way is not None:
        ids += [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
        mortal = scene.migrator(kind=Mortal)
        mortal.ends_in = following_step(under_way) if killed else under_way.step
        killed.append(mortal.ends_in)
        with pytest.raises(CutOff):
            mortal.go(under_way)
        under_way = mortal.read().homes["post"].journal and mortal.find("post")
    assert killed == [step for step in Step if step is not Step.UNDO]
    ids += [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    assert not scene.migrator().exists("mail")
    assert scene.ids("post") == sorted(ids)
    assert scene.changes("new") == []


def following_step(migration: Migration) -> Step:
    """Return the step behind this one."""
    nxt = following(migration)
    assert nxt is not None
    return nxt.step


@pytest.mark.parametrize("step", [Step.ARM, Step.DRAIN])
def test_a_migration_to_the_new_name_is_given_up(before: Scene, apps: tuple[App, App], step: Step) -> None:
    """The queue stays in `mail`, with everything; the same command goes on from there later."""
    scene, (old, new) = before, apps
    scene.apply("new")
    ids = scene.send_at_once(old, "mail")
    migrator = scene.migrator()
    until_step = migrator.go(scene.begin(migrator, strategy="move"), until=step)
    ids += scene.send_at_once(new, "post")
    back = migrator.go(abort(until_step))
    assert (back.step, back.new, migrator.exists("post")) == (Step.DONE, "mail", False)
    ids += [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    assert scene.changes("new") == []
    again = scene.begin(migrator, strategy="move")
    assert (again.old, again.new, migrator.go(again).step) == ("mail", "post", Step.DONE)
    assert scene.ids("post") == sorted(ids)


def test_a_queue_that_was_migrated_before_gets_another_name(before: Scene, apps: tuple[App, App]) -> None:
    """It lives in `mail.g2`, behind an ingress, and workers with the file of before still find it there."""
    scene, (old, new) = before, apps
    scene.apply("old")
    quorum = scene.write("old", "mail", kind="quorum")
    migrator = scene.migrator()
    found = preflight.examine(quorum, Wish("mail", strategy="move"), migrator, scene.connection, scene.facts)
    assert found.migration is not None
    migrator.begin(found.migration)
    migrator.go(found.migration)
    scene.unlock()
    scene.new = scene.write("new", "post", MOVED, kind="quorum")
    ids = [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    scene.apply("new")
    assert scene.changes("new") == []
    record = register.look_now(scene.connection, "shop")
    assert (record.current("post"), record.current("mail")) == ("mail.g2", "mail.g2")
    ids += [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    migrator = scene.migrator()
    migrator.go(scene.begin(migrator, strategy="move"))
    ids += [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    assert scene.ids("post") == sorted(ids)
    assert set(migrator.read().homes) == {"post"}
    assert scene.changes("new") == []


def test_on_a_broker_without_the_queue_the_new_one_is_made(scene: Scene, apps: tuple[App, App]) -> None:
    """Producers with the file of before reach it by its former name."""
    old, new = apps
    scene.apply("new")
    ids = [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    assert scene.ids("post") == sorted(ids)
    assert scene.changes("new") == []
    answer(scene.connection.channel().declare_queue(QueueSpec("mail")))
    with pytest.raises(LocalError, match="the broker has both, 'mail' and 'post'"):
        scene.where()


def test_the_command_line_tells_of_a_rename(before: Scene) -> None:
    """Plan, apply, status, migrate; then the line goes out of the file."""
    scene = before
    scene.apply("old")
    assert "nobody has applied that yet" in scene.command("new", "topology", "migrate", "post").refused()
    planned = scene.command("new", "topology", "plan").done()
    assert (
        "~ queue      post  renamed from mail: it lives in the queue mail until `amqpq topology migrate post`"
        in planned
    )
    assert sorted(scene.changes("new")) == [
        "change queue post",
        "create binding mail.in -> mail",
        "create binding shop.delay.out[x-match='all', amqpq-to-post=True] -> mail",
        "create exchange mail.alt",
        "create exchange mail.in",
    ]
    said = scene.command("new", "topology", "apply")
    said.done()
    assert "queue post is renamed from mail" in said.err
    assert scene.changes("new") == []
    assert "post  in mail, the queue of its former name" in scene.command("new", "topology", "migrate", "status").done()
    assert "this file has it under its former name" in scene.command("old", "topology", "apply").refused()
    assert "this file has it under its former name" in scene.command("old", "topology", "plan").refused()
    scene.write("later", "post")
    early = scene.command("later", "topology", "plan").refused()
    assert "keep `moved: [{from: queue.mail, to: queue.post}]` in the file until `amqpq topology migrate post`" in early
    assert "post: mail -> post" in scene.command("new", "topology", "migrate", "post", "--dry").done()
    done = scene.command("new", "topology", "migrate", "post").done()
    assert "(workers with a file in which post is mail do not follow: start them anew with this one)" in done
    assert "post: every message reaches post, and mail is drained" in done
    migrator = scene.migrator()
    assert migrator.go(migrator.find("post")).step is Step.DONE
    scene.unlock()
    assert scene.changes("new") == []
    assert sorted(scene.changes("later")) == [
        "delete binding mail.in -> post.in (exchange)",
        "delete binding shop.delay.out[x-match='all', amqpq-to-mail=True] -> post.in (exchange)",
        "delete exchange mail.alt",
        "delete exchange mail.in",
    ]
    scene.apply("later")
    assert scene.changes("later") == []


def test_a_worker_that_declares_with_the_file_of_before_declares_nothing(before: Scene) -> None:
    """It would make the queue of the former name anew, and what is routed to both would come twice."""
    scene = before
    scene.apply("new")
    with worker(scene.folder / "old", *WORKER, "--apply", "-Q", "mail", broker=scene.url) as running:
        running.says("declares nothing, and takes what is there: queue 'mail' was renamed to 'post'")
        until(lambda: consumers(scene, "mail") == 1 or None, "it consumes `mail`")


def test_a_worker_that_declares_with_the_new_file_makes_no_second_queue(before: Scene) -> None:
    """It works in the queue that is there."""
    scene = before
    with worker(scene.folder / "new", *WORKER, "--apply", "-Q", "post", broker=scene.url):
        until(lambda: consumers(scene, "mail") == 1 or None, "it consumes `mail`")
    assert register.look_now(scene.connection, "shop").homes["post"].current == "mail"
    assert not scene.migrator().exists("post")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_worker_knows_of_what_type_the_queue_is_in_which_it_works(before: Scene, kind: str) -> None:
    """The file may say another one already, which comes with the migration; before the apply only the broker knows."""
    scene = before
    new = scene.write("new", "post", MOVED, kind=kind)
    where = read_generations(new, scene.connection)
    assert (where.type_of("post", "mail", kind), where.to_note, where.serial) == ("classic", ("post",), 0)


def test_a_rename_is_taken_back(before: Scene, apps: tuple[App, App]) -> None:
    """By the line the other way round; at last the file of before holds again."""
    scene, (old, new) = before, apps
    scene.apply("old")
    scene.apply("new")
    ids = [*scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    back = scene.write("back", "mail", "moved: [{from: queue.post, to: queue.mail}]\n")
    scene.apply("back")
    assert scene.changes("back") == []
    with App(back) as app:
        ids += [*scene.send_at_once(app, "mail"), *scene.send_at_once(old, "mail"), *scene.send_at_once(new, "post")]
    scene.apply("old")
    assert scene.changes("old") == []
    ids += scene.send_at_once(old, "mail")
    assert scene.ids("mail") == sorted(ids)
