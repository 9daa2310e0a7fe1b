"""`mesh ping` and `mesh drain`: what health checks and operators use."""

import asyncio

from tests.cli.builders import announce_hostile, on_terminal, users


async def test_ping(shell, mesh, foreign):
    one, two = [await mesh.start(users()) for _ in range(2)]
    document = (await shell("ping", "users", "-c", "3", "--json")).json
    rows = {row["instance"]: row for row in document["instances"]}
    assert rows.keys() == {one.id, two.id}
    assert all(
        (r["sent"], r["received"]) == (3, 3) and 0 < r["min_ms"] <= r["avg_ms"] <= r["max_ms"] for r in rows.values()
    )
    (row,) = (await shell("ping", f"users.{one.id}", "--json")).json["instances"]
    assert row["instance"] == one.id
    done = await shell("ping", foreign.name)
    assert (done.code, "GoLike1" in done.out) == (0, True)
    document = (await shell("ping", "--json")).json
    services = {row["service"] for row in document["instances"]}
    assert services >= {"users", "gateway", foreign.name}
    assert document["nats"]["min_ms"] > 0


async def test_ping_as_a_health_check(shell, mesh):
    instance = await mesh.start(users())
    done = await shell("ping", f"users.{instance.id}", "--quiet", "--timeout", "1")
    assert (done.code, done.out, done.err) == (0, "", "")
    (row,) = (await shell("ping", "gateway", "--json")).json["instances"]
    assert row["instance"] == mesh.gateway.id
    assert (await shell("ping", f"gateway.{mesh.gateway.id}", "-q", "-c", "2")).code == 0
    assert (await shell("ping", "gateway.NOBODY", "-q", "--timeout", "0.3")).code == 1
    await instance.drain()
    done = await shell("ping", "users", "--timeout", "0.3")
    assert (done.code, done.out) == (1, "")
    assert "no service 'users'" in done.err


async def test_ping_tells_who_announces_and_does_not_answer(shell, mesh):
    bus = await announce_hostile(mesh)
    for arguments in (["ping", "hostile", "--timeout", "0.3"], ["ping"]):
        done = await shell(*arguments)
        assert done.code == 1
        assert "has announced itself and does not answer" in done.err
    await bus.aclose()


async def drained(instance):
    """What a process does when it is told to drain."""
    await instance.stop_requested.wait()
    await instance.drain()


async def test_drain_one_waits_until_it_has_left(shell, mesh):
    one, two = [await mesh.start(users()) for _ in range(2)]
    process = asyncio.ensure_future(drained(one))
    done = await shell("drain", f"users.{one.id}", "--json")
    assert (done.code, done.json) == (0, {"drained": [one.id], "lost": [], "remaining": []})
    assert f"users.{one.id} has left; 0 to go" in done.err
    await process
    assert not two.stop_requested.is_set()


async def test_drain_all(shell, mesh):
    instances = [await mesh.start(users()) for _ in range(2)]
    processes = [asyncio.ensure_future(drained(instance)) for instance in instances]
    done = await shell("drain", "users", "--yes")
    assert done.code == 0
    assert "; 0 to go" in done.err
    await asyncio.gather(*processes)


async def test_drain_all_is_refused_where_nobody_can_be_asked(shell, mesh):
    instances = [await mesh.start(users()) for _ in range(2)]
    for options in ((), ("--no-wait",), ("--json",)):
        done = await shell("drain", "users", *options)  # its standard input is a pipe without a word
        assert (done.code, done.out) == (2, "")
        assert "this drains 2 instances of users and cannot ask first: give --yes" in done.err
    await instances[0].bus.flush()
    assert not any(instance.stop_requested.is_set() for instance in instances)


async def test_drain_says_who_has_not_left_in_time(shell, mesh):
    instance = await mesh.start(users())
    done = await shell("drain", f"users.{instance.id}", "--timeout", "0.2")
    assert done.code == 1
    assert f"users still has {instance.id} after 0.2 s" in done.err
    instance.stop_requested.clear()
    done = await shell("drain", f"users.{instance.id}", "--no-wait")
    assert (done.code, done.err) == (0, "")
    await asyncio.wait_for(instance.stop_requested.wait(), 5)


async def test_drain_asks_on_a_terminal(shell, mesh):
    instance = await mesh.start(users())
    shown = await on_terminal(shell, "drain", "users", answer=b"n\n")
    assert "Drain 1 instance of users? [y/N]" in shown
    assert "nothing was drained" in shown
    assert not instance.stop_requested.is_set()
    shown = await on_terminal(shell, "drain", "users", "--no-wait", answer=b"y\n")
    await asyncio.wait_for(instance.stop_requested.wait(), 5)
