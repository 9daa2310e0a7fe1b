"""Load from wrk: what is asked, and what came of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from bench.apps.shared import ITEM

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
    """What one run of wrk saw; times in milliseconds."""

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


def missing() -> str:
    return "" if shutil.which("wrk") else "wrk (Debian package wrk)"


async def run(url: str, work: Work, connections: int, seconds: int, folder: Path) -> Result:
    """Load for that long. Raises RuntimeError when wrk fails."""
    lua = folder / f"{work.name}.lua"
    lua.write_text(script(work))
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(lua), url + work.path)
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {out.decode()}")
    seen = json.loads(out.decode().splitlines()[-1])
    ms = {name: round(seen[name] / 1000, 3) for name in ("p50", "p99", "p999")}
    return Result(seen["requests"], seen["requests"] / seen["us"] * 1e6, **ms, errors=seen["errors"])
