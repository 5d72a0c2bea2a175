"""Import of definitions: both forms, every argument with its key, and what cannot be held is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from amqpq.convert import definitions, importing
from amqpq.convert.importing import Imported
from amqpq.errors import LocalError
from amqpq.topology import inspect, load
from amqpq.topology.declarations import declarations

Row = dict[str, Any]


def queue(name: str, kind: str = "classic", **arguments: Any) -> Row:
    """One queue of definitions; argument names with underscores."""
    given = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    return {"name": name, "durable": True, "auto_delete": False, "arguments": {"x-queue-type": kind, **given}}


def exchange(name: str, kind: str = "topic", **rest: Any) -> Row:
    """One exchange of definitions."""
    return {
        "name": name,
        "type": kind,
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
        **rest,
    }


def binding(source: str, target: str, key: str = "", kind: str = "queue", **arguments: Any) -> Row:
    """One binding of definitions."""
    return {
        "source": source,
        "destination": target,
        "destination_type": kind,
        "routing_key": key,
        "arguments": {name.replace("_", "-"): value for name, value in arguments.items()},
    }


def imported(project: str | None = "shop", **sections: Any) -> Imported:
    """Import definitions of these sections; what comes out passes lint and declares what its text says."""
    found = definitions.parse(json.dumps(sections))
    result = importing.from_objects(found, source="a test", project=project)
    assert inspect(result.tree, environ={}).errors == ()
    return result


def said(result: Imported) -> list[str]:
    """The remarks but for the one on queues without dead letters."""
    return [str(remark) for remark in result.remarks if remark.what != "dead letters"]


# --------------------------------------------------------------------------------------------------------------- forms


def test_of_the_cluster_form_one_virtual_host_is_read() -> None:
    """Objects of other virtual hosts are not taken along."""
    rows = [{**queue("a"), "vhost": "one"}, {**queue("b"), "vhost": "two"}]
    found = definitions.parse(json.dumps({"vhosts": [{"name": "one"}, {"name": "two"}], "queues": rows}), "two")
    assert [each.name for each in found.queues] == ["b"]
    assert found.vhost == "two"


def test_several_virtual_hosts_ask_for_a_name() -> None:
    """Nothing is guessed; the names are listed."""
    rows = [{**queue("a"), "vhost": "one"}, {**queue("b"), "vhost": "two"}]
    with pytest.raises(LocalError, match="of 2 virtual hosts; name one with --vhost: one, two"):
        definitions.parse(json.dumps({"queues": rows}))


def test_a_virtual_host_that_is_not_there_is_told() -> None:
    """With those that are."""
    with pytest.raises(LocalError, match="no virtual host 'three'; they have: one"):
        definitions.parse(json.dumps({"queues": [{**queue("a"), "vhost": "one"}]}), "three")


def test_the_only_virtual_host_needs_no_name() -> None:
    """The cluster form of a broker with one virtual host is read as it is."""
    found = definitions.parse(json.dumps({"vhosts": [{"name": "/"}], "queues": [{**queue("a"), "vhost": "/"}]}))
    assert [each.name for each in found.queues] == ["a"]


def test_the_form_of_a_virtual_host_names_none() -> None:
    """What the management API gives for one virtual host is read without a name."""
    assert [each.name for each in definitions.parse(json.dumps({"queues": [queue("a")]})).queues] == ["a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queues: []", "this is not JSON: .*rabbitmqctl export_definitions"),
        ("[]", "no definitions: no exchanges, queues or bindings"),
        ('{"queues": 3}', "`queues` is not a list"),
        ('{"queues": [{"arguments": {}}]}', "an object has no proper 'name'"),
        ('{"bindings": [{"source": "a", "destination": "b"}]}', "an object has no proper 'destination_type'"),
    ],
)
def test_what_is_no_definitions_is_refused(text: str, words: str) -> None:
    """With what is wrong about it, never with a traceback."""
    with pytest.raises(LocalError, match=words):
        definitions.parse(text)


# ----------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (queue("q", max_priority=5), {"max_priority": 5}),
        (queue("q", message_ttl=90_000), {"ttl": "90s"}),
        (queue("q", message_ttl=0), {"ttl": "0ms"}),
        (queue("q", message_ttl=1500), {"ttl": "1500ms"}),
        (queue("q", expires=604_800_000), {"expires": "1w"}),
        (queue("q", single_active_consumer=True), {"single_active": True}),
        (
            queue("q", max_length=3, overflow="reject-publish"),
            {"limits": {"max_length": 3, "overflow": "reject-publish"}},
        ),
        (queue("q", max_length_bytes=9), {"limits": {"max_length_bytes": 9}}),
        (queue("q", "quorum", delivery_limit=7), {"type": "quorum", "delivery_limit": 7}),
        (
            queue("q", "quorum", quorum_initial_group_size=3),
            {"type": "quorum", "extra_arguments": {"x-quorum-initial-group-size": 3}},
        ),
        (queue("q", queue_mode="lazy"), {"extra_arguments": {"x-queue-mode": "lazy"}}),
        ({**queue("q"), "durable": False, "auto_delete": True}, {"durable": False, "auto_delete": True}),
    ],
    ids=str,
)
def test_an_argument_becomes_its_key(row: Row, part: Mapping[str, Any]) -> None:
    """Each argument of a queue that the format has a key for is written with that key, the others as they are."""
    assert imported(queues=[row]).tree["queues"]["q"] == {**part, "dead_letter": "none"}


def test_a_stream_keeps_its_retention() -> None:
    """The limits of a stream are its retention, and it has no dead letter to switch off."""
    row = queue("log", "stream", max_age="7D", max_length_bytes=10**9, stream_max_segment_size_bytes=10**6)
    part = {"type": "stream", "retention": {"max_age": "7D", "max_bytes": 10**9, "segment": 10**6}}
    assert imported(queues=[row]).tree["queues"]["log"] == part


def test_an_argument_of_a_later_version_raises_what_the_file_requires() -> None:
    """A consumer timeout of a queue exists from 3.12 on; a broker that is older only stores it."""
    row = queue("q", "quorum", consumer_timeout=3_600_000)
    assert imported(queues=[row]).tree["requires"] == {"rabbitmq": ">=3.12"}
    older = imported(queues=[row], rabbit_version="3.10.8")
    assert "requires" not in older.tree
    assert said(older) == [
        "left out: queue 'q': x-consumer-timeout=3600000: RabbitMQ 3.10.8 stores it and never looks at it"
    ]


def test_what_the_format_cannot_say_makes_the_queue_somebody_elses() -> None:
    """A file that declared it without the argument would be refused by the broker; so it is only named."""
    result = imported(queues=[queue("q", single_active_consumer=False)])
    assert result.tree["queues"]["q"]["manage"] == "external"
    (remark,) = said(result)
    assert remark.startswith("changed: queue 'q': x-single-active-consumer=False is nothing the format says")


def test_what_is_no_argument_of_queues_is_left_out() -> None:
    """RabbitMQ stores it and does nothing with it, so the queue is the same without."""
    row = queue("q")
    row["arguments"]["ha-mode"] = "all"
    assert said(imported(queues=[row])) == [
        "left out: queue 'q': the argument ha-mode='all': RabbitMQ stores it and never looks at it"
    ]


# ----------------------------------------------------------------------------------------------------------- exchanges


def test_the_alternate_exchange_is_unrouted() -> None:
    """And one that is not on the broker is named as somebody else's."""
    rows = [
        exchange("a", arguments={"alternate-exchange": "b", "x-own": 1}),
        exchange("b", "fanout"),
        exchange("c", arguments={"alternate-exchange": "gone"}),
    ]
    result = imported(exchanges=rows)
    assert result.tree["exchanges"]["a"] == {"type": "topic", "unrouted": "b", "extra_arguments": {"x-own": 1}}
    assert result.tree["exchanges"]["gone"] == {"manage": "external"}
    assert "'c' names it as its alternate exchange" in said(result)[0]


def test_an_exchange_of_a_plugin_is_left_out_with_its_bindings() -> None:
    """Its type, and how many bindings went with it, are said."""
    rows = [exchange("later", "x-delayed-message"), exchange("web")]
    wires = [binding("later", "q", "a"), binding("web", "q", "b")]
    result = imported(exchanges=rows, queues=[queue("q")], bindings=wires)
    assert set(result.tree["exchanges"]) == {"web"}
    assert [each.source for each in result.topology.bindings] == ["web"]
    assert said(result) == [
        "left out: exchange 'later': its type x-delayed-message is none the format has, and 1 binding with it"
    ]


def test_an_exchange_that_every_broker_has_is_only_verified() -> None:
    """Bindings from `amq.topic` are kept, and nobody declares it; unused ones are not mentioned."""
    rows = [exchange(name, kind) for name, kind in (("amq.topic", "topic"), ("amq.direct", "direct"))]
    result = imported(exchanges=rows, queues=[queue("q")], bindings=[binding("amq.topic", "q", "a.#")])
    assert result.tree["exchanges"] == {"amq.topic": {"type": "topic", "manage": "verify"}}
    assert declarations(result.topology).exchanges == ()
    assert said(result) == []


# ------------------------------------------------------------------------------------------------------------ bindings


def test_bindings_with_equal_ends_are_one_entry() -> None:
    """Keys become a list, in the short form where that can say it."""
    wires = [binding("web", "q", key) for key in ("a.*", "b.#")] + [binding("web", "r", "c")]
    result = imported(exchanges=[exchange("web")], queues=[queue("q"), queue("r")], bindings=wires)
    assert [entry.get("keys") for entry in result.tree["bindings"]] == [["a.*", "b.#"], ["c"]]
    assert "  - web[a.*, b.#] -> q\n  - web[c] -> r\n" in result.text


@pytest.mark.parametrize("key", ["a, b", "x]", "", " a", "a->b", "#", "*", "a #", "${KEY}", "'", "\n", "1"])
def test_a_key_survives_whatever_is_in_it(key: str) -> None:
    """No letter of a key is taken for one of YAML's, of the short form's or of a variable."""
    result = imported(exchanges=[exchange("web")], queues=[queue("q")], bindings=[binding("web", "q", key)])
    assert [each.key for each in result.topology.bindings] == [key]


def test_headers_without_x_match_stay_without() -> None:
    """A binding is another one when an argument is added: unbinding the broker's would not find it."""
    wires = [binding("h", "q", x_match="any", pii=True), binding("h", "q", pii=True), binding("h", "q", kind_=["a"])]
    result = imported(exchanges=[exchange("h", "headers")], queues=[queue("q")], bindings=wires)
    assert result.tree["bindings"] == [
        {"from": "h", "to": "q", "headers": {"pii": True}, "match": "any"},
        {"from": "h", "to": "q", "extra_arguments": {"pii": True}},
        {"from": "h", "to": "q", "extra_arguments": {"kind-": ["a"]}},
    ]
    assert [dict(each.arguments) for each in result.topology.bindings] == [wire["arguments"] for wire in wires]


def test_a_target_that_is_both_is_named_as_what_it_is() -> None:
    """An exchange and a queue of one name are told apart."""
    wires = [binding("web", "both", "a"), binding("web", "both", "a", "exchange")]
    result = imported(exchanges=[exchange("web"), exchange("both")], queues=[queue("both")], bindings=wires)
    assert [each.to_exchange for each in result.topology.bindings] == [False, True]


def test_a_binding_to_nowhere_is_left_out() -> None:
    """Definitions written by hand may name what they do not have."""
    result = imported(exchanges=[exchange("web")], bindings=[binding("web", "gone", "k")])
    assert said(result) == ["left out: binding 'web[k] -> gone': there is no 'gone'"]


# -------------------------------------------------------------------------------------------------------- dead letters


def test_dead_letters_through_the_default_exchange_have_a_name() -> None:
    """The worker's dead letters go where the broker's do."""
    dead = {"dead_letter_exchange": "", "dead_letter_routing_key": "parked"}
    result = imported(queues=[queue("a", **dead), queue("parked")])
    assert result.tree["dead_letters"] == {"parked": {"queue": "parked"}}
    assert result.tree["queues"] == {"a": {"dead_letter": "parked"}, "parked": {}}


def test_the_projects_own_dead_letters_need_no_words() -> None:
    """The queue `<project>.dead` is the default, and made by the file as it is on the broker."""
    dead = {"dead_letter_exchange": "", "dead_letter_routing_key": "shop.dead"}
    assert imported(queues=[queue("a", **dead), queue("shop.dead")]).tree["queues"] == {"a": {}}


def test_dead_letters_through_an_exchange_keep_their_arguments() -> None:
    """Where one queue is at their end, `dead_letter` names it for the worker; the arguments stay as they are."""
    rows = [queue("a", dead_letter_exchange="dlx"), queue("b", dead_letter_exchange="topical"), queue("parked")]
    result = imported(
        exchanges=[exchange("dlx", "fanout"), exchange("topical")], queues=rows, bindings=[binding("dlx", "parked")]
    )
    assert result.tree["queues"]["a"] == {"dead_letter": "parked", "extra_arguments": {"x-dead-letter-exchange": "dlx"}}
    assert result.tree["queues"]["b"] == {
        "dead_letter": "none",
        "extra_arguments": {"x-dead-letter-exchange": "topical"},
    }
    specs = {spec.name: dict(spec.arguments) for spec in declarations(result.topology).queues}
    assert specs["a"] == {"x-queue-type": "classic", "x-dead-letter-exchange": "dlx"}


def test_a_queue_for_waiting_is_no_place_for_dead_letters() -> None:
    """Work and wait queues that dead-letter to each other stay as they are, and say that the worker needs another place."""
    there: dict[str, Any] = {"dead_letter_exchange": "", "dead_letter_routing_key": "wait"}
    back: dict[str, Any] = {"dead_letter_exchange": "", "dead_letter_routing_key": "work", "message_ttl": 5000}
    result = imported(queues=[queue("work", **there), queue("wait", **back)])
    assert result.tree["queues"]["work"]["dead_letter"] == "none"
    assert "dead_letters" not in result.tree
    assert "2 queues with arguments that lead to an exchange, or to a queue that hands on (work, wait)" in str(
        result.remarks[-1]
    )


def test_a_dead_letter_queue_that_is_gone_is_not_made() -> None:
    """Importing declares nothing that was not there."""
    dead = {"dead_letter_exchange": "", "dead_letter_routing_key": "gone"}
    result = imported(queues=[queue("a", **dead)])
    assert [spec.name for spec in declarations(result.topology).queues] == ["a"]
    assert result.tree["queues"]["gone"] == {"manage": "external"}


def test_queues_without_dead_letters_are_told() -> None:
    """What a worker gives up on there is dropped, which nobody should find out later."""
    (remark,) = imported(queues=[queue("a"), queue("b")]).remarks
    assert "2 queues without one on the broker (a, b): `dead_letter: none` keeps it so" in str(remark)


# ------------------------------------------------------------------------------------------------- what lint refuses


def test_what_lint_refuses_is_left_out_with_the_rule() -> None:
    """Exchanges in a circle do no harm on a broker, and the file may not have them."""
    wires = [binding("a", "q", "#"), binding("a", "b", "#", "exchange"), binding("b", "a", "#", "exchange")]
    result = imported(exchanges=[exchange("a"), exchange("b")], queues=[queue("q")], bindings=wires)
    assert [each.target for each in result.topology.bindings][:1] == ["q"]
    assert len(result.topology.bindings) == 2
    assert [each.split(":")[0] for each in said(result)] == ["left out"]
    assert "TOP019" in said(result)[0]


def test_a_queue_that_lint_refuses_is_only_named() -> None:
    """A stream without retention is the broker's to keep; the file says that it must be there."""
    result = imported(queues=[queue("log", "stream")])
    assert result.tree["queues"]["log"]["manage"] == "verify"
    assert "TOP036" in said(result)[0]


def test_what_lint_refuses_of_a_named_queue_makes_it_somebody_elses() -> None:
    """A password among the arguments is no more welcome in a file where the queue is only named."""
    row = queue("q", own="amqp://me:geheim@far.example.com/")
    result = imported(queues=[row])
    assert result.tree["queues"]["q"] == {"dead_letter": "none", "manage": "external"}
    assert [each.split(":")[0] for each in said(result)] == ["left out", "changed"]
    assert "geheim" not in result.text


def test_a_project_name_that_is_none_is_refused() -> None:
    """With the words of the format."""
    with pytest.raises(LocalError, match="project"):
        imported("not a name", queues=[queue("q")])


# ----------------------------------------------------------------------------------------------- what is not topology


def test_everything_else_in_definitions_is_said() -> None:
    """Shovels, users, what operators set: nothing disappears; policies have a place in the file."""
    policy = {"name": "ha", "pattern": "^q", "apply-to": "queues", "priority": 2, "definition": {"max-length": 5}}
    parameters = [{"component": "shovel", "name": "s"}, {"component": "operator_policy", "name": "guard"}]
    result = imported(queues=[queue("q")], policies=[policy], parameters=parameters, users=[{}], permissions=[{}, {}])
    text = "\n".join(said(result))
    assert "left out: shovel parameter 's'" in text
    assert "left out: operator policy 'guard'" in text
    assert "1 user: " in text
    assert "2 permissions: " in text
    assert "# - left out: shovel parameter 's'" in result.text
    assert result.tree["policies"]["ha"]["definition"] == {"max-length": 5}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("amq.gen-x9", "the broker chose the name"),
        ("amqpq.reply.7", "amqpq declares and deletes it"),
        ("w1@host.celery.pidbox", "come and go with its processes"),
        ("celeryev.5f", "come and go with its processes"),
    ],
)
def test_what_programs_make_as_they_run_is_left_out(name: str, why: str) -> None:
    """A file that declared such queues would make what nobody consumes."""
    result = imported(queues=[queue(name), queue("q")])
    assert set(result.tree["queues"]) == {"q"}
    assert why in said(result)[0]


def test_exclusive_queues_are_left_out() -> None:
    """Nobody but the connection that has one could declare it."""
    rows = [{**queue(name), "exclusive": True} for name in ("mine", "yours")]
    result = imported(queues=[*rows, queue("q")])
    assert set(result.tree["queues"]) == {"q"}
    assert said(result) == [
        "left out: queues: 2 queues (mine, ...): exclusive: it goes with the connection that declared it"
    ]


# ----------------------------------------------------------------------------------------------------- generated parts

GENERATING: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {"max_priority": 9}, "other": {"type": "quorum"}},
    "delays": {"unit": "1s", "max": "3h"},
    "control": {"revocations": "7d"},
}


def exported(file: dict[str, Any]) -> dict[str, Any]:
    """The definitions of a file."""
    return definitions.build(load(file, environ={}))[0]


def test_generated_parts_become_the_sections_that_generate_them() -> None:
    """The delay ladder, its urgent lane and the stream of revocations are no objects of the file."""
    result = imported(None, **exported(GENERATING))
    assert result.topology.project == "shop"
    assert set(result.tree["queues"]) == {"default", "other"}
    assert "exchanges" not in result.tree
    assert result.tree["control"] == {"revocations": "1w"}
    assert result.tree["delays"]["unit"] == "1s"
    assert exported(result.tree) == exported(GENERATING)
    assert said(result) == []


def test_a_ladder_with_a_gap_is_told() -> None:
    """An apply of the file would mend it; the import says so before."""
    rows = exported(GENERATING)
    rows["queues"] = [row for row in rows["queues"] if row["name"] != "shop.delay.1.3"]
    (remark,) = said(imported(None, **rows))
    assert "would create 1 object that the broker does not have: shop.delay.1.3" in remark


def test_the_ladder_of_another_project_is_left_alone() -> None:
    """Two projects may share a virtual host."""
    result = imported("mine", **exported(GENERATING))
    assert "delays" not in result.tree
    assert not any(name.startswith("shop.delay") for name in result.tree["queues"])
    assert any("it belongs to the project 'shop'" in each for each in said(result))


@pytest.mark.parametrize(
    "limit",
    [{"rate": "90/m"}, {"rate": "1.5/s"}, {"concurrency": 3}, {"concurrency": 2, "key": "customer", "slots": 4}],
)
def test_permit_queues_become_limits(limit: dict[str, Any]) -> None:
    """By their names and by how many permits they hold."""
    file = {"amqpq": 1, "project": "shop", "queues": {"default": {}}, "limits": {"crm.*": limit}}
    specs = declarations(load(file, environ={})).queues
    rows = [
        {"name": spec.name, "durable": True, "auto_delete": False, "arguments": dict(spec.arguments)} for spec in specs
    ]
    assert imported(queues=rows).tree["limits"] == {"crm.*": limit}


def test_a_permit_queue_of_another_size_is_no_limit() -> None:
    """Its name says three permits and it holds nine: nothing is made of it, and that is said."""
    result = imported(queues=[queue("shop.permits.crm.*.3", max_length=9), queue("q")])
    assert "limits" not in result.tree
    assert any("'shop.permits.crm.*.3'" in each for each in said(result))


def test_permits_are_not_exported() -> None:
    """A permit queue without its messages would never let a task begin, and definitions hold no messages."""
    topology = load({"amqpq": 1, "project": "s", "queues": {"q": {}}, "limits": {"*": {"concurrency": 1}}}, environ={})
    built, remarks = definitions.build(topology)
    assert not any(row["name"].startswith("s.permits") for row in built["queues"])
    assert any("1 permit queue: they hold messages" in str(remark) for remark in remarks)


def test_what_others_declare_is_not_exported() -> None:
    """And said."""
    file = {
        "amqpq": 1,
        "project": "s",
        "queues": {"q": {"manage": "verify", "dead_letter": "none"}},
        "exchanges": {"e": {"manage": "external"}},
    }
    built, remarks = definitions.build(load(file, environ={}))
    assert (built["queues"], built["exchanges"]) == ([], [])
    assert [remark.name for remark in remarks if remark.kind == "left out"] == ["e", "q"]
