"""The same endpoints called over NATS: `nats_caller.py WORK CALLERS SECONDS` prints what it saw as JSON."""

import asyncio
import json
import os
import sys
from time import perf_counter

from bench.load import HEADERS, works
from mesh.bus import Bus
from mesh.cli.http_load import Histogram
from mesh.service.run import loop_factory
from mesh.settings import BusSettings


async def main() -> None:
    work, callers, seconds = works()[sys.argv[1]], int(sys.argv[2]), float(sys.argv[3])
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    if work.kind:
        lines += f"content-type: {work.kind}\r\n"
    params = f"Mesh-Params: item_id={work.path.rpartition('/')[2]}\r\n" if work.method == "GET" else ""
    block = (
        f"NATS/1.0\r\nMesh-Deadline: 10000\r\n{params}Mesh-Request: {work.method} {work.path}\r\n{lines}\r\n".encode()
    )
    histogram, errors = Histogram(), 0
    async with Bus(BusSettings(servers=(os.environ["NATS_URL"],))) as bus:
        address = bus.address(bus.subjects.request("bench", "item" if work.method == "GET" else "echo"))
        end = perf_counter() + seconds

        async def call() -> None:
            nonlocal errors
            while (began := perf_counter()) < end:
                reply = await bus.request(address, work.body.encode(), block, timeout=10)
                histogram.record(perf_counter() - began)
                errors += b"Mesh-Status: 200" not in reply.block

        await asyncio.gather(*(call() for _ in range(callers)))
    ms = {name: round(histogram.percentile(share) * 1000, 3) for name, share in SHARES.items()}
    print(json.dumps({"requests": histogram.count, "rps": histogram.count / seconds, **ms, "errors": errors}))


SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
