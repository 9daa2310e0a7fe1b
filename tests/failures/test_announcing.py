"""An announcement that cannot be sent is an error that says what to do, and the instance is not ready."""

import logging

import pytest

from mesh import Service
from mesh.embedded import NatsServer
from mesh.messages import MAX_ANNOUNCEMENT
from mesh.testing import Mesh
from tests.conditions import eventually


def large(routes, words):
    service = Service("large")
    for number in range(routes):

        async def get() -> str:
            return "yes"

        service.get(f"/large/{number}", name=f"get{number}", summary="word " * words)(get)
    return service


@pytest.mark.parametrize(
    ("max_payload", "routes", "words", "limit"),
    [
        (64 * 1024, 600, 1, "NATS takes 65536 (max_payload)"),
        (1024 * 1024, 3000, 10, f"at most {MAX_ANNOUNCEMENT} are allowed"),
    ],
)
async def test_it_says_its_size_and_the_limit_and_what_to_do(caplog, max_payload, routes, words, limit):
    from mesh.service import ServiceInstance

    async with NatsServer(max_payload=max_payload) as server, Mesh(nats_url=server.url) as mesh:
        instance = ServiceInstance(large(routes, words), mesh.bus_settings, mesh.service_settings)
        async with instance:
            await eventually(lambda: instance.announcer.problem)
            registry = mesh.gateway.watcher.registry
            await eventually(lambda: ("large", instance.id) in registry.unknown())
            assert registry._unknown["large", instance.id].latest.state == "unready"
            errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
            (error,) = errors  # once, though gateways go on asking
            assert "announcement of " in error.getMessage()
            assert limit in error.getMessage()
            assert "fewer routes" in error.getMessage()
            # What is small enough is announced again.
            instance.announcer.update((), ())
            await eventually(lambda: registry.get("large", instance.id) is not None)
            await eventually(lambda: registry.get("large", instance.id).state == "ready")
            assert not instance.announcer.problem
