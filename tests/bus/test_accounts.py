"""Services in one NATS account, their gateway in another: what is imported and exported, under load."""

import asyncio
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mesh import Service
from mesh.bus.bundles import REFUSAL, unpack
from mesh.embedded import NatsServer
from mesh.errors import DeadlineExceeded
from mesh.testing import Mesh
from tests.bus.parts import OK, bus_on
from tests.bus.test_bundles import BLOCK
from tests.conditions import eventually

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "running.md"


def accounts():
    """The server configuration that the page on running shows; services log in as ``svc``, gateways as ``gw``."""
    (text,) = re.findall(r"```\n(accounts \{.*?)```", PAGE.read_text(), re.DOTALL)
    for user in ("svc", "gw"):
        text = text.replace('nkey: "U..."', f"user: {user}, password: p", 1)
    return text


def kit():
    service = Service("kit")

    @service.get("/kit/{number}")
    async def get(number: int) -> int:
        return number

    @service.get("/lines/{count}")
    async def lines(count: int):
        for number in range(count):
            yield f"{number}\n".encode()

    return service


async def test_parallel_requests_to_a_service_of_another_account(caplog):
    caplog.set_level(logging.INFO, logger="mesh.bus")
    async with (
        NatsServer(jetstream=False, extra_config=accounts()) as server,
        Mesh(nats_url=server.url.replace("//", "//gw:p@")) as mesh,
    ):
        mesh.bus_settings = replace(mesh.bus_settings, servers=(server.url.replace("//", "//svc:p@"),))
        await mesh.start(kit())
        gateway = mesh.gateway.bus
        assert gateway._sends_bundles

        async def client(number):
            for _ in range(20):
                answer = await mesh.http.get(f"/kit/{number}")
                assert (answer.status_code, answer.text) == (200, str(number))

        async with asyncio.timeout(30):
            await asyncio.gather(*map(client, range(32)))
        assert gateway._bundle_peers.refusing, "no bundle was tried"
        assert caplog.text.count("no bundles to mesh.to.kit.") == 1
        assert (await mesh.http.get("/lines/300")).text.splitlines() == [str(number) for number in range(300)]


@pytest.fixture
async def pair(nats_url, prefix):
    async with bus_on(nats_url, prefix=prefix) as caller, bus_on(nats_url, prefix=prefix) as callee:
        got = []

        def receive(subject, reply, block, payload):
            got.append((subject, reply, block, payload))
            if subject.endswith(b".+"):
                if callee.answers:
                    callee.publish(reply, b"", REFUSAL)
            else:
                callee.publish(reply, payload, OK)

        callee.answers = True
        await callee.subscribe(f"{prefix}.to.users.*.*", receive)
        await callee.flush()
        yield caller, callee, got, f"{prefix}.to.users.I1.".encode()


def send(bus, place, body, endings, timeout=5):
    return bus.send(
        place + b"get", body, BLOCK, timeout, lambda ending: endings.append((body, ending)), bundle_prefix=place
    )


async def test_a_refused_bundle_is_sent_again_one_by_one_and_is_the_last(pair):
    caller, _, got, place = pair
    for attempt in (1, 2):
        got.clear()
        endings = []
        for number in range(3):
            send(caller, place, b"%d" % number, endings)
        await eventually(lambda endings=endings: len(endings) == 3)
        assert sorted((body, ending.payload) for body, ending in endings) == [(b"%d" % n, b"%d" % n) for n in range(3)]
        subjects = [subject for subject, *_ in got]
        assert subjects == ([place + b"+"] if attempt == 1 else []) + [place + b"get"] * 3
        assert all(block == BLOCK for subject, _, block, _ in got if subject.endswith(b"get"))
    assert len(caller.requests) == 0


async def test_who_has_ended_is_not_sent_again(pair):
    caller, callee, got, place = pair
    callee.answers = False
    endings = []
    first, *_ = [send(caller, place, b"%d" % number, endings) for number in range(3)]
    await eventually(lambda: got)
    caller.requests.close(first)  # its client went away: the refusal comes to its token all the same
    ((_, reply, _, payload),) = got
    assert len(list(unpack(payload, 2))) == 3
    callee.publish(reply, b"", REFUSAL)
    await eventually(lambda: len(endings) == 2)
    assert sorted(body for body, _ in endings) == [b"1", b"2"]
    assert len(got) == 3


async def test_a_refused_bundle_that_cannot_be_sent_again_ends_its_requests(pair):
    caller, callee, got, place = pair
    callee.answers = False
    endings = []
    pending = [send(caller, place, b"%d" % number, endings, timeout=0.3) for number in range(2)]
    await eventually(lambda: got)
    await eventually(lambda: len(endings) == 2)
    assert [type(ending) for _, ending in endings] == [DeadlineExceeded] * 2
    callee.publish(pending[0].reply, b"", REFUSAL)
    await callee.flush()
    await caller.flush()
    assert len(got) == 1


STATUS = b"NATS/1.0\r\nMesh-Status: %b\r\n"


@pytest.mark.parametrize(
    ("block", "payload"),
    [
        (STATUS % b"200" + b"x-note: mesh-bundles: off\r\n\r\n", b""),
        (STATUS % b"503" + b"x-note: mesh-bundles: off\r\n\r\n", b""),
        (STATUS % b"503" + b"mesh-bundles: offside\r\n\r\n", b""),
        (STATUS % b"200" + b"mesh-bundles: off\r\n\r\n", b""),
        (REFUSAL, b"a body"),
    ],
    ids=["a value", "a value of a 503", "another word", "another status", "a body"],
)
@pytest.mark.parametrize("closed", [False, True], ids=["it waits", "it was closed"])
async def test_no_other_answer_sends_a_bundle_again(pair, block, payload, closed):
    caller, callee, got, place = pair
    callee.answers = False
    endings = []
    first, *_ = [send(caller, place, b"%d" % number, endings) for number in range(3)]
    await eventually(lambda: got)
    if closed:
        caller.requests.close(first)
    callee.publish(first.reply, payload, block)
    await callee.flush()
    await caller.flush()
    assert [(body, ending.block) for body, ending in endings] == ([] if closed else [(b"0", block)])
    await callee.flush()
    assert [subject for subject, *_ in got] == [place + b"+"]
    assert not caller._bundle_peers.refusing


@pytest.mark.parametrize("closed", [False, True], ids=["it waits", "it was closed"])
async def test_a_bundle_of_which_one_was_answered_is_not_sent_again(pair, closed):
    caller, callee, got, place = pair
    callee.answers = False
    endings = []
    first, second, _ = [send(caller, place, b"%d" % number, endings) for number in range(3)]
    await eventually(lambda: got)
    callee.publish(second.reply, b"done", OK)
    await callee.flush()
    await eventually(lambda: len(endings) == 1)
    if closed:
        caller.requests.close(first)
    callee.publish(first.reply, b"", REFUSAL)
    await callee.flush()
    await caller.flush()
    await callee.flush()
    assert [subject for subject, *_ in got] == [place + b"+"]
    assert [body for body, _ in endings] == ([b"1"] if closed else [b"1", b"0"])


async def test_an_answer_to_one_request_does_not_hide_a_refused_bundle_later(pair):
    caller, callee, _, place = pair
    callee.answers = False
    endings = []
    alone = send(caller, place, b"alone", endings)
    callee.publish(alone.reply, b"", REFUSAL)
    await eventually(lambda: len(endings) == 1)
    callee.answers = True
    for number in range(3):
        send(caller, place, b"%d" % number, endings)
    await eventually(lambda: len(endings) == 4)
    assert sorted(ending.payload for _, ending in endings[1:]) == [b"0", b"1", b"2"]
