"""Real commands as real processes."""

import asyncio
import json
import os
import re
import signal
import sys
from contextlib import AsyncExitStack

import pytest

from mesh.bus import Bus
from mesh.settings import BusSettings
from mesh.testing import Mesh
from tests.cli.builders import Foreign, go_like, with_routes

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Done:
    """A command that has ended."""

    def __init__(self, code, out, err):
        self.code = code
        self.raw = out
        self.out = out.decode(errors="replace")
        self.err = err.decode(errors="replace")

    @property
    def json(self):
        return json.loads(self.out)


class Running:
    """A command that runs; its output by line as it comes."""

    def __init__(self, child):
        self.child = child
        self.lines = []
        self.errors = b""
        self._arrived = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())
        self._other = asyncio.create_task(self._read_errors())

    async def _read(self):
        async for line in self.child.stdout:
            async with self._arrived:
                self.lines.append(line.decode().rstrip("\n"))
                self._arrived.notify_all()
        async with self._arrived:
            self._arrived.notify_all()

    async def _read_errors(self):
        self.errors = await self.child.stderr.read()

    async def line(self, matches, timeout=20):
        """The first line for which ``matches`` (a pattern, or a function of the line) holds."""
        test = matches if callable(matches) else lambda line: re.search(matches, line)
        async with asyncio.timeout(timeout), self._arrived:
            while True:
                for line in self.lines:
                    if test(line):
                        return line
                if self._reader.done():
                    raise AssertionError(f"ended without it: {self.lines} {self.errors!r}")
                await self._arrived.wait()

    async def event(self, kind, **facts):
        """The first event, as JSON, of that kind with these facts."""

        def matches(line):
            event = json.loads(line)
            return event["kind"] == kind and facts.items() <= event.items()

        return json.loads(await self.line(matches))

    async def end(self, number=signal.SIGTERM):
        if self.child.returncode is None:
            self.child.send_signal(number)
        code = await asyncio.wait_for(self.child.wait(), 20)
        await asyncio.gather(self._reader, self._other)
        return code


class Shell:
    """Runs commands with the environment of one mesh."""

    def __init__(self, url, prefix, stack):
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MESH_", "NATS_")) and "COLOR" not in k},
            "NATS_URL": url,
            "MESH_PREFIX": prefix,
            "PYTHONPATH": os.pathsep.join(filter(None, (REPOSITORY, os.environ.get("PYTHONPATH")))),
        }
        self._stack = stack

    async def __call__(self, *arguments, stdin=b"", **environment):
        """Run a command to its end."""
        child = await self._spawn(arguments, environment, stdin=asyncio.subprocess.PIPE)
        out, err = await asyncio.wait_for(child.communicate(stdin), 40)
        return Done(child.returncode, out, err)

    async def start(self, *arguments, cwd=None, **environment):
        """Start a command that ends with the test at latest."""
        child = await self._spawn(arguments, environment, stdin=asyncio.subprocess.DEVNULL, cwd=cwd)
        running = Running(child)
        self._stack.push_async_callback(running.end, signal.SIGKILL)
        return running

    async def _spawn(self, arguments, environment, **options):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mesh",
            *arguments,
            env={**self.environment, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            **options,
        )


@pytest.fixture
async def shell(nats_url, prefix):
    async with AsyncExitStack() as stack:
        yield Shell(nats_url, prefix, stack)


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


@pytest.fixture
async def sums(nats_url, prefix):
    """A foreign service with HTTP routes, one of which ``users`` has too."""
    name = f"sums-{prefix}"
    async with Bus(BusSettings(servers=(nats_url,), prefix=f"f{prefix}")) as bus:
        foreign = Foreign(bus, name, with_routes(name, "/users/{user_id}", path=f"/{name}"))
        await foreign.start()
        yield foreign


@pytest.fixture
async def foreign(nats_url, prefix):
    name = f"adder-{prefix}"
    async with Bus(BusSettings(servers=(nats_url,), prefix=f"f{prefix}")) as bus:
        foreign = Foreign(bus, name, go_like(name))
        await foreign.start()
        yield foreign
