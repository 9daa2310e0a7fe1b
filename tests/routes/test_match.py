from __future__ import annotations

import itertools
import sys
import time

import pytest

from mesh.routes import NoRoute, RouteTable
from tests.routes.build import content, outcome, plain, table_of

ROUTES = [
    "GET /",
    "GET /users",
    "POST /users",
    "GET /users/me",
    "GET /users/{id}",
    "DELETE /users/{id}",
    "GET /users/{id}/posts",
    "GET /users/me/{what}/new",
    "GET /users/",
    "GET /files/{p:path}",
    "PUT /files/{name}",
    "* /any/{x}",
    "GET /any/{x}",
    "HEAD /own",
    "GET /own",
    "GET /deep/a/{p:path}",
    "GET /deep/{x}/c",
    "* /app/{p:path}",
]


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /", ("a GET /",)),
        ("GET /users", ("a GET /users",)),
        ("GET /users/", ("a GET /users/",)),
        ("GET /users/me", ("a GET /users/me",)),
        ("GET /users/7", ("a GET /users/{id}", "7")),
        # A literal whose leaf lacks the method, or whose way ends, does not hide the parameter.
        ("DELETE /users/me", ("a DELETE /users/{id}", "me")),
        ("GET /users/me/posts", ("a GET /users/{id}/posts", "me")),
        ("GET /users/me/posts/new", ("a GET /users/me/{what}/new", "posts")),
        ("GET /deep/a/c", ("a GET /deep/a/{p:path}", "c")),
        ("GET /deep/b/c", ("a GET /deep/{x}/c", "b")),
        # Parameters never take an empty segment, tails do; a tail needs its slash.
        ("GET /users//posts", None),
        ("GET /files/", ("a GET /files/{p:path}", "")),
        ("GET /files", None),
        ("GET /files/a//b/", ("a GET /files/{p:path}", "a//b/")),
        ("GET /files/x", ("a GET /files/{p:path}", "x")),
        ("PUT /files/x", ("a PUT /files/{name}", "x")),
        ("PUT /files/", {"GET", "HEAD", "OPTIONS"}),
        # Exact method, then GET for HEAD, then any.
        ("GET /any/1", ("a GET /any/{x}", "1")),
        ("PATCH /any/1", ("a * /any/{x}", "1")),
        ("HEAD /any/1", ("a GET /any/{x}", "1")),
        ("HEAD /own", ("a HEAD /own",)),
        ("HEAD /users/7", ("a GET /users/{id}", "7")),
        ("OPTIONS /app/x", ("a * /app/{p:path}", "x")),
        ("HEAD /app/x/y", ("a * /app/{p:path}", "x/y")),
        # Known path, other methods: of every template that matches.
        ("PUT /users", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("PUT /users/me", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("OPTIONS /users", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("POST /files/x", {"GET", "HEAD", "PUT", "OPTIONS"}),
        ("get /users", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("GET /nope", None),
        ("GET //", None),
        ("GET /users/me/", None),
        ("GET /USERS", None),
    ],
)
def test_match(request_line: str, expected: object) -> None:
    assert outcome(table_of({"a": ROUTES}), request_line) == expected


def test_allow_is_sorted() -> None:
    assert table_of({"a": ROUTES}).match("PUT", ("users",)) == (("GET", "HEAD", "OPTIONS", "POST"),)


def test_an_empty_table_knows_no_route() -> None:
    table = RouteTable()
    assert table.match("GET", ("",)) == NoRoute()
    assert (len(table), list(table.routes()), table.conflicts, table.nearest("/x")) == (0, [], (), [])
    assert table


def test_a_root_tail_takes_what_nothing_else_does() -> None:
    table = table_of({"a": ["GET /{p:path}", "GET /x/y", "GET /x"]})
    assert outcome(table, "GET /") == ("a GET /{p:path}", "")
    assert outcome(table, "GET /x/z") == ("a GET /{p:path}", "x/z")
    assert outcome(table, "GET /x/") == ("a GET /{p:path}", "x/")
    assert outcome(table, "GET //x") == ("a GET /{p:path}", "/x")


def test_an_encoded_slash_is_data() -> None:
    table = table_of({"a": ["GET /a%2Fb/{x}", "GET /a/b/{x}"]})
    assert plain(table.match("GET", ("a/b", "c/d"))) == ("a GET /a%2Fb/{x}", "c/d")
    assert plain(table.match("GET", ("a", "b", "c"))) == ("a GET /a/b/{x}", "c")


def test_entries_by_path_then_method() -> None:
    table = table_of({"b": ["POST /b", "GET /b"], "a": ["GET /c", "GET /a/{x}"]})
    assert [(entry.template, entry.method) for entry in table.routes()] == [
        ("/a/{x}", "GET"),
        ("/b", "GET"),
        ("/b", "POST"),
        ("/c", "GET"),
    ]
    assert len(table) == 4


def test_thousands_of_segments_meet_no_recursion_limit() -> None:
    deep = "/a" * 1000
    table = table_of({"a": [f"GET {deep}", f"GET {deep[:-2]}/{{x}}", "GET /{p:path}"]})
    assert plain(table.match("GET", ("a",) * 1000)) == (f"a GET {deep}",)
    assert plain(table.match("GET", ("a",) * 5000)) == ("a GET /{p:path}", "/".join("a" * 5000))
    assert len(table.replace("a", [content("GET /x")], 1.0)) == 1
    assert table.nearest(deep + "x") != []


def test_backtracking_costs_at_most_the_table() -> None:
    # Every combination of literal and parameter, and a path that fits all of them but for its end.
    shapes = itertools.product(("a", None), repeat=9)
    routes = ["/".join(s or f"{{p{i}}}" for i, s in enumerate(shape)) for shape in shapes]
    table = table_of({"a": [f"GET /{route}/end" for route in routes]})
    began = time.process_time()
    assert table.match("GET", ("a",) * 9 + ("no",)) == NoRoute()
    # A long chain in which a literal and a parameter take turns.
    chain = table_of({"a": ["GET /a/{x}" + "".join(f"/a/{{y{i}}}" for i in range(80)) + "/end"]})
    assert chain.match("GET", ("a",) * 162 + ("no",)) == NoRoute()
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("/usrs", "GET /users"),
        ("/users/42/pots", "GET /users/{id}/posts"),
        ("/user/42", "DELETE /users/{id}"),
        ("/dep/a/c", "GET /deep/a/{p:path}"),
        ("users", "GET /users"),
    ],
)
def test_nearest(path: str, first: str) -> None:
    found = table_of({"a": ROUTES}).nearest(path)
    assert found[0] == first
    assert len(found) <= 3


def test_nearest_gives_nothing_for_what_is_like_nothing() -> None:
    table = table_of({"a": ["GET /users", "GET /gone"]})
    assert table.nearest("/zzzzzzzzzzzz") == []
    assert table.nearest("/users", limit=0) == []
    assert table.replace("a", [], 0.0).nearest("/users") == []


def test_nearest_is_bounded() -> None:
    table = table_of({"a": [f"GET /route{number}/{{x}}/of/{{y}}" for number in range(5000)]})
    began = time.process_time()
    table.nearest("/" + "rout" * 2000)
    table.nearest("/" * 8000)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "template",
    ["/route{0}", "/route{0}/{{x}}/of/{{y}}", "/a{1}/b{2}/c{0}", "/" + "x" * 150 + "{0}", "/api/{{x}}/thing{0}/{{y}}"],
)
def test_nearest_in_a_large_table_is_bounded(template: str) -> None:
    table = table_of({"a": [f"GET {template.format(n, n % 20, n % 400)}" for n in range(9000)]})
    for path in ("/nowhere", "/route88x", "/" + "x" * 190, "/a/" * 60, "/api/1/thing77/2/3"):
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            table.nearest(path)
        finally:
            sys.setprofile(None)
        assert calls < 12_000  # some of them for each literal that is looked at, and of a tenth of a microsecond


def test_a_slip_is_found_among_thousands() -> None:
    table = table_of({"a": [f"GET /api/resource{number}/{{x}}" for number in range(4000)]})
    assert table.nearest("/api/resourze77/1")[0] == "GET /api/resource77/{x}"
