"""Foreign NATS micro services in the commands: what a gateway serves of them, and what it does not."""

import re

from tests.cli.builders import responder, users


async def test_routes_has_what_a_gateway_serves_of_them(shell, sums, mesh):
    await mesh.start(users())
    base = f"/{sums.name}"
    document = (await shell("routes", "--json")).json
    rows = {(r["method"], r["path"]): r for r in document["routes"]}
    row = rows["POST", base]
    assert (row["service"], row["versions"], row["instances"]) == (sums.name, ["0.3.0"], 1)
    assert row["summary"] == "Adds up."
    assert ("GET", f"{base}/{{by}}") in rows
    (conflict,) = [c for c in document["conflicts"] if sums.name in (c["winner"], *c["losers"])]
    assert {conflict["winner"], *conflict["losers"]} == {"users", sums.name}
    left_out = [r["why"] for r in document["rejected"] if r["service"] == sums.name]
    assert len(left_out) == 2
    assert any("'bare'" in why and "no-slash" in why for why in left_out)
    assert any("'two'" in why for why in left_out)

    await mesh.until(lambda: mesh.gateway.watcher.registry.instances(sums.name), timeout=15)
    async with mesh.ops() as ops:
        served = (await ops.get("/api/routes")).json()["routes"]
        conflicts = (await ops.get("/api/conflicts")).json()
    assert {(r["method"], r["path"], r["service"]) for r in served} == {(*key, r["service"]) for key, r in rows.items()}
    assert conflicts == document["conflicts"]


async def test_routes_of_one_of_them(shell, mesh, sums):
    done = await shell("routes", "--service", sums.name)
    assert done.code == 0
    assert re.search(rf"^POST +/{sums.name} +{sums.name} +0\.3\.0 +1 +-$", done.out, re.MULTILINE)
    assert f"rejected: {sums.name}: endpoint 'bare'" in done.out
    done = await shell("routes", "--service", sums.name[:-1] + "x")
    assert (done.code, f"Did you mean '{sums.name}'?" in done.err) == (1, True)


async def test_a_gateway_that_asks_for_none_serves_none(shell, mesh, sums):
    document = (await shell("routes", "--json", MESH_FOREIGN_S="0")).json
    assert sums.name not in {r["service"] for r in document["routes"]}


async def test_their_routes_can_be_called(shell, sums, mesh):
    done = await shell("call", "POST", f"/{sums.name}", "a:=2", "b:=3")
    assert (done.code, done.out) == (0, "5")
    done = await shell("call", "GET", f"/{sums.name}/2", "--json")
    assert (done.json["status"], done.json["body"]) == (200, 7)
    done = await shell("call", "GET", f"/{sums.name}/0", "--json")
    assert (done.code, done.json["status"]) == (1, 422)
    await mesh.until(lambda: mesh.gateway.watcher.registry.instances(sums.name), timeout=15)
    problem = (await mesh.http.get(f"/{sums.name}/0")).json()
    assert problem["detail"] == "by zero"
    told = done.json["body"]
    assert {**told, "request_id": ""} == {**problem, "request_id": ""}
    done = await shell("call", "DELETE", f"/{sums.name}")
    assert (done.code, f"/{sums.name} answers " in done.err) == (1, True)


async def test_info_and_ls_show_their_routes(shell, mesh, sums, foreign):
    (document,) = (await shell("info", sums.name, "--json")).json
    routes = {(r["method"], r["path"]): r["endpoint"] for r in document["routes"]}
    assert routes["POST", f"/{sums.name}"] == "add"
    text = (await shell("info", sums.name)).out
    assert re.search(rf"^  POST +/{sums.name} +add +Adds up\.$", text, re.MULTILINE)
    rows = {row["service"]: row for row in (await shell("ls", "--json", "--quick")).json}
    assert (rows[sums.name]["routes"], rows[foreign.name]["routes"]) == (3, 0)
    line = next(line for line in (await shell("ls", sums.name)).out.splitlines() if line.startswith(sums.name))
    assert line.split()[-1] == "3"


async def test_an_instance_of_the_mesh_that_does_not_say_so_is_listed_once(shell, mesh, foreign):
    """A micro library need not be told of the mesh: the instance's own announcement says it."""
    instance = await mesh.start(users())
    identity = {"name": "users", "id": instance.id, "version": "1.0.0", "metadata": {}}
    for verb in ("PING", "INFO"):
        await foreign.bus.subscribe(f"$SRV.{verb}", responder(foreign.bus, {**identity, "endpoints": []}))
    await foreign.bus.flush()
    rows = (await shell("ls", "users", "--json", "--quick")).json
    assert [(row["instance"], row["kind"]) for row in rows] == [(instance.id, "mesh")]
    assert len((await shell("info", "users", "--json")).json) == 1
