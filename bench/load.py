"""Load: what is asked, and what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bench.apps.shared import ITEM
from bench.processes import ROOT
from mesh.cli.http_load import Histogram

HEADERS = {
    "accept": "application/json",
    "accept-language": "en-GB,en;q=0.8",
    "user-agent": "bench/1.0 (a client of the usual length)",
    "cookie": "session=0123456789abcdef0123456789abcdef",
    "x-client": "web",
}


class Work(NamedTuple):
    """One kind of request."""

    name: str
    method: str
    path: str
    kind: str = ""
    body: str = ""


class Result(NamedTuple):
    """What one run saw; times in milliseconds."""

    requests: int
    rps: float
    p50: float
    p99: float
    p999: float
    errors: int


def works() -> dict[str, Work]:
    """Every kind of request, by name."""
    kilobyte = {"id": 7, **ITEM, "description": "y" * 900}
    octets = "application/octet-stream"
    all_of_it = [
        Work("get", "GET", "/items/42"),
        Work("post", "POST", "/items", "application/json", json.dumps(kilobyte)),
        Work("events", "GET", "/events"),
        Work("down-100k", "GET", "/blobs/102400"),
        Work("down-900k", "GET", "/blobs/921600"),
        Work("up-100k", "POST", "/blobs", octets, "b" * 102_400),
        Work("up-900k", "POST", "/blobs", octets, "b" * 921_600),
    ]
    return {work.name: work for work in all_of_it}


def script(work: Work) -> str:
    """The Lua script that makes wrk send it, and print what it saw as JSON."""
    headers = {**HEADERS, **({"content-type": work.kind} if work.kind else {})}
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    body = f"wrk.body = [==[{work.body}]==]" if work.body else ""
    return "\n".join(
        [
            f'wrk.method = "{work.method}"',
            body,
            *lines,
            """
            done = function(summary, latency, requests)
                local e = summary.errors
                io.write(string.format(
                    '{"requests": %d, "us": %d, "p50": %.0f, "p99": %.0f, "p999": %.0f, "errors": %d}\\n',
                    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
                    latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
            end""",
        ]
    )


async def run(url: str, work: Work, connections: int, seconds: int, folder: Path, rate: float = 0) -> Result:
    """Load for that long: by wrk, and by `mesh bench` where wrk is missing or a rate is wanted.

    Raises RuntimeError when the generator fails.
    """
    if work.name == "events":
        return await _listen(url + work.path, connections, seconds)
    if rate or not shutil.which("wrk"):
        return await _own(url, work, connections, seconds, folder, rate)
    lua = folder / f"{work.name}.lua"
    lua.write_text(script(work))
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(lua), url + work.path)
    seen = await output(*command)
    ms = {name: round(seen[name] / 1000, 3) for name in ("p50", "p99", "p999")}
    return Result(seen["requests"], seen["requests"] / seen["us"] * 1e6, **ms, errors=seen["errors"])


async def _own(url: str, work: Work, connections: int, seconds: int, folder: Path, rate: float) -> Result:
    body = folder / f"{work.name}.body"
    body.write_text(work.body)
    headers = {**HEADERS, **({"content-type": work.kind} if work.kind else {})}
    options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    seen = await output(
        *(sys.executable, "-m", "mesh", "bench", url + work.path, "--json", "-X", work.method, "--data", f"@{body}"),
        *("-c", str(connections), "-d", str(seconds), "--rate", str(rate), *options),
        wrong_is_fine=True,
    )
    errors = seen["requests"] - seen["statuses"].get("200", 0) + sum(seen["errors"].values()) + seen["unsent"]
    return Result(seen["requests"], seen["rps"], seen["p50_ms"], seen["p99_ms"], seen["p999_ms"], errors)


async def output(*command: str, wrong_is_fine: bool = False, **env: str) -> dict[str, Any]:
    """The JSON in the last line that a command prints."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, **env}
    )
    out, _ = await child.communicate()
    if child.returncode and not (wrong_is_fine and out):
        raise RuntimeError(f"{' '.join(command)} failed: {out.decode()}")
    found: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return found


async def _listen(url: str, connections: int, seconds: int) -> Result:
    """Server-sent events on that many connections: a "request" is an event that arrived, its time the gap before it."""
    parts, gaps, errors = urlsplit(url), Histogram(), 0
    assert parts.hostname is not None
    end = asyncio.get_running_loop().time() + seconds

    async def one() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET {parts.path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n".encode())
        before = 0.0
        try:
            async with asyncio.timeout_at(end):
                errors += b" 200 " not in await reader.readuntil(b"\r\n\r\n")
                while True:
                    await reader.readuntil(b"\n\n")
                    now = perf_counter()
                    gaps.record(now - before if before else 0)
                    before = now
        except TimeoutError:
            pass
        except (asyncio.IncompleteReadError, ConnectionError):
            errors += 1
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    ms = [round(gaps.percentile(share) * 1000, 3) for share in (0.5, 0.99, 0.999)]
    return Result(gaps.count, gaps.count / seconds, *ms, errors=errors)
