from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.routes import BadTemplate, Match, RequestTarget, mount, parse_target, parse_template
from mesh.routes.template import prefix_segments
from tests.routes.build import table_of


@pytest.mark.parametrize(
    ("path", "text", "segments", "names", "tail"),
    [
        ("/", "/", ("",), (), False),
        ("/users", "/users", ("users",), (), False),
        ("/users/", "/users/", ("users", ""), (), False),
        ("/users/{user_id}", "/users/{user_id}", ("users", None), ("user_id",), False),
        ("/{a}/x/{b:str}/", "/{a}/x/{b}/", (None, "x", None, ""), ("a", "b"), False),
        ("/files/{p:path}", "/files/{p:path}", ("files",), ("p",), True),
        ("/{p:path}", "/{p:path}", (), ("p",), True),
        ("/caf%C3%A9", "/café", ("café",), (), False),
        ("/a b", "/a%20b", ("a b",), (), False),
        ("/a%2fb", "/a%2Fb", ("a/b",), (), False),
        ("/%7Bid%7D", "/%7Bid%7D", ("{id}",), (), False),
        ("/users:batch", "/users:batch", ("users:batch",), (), False),
        ("/%E2%80%AE", "/%E2%80%AE", ("\u202e",), (), False),
        ("/.well-known/x", "/.well-known/x", (".well-known", "x"), (), False),
    ],
)
def test_reads(path: str, text: str, segments: tuple[str | None, ...], names: tuple[str, ...], tail: bool) -> None:
    template = parse_template(path)
    assert (template.text, template.segments, template.names, template.tail) == (text, segments, names, tail)
    assert parse_template(template.text) == template


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "does not start with '/'"),
        ("users", "does not start with '/'"),
        ("//", "empty segment"),
        ("//a", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a/../b", "dot segment"),
        ("/.", "dot segment"),
        ("/%2e%2e", "dot segment"),
        ("/a%2F..", "dot segment"),
        ("/{a}/{a}", "two parameters called 'a'"),
        ("/{a}/{a:path}", "two parameters called 'a'"),
        ("/{p:path}/x", "goes on after"),
        ("/{p:path}/", "goes on after"),
        ("/{id:int}", "handler's annotations"),
        ("/{id:}", "converter"),
        ("/{1a}", "identifier"),
        ("/{}", "identifier"),
        ("/{a-b}", "identifier"),
        ("/{ a }", "identifier"),
        ("/a{b}", "whole segment"),
        ("/{b}.json", "whole segment"),
        ("/{a}{b}", "whole segment"),
        ("/{{a}}", "whole segment"),
        ("/{a", "whole segment"),
        ("/a}", "whole segment"),
        ("/{a/b}", "whole segment"),
        ("/a\nb", r"U\+000A"),
        ("/a%00", r"U\+0000"),
        ("/\x9b", r"U\+009B"),
        ("/%zz", "bad escape"),
        ("/%FF", "not UTF-8"),
        ("/\ud800", "surrogate"),
        ("/a?b=1", "end a path"),
        ("/a#b", "end a path"),
        ("/" + "a" * 2048, "at most 2048"),
    ],
)
def test_refuses(path: str, fault: str) -> None:
    with pytest.raises(BadTemplate, match=fault) as caught:
        parse_template(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_shape_ignores_names_and_spelling_only() -> None:
    same = {parse_template(path).shape for path in ("/caf%C3%A9/{a}", "/café/{b}", "/caf%c3%a9/{c:str}")}
    assert len(same) == 1
    others = ["/a", "/a/", "/a/{x}", "/a/{x:path}", "/{x}", "/{x:path}", "/{x}/a", "/A", "/{x}/{y:path}"]
    assert len({parse_template(path).shape for path in others}) == len(others)


@pytest.mark.parametrize(
    ("prefix", "path", "joined"),
    [
        ("", "/metrics", "/metrics"),
        ("/", "/metrics", "/metrics"),
        ("/api/v1/analytics", "/metrics", "/api/v1/analytics/metrics"),
        ("/api/", "/{x}", "/api/{x}"),
        ("/api", "/", "/api/"),
        ("/api", "/{p:path}", "/api/{p:path}"),
    ],
)
def test_mount(prefix: str, path: str, joined: str) -> None:
    assert mount(prefix, path) == joined


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("api", "/a"), ("/api", "a"), ("/api", ""), ("/api//", "/a"), ("//", "/a"), ("/{x}", "/a"), ("/{x:path}", "/a"),
     ("/..", "/a"), ("/a?b", "/c"), ("/api", "//a"), ("/" + "a" * 2000, "/" + "b" * 2000)],
)  # fmt: skip
def test_mount_refuses(prefix: str, path: str) -> None:
    with pytest.raises(BadTemplate):
        mount(prefix, path)


def test_prefix_segments() -> None:
    assert prefix_segments("/") == prefix_segments("") == ()
    assert prefix_segments("/a%2Fb/c/") == ("a/b", "c")


VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)


def has_dot_segment(text: str) -> bool:
    return not {".", ".."}.isdisjoint(text.replace("\\", "/").split("/"))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(VALUES, st.booleans()), max_size=4), st.lists(VALUES, min_size=1, max_size=3), st.booleans())
def test_encoded_values_come_back(parts: list[tuple[str, bool]], rest: list[str], tail: bool) -> None:
    every = [value for value, _ in parts] + rest
    assume(not any(has_dot_segment(value) for value in every))
    template = "".join(
        f"/{{p{place}}}" if param else "/" + quote(value, safe="") for place, (value, param) in enumerate(parts)
    )
    template += "/{rest:path}" if tail else "/end"
    path = "".join("/" + quote(value, safe="") for value, _ in parts)
    path += "".join("/" + quote(value, safe="") for value in rest) if tail else "/end"
    target = parse_target(path.encode())
    assert isinstance(target, RequestTarget)
    found = table_of({"a": [f"GET {template}"]}).match("GET", target.segments)
    assert isinstance(found, Match)
    expected = [value for value, param in parts if param] + (["/".join(rest)] if tail else [])
    assert list(found.values) == expected
    (binding,) = found.route.revisions.values()
    assert len(binding.names) == len(found.values)
