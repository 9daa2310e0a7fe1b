import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import messages
from mesh.messages import Announcement, BadMessage, Endpoint, Heartbeat, Route

ENDPOINT = Endpoint(name="get_user", subject="mesh.req.users.get_user")
ROUTE = Route(method="GET", path="/users/{id}", endpoint="get_user")
REVISION = messages.revision_of("users", "1.0.0", (ENDPOINT,), (ROUTE,))


def announcement(**changes):
    fields = {
        "name": "users",
        "id": "I1",
        "version": "1.0.0",
        "endpoints": (ENDPOINT,),
        "routes": (ROUTE,),
        "seq": 1,
        "revision": REVISION,
        "state": "ready",
        "started": "2026-01-01T00:00:00Z",
        "heartbeat_ms": 2000,
    }
    return Announcement(**{**fields, **changes})


def heartbeat(**changes):
    fields = {"name": "users", "id": "I1", "seq": 2, "revision": REVISION, "state": "ready"}
    return Heartbeat(**{**fields, **changes})


@pytest.mark.parametrize("message", [announcement(), heartbeat()])
def test_round_trip(message):
    assert messages.decode(messages.encode(message), "users", "I1") == message


def test_the_type_is_on_the_wire():
    assert msgspec.json.decode(messages.encode(announcement()))["type"] == "mesh.v1.announcement"
    assert msgspec.json.decode(messages.encode(heartbeat()))["type"] == "mesh.v1.heartbeat"


def test_what_a_route_does_not_declare_is_not_on_the_wire():
    assert msgspec.json.decode(msgspec.json.encode(ROUTE)) == {
        "method": "GET",
        "path": "/users/{id}",
        "endpoint": "get_user",
    }
    assert msgspec.json.decode(msgspec.json.encode(ROUTE), type=Route).retry
    assert b'"retry":false' in msgspec.json.encode(msgspec.structs.replace(ROUTE, retry=False))


def test_unknown_fields_are_ignored():
    document = msgspec.json.decode(messages.encode(heartbeat()))
    assert messages.decode(msgspec.json.encode({**document, "future": [1]}), "users", "I1") == heartbeat()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"type": "mesh.v9.other"}, "type"),
        ({"seq": -1}, "seq"),
        ({"revision": "short"}, "revision"),
        ({"state": "happy"}, "state"),
        ({"heartbeat_ms": 100}, "heartbeat_ms"),
        ({"heartbeat_ms": 60_000}, "heartbeat_ms"),
        ({"name": "with.dot"}, "name"),
        ({"routes": [{"method": "get", "path": "/", "endpoint": "get_user"}]}, "method"),
        ({"routes": [{"method": "GET", "path": "/", "endpoint": "nobody"}]}, "no endpoint 'nobody'"),
        ({"endpoints": [{"name": "a", "subject": "s"}, {"name": "a", "subject": "s"}]}, "same name"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_its_reason(change, why):
    document = msgspec.json.decode(messages.encode(announcement()))
    with pytest.raises(BadMessage, match=why):
        messages.decode(msgspec.json.encode({**document, **change}), "users", "I1")


@pytest.mark.parametrize(("service", "instance"), [("wallet", "I1"), ("users", "I2")])
def test_nobody_speaks_for_another(service, instance):
    with pytest.raises(BadMessage, match=r"speaks for users\.I1"):
        messages.decode(messages.encode(heartbeat()), service, instance)


def test_sizes_are_bounded():
    with pytest.raises(BadMessage, match="at most 524288"):
        messages.encode(announcement(description="x" * messages.MAX_ANNOUNCEMENT))
    with pytest.raises(BadMessage, match="at most 524288"):
        messages.decode(b" " * (messages.MAX_ANNOUNCEMENT + 1), "users", "I1")
    padded = messages.encode(heartbeat())[:-1] + b',"x":"' + b"y" * messages.MAX_HEARTBEAT + b'"}'
    with pytest.raises(BadMessage, match="at most 384"):
        messages.decode(padded, "users", "I1")


def test_the_longest_heartbeat_fits():
    big = 2**53
    longest = heartbeat(name="n" * 64, id="i" * 64, seq=big, state="draining", inflight=big, capacity=big, lag_ms=big)
    assert len(messages.encode(longest)) <= messages.MAX_HEARTBEAT


def test_deep_nesting_is_an_error_like_any_other():
    with pytest.raises(BadMessage):
        messages.decode(b'{"type":"mesh.v1.heartbeat","x":' + b"[" * 100_000, "users", "I1")


@given(st.binary(max_size=200))
def test_bytes_from_anyone_are_refused_without_another_error(data):
    try:
        messages.decode(data, "users", "I1")
    except BadMessage:
        pass
    messages.decode_discover(data)
    messages.decode_cancel(data)


def test_revisions_depend_on_content_alone():
    same = messages.revision_of("users", "1.0.0", (ENDPOINT,), (ROUTE,))
    other = messages.revision_of("users", "1.0.1", (ENDPOINT,), (ROUTE,))
    assert same == REVISION
    assert other != REVISION
    assert len(REVISION) == 22


def test_discover_by_hand_needs_no_body():
    assert messages.decode_discover(b"").window_ms == 500
    assert messages.decode_discover(b"nonsense").window_ms == 500
    assert messages.decode_discover(messages.encode(messages.Discover(window_ms=7))).window_ms == 7
