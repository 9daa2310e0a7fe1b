"""What more services, routes and instances cost: ``python -m bench.scale``.

Route matches and heartbeats are measured in this process; 10,000 simulated instances against a real gateway process,
whose CPU and memory come from ``/proc``.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import timeit
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.processes import a_port, children, cpu_s, process
from bench.swarm import announcement
from mesh import messages
from mesh.embedded import NatsServer
from mesh.messages import Heartbeat
from mesh.registry import Registry
from mesh.routes import RouteTable

WATCH_S = 20


def matches() -> dict[str, float]:
    """Nanoseconds of one match, by routes in the table."""
    found = {}
    for number in (10, 100, 1000, 10_000):
        table = RouteTable()
        for service in range(number // 10):
            table = table.replace(f"s{service}", [announcement(f"s{service}", "I", 10)], 0)
        segments = (f"s{number // 10 - 1}", "things7", "42")
        seconds = min(timeit.repeat(lambda t=table, s=segments: t.match("GET", s), number=5000, repeat=9)) / 5000
        found[str(number)] = round(seconds * 1e9)
    return found


def heartbeat_us(instances: int = 1000, rounds: int = 20) -> float:
    """Microseconds of this process for one heartbeat: decoded, applied, its instance brought up to date."""
    registry = Registry()
    announced = [announcement(f"s{i % 10}", f"I{i}", 5) for i in range(instances)]
    for one in announced:
        registry.apply(one, 0.0)
    beats = [
        [
            messages.encode(Heartbeat(name=a.name, id=a.id, seq=seq, revision=a.revision, state="ready"))
            for a in announced
        ]
        for seq in range(2, rounds + 2)
    ]
    began = perf_counter()
    for number, payloads in enumerate(beats):
        for one, payload in zip(announced, payloads, strict=True):
            registry.apply(messages.decode(payload, one.name, one.id), float(number))
    return round((perf_counter() - began) / instances / rounds * 1e6, 2)


def table_ms(routes: int) -> dict[str, float]:
    """Milliseconds to take in a service of that many routes, and the longest step of it."""
    began, longest, steps = perf_counter(), 0.0, RouteTable().replacing("s", [announcement("s", "I", routes)], 0)
    while True:
        before = perf_counter()
        try:
            next(steps)
        except StopIteration:
            break
        longest = max(longest, perf_counter() - before)
    return {"total_ms": round((perf_counter() - began) * 1000, 1), "longest_step_ms": round(longest * 1000, 2)}


def _memory_mib(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return round(int(fields["VmRSS"].split()[0]) / 1024, 1)


def _status(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError:
        return 0, None


async def swarm(instances: int, services: int, routes: int, watch_s: float) -> dict[str, Any]:
    """A gateway among so many instances: how soon it is ready, what it costs to watch them."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-")))
        server = await stack.enter_async_context(NatsServer(jetstream=False))
        port, log = a_port(), folder / "swarm.log"
        env = {"NATS_URL": server.url, "MESH_ACCESS_LOG": "false"}
        numbers = (str(instances), str(services), str(routes))
        await stack.enter_async_context(process(sys.executable, "-m", "bench.swarm", *numbers, log=log, env=env))
        while "ready" not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.1)

        async def gateway(stack: AsyncExitStack) -> int:
            parent = await stack.enter_async_context(
                process(
                    *(sys.executable, "-m", "mesh", "gateway", "--port", str(port), "--ops-port", "0"),
                    log=folder / "gateway.log",
                    env=env,
                )
            )
            return (await children(parent, 1))[0]

        began = perf_counter()
        pid = await gateway(stack)
        url = f"http://127.0.0.1:{port}"
        while (await asyncio.to_thread(_status, f"{url}/readyz"))[0] != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        ready = perf_counter() - began
        await asyncio.sleep(5)
        document = (await asyncio.to_thread(_status, f"{url}/health"))[1]
        known = sum(service["instances"] for service in document["services"].values())
        before, nats = cpu_s(pid), cpu_s(server.pid)
        longest = 0.0
        end = perf_counter() + watch_s
        while perf_counter() < end:
            asked = perf_counter()
            await asyncio.to_thread(_status, f"{url}/livez")
            longest = max(longest, perf_counter() - asked)
            await asyncio.sleep(0.05)
        return {
            "instances": instances,
            "services": services,
            "routes": services * routes,
            "known": known,
            "ready_s": round(ready, 2),
            "cpu_percent": round((cpu_s(pid) - before) / watch_s * 100, 1),
            "nats_percent": round((cpu_s(server.pid) - nats) / watch_s * 100, 1),
            "rss_mib": _memory_mib(pid),
            "longest_livez_ms": round(longest * 1000, 1),
        }


async def main() -> None:
    figures: dict[str, Any] = {
        "match_ns": matches(),
        "heartbeat_us": heartbeat_us(),
        "table": {str(number): table_ms(number) for number in (50, 500, 3000)},
    }
    for instances, services in ((0, 1), (1000, 20), (10_000, 100)):
        found = await swarm(instances, services, 50, WATCH_S)
        figures[f"gateway_{instances}"] = found
        print(json.dumps(found), flush=True)
    figures["bench_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
