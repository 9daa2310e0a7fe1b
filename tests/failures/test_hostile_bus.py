"""A client of NATS that sends what no client should: gateway, services and `mesh-tail` work on, and show the truth."""

import asyncio
import json
import logging
import re
import signal
from functools import partial

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh import Service
from mesh.messages import Announcement, Discover, Endpoint, Route, encode, revision_of
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import NatsWire, hpub, pub
from tests.processes import run

WITHIN_S = {True: 5.0, False: 20.0}
"""By when everything has to work again: when the suite runs in full, and beside other tests on a busy machine."""
ID = "A" * 22


def good(name="good", path="/alive") -> Service:
    service = Service(name)

    @service.get(path)
    async def alive() -> str:
        return "yes"

    return service


def announcement(name="zevil", id=ID, paths=("/evil",), **fields):
    endpoints = (Endpoint(name="e", subject="x.y"),)
    routes = tuple(Route(method="GET", path=path, endpoint="e") for path in paths)
    facts = {
        "version": "1.0.0",
        "endpoints": endpoints,
        "routes": routes,
        "seq": 1,
        "revision": revision_of(name, "1.0.0", endpoints, routes),
        "state": "ready",
        "started": "2025-01-01T00:00:00Z",
        "heartbeat_ms": 30_000,
    }
    return Announcement(name=name, id=id, **{**facts, **fields})


def control_messages():
    """Payloads that are no announcement and no heartbeat, or one of somebody else."""
    valid = json.loads(encode(announcement()))
    beat = {"type": "mesh.v1.heartbeat", "name": "zevil", "id": ID, "seq": 2, "revision": "x" * 22, "state": "ready"}
    yield from (b"", b"\0", b"\xff\xfe", b"{", b"[]", b"null", b"7", b'"x"', b"\xef\xbb\xbf{}", b"NaN", b"{}" * 2)
    yield b"[" * 200_000
    yield b'{"a":' * 100_000
    yield b'{"type":"mesh.v1.announcement","metadata":' + b'{"a":' * 100_000
    yield b'{"type":"mesh.v1.announcement","unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield b" " * (1 << 20)
    yield b'{"type":"mesh.v1.announcement","description":"' + b"x" * 1_000_000 + b'"}'
    yield b'{"type":"mesh.v1.heartbeat","name":"zevil","seq":1' + b"0" * 5000 + b"}"
    for document in (valid, beat):
        for field in document:
            for value in (None, True, -1, 1e300, 1 << 70, "\0", "\ud7ff" * 70, [], [[]], {}, {"a": 1}):
                if value not in ({}, [], None, True) or field not in ("metadata", "endpoints", "routes", "description"):
                    yield json.dumps({**document, field: value}).encode()
    yield encode(announcement(name="good"))  # on a subject of another service
    yield encode(announcement(id="B" * 22))
    two = announcement(endpoints=(Endpoint(name="e", subject="a"), Endpoint(name="e", subject="b")))
    yield encode(two)
    yield encode(announcement(routes=(Route(method="GET", path="/x", endpoint="missing"),)))


BLOCKS = [
    b"NATS/1.0\r\n",
    b"N",
    b"\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 999999999999 what\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\xff\xfe: x\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nMesh-Status: 200",
    b"NATS/1.0\r\nMesh-Request: \r\n\r\n",
    b"NATS/1.0\r\nMesh-Request: GET\r\nMesh-Params: %zz&&=\r\n\r\n",
    b"NATS/1.0\r\nMesh-Deadline: -1\r\nMesh-Sent: 99999999999999999999\r\nMesh-Credit: -5\r\n\r\n",
    b"NATS/1.0\r\nMesh-Deadline: 999999999\r\nMesh-Id: \xff\xff\r\ntraceparent: x\r\n\r\n",
    b"NATS/1.0\r\nMesh-Body: stream\r\nMesh-Credit: 65536\r\n\r\n",
    b"NATS/1.0\r\nMesh-Body: websocket\r\n\r\n",
    b"NATS/1.0\r\nMesh-Frame: 1 data\r\nMesh-Frame: credit 99\r\n\r\n",
    b"NATS/1.0\r\nMesh-Frame: credit 999999999999999999\r\n\r\n",
    b"NATS/1.0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
]

REPLIES = [
    b"",
    b"x",
    b".",
    b"a..b",
    b"*",
    b">",
    b"$SYS.REQ.x",
    b"$JS.API.STREAM.NAMES",
    b"_INBOX",
    b"_INBOX.x",
    b"\xff\xfe",
    b"re\x0bply",
    b"re\x0cply",
    b"re\0ply",
    b"PREFIX",
    b"PREFIX.inbox.x",
    b"PREFIX.inbox.",
    b"PREFIX.announce.good.INSTANCE",
    b"PREFIX.heartbeat.good.INSTANCE",
    b"PREFIX.ctl.good.drain",
    b"r" * 3000,
]

# Where gateway, services and watchers listen; drain is left out, since whoever may send it may end a service.
SUBJECTS = [
    b"PREFIX.announce.zevil.%b" % ID.encode(),
    b"PREFIX.announce.good.INSTANCE",
    b"PREFIX.heartbeat.zevil.%b" % ID.encode(),
    b"PREFIX.heartbeat.good.INSTANCE",
    b"PREFIX.discover",
    b"PREFIX.discover.good",
    b"PREFIX.discover.good.INSTANCE",
    b"PREFIX.req.good.alive",
    b"PREFIX.to.good.INSTANCE.alive",
    b"PREFIX.to.good.INSTANCE.missing",
    b"PREFIX.ctl.good.cancel",
    b"PREFIX.ctl.good.INSTANCE.cancel",
    b"PREFIX.ctl.good.unheard-of",
    b"PREFIX.stream.good.INSTANCE.x",
    b"INBOX.x",
    b"INBOX.000000000000",
    b"$SRV.PING",
    b"$SRV.INFO.good",
    b"$SRV.STATS.good.INSTANCE",
]

ODD_SUBJECTS = [
    b"PREFIX.announce.%b.%b" % pair
    for pair in (
        (b"\xff\xfe", b"x"),
        (b"go\x0bod", b"x"),
        (b"good", b"x\x0c"),
        (b"", b""),
        (b"good", b""),
        (b"*", b">"),
        (b"g\0od", b"\0"),
        (b"good", b"INSTANCE."),
        (b"x" * 1900, b"y"),
        (b"\r", b"x"),
        ("\N{SNOWMAN}".encode(), "\u202e".encode()),
    )
] + [
    b"PREFIX.to.good.INSTANCE.\xff",
    b"PREFIX.to.good.INSTANCE.\x0b",
    b"INBOX.\xff\xfe",
    b"INBOX.\x0b",
    b"$SRV.PING.\x0b",
]


@pytest.fixture(params=["auto", "plain"])
async def mesh(request, nats_url, prefix, caplog):
    """A mesh; at its end nothing in it has failed in a way that nobody expected."""
    beats = {"heartbeat_ms": 2000}  # as in production: in a slow moment of the tests nobody is to be given up
    async with Mesh(good(), nats_url=nats_url, prefix=prefix, bus={"lane": request.param}, settings=beats) as mesh:
        yield mesh
    wrong = [r for r in caplog.records if r.levelno >= logging.ERROR and not r.name.startswith("nats.")]
    assert not wrong, [record.getMessage() for record in wrong]


@pytest.fixture
async def tail(mesh, tmp_path):
    settings = mesh.bus_settings
    env = {"NATS_URL": settings.servers[0], "MESH_PREFIX": settings.prefix, "MESH_LANE": settings.lane}
    async with run("tail", "--json", cwd=tmp_path, env=env) as process:
        await process.line('"service":"good"')
        yield process


@pytest.fixture
async def attack(mesh, nats_url, prefix):
    """``await attack(*commands)`` sends them, each from a new client if the server closed the last one for it."""
    names = {
        b"PREFIX": prefix.encode(),
        b"INSTANCE": mesh.instances[0].id.encode(),
        b"INBOX": mesh.gateway.bus._inbox.encode(),
    }

    async def send(*commands):
        wire = None
        try:
            for command in commands:
                if wire is None or wire.errors or wire.closed:
                    if wire is not None:
                        await wire.__aexit__()
                    wire = await NatsWire(nats_url).__aenter__()
                for name, value in names.items():
                    command = command.replace(name, value)
                await wire.send(command)
        finally:
            if wire is not None:
                await wire.__aexit__()

    return send


@pytest.fixture
def check(mesh, tail, full):
    """``await check()``: everything works within `WITHIN_S`, what was there and what is new."""
    return partial(_check, mesh, tail, WITHIN_S[full])


async def _check(mesh, tail, within_s):
    number = len(mesh.instances)
    path = f"/late/{number}"
    plain = mesh.bus_settings.lane == "plain"
    async with asyncio.timeout(within_s):
        while True:
            try:
                if (await mesh.http.get("/alive", timeout=1)).json() == "yes" and mesh.gateway.health.status() == "ok":
                    break
            except (httpx.HTTPError, ValueError):
                pass
            await asyncio.sleep(0.01)
        late = await mesh.start(good(f"late{number}", path))
        assert (await mesh.http.get(path)).json() == "yes"
        await tail.line(f'"kind":"(joined|changed|recovered)".*"instance":"{late.id}"')
        known = await mesh.http.get("/health")
        assert known.json()["services"]["good"]["ready"] == 1
    shown = [json.loads(line) for line in tail.lines if line.startswith("{")]  # the rest is on standard error
    assert plain or not [line for line in shown if line["kind"] in ("lost", "left")]
    assert tail.child.returncode is None


async def test_control_messages_that_are_none(mesh, tail, attack, check):
    before = mesh.gateway.watcher.refused
    payloads = list(control_messages())
    await attack(
        *(pub(subject, payload) for payload in payloads for subject in SUBJECTS[:4:2] if len(payload) < 4096),
        *(pub(SUBJECTS[0], payload) for payload in payloads if len(payload) >= 4096),
        *(pub(SUBJECTS[2], payload) for payload in payloads if len(payload) >= 4096),
    )
    await check()
    assert mesh.gateway.watcher.refused - before > len(payloads)
    # zevil: texts and numbers of the right type may be of any kind.
    assert set(mesh.gateway.watcher.registry.services()) <= {"gateway", "good", "late1", "zevil"}


async def test_subjects_headers_and_replies_that_disconnect_receivers(mesh, tail, attack, check):
    lost = []
    for bus in (mesh.gateway.bus, mesh.instances[0].bus):
        bus.on_connection(lambda connected: connected or lost.append(connected))
    await attack(
        *(pub(subject, b"x") for subject in ODD_SUBJECTS),
        *(pub(subject, b"{}", reply) for subject in SUBJECTS for reply in REPLIES),
        *(hpub(subject, block) for subject in SUBJECTS for block in BLOCKS),
    )
    await check()
    assert mesh.bus_settings.lane == "plain" or lost == []  # nats-py's own reader gives up, and is replaced


async def test_announcements_of_hostile_content(mesh, tail, attack, check):
    """Well-formed, and of its own service: it is shown as it is, serves nobody else's routes, and breaks nothing."""
    text = "\x1b[2J\u202e\0\n" + "x" * 1000
    hostile = [
        announcement(
            paths=("no-slash", "/{", "/}", "/{}", "/{a}{b}", "/{a:path}/b", "/{a:int}", "//", "/%zz", "/%2e%2e")
        ),
        announcement(paths=("/{a}/{a}", "/\0", "/\r\nx", "/é", "/" + "x/" * 1000, "/*", "/?x=1", "/#x")),
        announcement(paths=("/health", "/livez/x", "/readyz", "/v1/metadata", "/alive")),
        announcement(version=text, description=text, started=text, metadata={text: text}),
        announcement(paths=tuple(f"/many/{i}/{{p}}" for i in range(4000))),
        announcement(metadata={str(i): "x" * 100 for i in range(3000)}),
        announcement(endpoints=(Endpoint(name="e", subject=text, queue_group=text, metadata={text: text}),)),
        announcement(seq=(1 << 63) - 1),
        announcement(seq=1 << 64),
    ]
    messages = []
    for number, message in enumerate(hostile):
        id = f"hostile{number}"
        fields = {name: getattr(message, name) for name in message.__struct_fields__ if name not in ("name", "id")}
        data = json.loads(encode(Announcement(name="zevil", id=id, **fields)))
        messages.append(pub(b"PREFIX.announce.zevil.%b" % id.encode(), json.dumps(data).encode()))
    await attack(*messages)
    await check()
    assert (await mesh.http.get("/many/7/x")).status_code == 503  # announced, and nobody is there
    assert (await mesh.http.get("/health")).json()["status"] == "ok"
    async with mesh.ops() as ops:
        for page in ("/metrics", "/api/routes", "/api/instances", "/api/services", "/api/conflicts", "/api/gateway"):
            assert (await ops.get(page)).status_code == 200, page


async def test_a_reply_subject_of_few_tokens_breaks_nobody_elses_stream(nats_url, prefix):
    """Who gives such a subject and goes away must not take the streams of others with him."""
    ticking = Service("ticking")

    @ticking.get("/ticks")
    async def ticks():
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.05)

    @ticking.post("/eat")
    async def eat(body: bytes) -> int:
        return len(body)

    async with Mesh(ticking, nats_url=nats_url, prefix=prefix) as mesh, NatsWire(nats_url) as wire:
        instance = mesh.instances[0]
        async with mesh.http.stream("GET", "/ticks") as response:
            pieces = response.aiter_raw()
            await anext(pieces)
            takes = b"NATS/1.0\r\nMesh-Request: GET /ticks\r\nMesh-Credit: 1000000\r\n\r\n"
            gives = b"NATS/1.0\r\nMesh-Request: POST /eat\r\nMesh-Body: stream\r\nMesh-Credit: 1000\r\n\r\n"
            for reply in (b"x", b"_INBOX.x", b"%b.inbox.x" % prefix.encode(), b"%b.inbox.a.b" % prefix.encode()):
                for name, block in ((b"ticks", takes), (b"eat", gives)):
                    await wire.send(hpub(b"%b.req.ticking.%b" % (prefix.encode(), name), block, b"", reply))
            # All of them are found out, and only they: by the first frame, or by the probe of each second.
            await eventually(lambda: len(instance.streams) == 1, 10)
            for _ in range(50):
                await asyncio.wait_for(anext(pieces), 5)
        await eventually(lambda: len(instance.streams) == 0, 5)


def asking(bus, window_ms):
    bus.publish(bus.address(bus.subjects.discover("good")), encode(Discover(window_ms=window_ms)))


async def test_a_long_discover_window_makes_nobody_deaf(nats_url, prefix):
    """An instance answers each discover message in the window of that message."""
    async with Mesh(good(), nats_url=nats_url, prefix=prefix) as mesh, mesh.client("thief") as bus:
        heard = []
        await bus.subscribe(bus.subjects.announce("good", mesh.instances[0].id), lambda *message: heard.append(message))
        await bus.flush()
        for _ in range(3):
            asking(bus, 60_000)
            asking(bus, 100)
            await eventually(lambda: heard, 2)
            heard.clear()
            await asyncio.sleep(0.15)
            assert len(heard) <= 1


async def test_many_who_ask_at_once_do_not_bring_the_answer_forward(nats_url, prefix, monkeypatch):
    """A hundred gateways that connect again ask at once: the answers stay spread over the window."""
    async with Mesh(good(), nats_url=nats_url, prefix=prefix) as mesh, mesh.client() as bus:
        heard, moments = [], iter([0.6, *[0.01] * 100])
        await bus.subscribe(bus.subjects.announce("good", mesh.instances[0].id), lambda *message: heard.append(message))
        await bus.flush()
        monkeypatch.setattr("mesh.announcer.random.uniform", lambda low, high: high if low else next(moments))
        for _ in range(20):
            asking(bus, 700)
        await bus.flush()
        await asyncio.sleep(0.3)
        assert heard == []
        await eventually(lambda: len(heard) == 1, 2)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(json.loads(encode(announcement())))
mutated = st.dictionaries(st.sampled_from(FIELDS), junk, max_size=3).map(
    lambda changes: json.dumps({**json.loads(encode(announcement(name="zfuzz"))), **changes}).encode()
)
odd_paths = st.lists(st.text(min_size=1, max_size=12).map(lambda text: "/" + text), min_size=1, max_size=4).map(
    lambda paths: encode(announcement(name="zfuzz", paths=tuple(paths)))
)
payloads = st.binary(max_size=64) | junk.map(lambda value: json.dumps(value).encode()) | mutated | odd_paths
blocks = st.sampled_from(BLOCKS[:-1]) | st.binary(min_size=1, max_size=64)
fuzz_subjects = st.sampled_from([*SUBJECTS, b"PREFIX.announce.zfuzz.%b" % ID.encode()])
tokens = st.binary(max_size=12).filter(lambda data: not re.search(rb"[\r\n\t ]", data))
hits = st.builds(pub, fuzz_subjects, payloads, st.sampled_from(REPLIES)) | st.builds(
    hpub, fuzz_subjects | tokens.map(lambda token: b"PREFIX.announce.good." + token), blocks, payloads
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(commands=st.lists(hits, min_size=5, max_size=40))
@pytest.mark.parametrize("mesh", ["auto"], indirect=True)  # plain nats-py needs seconds to recover from some
async def test_generated_garbage(mesh, attack, commands):
    bus = mesh.gateway.bus
    await attack(*commands)
    await bus.flush()
    assert (await mesh.http.get("/alive", timeout=1)).json() == "yes"
    assert bus.statistics()["reconnects"] == 0


async def test_tail_ends_well_after_all_that(mesh, tail, attack, check):
    await attack(*(hpub(b"PREFIX.announce.good.x", block) for block in BLOCKS))
    await check()
    assert await tail.end(signal.SIGINT) == 0
