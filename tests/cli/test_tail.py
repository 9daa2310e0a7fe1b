"""`mesh-tail` as a real process: what it prints while services start, change, die and leave."""

import asyncio
import json
import re
import signal
import sys

import pytest

from mesh import Service
from mesh.messages import Announcement, Endpoint, Route, encode, revision_of
from mesh.service import ServiceInstance
from mesh.settings import BusSettings, ServiceSettings
from tests.cli.builders import on_terminal
from tests.cli.conftest import Shell

GREETER = """
from mesh import Service

service = Service("greeter", version="1.0.0")


@service.get("/greet/{name}")
async def greet(name: str) -> str:
    return name
"""
QUICK = {"MESH_HEARTBEAT_MS": "250", "MESH_LINGER_MS": "0"}
HOSTILE = "evil\x1b[2J\x07\x9b31m\u202e\r\n"
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202e]")


def greeter(name="greeter", path="/greet"):
    service = Service(name, version="2.0.0")

    @service.get(path)
    async def greet() -> str:
        return "hi"

    return service


class Puppet:
    """An instance whose announcements the test chooses."""

    def __init__(self, bus):
        self.bus, self.seq = bus, 0

    def say(self, state="ready", version="1.0.0", paths=("/a",), description="", heartbeat_ms=30_000, **fields):
        self.seq += 1
        endpoints = (Endpoint(name="e", subject="x.y"),)
        routes = tuple(Route(method="GET", path=path, endpoint="e", **fields) for path in paths)
        message = Announcement(
            name=self.bus.service,
            id=self.bus.instance,
            version=version,
            description=description,
            endpoints=endpoints,
            routes=routes,
            seq=self.seq,
            revision=revision_of(self.bus.service, version, endpoints, routes),
            state=state,
            started="2024-01-01T00:00:00Z",
            heartbeat_ms=heartbeat_ms,
        )
        self.bus.publish(
            self.bus.address(self.bus.subjects.announce(self.bus.service, self.bus.instance)), encode(message)
        )


@pytest.fixture
async def puppet(mesh):
    async with mesh.client("puppet") as bus:
        yield Puppet(bus)


async def live(shell, *arguments, **environment):
    """A tail that watches already: it has said on standard error, or here by the gateway's line, that it does."""
    tail = await shell.start("tail", *arguments, **environment)
    await tail.line("gateway")
    return tail


async def test_who_is_there_comes_first(shell, mesh):
    instance = await mesh.start(greeter())
    tail = await live(shell, "--json")
    present = await tail.event("present", service="greeter")
    assert present["instance"] == instance.id
    assert (present["version"], present["state"], present["routes"]) == ("2.0.0", "ready", ["GET /greet"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", present["time"])
    assert [json.loads(line)["kind"] for line in tail.lines] == ["present"] * 2
    assert await tail.end(signal.SIGINT) == 0
    assert tail.errors == b""


async def test_joined_changed_state_and_left(shell, mesh, puppet):
    tail = await live(shell, "--json")
    puppet.say(paths=("/a", "/b"))
    joined = await tail.event("joined", service="puppet")
    assert (joined["instance"], joined["routes"]) == (puppet.bus.instance, ["GET /a", "GET /b"])
    puppet.say(version="1.1.0", paths=("/b", "/c"))
    changed = await tail.event("changed", version="1.1.0")
    assert (changed["added"], changed["removed"]) == (["GET /c"], ["GET /a"])
    puppet.say("unready", version="1.1.0", paths=("/b", "/c"))
    assert (await tail.event("state", state="unready"))["previous"] == "ready"
    puppet.say("stopped", version="1.1.0", paths=("/b", "/c"))
    assert (await tail.event("left"))["state"] == "stopped"
    kinds = [json.loads(line)["kind"] for line in tail.lines]
    assert kinds == ["present", "joined", "changed", "state", "left"]
    assert await tail.end() == 0


async def test_fields_of_a_route_that_changed(shell, mesh, puppet):
    json_tail, text_tail = await live(shell, "--json"), await live(shell, "--text")
    puppet.say(timeout_ms=5000)
    await json_tail.event("joined", service="puppet")
    puppet.say(timeout_ms=2000, summary="What a is", retry=False, tags=("x",))
    changed = await json_tail.event("changed")
    fields = {"timeout_ms": [5000, 2000], "retry": [True, False], "summary": ["", "What a is"], "tags": [[], ["x"]]}
    assert changed["altered"] == [{"route": "GET /a", "fields": fields}]
    assert "added" not in changed
    line = await text_tail.line("~ changed")
    assert "~[GET /a summary '' -> 'What a is', tags none -> x, timeout 5s -> 2s, retry yes -> no]" in line
    puppet.say(try_timeout_ms=1500)
    line = await text_tail.line("1.5s")
    assert "timeout 2s -> default, try timeout none -> 1.5s" in line


async def test_a_killed_process_is_suspect_then_lost(shell, mesh, tmp_path):
    (tmp_path / "greeter.py").write_text(GREETER)
    tail = await live(shell, "--json")
    process = await shell.start("run", "greeter.py", cwd=tmp_path, **QUICK)
    joined = await tail.event("joined", service="greeter")
    assert joined["routes"] == ["GET /greet/{name}"]
    await process.end(signal.SIGKILL)
    facts = {"service": "greeter", "instance": joined["instance"]}
    assert "silent for" in (await tail.event("suspect", **facts))["reason"]
    lost = await tail.event("lost", **facts)
    assert "silent for 1." in lost["reason"]
    assert lost["removed"] == ["GET /greet/{name}"]


async def test_a_stopped_process_leaves_and_a_frozen_one_recovers(shell, mesh, tmp_path):
    (tmp_path / "greeter.py").write_text(GREETER)
    tail = await live(shell, "--json")
    process = await shell.start("run", "greeter.py", cwd=tmp_path, **QUICK)
    await tail.event("joined", service="greeter")
    process.child.send_signal(signal.SIGSTOP)
    await tail.event("suspect", service="greeter")
    process.child.send_signal(signal.SIGCONT)
    # Resumed in time it recovers, on a machine that is too slow for that it joins again.
    await tail.line(lambda line: json.loads(line)["kind"] in ("recovered", "lost"))
    assert await process.end() == 0
    await tail.event("left", service="greeter")


async def test_conflicts_as_they_come_and_go(shell, mesh):
    await mesh.start(greeter("alpha"))
    beta = await mesh.start(greeter("beta"))
    tail = await live(shell, "--json", "--service", "beta", "--service", "gateway")
    conflict = await tail.event("conflict")
    assert (conflict["method"], conflict["path"]) == ("GET", "/greet")
    assert (conflict["winner"], conflict["losers"]) == ("alpha", ["beta"])
    await beta.drain()
    await tail.event("conflict over", path="/greet")
    await mesh.start(greeter("beta"))
    await tail.line(lambda line: [json.loads(seen)["kind"] for seen in tail.lines].count("conflict") == 2)
    assert not any('"service":"alpha"' in line for line in tail.lines)


async def test_conflicts_are_decided_with_the_gateways_settings(shell, mesh):
    await mesh.start(greeter("alpha"))
    await mesh.start(greeter("beta"))
    done = await shell("tail", "--once", "--json", MESH_OWNERS="/greet=beta")
    (conflict,) = [event for line in done.out.splitlines() if (event := json.loads(line))["kind"] == "conflict"]
    assert (conflict["winner"], conflict["losers"], conflict["why"]) == ("beta", ["alpha"], "owner")


async def test_only_the_services_asked_for(shell, mesh, puppet):
    await mesh.start(greeter())
    tail = await live(shell, "--json", "--service", "puppet", "--service", "gateway")
    await mesh.start(greeter("other", "/other"))
    puppet.say()
    await tail.event("joined", service="puppet")
    assert {json.loads(line)["service"] for line in tail.lines} == {"gateway", "puppet"}


async def test_text_for_people(shell, mesh, puppet):
    tail = await live(shell, "--text")
    puppet.say()
    id = puppet.bus.instance
    line = await tail.line("joined")
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}} \+ joined    puppet\.{id} 1\.0\.0 ready \[GET /a\]", line)
    puppet.say("draining", paths=("/b",))
    assert (await tail.line("~ changed")).endswith(f"puppet.{id} 1.0.0 +[GET /b] -[GET /a]")
    assert (await tail.line("~ state")).endswith(f"puppet.{id} 1.0.0 ready -> draining")
    puppet.say("stopped")
    await tail.line(r"- left +puppet")
    await tail.end()
    assert b"1 instance of 1 service; watching" in tail.errors
    assert not any("\x1b" in line for line in tail.lines)


async def test_once_ends_after_the_present_state(shell, mesh):
    instance = await mesh.start(greeter())
    done = await shell("tail", "--once", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, [e["kind"] for e in events]) == (0, ["present", "present"])
    assert [e["instance"] for e in events] == [mesh.gateway.id, instance.id]


async def test_raw_shows_the_messages_themselves(shell, mesh, puppet, prefix):
    await mesh.start(greeter())
    tail = await shell.start("tail", "--raw", "--json", "--service", "greeter", "--service", "puppet")
    text = await shell.start("tail", "--raw", "--text", "--service", "greeter")
    assert (await text.line("heartbeat")).split()[1].startswith(f"{prefix}.heartbeat.greeter.")
    beat = json.loads(await tail.line("heartbeat"))  # so it listens
    assert beat["message"]["type"] == "mesh.v1.heartbeat"
    subject = puppet.bus.subjects.announce("puppet", puppet.bus.instance)
    puppet.say(description=HOSTILE)
    puppet.bus.publish(puppet.bus.address(subject), b"\xffno json\x1b[2J")
    message = json.loads(await tail.line('"description":"evil'))
    assert (message["subject"], message["message"]["description"]) == (subject, HOSTILE)
    broken = json.loads(await tail.line("no json"))
    assert broken["message"] == "\ufffdno json\x1b[2J"
    assert not any(CONTROL.search(line) for line in (*tail.lines, *text.lines))
    assert await tail.end() == 0


async def test_nothing_that_is_announced_steers_the_terminal(shell, mesh, puppet):
    tail = await live(shell, "--text", FORCE_COLOR="")
    lines = await live(shell, "--json")
    puppet.say(version="1" + HOSTILE, description=HOSTILE, paths=("/ok", "/" + HOSTILE))
    line = await tail.line("joined")
    assert "puppet" in line
    assert "\\x1b[2J" in line
    event = await lines.event("joined", service="puppet")
    assert event["version"] == "1" + HOSTILE
    puppet.bus.publish(
        puppet.bus.address(puppet.bus.subjects.announce("puppet", puppet.bus.instance)), b'{"type": "\x1b[2J"}'
    )
    puppet.say("stopped")
    await tail.line(r"left")
    await tail.end()
    assert not any(CONTROL.search(line) for line in (*tail.lines, *lines.lines))
    assert not CONTROL.search(tail.errors.decode().replace("\n", ""))


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": ""}, False), ({"NO_COLOR": "1"}, False)],
)
async def test_colours(shell, mesh, environment, coloured):
    done = await shell("tail", "--once", "--text", **environment)
    assert ("\x1b[" in done.out) is coloured


async def test_a_terminal_gets_text_in_colour_unless_told_otherwise(shell, mesh):
    shown = await on_terminal(shell, "tail", "--once")
    assert "\x1b[2m= present  \x1b[0m gateway." in shown
    shell.environment["NO_COLOR"] = "1"
    shown = await on_terminal(shell, "tail", "--once")
    assert "= present   gateway." in shown
    assert "\x1b" not in shown


async def test_a_restart_of_nats_is_survived(nats, prefix, shell):
    settings = BusSettings(servers=(nats.url,), prefix=prefix)
    async with ServiceInstance(greeter(), settings, ServiceSettings(linger_ms=0)) as instance:
        await instance.bus.wait_connected(5)
        tail = await shell.start("tail", "--json", NATS_URL=nats.url)
        await tail.line("greeter")
        await nats.kill()
        await tail.event("disconnected")
        await nats.start()
        await tail.event("connected")
        await instance.bus.wait_connected(10)
        async with ServiceInstance(greeter("second"), settings, ServiceSettings(linger_ms=0)):
            await tail.event("joined", service="second")
        await tail.event("left", service="second")
        kinds = [json.loads(line)["kind"] for line in tail.lines]
        assert "lost" not in kinds
        assert kinds.index("present") < kinds.index("disconnected") < kinds.index("connected")
        assert await tail.end() == 0
        assert tail.errors == b""


async def test_without_nats_it_exits_with_75(shell):
    done = await shell("tail", NATS_URL="nats://user:secret@127.0.0.1:9", MESH_CONNECT_TIMEOUT_S="0.3")
    assert (done.code, done.out) == (75, "")
    assert "127.0.0.1:9" in done.err
    assert "NATS_URL" in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize("arguments", [["--json", "--text"], ["--raw", "--once"], ["--nosuch"], ["x"]])
async def test_wrong_usage(shell, arguments):
    done = await shell("tail", *arguments)
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("arguments", [["--json"], ["--raw", "--json"], ["--text", "--once"]])
async def test_a_reader_that_goes_away_ends_it_quietly(shell: Shell, mesh, arguments):
    """As ``mesh-tail | head -0`` does: at its next line it ends, without a word."""
    await mesh.start(greeter())
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mesh",
        "tail",
        *arguments,
        env=shell.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    child._transport.get_pipe_transport(1).close()
    errors = await asyncio.wait_for(child.stderr.read(), 20)
    assert await child.wait() == 0
    assert b"Error" not in errors
    assert b"Traceback" not in errors
