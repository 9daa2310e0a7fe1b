"""Several requests in one message: each is a request of its own, whatever the others are."""

import asyncio

import pytest

from mesh import Service
from mesh.bus.bundles import APART, unpack
from mesh.testing import Mesh
from tests.conditions import eventually

BLOCK = b"NATS/1.0\r\nMesh-Deadline: 5000\r\nMesh-Request: GET %b\r\n%b\r\n"


def names() -> Service:
    service = Service("names")
    service.called, service.wake = [], asyncio.Event()

    @service.get("/hello/{name}")
    async def hello(name: str) -> str:
        service.called.append(name)
        return f"hello {name}"

    @service.get("/slow")
    async def slow() -> str:
        service.called.append("slow")
        await service.wake.wait()
        return "late"

    return service


def frame(token, name, endpoint=b"hello"):
    block = BLOCK % (b"/hello/" + name, b"Mesh-Params: name=" + name + b"\r\n")
    return b"%b %b %d %d\r\n%b\r\n" % (endpoint, token, len(block), len(block), block)


class Caller:
    """Sends bundles by hand and keeps what comes back, by token."""

    def __init__(self, bus, place):
        self.bus, self.place = bus, place
        self.inbox = bus.subjects.inbox("client", bus.instance, "byhand").encode() + b"."
        self.replies, self.messages = {}, 0

    async def start(self):
        await self.bus.subscribe(self.inbox.decode() + "*", self._take)
        await self.bus.flush()

    def _take(self, subject, reply, block, payload):
        self.messages += 1
        token = subject[len(self.inbox) :]
        for (name,), _, body in unpack(payload, 1) if token == b"+" else [([token], block, payload)]:
            self.replies[name] = body

    def send(self, payload, reply=b"first"):
        self.bus.publish(self.place + b"+", payload, b"", reply if b"." in reply or not reply else self.inbox + reply)


@pytest.fixture
async def service():
    return names()


@pytest.fixture
async def caller(nats_url, prefix, service):
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh, mesh.client() as bus:
        subject = bus.subjects.to("names", mesh.instances[0].id, "")
        caller = Caller(bus, subject.encode())
        await caller.start()
        yield caller


async def test_each_is_answered_and_the_answers_share_a_message(caller):
    caller.send(b"".join(frame(b"t%d" % number, b"n%d" % number) for number in range(5)))
    await eventually(lambda: len(caller.replies) == 5)
    assert caller.replies == {b"t%d" % n: b'"hello n%d"' % n for n in range(5)}
    assert caller.messages == 1


async def test_an_unknown_endpoint_is_its_own_error(caller):
    caller.send(frame(b"a", b"x") + frame(b"b", b"x", b"nobody") + frame(b"c", b"x", b"+") + frame(b"d", b"y"))
    await eventually(lambda: len(caller.replies) == 4)
    assert caller.replies[b"a"] == b'"hello x"'
    assert caller.replies[b"d"] == b'"hello y"'
    assert b"no endpoint" in caller.replies[b"b"]
    assert b"no endpoint" in caller.replies[b"c"]  # no bundle in a bundle


@pytest.mark.parametrize(
    "bad",
    [
        b"hello\r\n",
        b"hello t9 5 2\r\nab\r\n",
        frame(b"other.inbox", b"bad"),
        frame(b"*", b"bad"),
        frame(b"", b"bad"),
        frame(b"t\tx", b"bad"),
    ],
)
async def test_a_broken_frame_ends_its_bundle_and_nothing_else(caller, service, bad, caplog):
    caller.send(frame(b"t1", b"before") + bad + frame(b"t2", b"after"))
    await eventually(lambda: caller.replies.get(b"t1") == b'"hello before"')
    caller.send(frame(b"t3", b"later"))
    await eventually(lambda: b"t3" in caller.replies)
    assert service.called == ["before", "later"]
    assert "dropped the rest of a bundle" in caplog.text


@pytest.mark.parametrize("reply", [b"", b"%b.announce.names.x", b"$SYS.x"])
async def test_a_bundle_that_asks_for_its_answers_where_none_may_go_is_dropped(caller, service, prefix, reply, caplog):
    caller.send(frame(b"t1", b"never"), reply.replace(b"%b", prefix.encode()))
    caller.send(frame(b"t2", b"later"))
    await eventually(lambda: b"t2" in caller.replies)
    assert service.called == ["later"]
    assert "dropped a bundle" in caplog.text


async def test_without_end_they_take_few_lines(caller, caplog):
    """What somebody sends that cannot be served fills no log: the lines say how many there were."""
    for _ in range(100):
        caller.send(frame(b"t", b"never"), b"$SYS.x")
        caller.send(b"broken\r\n")
        caller.bus.publish(caller.place + b"hello", b"", BLOCK % (b"/hello/x", b""), b"$SYS.x")
    await caller.bus.flush()
    caller.send(frame(b"t1", b"after"))
    await eventually(lambda: b"t1" in caller.replies)
    lines = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(lines) == 9  # the 1st, 2nd, 4th ... 256th
    assert lines[-1].endswith("(256 so far)")


async def test_a_bundle_from_another_account_is_not_begun_and_told_so_once(caller, service, prefix):
    """NATS maps its reply subject, for one reply."""
    got = []
    await caller.bus.subscribe(f"_INBOX.{prefix}", lambda subject, reply, block, payload: got.append((block, payload)))
    caller.send(frame(b"t1", b"never") + frame(b"t2", b"never"), f"_INBOX.{prefix}".encode())
    caller.send(frame(b"t3", b"later"))
    await eventually(lambda: b"t3" in caller.replies and got)
    assert service.called == ["later"]
    assert got == [(APART, b"")]


async def test_one_that_is_slow_does_not_hold_up_the_others(caller, service):
    caller.send(frame(b"t1", b"", b"slow") + frame(b"t2", b"quick"))
    await eventually(lambda: b"t2" in caller.replies)
    assert service.called == ["slow", "quick"]
    assert b"t1" not in caller.replies
    service.wake.set()
    await eventually(lambda: caller.replies.get(b"t1") == b'"late"')
