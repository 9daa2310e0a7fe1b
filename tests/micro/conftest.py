"""Instances of services on the shared server, and a client that knows nothing of the mesh."""

import asyncio
from dataclasses import replace

import nats
import pytest

from mesh.service import ServiceInstance
from mesh.settings import BusSettings, ServiceSettings

QUICK = ServiceSettings(heartbeat_ms=250, linger_ms=0, drain_s=5.0)


@pytest.fixture
async def start(nats_url, prefix):
    """``await start(service, **settings)`` runs one instance until the test ends."""
    instances = []

    async def start(service, **settings):
        instance = ServiceInstance(service, BusSettings(servers=(nats_url,), prefix=prefix), replace(QUICK, **settings))
        instances.append(instance)
        await instance.start()
        await instance.bus.wait_connected(5)
        await instance.bus.flush()
        return instance

    yield start
    for instance in reversed(instances):
        await instance.drain()


class Outsider:
    """A plain NATS client, as any micro client is one underneath."""

    def __init__(self, client):
        self.client = client

    async def call(self, subject, payload=b"{}"):
        return await self.client.request(subject, payload, timeout=5)

    async def gather(self, subject, instances, payload=b""):
        """Every reply that ``instances`` give to one request; returns when none of them can still send one."""
        replies = []

        async def collect(message):
            replies.append(message)

        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox, cb=collect)
        await self.client.publish(subject, payload, reply=inbox)
        # nats-py's flush writes its PING past what publish has left in the queue; the second one comes behind that.
        await self.client.flush()
        await self.client.flush()
        for instance in instances:  # the request is before this, and so is its answer
            await instance.bus.flush()
            await instance.dispatcher.finish(5)
            await instance.bus.flush()
        await self.client.flush()
        await subscription.drain()
        return replies


@pytest.fixture
async def outsider(nats_url):
    client = await nats.connect(nats_url)
    try:
        yield Outsider(client)
    finally:
        await asyncio.wait_for(client.close(), 5)
