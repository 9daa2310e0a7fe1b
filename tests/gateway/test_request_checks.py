"""The checks before a request is published: their order, and what a new one takes."""

import re
from pathlib import Path

import pytest

import gateway
from gateway.header_translation import Rendered, read_head
from gateway.known_headers import KnownHeader, declared, known_header
from gateway.problems import refuse
from gateway.request_checks import CHECKS
from gateway.wire_request import request_head
from mesh import Service, headers
from mesh.client.attempt_messages import request_block
from mesh.settings import GatewaySettings
from mesh.testing import Mesh
from tests.gateway.test_framing import answers, ask, get


def make():
    service = Service("things")

    @service.get("/things/{name}")
    async def things(name: str) -> str:
        return name

    return service


@pytest.fixture(params=["direct", "asgi"])
async def mesh(nats_url, prefix, request):
    settings = {"http_lane": request.param, "cors_origins": ("https://shop.test",), "max_request_body": 10}
    async with Mesh(make(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


def test_the_order_of_the_checks():
    assert [check.__name__ for check in CHECKS] == [
        "check_target",
        "answer_own_path",
        "match_route",
        "answer_preflight",
        "check_headers",
        "check_inflight",
        "check_body",
    ]


MANY = [f"x-{number}: y" for number in range(200)]
TWICE = ["Authorization: a", "Authorization: b"]
LARGE = ["Content-Length: 11"]
PREFLIGHT = ["Origin: https://shop.test", "Access-Control-Request-Method: GET"]


@pytest.mark.parametrize(
    ("method", "path", "more", "reason"),
    [
        # Each request has the faults of all checks from one on; the first of them counts.
        ("POST", "/livez/%zz", [*MANY, *TWICE, *LARGE], "bad_target"),
        ("OPTIONS", "/livez/%zz", MANY, "bad_target"),
        ("POST", "/livez", [*MANY, *TWICE, *LARGE], "method_not_allowed"),
        ("OPTIONS", "/livez", [*PREFLIGHT, *MANY], "method_not_allowed"),
        ("GET", "/%6civez", MANY, None),
        ("POST", "/nowhere", [*MANY, *TWICE, *LARGE], "no_route"),
        ("OPTIONS", "/nowhere", PREFLIGHT, "no_route"),
        ("OPTIONS", "/things/a", [*PREFLIGHT, *MANY], None),
        ("OPTIONS", "/things/a", [], None),
        ("GET", "/things/a", [*MANY, *TWICE, *LARGE], "headers_too_large"),
        ("GET", "/things/a", [*TWICE, *LARGE], "invalid_credentials"),
        ("GET", "/things/a", LARGE, "too_large"),
        ("GET", "/things/a", [], None),
    ],
)
async def test_the_first_check_that_fails_answers(mesh, method, path, more, reason):
    body = b"x" * 11 if more[-1:] == LARGE else b""
    ((_, found, document),) = answers(
        await ask(mesh, get(path, *more, "Connection: close", method=method) + body), method
    )
    if reason is None:
        assert b'"reason"' not in document
    else:
        assert f'"reason":"{reason}"'.encode() in document
    assert b"x-request-id" in found


async def test_a_check_is_a_function_in_the_list(mesh):
    """And what it returns or raises is the response on every lane."""
    key = known_header(b"x-test-key")

    def check_key(request, context):
        assert isinstance(context.settings, GatewaySettings)
        given = request.head.known.get(key)
        if given == b"teapot":
            return Rendered(418, [(b"content-length", b"0")], b"")
        if given != b"right":
            raise refuse(401, "unauthorized", "a key is asked for", {"www-authenticate": "Key"})
        return None

    checks = mesh.gateway.lifecycle.checks
    checks.for_requests.insert(4, check_key)
    for value, status in (("right", 200), ("teapot", 418), ("wrong", 401)):
        ((found, given, _),) = answers(
            await ask(mesh, get("/things/a", f"X-Test-Key: {value}", "Connection: close")), "GET"
        )
        assert found == status
        assert (b"www-authenticate" in given) is (status == 401)


@pytest.mark.parametrize("form", [r"known(\.get\(|\[)b\"", r'b"[a-z-]+"\S* (not )?in \S*known\b'], ids=["read", "in"])
def test_no_header_is_asked_for_that_was_not_declared(form):
    """mypy sees to the first: `KnownHeaders` takes no key but a `KnownHeader`. It takes any bytes before ``in``."""
    for path in Path(gateway.__file__).parent.glob("*.py"):
        if path.name != "known_headers.py":
            assert not re.search(form, path.read_text()), path


def test_declared_headers_are_kept_and_others_are_not():
    late = known_header(b"x-declared-here")
    head = read_head([(b"X-Declared-Here", b"1"), (b"X-Not-Declared", b"2")])
    assert head.known.get(late) == b"1"
    assert head.known.get(KnownHeader(b"x-not-declared")) is None
    assert b"x-declared-here" in declared
    assert b"x-declared-here: 1\r\n" in head.lines


# -- the head on the bus


async def test_services_read_the_head_at_one_glance(mesh):
    """`mesh.headers._ENVELOPE` has the lines in the order of `request_head`; otherwise it would only be slower."""
    lifecycle = mesh.gateway.lifecycle
    head = read_head([(b"host", b"shop.test"), (b"accept", b"*/*")])
    request = lifecycle.begin("GET", b"/things/a", b"b=c", head, "192.0.2.7", "https")
    lifecycle.responses.finish(request)
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for lines, params in ((b"", None), (b"Mesh-Params: name=a\r\n", b"name=a")):
        block = request_block(1.5, lines, request_head(request, trace))
        deadline, sent, *rest = headers.open_envelope(block)
        assert deadline == b"1500"
        assert sent is not None
        credit = headers.find(headers.decode(block), headers.CREDIT)
        assert credit is not None
        assert rest == [params, b"GET /things/a?b=c", credit, request.request_id]
        pairs = headers.decode(block)
        assert headers.find(pairs, b"x-request-id") == request.request_id
        assert headers.find(pairs, headers.TRACEPARENT) == trace
        assert headers.find(pairs, headers.FORWARDED) == b'for=192.0.2.7;proto=https;host="shop.test"'
        assert headers.find(pairs, b"accept") == b"*/*"
