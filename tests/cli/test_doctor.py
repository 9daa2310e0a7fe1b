"""`mesh doctor`, on meshes that have what it looks for."""

import json

import pytest

from mesh import Service
from mesh.bus import Bus
from mesh.cli.doctor import mesh_checks
from mesh.cli.doctor.bus_checks import ProbingBus, examine, version
from mesh.cli.doctor.witness import Witness
from mesh.embedded import NatsServer
from mesh.foreign.survey import read
from mesh.messages import Announcement, Heartbeat, Route, encode, revision_of
from mesh.settings import BusSettings
from mesh.testing import Mesh


def by_check(done, severity=None):
    """Findings of a severity as ``{check: [seen, ...]}``."""
    found = {}
    for finding in done.json:
        if severity in (None, finding["severity"]):
            found.setdefault(finding["check"], []).append(finding["seen"])
    return found


def greeter(version="1.0.0", name="greeter"):
    service = Service(name, version=version)

    @service.get("/greet")
    async def greet() -> str:
        return "hi"

    return service


class Puppet:
    """An instance that says exactly what a test has it say."""

    def __init__(self, bus, **facts):
        self.bus, self.seq = bus, 1
        routes = facts.pop("routes", ())
        self.facts = {
            "name": bus.service,
            "id": bus.instance,
            "revision": revision_of(bus.service, "1", (), routes),
            "state": "ready",
        }
        self.content = {"version": "1", "routes": routes, "started": "2024-01-01T00:00:00Z", "heartbeat_ms": 2000}
        self.content.update({k: facts.pop(k) for k in list(facts) if k in self.content})
        self.facts.update({k: facts.pop(k) for k in list(facts) if k in self.facts})
        self.load = facts

    async def start(self):
        await self.bus.subscribe(self.bus.subjects.discover(), self._asked)
        await self.bus.flush()

    def _asked(self, *_):
        subjects, bus = self.bus.subjects, self.bus
        for address, message in (
            (subjects.announce(bus.service, bus.instance), Announcement(seq=self.seq, **self.facts, **self.content)),
            (subjects.heartbeat(bus.service, bus.instance), Heartbeat(seq=self.seq + 1, **self.facts, **self.load)),
        ):
            bus.publish(bus.address(address), encode(message))
        self.seq += 2


async def test_a_healthy_mesh(shell, mesh):
    await mesh.start(greeter())
    done = await shell("doctor", "--json")
    assert (done.code, by_check(done, "fail"), by_check(done, "warn")) == (0, {}, {})
    found = by_check(done)
    expected = "nats, nats version, round trip, jetstream, max_payload, permissions, wildcards, services, gateways"
    assert found.keys() >= {*expected.split(", "), "states", "routes", "versions", "lag", "clocks", "protocol"}
    assert found["services"] == ["1 instances of 1 services: greeter"]
    assert found["gateways"] == ["1 ready"]
    assert all(finding.keys() == {"check", "severity", "seen", "todo"} for finding in done.json)
    text = await shell("doctor")
    assert text.code == 0
    assert "ok    wildcards" in text.out
    assert ", 0 warnings, 0 failed" in text.err


async def test_an_empty_mesh(shell):
    done = await shell("doctor", "--json")
    warnings = by_check(done, "warn")
    assert done.code == 0
    assert warnings.keys() == {"services", "gateways"}


@pytest.mark.parametrize("pattern", ["{prefix}.>", "*.req.*.*", "{prefix}.to.>"])
async def test_a_wildcard_subscriber_is_found(shell, mesh, pattern):
    async with Bus(BusSettings(servers=mesh.bus_settings.servers, prefix="other")) as bus:
        await bus.subscribe(pattern.format(prefix=mesh.bus_settings.prefix), lambda *message: None)
        await bus.flush()
        done = await shell("doctor", "--json")
    assert done.code == 1
    assert "with a wildcard" in by_check(done, "fail")["wildcards"][0]
    assert not by_check(done, "fail").keys() - {"wildcards"}


async def test_one_revision_with_different_contents_is_found(shell, mesh):
    instance = await mesh.start(greeter())
    async with mesh.client("greeter") as bus:
        await Puppet(bus, revision=instance.announcer.revision, state="unready").start()
        done = await shell("doctor", "--json")
    assert done.code == 1
    (seen,) = by_check(done, "fail")["revisions"]
    assert seen.startswith("one revision, and other endpoints or routes: greeter.")


async def test_a_stream_over_request_subjects_is_found(shell, nats, prefix):
    async with Bus(BusSettings(servers=(nats.url,), prefix="other")) as bus:
        config = {"name": "GREEDY", "subjects": [f"{prefix}.req.>"], "storage": "memory"}
        address = bus.address("$JS.API.STREAM.CREATE.GREEDY")
        reply = await bus.request(address, json.dumps(config).encode(), timeout=5, lenient=True)
        assert b'"error"' not in reply.payload
        done = await shell("doctor", "--json", NATS_URL=nats.url)
    assert done.code == 1
    assert "the JetStream stream 'GREEDY' lies over" in by_check(done, "fail")["wildcards"][0]


async def test_somebody_who_answers_for_everybody_is_found(shell, mesh):
    async with mesh.client() as bus:
        pattern = bus.subjects.request("*", "*")
        await bus.subscribe(pattern, lambda subject, reply, block, payload: bus.publish(reply, b"me"))
        await bus.flush()
        done = await shell("doctor", "--json")
    assert "answers for everybody" in by_check(done, "fail")["wildcards"][0]


async def test_missing_permissions_are_named(shell, prefix):
    config = f"""
    authorization {{ users: [ {{ user: u, password: p, permissions: {{
        publish: {{ deny: ["{prefix}.event.>"] }}, subscribe: {{ deny: ["{prefix}.heartbeat.>"] }}
    }} }} ] }}
    """
    async with NatsServer(extra_config=config) as server:
        done = await shell("doctor", "--json", NATS_URL=server.url, NATS_USER="u", NATS_PASSWORD="p")
    seen = " ".join(by_check(done, "fail")["permissions"])
    assert done.code == 1
    assert f"publishing to {prefix}.event." in seen
    assert f"subscribing to {prefix}.heartbeat.*.* is forbidden" in seen


async def test_a_server_with_other_limits(shell, prefix):
    async with NatsServer(jetstream=False, max_payload=65536) as server:
        done = await shell("doctor", "--json", NATS_URL=server.url)
    assert done.code == 0
    assert by_check(done)["jetstream"] == ["off"]
    assert by_check(done, "warn")["max_payload"] == ["65536 bytes for headers and body of one message"]
    (todo,) = [finding["todo"] for finding in done.json if finding["check"] == "max_payload"]
    assert "go in pieces" in todo
    assert "413" not in todo


async def test_an_old_server_is_warned_of(nats_url, prefix):
    async with ProbingBus(BusSettings(servers=(nats_url,), prefix=prefix)) as bus:

        class Old:
            def __init__(self, text):
                self.server = {"version": text} if text else {}

        verdicts = [
            (await version(Old(text)))[0].severity for text in ("2.9.25", "2.10.0", "3.0.0-beta", "1.4", "", "x")
        ]
        assert verdicts == ["warn", "ok", "ok", "warn", "warn", "warn"]
        assert {finding.severity for finding in await examine(bus)} == {"ok"}


async def test_routes_that_do_not_come_true(shell, mesh):
    await mesh.start(greeter())
    await mesh.start(greeter(name="rival"))
    async with mesh.client("broken") as bus:
        from mesh.messages import Endpoint

        puppet = Puppet(bus)
        puppet.content["endpoints"] = (Endpoint(name="e", subject="s"),)
        puppet.content["routes"] = (Route(method="GET", path="/a/{b", endpoint="e"),)
        await puppet.start()
        done = await shell("doctor", "--json")
    assert done.code == 1
    (conflict,) = by_check(done, "warn")["routes"]
    assert conflict == "GET /greet is served by greeter (the earlier claim), claimed by rival too"
    assert "GET /a/{b of broken serves nothing" in by_check(done, "fail")["routes"][0]


async def test_instances_that_are_not_well(shell, mesh):
    await mesh.start(greeter("1.0.0"))
    await mesh.start(greeter("1.1.0"))
    async with mesh.client("puppet") as bus, mesh.client("lonely") as lonely:
        puppet = Puppet(bus, state="unready", lag_ms=2500, started="2999-01-01T00:00:00.123456789Z")
        await puppet.start()
        heartbeat = Heartbeat(name="lonely", id=lonely.instance, seq=1, revision="r" * 22, state="ready")

        def beat(*_):
            lonely.publish(lonely.address(lonely.subjects.heartbeat("lonely", lonely.instance)), encode(heartbeat))
            lonely.publish(lonely.address(lonely.subjects.announce("lonely", lonely.instance)), b'{"type": "\x1b[2J"}')

        await lonely.subscribe(lonely.subjects.discover(), beat)
        await lonely.flush()
        done = await shell("doctor", "--json", "--for", "1")
        text = await shell("doctor", "--for", "1")
    warnings = by_check(done, "warn")
    assert done.code == 0
    assert warnings["versions"] == ["greeter runs side by side in 1.0.0, 1.1.0"]
    assert warnings["lag"] == [f"event loops are late: puppet.{puppet.bus.instance} (2500 ms)"]
    assert f"puppet.{puppet.bus.instance} (by " in warnings["clocks"][0]
    states = " ".join(warnings["states"])
    assert f"not ready: puppet.{puppet.bus.instance} (unready)" in states
    assert f"beats without announcing itself: lonely.{lonely.instance}" in states
    assert "1 messages were refused; the last one told: " in warnings["protocol"][0]
    assert "\x1b" not in text.out + text.err


async def test_who_answers_ping_and_does_not_announce(shell, mesh, prefix):
    answer = {"name": "mute", "id": "m1", "version": "1.0.0", "metadata": {"mesh.prefix": prefix}}
    async with mesh.client("mute") as bus:
        await bus.subscribe("$SRV.PING", lambda s, reply, b, p: bus.publish(reply, json.dumps(answer).encode()))
        await bus.flush()
        done = await shell("doctor", "--json", "--for", "0.2")
    assert "mute.m1" in by_check(done, "warn")["announcements"][0]


def beat(seq, **facts):
    return Heartbeat(name="pets", id="A1", seq=seq, **{"state": "ready", "revision": "r" * 22, **facts})


def state_of_all(seq, **facts):
    facts = {"state": "ready", "revision": "r" * 22, **facts}
    return Announcement(name="pets", id="A1", version="1", started="", heartbeat_ms=2000, seq=seq, **facts)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([state_of_all(1), beat(2), beat(2), beat(3), state_of_all(9), beat(8), beat(500), state_of_all(501)], None),
        ([state_of_all(1), beat(2), state_of_all(4, state="stopped"), state_of_all(4, state="stopped")], None),
        ([state_of_all(1), state_of_all(4, state="stopped"), beat(3)], None),  # the subjects have no common order
        ([state_of_all(7), beat(8), beat(6)], "seq 6 came after 8"),
        ([state_of_all(7), state_of_all(7, revision="x" * 22)], "seq 7 came after 7"),
        ([state_of_all(7), beat(7, revision="x" * 22)], "two messages with seq 7"),
        ([state_of_all(7), beat(8), beat(5000)], "seq jumped from 8 to 5000"),
        ([state_of_all(7), beat(8, state="stopped"), beat(9)], "said 'stopped' and goes on"),
    ],
)
def test_who_speaks_for_another_contradicts_him(messages, says):
    witness = Witness()
    for message in messages:
        witness.hear(message)
    assert witness.found == ({} if says is None else {("pets", "A1"): says})


async def test_a_forgery_is_found_while_it_happens_and_after(shell, mesh):
    instance = await mesh.start(greeter())
    facts = {"name": "greeter", "id": instance.id, "revision": "x" * 22}
    async with mesh.client() as bus:
        address = bus.address(bus.subjects.heartbeat("greeter", instance.id))
        seq = iter(range(10_000, 1_000_000, 10_000))

        def forge(*_):
            bus.publish(address, encode(Heartbeat(seq=next(seq), state="draining", **facts)))

        await bus.subscribe(bus.subjects.heartbeat("greeter", instance.id), lambda *message: None)
        await bus.subscribe(bus.subjects.discover(), forge)
        await bus.subscribe(bus.subjects.announce("greeter", instance.id), lambda *m: next(seq) < 60_000 and forge())
        await bus.flush()
        during = await shell("doctor", "--json", "--for", "1")
    after = await shell("doctor", "--json", "--for", "1")
    assert during.code == 1
    assert f"greeter.{instance.id} contradicts itself: " in by_check(during, "fail")["senders"][0]
    assert (after.code, by_check(after, "fail")) == (0, {})
    assert f"greeter.{instance.id} (" in by_check(after, "warn")["senders"][0]


async def test_silence_is_seen(nats_url, prefix):
    """The check itself: who has sent no heartbeat while the doctor waited."""
    from mesh.cli.mesh_observer import MeshObserver

    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh, mesh.client() as bus:
        await mesh.start(greeter(), heartbeat_ms=30_000)
        async with MeshObserver(bus) as observer:
            await observer.synchronise()
            await observer.wait_heartbeats(0.1, "greeter")
            (finding,) = mesh_checks.states(mesh_checks.Observations(observer, [], [], Witness()))[:1]
    assert finding.severity == "warn"
    assert "no heartbeat from" in finding.seen


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"name": "a"}', None),
        (b'{"name": "a", "id": 7}', None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"name": "a", "id": "b", "metadata": null, "endpoints": null}', ({}, [])),
        (
            b'{"name": "a", "id": "b", "metadata": {"k": "v", "n": 1}, "endpoints": [1, {}]}',
            ({"k": "v"}, [("", 0, 0.0)]),
        ),
        (
            b'{"name":"a","id":"b","endpoints":[{"name":"e","num_requests":2.0,"average_processing_time":1.5e6,"data":3}]}',
            ({}, [("e", 2, 1.5)]),
        ),
    ],
)
def test_micro_replies_are_read_leniently(payload, expected):
    micro = read(payload)
    seen = micro and (micro.metadata, [(e.name, e.requests, e.average_ms) for e in micro.endpoints])
    assert seen == expected
