"""Processes under measurement: started, waited for, and what CPU time they have used."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from mesh.embedded import free_port

ROOT = Path(__file__).parents[1]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PATIENCE_S = 30.0


def cpu_s(pid: int) -> float:
    """User and system time of a process and of the children that it has waited for, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) * TICK_S


async def children(pid: int, number: int) -> list[int]:
    """The process ids of the workers that a parent starts; waits until there are so many."""
    while True:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()  # noqa: ASYNC240
        if len(found) >= number:
            return [int(child) for child in found[:number]]
        await asyncio.sleep(0.02)


@asynccontextmanager
async def process(*command: str, log: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[int]:
    """Run a command, its output in ``log``, until the context ends; gives its process id."""
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            *command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **(env or {})}
        )
    try:
        yield child.pid
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            async with asyncio.timeout(15):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


async def listening(port: int, log: Path) -> None:
    """Return when the port accepts connections. Raises RuntimeError with the log's end when it never does."""
    for _ in range(int(PATIENCE_S / 0.05)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}; the log ends with:\n{log.read_text()[-2000:]}")  # noqa: ASYNC240


def a_port() -> int:
    return free_port(0)
