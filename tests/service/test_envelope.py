"""Requests begin with a few headers in a fixed order, which are read without decoding the block.

Each writer must keep to that order: another one is as correct, and only slower, so no other test would notice.
"""

import pytest

from mesh import Context, MeshClient, Request, Service
from mesh.testing import Mesh


@pytest.fixture
async def heard(nats_url, prefix):
    """The envelopes that the service has received, by the writer."""
    envelopes = {}
    target, caller = Service("target"), Service("caller")

    @target.get("/items/{name}")
    @target.post("/items/{name}")
    async def item(name: str, request: Request) -> str:
        envelopes[request.method] = request.envelope
        return name

    @target.endpoint()
    async def named(who: str, request: Request) -> str:
        envelopes[who] = request.envelope
        return who

    @caller.get("/call")
    async def call(ctx: Context) -> str:
        return await ctx.call("target", "named", who="service", returns=str)

    async with Mesh(target, caller, nats_url=nats_url, prefix=prefix) as mesh:
        (await mesh.http.get("/items/tea?size=2")).raise_for_status()
        (await mesh.http.post("/items/tea", content=b"x")).raise_for_status()
        (await mesh.http.get("/call", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})).raise_for_status()
        async with MeshClient(mesh.bus_settings) as client:
            await client.call("target", "named", who="client")
    return envelopes


async def test_every_writer_of_requests_takes_the_fast_form(heard):
    assert all(envelope is not None for envelope in heard.values()), heard
    for method in ("GET", "POST"):
        deadline, sent, params, line, credit, request_id = heard[method]
        assert None not in (deadline, sent, credit, request_id)
        assert params == b"name=tea"
        assert line.startswith(b"%b /items/tea" % method.encode())
    for who in ("service", "client"):
        deadline, sent, params, line, _, _ = heard[who]
        assert None not in (deadline, sent)
        assert params is None
        assert line is None
    assert heard["service"][5], "the id that a context passes on"
