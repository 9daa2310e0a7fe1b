"""What a later version may send, and this one does not know; docs/protocol.md, "Compatibility"."""

import json

import pytest

from mesh import Request, Service
from mesh.testing import Mesh

BLOCK = b"NATS/1.0\r\nMesh-Deadline: 5000\r\nMesh-Request: POST /kind\r\n%b\r\n"


@pytest.fixture
async def mesh(nats_url, prefix):
    service = Service("kinds")

    @service.post("/kind")
    async def kind(request: Request) -> str:
        return f"{request.header('x-kept')} {request.body.decode()}"

    @service.get("/reply")
    async def reply() -> str:
        return "ok"

    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


@pytest.mark.parametrize("lines", [b"Mesh-Sparkle: 7\r\n", b"Mesh-Body: sparkle\r\n"], ids=["header", "body"])
async def test_a_header_and_a_body_that_are_not_known_are_ignored(mesh, lines):
    """So a request whose body comes in a new way looks like one with an empty body: it has to be negotiated."""
    async with mesh.client() as bus:
        address = bus.address(bus.subjects.to("kinds", mesh.instances[0].id, "kind"))
        reply = await bus.request(address, b"payload", BLOCK % (lines + b"x-kept: yes\r\n"), timeout=5)
    assert json.loads(reply.payload) == "yes payload"


async def test_a_control_message_of_another_verb_or_type_is_ignored(mesh):
    instance = mesh.instances[0]
    async with mesh.client() as bus:
        for verb in ("sparkle", "cancel", "conflicts"):
            address = bus.address(bus.subjects.control(verb, "kinds", instance.id))
            bus.publish(address, b'{"type": "mesh.v2.sparkle", "reply": "x"}')
        bus.publish(bus.address(bus.subjects.discover()), b'{"type": "mesh.v2.discover", "window_ms": 1}')
        await bus.flush()
    assert (await mesh.http.get("/reply")).status_code == 200
    assert not instance.stop_requested.is_set()


async def test_a_reply_header_of_the_mesh_that_is_not_known_ends_at_the_gateway(mesh, monkeypatch):
    block = b"NATS/1.0\r\nMesh-Status: 200\r\nMesh-Sparkle: 7\r\nx-kept: yes\r\n\r\n"
    monkeypatch.setattr(mesh.instances[0].dispatcher._replies, "encode", lambda declared, result: (block, b"ok"))
    response = await mesh.http.get("/reply")
    assert (response.status_code, response.headers["x-kept"]) == (200, "yes")
    assert "mesh-sparkle" not in response.headers
