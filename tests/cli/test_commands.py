"""The commands that look at a mesh and act on it, as people and scripts use them."""

import asyncio
import json
import re
import signal
import sys

import pytest

from mesh import Service
from tests.cli.builders import CONTROL, HOSTILE, Foreign, announce_hostile, users

NOBODY = "nats://127.0.0.1:9"
COMMANDS = ("ls", "routes", "info", "stats", "ping", "call", "drain", "doctor", "completion", "tail")


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
        ["call", "POST", "/x", "a=b", "-d", "{}"],
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
    assert re.search("^error: ", done.err, re.MULTILINE)
    assert "Error" not in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["call", "GET", "hello"], "error: 'hello' is not a path; did you mean /hello?\n"),
        (["run", "x:y", "--insance", "1"], "error: No such option '--insance'.\n"),
        (
            ["gateway", "--workr", "1"],
            "error: No such option '--workr'. (Did you mean one of: '--port', '--workers'?)\n",
        ),
        (["run", "reposiory"], "error: there is no module 'reposiory' here; did you mean 'repository'?\n"),
        (["run", "application:app"], ": app is a FastAPI application: mesh serve application:app --name application\n"),
    ],
)
async def test_what_is_meant_is_said_once(shell, tmp_path, arguments, says):
    (tmp_path / "repository.py").write_text("")
    (tmp_path / "application.py").write_text("import fastapi\n\napp = fastapi.FastAPI()\n")
    running = await shell.start(*arguments, cwd=tmp_path)
    await running.child.wait()
    assert await running.end() == 2
    told = running.errors.decode()
    assert told.replace("application:app is no mesh.Service; ", ": ").endswith(says), told
    assert told.count("FastAPI") <= 1


async def test_a_wrong_setting_is_named(shell):
    done = await shell("ls", MESH_PREFIX="a.b")
    assert done.code == 2
    assert "MESH_PREFIX" in done.err


async def test_a_variable_that_is_nobodys_setting_is_warned_of_once(shell):
    done = await shell("routes", "--json", MESH_TAIL="1")  # which reads its settings twice
    assert done.code == 0
    assert done.json["routes"] == []
    warning = "warning: environment MESH_TAIL: no setting of the mesh has this name; it is ignored\n"
    assert done.err.count("MESH_TAIL") == done.err.count(warning) == 1
    done = await shell("ls", MESH_HEARTBEET_MS="1")
    assert (done.code, "did you mean MESH_HEARTBEAT_MS?" in done.err) == (2, True)


async def test_names_that_do_not_exist_lead_to_the_nearest(shell, mesh):
    instance = await mesh.start(users())
    wrong = instance.id[:-1] + ("A" if instance.id[-1] != "A" else "B")
    cases = {
        "no service 'user'. Did you mean 'users'?": [
            *[[command, "user"] for command in ("ls", "info", "stats", "ping", "drain")],
            ["routes", "--service", "user"],
            ["call", "user", "greet"],
        ],
        f"Did you mean '{instance.id}'?": [[command, f"users.{wrong}"] for command in ("ls", "info", "drain")],
        "users has no endpoint 'gret'. Did you mean 'greet'?": [["call", "users", "gret"]],
    }
    for expected, commands in cases.items():
        for done in await asyncio.gather(*(shell(*arguments) for arguments in commands)):
            assert (done.code, done.out) == (1, "")
            assert expected in done.err


async def test_nothing_a_service_sends_steers_the_terminal(shell, mesh, foreign):
    bus = await announce_hostile(mesh)
    identity = {"name": "hostile" + HOSTILE, "id": HOSTILE, "version": HOSTILE, "metadata": {HOSTILE: HOSTILE}}
    endpoint = {"name": HOSTILE, "subject": HOSTILE, "queue_group": HOSTILE, "num_requests": 1, "last_error": HOSTILE}
    answer = {**identity, "description": HOSTILE, "started": HOSTILE, "endpoints": [endpoint]}
    await Foreign(foreign.bus, "hostile", dict.fromkeys(("PING", "INFO", "STATS"), answer)).start()
    commands = [["ls"], ["routes"], ["info", "hostile"], ["stats"], ["ping"], ["doctor", "--for", "1"]]
    commands = [[*arguments, *more] for arguments in commands for more in ([], ["--json"])]
    for batch in (commands[:6], commands[6:]):  # they mostly wait
        for arguments, done in zip(batch, await asyncio.gather(*(shell(*a) for a in batch)), strict=True):
            assert "hostile" in done.out, (arguments, done.err)
            assert not CONTROL.search(done.out + done.err), arguments
    wrong = (["ping", "hostil", "--timeout", "0.3"], ["ls", "qqq"], ["call", "hostile", "x"])
    for arguments, done in zip(wrong, await asyncio.gather(*(shell(*a) for a in wrong)), strict=True):
        assert (done.code, CONTROL.search(done.err)) == (1, None), arguments
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
    assert rows["GET", "/users/{user_id}"]["service"] == "users"
    assert rows["POST", "/users"]["deprecated"] is True
    assert (rows["POST", "/users"]["retry"], rows["GET", "/users/{user_id}"]["retry"]) == (False, True)
    conflicts = {c["path"]: c for c in document["conflicts"]}
    assert (conflicts["/users/{id}"]["losers"], conflicts["/users/{id}"]["why"]) == (["rival"], "earlier")
    assert (conflicts["/health/x"]["winner"], conflicts["/health/x"]["why"]) == ("gateway", "reserved")
    assert [r["service"] for r in document["rejected"]] == ["hostile"]
    assert re.search(r"^POST +/users +users +1\.0\.0 +1 +deprecated, no retry$", text, re.MULTILINE)
    assert "conflict: GET /users/{id} is served by users (the earlier claim), claimed by rival too" in text
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
    unused = rows["users", "greet"]
    assert (unused["requests"], unused["average_ms"], unused["p50_ms"]) == (0, None, None)
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
