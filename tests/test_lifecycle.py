"""Real processes, from the command line to the HTTP client."""

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.processes import answers, gateway_on, run, says

GREETER = '''
from mesh import Service

service = Service("greeter", version="1.0.0")


@service.get("/greet/{name}")
async def greet(name: str) -> dict[str, str]:
    """Greet somebody."""
    return {"message": f"Hello, {name}"}
'''

WORKER = """
import asyncio

from mesh import Context, Service

service = Service("worker", version="1.0.0")


@service.post("/work")
async def work(ctx: Context, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return ctx.instance
"""


@pytest.fixture
def env(nats_url, prefix):
    return {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_HEARTBEAT_MS": "500"}


async def test_a_new_service_file_is_served_and_missed(tmp_path, env):
    (tmp_path / "greeter.py").write_text(GREETER)
    async with gateway_on(tmp_path, env) as (_, http):
        assert (await http.get("/greet/Ada")).status_code == 404
        began = time.monotonic()
        async with run("run", "greeter:service", cwd=tmp_path, env=env) as service:
            await answers(http, "/greet/Ada", 200)
            assert time.monotonic() - began < 3  # under a second on an idle machine, the interpreter's start included
            await service.line("greeter 1.0.0 runs as")
            assert (await http.get("/greet/Ada")).json() == {"message": "Hello, Ada"}
            assert await service.end() == 0
            # Its last word has been heard by now, or is a moment away.
            assert await answers(http, "/greet/Ada", 503) < 3
            response = await http.get("/greet/Ada")
            assert response.json()["reason"] == "no_instances"
            assert response.headers["retry-after"] == "1"


async def test_a_saved_file_is_live_within_a_second_and_requests_in_flight_survive(tmp_path, env):
    text = WORKER.replace("return ctx.instance", 'return "first"')
    path = tmp_path / "worker.py"
    path.write_text(text)
    async with (
        gateway_on(tmp_path, env) as (_, http),
        run("run", "worker.py", "--reload", cwd=tmp_path, env=env) as service,
    ):
        await service.line("runs as")
        while (await http.post("/work")).status_code != 200:
            pass
        held = asyncio.ensure_future(http.post("/work?seconds=1.5"))
        await http.post("/work")
        began = time.monotonic()
        path.write_text(text.replace("first", "second"))
        while (await http.post("/work")).json() != "second":
            pass
        took = time.monotonic() - began
        assert (await held).json() == "first"
        assert took < 3  # well under one second on an idle machine
        await service.line("worker stopped")
        path.write_text("this is no Python")
        await service.line("the instance from before goes on")
        assert (await http.post("/work")).json() == "second"
        path.write_text(text.replace("first", "third"))
        async with asyncio.timeout(10):
            while (await http.post("/work")).json() != "third":
                pass
        assert await service.end() == 0
        assert (await http.post("/work")).status_code == 503


async def test_who_writes_a_service_is_warned_of_namesakes_and_of_what_blocks(tmp_path, env):
    text = (
        'import time\nfrom mesh import Service\nservice = Service("shop")\n'
        '@service.get("/PATH")\nasync def block() -> str:\n    time.sleep(0.4)\n    return "done"\n'
    )
    (tmp_path / "one.py").write_text(text.replace("PATH", "one"))
    (tmp_path / "two.py").write_text(text.replace("PATH", "two"))
    async with (
        gateway_on(tmp_path, env) as (_, http),
        run("run", "one.py", cwd=tmp_path, env=env) as one,
    ):
        await one.line("runs as")
        async with run("run", "two.py", "--reload", cwd=tmp_path, env=env) as two:
            await two.line(r"another program is called shop too: shop\.")
            for path in ("/one", "/two"):
                await answers(http, path, 200)
            await two.line(r"handler block at two\.py:6 \(time\.sleep\(0\.4\)\) held up the event loop for 0\.\d+ s")
            assert await two.end() == 0
        assert await one.end() == 0
        assert not [line for line in one.lines if "another program" in line or "held up" in line]


async def test_killing_one_of_two_loses_only_what_it_had(tmp_path, env):
    (tmp_path / "worker.py").write_text(WORKER)
    async with (
        gateway_on(tmp_path, env) as (_, http),
        run("run", "worker.py", cwd=tmp_path, env=env) as one,
        run("run", "worker.py", cwd=tmp_path, env=env) as two,
    ):
        for process in (one, two):
            await process.line("runs as")
        seen = Counter()
        while len(seen) < 2:
            response = await http.post("/work")
            seen[response.json() if response.status_code == 200 else "early"] += 1
            seen.pop("early", None)
        held = [asyncio.ensure_future(http.post("/work?seconds=2")) for _ in range(4)]
        busy = await anything_in_flight(http, held)
        assert busy
        one.child.kill()
        outcomes = Counter()
        for _ in range(200):
            response = await http.post("/work")
            outcomes[response.status_code] += 1
        # Until NATS has noticed, a moment later, it takes requests for the dead process: those were in flight too.
        assert outcomes[503] <= 2
        assert outcomes[200] == 200 - outcomes[503]
        results = Counter(response.status_code for response in await asyncio.gather(*held))
        assert results[200] >= 2
        assert results[200] + results[503] == 4
        for task in held:
            if task.result().status_code == 503:
                problem = task.result().json()
                assert (problem["reason"], problem["executed"]) == ("instance_lost", "unknown")
        assert await two.end() == 0


async def anything_in_flight(http, tasks):
    """Give the held requests the time of one round trip to be sent."""
    await http.get("/livez")
    await http.post("/work")
    return not any(task.done() for task in tasks)


async def test_the_earlier_claim_keeps_a_route_at_every_gateway_and_everybody_is_told(tmp_path, env):
    for name in ("beta", "alpha"):
        (tmp_path / f"{name}.py").write_text(
            f'from mesh import Service\nservice = Service("{name}")\n\n@service.get("/same/{{{name}}}")\n'
            f'async def same({name}: str) -> str:\n    return "{name}"\n'
        )
    async with (
        gateway_on(tmp_path, env) as (_, first),
        gateway_on(tmp_path, env) as (_, second),
        run("tail", "--json", cwd=tmp_path, env=env) as tail,
        run("run", "beta.py", cwd=tmp_path, env=env) as beta,
    ):
        await tail.line('"kind":"(joined|present)".*"service":"beta"')
        for http in (first, second):
            await answers(http, "/same/x", 200)
            assert (await http.get("/same/x")).json() == "beta"
        async with run("run", "alpha.py", cwd=tmp_path, env=env) as alpha:
            conflict = json.loads(await tail.line('"kind":"conflict"'))
            assert (conflict["winner"], conflict["losers"], conflict["method"]) == ("beta", ["alpha"], "GET")
            # Both terminals say so, the loser's with what to do.
            lost = await alpha.line("GET /same/{alpha} is served by beta")
            assert '[gateway.owners] \\"/same\\" = \\"alpha\\"' in lost
            await beta.line("GET /same/{alpha} is claimed by alpha too; this service keeps it")
            for http in (first, second):
                assert {(await http.get("/same/x")).json() for _ in range(20)} == {"beta"}
            # A rolling restart of the winner: the new instance takes its claim over, for gateways to come as well.
            async with run("run", "beta.py", cwd=tmp_path, env=env) as newer:
                await newer.line("GET /same/{alpha} is claimed by alpha too")
                assert await beta.end() == 0
                async with gateway_on(tmp_path, env) as (_, third):
                    await answers(third, "/same/x", 200)
                    for http in (first, second, third):
                        assert {(await http.get("/same/x")).json() for _ in range(20)} == {"beta"}
                assert await newer.end() == 0
            # The winner has left altogether: the other serves at last, and keeps the route from then on.
            await tail.line('"kind":"conflict over"')
            await alpha.line("GET /same/{alpha}: the conflict is over")
            for http in (first, second):
                await says(http, "/same/x", "alpha")
            async with run("run", "beta.py", cwd=tmp_path, env=env) as back:
                await back.line("GET /same/{alpha} is served by alpha")
                for http in (first, second):
                    assert {(await http.get("/same/x")).json() for _ in range(20)} == {"alpha"}
                assert await alpha.end() == 0
                for http in (first, second):
                    await says(http, "/same/x", "beta")
                back.child.kill()
                suspect = tail.lines.index(await tail.line('"kind":"suspect".*"service":"beta"'))
                await tail.line('"kind":"lost".*"service":"beta"', after=suspect)
        assert await tail.end(signal.SIGINT) == 0


def examples_of(up):
    """The names of the examples that were started besides; which ones, the machine's toolchains say."""
    (line,) = [line for line in up.lines if line.strip().startswith("starting")]
    names = re.findall(r"(\w+) \(", line)
    assert "notes" in names
    left_out = re.findall(r"left out: (\w+)", "".join(up.lines))
    assert sorted(names + left_out) == ["facts", "notes", "quotes", "riddles"]
    return names


async def test_up_serves_what_it_prints_and_leaves_nothing(tmp_path):
    env = {"NATS_URL": "", "PATH": os.environ["PATH"]}
    async with run("up", "--port", "0", "--ops-port", "0", cwd=tmp_path, env=env) as up:
        await up.line("Ctrl-C stops everything")
        curls = [line.strip() for line in up.lines if line.strip().startswith("curl ")]
        assert len(curls) == 3
        greetings = set()
        for command in (curls[0], curls[0], curls[1], curls[2]):
            child = await asyncio.create_subprocess_shell(
                f"{command} -sf", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, problem = await child.communicate()
            assert child.returncode == 0, (command, problem)
            if command is curls[2]:
                assert out.rstrip().endswith(b"data: [DONE]")
            else:
                greetings.add(json.loads(out).get("instance"))
        assert len(greetings - {None}) == 2
        children = descendants(up.child.pid)
        # NATS, the gateway and its worker, four services; and the examples, one of which has a process of its own.
        more = 7 + len(examples_of(up))
        assert more <= len(children) <= more + 1
        assert await up.end(signal.SIGINT) == 0
        assert not any(alive(pid) for pid in children)


async def test_up_uses_the_nats_that_is_given_and_names_busy_ports(tmp_path, nats_url, prefix):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix}
        async with run("up", "--port", str(port), "--ops-port", "0", "--quiet", cwd=tmp_path, env=env) as up:
            await up.line("Ctrl-C stops everything")
            text = "".join(up.lines)
            assert f"{nats_url} (given by NATS_URL)" in text
            assert f"port {port} is busy: the gateway listens on " in text
            more = 6 + len(examples_of(up))
            assert more <= len(descendants(up.child.pid)) <= more + 1  # no NATS of its own
            assert await up.end(signal.SIGINT) == 0


async def test_up_beside_another_nats_says_what_other_terminals_need(tmp_path):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # something else has it already
            stack.enter_context(socket.create_server(("127.0.0.1", 4222)))
        async with run("up", "--port", "0", "--ops-port", "0", "--quiet", cwd=tmp_path, env={"NATS_URL": ""}) as up:
            note = await up.line("port 4222 is busy")
            url = re.search(r"export NATS_URL=(nats://127\.0\.0\.1:\d+)$", note.strip())[1]
            await up.line("Ctrl-C stops everything")
            async with run("ls", "--json", cwd=tmp_path, env={"NATS_URL": url}) as ls:
                assert await asyncio.wait_for(ls.child.wait(), 30) == 0
            assert "gateway" in "".join(ls.lines)
            assert await up.end(signal.SIGINT) == 0


async def test_up_that_is_killed_leaves_nothing(tmp_path):
    async with run("up", "--port", "0", "--ops-port", "0", "--quiet", cwd=tmp_path, env={"NATS_URL": ""}) as up:
        await up.line("Ctrl-C stops everything")
        children = descendants(up.child.pid)
        up.child.kill()
        await up.child.wait()
        for pid in children:
            await asyncio.wait_for(asyncio.to_thread(wait_gone, pid), 30)


async def test_commands_say_what_is_wrong(tmp_path, env):
    (tmp_path / "broken.py").write_text(
        'from mesh import Service\nservice = Service("broken")\n\n'
        '@service.get("/x/{y}")\nasync def handle() -> None: ...\n'
    )
    (tmp_path / "other.py").write_text("value = 7\n")
    for arguments, text, code in (
        (("run", "broken:service"), "has no parameter 'y'", 2),
        (("run", "missing:service"), "there is no module 'missing'", 2),
        (("run", "other:value"), "other:value is a int, not a mesh.Service", 2),
        (("run", "other"), "other has no Service object", 2),
        (("gatway",), "Did you mean 'gateway'", 2),
        (("gateway", "--port", "99999"), "99999", 2),
    ):
        async with run(*arguments, cwd=tmp_path, env=env) as process:
            assert await asyncio.wait_for(process.child.wait(), 20) == code, arguments
            await process._reader
            assert text in "".join(process.lines), process.lines


def descendants(pid):
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def wait_gone(pid):
    """Return when the process has ended; it need not be a child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([handle], [], [])
    finally:
        os.close(handle)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
