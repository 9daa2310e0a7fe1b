"""Whatever instances announce and micro services answer: it is taken in or refused, and every command can show it."""

import io
import json
import logging
import random
import re
import sys
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import messages
from mesh.cli import info, ls, routes, stats, tail
from mesh.cli.doctor import mesh_checks
from mesh.cli.doctor.witness import Witness
from mesh.cli.formatting import age, span
from mesh.cli.route_changes import altered_route
from mesh.cli.terminal import Terminal
from mesh.client.attempt_messages import request_block
from mesh.foreign import read
from mesh.foreign.routes import announcement_of, subjects_of
from mesh.logs import JsonFormatter, TextFormatter
from mesh.registry import Change, Registry
from mesh.registry.instance_records import route_label
from mesh.routes import RouteTable
from mesh.subjects import Subjects, check_subject
from tests import hostile
from tests.cli.builders import CONTROL

MESH = Subjects("mesh")
told = st.lists(hostile.as_bytes(hostile.announcements | hostile.heartbeats), max_size=8)
answers = st.lists(hostile.as_bytes(hostile.answers), max_size=4)


def receive(payloads, replies):
    """An observer of the mesh after these messages and answers, and the lines of `mesh-tail` on the way."""
    registry, witness, micros, table, lines = Registry(rng=random.Random(1)), Witness(), [], RouteTable(), []
    refused, now = 0, 0.0
    for payload in payloads:
        now += 0.1
        try:
            party = json.loads(payload)
            message = messages.decode(payload, str(party.get("name")), str(party.get("id")))
        except messages.BadMessage:
            refused += 1
            continue
        check_subject(MESH.announce(message.name, message.id))
        witness.hear(message)
        lines += [
            change for change in registry.apply(message, now) + registry.expire(now) if isinstance(change, Change)
        ]
    for payload in replies:
        micro = read(payload)
        if micro is None:
            continue
        micros.append(micro)
        found = announcement_of(micro, "mesh", [])
        if found is not None and micro.foreign:
            lines += registry.adopt(found, now)
    for service in registry.services():
        table = table.replace(service, registry.claimed_routes(service), now)
    watcher = SimpleNamespace(registry=registry, now=now, stale=False, refused=refused)
    observer = SimpleNamespace(
        watcher=watcher,
        bus=SimpleNamespace(subjects=MESH),
        routes=table,
        instances=lambda selector=None: registry.instances(),
        has_load=lambda instance: True,
    )
    return observer, micros, witness, lines


def show(observer, micros, witness, lines):
    """Everything that the commands would print, in both forms."""
    out = io.StringIO()
    terminal = Terminal(out, colour=False)
    rows = [ls._row(observer, i) for i in observer.instances()] + [ls._foreign(m, "mesh") for m in micros]
    terminal.table(ls.HEAD, [ls._cells(row) for row in rows])
    terminal.json(rows)
    documents = [info._announced(i) for i in observer.instances()] + [info._micro(m, "mesh") for m in micros]
    for document in documents:
        info._print(terminal, document)
    terminal.json(documents)
    table = [routes._row(observer, entry) for entry in observer.routes.routes()]
    terminal.table(
        routes.HEAD,
        [(r["method"], r["path"], r["service"], ", ".join(r["versions"]), "1", routes._flags(r)) for r in table],
    )
    terminal.json(table)
    figures = [stats._row(observer, m, e, None) for m in micros for e in m.endpoints]
    terminal.table(stats.HEAD, [stats._cells(row) for row in figures])
    terminal.json(figures)
    for change in lines:
        facts = {"service": change.service, "instance": change.instance, "version": change.version}
        facts |= {"state": change.state, "previous": change.previous, "reason": change.reason}
        facts["added"] = [route_label(route) for route in change.added]
        facts["altered"] = [altered_route(route) for route in change.altered]
        terminal.line(tail._describe(change.kind, facts))
    findings = mesh_checks.examine(mesh_checks.Observations(observer, micros, [], witness))
    terminal.json(findings)
    return out.getvalue()


@settings(max_examples=100, deadline=None)
@given(told, answers)
def test_every_command_can_show_it(payloads, replies):
    shown = show(*receive(payloads, replies))
    assert not CONTROL.search(shown)


@settings(max_examples=100, deadline=None)
@given(told, answers)
def test_what_is_taken_in_can_be_called(payloads, replies):
    """Every address is a subject, none is of the mesh itself but an instance's, and every time a header."""
    observer, micros, _, _ = receive(payloads, replies)
    for entry in observer.routes.routes():
        instances = observer.watcher.registry.instances(entry.service)
        for instance in instances:
            binding = entry.revisions.get(instance.revision)
            if binding is None:
                continue
            timeout = entry.policy.timeout_ms / 1000
            assert 0 <= timeout <= 3600
            assert 0 <= binding.announced.try_timeout_ms / 1000 <= 3600
            request_block(timeout or 1.0)
            subject = binding.endpoint if instance.foreign else MESH.to(entry.service, instance.id, binding.endpoint)
            check_subject(subject)
            assert not instance.foreign or not subject.startswith(("mesh.", "$", "_"))
            assert re.fullmatch(r"[A-Z][A-Z-]*|\*", entry.method)
        assert entry.service not in ("gateway", "client")
        assert len({instance.foreign for instance in instances}) == 1
    for subject in subjects_of(micros, "mesh").values():
        check_subject(subject)
        assert not subject.startswith(("mesh.", "$", "_"))


@given(hostile.as_bytes(hostile.discovers | hostile.announcements), hostile.as_bytes(hostile.cancels))
def test_other_control_messages_are_read_or_count_as_none(discover, cancel):
    assert 0 <= messages.decode_discover(discover).window_ms <= 60_000
    found = messages.decode_cancel(cancel)
    assert found is None or isinstance(found.reply.encode(errors="replace"), bytes)


@given(hostile.times | st.text(max_size=40) | st.datetimes(timezones=st.timezones()).map(str))
def test_any_time_has_an_age_or_none(text):
    span(age(text))


@given(hostile.texts, hostile.texts, hostile.junk)
def test_no_log_line_steers_a_terminal_or_passes_for_another(message, error, field):
    try:
        raise ValueError(error)
    except ValueError:
        fields = {"field": field, error or "k": 1}
        logger = logging.getLogger("mesh")
        record = logger.makeRecord(
            "mesh", logging.ERROR, __file__, 1, "refused %s", (message,), sys.exc_info(), extra=fields
        )
    text = TextFormatter(False).format(record)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert all(line.startswith("    ") for line in text.split("\n")[1:])
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"] == f"refused {message}"
