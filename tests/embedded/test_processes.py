"""Real child processes: their lines, their ends, and that none is left."""

import asyncio
import io
import signal
import socket
import subprocess
import sys

import pytest

from mesh.embedded import Supervisor, free_port
from mesh.embedded import ended as said
from tests.embedded.processes_of import has_ended, until

READY = "print('ready', flush=True)\n"
OBEDIENT = READY + "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "while True: signal.pause()"
# Ends at once and leaves a child of its own behind, in its session.
LITTERING = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"


def python(code):
    return [sys.executable, "-c", code]


def lines(stream):
    return stream.getvalue().splitlines()


async def test_lines_of_both_streams_with_the_name_before_them():
    stream, ended = io.StringIO(), asyncio.Event()
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.stdout.write('no newline')"
    async with Supervisor(stream) as supervisor:
        supervisor.on_exit(lambda *_: ended.set())
        await supervisor.start("a-long-name", python(OBEDIENT))
        await supervisor.start("b", python(code))
        await asyncio.wait_for(ended.wait(), 10)
        await until(lambda: "a-long-name | ready" in lines(stream))
    assert [line for line in lines(stream) if line.startswith("b")] == [
        "b           | out",
        "b           | err",
        "b           | no newline",
    ]


async def test_colours_on_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    for variable, stream, coloured in (("", Terminal(), True), ("1", Terminal(), False), ("", io.StringIO(), False)):
        monkeypatch.setenv("NO_COLOR", variable)
        ended = asyncio.Event()
        async with Supervisor(stream) as supervisor:
            supervisor.on_exit(lambda *_, ended=ended: ended.set())
            await supervisor.start("a", python("print('x')"))
            await asyncio.wait_for(ended.wait(), 10)
        assert lines(stream) == ["\x1b[36ma | \x1b[0mx" if coloured else "a | x"]


async def test_endless_lines_and_bytes_that_are_no_text():
    stream, ended = io.StringIO(), asyncio.Event()
    code = "import sys; sys.stdout.buffer.write(b'x' * 300_000 + b'\\n\\xff\\r\\n')"
    async with Supervisor(stream) as supervisor:
        supervisor.on_exit(lambda *_: ended.set())
        await supervisor.start("a", python(code))
        await asyncio.wait_for(ended.wait(), 10)
    assert stream.getvalue().count("x") == 300_000
    assert lines(stream)[-1] == "a | \N{REPLACEMENT CHARACTER}"


async def test_a_reader_that_goes_away_blocks_nobody():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    ended = asyncio.Event()
    async with Supervisor(Broken()) as supervisor:
        supervisor.on_exit(lambda *_: ended.set())
        await supervisor.start("a", python("print('x' * 1_000_000)"))
        await asyncio.wait_for(ended.wait(), 10)


async def test_an_end_that_nobody_asked_for_is_reported_once_and_a_stop_is_not():
    reports, ended = [], asyncio.Event()

    def broken(name, code):
        raise RuntimeError("a callback's own mistake")

    async with Supervisor() as supervisor:
        supervisor.on_exit(broken)
        supervisor.on_exit(lambda name, code: (reports.append((name, code)), len(reports) == 3 and ended.set()))
        pid = await supervisor.start("killed", python(OBEDIENT))
        await supervisor.start("failing", python("raise SystemExit(3)"))
        await supervisor.start("missing", ["/no/such/program"])
        await supervisor.start("staying", python(OBEDIENT))
        supervisor_pids = supervisor.pids
        assert supervisor_pids["killed"] == pid
        subprocess.run(["kill", "-9", str(pid)], check=True)
        await asyncio.wait_for(ended.wait(), 10)
    assert sorted(reports) == [("failing", 3), ("killed", -signal.SIGKILL), ("missing", 1)]
    assert all(map(has_ended, supervisor_pids.values()))


async def test_it_stops_in_reverse_order():
    stream = io.StringIO()
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(print('bye', flush=True)))\n" + OBEDIENT
    async with Supervisor(stream) as supervisor:
        for name in ("one", "two", "three"):
            await supervisor.start(name, python(code))
        await until(lambda: stream.getvalue().count("ready") == 3)
    assert [line for line in lines(stream) if "bye" in line] == ["three | bye", "two   | bye", "one   | bye"]


async def test_the_deaf_are_killed_and_the_paused_woken():
    stream = io.StringIO()
    supervisor = Supervisor(stream, grace_s=0.2)
    pids = [await supervisor.start("deaf", python(DEAF)), await supervisor.start("paused", python(OBEDIENT))]
    await until(lambda: stream.getvalue().count("ready") == 2)
    subprocess.run(["kill", "-STOP", str(pids[1])], check=True)
    await supervisor.stop()
    assert all(map(has_ended, pids))
    await supervisor.stop()


async def test_one_failing_stop_never_prevents_the_next(monkeypatch):
    supervisor = Supervisor()
    pids = [await supervisor.start(name, python(OBEDIENT)) for name in ("a", "b", "c")]
    end = supervisor._end

    async def failing(child):
        await end(child)
        if child.name != "a":
            raise PermissionError(child.name)

    monkeypatch.setattr(supervisor, "_end", failing)
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.stop()
    assert [str(error) for error in caught.value.exceptions] == ["c", "b"]
    assert all(map(has_ended, pids))


async def test_what_a_process_leaves_behind_ends_with_it():
    stream, ended = io.StringIO(), asyncio.Event()
    async with Supervisor(stream) as supervisor:
        supervisor.on_exit(lambda *_: ended.set())
        await supervisor.start("a", python(LITTERING))
        await asyncio.wait_for(ended.wait(), 10)
        left = int(stream.getvalue().removeprefix("a | "))
        await until(lambda: has_ended(left))


async def test_a_cancelled_stop_kills_at_once():
    stream = io.StringIO()
    supervisor = Supervisor(stream, grace_s=600)
    pids = [await supervisor.start(name, python(DEAF)) for name in ("a", "b")]
    await until(lambda: stream.getvalue().count("ready") == 2)
    stopping = asyncio.ensure_future(supervisor.stop())
    await until(lambda: supervisor._children[-1].stopping)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await until(lambda: all(map(has_ended, pids)))


def test_it_runs_on_uvloop():
    uvloop = pytest.importorskip("uvloop")
    stream = io.StringIO()

    async def run():
        async with Supervisor(stream) as supervisor:
            pid = await supervisor.start("a", python(OBEDIENT))
            await until(lambda: "ready" in stream.getvalue())
        assert has_ended(pid)

    uvloop.run(run())
    assert lines(stream) == ["a | ready"]


async def test_the_environment_is_added_to():
    stream, ended = io.StringIO(), asyncio.Event()
    code = "import os; print(os.environ['MINE'], 'PATH' in os.environ)"
    async with Supervisor(stream) as supervisor:
        supervisor.on_exit(lambda *_: ended.set())
        await supervisor.start("a", python(code), env={"MINE": "yes"})
        await asyncio.wait_for(ended.wait(), 10)
    assert lines(stream) == ["a | yes True"]


PARENT = f"""
import asyncio, sys
from mesh.embedded import Supervisor

async def main():
    async with Supervisor(sys.stdout) as supervisor:
        print(await supervisor.start("a", [sys.executable, "-c", {DEAF!r}]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
async def test_children_end_with_a_parent_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"a | ready\n"
        parent.kill()
        await until(lambda: has_ended(pid))


def test_free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        other = free_port(port)
        assert other not in (0, port)
    assert free_port(port) == port
    # A connection of somebody else's must not get it before a server listens there.
    assert all(port in range(16_384, 32_768) for port in (other, free_port()))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-15, "was ended by SIGTERM"),
        (-99, "was ended by signal 99"),
    ],
)
def test_how_a_process_ended_is_said_in_words(code, sentence):
    assert said(code) == sentence
