"""The protocol's schema and test vectors, as a library in another language would use them."""

import json
from pathlib import Path

import jsonschema
import pytest

from mesh import headers, messages
from mesh.balancer import CallProgress, RetryBudget, RetryPolicy, RetryReason
from mesh.bus.bundles import BadBundle, unpack
from mesh.messages import Announcement, BadMessage, Heartbeat, Route
from mesh.registry import Change, Registry
from mesh.routes import Match, NotAllowed, RefusedTarget, RouteTable, parse_target
from tests.routes.build import content

FOLDER = Path(__file__).parents[2] / "docs" / "protocol"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())
SCHEMA = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema.json").read_text()))


def each(name):
    return pytest.mark.parametrize("vector", VECTORS[name], ids=lambda vector: vector.get("why", "")[:40])


@each("messages")
def test_messages(vector):
    data = json.dumps(vector["message"]).encode()
    assert SCHEMA.is_valid(vector["message"]) is not vector.get("breaks_schema", False)
    if vector["accepted"]:
        messages.decode(data, vector["service"], vector["instance"])
    else:
        with pytest.raises(BadMessage):
            messages.decode(data, vector["service"], vector["instance"])


@each("headers")
def test_headers(vector):
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in vector["pairs"]]
    assert headers.decode(vector["block"].encode("latin-1")) == pairs
    assert headers.decode(headers.encode(pairs)) == pairs


@each("repetition")
def test_repetition(vector):
    routes = [Route(method="*", path="/", endpoint="e", **declared) for declared in vector["routes"]]
    progress = CallProgress(attempts=1, losses=0, body_bytes=0, left_s=1.0)
    for method in vector["methods"]:
        policy = RetryPolicy.of(method, routes)
        allowed = {reason.value: policy.allows(reason, progress, RetryBudget(), 0.0) for reason in RetryReason}
        assert allowed == vector["after"], method


@each("bundles")
def test_bundles(vector):
    messages = [
        ([name.encode() for name in message["names"]], message["block"].encode(), message["payload"].encode())
        for message in vector["messages"]
    ]
    unpacked = []
    if vector.get("broken"):
        with pytest.raises(BadBundle):
            unpacked.extend(message for message in unpack(vector["bundle"].encode(), vector["names"]))
    else:
        unpacked += unpack(vector["bundle"].encode(), vector["names"])
    assert unpacked == messages


@each("params")
def test_params(vector):
    values = [tuple(pair) for pair in vector["values"]]
    assert headers.encode_params(values).decode() == vector["encoded"]
    assert headers.decode_params(vector["encoded"].encode()) == dict(values)


@each("targets")
def test_targets(vector):
    found = parse_target(vector["path"].encode("latin-1"))
    if "status" in vector:
        assert isinstance(found, RefusedTarget)
        assert found.status == vector["status"]
    else:
        assert list(found.segments) == vector["segments"]


@each("routes")
def test_routes(vector):
    table = RouteTable()
    for service, routes in vector["announced"].items():
        claimed = tuple(vector.get("claimed", {}).get(service, (0,)))
        table = table.replace(service, [content(*routes, claimed=claimed)], 0.0)
    for request in vector["requests"]:
        found = table.match(request["method"], parse_target(request["path"].encode()).segments)
        if "route" in request:
            assert isinstance(found, Match), request
            assert f"{found.route.method} {found.route.template}" == request["route"]
            assert list(found.values) == request["values"]
            assert found.route.service == request.get("service", found.route.service)
        elif request["status"] == 405:
            assert isinstance(found, NotAllowed), request
            assert sorted(found.allow) == request["allow"]
        else:
            assert not isinstance(found, Match | NotAllowed), request


@each("registry")
def test_registry(vector):
    registry, revision = Registry(), "A" * 22
    facts = {"version": "1.0.0", "started": "", "heartbeat_ms": vector["heartbeat_ms"], "revision": revision}
    for step in vector["steps"]:
        outcome = list(registry.expire(step["at"]))
        if "announce" in step:
            outcome += registry.apply(Announcement(name="s", id="i", **facts, **step["announce"]), step["at"])
        if "beat" in step:
            outcome += registry.apply(Heartbeat(name="s", id="i", revision=revision, **step["beat"]), step["at"])
        assert [change.kind for change in outcome if isinstance(change, Change)] == step["changes"], step
