"""Routers, dependencies, middleware, readiness, limits, parameters of every kind: on a real mesh."""

import asyncio
import datetime
import enum
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
import pytest

from mesh import (
    Body,
    Context,
    Cookie,
    DeclarationError,
    Depends,
    Forbidden,
    Header,
    Invalid,
    MeshClient,
    MeshError,
    Request,
    Response,
    Router,
    Service,
)
from mesh.testing import Mesh


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        yield mesh


# -- parameters


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int = 0


async def test_parameters_of_every_kind(mesh):
    service = Service("kinds")

    @service.post("/kinds/{key}")
    async def kinds(
        key: uuid.UUID,
        body: Point,
        colour: Colour,
        day: datetime.date,
        at: datetime.datetime | None = None,
        ids: list[int] = [],  # noqa: B006
        ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5,
        api_key: Annotated[str, Header("X-Api-Key")] = "",
        languages: Annotated[list[str], Header("accept-language")] = [],  # noqa: B006
        session: Annotated[str | None, Cookie("sid")] = None,
    ) -> dict[str, object]:
        return {
            "key": key,
            "body": body,
            "colour": colour,
            "day": day,
            "at": at,
            "ids": ids,
            "ratio": ratio,
            "api_key": api_key,
            "languages": languages,
            "session": session,
        }

    @service.post("/scalar")
    async def scalar(amount: Annotated[int, Body()]) -> int:
        return amount + 1

    @service.put("/raw")
    async def raw(data: bytes) -> bytes:
        return data[::-1]

    await mesh.start(service)
    key = "6f1b3c1e-9f0a-4d55-8a5e-111111111111"
    response = await mesh.http.post(
        f"/kinds/{key}?colour=red&day=2026-01-31&ids=1&ids=2&ratio=0.25&at=2026-01-31T10:00:00Z",
        json={"x": 4, "y": 5},
        headers=[("x-api-key", "k"), ("accept-language", "en"), ("accept-language", "de"), ("cookie", "a=b; sid=s1")],
    )
    assert response.status_code == 200, response.text
    assert response.json() == {
        "key": key,
        "body": {"x": 4, "y": 5},
        "colour": "red",
        "day": "2026-01-31",
        "at": "2026-01-31T10:00:00Z",
        "ids": [1, 2],
        "ratio": 0.25,
        "api_key": "k",
        "languages": ["en", "de"],
        "session": "s1",
    }
    wrong = await mesh.http.post("/kinds/nope?colour=green&ratio=2&ids=x", json={"x": "a"})
    assert wrong.status_code == 422
    fields = {error["field"] for error in wrong.json()["errors"]}
    assert fields == {"path.key", "query.colour", "query.day", "query.ratio", "query.ids[0]", "body.x"}
    assert (await mesh.http.post("/scalar", json=41)).json() == 42
    assert (await mesh.http.put("/raw", content=b"\x00\x01")).content == b"\x01\x00"


# -- routers


async def test_routers_with_prefixes(mesh):
    service, api, admin = Service("routed", prefix="/v1"), Router(prefix="/api", tags=("api",)), Router(prefix="/admin")

    @admin.get("/users/{name}", tags=("people",))
    async def user(name: str) -> str:
        return name

    @api.get("/ping")
    async def ping() -> str:
        return "pong"

    api.include(admin)
    service.include(api, prefix="/x")
    await mesh.start(service)
    assert (await mesh.http.get("/v1/x/api/ping")).json() == "pong"
    assert (await mesh.http.get("/v1/x/api/admin/users/ada")).json() == "ada"
    tags = {route.path: route.tags for route in service.announced_routes()}
    assert tags["/v1/x/api/admin/users/{name}"] == ("api", "people")


def test_a_router_finds_mistakes_when_the_handler_is_declared():
    with pytest.raises(DeclarationError, match="'y'"):

        @Router().get("/x/{y}")
        async def broken() -> None: ...

    with pytest.raises(DeclarationError, match="prefix 'no-slash'"):
        Router(prefix="no-slash")
    router = Router()
    with pytest.raises(DeclarationError, match="itself"):
        router.include(router)


# -- dependencies


async def test_a_plain_call_gives_arguments_to_dependencies_too(mesh):
    service = Service("shop")

    def page(ctx: Context, size: int = 10) -> str:
        return f"{ctx.service} {size}"

    @service.get("/things/{kind}")
    async def things(kind: str, page: Annotated[str, Depends(page)]) -> str:
        return f"{kind} {page}"

    await mesh.start(service)
    async with MeshClient(mesh.bus_settings) as client:
        assert await client.call("shop", "things", kind="cup") == "cup shop 10"
        assert await client.call("shop", "things", kind="cup", size=3) == "cup shop 3"
        with pytest.raises(Invalid, match=r"^other: is no parameter of this endpoint$"):
            await client.call("shop", "things", kind="cup", other=3)
        with pytest.raises(Invalid, match="size"):
            await client.call("shop", "things", kind="cup", size="many")


async def test_dependencies_are_made_and_torn_down(mesh):
    service = Service("dependent")
    log = []

    async def open_pool() -> AsyncIterator[str]:
        log.append("pool open")
        yield "pool"
        log.append("pool closed")

    async def begin(pool: Annotated[str, Depends(open_pool, scope="service")]) -> AsyncIterator[str]:
        log.append("begin")
        try:
            yield f"session of {pool}"
            log.append("commit")
        except MeshError:
            log.append("rollback")
            raise

    def caller(key: Annotated[str, Header("x-key")]) -> str:
        return f"user of {key}"

    async def audit(session: Annotated[str, Depends(begin)], who: Annotated[str, Depends(caller)]) -> list[str]:
        return [session, who]

    @service.get("/ok")
    async def ok(
        session: Annotated[str, Depends(begin)],
        trail: Annotated[list[str], Depends(audit)],
        pool: Annotated[str, Depends(open_pool, scope="service")],
    ) -> list[object]:
        log.append("handler")
        return [session, trail, pool]

    @service.get("/denied")
    async def denied(session: Annotated[str, Depends(begin)]) -> None:
        raise Forbidden("not you")

    instance = await mesh.start(service)
    assert log == ["pool open"]
    response = await mesh.http.get("/ok", headers={"x-key": "k"})
    assert response.json() == ["session of pool", ["session of pool", "user of k"], "pool"]
    assert log == ["pool open", "begin", "handler", "commit"]  # once, though asked for twice
    assert (await mesh.http.get("/denied")).status_code == 403
    assert log[-1] == "rollback"
    missing = await mesh.http.get("/ok")
    assert missing.json()["errors"] == [{"field": "header.x-key", "message": "is required"}]
    await instance.drain()
    assert log[-1] == "pool closed"


@pytest.mark.parametrize(
    ("depends", "why"),
    [
        (Depends("no function"), "Depends takes a function"),
        (Depends(lambda request_thing: None, scope="service"), "service scope, so it cannot take 'request_thing'"),
    ],
)
def test_impossible_dependencies_fail_at_import(depends, why):
    async def handler(x: Annotated[str, depends]) -> None: ...

    with pytest.raises(DeclarationError, match=why):
        Service("a").get("/a")(handler)


def test_a_dependency_takes_no_body():
    class Pet(msgspec.Struct):
        name: str

    def wants_body(pet: Pet) -> None: ...

    async def handler(x: Annotated[str, Depends(wants_body)]) -> None: ...

    with pytest.raises(DeclarationError, match="only the handler itself takes the body"):
        Service("a").post("/a")(handler)


async def test_a_service_dependency_that_fails_stops_the_start(mesh):
    service = Service("broken")

    async def fail() -> AsyncIterator[str]:
        raise RuntimeError("no database")
        yield ""

    @service.get("/x")
    async def x(value: Annotated[str, Depends(fail, scope="service")]) -> None: ...

    with pytest.raises(RuntimeError, match="no database"):
        await mesh.start(service)


# -- middleware


async def test_middleware_is_a_plain_function(mesh):
    service = Service("layered")

    @service.middleware
    async def outer(request: Request, ctx: Context, call_next) -> Response:
        if request.header("x-stop"):
            return Response({"stopped": True}, 418)
        response = await call_next(request, ctx)
        response.add_header("x-layers", "outer")
        return response

    @service.middleware
    async def inner(request: Request, ctx: Context, call_next) -> Response:
        response = await call_next(request, ctx)
        response.add_header("x-layers", "inner")
        return response

    @service.get("/layered/{n}")
    async def handler(n: int) -> dict[str, int]:
        return {"n": n}

    @service.get("/empty")
    async def empty() -> None: ...

    await mesh.start(service)
    response = await mesh.http.get("/layered/3")
    assert (response.json(), response.headers.get_list("x-layers")) == ({"n": 3}, ["inner", "outer"])
    assert (await mesh.http.get("/layered/3", headers={"x-stop": "1"})).status_code == 418
    assert (await mesh.http.get("/layered/x")).status_code == 422
    assert (await mesh.http.get("/empty")).status_code == 204


def test_middleware_must_be_async():
    with pytest.raises(DeclarationError, match="must be an async function"):
        Service("a").middleware(lambda request, context, call_next: None)


# -- readiness


async def test_a_failing_readiness_check_takes_the_instance_out(mesh):
    service = Service("checked")
    healthy = {"database": True}

    @service.readiness("database", every=0.02, timeout=1)
    async def database() -> bool:
        return healthy["database"]

    @service.get("/checked")
    async def checked() -> str:
        return "ok"

    instance = await mesh.start(service)
    registry = mesh.gateway.watcher.registry
    assert (await mesh.http.get("/checked")).status_code == 200
    healthy["database"] = False
    await mesh.until(lambda: registry.get("checked", instance.id).state == "unready")
    assert instance.readiness.failing == {"database": "it returned False"}
    response = await mesh.http.get("/checked")
    assert (response.status_code, response.json()["reason"]) == (503, "no_instances")
    assert (await mesh.http.get("/readyz/checked")).status_code == 503
    healthy["database"] = True
    await mesh.until(lambda: registry.get("checked", instance.id).state == "ready")
    assert (await mesh.http.get("/checked")).status_code == 200


async def test_a_check_that_hangs_fails_by_its_timeout():
    from mesh.service.readiness import Check, Readiness

    async def hang() -> None:
        await asyncio.Event().wait()

    async def explode() -> None:
        raise OSError("unreachable")

    readiness = Readiness([Check("hang", hang, 0.01, 60), Check("explode", explode, 1, 60)], lambda ready: None)
    await readiness.start()
    assert not readiness.ready
    assert readiness.failing == {"hang": "it took longer than 0.01 s", "explode": "OSError: unreachable"}
    await readiness.aclose()


# -- limits


async def test_an_endpoint_has_limits_of_its_own(mesh):
    service = Service("gated")
    release, running, most = asyncio.Event(), [], []

    @service.post("/gated", concurrency=1, queue=1)
    async def gated() -> str:
        running.append(1)
        most.append(len(running))
        await release.wait()
        running.pop()
        return "done"

    @service.get("/free")
    async def free() -> str:
        return "free"

    await mesh.start(service)
    calls = [asyncio.ensure_future(mesh.http.post("/gated")) for _ in range(4)]
    refused = [task for task in [await first_done(calls), await second_done(calls)] if task]
    assert {task.result().status_code for task in refused} == {503}
    assert (await mesh.http.get("/free")).json() == "free"
    release.set()
    responses = await asyncio.gather(*calls)
    assert sorted(r.status_code for r in responses) == [200, 200, 503, 503]
    assert max(most) == 1
    assert (await mesh.http.post("/gated")).status_code == 200  # nothing was counted twice


async def first_done(calls):
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    return done.pop()


async def second_done(calls):
    left = [call for call in calls if not call.done()]
    if len(left) <= 2:
        return None
    done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    return done.pop()


async def test_arguments_may_have_any_name(mesh, client):
    service = Service("names")

    @service.endpoint()
    async def join(service: str, endpoint: str, returns: str, timeout: str) -> str:
        return f"{service} {endpoint} {returns} {timeout}"

    await mesh.start(service)
    found = await client.call("names", "join", {"returns": "c", "timeout": "d"}, service="a", endpoint="b", timeout=5)
    assert found == "a b c d"


# -- a program that is no service


async def test_a_stand_alone_client(mesh):
    service = Service("plain")

    @service.endpoint()
    async def double(n: int) -> int:
        return 2 * n

    await mesh.start(service)
    async with MeshClient(mesh.bus_settings) as client:
        assert await client.call("plain", "double", n=21, returns=int) == 42
        with pytest.raises(MeshError) as caught:
            await client.call("plain", "double", n="x")
        assert caught.value.status == 422
