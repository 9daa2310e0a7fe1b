"""What people who know other frameworks write first: refused when it is declared, with what to write."""

import re
from typing import Annotated

import fastapi
import flask
import pytest

from mesh import DeclarationError, Header, Query, Router, Service
from mesh.service.declaration_hints import respelled
from tests.conditions import eventually


async def users(): ...


SERVICE, ROUTER = Service("shop"), Router()


@pytest.mark.parametrize(
    ("decorator", "right"),
    [
        *[(getattr(SERVICE, m), f'@service.{m}("/path")') for m in ("get", "post", "put", "patch", "delete")],
        *[(getattr(ROUTER, m), f'@router.{m}("/path")') for m in ("get", "post", "put", "patch", "delete")],
        (SERVICE.websocket, '@service.websocket("/path")'),
        (SERVICE.endpoint, "@service.endpoint()"),
        (SERVICE.group("things").endpoint, "@group.endpoint()"),
        (SERVICE.on, '@service.on("event.name")'),
        (SERVICE.readiness, '@service.readiness("name")'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_decorator_without_parentheses(decorator, right):
    with pytest.raises(DeclarationError, match=re.escape(f"'users': {right.partition('(')[0]} needs parentheses")) as e:
        decorator(users)
    assert str(e.value).endswith(f"write {right}")


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/users/:id", "/users/{id}"),
        ("/users/:id?/pets/:pet", "/users/{id}/pets/{pet}"),
        ("/users/<id>", "/users/{id}"),
        ("/users/<int:id>", "/users/{id}"),
        ("/files/<path:name>", "/files/{name:path}"),
        ("/users/{id:int}", "/users/{id}"),
        ("/users/{id:[0-9]+}", "/users/{id}"),
        ("/users/{id?}", "/users/{id}"),
        ("/users/[id]", "/users/{id}"),
        ("/files/[...name]", "/files/{name:path}"),
        ("/files/*name", "/files/{name:path}"),
        ("/files/{*name}", "/files/{name:path}"),
        ("/files/{name...}", "/files/{name:path}"),
        ("/files/{name:.*}", "/files/{name:path}"),
        ("/files/:name*", "/files/{name:path}"),
        ("/files/*", "/files/{rest:path}"),
        ("/files/**", "/files/{rest:path}"),
    ],
)
def test_a_path_as_other_frameworks_spell_it(path, right):
    for declare in (SERVICE.get, ROUTER.post, SERVICE.websocket):
        with pytest.raises(DeclarationError, match=re.escape(f"did you mean {right!r}?")):
            declare(path)


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: SERVICE.route("/m31"), 'missing a required argument: \'path\'; write @service.route("GET", "/path")'),
        (
            lambda: SERVICE.get("/x", users),
            'too many positional arguments; write @service.get("/path") above the handler',
        ),
        (lambda: ROUTER.websocket("/x", nam="y"), "there is no option 'nam'; did you mean 'name'?"),
        (lambda: Service("m", verion="1.0.0"), "there is no option 'verion'; did you mean 'version'?"),
        (lambda: Service(), 'missing a required argument: \'name\'; write Service("name", version="1.0.0")'),
    ],
)
def test_arguments_that_no_declaration_takes(declare, says):
    with pytest.raises(DeclarationError, match=f"^{re.escape(says)}$"):
        declare()


@pytest.mark.parametrize(
    "path",
    ["/", "/users/{id}", "/files/{name:path}", "/a:b", "/things/batch:get", "/a*b", "/{a:str}/", "/%3Aid"],
)
def test_a_path_of_ours_is_left_alone(path):
    assert respelled(path) == path
    Router().get(path)


def test_a_type_in_a_path_is_an_annotation():
    with pytest.raises(DeclarationError, match="Its type is the annotation of the handler's parameter"):
        SERVICE.get("/users/<int:id>")


def test_a_prefix_has_no_parameters():
    with pytest.raises(DeclarationError, match="a prefix is literal"):
        Service("shop", prefix="/:tenant")


def test_a_path_is_text():
    with pytest.raises(DeclarationError, match="is a list, not a text"):
        SERVICE.get(["/a"])


def bare_body(body): ...
def bare_anything(thing): ...
def bare_number(limit=20): ...
def bare_context(ctx): ...
def bare_request(request): ...
def bare_socket(ws): ...
def method(self): ...
def marker_as_default(q: str = Query("x")): ...
def marker_of_fastapi(q: str = fastapi.Query("x")): ...
def dependency_of_fastapi(q: Annotated[str, fastapi.Depends(users)]): ...
def form_of_fastapi(q: Annotated[str, fastapi.Form()]): ...
def request_of_starlette(q: fastapi.Request): ...
def request_of_flask(q: flask.Request): ...
def list_of_unknown(q: list[complex]): ...
def unknown_or_none(q: complex | None): ...


@pytest.mark.parametrize(
    ("declare", "handler", "why"),
    [
        ("post", bare_body, "'body' has no annotation.*body: dict"),
        ("get", bare_body, "'body' has no annotation"),
        ("put", bare_anything, "'thing' has no annotation.*thing: str"),
        ("get", bare_number, "'limit' has no annotation; write limit: int = "),
        ("get", bare_context, "did you mean ctx: Context?"),
        ("get", bare_request, "did you mean request: Request?"),
        ("websocket", bare_socket, "did you mean ws: WebSocket?"),
        ("get", method, "'self': declare functions, or an object's bound methods"),
        ("get", marker_as_default, r"q: Annotated\[str, Query\(...\)\]"),
        ("get", marker_of_fastapi, r"has Query of fastapi; with mesh it is q: Annotated\[str, Query\(...\)\]"),
        ("get", dependency_of_fastapi, r"has Depends of fastapi; .* Annotated\[str, Depends\(...\)\]"),
        ("post", form_of_fastapi, "has Form of fastapi"),
        ("get", request_of_starlette, "a Request of starlette.*mesh serve"),
        ("get", request_of_flask, "a Request of flask.*mesh serve"),
        ("post", list_of_unknown, "complex is not known; take a Struct, a dataclass or a Pydantic model"),
        ("post", unknown_or_none, "complex is not known"),
    ],
)
def test_parameters_that_cannot_be_what_was_meant(declare, handler, why):
    with pytest.raises(DeclarationError, match=f"^handler {handler.__name__!r}: .*{why}"):
        getattr(Service("a"), declare)("/a")(handler)


def test_what_is_plain_without_an_annotation_stays():
    service = Service("a")

    @service.get("/find/{place}")
    async def find(place, q, sort="new", page=None): ...

    @service.endpoint()
    async def count(body, depth): ...

    @service.on("things.changed")
    async def changed(event): ...

    assert {p.source for p in service.endpoints["find"].binder.parameters} == {"path", "query"}


async def test_what_comes_without_an_annotation_is_what_was_sent(mesh, client):
    service, heard = Service("plain"), []

    @service.endpoint()
    async def give(thing):
        return [thing]

    @service.on("things.changed")
    async def changed(event):
        heard.append(event)

    await mesh.start(service)
    assert await client.call("plain", "give", thing={"a": 1}) == [{"a": 1}]
    await client.emit("things.changed", {"a": [1]})
    await eventually(lambda: heard == [{"a": [1]}])


def plain(): ...
async def generator():
    yield


@pytest.mark.parametrize(
    ("hook", "why"),
    [(plain, "must be an async function"), (generator, "must be an async function"), ("x", "is not a function")],
)
def test_hooks(hook, why):
    for register in (SERVICE.on_startup, SERVICE.on_shutdown):
        with pytest.raises(DeclarationError, match=why):
            register(hook)


def test_who_claims_a_route_twice_is_told_where():
    service = Service("a")
    service.get("/a/{thing}")(bare_anything)

    async def other(name: str): ...

    with pytest.raises(DeclarationError, match=r"by bare_anything \(\S+wrong_usage.py:\d+\) and other \(\S+.py:\d+\)$"):
        service.get("/a/{name}")(other)
    with pytest.raises(DeclarationError, match=r"two endpoints named 'other', at \S+.py:\d+ and \S+.py:\d+; "):
        service.endpoint("other")(other), service.endpoint("other")(users)


def test_a_router_that_was_included_takes_no_more():
    router, service = Router(), Service("a")
    router.get("/one")(users)
    service.include(router)
    with pytest.raises(DeclarationError, match="'users': its router has been included already"):
        router.get("/two")(users)


def test_markers_of_ours_are_known():
    service = Service("a")

    @service.get("/a")
    async def a(key: Annotated[str, Header]): ...

    assert service.endpoints["a"].binder.parameters[0].source == "header"
