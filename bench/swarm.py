"""Thousands of instances that only announce themselves and beat: what a gateway has to keep up with.

python -m bench.swarm INSTANCES SERVICES ROUTES        NATS_URL says where
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from msgspec.structs import replace

from mesh import messages
from mesh.bus import Bus
from mesh.messages import Announcement, Discover, Endpoint, Heartbeat, Route, revision_of
from mesh.service.run import loop_factory
from mesh.settings import BusSettings

BEAT_S = 2.0
SLICES = 200
"""Groups into which the instances are divided; their heartbeats go out one group after the other."""


class Swarm:
    def __init__(self, bus: Bus, instances: int, services: int, routes: int) -> None:
        self._bus = bus
        self._seq = 1
        self.members: list[tuple[bytes, bytes, Announcement]] = []
        subjects = bus.subjects
        templates = [announcement(f"service-{number:03d}", "I", routes) for number in range(services)]
        for number in range(instances):
            id = f"I{number:021d}"
            announced = replace(templates[number % services], id=id)
            name = announced.name
            self.members.append(
                (
                    bus.address(subjects.announce(name, id)),
                    bus.address(subjects.heartbeat(name, id)),
                    announced,
                )
            )

    async def announce(self, window_s: float) -> None:
        """All announce, spread over that time."""
        step = max(1, len(self.members) // 100)
        members = random.sample(self.members, len(self.members))
        for start in range(0, len(members), step):
            for subject, _, announced in members[start : start + step]:
                self._bus.publish(subject, messages.encode(announced))
            await asyncio.sleep(window_s / 100)

    def announce_one(self, id: str) -> None:
        subject, _, announced = self.members[int(id[1:])]
        self._bus.publish(subject, messages.encode(announced))

    async def beat(self) -> None:
        """Heartbeats for ever."""
        while True:
            self._seq += 1
            for start in range(SLICES):
                for _, subject, announced in self.members[start::SLICES]:
                    beat = Heartbeat(
                        name=announced.name, id=announced.id, seq=self._seq, revision=announced.revision, state="ready"
                    )
                    self._bus.publish(subject, messages.encode(beat))
                await asyncio.sleep(BEAT_S / SLICES)


def announcement(name: str, id: str, routes: int) -> Announcement:
    """What an instance with that many routes says."""
    endpoints = tuple(Endpoint(name=f"e{i}", subject=f"mesh.req.{name}.e{i}") for i in range(routes))
    paths = tuple(Route(method="GET", path=f"/{name}/things{i}/{{id}}", endpoint=f"e{i}") for i in range(routes))
    return Announcement(
        name=name,
        id=id,
        version="1.0.0",
        endpoints=endpoints,
        routes=paths,
        seq=1,
        revision=revision_of(name, "1.0.0", endpoints, paths),
        state="ready",
        started="2026-01-01T00:00:00Z",
        heartbeat_ms=int(BEAT_S * 1000),
    )


async def main() -> None:
    instances, services, routes = (int(text) for text in sys.argv[1:4])
    async with Bus(BusSettings(servers=(os.environ["NATS_URL"],))) as bus:
        swarm = Swarm(bus, instances, services, routes)

        def asked(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            window = messages.decode_discover(payload).window_ms / 1000 if payload else Discover().window_ms / 1000
            tasks.append(asyncio.create_task(swarm.announce(window)))

        tasks: list[asyncio.Task[None]] = []

        def asked_one(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            swarm.announce_one(subject.rpartition(b".")[2].decode())

        await bus.subscribe(bus.subjects.discover(), asked)
        await bus.subscribe(bus.subjects.discover("*", "*"), asked_one)
        await bus.flush()
        print("ready", flush=True)
        await swarm.beat()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
