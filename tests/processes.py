"""Commands of this project as processes, and HTTP clients of them."""

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import httpx

from mesh.testing import Mesh


class Process:
    """A command of this project, with its output by line."""

    def __init__(self, child):
        self.child = child
        self.lines = []
        self._arrived = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self):
        async for line in self.child.stdout:
            async with self._arrived:
                self.lines.append(line.decode())
                self._arrived.notify_all()
        async with self._arrived:
            self._arrived.notify_all()

    async def line(self, pattern, after=0):
        """The first line from index ``after`` on that has the pattern."""
        async with asyncio.timeout(20), self._arrived:
            while True:
                for line in self.lines[after:]:
                    if re.search(pattern, line):
                        return line
                if self._reader.done():
                    raise AssertionError(f"ended without {pattern!r}: {self.lines}")
                await self._arrived.wait()

    async def end(self, number=signal.SIGTERM):
        if self.child.returncode is None:
            self.child.send_signal(number)
        code = await asyncio.wait_for(self.child.wait(), 30)
        await self._reader
        return code


def run(*arguments, cwd, env):
    """A `mesh` command."""
    return _python("-m", "mesh", *arguments, cwd=cwd, env=env)


def run_python(code, *, cwd, env):
    """A program in a few lines."""
    return _python("-c", code, cwd=cwd, env=env)


@asynccontextmanager
async def _python(*arguments, cwd, env):
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
        limit=1 << 22,
        start_new_session=True,
    )
    process = Process(child)
    try:
        yield process
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        await process._reader


@cache
def _certificates():
    return httpx.create_ssl_context()


def http_client(**options):
    """An `httpx.AsyncClient`; those of one process read the certificates they trust once, which takes 30 ms."""
    return httpx.AsyncClient(verify=_certificates(), **options)


@asynccontextmanager
async def gateway_on(tmp_path, env, *flags):
    async with run("gateway", "--port", "0", "--ops-port", "0", *flags, cwd=tmp_path, env=env) as process:
        port = re.search(r"listens on [^:]+:(\d+)", await process.line("listens on"))[1]
        async with http_client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            await answers(http, "/readyz", 200)
            yield process, http


@asynccontextmanager
async def gateway_for(env):
    """A gateway in this process, for tests of other commands that need one; gives its HTTP client."""
    async with Mesh(nats_url=env["NATS_URL"], prefix=env["MESH_PREFIX"]) as mesh:
        yield mesh.http


async def answers(http, path, status, timeout=10.0):
    """Ask again and again until the status is that one; returns how long it took."""
    began = time.monotonic()
    while True:
        response = await http.get(path)
        if response.status_code == status:
            return time.monotonic() - began
        assert time.monotonic() - began < timeout, (path, response.status_code, response.text)
        await asyncio.sleep(0)


async def says(http, path, value):
    """Ask until the answer is that one."""
    async with asyncio.timeout(10):
        for _ in range(10_000):
            if (await http.get(path)).json() == value:
                return
    raise AssertionError(f"{path} never said {value!r}")
