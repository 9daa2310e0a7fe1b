"""Whatever is wrong with a declaration fails when it is made, with a sentence that names it."""

import inspect
from typing import Annotated

import msgspec
import pytest

from mesh import Context, Cookie, DeclarationError, Header, Query, Router, Service
from mesh.service import endpoints
from mesh.service.router import RouteOptions
from mesh.service.signatures import read_signature


class Pet(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Service("with.dot"), "'with.dot' is not 1 to 64"),
        (lambda: Service("gateway"), "reserved"),
        (lambda: Service("a", version="1.0"), "semantic version"),
        (lambda: Service("a", version="1.0.0\n"), "semantic version"),
        (lambda: Service("a", metadata={"k": 1}), "metadata 'k'=1"),
        (lambda: Service("a", metadata={"mesh.prefix": "x"}), "reserved"),
        (lambda: Service("a", prefix="api"), "prefix 'api'"),
    ],
)
def test_services(make, why):
    with pytest.raises(DeclarationError, match=why):
        make()


def handler_without_parameter(): ...
def handler_with_two_bodies(a: Pet, b: Pet): ...
def handler_with_body(a: Pet): ...
def handler_with_args(*args): ...
def handler_with_unreadable(x: complex): ...
def handler_with_path_header(x: Annotated[str, Header()]): ...
def generator():
    yield 1


@pytest.mark.parametrize(
    ("method", "path", "handler", "options", "why"),
    [
        ("GET", "users", handler_without_parameter, {}, "path 'users'"),
        ("GET", "/a/{x}/{x}", handler_without_parameter, {}, "x"),
        ("GET", "/a/{x:int}", handler_without_parameter, {}, "annotation"),
        ("GET", "/a/{x}", handler_without_parameter, {}, r"names \{x\}, but the handler has no parameter 'x'"),
        ("POST", "/a", handler_with_two_bodies, {}, "a and b would both be the body"),
        ("GET", "/a", handler_with_body, {}, "'a' of type Pet would be the body of a GET request"),
        ("GET", "/a", handler_with_args, {}, "'args' must be an ordinary named parameter"),
        ("GET", "/a", handler_with_unreadable, {}, "'x' of type complex"),
        ("GET", "/a/{x}", handler_with_path_header, {}, "'x' is a path parameter and cannot be Header too"),
        ("GET", "/a", generator, {}, "generator"),
        ("FETCH", "/a", handler_without_parameter, {}, "method 'FETCH'"),
        ("GET", "/a", handler_without_parameter, {"status": 99}, "status 99"),
        ("GET", "/a", handler_without_parameter, {"timeout": 0}, "timeout 0"),
        ("GET", "/a", handler_without_parameter, {"try_timeout": 1, "retry": False}, "retry=False forbids it"),
        ("GET", "/a", handler_without_parameter, {"name": "a b"}, "'a b' cannot be an endpoint's name"),
        ("GET", "/a", lambda: None, {}, "'<lambda>' cannot be an endpoint's name"),
        ("GET", "/a", 7, {"name": "seven"}, "not callable"),
    ],
)
def test_routes(method, path, handler, options, why):
    with pytest.raises(DeclarationError, match=why):
        Service("a").route(method, path, **options)(handler)


def test_a_route_is_declared_once():
    service = Service("a")
    service.get("/a/{x}")(lambda_named("one"))
    with pytest.raises(DeclarationError, match=r"GET /a/\{y\} is declared twice, by one and two"):
        service.get("/a/{y}")(lambda_named("two", "y"))


def test_endpoint_names_are_unique():
    service = Service("a")
    service.endpoint("same")(handler_without_parameter)
    with pytest.raises(DeclarationError, match="two endpoints named 'same'"):
        service.endpoint("same")(handler_with_body)


def test_stacked_decorators_add_routes_to_one_endpoint():
    service = Service("a")

    @service.get("/one")
    @service.post("/two")
    async def both() -> None: ...

    assert list(service.endpoints) == ["both"]
    assert {(r.method, r.path) for r in service.announced_routes()} == {("GET", "/one"), ("POST", "/two")}


@pytest.mark.parametrize("paths", [("/items/{page}", "/items"), ("/items", "/items/{page}")])
async def test_stacked_decorators_take_a_parameter_from_the_path_that_names_it(mesh, paths):
    service = Service("a")

    async def items(page: int = 1) -> int:
        return page

    for path in paths:
        service.get(path)(items)
    await mesh.start(service)
    assert (await mesh.http.get("/items/7")).json() == 7
    assert (await mesh.http.get("/items")).json() == 1


def test_stacked_decorators_cannot_name_different_parameters():
    service = Service("a")

    @service.get("/by-name/{name}")
    async def find(name: str = "", number: int = 0) -> None: ...

    with pytest.raises(DeclarationError, match=r"/by-name/\{name\} and GET /by-number/\{number\} name different"):
        service.get("/by-number/{number}")(find)
    service.get("/by-number/{number}", name="by-number")(find)


@pytest.mark.parametrize("paths", [("/items/{page}", "/items"), ("/items", "/items/{page}")])
def test_stacked_decorators_need_a_default_for_what_one_path_lacks(paths):
    service = Service("a")

    async def items(page: int) -> None: ...

    service.get(paths[0])(items)
    with pytest.raises(DeclarationError, match=r"does not name \{page\}, and it has no default"):
        service.get(paths[1])(items)


def test_every_decorator_of_a_method_takes_the_options_of_route():
    taken = [p.name for p in inspect.signature(Router.route).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert list(RouteOptions.__annotations__) == taken


def test_an_included_router_declares_its_handlers_once(monkeypatch):
    read = []
    monkeypatch.setattr(
        endpoints, "read_signature", lambda handler, *more: read.append(handler) or read_signature(handler, *more)
    )
    service, outer, inner = Service("a", prefix="/v1"), Router(prefix="/api"), Router(tags=("people",))

    @inner.get("/users/{name}", timeout=2)
    async def user(name: str) -> None: ...

    outer.include(inner)
    service.include(outer)
    assert read == [user]
    [route] = service.announced_routes()
    assert (route.path, route.tags, route.timeout_ms) == ("/v1/api/users/{name}", ("people",), 2000)


def test_where_parameters_come_from():
    service = Service("a")

    @service.post("/a/{key}")
    async def take(
        key: int,
        pet: Pet,
        ctx: Context,
        page: int = 1,
        tags: list[str] = [],  # noqa: B006
        api_key: Annotated[str, Header()] = "",
        session: Annotated[str | None, Cookie("sid")] = None,
        size: Annotated[int, Query("page-size")] = 10,
    ) -> None: ...

    sources = {p.name: (p.source, p.key) for p in service.endpoints["take"].binder.parameters}
    assert sources == {
        "key": ("path", "key"),
        "pet": ("body", "body"),
        "ctx": ("context", "ctx"),
        "page": ("query", "page"),
        "tags": ("query", "tags"),
        "api_key": ("header", "api-key"),
        "session": ("cookie", "sid"),
        "size": ("query", "page-size"),
    }


def lambda_named(name, parameter="x"):
    namespace = {}
    exec(f"async def {name}({parameter}: str): ...", namespace)
    return namespace[name]
