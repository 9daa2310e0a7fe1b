"""Headers between HTTP and the bus, without a gateway around them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.header_translation import ResponseHeads, lines_of, read_head, response
from mesh import headers
from mesh.bus import Reply
from mesh.errors import BadReply

names = st.sampled_from(
    [b"Host", b"Cookie", b"X-A", b"x-a", b"Connection", b"TE", b"Mesh-Id", b"mesh_identity", b"Status", b"X-Caf\xe9"]
)
values = st.sampled_from([b"", b"1", b"close", b"x-a, te", b"caf\xe9", b"keep-alive"])


@given(st.lists(st.tuples(names, values), max_size=12))
def test_lines_are_those_of_the_headers_that_cross(pairs):
    lower = [(name.lower(), value) for name, value in pairs]
    named = headers.named_by_connection(lower)
    named = named if any(n == b"connection" and v not in (b"close", b"keep-alive") for n, v in lower) else frozenset()
    expected = [(n, v) for n, v in lower if headers.crosses(n) and n not in named]
    head = read_head(pairs)
    assert headers.decode(b"NATS/1.0\r\n" + head.lines) == expected
    assert head.size == sum(len(name) + len(value) for name, value in pairs)
    assert head.number == len(pairs)
    assert head.hosts == sum(name == b"host" for name, _ in lower)
    assert head.known.get(b"host") == headers.find(lower, b"host")


statuses = st.sampled_from([b"200", b"204", b"304", b"404", b"426", b"500", b"600", b"abc"])
replies = st.lists(
    st.tuples(st.sampled_from([b"content-type", b"content-length", b"x-a", b"set-cookie", b"connection"]), values),
    max_size=4,
)


@given(statuses, replies, st.binary(max_size=3), st.sampled_from(["GET", "HEAD", "POST"]))
def test_a_remembered_head_is_the_one_that_is_made_anew(status, pairs, body, method):
    heads = ResponseHeads()
    reply = Reply(headers.encode([(b"Mesh-Status", status), *pairs]), body)
    try:
        expected, out, content = response(reply, method)
    except BadReply:
        with pytest.raises(BadReply):
            heads.render(reply, method, b"id")
        return
    for _ in range(2):
        assert heads.render(reply, method, b"id") == (expected, lines_of(out), content)
    other = Reply(reply.block, body + b"more")
    known, out, content = response(other, method)
    assert heads.render(other, method, b"id") == (known, lines_of(out), content)


def test_what_is_remembered_is_bounded():
    heads = ResponseHeads()
    for number in range(3 * heads.MOST):
        block = headers.encode([(b"Mesh-Status", b"200"), (b"etag", b"%d" % number)])
        heads.render(Reply(block, b"x"), "GET", b"id")
    assert len(heads._known) <= heads.MOST
