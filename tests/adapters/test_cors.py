"""CORS of an application is the application's, whatever the gateway's own is; nobody gets two words of it."""

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from mesh import Service, adapt
from mesh.testing import Mesh
from tests.adapters import flask_app

PAGE, OTHER = "https://page.test", "https://other.test"
AN_OWN_WORD = "access-control-allow-origin"


def application(**cors):
    app = FastAPI()

    @app.get("/items")
    async def items() -> list[int]:
        return [1] * 1000

    @app.post("/items", status_code=201)
    async def add(item: dict[str, int]) -> dict[str, int]:
        return item

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418)

    app.add_middleware(GZipMiddleware)
    if cors:
        app.add_middleware(CORSMiddleware, **cors)
    return app


ONE = {"allow_origins": [PAGE], "allow_credentials": True, "allow_methods": ["POST"], "allow_headers": ["x-own"]}
ANY = {"allow_origins": ["*"]}


@pytest.fixture(params=["direct", "asgi"])
def lane(request):
    return request.param


@pytest.fixture
async def mesh(nats_url, prefix, lane, cors, allowed):
    service = adapt(application(**cors), name="shop").service
    settings = {"http_lane": lane, "cors_origins": allowed}
    async with Mesh(service, nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


async def preflight(mesh, origin, path="/items", method="POST", **headers):
    asked = {"origin": origin, "access-control-request-method": method, **headers}
    return await mesh.http.options(path, headers=asked)


def words(response):
    """What a browser reads of CORS; a name that comes twice fails."""
    names = [name for name, _ in response.headers.multi_items() if name.startswith("access-control-")]
    assert len(names) == len(set(names)), response.headers
    return {name.removeprefix("access-control-"): response.headers[name] for name in names}


@pytest.mark.parametrize("allowed", [(), (PAGE,), ("*",), (OTHER,)], ids=["off", "the page", "any", "other"])
@pytest.mark.parametrize("cors", [ONE])
async def test_an_application_with_a_middleware_of_its_own(mesh, allowed):
    asked = await preflight(mesh, PAGE, **{"access-control-request-headers": "x-own"})
    assert asked.status_code == 200
    assert words(asked)["allow-origin"] == PAGE
    assert words(asked)["allow-credentials"] == "true"
    assert words(asked)["allow-methods"] == "POST"
    assert "x-own" in words(asked)["allow-headers"]
    for response, status in (
        (await mesh.http.get("/items", headers={"origin": PAGE, "accept-encoding": "gzip"}), 200),
        (await mesh.http.post("/items", headers={"origin": PAGE}, json={"a": 1}), 201),
        (await mesh.http.post("/items", headers={"origin": PAGE}, json=[]), 422),
        (await mesh.http.get("/teapot", headers={"origin": PAGE}), 418),
    ):
        assert response.status_code == status
        assert words(response) == {"allow-origin": PAGE, "allow-credentials": "true"}
    refused = await preflight(mesh, OTHER)
    assert refused.status_code == 400
    assert "allow-origin" not in words(refused)
    assert "allow-origin" not in words(await mesh.http.get("/items", headers={"origin": OTHER}))


@pytest.mark.parametrize("allowed", [(), (PAGE,)], ids=["off", "the page"])
@pytest.mark.parametrize("cors", [ANY])
async def test_an_application_that_lets_everybody_read(mesh, allowed):
    assert words(await preflight(mesh, OTHER, method="GET"))["allow-origin"] == "*"
    assert words(await mesh.http.get("/items", headers={"origin": OTHER}))["allow-origin"] == "*"


@pytest.mark.parametrize("allowed", [(PAGE,)])
@pytest.mark.parametrize("cors", [{}])
async def test_an_application_that_leaves_it_to_the_gateway(mesh, allowed):
    asked = await preflight(mesh, PAGE, **{"access-control-request-headers": "x-own"})
    assert asked.status_code == 204
    found = words(asked)
    assert (found["allow-origin"], found["allow-methods"], found["allow-headers"]) == (PAGE, "POST", "x-own")
    assert (await preflight(mesh, OTHER)).status_code == 405  # as the application says without the gateway
    got = await mesh.http.get("/items", headers={"origin": PAGE, "accept-encoding": "gzip"})
    assert words(got)["allow-origin"] == PAGE
    assert got.headers.get_list("vary") == ["Accept-Encoding, origin"]
    for exposed in ("retry-after", "ratelimit", "etag", "location", "www-authenticate", "x-request-id", "traceparent"):
        assert exposed in words(got)["expose-headers"].split(", ")
    missed = await mesh.http.get("/nowhere", headers={"origin": PAGE})
    assert (missed.status_code, words(missed)["allow-origin"]) == (404, PAGE)
    assert (await mesh.http.get("/items")).headers.get_list("vary") == ["Accept-Encoding, origin"]


@pytest.mark.parametrize("allowed", [()])
@pytest.mark.parametrize("cors", [{}])
async def test_without_any_cors_nothing_is_said(mesh, allowed):
    assert (await preflight(mesh, PAGE)).status_code == 405
    assert (await preflight(mesh, PAGE, path="/nowhere")).status_code == 404
    plain = await mesh.http.options("/items")
    assert (plain.status_code, plain.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    for response in (await preflight(mesh, PAGE), plain, await mesh.http.get("/items", headers={"origin": PAGE})):
        assert words(response) == {}


async def test_applications_that_take_every_method(nats_url, prefix, lane):
    """Flask answers OPTIONS itself, without a word of CORS."""
    service = adapt(flask_app.app, name="legacy", prefix="/legacy").service
    settings = {"http_lane": lane, "cors_origins": (PAGE,)}
    async with Mesh(service, nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        asked = await preflight(mesh, PAGE, path="/legacy/json")
        assert (asked.status_code, asked.content) == (204, b"")
        assert (words(asked)["allow-origin"], words(asked)["allow-methods"]) == (PAGE, "POST")
        plain = await mesh.http.options("/legacy/json", headers={"origin": PAGE})
        assert (plain.status_code, "allow-methods" in words(plain)) == (200, False)


async def test_services_of_the_mesh_get_no_preflights(nats_url, prefix, lane):
    service, asked = Service("native"), []

    @service.post("/native")
    async def native() -> str:
        asked.append(1)
        return "done"

    for allowed, status in (((), 204), ((PAGE,), 204)):
        settings = {"http_lane": lane, "cors_origins": allowed}
        async with Mesh(service, nats_url=nats_url, prefix=f"{prefix}-{len(allowed)}", gateway=settings) as mesh:
            answer = await preflight(mesh, PAGE, path="/native")
            assert answer.status_code == status
            assert ("allow-origin" in words(answer)) is bool(allowed)
            assert words(await mesh.http.post("/native", headers={"origin": PAGE})).get("allow-origin") == (
                PAGE if allowed else None
            )
    assert asked == [1, 1]


@pytest.mark.parametrize("allowed", [(PAGE,)])
@pytest.mark.parametrize("cors", [ONE])
async def test_a_preflight_for_a_service_that_is_gone(mesh):
    assert (await mesh.http.get("/items")).status_code == 200
    await mesh.instances[0].drain()
    await mesh.until(lambda: not mesh.gateway.watcher.registry.instances("shop"))
    assert (await mesh.http.get("/items", headers={"origin": PAGE})).status_code == 503
    assert words(await mesh.http.get("/items", headers={"origin": PAGE}))["allow-origin"] == PAGE
    answer = await preflight(mesh, PAGE)
    assert (answer.status_code, words(answer)["allow-methods"]) == (204, "GET, HEAD, OPTIONS, POST")
