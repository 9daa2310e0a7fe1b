"""What a request and its reply cost on the bus: hot lane against plain nats-py, in one interleaved run.

Caller and responder are two connections in this process, so the figure covers both sides, not the server.

    python -m bench.bus
"""

from __future__ import annotations

import asyncio
import resource
import statistics

from mesh.bus import Bus
from mesh.embedded import NatsServer
from mesh.service.run import loop_factory
from mesh.settings import BusSettings

ROUNDS, CALLERS, REQUESTS, SIZE = 5, 64, 300, 200
REPLY = b"NATS/1.0\r\nMesh-Status: 200\r\ncontent-type: application/json\r\n\r\n"
BLOCK = b"NATS/1.0\r\nMesh-Request: GET /x\r\n" + b"".join(b"x-header-%d: value\r\n" % i for i in range(5)) + b"\r\n"


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _measure(url: str, lane: str) -> float:
    """CPU microseconds of this process per request."""
    settings = BusSettings(servers=(url,), lane=lane)  # type: ignore[arg-type]
    async with Bus(settings) as caller, Bus(settings) as responder:
        body = b"x" * SIZE
        await responder.subscribe("bench", lambda subject, reply, block, payload: responder.reply(reply, body, REPLY))
        await responder.flush()

        async def call() -> None:
            for _ in range(REQUESTS):
                await caller.request(b"bench", body, BLOCK, timeout=10)

        await asyncio.gather(*(call() for _ in range(CALLERS)))  # warm
        began = _cpu_s()
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        return (_cpu_s() - began) / (CALLERS * REQUESTS) * 1e6


async def main() -> None:
    results: dict[str, list[float]] = {"auto": [], "plain": []}
    async with NatsServer(jetstream=False) as server:
        for _ in range(ROUNDS):
            for lane, figures in results.items():
                figures.append(await _measure(server.url, lane))
    for lane, figures in results.items():
        print(f"{lane:>6}: median {statistics.median(figures):.1f} us, {min(figures):.1f} to {max(figures):.1f}")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
