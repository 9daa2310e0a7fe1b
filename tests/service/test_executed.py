"""What an error says of whether it is safe to repeat the request, where a handler has run."""

import pytest

from mesh import BadRequest, Context, Service, Unavailable
from mesh.errors import Overloaded


def shop():
    service = Service("shop")
    done = []

    @service.post("/half-done")
    async def half_done() -> None:
        done.append(1)
        raise Unavailable("half done")

    @service.post("/nothing-done")
    async def nothing_done() -> None:
        raise Overloaded("come back later", executed="no")

    @service.post("/refused")
    async def refused() -> None:
        raise BadRequest("not like that")

    @service.post("/asks-nobody")
    async def asks_nobody(ctx: Context) -> None:
        done.append(1)
        await ctx.call("nobody", "there")

    @service.post("/asks-in-vain")
    async def asks_in_vain(ctx: Context) -> None:
        done.append(1)
        await ctx.call("shop", "refused")

    @service.post("/reads-nobody")
    async def reads_nobody(ctx: Context) -> None:
        done.extend([piece async for piece in ctx.stream("shop", "nothing_done")])

    return service


@pytest.mark.parametrize(
    ("path", "status", "executed"),
    [
        ("/half-done", 503, "yes"),
        ("/nothing-done", 503, "no"),
        ("/refused", 400, "no"),
        ("/asks-nobody", 503, "yes"),
        ("/asks-in-vain", 400, "yes"),
        ("/reads-nobody", 503, "yes"),
    ],
)
async def test_only_an_author_says_that_nothing_was_done(mesh, path, status, executed):
    await mesh.start(shop())
    response = await mesh.http.post(path)
    assert (response.status_code, response.json()["executed"]) == (status, executed)
