import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import headers

names = st.from_regex(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
values = st.binary(max_size=60).filter(lambda v: not set(v) & set(b"\r\n\0") and v == v.strip(b" \t"))


@given(st.lists(st.tuples(names, values)))
def test_pairs_survive_the_bus(pairs):
    assert headers.decode(headers.encode(pairs)) == pairs


@given(st.binary(max_size=300))
def test_a_block_from_anyone_is_read_without_raising(block):
    for name, value in headers.decode(block):
        assert name
        assert b"\r\n" not in value


def test_repeats_keep_their_order():
    pairs = [(b"set-cookie", b"a=1"), (b"x", b"y"), (b"set-cookie", b"b=2")]
    assert headers.decode(headers.encode(pairs)) == pairs


def test_latin_1_travels_as_utf_8():
    block = headers.encode([(b"x-name", b"caf\xe9")])
    assert "café".encode() in block
    assert headers.decode(block) == [(b"x-name", b"caf\xe9")]


def test_text_beyond_latin_1_from_other_clients_is_left_alone():
    assert headers.decode("NATS/1.0\r\nx: €\r\n\r\n".encode()) == [(b"x", "€".encode())]


@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"a\r\n", b"\xe9"])
def test_a_name_must_be_a_token(name):
    with pytest.raises(headers.BadHeader, match="token"):
        headers.encode([(name, b"v")])


@pytest.mark.parametrize("value", [b"a\rb", b"a\nMesh-Status: 200", b"\0"])
def test_a_value_cannot_break_the_framing(value):
    with pytest.raises(headers.BadHeader, match="line break"):
        headers.encode([(b"x", value)])


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authorization",
        b"mesh-identity",
        b"mesh_identity",
        b"mesh-request",
        b"nats-service-error",
        b"nats_msg_id",
        b"status",
    ],
)
def test_what_never_crosses(name):
    assert not headers.crosses(name)


@pytest.mark.parametrize("name", [b"cookie", b"authorization", b"range", b"etag", b"status-code", b"x-mesh-a"])
def test_what_crosses(name):
    assert headers.crosses(name)


def test_names_that_connection_lists_are_hop_by_hop():
    assert headers.named_by_connection([(b"connection", b"close, X-Once"), (b"x-once", b"1")]) == {b"close", b"x-once"}


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), unique_by=lambda p: p[0]))
def test_params_survive(params):
    try:
        encoded = headers.encode_params(params)
    except UnicodeEncodeError:
        return  # lone surrogates have no UTF-8 form
    assert b"+" not in encoded
    assert encoded.isascii()
    assert headers.decode_params(encoded) == dict(params)


def test_a_param_without_equals_is_refused():
    with pytest.raises(ValueError, match="no '='"):
        headers.decode_params(b"abc")


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"NATS/1.0\r\nMesh-Status: 201\r\n\r\n", 201),
        (b"NATS/1.0\r\nmesh-status: 599\r\n\r\n", 599),
        (b"NATS/1.0\r\nMesh-Status: 199\r\n\r\n", None),
        (b"NATS/1.0\r\nMesh-Status: 600\r\n\r\n", None),
        (b"NATS/1.0\r\nMesh-Status: 2x0\r\n\r\n", None),
        (b"NATS/1.0\r\nMesh-Status: 20\r\n\r\n", None),
        (b"NATS/1.0\r\nMesh-Status: \r\n\r\n", None),
        (b"NATS/1.0\r\nNats-Service-Error-Code: 404\r\n\r\n", 404),
        (b"NATS/1.0\r\nNats-Service-Error-Code: 12\r\n\r\n", 500),
        (b"", 200),  # a foreign service need not say anything
    ],
)
def test_the_status_of_a_reply(block, status):
    assert headers.status_of(headers.decode(block)) == status


@pytest.mark.parametrize(("text", "good"), [(b"a-1._", True), (b"", False), (b"a b", False), (b"x" * 129, False)])
def test_request_ids(text, good):
    assert headers.is_request_id(text) is good


MESH = [b"Mesh-Deadline", b"Mesh-Sent", b"Mesh-Params", b"Mesh-Request", b"Mesh-Credit", b"Mesh-Id", b"mesh-id", b"X"]
FIELDS = [headers.DEADLINE, headers.SENT, headers.PARAMS, headers.REQUEST, headers.CREDIT, headers.ID]
texts = st.sampled_from([b"1", b"", b" 7 ", b"GET /a", b"GET /a b", b"a=1&b=2", b"x\ty", b"caf\xc3\xa9", b"-"])


@given(st.lists(st.tuples(st.sampled_from(MESH), texts), max_size=9), st.booleans())
def test_an_envelope_says_what_the_decoded_block_says(pairs, in_order):
    if in_order:
        pairs.sort(key=lambda pair: MESH.index(pair[0]))
    block = b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in pairs) + b"\r\n"
    envelope = headers.open_envelope(block)
    if envelope is not None:
        decoded = headers.decode(block)
        for name, value in zip(FIELDS, envelope, strict=True):
            assert value is None or value == headers.find(decoded, name)


def test_the_usual_request_has_an_envelope():
    block = b"NATS/1.0\r\nMesh-Deadline: 10\r\nMesh-Sent: 5\r\nMesh-Params: a=1\r\nMesh-Request: GET /a/1\r\n"
    block += b"Mesh-Credit: 9\r\nMesh-Id: x\r\nhost: y\r\n\r\n"
    assert headers.open_envelope(block) == (b"10", b"5", b"a=1", b"GET /a/1", b"9", b"x")


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"))))
def test_path_parameters_survive_whatever_they_hold(params):
    assert headers.decode_params(headers.encode_params(params.items())) == params


LINES = st.lists(
    st.tuples(st.sampled_from([b"a", b"A", b"b", b"xa", b"a "]), st.sampled_from([b": ", b":", b":  "]), texts),
    max_size=6,
)


@given(LINES, st.sampled_from([b"\r\n\r\n", b"\r\n", b""]))
def test_a_glance_says_what_the_decoded_block_says_or_nothing(lines, end):
    block = b"NATS/1.0" + b"".join(b"\r\n%b%b%b" % line for line in lines) + end
    found = headers.glance(block, b"a")
    assert found is None or found == headers.find(headers.decode(block), b"a")


def test_a_glance_finds_what_our_own_callers_write():
    block = b"NATS/1.0\r\nMesh-Id: 1\r\ncontent-type: application/json\r\ncookie: a=b\r\n\r\n"
    assert headers.glance(block, b"content-type") == b"application/json"
    assert headers.glance(block, b"cookie") == b"a=b"
    assert headers.glance(block, b"accept") is None
