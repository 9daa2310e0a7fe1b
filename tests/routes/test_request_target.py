from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.routes import MAX_TARGET, RefusedTarget, RequestTarget, parse_target


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        (b"/", ("",)),
        (b"/a/b", ("a", "b")),
        (b"/a/", ("a", "")),
        (b"//a", ("", "a")),
        (b"/a//b", ("a", "", "b")),
        (b"/.well-known/...", (".well-known", "...")),
        (b"/a.b/..c", ("a.b", "..c")),
        (b"/a%2Fb/%5c", ("a/b", "\\")),
        (b"/a\\b", ("a\\b",)),
        (b"/%252e%252e", ("%2e%2e",)),
        (b"/caf%C3%A9", ("café",)),
        (b"/a%20b+c", ("a b+c",)),
        (b"/%3F%23%25", ("?#%",)),
        (b'/%7B|^`"<>', ('{|^`"<>',)),
    ],
)
def test_splits_on_literal_slashes_then_decodes_once(path: bytes, segments: tuple[str, ...]) -> None:
    assert parse_target(path, b"q=%zz") == RequestTarget(path, b"q=%zz", segments)


@pytest.mark.parametrize(
    ("path", "offence"),
    [
        (b"", "start with"),
        (b"a/b", "start with"),
        (b"*", "start with"),
        (b"http://host/a", "start with"),
        (b"/a/../b", "dot segment"),
        (b"/a/..", "dot segment"),
        (b"/.", "dot segment"),
        (b"/a/./b", "dot segment"),
        (b"/%2e%2E/b", "dot segment"),
        (b"/.%2e", "dot segment"),
        (b"/%2e.", "dot segment"),
        (b"/%2E", "dot segment"),
        (b"/a%2F..%2Fb", "dot segment"),
        (b"/..%5cb", "dot segment"),
        (b"/..\\b", "dot segment"),
        (b"/a%00", r"U\+0000"),
        (b"/a%0d%0ab", r"U\+000D"),
        (b"/%7f", r"U\+007F"),
        (b"/%C2%85", r"U\+0085"),
        (b"/a\x00", "0x00"),
        (b"/a b", "0x20"),
        (b"/a\r\nb", "0x0D"),
        (b"/caf\xc3\xa9", "0xC3"),
        (b"/a?b", "0x3F"),
        (b"/a#b", "0x23"),
        (b"/%", "bad escape '%'"),
        (b"/%4", "bad escape"),
        (b"/%zz", "bad escape '%zz'"),
        (b"/%+1", "bad escape"),
        (b"/%u0041", "bad escape"),
        (b"/%FF", "not UTF-8"),
        (b"/%C0%AE%C0%AE", "not UTF-8"),
        (b"/%ED%A0%80", "not UTF-8"),
        (b"/%C3/%A9", "Segment 1 .* not UTF-8"),
    ],
)
def test_refuses(path: bytes, offence: str) -> None:
    found = parse_target(path)
    assert isinstance(found, RefusedTarget)
    assert (found.status, found.reason) == (400, "bad_target")
    with pytest.raises(ValueError, match=offence):
        raise ValueError(found.detail)


@pytest.mark.parametrize("query", [b"a=\r\n", b"a b", b"\x00", b"\x7f", b"q=\xc3\xa9"])
def test_refuses_a_query_that_is_no_uri(query: bytes) -> None:
    found = parse_target(b"/a", query)
    assert isinstance(found, RefusedTarget)
    assert "query" in found.detail


def test_a_query_is_not_decoded() -> None:
    assert parse_target(b"/", b"p=../%00%zz?") == RequestTarget(b"/", b"p=../%00%zz?", ("",))


def test_length_counts_path_and_query() -> None:
    path = b"/" + b"a" * (MAX_TARGET - 1)
    assert isinstance(parse_target(path), RequestTarget)
    found = parse_target(path, b"q")
    assert isinstance(found, RefusedTarget)
    assert (found.status, found.reason) == (414, "target_too_long")
    assert isinstance(parse_target(b"/a", b"b", limit=3), RequestTarget)
    assert isinstance(parse_target(b"/ab", b"b", limit=3), RefusedTarget)


PIECES = st.sampled_from(
    [b"/", b"a", b".", b"..", b"%2e", b"%2E", b"%2F", b"%5c", b"\\", b"%", b"%00", b"%C3%A9", b"%25", b"\x80", b"?"]
)


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.binary(max_size=40), st.lists(PIECES, max_size=8).map(b"".join)).map(lambda b: b"/" + b))
@example(b"/%2e%2e%2f")
def test_whatever_comes_in_nothing_dangerous_comes_out(path: bytes) -> None:
    found = parse_target(path)
    if isinstance(found, RefusedTarget):
        assert found.detail.isprintable()
        return
    assert found.path is path
    assert len(found.segments) == path.count(b"/")
    text = "/".join(found.segments)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    assert {".", ".."}.isdisjoint(text.replace("\\", "/").split("/"))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=30), st.binary(max_size=30), st.integers(0, 40))
def test_never_raises(path: bytes, query: bytes, limit: int) -> None:
    assert isinstance(parse_target(path, query, limit), RequestTarget | RefusedTarget)
