"""The commands that look at a mesh and act on it, as people and scripts use them."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
import time

import msgspec
import pytest

from mesh import Invalid, Response, Service
from mesh.bus import Bus
from mesh.config import BusSettings
from mesh.messages import Announcement, Endpoint, Heartbeat, Route, encode, revision_of

HOSTILE = "evil\x1b[2J\x07\x9b31m\u202etxt\r\n"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
NOBODY = "nats://127.0.0.1:9"
COMMANDS = ("ls", "routes", "info", "stats", "ping", "call", "drain", "doctor", "completion", "tail")


class NewUser(msgspec.Struct):
    name: str = ""
    age: int = 0


def users(version="1.0.0") -> Service:
    service = Service("users", version=version, description="who may play", metadata={"team": "core"})

    @service.get("/users/{user_id}", timeout=2.5, idempotent=True)
    async def get_user(user_id: int, full: bool = False) -> dict[str, object]:
        """One user."""
        if user_id == 0:
            raise Invalid("nobody is 0")
        return {"id": user_id, "full": full}

    @service.post("/users", status=201, deprecated=True)
    async def create_user(body: NewUser) -> NewUser:
        return body

    @service.endpoint()
    async def greet(name: str, times: int = 1) -> str:
        return " ".join([name] * times)

    @service.get("/users/avatar.bin")
    async def avatar() -> Response:
        return Response(b"\xff\x00\x1b[2J", content_type="application/octet-stream", headers={"x-note": "evil\x9b2J"})

    return service


class Foreign:
    """A micro service of another client: answers are as lenient as FACTS allows them to be."""

    def __init__(self, bus, name, answers):
        self.bus, self.name, self.answers = bus, name, answers

    async def start(self):
        for verb, answer in self.answers.items():
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{self.name}"):
                await self.bus.subscribe(subject, self._responder(json.dumps(answer).encode()))
        await self.bus.subscribe(f"{self.name}.add", self._add)
        await self.bus.flush()

    def _responder(self, payload):
        return lambda subject, reply, block, body: self.bus.publish(reply, payload)

    def _add(self, subject, reply, block, payload):
        self.bus.publish(reply, b"%d" % sum(json.loads(payload).values()))


def go_like(name):
    identity = {"name": name, "id": "GoLike1", "version": "0.3.0", "metadata": None}
    endpoint = {"name": "add", "subject": f"{name}.add", "queue_group": "q"}
    figures = {"num_requests": 7, "num_errors": 1, "processing_time": 14e6, "average_processing_time": 2000000.5}
    return {
        "PING": identity,
        "INFO": {**identity, "description": "adds", "endpoints": [{**endpoint, "metadata": None}, 7]},
        "STATS": {**identity, "started": "2024-05-01T10:11:12.123456789Z", "endpoints": [{**endpoint, **figures}]},
    }


@pytest.fixture
async def foreign(nats_url, prefix):
    name = f"adder-{prefix}"
    async with Bus(BusSettings(servers=(nats_url,), prefix=f"f{prefix}")) as bus:
        foreign = Foreign(bus, name, go_like(name))
        await foreign.start()
        yield foreign


async def announce_hostile(mesh):
    """An instance that puts control characters wherever the protocol has room for text."""
    bus = mesh.client("hostile")
    await bus.__aenter__()
    endpoints = (Endpoint(name="bad", subject="x.y", metadata={"k" + HOSTILE: HOSTILE}),)
    routes = (
        Route(method="GET", path="/ok", endpoint="bad", summary=HOSTILE),
        Route(method="GET", path="/" + HOSTILE, endpoint="bad"),
    )
    revision = revision_of("hostile", HOSTILE, endpoints, routes)
    message = Announcement(
        name="hostile",
        id=bus.instance,
        version="1" + HOSTILE,
        description=HOSTILE,
        metadata={HOSTILE: HOSTILE},
        endpoints=endpoints,
        routes=routes,
        seq=1,
        revision=revision,
        state="ready",
        started=HOSTILE,
        heartbeat_ms=30_000,
    )

    def announce(*_):
        bus.publish(bus.address(bus.subjects.announce("hostile", bus.instance)), encode(message))
        beat = Heartbeat(name="hostile", id=bus.instance, seq=2, revision=revision, state="ready")
        bus.publish(bus.address(bus.subjects.heartbeat("hostile", bus.instance)), encode(beat))

    await bus.subscribe(bus.subjects.discover(), announce)
    await bus.flush()
    announce()
    return bus


# -- what all have in common


@pytest.mark.parametrize("name", COMMANDS)
async def test_help_has_examples(shell, name):
    done = await shell(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Examples:" in done.out
    assert name in (await shell("--help")).out


async def test_help_is_quick_because_nothing_heavy_is_imported(shell):
    code = (
        "import sys; sys.argv[1:] = ['--help']\nimport mesh.cli.main as m\ntry: m.main()\nfinally: print(*sys.modules)"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=shell.environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    loaded = set(out.decode().splitlines()[-1].split())
    assert "click" in loaded
    assert not loaded & {"nats", "msgspec", "uvicorn", "fastapi", "gateway", "mesh.bus", "mesh.cli.ls"}
    for name in COMMANDS[:-1]:
        code = f"import sys, mesh.cli.{name}; print(*sys.modules)"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, env=shell.environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await child.communicate()
        assert not set(out.decode().split()) & {"nats", "uvicorn", "fastapi", "gateway", "mesh.bus"}, name


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["routes"],
        ["info", "users"],
        ["stats"],
        ["ping", "users", "--timeout", "0.3"],
        ["call", "users", "greet"],
        ["call", "GET", "/x"],
        ["drain", "users"],
        ["doctor"],
        ["doctor", "--json"],
    ],
)
async def test_without_nats_the_exit_code_is_75(shell, arguments):
    done = await shell(*arguments, NATS_URL=NOBODY, MESH_CONNECT_TIMEOUT_S="0.3")
    assert done.code == 75
    if arguments[0] != "doctor":
        assert (done.out, "127.0.0.1:9" in done.err, "NATS_URL" in done.err) == ("", True, True)
    elif "--json" in arguments:
        assert [f["severity"] for f in done.json] == ["fail"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "a b"],
        ["info"],
        ["info", "a.b.c"],
        ["ping", "*"],
        ["stats", "--interval", "0"],
        ["call", "users"],
        ["call", "users", "greet", "name"],
        ["call", "users", "greet", "times:=x"],
        ["call", "users", "greet", "a=b", "-d", "{}"],
        ["call", "get", "/x"],
        ["call", "GET", "/x", "-H", "none"],
        ["call", "GET", "/x", "-d", "@/no/such/file"],
        ["drain"],
        ["completion", "csh"],
        ["nosuch"],
    ],
)
async def test_wrong_usage_is_2_before_anything_is_connected(shell, arguments):
    done = await shell(*arguments, NATS_URL=NOBODY, MESH_CONNECT_TIMEOUT_S="0.3")
    assert (done.code, done.out) == (2, "")
    assert "Error" in done.err


async def test_a_wrong_setting_is_named(shell):
    done = await shell("ls", MESH_PREFIX="a.b")
    assert done.code == 2
    assert "MESH_PREFIX" in done.err


async def test_names_that_do_not_exist_lead_to_the_nearest(shell, mesh):
    instance = await mesh.start(users())
    for arguments in (["ls", "user"], ["info", "user"], ["stats", "user"], ["ping", "user"], ["drain", "user"]):
        done = await shell(*arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert "no service 'user'. Did you mean 'users'?" in done.err
    wrong = instance.id[:-1] + ("A" if instance.id[-1] != "A" else "B")
    for command in ("ls", "info", "drain"):
        done = await shell(command, f"users.{wrong}")
        assert done.code == 1
        assert f"Did you mean '{instance.id}'?" in done.err
    done = await shell("routes", "--service", "user")
    assert (done.code, "Did you mean 'users'?" in done.err) == (1, True)
    done = await shell("call", "users", "gret")
    assert (done.code, "Did you mean 'greet'?" in done.err) == (1, True)
    done = await shell("call", "user", "greet")
    assert (done.code, "Did you mean 'users'?" in done.err) == (1, True)


async def test_nothing_a_service_sends_steers_the_terminal(shell, mesh):
    bus = await announce_hostile(mesh)
    try:
        for arguments in (["ls"], ["routes"], ["info", "hostile"], ["doctor", "--for", "1"]):
            for more in ([], ["--json"]):
                done = await shell(*arguments, *more)
                assert "hostile" in done.out
                assert not CONTROL.search(done.out + done.err), (arguments, more)
    finally:
        await bus.aclose()


async def test_colour_only_where_it_is_wanted(shell, mesh):
    assert "\x1b" not in (await shell("ls", "--quick")).out
    assert "\x1b[1m" in (await shell("ls", "--quick", FORCE_COLOR="1")).out


async def test_a_reader_that_goes_away_ends_it_quietly(shell, mesh):
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mesh",
        "stats",
        "--watch",
        "--quick",
        "--interval",
        "0.1",
        env=shell.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert await child.stdout.readline()
    child._transport.get_pipe_transport(1).close()
    assert (await asyncio.wait_for(child.stderr.read(), 20)) == b""
    assert await child.wait() == 0


# -- ls


async def test_ls_shows_everybody(shell, mesh, foreign):
    instance = await mesh.start(users(), concurrency=7)
    rows = {row["instance"]: row for row in (await shell("ls", "--json")).json}
    row = rows[instance.id]
    assert (row["service"], row["version"], row["state"], row["kind"]) == ("users", "1.0.0", "ready", "mesh")
    assert (row["inflight"], row["capacity"], row["routes"]) == (0, 7, 3)
    assert row["revision"] == mesh.gateway.watcher.registry.get("users", instance.id).revision
    assert 0 <= row["age_s"] < 60
    assert 0 <= row["heard_s"] < 1
    assert rows[mesh.gateway.id]["service"] == "gateway"
    assert (rows["GoLike1"]["kind"], rows["GoLike1"]["version"]) == ("nats micro", "0.3.0")
    done = await shell("ls")
    head, *lines = done.out.splitlines()
    place = head.index("STATE")
    by_service = {line.split()[0]: line for line in lines}
    assert by_service["users"][place:].startswith("ready")
    assert by_service[foreign.name][place:].startswith("nats micro")
    assert " 0/7 " in by_service["users"]


async def test_ls_of_one_service_and_of_one_instance(shell, mesh, foreign):
    one, two = [await mesh.start(users()) for _ in range(2)]
    assert {row["instance"] for row in (await shell("ls", "users", "--json")).json} == {one.id, two.id}
    rows = (await shell("ls", f"users.{one.id}", "--json", "--quick")).json
    assert [row["instance"] for row in rows] == [one.id]
    assert [row["instance"] for row in (await shell("ls", foreign.name, "--json")).json] == ["GoLike1"]


# -- routes, info


async def test_routes_with_flags_conflicts_and_rejected(shell, mesh):
    await mesh.start(users())
    rival = Service("rival")

    @rival.get("/users/{id}")
    async def mine(id: str) -> str:
        return id

    @rival.get("/health/x")
    async def health() -> str:
        return ""

    await mesh.start(rival)
    bus = await announce_hostile(mesh)
    document = (await shell("routes", "--json")).json
    text = (await shell("routes")).out
    of_users = (await shell("routes", "--service", "users", "--json")).json
    owned = (await shell("routes", "--json", MESH_OWNERS="/users=users")).json
    await bus.aclose()
    rows = {(r["method"], r["path"]): r for r in document["routes"]}
    assert rows["GET", "/users/{id}"]["service"] == "rival"
    assert rows["POST", "/users"]["deprecated"] is True
    conflicts = {c["path"]: c for c in document["conflicts"]}
    assert conflicts["/users/{id}"]["losers"] == ["users"]
    assert (conflicts["/health/x"]["winner"], conflicts["/health/x"]["why"]) == ("gateway", "reserved")
    assert [r["service"] for r in document["rejected"]] == ["hostile"]
    assert re.search(r"^POST +/users +users +1\.0\.0 +1 +deprecated$", text, re.MULTILINE)
    assert "conflict: GET /users/{id} is rival's (the smaller name), claimed by users too" in text
    assert "rejected: GET" in text
    assert {r["service"] for r in of_users["routes"]} == {"users"}
    assert [c["path"] for c in of_users["conflicts"]] == ["/users/{id}"]
    assert not of_users["rejected"]
    flags = next(r for r in owned["routes"] if r["path"] == "/users/{user_id}")
    assert (flags["idempotent"], flags["timeout_ms"], flags["service"]) == (True, 2500, "users")


async def test_info_shows_what_is_announced(shell, mesh, foreign, prefix):
    instance = await mesh.start(users())
    (document,) = (await shell("info", "users", "--json")).json
    assert (document["description"], document["metadata"]) == ("who may play", {"team": "core"})
    assert {e["subject"] for e in document["endpoints"]} >= {f"{prefix}.req.users.greet"}
    assert {e["queue_group"] for e in document["endpoints"]} == {"q"}
    assert document["routes"][0]["path"] == "/users/{user_id}"
    text = (await shell("info", f"users.{instance.id[:12]}")).out
    for expected in (
        f"users.{instance.id}",
        "team = core",
        f"{prefix}.req.users.greet",
        "/users/{user_id}",
        "One user.",
    ):
        assert expected in text
    (document,) = (await shell("info", foreign.name, "--json")).json
    assert [e["subject"] for e in document["endpoints"]] == [f"{foreign.name}.add"]
    assert (document["description"], document["metadata"]) == ("adds", {})


# -- stats


async def test_stats_of_mesh_and_foreign_services(shell, mesh, foreign):
    instance = await mesh.start(users())
    for number in (0, 1, 2, 3):
        await mesh.http.get(f"/users/{number}")
    rows = {(r["service"], r["endpoint"]): r for r in (await shell("stats", "--json")).json}
    row = rows["users", "get_user"]
    assert (row["instance"], row["requests"], row["errors"]) == (instance.id, 4, 1)
    assert row["last_error"] == "422:nobody is 0"
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["average_ms"] > 0
    assert row["inflight"] == 0
    other = rows[foreign.name, "add"]
    assert (other["requests"], other["errors"], other["average_ms"]) == (7, 1, 2.0)
    assert (other["last_error"], other["p50_ms"], other["inflight"]) == ("", None, None)
    text = (await shell("stats", "users")).out
    assert re.search(r"get_user +4 +- +1 +\S+ms +\S+ms +\S+ms +0 +422:nobody is 0", text)


async def test_stats_watch_has_rates(shell, mesh):
    await mesh.start(users())
    running = await shell.start("stats", "users", "--watch", "--interval", "0.1", "--json", "--quick")
    await running.line("requests")
    await mesh.http.get("/users/1")
    line = await running.line(lambda line: any((r["rate"] or 0) > 0 for r in json.loads(line)))
    assert {r["endpoint"] for r in json.loads(line) if r["rate"]} == {"get_user"}
    assert await running.end(signal.SIGINT) in (0, 130)  # between two rounds, or in one
    assert running.errors == b""


# -- ping


async def test_ping(shell, mesh, foreign):
    one, two = [await mesh.start(users()) for _ in range(2)]
    document = (await shell("ping", "users", "-c", "3", "--json")).json
    rows = {row["instance"]: row for row in document["instances"]}
    assert rows.keys() == {one.id, two.id}
    assert all(
        (r["sent"], r["received"]) == (3, 3) and 0 < r["min_ms"] <= r["avg_ms"] <= r["max_ms"] for r in rows.values()
    )
    (row,) = (await shell("ping", f"users.{one.id}", "--json")).json["instances"]
    assert row["instance"] == one.id
    done = await shell("ping", foreign.name)
    assert (done.code, "GoLike1" in done.out) == (0, True)
    document = (await shell("ping", "--json")).json
    services = {row["service"] for row in document["instances"]}
    assert services >= {"users", "gateway", foreign.name}
    assert document["nats"]["min_ms"] > 0


async def test_ping_as_a_health_check(shell, mesh):
    instance = await mesh.start(users())
    done = await shell("ping", f"users.{instance.id}", "--quiet", "--timeout", "1")
    assert (done.code, done.out, done.err) == (0, "", "")
    (row,) = (await shell("ping", "gateway", "--json")).json["instances"]
    assert row["instance"] == mesh.gateway.id
    assert (await shell("ping", f"gateway.{mesh.gateway.id}", "-q", "-c", "2")).code == 0
    assert (await shell("ping", "gateway.NOBODY", "-q", "--timeout", "0.3")).code == 1
    await instance.drain()
    done = await shell("ping", "users", "--timeout", "0.3")
    assert (done.code, done.out) == (1, "")
    assert "no service 'users'" in done.err


async def test_ping_tells_who_announces_and_does_not_answer(shell, mesh):
    bus = await announce_hostile(mesh)
    for arguments in (["ping", "hostile", "--timeout", "0.3"], ["ping"]):
        done = await shell(*arguments)
        assert done.code == 1
        assert "has announced itself and does not answer" in done.err
    await bus.aclose()


# -- call


async def test_call_an_endpoint(shell, mesh, foreign):
    await mesh.start(users())
    done = await shell("call", "users", "greet", "name=Ada", "times:=2")
    assert (done.code, done.out, done.err) == (0, '"Ada Ada"', "")
    done = await shell("call", "users", "greet", "-d", "@-", stdin=b'{"name": "Bob"}')
    assert done.out == '"Bob"'
    done = await shell("call", "users", "greet", "times=x")
    assert (done.code, done.json["status"]) == (1, 422)
    assert "422 Unprocessable" in done.err
    done = await shell("call", foreign.name, "add", "a:=2", "b:=40")
    assert (done.code, done.out) == (0, "42")


async def test_call_a_route(shell, mesh):
    await mesh.start(users())
    done = await shell("call", "GET", "/users/7?full=true")
    assert (done.code, done.json) == (0, {"id": 7, "full": True})
    assert (await shell("call", "GET", "/users/7", "full=true")).json["full"] is True
    done = await shell("call", "POST", "/users", "name=Ada", "age:=36", "-i")
    assert (done.code, done.json) == (0, {"name": "Ada", "age": 36})
    assert done.err.startswith("201 Created\n")
    assert "content-type: application/json" in done.err
    done = await shell("call", "POST", "/users", "-d", '{"name": "Eve"}', "-H", "x-a: b", "--json")
    assert (done.json["status"], done.json["body"]["name"]) == (201, "Eve")
    done = await shell("call", "HEAD", "/users/7", "-i")
    assert (done.code, done.out) == (0, "")
    done = await shell("call", "GET", "/users/0")
    assert (done.code, done.json["reason"]) == (1, "invalid")
    done = await shell("call", "GET", "/users/avatar.bin")
    assert done.raw == b"\xff\x00\x1b[2J"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["GET", "/user/7"], "no service announces /user/7. Near: GET /users/{user_id}"),
        (["PUT", "/users"], "answers OPTIONS, POST, and not PUT"),
        (["GET", "/%2e%2e/x"], "Segment 1"),
        (["GET", "/users/7", "-H", "mesh-identity: me"], "does not cross"),
        (["GET", "/users/7", "-H", "a b: c"], "not a token"),
    ],
)
async def test_calls_that_cannot_be(shell, mesh, arguments, expected):
    await mesh.start(users())
    done = await shell("call", *arguments)
    assert (done.code, done.out) == (1, "")
    assert expected in done.err


async def test_call_gives_up_in_time(shell, mesh):
    service = Service("slow")

    @service.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    await mesh.start(service)
    began = time.monotonic()
    for arguments in (["GET", "/slow"], ["slow", "slow"]):
        done = await shell("call", *arguments, "--timeout", "0.2")
        assert (done.code, "deadline" in done.err) == (1, True)
    assert time.monotonic() - began < 9


async def test_call_on_a_terminal(shell, mesh):
    """Indented there, and a body can steer nothing."""
    service = Service("texts")

    @service.get("/json")
    async def document() -> dict[str, str]:
        return {"text": "a\x9b2J"}

    @service.get("/text")
    async def text() -> Response:
        return Response("one\ttwo\nevil\x1b[2J", content_type="text/plain")

    await mesh.start(service)
    await mesh.start(users())
    shown = await on_terminal(shell, "call", "GET", "/json")
    assert '{\n  "text": "a\\x9b2J"\n}\n' in shown
    assert "one\ttwo\nevil\\x1b[2J\n" in await on_terminal(shell, "call", "GET", "/text")
    assert "5 bytes" not in (shown := await on_terminal(shell, "call", "GET", "/users/avatar.bin", "-i"))
    assert "6 bytes that are no text" in shown
    assert "x-note: evil\\x9b2J" in shown


async def on_terminal(shell, *arguments, answer=b""):
    """What a person sees, standard error included."""
    ours, theirs = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh", *arguments, env=shell.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    if answer:
        os.write(ours, answer)

    def read():
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux's word for the end
                break
            if not chunk:
                break
            chunks.append(chunk)
        return b"".join(chunks)

    shown = await asyncio.to_thread(read)
    await asyncio.wait_for(child.wait(), 20)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


# -- drain


async def drained(instance):
    """What a process does when it is told to drain."""
    await instance.stop_requested.wait()
    await instance.drain()


async def test_drain_one_waits_until_it_has_left(shell, mesh):
    one, two = [await mesh.start(users()) for _ in range(2)]
    process = asyncio.ensure_future(drained(one))
    done = await shell("drain", f"users.{one.id}", "--json")
    assert (done.code, done.json) == (0, {"drained": [one.id], "lost": [], "remaining": []})
    assert f"users.{one.id} has left; 0 to go" in done.err
    await process
    assert not two.stop_requested.is_set()


async def test_drain_all(shell, mesh):
    instances = [await mesh.start(users()) for _ in range(2)]
    processes = [asyncio.ensure_future(drained(instance)) for instance in instances]
    done = await shell("drain", "users")
    assert done.code == 0
    assert "; 0 to go" in done.err
    await asyncio.gather(*processes)


async def test_drain_says_who_has_not_left_in_time(shell, mesh):
    instance = await mesh.start(users())
    done = await shell("drain", f"users.{instance.id}", "--timeout", "0.2")
    assert done.code == 1
    assert f"users still has {instance.id} after 0.2 s" in done.err
    instance.stop_requested.clear()
    done = await shell("drain", f"users.{instance.id}", "--no-wait")
    assert (done.code, done.err) == (0, "")
    await asyncio.wait_for(instance.stop_requested.wait(), 5)


async def test_drain_asks_on_a_terminal(shell, mesh):
    instance = await mesh.start(users())
    shown = await on_terminal(shell, "drain", "users", answer=b"n\n")
    assert "Drain all 1 instances of users? [y/N]" in shown
    assert "nothing was drained" in shown
    assert not instance.stop_requested.is_set()
    shown = await on_terminal(shell, "drain", "users", "--no-wait", answer=b"y\n")
    await asyncio.wait_for(instance.stop_requested.wait(), 5)


# -- completion


async def test_completion(shell):
    for name, word in (
        ("bash", "complete -o"),
        ("zsh", "#compdef mesh"),
        ("fish", "complete --no-files --command mesh"),
    ):
        done = await shell("completion", name)
        assert (done.code, done.err) == (0, "")
        assert word in done.out
        assert "_MESH_COMPLETE" in done.out
    done = await shell(_MESH_COMPLETE="bash_complete", COMP_WORDS="mesh ro", COMP_CWORD="1")
    assert done.out.split() == ["plain,routes"]
