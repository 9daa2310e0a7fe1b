"""Documents that a hostile client may publish or answer, field by field: valid, extreme, or of any other kind."""

from __future__ import annotations

import base64
import json

from hypothesis import strategies as st

REVISION = base64.urlsafe_b64encode(bytes(16)).rstrip(b"=").decode()
EVIL = "evil\x1b[2J\x07\x9b31m\u202etxt\r\n"

texts = st.sampled_from(["", "x", "e", "a.b", "e\n", EVIL, "x" * 3000, "\ud7ff\U0010ffff", "\0"]) | st.text(max_size=9)
SMALL = [0, 1, 5, 7, 250, 30_000, 3_600_000]
LARGE = [3_600_001, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 10**300, 10**4000]
numbers = st.sampled_from(SMALL) | st.sampled_from([*SMALL, *LARGE, -1, 1e300, 0.5])
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["users", "games", "gateway", "client", "e", "e\n", "x" * 64, "x" * 65]) | texts
states = st.sampled_from(["starting", "ready", "unready", "draining", "stopped"])
times = st.sampled_from(
    [
        "2026-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999999-23:59",
        "2026-01-01",
        "x",
        EVIL,
    ]
)
metadata = st.none() | st.dictionaries(texts, texts, max_size=3)
GOOD_PATHS = ["/", "/users/{id}", "/a/{b:path}"]
paths = st.sampled_from([*GOOD_PATHS, "/{", "no-slash", "/" + EVIL, "/health"]) | texts.map("/".__add__)
methods = st.sampled_from(["GET", "PUT", "*", "PUT\n", "get", "", "A" * 32])


def document(**fields: st.SearchStrategy) -> st.SearchStrategy[dict]:
    """Objects with these fields; now and then one is missing, or of any other kind."""
    good, strange = st.fixed_dictionaries(fields), {name: value | junk for name, value in fields.items()}
    mutated = st.tuples(
        good, st.fixed_dictionaries({}, optional=strange), st.sets(st.sampled_from(sorted(fields)), max_size=1)
    )
    return (
        good | good | mutated.map(lambda parts: {k: v for k, v in (parts[0] | parts[1]).items() if k not in parts[2]})
    )


endpoints = st.lists(
    document(name=st.sampled_from(["e", "f", "e\n"]), subject=texts, queue_group=texts, metadata=metadata), max_size=3
)
routes = st.lists(
    document(
        method=methods,
        path=paths,
        endpoint=st.sampled_from(["e", "f", "e\n"]),
        summary=texts,
        tags=st.lists(texts, max_size=2),
        auth=texts,
        timeout_ms=numbers,
        try_timeout_ms=numbers,
        idempotent=st.booleans(),
        deprecated=st.booleans(),
        stream=st.sampled_from(["", "response", "websocket", "x"]),
    ),
    max_size=3,
)
PARTY = {"name": st.just("users"), "id": st.sampled_from(["a", "b"])}
wild_announcements = document(
    type=st.just("mesh.v1.announcement"),
    **PARTY,
    version=texts,
    description=texts,
    metadata=metadata,
    endpoints=endpoints,
    routes=routes,
    seq=numbers,
    revision=st.sampled_from([REVISION, "x" * 22]),
    state=states,
    started=times,
    heartbeat_ms=st.sampled_from([250, 2000, 30_000]) | numbers,
    bundles=st.booleans(),
)
small = st.sampled_from(SMALL)
accepted = st.fixed_dictionaries(
    {
        "type": st.just("mesh.v1.announcement"),
        **PARTY,
        "version": texts,
        "description": texts,
        "metadata": metadata,
        "endpoints": st.fixed_dictionaries({"name": st.just("e"), "subject": texts, "metadata": metadata}).map(
            lambda e: [e]
        ),
        "routes": st.lists(
            st.fixed_dictionaries(
                {
                    "method": st.sampled_from(["GET", "PUT", "*", "A" * 32]),
                    "path": st.sampled_from(GOOD_PATHS) | paths,
                    "endpoint": st.just("e"),
                    "summary": texts,
                    "timeout_ms": small,
                    "try_timeout_ms": small,
                }
            ),
            max_size=3,
        ),
        "seq": small,
        "revision": st.sampled_from([REVISION, "x" * 22]),
        "state": states,
        "started": times,
        "heartbeat_ms": st.sampled_from([250, 2000, 30_000]),
    }
)
"""Announcements that follow the protocol, whatever their texts are."""
announcements = accepted | wild_announcements
heartbeats = document(
    type=st.just("mesh.v1.heartbeat"),
    **PARTY,
    seq=numbers,
    revision=st.sampled_from([REVISION, "x" * 22]),
    state=states,
    inflight=numbers,
    capacity=numbers,
    lag_ms=numbers,
)
discovers = document(type=st.just("mesh.v1.discover"), window_ms=numbers)
cancels = document(type=st.just("mesh.v1.cancel"), reply=texts)
SUBJECTS = ["jokes.e", "mesh.ctl.users.drain", "mesh.announce.a.b", "$SYS.x", "x" * 5000, "s\n"]
http = st.fixed_dictionaries(
    {},
    optional={"http.path": paths, "http.method": methods, "http.timeout_ms": texts | numbers.map(str), "x": texts},
)
answers = document(
    type=texts,
    name=st.sampled_from(["joker", "users", "gateway", EVIL]),
    id=st.sampled_from(["a", "j", EVIL]),
    version=texts,
    description=texts,
    started=times,
    metadata=metadata | st.just({"mesh.prefix": "mesh", "mesh.contradicted": EVIL}),
    endpoints=st.lists(
        document(
            name=st.sampled_from(["e", "f", "e\n"]) | texts,
            subject=st.sampled_from(SUBJECTS) | texts,
            queue_group=texts,
            metadata=http,
            num_requests=numbers,
            num_errors=numbers,
            last_error=texts,
            processing_time=numbers,
            average_processing_time=numbers,
            data=junk,
        ),
        max_size=3,
    ),
)

sound_answers = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["joker", "users", "gateway"]),
        "id": st.sampled_from(["a", "j"]),
        "metadata": metadata,
        "endpoints": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["e", "f"]),
                    "subject": st.sampled_from(["jokes.e", "jokes.f"]) | st.sampled_from(SUBJECTS),
                    "metadata": st.fixed_dictionaries(
                        {"http.path": st.sampled_from(GOOD_PATHS), "http.summary": texts}
                    ),
                }
            ),
            max_size=3,
        ),
    }
)
"""Answers that make routes, as far as those lead to no forbidden subject."""
answers = sound_answers | answers


def as_bytes(documents: st.SearchStrategy) -> st.SearchStrategy[bytes]:
    """As they are on the wire."""
    return documents.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace"))
